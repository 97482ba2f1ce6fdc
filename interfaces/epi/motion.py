"""Head motion of a series: every volume aligned to the reference, weighted by noise.

Which voxels are informative differs between series: eyes move, vessels pulsate, arteries and
sinuses fluctuate. Therefore a few pilot volumes spread over the series are aligned first, the
residuals at each voxel estimate its noise, and all volumes are aligned with inverse-variance
weights: the weighted least-squares estimate.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
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

from neuroferry.bids.headers import check_same_grid
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.motion_table import (
    motion_parameters,
    rms_deviation,
    write_motion_table,
    write_motion_xfms,
)
from neuroferry.interfaces.epi.realign import (
    MAD_TO_SIGMA,
    Alignment,
    align_volume,
)
from neuroferry.interfaces.epi.realign_target import Target, prepare_target
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, load_volume
from neuroferry.interfaces.image.series import Series, open_series, ordered_map

PILOT_VOLUMES = 24
# Lower bound of a voxel's noise, as a fraction of the typical noise.
NOISE_FLOOR = 0.5
# A volume that fits this much worse than the typical one is tried again from its neighbours.
RETRY_RATIO = 1.5


@dataclass(frozen=True)
class Motion:
    """Head motion of a series.

    Attributes
    ----------
    matrices : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    residuals : ndarray of float64, shape (T,)
        Robust standard deviation of the residuals, in units of the reference.
    """

    matrices: NDArray[np.float64]
    residuals: NDArray[np.float64]


def head_mask(reference: Volume) -> NDArray[np.bool_]:
    """Find the head: the largest connected region brighter than the air around it.

    Parameters
    ----------
    reference : Volume
        Temporal mean or one volume of a series.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(reference.data, 1.0, mode="nearest")
    ceiling = float(np.percentile(smooth, 98))
    if ceiling <= 0:
        raise GeometryError("The reference of the series contains no signal; check the images.")
    values = np.minimum(smooth, ceiling)
    found = values > max(0.5 * float(threshold_otsu(values)), 0.1 * ceiling)
    labels, count = ndimage.label(found)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        found = labels == sizes.argmax()
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(found)
    return filled


def pilot_indices(
    n_volumes: int,
    n_dummy: int,
    count: int = PILOT_VOLUMES,
    unusable: Collection[int] = (),
) -> list[int]:
    """Choose volumes spread evenly over the usable volumes of the steady part of a series.

    >>> pilot_indices(10, 2, 4)
    [2, 4, 7, 9]
    >>> pilot_indices(10, 2, 4, unusable=[8, 9])
    [2, 4, 5, 7]
    """
    first = min(n_dummy, n_volumes - 1)
    usable = [t for t in range(first, n_volumes) if t not in unusable]
    chosen = np.linspace(first, first + len(usable) - 1, min(count, len(usable)))
    return sorted({usable[round(float(index)) - first] for index in chosen})


def noise_weights(
    reference: Volume,
    mask: NDArray[np.bool_],
    volumes: Sequence[FloatArray],
    n_threads: int = 1,
    *,
    slice_axis: int = 2,
) -> FloatArray:
    """Estimate voxel weights: the inverse variance of the residuals after alignment.

    Parameters
    ----------
    reference : Volume
        Image that volumes are aligned to.
    mask : ndarray of bool, shape (I, J, K)
        Head.
    volumes : sequence of ndarray of float32
        Some volumes of the series.
    n_threads : int
        Volumes processed at a time.
    slice_axis : int
        Slice axis.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        1 for a voxel with typical noise, zero outside the head.
    """
    target = prepare_target(reference, mask.astype(np.float32), slice_axis=slice_axis)

    def work(volume: FloatArray) -> NDArray[np.float32] | None:
        return align_volume(target, volume, reference.affine).differences

    with closing(ordered_map(work, volumes, n_threads)) as results:
        left = [differences for differences in results if differences is not None]
    weights = mask.astype(np.float32)
    if len(left) < 3:
        return weights
    stack = np.stack(left)
    seen = np.isfinite(stack).all(axis=0)
    spread = np.median(np.abs(stack[:, seen]), axis=0) * MAD_TO_SIGMA
    usual = float(np.median(spread))
    if usual <= 0:
        return weights
    where = tuple(target.levels[-1].index[:, seen].astype(int))
    return variance_weights(mask, where, np.square(spread / usual))


def variance_weights(
    mask: NDArray[np.bool_], where: tuple[NDArray[np.int64], ...], variance: NDArray[np.floating]
) -> FloatArray:
    """Convert variances at some voxels to weights of all voxels.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Head.
    where : tuple of three ndarray of int64, shape (N,)
        Voxels whose variance is known.
    variance : ndarray, shape (N,)
        1 for a voxel with typical noise.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        1 for a voxel with typical noise, zero outside the head.
    """
    from scipy import ndimage

    # Variances estimated from few volumes are noisy themselves: smooth them within the head.
    sums = np.zeros((2, *mask.shape), dtype=np.float32)
    sums[0][where], sums[1][where] = variance, 1.0
    total, count = (ndimage.gaussian_filter(x, 0.8, mode="nearest") for x in sums)
    smooth = np.where(count > 1e-3, total / np.maximum(count, 1e-3), 1.0)
    weights = mask.astype(np.float32)
    weights *= (1 + NOISE_FLOOR**2) / (smooth + NOISE_FLOOR**2)
    return weights


def estimate_motion(
    series: Series,
    reference: Volume,
    n_dummy: int = 0,
    *,
    unusable: Collection[int] = (),
    slice_axis: int = 2,
    n_threads: int = 1,
) -> Motion:
    """Align every volume of a series to its reference.

    Parameters
    ----------
    series : Series
        Series to align.
    reference : Volume
        On the grid of the series.
    n_dummy : int
        Volumes at the start before the steady state: aligned, but not used to estimate
        weights.
    unusable : collection of int
        Volumes without an image: they take the motion of the nearest other volume.
    slice_axis : int
        Stored slice axis.
    n_threads : int
        Volumes processed at a time; does not change the result.

    Returns
    -------
    Motion

    Raises
    ------
    GeometryError
        If the reference lies on another grid.
    """
    check_same_grid((series.path.name, series), ("the reference of the series", reference))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        mask = head_mask(reference)
        chosen = pilot_indices(series.n_volumes, n_dummy, unusable=unusable)
        pilots = [series.volume(t) for t in chosen]
        series.close()
        weights = noise_weights(reference, mask, pilots, n_threads, slice_axis=slice_axis)
        del pilots
        target = prepare_target(reference, weights, slice_axis=slice_axis)

        # Before the steady state the contrast differs, so slices may legitimately differ.
        early = replace(target, slice_points=target.slice_points[:, :0])

        def work(item: tuple[int, FloatArray]) -> Alignment:
            number, volume = item
            if number in unusable:
                return Alignment(np.eye(4), np.inf, 0.0, 1.0)
            return _without_details(
                align_volume(early if number < n_dummy else target, volume, series.affine)
            )

        with closing(ordered_map(work, enumerate(series.volumes()), n_threads)) as results:
            found = list(results)
        _retry(series, target, found, n_dummy, unusable)
    _fill_lost(found)
    return Motion(np.stack([a.matrix for a in found]), np.array([a.residual for a in found]))


def _without_details(alignment: Alignment) -> Alignment:
    """Drop the residuals of each voxel to save memory in long series."""
    return Alignment(alignment.matrix, alignment.residual, alignment.overlap, alignment.gain)


def _retry(
    series: Series,
    target: Target,
    found: list[Alignment],
    n_dummy: int,
    unusable: Collection[int],
) -> None:
    """Align poorly fitting volumes again, starting from their neighbours."""
    residuals = np.array([a.residual for a in found])
    steady = [t for t in range(n_dummy, len(found)) if t not in unusable]
    usual = float(np.median(residuals[steady])) if steady else np.inf
    for number in np.flatnonzero(residuals > RETRY_RATIO * usual):
        if number < n_dummy or number in unusable:
            continue
        starts: list[Affine] = [
            found[other].matrix
            for other in (number - 1, number + 1)
            if 0 <= other < len(found) and np.isfinite(found[other].residual)
        ]
        volume = series.volume(int(number))
        for start in starts:
            again = align_volume(target, volume, series.affine, start)
            better = again.residual < 0.98 * found[number].residual
            if better and again.overlap >= 0.8 * found[number].overlap:
                found[number] = _without_details(again)
    series.close()


def _fill_lost(found: list[Alignment]) -> None:
    """Assign the nearest volume's motion to volumes without a head (empty or far outside)."""
    known = [number for number, a in enumerate(found) if np.isfinite(a.residual)]
    if not known:
        raise InputError(
            "No volume of the series could be aligned to its reference; check the images."
        )
    for number, alignment in enumerate(found):
        if not np.isfinite(alignment.residual):
            nearest = min(known, key=lambda other: abs(other - number))
            found[number] = replace(alignment, matrix=found[nearest].matrix)


class _EstimateMotionInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    ref_file = File(exists=True, mandatory=True, desc="reference on the grid of the series")
    n_dummy = traits.Range(low=0, value=0, usedefault=True, desc="volumes before steady state")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    slice_axis = traits.Range(low=0, high=2, value=2, usedefault=True, desc="axis of the slices")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="volumes at a time")


class _EstimateMotionOutputSpec(TraitedSpec):
    motion_xfms = File(exists=True, desc="ITK text: reference points to points of each volume")
    motion_tsv = File(exists=True, desc="six parameters in FSL's convention, and rmsd")


class EstimateMotion(SimpleInterface):
    """Rigid alignment of every volume of a series to a reference."""

    input_spec = _EstimateMotionInputSpec
    output_spec = _EstimateMotionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        series = open_series(self.inputs.in_file)
        reference = load_volume(self.inputs.ref_file)
        motion = estimate_motion(
            series,
            reference,
            self.inputs.n_dummy,
            unusable=self.inputs.unusable if isdefined(self.inputs.unusable) else (),
            slice_axis=self.inputs.slice_axis,
            n_threads=self.inputs.n_procs,
        )
        out = Path(runtime.cwd)
        self._results["motion_xfms"] = str(
            write_motion_xfms(motion.matrices, out / "motion_xfms.txt")
        )
        self._results["motion_tsv"] = str(
            write_motion_table(
                motion_parameters(motion.matrices, reference),
                rms_deviation(motion.matrices, reference),
                out / "motion.tsv",
            )
        )
        return runtime
