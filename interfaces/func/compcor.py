"""Noise components from voxels without neuronal signal (CompCor).

The components are the leading left singular vectors of a matrix of time series. Here they
come from its Gram matrix (volumes x volumes), which is summed over blocks of voxels, so
that no step holds the matrix itself.

References
----------
.. [1] Behzadi Y, Restom K, Liau J, Liu TT (2007). A component based noise correction method
   (CompCor) for BOLD and perfusion based fMRI. NeuroImage 37(1):90-101.
   https://doi.org/10.1016/j.neuroimage.2007.04.042
.. [2] Muschelli J, Nebel MB, Caffo BS, Barber AD, Pekar JJ, Mostofsky SH (2014). Reduction
   of motion-related artifacts in resting state fMRI using aCompCor. NeuroImage 96:22-35.
   https://doi.org/10.1016/j.neuroimage.2014.03.028
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.voxel_store import VoxelStore

HIGH_PASS_S = 128.0
"""Longest period kept by the high-pass filter, s."""
GM_LEVEL = 0.05
PURE_LEVELS = (0.99, 0.95, 0.9, 0.8)
GM_DISTANCE_MM = 3.0
MIN_VOXELS = 30
TOP_FRACTION = 0.02
VARIANCE = 0.5

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class NoiseMask:
    """Voxels that components are estimated from, and how strictly they were chosen.

    Attributes
    ----------
    voxels : ndarray of bool, shape (I, J, K)
        May be empty.
    level : float
        Lowest tissue probability accepted.
    apart : bool
        Whether voxels next to grey matter were excluded.
    """

    voxels: Mask
    level: float
    apart: bool


@dataclass(frozen=True)
class Components:
    """Components of one mask.

    Attributes
    ----------
    series : ndarray of float64, shape (T, n)
        Orthonormal time courses, by decreasing variance.
    singular_values : ndarray of float64, shape (min(T, V),)
        Of the normalised time series.
    n_voxels : int
        Size of the mask.
    """

    series: Matrix
    singular_values: NDArray[np.float64]
    n_voxels: int

    @property
    def variance_explained(self) -> NDArray[np.float64]:
        """Fraction of the variance explained by each component."""
        squares = self.singular_values**2
        total = squares.sum()
        return np.asarray(squares / total if total > 0 else squares)


def cosine_basis(n_volumes: int, tr: float, period: float = HIGH_PASS_S) -> Matrix:
    """Build the long-period cosines of a discrete cosine transform (DCT-II).

    Parameters
    ----------
    n_volumes : int
        Length in volumes.
    tr : float
        Repetition time, s.
    period : float
        Shortest period of the cosines returned, s.

    Returns
    -------
    ndarray of float64, shape (n_volumes, n)
        Without the constant; each column has unit length.

    Examples
    --------
    >>> cosine_basis(150, 2.0).shape
    (150, 3)
    >>> cosine_basis(10, 2.0).shape
    (10, 0)
    """
    order = max(math.floor(2 * n_volumes * tr / period), 1)
    place = (np.arange(n_volumes) + 0.5) * np.pi / n_volumes
    columns = np.cos(place[:, None] * np.arange(1, order)[None, :])
    return np.asarray(np.sqrt(2 / n_volumes) * columns)


def orthonormal(columns: Matrix, n_volumes: int) -> Matrix:
    """Build an orthonormal basis of a constant and further columns, shape (T, 1 + n)."""
    basis, _ = np.linalg.qr(np.column_stack([np.ones(n_volumes), columns]))
    return np.asarray(basis)


def quadratic_basis(n_volumes: int) -> Matrix:
    """Build an orthonormal constant, linear and quadratic trend, shape (T, 3)."""
    place = np.linspace(-1, 1, n_volumes)
    return orthonormal(np.column_stack([place, place**2])[:, : n_volumes - 1], n_volumes)


def residuals(block: NDArray[np.float32], basis: Matrix) -> Matrix:
    """Project an orthonormal basis out of time series.

    Parameters
    ----------
    block : ndarray of float32, shape (T, V)
        Time series.
    basis : ndarray of float64, shape (T, n)
        Its first column spans the constant, so that the residuals have zero mean.

    Returns
    -------
    ndarray of float64, shape (T, V)
    """
    data = block.astype(np.float64)
    # Subtract means first: they are a thousand times larger than the fluctuations.
    data -= data.mean(axis=0)
    data -= basis @ (basis.T @ data)
    return np.asarray(data)


def noise_masks(
    tpms: Sequence[NDArray[np.float32]], brain: Mask, zooms: NDArray[np.float64]
) -> dict[str, NoiseMask]:
    """Choose voxels of pure CSF and deep white matter.

    A voxel is chosen if its tissue probability is at least 0.99, its grey-matter probability
    is below 5% and, except for CSF, there is no grey matter within 3 mm or one voxel. Where
    fewer than 30 voxels are left, as in coarse images, the threshold is lowered step by step
    to 0.8, and then voxels next to grey matter are accepted as well.

    Parameters
    ----------
    tpms : sequence of three ndarray of float32, shape (I, J, K)
        Probabilities of grey matter, white matter and CSF on the grid of the series.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask; voxels outside are never chosen.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes, mm.

    Returns
    -------
    dict
        ``CSF``, ``WM`` and ``combined`` (either tissue, and all of ``CSF``).
    """
    from scipy.ndimage import distance_transform_edt

    grey, white, fluid = tpms
    has_grey = grey > GM_LEVEL
    reach = max(GM_DISTANCE_MM, float(np.max(zooms)))
    if has_grey.any():
        distance = distance_transform_edt(~has_grey, sampling=zooms)
        far = distance > reach + 1e-3
    else:
        far = np.ones_like(brain)
    clean = brain & ~has_grey
    csf = _choose(fluid, [clean], apart=[False])
    both = _choose(white + fluid, [clean & far, clean], apart=[True, False])
    return {
        "CSF": csf,
        "WM": _choose(white, [clean & far, clean], apart=[True, False]),
        "combined": NoiseMask(both.voxels | csf.voxels, both.level, both.apart),
    }


def _choose(
    probability: NDArray[np.float32], allowed: Sequence[Mask], apart: Sequence[bool]
) -> NoiseMask:
    """Take the strictest choice with enough voxels, otherwise the largest."""
    loosest = NoiseMask(np.zeros(probability.shape, dtype=bool), PURE_LEVELS[0], apart[0])
    for where, is_apart in zip(allowed, apart, strict=True):
        for level in PURE_LEVELS:
            found = NoiseMask(where & (probability >= level), level, is_apart)
            if np.count_nonzero(found.voxels) >= MIN_VOXELS:
                return found
            loosest = found
    return loosest


def top_variance(deviations: NDArray[np.float64]) -> Mask:
    """Choose the 2% of voxels with the highest temporal variance.

    Parameters
    ----------
    deviations : ndarray of float64, shape (V,)
        Standard deviation of each voxel after removal of its quadratic trend.

    Returns
    -------
    ndarray of bool, shape (V,)

    Examples
    --------
    >>> np.flatnonzero(top_variance(np.arange(100.0)))
    array([98, 99])
    """
    threshold = np.percentile(deviations, 100 * (1 - TOP_FRACTION))
    return np.asarray((deviations >= threshold) & (deviations > 0))


def noise_components(
    store: VoxelStore,
    masks: Mapping[str, Mask],
    tr: float,
    *,
    start: int = 0,
    without: Collection[int] = (),
    variance: float = VARIANCE,
) -> dict[str, Components]:
    """Estimate the components that explain half of the variance within each mask.

    Mean and slow cosines are removed from the time series, which are then divided by their
    standard deviation [1]_; the first components that together explain 50% of the variance
    are kept [2]_.

    Parameters
    ----------
    store : VoxelStore
        Time series of a brain.
    masks : mapping of str to ndarray of bool, shape (V,)
        Masks over its voxels; empty ones are omitted from the result.
    tr : float
        Repetition time, s.
    start : int
        First volume used; earlier ones are set to zero.
    without : collection of int
        Volumes that are not used either.
    variance : float
        Fraction of the variance to explain.

    Returns
    -------
    dict of str to Components
        Time courses over all volumes.

    Notes
    -----
    The sign of a component is arbitrary; its largest value is made positive.
    """
    from threadpoolctl import threadpool_limits

    used = [t for t in range(start, store.n_volumes) if t not in without]
    found = {}
    # Sums over several BLAS threads are not reproducible to the last bit.
    with threadpool_limits(1, "blas"):
        cosines = cosine_basis(store.n_volumes - start, tr)
        if without:
            cosines = cosines[np.array(used) - start]
        basis = orthonormal(cosines, len(used))
        for name, mask in masks.items():
            if mask.any():
                gram = _gram(store, mask, basis, start, without)
                count = int(np.count_nonzero(mask))
                found[name] = _decompose(gram, count, (store.n_volumes, used), variance)
    return found


def _gram(
    store: VoxelStore, mask: Mask, basis: Matrix, start: int, without: Collection[int]
) -> Matrix:
    """Sum the products of all pairs of volumes over the voxels of a mask."""
    gram = np.zeros((len(basis), len(basis)))
    for where, block in store.blocks(start, without):
        few = block[:, mask[where]]
        if few.size:
            data = residuals(few, basis)
            deviation = data.std(axis=0)
            data /= np.where(deviation > 0, deviation, 1.0)
            gram += data @ data.T
    return gram


def mean_series(store: VoxelStore, masks: Mapping[str, Mask]) -> dict[str, NDArray[np.float64]]:
    """Average the time series of each mask that is not empty.

    Parameters
    ----------
    store : VoxelStore
        Time series of a brain.
    masks : mapping of str to ndarray of bool, shape (V,)
        Masks over its voxels.

    Returns
    -------
    dict of str to ndarray of float64, shape (T,)
    """
    used = {name: mask for name, mask in masks.items() if mask.any()}
    sums = {name: np.zeros(store.n_volumes) for name in used}
    for where, block in store.blocks():
        for name, mask in used.items():
            sums[name] += block[:, mask[where]].sum(axis=1, dtype=np.float64)
    return {name: total / np.count_nonzero(used[name]) for name, total in sums.items()}


def _decompose(
    gram: Matrix, n_voxels: int, rows: tuple[int, Sequence[int]], variance: float
) -> Components:
    """Compute the components of one Gram matrix; `rows`: number of volumes, those used."""
    from scipy.linalg import eigh

    length = len(gram)
    values = np.maximum(eigh(gram, eigvals_only=True)[::-1], 0.0)[: min(length, n_voxels)]
    total = values.sum()
    if total <= 0:
        return Components(np.zeros((rows[0], 0)), np.sqrt(values), n_voxels)
    count = int(np.searchsorted(np.cumsum(values) / total, variance)) + 1
    # For a long run compute the leading vectors only: all of them take four times the memory.
    _, vectors = eigh(gram, overwrite_a=True, subset_by_index=(length - count, length - 1))
    kept = vectors[:, ::-1]
    peak = np.take_along_axis(kept, np.abs(kept).argmax(axis=0)[None], axis=0)
    series = np.zeros((rows[0], count))
    series[list(rows[1])] = kept * np.sign(peak)
    return Components(series, np.sqrt(values), n_voxels)
