"""Temporal metrics of a BOLD series after realignment: DVARS, tSNR, GCOR, outliers, quality index.

Each function takes a matrix of time series on disk, one column for each voxel, and reads it in
blocks. A metric that is not defined for its input is ``nan``.

References
----------
.. [1] Power JD et al. (2012). Spurious but systematic correlations in functional connectivity MRI
   networks arise from subject motion. NeuroImage 59(3):2142-2154.
   doi:10.1016/j.neuroimage.2011.10.018
.. [2] Nichols TE (2013). Notes on creating a standardized version of DVARS. arXiv:1704.01469
.. [3] Krueger G, Glover GH (2001). Physiological noise in oxygenation-sensitive magnetic resonance
   imaging. Magn Reson Med 46(4):631-637. doi:10.1002/mrm.1240
.. [4] Saad ZS et al. (2013). Correcting brain-wide correlation differences in resting-state FMRI.
   Brain Connect 3(4):339-352. doi:10.1089/brain.2013.0156
.. [5] Cox RW (1996). AFNI: software for analysis and visualization of functional magnetic
   resonance neuroimages. Comput Biomed Res 29(3):162-173. doi:10.1006/cbmr.1996.0014. Definitions:
   the documentation of its programs 3dToutcount, 3dTqual, 3dClipLevel and @compute_gcor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.voxel_store import VoxelStore, exact_median
from neuroferry.interfaces.qc.regions import NAN

MODE = 1000.0
"""Brain median after scaling, so that DVARS is in tenths of a percent."""
IQR_PER_SIGMA = 1.349
MIN_SD = 1e-7
"""Spread, after scaling, up to which a voxel counts as constant."""
MIN_STD = 1e-3
"""Standard deviation over time up to which a voxel has no tSNR, in units of the image."""
OUTLIER_P = 1e-3
MIN_OUTLIER_VOLUMES = 5
CLIP_SHARE = 0.5

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Dvars:
    """Change from each volume to the next.

    Attributes
    ----------
    nstd : ndarray of float64, shape (T,)
        Root mean square change over the voxels, scaled to a brain median of 1000 [1]_.
    std : ndarray of float64, shape (T,)
        Divided by the mean of the standard deviations that are expected of the changes of each
        voxel [2]_: about 1 for noise.
    vstd : ndarray of float64, shape (T,)
        Root mean square of the changes, each divided by that of its voxel [2]_.

    Notes
    -----
    The first value of each is ``nan``, and all are if no voxel varies.
    """

    nstd: Column
    std: Column
    vstd: Column


def dvars(store: VoxelStore) -> Dvars:
    """Compute DVARS, plain and standardised in two ways.

    The standard deviation that is expected of a voxel's changes is ``sqrt(2 (1 - r)) s``, with the
    lag-1 autocorrelation ``r`` and the interquartile range, taken without interpolation, divided
    by 1.349 as ``s``. Voxels without spread are left out.

    Parameters
    ----------
    store : VoxelStore
        Time series of the voxels of the brain.

    Returns
    -------
    Dvars
    """
    length = store.n_volumes
    plain, voxelwise = np.zeros(max(length - 1, 0)), np.zeros(max(length - 1, 0))
    expected, used = 0.0, 0
    median = exact_median(store) if store.n_voxels else 0.0
    scale = MODE / median if median > 0 else 1.0
    for _, block in store.blocks():
        spread = _robust_sd(block) * scale
        kept = spread > MIN_SD
        if length < 2 or not kept.any():
            continue
        values, spread = block[:, kept].astype(np.float64) * scale, spread[kept]
        centred = values - values.mean(axis=0)
        power = np.einsum("tv,tv->v", centred, centred)
        lagged = np.einsum("tv,tv->v", centred[1:], centred[:-1])
        usual = np.sqrt(2 * (1 - lagged / power)) * spread
        change = np.diff(values, axis=0)
        expected += float(usual.sum())
        used += spread.size
        plain += np.einsum("tv,tv->t", change, change)
        change /= usual
        voxelwise += np.einsum("tv,tv->t", change, change)
    if not used:
        nothing = np.full(length, NAN)
        return Dvars(nothing, nothing, nothing)
    nstd = _from_second(np.sqrt(plain / used))
    return Dvars(nstd, nstd / (expected / used), _from_second(np.sqrt(voxelwise / used)))


def _from_second(values: Column) -> Column:
    return np.concatenate([[NAN], values])


def _robust_sd(block: NDArray[np.float32]) -> Column:
    """Estimate standard deviations from the quartiles of each column."""
    low, high = (math.floor(part * (len(block) - 1)) for part in (0.25, 0.75))
    ordered = np.partition(np.ascontiguousarray(block.T), (low, high), axis=1)
    return np.asarray((ordered[:, high].astype(np.float64) - ordered[:, low]) / IQR_PER_SIGMA)


def temporal_snr(mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide the mean over time by the standard deviation over time [3]_.

    Parameters
    ----------
    mean, std : ndarray of float32
        Over time, of any shape; the standard deviation is divided by the number of volumes.

    Returns
    -------
    ndarray of float32
        0 where the voxel does not vary.

    Examples
    --------
    >>> temporal_snr(np.float32([100, 50]), np.float32([2, 0])).tolist()
    [50.0, 0.0]
    """
    varies = std > MIN_STD
    return np.asarray(np.where(varies, mean / np.where(varies, std, 1), 0), dtype=np.float32)


def global_correlation(store: VoxelStore) -> float:
    r"""Compute the global correlation: the mean correlation of all pairs of voxels.

    .. math:: \mathrm{GCOR} = g_u^T g_u

    with the mean over the voxels of the time series, demeaned and scaled to unit length, for
    :math:`g_u` [4]_. Voxels that do not vary count as series of zeros.

    Parameters
    ----------
    store : VoxelStore
        Time series of the voxels of the brain.

    Returns
    -------
    float
        ``nan`` if no voxel varies.
    """
    total = np.zeros(store.n_volumes)
    varies = False
    for _, block in store.blocks():
        centred = block - block.mean(axis=0, dtype=np.float64)
        power = np.einsum("tv,tv->v", centred, centred)
        some = power > 0
        varies = varies or bool(some.any())
        total += centred[:, some] @ (1 / np.sqrt(power[some]))
    if not varies:
        return NAN
    mean = total / store.n_voxels
    return float(np.sum(mean * mean))


def outlier_fraction(store: VoxelStore) -> Column:
    r"""Compute the fraction of voxels of each volume that are outliers in their time series.

    An outlier is farther from the voxel's median over time than
    :math:`\alpha \sqrt{\pi / 2}\, \mathrm{MAD}`, with the median absolute deviation MAD, and an
    :math:`\alpha` that a standard normal variable exceeds with a probability of
    :math:`0.001 / T` [5]_.

    Parameters
    ----------
    store : VoxelStore
        Time series of the voxels of the brain.

    Returns
    -------
    ndarray of float64, shape (T,)
        ``nan`` with fewer than five volumes or without voxels.
    """
    length = store.n_volumes
    if length < MIN_OUTLIER_VOLUMES or not store.n_voxels:
        return np.full(length, NAN)
    reach = _upper_quantile(OUTLIER_P / length) * math.sqrt(math.pi / 2)
    count = np.zeros(length)
    for _, block in store.blocks():
        distance = np.abs(block - np.median(block, axis=0))
        spread = np.median(distance, axis=0)
        count += np.count_nonzero((distance > reach * spread) & (spread > 0), axis=1)
    return count / store.n_voxels


def _upper_quantile(probability: float) -> float:
    """Find the value that a standard normal variable exceeds with a probability."""
    from scipy.special import ndtri

    return -float(ndtri(probability))


def clip_level(image: NDArray[np.floating]) -> float:
    """Find the intensity between head and air as AFNI's 3dClipLevel does [5]_.

    It is half the median of the values that are not below it.

    Parameters
    ----------
    image : ndarray of float
        Intensities, any shape.

    Returns
    -------
    float
        0 if nothing is above zero.

    Examples
    --------
    >>> clip_level(np.repeat([1.0, 100.0], [900, 100]))
    50.0
    """
    values = np.sort(np.asarray(image, dtype=np.float64)[np.asarray(image) > 0])
    if not values.size:
        return 0.0
    level = math.sqrt(float(np.mean(values * values))) * CLIP_SHARE
    for _ in range(66):
        start = int(np.searchsorted(values, level))
        above = CLIP_SHARE * float(np.median(values[start:]))
        if above == level:
            break
        level = above
    return level


def ranks(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rank the voxels of a volume; equal values share the mean of their ranks.

    Parameters
    ----------
    values : ndarray of float, shape (V,)
        Intensities.

    Returns
    -------
    ndarray of float32, shape (V,)
        From 1, exact up to eight million voxels.

    Examples
    --------
    >>> ranks(np.array([5.0, 2.0, 5.0, 9.0])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    if not values.size:
        return np.zeros(0, dtype=np.float32)
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], ordered.size)
    ranked = np.empty(ordered.size, dtype=np.float32)
    ranked[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranked


def quality_index(store: VoxelStore, ranked: VoxelStore) -> Column:
    """Compute one minus the rank correlation of each volume with the median volume [5]_.

    Parameters
    ----------
    store : VoxelStore
        Time series of the voxels of the head.
    ranked : VoxelStore
        The same, each volume replaced by its `ranks`.

    Returns
    -------
    ndarray of float64, shape (T,)
        1 for a constant volume; ``nan`` with fewer than two volumes or three voxels, or if the
        median volume is constant.
    """
    length, count = store.n_volumes, store.n_voxels
    if length < 2 or count < 3:
        return np.full(length, NAN)
    median = np.empty(count, dtype=np.float32)
    for where, block in store.blocks():
        median[where] = np.median(block, axis=0)
    middle = (count + 1) / 2
    typical = ranks(median) - middle
    power = float(np.sum(typical.astype(np.float64) ** 2))
    if not power > 0:
        return np.full(length, NAN)
    product, own = np.zeros(length), np.zeros(length)
    for where, block in ranked.blocks():
        centred = block.astype(np.float64) - middle
        product += np.sum(centred * typical[where], axis=1)
        own += np.einsum("tv,tv->t", centred, centred)
    correlation = np.divide(product, np.sqrt(power * own), out=np.zeros(length), where=own > 0)
    return np.asarray(1 - correlation)
