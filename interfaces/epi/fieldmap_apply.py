"""Registration of a field map to an EPI reference, and its distortion correction.

The undistorted image of the field map is registered rigidly to the distorted reference, the
reference is unwarped, and the registration is refined on the unwarped image, because strong
distortion would bias it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.epi import check_readout_time, phase_encoding_axis
from neuroferry.files import write_text
from neuroferry.interfaces.epi.distortion import shift_of, unwarp
from neuroferry.interfaces.epi.fieldmap_gre import FieldMap
from neuroferry.interfaces.epi.fieldmap_place import (
    Placement,
    check_place,
    find_place,
    refine_place,
)
from neuroferry.interfaces.epi.heads import mask_points, rms_distance
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    load_mask,
    load_volume,
    save_volume,
)
from neuroferry.interfaces.image.transforms import read_itk_affine, write_itk_affine

REFINEMENTS = 2


@dataclass(frozen=True)
class Unwarped:
    """Field on an EPI's grid, and the distortion-corrected EPI.

    Attributes
    ----------
    field_hz : ndarray of float32, shape (I, J, K)
        Hertz, on the EPI's grid, in undistorted space.
    image : ndarray of float32, shape (I, J, K)
        The EPI, unwarped.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to field map points, RAS+ mm: resamples the field map onto the EPI.
    mask : ndarray of bool, shape (I, J, K)
        Region in which the field was measured, on the EPI's grid.
    placement : Placement or None
        How far the matrix can be trusted; None if it was known.
    """

    field_hz: FloatArray
    image: FloatArray
    matrix: Affine
    mask: NDArray[np.bool_]
    placement: Placement | None = None


def carry_field(field: Volume, matrix: Affine, epi: Volume, *, order: int = 1) -> FloatArray:
    """Resample a field onto an EPI's grid, extrapolated beyond its own borders.

    Parameters
    ----------
    field : Volume
        Field.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to field map points, RAS+ mm.
    epi : Volume
        Image that defines the grid.
    order : int
        Spline order.

    Returns
    -------
    ndarray of float32
    """
    from scipy import ndimage

    to_index = inverse(field.affine) @ matrix @ epi.affine
    carried: FloatArray = ndimage.affine_transform(
        field.data,
        to_index[:3, :3],
        to_index[:3, 3],
        output_shape=epi.shape,
        order=order,
        mode="nearest",
        output=np.float32,
    )
    return carried


def apply_fieldmap(
    epi: Volume,
    found: FieldMap,
    direction: str,
    readout_time: float,
    *,
    matrix: Affine | None = None,
    jacobian: bool = True,
    sloppy: bool = False,
    seed: int = 1,
) -> Unwarped:
    """Correct the distortion of an EPI reference with a field map.

    Parameters
    ----------
    epi : Volume
        Distorted EPI.
    found : FieldMap
        Field with its undistorted image.
    direction : str
        PhaseEncodingDirection of the EPI.
    readout_time : float
        TotalReadoutTime of the EPI, s.
    matrix : ndarray of float64, shape (4, 4), optional
        EPI points to field map points, if known; registered otherwise.
    jacobian : bool
        Correct intensities by the Jacobian as well.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    Unwarped

    Raises
    ------
    InputError
        If the readout time is impossible.
    """
    check_readout_time(readout_time)
    axis, _ = phase_encoding_axis(direction)

    def correct(at: Affine) -> tuple[FloatArray, FloatArray]:
        hz = carry_field(found.hz, at, epi)
        shift = shift_of(hz, direction, readout_time)
        return hz, unwarp(epi.data, shift, axis, jacobian=jacobian)

    placement = None
    if matrix is None:
        magnitude, mask = found.magnitude, found.mask
        matrix = find_place(epi, magnitude, mask, sloppy=sloppy, seed=seed)
        for _ in range(1 if sloppy else REFINEMENTS):
            flat = epi.with_data(correct(matrix)[1])
            matrix = refine_place(flat, magnitude, mask, matrix, sloppy=sloppy, seed=seed)
        flat = epi.with_data(correct(matrix)[1])
        placement = check_place(flat, magnitude, mask, matrix, sloppy=sloppy, seed=seed)
        matrix = placement.matrix
    hz, image = correct(matrix)
    share = Volume(found.mask.astype(np.float32), found.hz.affine)
    inside = carry_field(share, matrix, epi) > 0.5
    return Unwarped(hz, image, matrix, inside, placement)


def describe_shift(
    unwarped: Unwarped, epi: Volume, direction: str, readout_time: float, method: str
) -> dict[str, Any]:
    """Summarise a correction for reports: shifts in mm inside the field map's mask."""
    axis, _ = phase_encoding_axis(direction)
    shift = shift_of(unwarped.field_hz, direction, readout_time) * float(epi.zooms[axis])
    inside = unwarped.mask if unwarped.mask.any() else np.ones(shift.shape, dtype=bool)
    low, middle, high = np.percentile(shift[inside], (1, 50, 99))
    points = mask_points(inside, epi.affine)
    placed = unwarped.placement
    trust: dict[str, Any] = {}
    if placed is not None:
        trust = {
            "sharpness": [round(value, 4) for value in placed.sharpness],
            "starts_differ_mm": round(placed.starts_differ_mm, 3),
            "verdict": placed.verdict,
            "reasons": placed.reasons,
        }
    return {
        **trust,
        "method": method,
        "phase_encoding_direction": direction,
        "total_readout_time": round(readout_time, 7),
        "median_shift_mm": round(float(middle), 3),
        "median_size_mm": round(float(np.median(np.abs(shift[inside]))), 3),
        "percentile_1_mm": round(float(low), 3),
        "percentile_99_mm": round(float(high), 3),
        "largest_shift_mm": round(float(np.abs(shift[inside]).max()), 3),
        "fieldmap_moved_mm": round(rms_distance(unwarped.matrix, np.eye(4), points), 3),
    }


class _ApplyFieldmapInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="distorted EPI reference")
    fieldmap_hz = File(exists=True, mandatory=True, desc="field in Hz, undistorted space")
    magnitude_ref = File(exists=True, mandatory=True, desc="undistorted image of the field map")
    mask = File(exists=True, mandatory=True, desc="region in which the field was measured")
    phase_encoding = traits.Str(mandatory=True, desc="PhaseEncodingDirection of the EPI")
    readout_time = traits.Float(mandatory=True, desc="TotalReadoutTime of the EPI, s")
    xfm = File(exists=True, desc="ITK affine: field map onto EPI; registered otherwise")
    same_space = traits.Bool(
        False, usedefault=True, desc="the field is already aligned to the EPI"
    )
    method = traits.Str("fieldmap", usedefault=True, desc="origin of the field")
    sources = traits.List(traits.Str, desc="names of its source images")
    jacobian = traits.Bool(True, usedefault=True, desc="correct intensities by the Jacobian")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _ApplyFieldmapOutputSpec(TraitedSpec):
    fieldmap = File(exists=True, desc="field in Hz on the EPI's grid")
    bold_ref_sdc = File(exists=True, desc="unwarped EPI reference")
    fmap2boldref_xfm = File(exists=True, desc="ITK affine: field map onto EPI")
    sdc_report = File(exists=True, desc="JSON: method, shifts in mm")


class ApplyFieldmap(SimpleInterface):
    """Distortion correction of an EPI reference with a registered field map."""

    input_spec = _ApplyFieldmapInputSpec
    output_spec = _ApplyFieldmapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        epi = load_volume(inputs.bold_ref)
        field = load_volume(inputs.fieldmap_hz)
        found = FieldMap(field, load_volume(inputs.magnitude_ref), load_mask(inputs.mask, field))
        known: Affine | None = np.eye(4) if inputs.same_space else None
        if isdefined(inputs.xfm):
            known = read_itk_affine(inputs.xfm)
        result = apply_fieldmap(
            epi,
            found,
            inputs.phase_encoding,
            inputs.readout_time,
            matrix=known,
            jacobian=inputs.jacobian,
            sloppy=inputs.sloppy,
            seed=inputs.seed,
        )
        out = Path(runtime.cwd)
        report = describe_shift(
            result, epi, inputs.phase_encoding, inputs.readout_time, inputs.method
        )
        if isdefined(inputs.sources):
            report["sources"] = list(inputs.sources)
        write_text(out / "sdc.json", json.dumps(report, indent=2) + "\n")
        self._results["sdc_report"] = str(out / "sdc.json")
        self._results["fieldmap"] = save_volume(
            epi.with_data(result.field_hz), out / "fieldmap_boldref.nii.gz"
        )
        self._results["bold_ref_sdc"] = save_volume(
            epi.with_data(result.image), out / "boldref_sdc.nii.gz"
        )
        self._results["fmap2boldref_xfm"] = str(
            write_itk_affine(result.matrix, out / "fmap2boldref.txt")
        )
        return runtime
