"""Noise components of voxels whose signal is not from neurons (CompCor).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.voxel_store import VoxelStore

HIGH_PASS_S = 128.0
"""Longest period that is kept, s."""
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
    """Voxels that components are taken from, and how strict their choice could be.

    Attributes
    ----------
    voxels : ndarray of bool, shape (I, J, K)
        May be empty.
    level : float
        Least tissue probability of a voxel.
    apart : bool
        Whether voxels next to grey matter were left out.
    """

    voxels: Mask
    level: float
    apart: bool


@dataclass(frozen=True)
class Components:
    """What was found in one mask.

    Attributes
    ----------
    series : ndarray of float64, shape (T, n)
        Orthonormal time courses, by falling variance.
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
        """Fraction of the variance that each singular value stands for."""
        squares = self.singular_values**2
        total = squares.sum()
        return np.asarray(squares / total if total > 0 else squares)


def cosine_basis(n_volumes: int, tr: float, period: float = HIGH_PASS_S) -> Matrix:
    """Slow cosines, those of a discrete cosine transform (DCT-II) with long periods.

    Parameters
    ----------
    n_volumes : int
        Length in volumes.
    tr : float
        Repetition time, s.
    period : float
        Cosines at least this long are given, s.

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
    """Orthonormal basis of a constant and further columns, shape (T, 1 + n)."""
    basis, _ = np.linalg.qr(np.column_stack([np.ones(n_volumes), columns]))
    return np.asarray(basis)


def quadratic_basis(n_volumes: int) -> Matrix:
    """Orthonormal constant, linear and quadratic trend, shape (T, 3)."""
    place = np.linspace(-1, 1, n_volumes)
    return orthonormal(np.column_stack([place, place**2])[:, : n_volumes - 1], n_volumes)


def residuals(block: NDArray[np.float32], basis: Matrix) -> Matrix:
    """Take an orthonormal basis out of time series.

    Parameters
    ----------
    block : ndarray of float32, shape (T, V)
        Time series.
    basis : ndarray of float64, shape (T, n)
        Its first column spans the constant, so that means are gone afterwards.

    Returns
    -------
    ndarray of float64, shape (T, V)
    """
    data = block.astype(np.float64)
    # Means first: they are a thousand times what is looked for.
    data -= data.mean(axis=0)
    data -= basis @ (basis.T @ data)
    return np.asarray(data)


def noise_masks(
    tpms: Sequence[NDArray[np.float32]], brain: Mask, zooms: NDArray[np.float64]
) -> dict[str, NoiseMask]:
    """Choose voxels of pure CSF and deep white matter.

    A voxel counts whose probability is at least 0.99, that holds no grey matter (5% or
    more) and, except for CSF, has none within 3 mm or one voxel. Where fewer than 30
    voxels are left, as in coarse images, the level falls step by step to 0.8, and then
    voxels next to grey matter count as well.

    Parameters
    ----------
    tpms : sequence of three ndarray of float32, shape (I, J, K)
        Probabilities of grey matter, white matter and CSF on the grid of the series.
    brain : ndarray of bool, shape (I, J, K)
        Nothing outside counts.
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
    """Take the strictest choice that leaves enough voxels, else the largest."""
    loosest = NoiseMask(np.zeros(probability.shape, dtype=bool), PURE_LEVELS[0], apart[0])
    for where, is_apart in zip(allowed, apart, strict=True):
        for level in PURE_LEVELS:
            found = NoiseMask(where & (probability >= level), level, is_apart)
            if np.count_nonzero(found.voxels) >= MIN_VOXELS:
                return found
            loosest = found
    return loosest


def top_variance(deviations: NDArray[np.float64]) -> Mask:
    """Choose the 2% of voxels that change most.

    Parameters
    ----------
    deviations : ndarray of float64, shape (V,)
        Standard deviation of each voxel after its quadratic trend is gone.

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
    variance: float = VARIANCE,
) -> dict[str, Components]:
    """Find the components that explain half of the variance within each mask.

    Time series lose their mean and slow cosines and are divided by their standard
    deviation [1]_; as many components are kept as explain 50% of the variance [2]_.

    Parameters
    ----------
    store : VoxelStore
        Time series of a brain.
    masks : mapping of str to ndarray of bool, shape (V,)
        Which of its voxels; masks that are empty are left out of the result.
    tr : float
        Repetition time, s.
    start : int
        First volume; the ones before get zeros.
    variance : float
        Fraction of the variance to be explained.

    Returns
    -------
    dict of str to Components
        Time courses over all volumes.

    Notes
    -----
    The sign of a component means nothing; its largest value is made positive.
    """
    from threadpoolctl import threadpool_limits

    length = store.n_volumes - start
    found = {}
    # Sums over several BLAS threads need not repeat to the last bit.
    with threadpool_limits(1, "blas"):
        basis = orthonormal(cosine_basis(length, tr), length)
        for name, mask in masks.items():
            if mask.any():
                gram = _gram(store, mask, basis, start)
                count = int(np.count_nonzero(mask))
                found[name] = _decompose(gram, count, start, variance)
    return found


def _gram(store: VoxelStore, mask: Mask, basis: Matrix, start: int) -> Matrix:
    """Sum the products of all volumes with each other over the voxels of a mask."""
    length = store.n_volumes - start
    gram = np.zeros((length, length))
    for where, block in store.blocks(start):
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
        Which of its voxels.

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


def _decompose(gram: Matrix, n_voxels: int, start: int, variance: float) -> Components:
    """Give the components of one Gram matrix."""
    from scipy.linalg import eigh

    length = len(gram)
    values = np.maximum(eigh(gram, eigvals_only=True)[::-1], 0.0)[: min(length, n_voxels)]
    total = values.sum()
    if total <= 0:
        return Components(np.zeros((start + length, 0)), np.sqrt(values), n_voxels)
    count = int(np.searchsorted(np.cumsum(values) / total, variance)) + 1
    # In a long run only the leading vectors are asked for: all take four times the memory.
    _, vectors = eigh(gram, overwrite_a=True, subset_by_index=(length - count, length - 1))
    kept = vectors[:, ::-1]
    peak = np.take_along_axis(kept, np.abs(kept).argmax(axis=0)[None], axis=0)
    series = np.zeros((start + length, count))
    series[start:] = kept * np.sign(peak)
    return Components(series, np.sqrt(values), n_voxels)
