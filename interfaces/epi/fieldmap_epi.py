"""Field map from EPIs of opposite phase-encoding polarity.

Both images show the same head in the same field; only the sign of their shifts differs. The
estimate is the field under which the two corrected images agree, signal density preserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    traits,
)

from neuroferry.bids.epi import check_readout_time, phase_encoding_axis
from neuroferry.bids.grids import (
    LARGEST_TILT,
    direction_along,
    orientation,
    reordered,
    tilt_of,
)
from neuroferry.bids.headers import SAME_VOXELS_MM, same_grid
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.distortion import unwarp
from neuroferry.interfaces.epi.field_solver import PAIR_LEVELS, solve_field
from neuroferry.interfaces.epi.fieldmap_gre import (
    FieldMap,
    FieldMapOutputSpec,
    brain_of,
    magnitude_image,
    write_fieldmap,
)
from neuroferry.interfaces.epi.heads import mask_points, rms_distance
from neuroferry.interfaces.image.affine import RIGID, moving_image, refine, sample_points
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    resample_to,
)

# Smaller motion between the two images is ignored.
STILL_MM = 0.2
# Head motion between the two is estimated after every pass but the last.
PASSES = (PAIR_LEVELS[:2], PAIR_LEVELS[:3], PAIR_LEVELS[1:])
SLOPPY_PASSES = (PAIR_LEVELS[:3],)


def check_pair(directions: Sequence[str], readout_times: Sequence[float]) -> int:
    """Check that two EPIs form a pair; return their phase-encoding axis.

    Raises
    ------
    InputError
        If their axes differ, their directions are equal, or a readout time is impossible.
    """
    if len(directions) != 2 or len(readout_times) != 2:
        raise InputError(
            "Two EPIs are needed, each with PhaseEncodingDirection and TotalReadoutTime."
        )
    (axis, sign), (other, opposite) = (phase_encoding_axis(text) for text in directions)
    if axis != other or sign == opposite:
        raise InputError(
            f"EPIs encoded along {directions[0]} and {directions[1]} are not of opposite polarity;"
            " i and i-, j and j- or k and k- are."
        )
    for time in readout_times:
        check_readout_time(time)
    return axis


def epi_fieldmap(
    images: Sequence[Volume],
    directions: Sequence[str],
    readout_times: Sequence[float],
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> FieldMap:
    """Estimate a field from two EPIs of opposite polarity.

    Parameters
    ----------
    images : sequence of Volume
        Two EPIs; the field is estimated on the grid of the first.
    directions : sequence of str
        PhaseEncodingDirection of each.
    readout_times : sequence of float
        TotalReadoutTime of each, s.
    sloppy : bool
        Skip the finest level and motion between the two.
    seed : int
        Seed of the sampling in registrations.

    Returns
    -------
    FieldMap
        Its magnitude is the mean of the two corrected images.

    Raises
    ------
    InputError
        If they are not of opposite polarity.
    GeometryError
        If their voxel axes differ.
    """
    first, second = images
    if tilt_of(second.affine, first.affine) > LARGEST_TILT:
        raise GeometryError(
            "The voxel axes of the two EPIs differ, so their phase encoding cannot be compared."
        )
    directions = (directions[0], _along(directions[1], second, first))
    second = _stored_like(second, first)
    axis = check_pair(directions, readout_times)
    unit = float(np.mean(readout_times))
    factors = [
        phase_encoding_axis(text)[1] * time / unit
        for text, time in zip(directions, readout_times, strict=True)
    ]
    # Shifts of the second in voxels of the first.
    factors[1] *= float(second.zooms[axis] / first.zooms[axis])
    still = _scaled(first.data)
    matrix = np.eye(4)
    field = np.zeros(first.shape)
    for levels in SLOPPY_PASSES if sloppy else PASSES:
        moved = _scaled(_onto(second, matrix, first))
        start = field if levels[0] is not PAIR_LEVELS[0] else None
        field = solve_field([still, moved], factors, axis, first.zooms, levels=levels, start=start)
        flat = [
            unwarp(data, (k * field).astype(np.float32), axis, order=1)
            for data, k in zip((still, moved), factors, strict=True)
        ]
        if levels[-1] is not PAIR_LEVELS[-1] and not sloppy:
            matrix = matrix @ _motion(first.with_data(flat[0]), first.with_data(flat[1]), seed)
            if _is_still(matrix, first, flat[0]):
                matrix = np.eye(4)
    magnitude = first.with_data(((flat[0] + flat[1]) / 2).astype(np.float32))
    hz = np.asarray(field, dtype=np.float64) / unit
    return FieldMap(
        first.with_data(hz.astype(np.float32)),
        magnitude,
        brain_of(magnitude, foreground(magnitude.data), seed),
    )


def _along(direction: str, image: Volume, reference: Volume) -> str:
    """Express the phase encoding of an image in the axes of another."""
    phase_encoding_axis(direction)
    return direction_along(direction, image.affine, reference.affine)


def _stored_like(image: Volume, reference: Volume) -> Volume:
    """Flip and permute the axes of an image like those of another, without interpolation."""
    turn = orientation(image.affine, reference.affine)
    data = np.ascontiguousarray(nb.orientations.apply_orientation(image.data, turn))
    return Volume(data, np.asarray(reordered(image, reference).affine), image.header)


def _scaled(data: FloatArray) -> FloatArray:
    """Scale the mean over the head to one: distortion moves signal but removes none."""
    head = foreground(data)
    scaled: FloatArray = (data * (float(head.sum()) / float(data[head].sum()))).astype(np.float32)
    return scaled


def _onto(image: Volume, matrix: Affine, reference: Volume) -> FloatArray:
    """Resample a rigidly moved image onto the grid of another."""
    same = same_grid(image, reference, tolerance_mm=SAME_VOXELS_MM)
    if same and np.array_equal(matrix, np.eye(4)):
        return image.data
    placed = Volume(image.data, inverse(matrix) @ image.affine)
    return np.maximum(resample_to(placed, reference.shape, reference.affine, order=3).data, 0)


def _is_still(matrix: Affine, epi: Volume, head: FloatArray) -> bool:
    points = mask_points(foreground(head), epi.affine)
    return rms_distance(matrix, np.eye(4), points) < STILL_MM


def _motion(one: Volume, other: Volume, seed: int) -> Affine:
    """Estimate motion between two unwarped EPIs: points of the first to points of the other."""
    head = foreground(one.data)
    matrix = np.eye(4)
    for zoom, step in ((6.0, 0.2), (4.0, 0.05)):
        points = sample_points(one, head, zoom, seed=seed)
        matrix, _ = refine(
            points, moving_image(other, zoom), matrix, dof=RIGID, step=step, tolerance=1e-6
        )
    return matrix


class _EstimateEPIFieldmapInputSpec(BaseInterfaceInputSpec):
    in_files = InputMultiObject(File(exists=True), mandatory=True, desc="two EPIs, 3-D or series")
    phase_encoding = traits.List(traits.Str, mandatory=True, desc="direction of each")
    readout_times = traits.List(traits.Float, mandatory=True, desc="TotalReadoutTime of each, s")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class EstimateEPIFieldmap(SimpleInterface):
    """Field estimated from two EPIs of opposite phase-encoding polarity."""

    input_spec = _EstimateEPIFieldmapInputSpec
    output_spec = FieldMapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        found = epi_fieldmap(
            [magnitude_image(path) for path in self.inputs.in_files],
            self.inputs.phase_encoding,
            self.inputs.readout_times,
            sloppy=self.inputs.sloppy,
            seed=self.inputs.seed,
        )
        self._results.update(write_fieldmap(found, Path(runtime.cwd)))
        return runtime
