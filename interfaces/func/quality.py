"""Quality of a BOLD series as it comes from the scanner: its realignment, and its metrics.

Nothing else is computed: no distortion, no slice timing, no anatomy. A series without a head (a
phantom, an empty field of view) is measured as far as it can be: what has no brain or no motion is
undefined, with the reason.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.brain_mask import find_mask
from neuroferry.interfaces.epi.confound_table import MOTION, Column
from neuroferry.interfaces.epi.motion import estimate_motion
from neuroferry.interfaces.epi.motion_table import framewise_displacement, motion_parameters
from neuroferry.interfaces.func.reference import find_reference
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    to_canonical,
)
from neuroferry.interfaces.image.series import Series, ordered_map
from neuroferry.interfaces.image.voxel_store import VoxelStore
from neuroferry.interfaces.qc import bold_time
from neuroferry.interfaces.qc.bold import (
    FD_RADIUS,
    Given,
    displacement_metrics,
    explain_undefined,
    mean_of,
)
from neuroferry.interfaces.qc.bold_space import slice_spikes, space_metrics

CARPET_ROWS = 420
AIR_VOXELS = 2
"""Voxels between head and background."""
SETTLED_MM = 0.001


@dataclass(frozen=True)
class Aligned:
    """Head motion and brain of a series.

    Attributes
    ----------
    reference : Volume
        Mean of aligned volumes, on the grid of the series.
    matrices : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask; empty if there is none.
    given : Given
        About the series.
    """

    reference: Volume
    matrices: NDArray[np.float64]
    brain: NDArray[np.bool_]
    given: Given


@dataclass(frozen=True)
class Measured:
    """Quality of a series.

    Attributes
    ----------
    values : dict of str to float
        Metrics; ``nan`` where one is undefined.
    undefined : dict of str to str
        Reason for each of those.
    columns : dict of str to ndarray of float64, shape (T,)
        Values of each volume.
    mean, std, tsnr : ndarray of float32, shape (I, J, K)
        Over time, on the grid of the series.
    carpet : ndarray of float32, shape (T, R)
        Some voxels of the brain (of the head, if there is no brain), lowest first; of the measured
        volumes, ``nan`` in the others.
    spikes : ndarray of float32, shape (T, K)
        From `slice_spikes`.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    columns: dict[str, Column]
    mean: FloatArray
    std: FloatArray
    tsnr: FloatArray
    carpet: NDArray[np.float32]
    spikes: NDArray[np.float32]


def align_for_quality(
    series: Series,
    tr: float,
    dummy_scans: int | None = None,
    *,
    unusable: Collection[int] = (),
    slice_axis: int = 2,
    n_threads: int = 1,
    seed: int = 1,
) -> Aligned:
    """Estimate head motion and find the brain, as far as there is a head.

    Parameters
    ----------
    series : Series
        The series, of any length.
    tr : float
        Repetition time, s.
    dummy_scans : int, optional
        Number of volumes before steady state; by default detected.
    unusable : collection of int
        Volumes without an image.
    slice_axis : int
        Stored slice axis.
    n_threads : int
        Volumes processed at a time; does not change the result.
    seed : int
        Seed of the registration that finds the brain.

    Returns
    -------
    Aligned

    Raises
    ------
    InputError
        If the file is damaged.
    """
    problems: dict[str, str] = {}
    n_dummy = dummy_scans or 0
    matrices = np.tile(np.eye(4), (series.n_volumes, 1, 1))
    try:
        found = find_reference(
            series,
            tr,
            dummy_scans,
            unusable=unusable,
            slice_axis=slice_axis,
            n_threads=n_threads,
        )
        reference, n_dummy = found.volume, found.n_dummy
        matrices = estimate_motion(
            series,
            reference,
            n_dummy,
            unusable=unusable,
            slice_axis=slice_axis,
            n_threads=n_threads,
        ).matrices
    except InputError as error:
        # Of a damaged file, reading all volumes for their mean fails again.
        problems["motion"] = str(error)
        reference = _plain_mean(series, unusable)
    brain = np.zeros(series.shape3, dtype=bool)
    try:
        if np.ptp(reference.data) > 0:
            brain = find_mask(reference, seed=seed)
        else:
            problems.update(dict.fromkeys(("motion", "brain"), "The image is constant."))
    except InputError as error:
        problems["brain"] = str(error)
    given = Given(tr, series.n_volumes, n_dummy, frozenset(unusable), problems)
    return Aligned(reference, matrices, brain, given)


def _plain_mean(series: Series, unusable: Collection[int]) -> Volume:
    total = np.zeros(series.shape3)
    count = 0
    for number, volume in enumerate(series.volumes()):
        if number not in unusable:
            total += volume
            count += 1
    return Volume((total / max(count, 1)).astype(np.float32), series.affine, series.header)


def realign_volume(data: FloatArray, matrix: Affine) -> FloatArray:
    """Resample a volume onto the grid of its series by a cubic B-spline.

    Beyond the field of view the image continues as its mirror image, so that a head that moves
    against the border makes no edge that would count as a change of signal.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        The volume.
    matrix : ndarray of float64, shape (4, 4)
        Voxels of the reference to voxels of this volume.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        The same array where the head did not move.
    """
    from scipy import ndimage

    corners = np.array(np.meshgrid(*([0, n - 1] for n in data.shape))).reshape(3, -1)
    moved = matrix[:3, :3] @ corners + matrix[:3, 3:] - corners
    if np.abs(moved).max() < SETTLED_MM:
        return data
    coefficients = ndimage.spline_filter(data, order=3, output=np.float32, mode="mirror")
    out: FloatArray = ndimage.affine_transform(
        coefficients,
        matrix[:3, :3],
        matrix[:3, 3],
        order=3,
        mode="mirror",
        output=np.float32,
        prefilter=False,
    )
    return out


def measure_series(
    series: Series,
    aligned: Aligned,
    *,
    slice_axis: int = 2,
    n_threads: int = 1,
    folder: Path | None = None,
) -> Measured:
    """Realign a series and measure its quality.

    Parameters
    ----------
    series : Series
        The series; it need not be the one that was aligned, but another echo of it.
    aligned : Aligned
        Its motion and brain.
    slice_axis : int
        Stored slice axis.
    n_threads : int
        Volumes processed at a time; does not change the result.
    folder : pathlib.Path, optional
        Folder for scratch files.

    Returns
    -------
    Measured
    """
    given, brain = aligned.given, aligned.brain
    kept = given.measured
    moves = inverse(series.affine) @ aligned.matrices @ series.affine
    head = aligned.reference.data >= max(bold_time.clip_level(aligned.reference.data), 1e-30)
    in_brain, in_head = np.flatnonzero(brain), np.flatnonzero(head)
    with ExitStack() as stack:
        stores = [
            stack.enter_context(VoxelStore(len(kept), where.size, folder=folder))
            for where in (in_brain, in_head, in_head)
        ]
        regions = _Regions(brain, head, _background(head | brain))
        mean, std, outside = _fill(series, moves, kept, stores, regions, slice_axis, n_threads)
        columns = _columns(stores, aligned)
        rows = _carpet_rows(series, in_brain if in_brain.size else in_head)
        carpet = _take(stores[0] if in_brain.size else stores[1], rows)
        gcor = bold_time.global_correlation(stores[0])
    tsnr = bold_time.temporal_snr(mean, std)
    canonical = to_canonical(Volume(mean, series.affine))
    mask = to_canonical(Volume(brain.astype(np.float32), series.affine)).data > 0.5
    values: dict[str, float] = {
        **space_metrics(canonical.data, mask, tuple(canonical.zooms)),
        **{name: mean_of(columns[name]) for name in ("aor", "aqi", "dvars_nstd")},
        **{name: mean_of(columns[name]) for name in ("dvars_std", "dvars_vstd")},
        **displacement_metrics(columns["framewise_displacement"][kept]),
        "gcor": gcor,
        "tsnr": float(np.median(tsnr[brain])) if brain.any() and len(kept) > 1 else np.nan,
        "dummy_trs": given.n_dummy,
        "size_t": given.n_volumes - given.n_dummy,
        "spacing_tr": given.tr,
    }
    whole = np.full((given.n_volumes, carpet.shape[1]), np.nan, dtype=np.float32)
    whole[kept] = carpet
    return Measured(
        dict(sorted(values.items())),
        explain_undefined(values, given),
        columns,
        mean,
        std,
        tsnr,
        whole,
        slice_spikes(outside).astype(np.float32),
    )


@dataclass(frozen=True)
class _Regions:
    brain: NDArray[np.bool_]
    head: NDArray[np.bool_]
    air: NDArray[np.bool_]


def _background(head: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    near: NDArray[np.bool_] = ndimage.binary_dilation(head, iterations=AIR_VOXELS)
    return ~near


def _fill(
    series: Series,
    moves: NDArray[np.float64],
    kept: list[int],
    stores: list[VoxelStore],
    regions: _Regions,
    slice_axis: int,
    n_threads: int,
) -> tuple[FloatArray, FloatArray, NDArray[np.float64]]:
    """Realign the measured volumes into the stores; return mean, deviation, slices of the air."""
    in_plane = tuple(axis for axis in range(3) if axis != slice_axis)
    count = np.maximum(np.count_nonzero(regions.air, axis=in_plane), 1)
    wanted = frozenset(kept)

    def work(item: tuple[int, FloatArray]) -> tuple[NDArray[np.float64], FloatArray | None]:
        number, volume = item
        slices = np.sum(volume, axis=in_plane, where=regions.air, dtype=np.float64) / count
        return slices, realign_volume(volume, moves[number]) if number in wanted else None

    outside = np.zeros((series.n_volumes, series.shape3[slice_axis]))
    origin: FloatArray | None = None
    total, squares = np.zeros(series.shape3), np.zeros(series.shape3)
    with closing(ordered_map(work, enumerate(series.volumes()), n_threads)) as results:
        for number, (slices, volume) in enumerate(results):
            outside[number] = slices
            if volume is None:
                continue
            stores[0].add(volume[regions.brain])
            inside = volume[regions.head]
            stores[1].add(inside)
            stores[2].add(bold_time.ranks(inside))
            # Sums of differences from the first volume, to avoid cancellation in the squares.
            origin = volume if origin is None else origin
            away = volume - origin
            total += away
            squares += away * away
    if origin is None:
        raise InputError(f"{series.path.name} has no usable volume.")
    total /= len(kept)
    variance = np.maximum(squares / len(kept) - total * total, 0.0)
    return (origin + total).astype(np.float32), np.sqrt(variance).astype(np.float32), outside


def _columns(stores: list[VoxelStore], aligned: Aligned) -> dict[str, Column]:
    """Compute the values of each volume."""
    given = aligned.given
    in_brain, in_head, ranked = stores
    parameters = np.full((given.n_volumes, 6), np.nan)
    if "motion" not in given.problems:
        parameters = motion_parameters(aligned.matrices, aligned.reference)
    change = bold_time.dvars(in_brain)
    signal = np.zeros(len(given.measured))
    for _, block in in_brain.blocks():
        signal += block.sum(axis=1, dtype=np.float64)
    signal = signal / in_brain.n_voxels if in_brain.n_voxels else signal * np.nan
    measured = {
        "dvars_std": change.std,
        "dvars_nstd": change.nstd,
        "dvars_vstd": change.vstd,
        "framewise_displacement": framewise_displacement(parameters[given.measured], FD_RADIUS),
        "aqi": bold_time.quality_index(in_head, ranked),
        "aor": bold_time.outlier_fraction(in_brain),
        "global_signal": signal,
    }
    columns = dict(zip(MOTION, parameters.T, strict=True))
    return columns | {name: given.spread(column) for name, column in measured.items()}


def _carpet_rows(series: Series, voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose rows of the carpet: places in a list of flat indices, lowest first."""
    height = np.einsum("i,i...->...", series.affine[2, :3], np.indices(series.shape3))
    order = np.argsort(height.reshape(-1)[voxels], kind="stable")
    count = min(CARPET_ROWS, voxels.size)
    chosen: NDArray[np.int64] = order[np.linspace(0, voxels.size - 1, count).astype(np.int64)]
    return chosen


def _take(store: VoxelStore, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read some voxels of a store; shape (T, R)."""
    taken = np.empty((store.n_volumes, rows.size), dtype=np.float32)
    for where, block in store.blocks():
        here = (rows >= where.start) & (rows < where.stop)
        taken[:, here] = block[:, rows[here] - where.start]
    return taken
