"""DVARS, temporal signal-to-noise ratio and detrended variance of each voxel, in one pass.

References
----------
.. [1] Power JD, Barnes KA, Snyder AZ, Schlaggar BL, Petersen SE (2012). Spurious but
   systematic correlations in functional connectivity MRI networks arise from subject
   motion. NeuroImage 59(3):2142-2154. https://doi.org/10.1016/j.neuroimage.2011.10.018
.. [2] Afyouni S, Nichols TE (2018). Insight and inference for DVARS. NeuroImage
   172:291-312. https://doi.org/10.1016/j.neuroimage.2017.12.098
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.func.compcor import orthonormal, quadratic_basis, residuals
from neuroferry.interfaces.image.voxel_store import VoxelStore, exact_median

MODE = 1000.0
"""Brain median after scaling, so that DVARS is in tenths of a percent."""
NO_VARIANCE = 1e-7
IQR_PER_SIGMA = 1.349


@dataclass(frozen=True)
class TemporalStatistics:
    """Temporal statistics of the voxels of a brain.

    Attributes
    ----------
    dvars : ndarray of float64, shape (T,)
        Root mean square change from the previous volume, scaled to a brain median of 1000;
        NaN in the first volume.
    std_dvars : ndarray of float64, shape (T,)
        DVARS divided by its expected value under voxelwise noise; about 1 without artefacts.
    tsnr : ndarray of float32, shape (V,)
        Mean over time divided by the standard deviation over time.
    deviations : ndarray of float64, shape (V,)
        Standard deviation after removal of the quadratic trend.
    """

    dvars: NDArray[np.float64]
    std_dvars: NDArray[np.float64]
    tsnr: NDArray[np.float32]
    deviations: NDArray[np.float64]


def temporal_statistics(
    store: VoxelStore, start: int = 0, without: Collection[int] = ()
) -> TemporalStatistics:
    """Compute DVARS, tSNR and detrended standard deviations.

    Parameters
    ----------
    store : VoxelStore
        Time series of the voxels of a brain mask.
    start : int
        First volume at steady state: median, spread and autocorrelation of a voxel are
        estimated from there on. DVARS itself is computed for all volumes.
    without : collection of int
        Volumes without an image, which are not used: DVARS of every volume is its change from the
        last other volume before it.

    Returns
    -------
    TemporalStatistics

    Notes
    -----
    DVARS follows [1]_. It is standardised by the expected standard deviation of the
    differences of each voxel, ``sqrt(2 (1 - r)) s``, where ``r`` is the lag-1 autocorrelation
    and ``s`` the interquartile range divided by 1.349 [2]_. Voxels with an interquartile
    range of zero are excluded.
    """
    from threadpoolctl import threadpool_limits

    used_volumes = [t for t in range(start, store.n_volumes) if t not in without]
    length = len(used_volumes)
    adjacent = np.diff(used_volumes) == 1
    before = previous_volumes(store.n_volumes, without)
    median = exact_median(store, start, without)
    scale = MODE / median if median > 0 else 1.0
    squares = np.zeros(store.n_volumes - 1)
    expected, n_used = 0.0, 0
    tsnr = np.zeros(store.n_voxels, dtype=np.float32)
    deviations = np.zeros(store.n_voxels)
    with threadpool_limits(1, "blas"):
        trend = quadratic_basis(store.n_volumes - start)
        if without:
            gaps = np.array(used_volumes) - start
            trend = orthonormal(trend[gaps, 1 : min(3, length)], length)
        for where, block in store.blocks():
            steady = block[used_volumes] if without else block[start:]
            spread = robust_deviation(steady) * scale
            used = spread > NO_VARIANCE
            n_used += int(np.count_nonzero(used))
            centred = steady.astype(np.float64)
            mean = centred.mean(axis=0)
            centred -= mean
            power = np.einsum("tv,tv->v", centred, centred)
            moving = power > 0
            deviation = np.sqrt(power / length)
            tsnr[where][moving] = mean[moving] / deviation[moving]
            later, earlier = centred[1:], centred[:-1]
            if without:
                later, earlier = later[adjacent], earlier[adjacent]
            lagged = np.einsum("tv,tv->v", later, earlier)
            autocorrelation = lagged[used] / power[used]
            expected += float(np.sum(np.sqrt(2 * (1 - autocorrelation)) * spread[used]))
            values = block[:, used].astype(np.float64)
            change = values[1:] - values[before]
            squares += np.einsum("tv,tv->t", change, change)
            deviations[where] = residuals(steady, trend).std(axis=0)
    dvars = np.full(store.n_volumes, math.nan)
    std_dvars = dvars.copy()
    if n_used:
        dvars[1:] = scale * np.sqrt(squares / n_used)
        std_dvars[1:] = dvars[1:] / (expected / n_used)
    return TemporalStatistics(dvars, std_dvars, tsnr, deviations)


def previous_volumes(n_volumes: int, without: Collection[int] = ()) -> NDArray[np.int64]:
    """Find the last usable volume before each volume from the second on.

    Parameters
    ----------
    n_volumes : int
        Length of the series.
    without : collection of int
        Volumes that are not usable.

    Returns
    -------
    ndarray of int64, shape (n_volumes - 1,)
        The volume itself where there is none, so that it does not change.

    Examples
    --------
    >>> previous_volumes(5).tolist(), previous_volumes(5, [0, 2]).tolist()
    ([0, 1, 2, 3], [1, 1, 1, 3])
    """
    found = []
    last = -1 if 0 in without else 0
    for volume in range(1, n_volumes):
        found.append(volume if last < 0 else last)
        if volume not in without:
            last = volume
    return np.array(found, dtype=np.int64)


def robust_deviation(block: NDArray[np.float32]) -> NDArray[np.float64]:
    """Estimate the standard deviation from the quartiles, taken without interpolation.

    Parameters
    ----------
    block : ndarray of float32, shape (T, V)
        Time series.

    Returns
    -------
    ndarray of float64, shape (V,)

    Examples
    --------
    >>> robust_deviation(np.arange(9, dtype=np.float32)[:, None] * 1.349).round(3)
    array([4.])
    """
    low, high = (math.floor(part * (len(block) - 1)) for part in (0.25, 0.75))
    ordered = np.partition(np.ascontiguousarray(block.T), (low, high), axis=1)
    return np.asarray((ordered[:, high].astype(np.float64) - ordered[:, low]) / IQR_PER_SIGMA)
