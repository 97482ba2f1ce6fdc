"""Field maps from gradient-echo phase images, in hertz on the grid of the images.

References
----------
.. [1] Jezzard P, Balaban RS (1995). Correction for geometric distortion in echo planar
   images from B0 field variations. Magn Reson Med 34(1):65-73. doi:10.1002/mrm.1910340111
.. [2] Abdul-Rahman HS et al. (2007). Fast and robust three-dimensional best path phase
   unwrapping algorithm. Appl Opt 46(26):6623-6635. doi:10.1364/AO.46.006623
.. [3] Knutsson H, Westin CF (1993). Normalized and differential convolution. Proc IEEE CVPR
   1993:515-523. doi:10.1109/CVPR.1993.341081
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.grids import fit_onto, orientation
from neuroferry.bids.headers import read_header
from neuroferry.bids.phase_units import check_field, field_factor
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.brain_mask import find_mask
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    FloatArray,
    Volume,
    load_volume,
    resample_to,
    save_nifti,
    save_volume,
)
from neuroferry.interfaces.image.series import open_series, temporal_mean_std

TWO_PI = 2.0 * np.pi
SMOOTH_MM = 2.0
FILL_MM = (96.0, 48.0, 24.0, 12.0, 6.0)
# Fraction of valid neighbours below which a coarser neighbourhood contributes.
FILL_TRUST = 0.1
OUTLIER_MADS = 5.0


@dataclass(frozen=True)
class FieldMap:
    """Field in hertz with an image to register it by.

    Attributes
    ----------
    hz : Volume
        Off-resonance in hertz, without gaps, in undistorted space.
    magnitude : Volume
        Image on the same grid that can be registered to an EPI.
    mask : ndarray of bool, shape (I, J, K)
        Region in which the field was measured rather than extrapolated.
    """

    hz: Volume
    magnitude: Volume
    mask: NDArray[np.bool_]


def to_radians(values: FloatArray, phase_range: tuple[float, float]) -> FloatArray:
    """Scale a phase image to radians.

    Parameters
    ----------
    values : ndarray of float32, shape (I, J, K)
        Phase in any unit.
    phase_range : tuple of float
        Values of -π and π (see `neuroferry.bids.phase_units.settle_phases`).

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Between -π and π.

    Raises
    ------
    InputError
        If the range is empty.

    Examples
    --------
    >>> to_radians(np.array([-4096, 0, 2048], dtype=np.float32), (-4096, 4096)).round(2).tolist()
    [-3.140000104904175, 0.0, 1.5700000524520874]
    """
    low, high = phase_range
    if not high > low:
        raise InputError(f"The phase range {phase_range} is empty; it must be (low, high).")
    turns = (values.astype(np.float64) - (high + low) / 2) / (high - low)
    wrapped: FloatArray = (TWO_PI * (turns - np.round(turns))).astype(np.float32)
    return wrapped


def magnitude_image(path: str | Path) -> Volume:
    """Read a magnitude image, or the mean of its volumes."""
    if read_header(path).n_volumes == 1:
        return load_volume(path)
    series = open_series(path)
    mean, _ = temporal_mean_std(series)
    return Volume(mean.astype(np.float32), series.affine, series.header)


def onto_grid(image: Volume, reference: Volume, name: str, *, phase: bool = False) -> Volume:
    """Bring an image of a field map onto the grid of another one of it.

    Parameters
    ----------
    image, reference : Volume
        The images.
    name : str
        What to call the image in messages.
    phase : bool
        It is a phase image, which cannot be interpolated.

    Returns
    -------
    Volume
        With the axes and the affine of the reference.

    Raises
    ------
    GeometryError
        If the grids differ without a single meaning (see `neuroferry.bids.grids.fit_onto`).
    """
    try:
        fit = fit_onto(image, reference)
    except GeometryError as error:
        raise GeometryError(
            f"The {name} is on a different grid ({error}); the images of a field map must match:"
            " convert them again."
        ) from error
    if fit == "resampled":
        if phase:
            raise GeometryError(
                f"The {name} is on a different grid, and phase cannot be interpolated; convert it"
                " again."
            )
        return resample_to(image, reference.shape, reference.affine)
    turn = orientation(image.affine, reference.affine)
    data = np.ascontiguousarray(nb.orientations.apply_orientation(image.data, turn))
    return reference.with_data(data)


def fill_smoothly(
    values: FloatArray, weights: FloatArray, zooms: NDArray[np.float64], smooth_mm: float
) -> FloatArray:
    """Smooth a field where it is known and extrapolate it where it is not.

    Normalised convolutions from wide to narrow: each finer one takes over where its kernel
    covers known values.

    Parameters
    ----------
    values : ndarray of float32, shape (I, J, K)
        Field; any finite value where the weight is zero.
    weights : ndarray of float32, shape (I, J, K)
        0 (unknown) to 1.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes in mm.
    smooth_mm : float
        Standard deviation of the finest convolution.

    Returns
    -------
    ndarray of float32, shape (I, J, K)

    Raises
    ------
    InputError
        If all weights are zero.
    """
    from scipy import ndimage

    total = float(weights.sum(dtype=np.float64))
    if total <= 0:
        raise InputError("The field map has no voxel with signal; check its magnitude image.")
    weighted = (values * weights).astype(np.float32)
    filled = np.full(values.shape, weighted.sum(dtype=np.float64) / total, dtype=np.float32)
    for width in (*(w for w in FILL_MM if w > smooth_mm), smooth_mm):
        sigma = width / zooms
        near = ndimage.gaussian_filter(weights, sigma, mode="constant", truncate=3.0)
        mean = ndimage.gaussian_filter(weighted, sigma, mode="constant", truncate=3.0)
        trust = near / (near + FILL_TRUST)
        filled += trust * (mean / np.maximum(near, 1e-6) - filled)
    return filled


def unwrap(phase: FloatArray, magnitude: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Unwrap a phase difference in voxels with signal.

    Parameters
    ----------
    phase : ndarray of float32, shape (I, J, K)
        Radians, -π to π.
    magnitude : ndarray of float32, shape (I, J, K)
        Its magnitude.

    Returns
    -------
    unwrapped : ndarray of float32, shape (I, J, K)
        Radians, zero outside the mask; whole cycles are subtracted so that the median is
        closest to zero.
    mask : ndarray of bool, shape (I, J, K)
        The largest connected component of the foreground.
    """
    from scipy import ndimage
    from skimage.restoration import unwrap_phase

    labels, count = ndimage.label(foreground(magnitude))
    if count == 0:
        raise InputError("The field map's magnitude image is empty.")
    mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    masked = np.ma.MaskedArray(  # type: ignore[no-untyped-call]
        phase.astype(np.float64), mask=~mask
    )
    unwrapped = np.asarray(unwrap_phase(masked, rng=0).filled(0.0), dtype=np.float64)
    unwrapped -= TWO_PI * np.round(np.median(unwrapped[mask]) / TWO_PI)
    return np.where(mask, unwrapped, 0).astype(np.float32), mask


def clean_weights(hz: FloatArray, magnitude: FloatArray, mask: NDArray[np.bool_]) -> FloatArray:
    """Weight a measured field by its signal, excluding voxels that contradict their neighbours.

    Parameters
    ----------
    hz, magnitude : ndarray of float32, shape (I, J, K)
        Field and magnitude.
    mask : ndarray of bool, shape (I, J, K)
        Region in which it was measured.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        0 to 1.
    """
    from scipy import ndimage

    top = float(np.percentile(magnitude[mask], 75))
    weights = np.where(mask, np.clip(magnitude / top, 0.05, 1) ** 2, 0).astype(np.float32)
    near = ndimage.uniform_filter(weights, 5, mode="constant")
    mean = ndimage.uniform_filter(weights * hz, 5, mode="constant") / np.maximum(near, 1e-6)
    around = ndimage.median_filter(np.where(mask, hz, mean), 3)
    deviation = np.abs(hz - around)
    scale = 1.4826 * float(np.median(deviation[mask])) + 1.0
    weights[deviation > OUTLIER_MADS * scale] = 0
    return weights


def gre_fieldmap(
    magnitudes: Sequence[Volume],
    phases: Sequence[Volume],
    echo_times: tuple[float, float],
    phase_ranges: Sequence[tuple[float, float]],
    *,
    seed: int = 1,
) -> FieldMap:
    """Compute a field map from two gradient echoes.

    Parameters
    ----------
    magnitudes : sequence of Volume
        One or two magnitude images; two are combined by their root sum of squares.
    phases : sequence of Volume
        The phase difference, or the phases of both echoes.
    echo_times : tuple of float
        Echo times in s, the shorter one first.
    phase_ranges : sequence of tuple of float
        Values of -π and π in each phase image.
    seed : int
        Seed of the search for the brain.

    Returns
    -------
    FieldMap

    Raises
    ------
    InputError
        If the echo times are not a rising pair, or there are not one or two phase images.
    GeometryError
        If the images lie on different grids.
    """
    first, second = echo_times
    if not 0 < first < second < 1:
        raise InputError(
            f"The field map's echo times {first:g} and {second:g} must be increasing and in"
            " seconds; correct its sidecar."
        )
    if len(phases) not in (1, 2) or not magnitudes:
        raise InputError(
            "A gradient-echo field map needs one or two phase images and a magnitude image."
        )
    phases = [
        onto_grid(volume, phases[0], f"phase image {n} of the field map", phase=True)
        for n, volume in enumerate(phases, start=1)
    ]
    magnitudes = [
        onto_grid(volume, phases[0], f"magnitude image {n} of the field map")
        for n, volume in enumerate(magnitudes, start=1)
    ]
    radians = [
        to_radians(volume.data, found) for volume, found in zip(phases, phase_ranges, strict=True)
    ]
    difference = radians[0]
    if len(radians) == 2:
        difference = np.angle(np.exp(1j * (radians[1] - radians[0]))).astype(np.float32)
    magnitude = np.sqrt(np.mean([v.data.astype(np.float64) ** 2 for v in magnitudes], axis=0))
    magnitude = magnitude.astype(np.float32)
    unwrapped, measured = unwrap(difference, magnitude)
    hz = (unwrapped / (TWO_PI * (second - first))).astype(np.float32)
    image = Volume(magnitude, magnitudes[0].affine, magnitudes[0].header)
    mask = brain_of(image, measured, seed)
    turn = 1.0 / (second - first)
    hz -= np.float32(turn * np.round(np.median(hz[mask]) / turn))
    weights = clean_weights(hz, magnitude, measured)
    # Fat and scalp have a chemical shift; they are used only where there is no brain.
    weights[~mask] *= np.float32(0.02)
    return FieldMap(
        image.with_data(fill_smoothly(hz, weights, image.zooms, SMOOTH_MM)), image, mask
    )


def brain_of(magnitude: Volume, measured: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Find the brain of a magnitude image; if none is found, return everything measured.

    Parameters
    ----------
    magnitude : Volume
        Image of the head in any contrast.
    measured : ndarray of bool, shape (I, J, K)
        Region in which the field is known.
    seed : int
        Seed of the search.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    try:
        brain = find_mask(magnitude, seed=seed) & measured
    except InputError:
        return measured
    return brain if brain.any() else measured


def direct_fieldmap(field: Volume, magnitude: Volume, units: str, *, seed: int = 1) -> FieldMap:
    """Use a field map computed by the scanner.

    Parameters
    ----------
    field : Volume
        Field.
    magnitude : Volume
        Its magnitude image.
    units : str
        ``Units`` of its sidecar: "Hz", "rad/s" or "T".
    seed : int
        Seed of the search for the brain.

    Returns
    -------
    FieldMap

    Raises
    ------
    InputError
        If the unit is unknown, or the values are implausible.
    GeometryError
        If the images lie on different grids.
    """
    try:
        hz = (field_factor(units, "the field map") * field.data).astype(np.float32)
        magnitude = onto_grid(magnitude, field, "magnitude image of the field map")
        check_field(hz, magnitude.data, "the field map")
    except InputError as error:
        text = str(error)
        raise InputError(f"{text[0].upper()}{text[1:]}.") from error
    measured = foreground(magnitude.data)
    mask = brain_of(magnitude, measured, seed)
    weights = clean_weights(hz, magnitude.data, measured)
    weights[~mask] *= np.float32(0.02)
    return FieldMap(
        field.with_data(fill_smoothly(hz, weights, field.zooms, SMOOTH_MM)), magnitude, mask
    )


class _PrepareGREFieldmapInputSpec(BaseInterfaceInputSpec):
    magnitude = InputMultiObject(File(exists=True), mandatory=True, desc="magnitude images")
    phase = InputMultiObject(
        File(exists=True),
        xor=["fieldmap"],
        requires=["echo_times", "phase_ranges"],
        desc="one or two phase images",
    )
    echo_times = traits.Tuple(traits.Float, traits.Float, desc="echo times, s")
    phase_ranges = traits.List(
        traits.Tuple(traits.Float, traits.Float),
        desc="values of -pi and pi in each phase image",
    )
    fieldmap = File(exists=True, xor=["phase"], desc="field map computed by the scanner")
    units = traits.Str("Hz", usedefault=True, desc="unit of the scanner's field: Hz, rad/s or T")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the search for the brain")


class FieldMapOutputSpec(TraitedSpec):
    """Outputs shared by all field map estimates."""

    fieldmap_hz = File(exists=True, desc="field in Hz, undistorted space")
    magnitude_ref = File(exists=True, desc="undistorted image on the same grid")
    mask = File(exists=True, desc="region in which the field was measured, uint8")


class PrepareGREFieldmap(SimpleInterface):
    """Gapless field map in hertz, from gradient echoes or from the scanner's field map."""

    input_spec = _PrepareGREFieldmapInputSpec
    output_spec = FieldMapOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        magnitudes = [magnitude_image(path) for path in inputs.magnitude]
        if isdefined(inputs.fieldmap):
            found = direct_fieldmap(
                load_volume(inputs.fieldmap), magnitudes[0], inputs.units, seed=inputs.seed
            )
        else:
            found = gre_fieldmap(
                magnitudes,
                [load_volume(path) for path in inputs.phase],
                inputs.echo_times,
                inputs.phase_ranges,
                seed=inputs.seed,
            )
        self._results.update(write_fieldmap(found, Path(runtime.cwd)))
        return runtime


def write_fieldmap(found: FieldMap, folder: Path) -> dict[str, str]:
    """Write the files of a field map; return their paths by output name."""
    return {
        "fieldmap_hz": save_volume(found.hz, folder / "fieldmap.nii.gz"),
        "magnitude_ref": save_volume(found.magnitude, folder / "magnitude.nii.gz"),
        "mask": str(
            save_nifti(
                found.mask,
                found.hz.affine,
                folder / "fieldmap_mask.nii.gz",
                header=found.hz.header,
                dtype=np.uint8,
            )
        ),
    }
