"""Log-linear models, fitted to all voxels at once by weighted least squares.

The logarithm of a diffusion-weighted signal is linear in the elements of the diffusion (and the
kurtosis) tensor [1]_. The logarithm amplifies the noise of weak signals, so each measurement is
weighted by its squared signal [2]_; the signal predicted by the last estimate serves better than
the measured one, whose noise biases the result [3]_. Here ordinary least squares is followed by
two rounds of weighted least squares.

Each voxel is a small system of equations: the normal equations of a chunk of voxels come from one
matrix product, and one Cholesky factorisation works on all of them at once, with voxels along the
contiguous axis. Chunks always have the same size, so that no result depends on how voxels are
distributed over blocks and threads.

References
----------
.. [1] Basser PJ, Mattiello J, LeBihan D (1994). Estimation of the effective self-diffusion
   tensor from the NMR spin echo. J Magn Reson B 103(3):247-254. doi:10.1006/jmrb.1994.1037
.. [2] Salvador R et al. (2005). Formal characterization and extension of the linearized
   diffusion tensor model. Hum Brain Mapp 24(2):144-155. doi:10.1002/hbm.20076
.. [3] Veraart J et al. (2013). Weighted linear least squares estimation of diffusion MRI
   parameters: strengths, limitations, and pitfalls. NeuroImage 81:335-346.
   doi:10.1016/j.neuroimage.2013.05.028
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.series import Series, ordered_map
from neuroferry.interfaces.image.voxel_store import VoxelStore

N_ITERATIONS = 2
CHUNK = 2048
"""Voxels fitted at once; affects speed and the last digit."""
SINGULAR = 1e-10
"""Smallest pivot of a normal matrix, as a fraction of its diagonal."""

Matrix = NDArray[np.float64]
Result = TypeVar("Result")


@dataclass(frozen=True)
class LogLinearFit:
    """Coefficients of many voxels.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (P, V)
        Zero where there is no fit.
    fitted : ndarray of bool, shape (V,)
        Voxels whose usable measurements determine the coefficients.
    complete : ndarray of bool, shape (V,)
        Voxels all of whose measurements are usable: positive and finite.
    """

    coefficients: Matrix
    fitted: NDArray[np.bool_]
    complete: NDArray[np.bool_]


def fit_log_linear(
    signals: NDArray[np.floating], design: Matrix, *, n_iterations: int = N_ITERATIONS
) -> LogLinearFit:
    """Fit ``log(signals) = design @ coefficients`` by weighted least squares.

    Parameters
    ----------
    signals : ndarray of float, shape (N, V)
        N measurements of V voxels, any unit. Values that are not positive, infinite or NaN are
        skipped: a magnitude of zero was never measured.
    design : ndarray of float64, shape (N, P)
        Full rank; columns should be of the same order of magnitude.
    n_iterations : int
        Rounds with weights from the last prediction; 0 is ordinary least squares.

    Returns
    -------
    LogLinearFit

    Examples
    --------
    >>> design = np.array([[1.0, 0.0], [1.0, -1.0], [1.0, -2.0]])
    >>> fit = fit_log_linear(100 * np.exp([[0.0], [-0.7], [-1.4]]), design)
    >>> np.exp(fit.coefficients[0]).round(6).tolist(), fit.coefficients[1].round(6).tolist()
    ([100.0], [0.7])
    """
    n, n_voxels = signals.shape
    n_parameters = design.shape[1]
    model = _Model.of(design)
    coefficients = np.zeros((n_parameters, n_voxels))
    fitted, complete = np.zeros(n_voxels, bool), np.zeros(n_voxels, bool)
    for start in range(0, n_voxels, CHUNK):
        width = min(CHUNK, n_voxels - start)
        where = slice(start, start + width)
        chunk = np.ones((n, CHUNK))
        chunk[:, :width] = signals[:, where]
        found, solved, whole = _fit_chunk(chunk, model, n_iterations)
        coefficients[:, where] = found[:, :width]
        fitted[where], complete[where] = solved[:width], whole[:width]
    return LogLinearFit(coefficients, fitted, complete)


@dataclass(frozen=True)
class _Model:
    """Design matrix and the quantities derived from it once."""

    design: Matrix
    inverse: Matrix
    """Pseudoinverse, shape (P, N)."""
    products: Matrix
    """Products of two columns, one row for each element of the upper triangle."""
    place: dict[tuple[int, int], int]
    """Row of ``products`` for a pair of columns."""

    @classmethod
    def of(cls, design: Matrix) -> _Model:
        """Prepare a design matrix."""
        pairs = [(i, j) for i in range(design.shape[1]) for j in range(i, design.shape[1])]
        products = np.stack([design[:, i] * design[:, j] for i, j in pairs])
        place = {pair: row for row, pair in enumerate(pairs)}
        return cls(design, np.asarray(np.linalg.pinv(design)), products, place)


def _fit_chunk(
    signals: Matrix, model: _Model, n_iterations: int
) -> tuple[Matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Fit one chunk; return coefficients, which are determined, and which had all measurements."""
    usable = (signals > 0) & (signals < np.inf)
    whole = np.asarray(usable.all(axis=0))
    fitted = np.ones_like(whole)
    logs = np.log(np.where(usable, signals, 1.0))
    coefficients = model.inverse @ logs
    if not whole.all():
        some, solved = _solve(usable.astype(np.float64), logs, model)
        coefficients = np.where(whole, coefficients, np.where(solved, some, 0.0))
        fitted = whole | solved
    for _ in range(n_iterations):
        weights = model.design @ coefficients
        weights -= weights.max(axis=0)
        weights *= 2.0
        np.exp(weights, out=weights)
        if not whole.all():
            weights *= usable
        better, solved = _solve(weights, logs, model)
        # where the weights leave too little, keep the last estimate
        coefficients = np.where(solved & fitted, better, coefficients)
    return coefficients, fitted, whole


def _solve(weights: Matrix, logs: Matrix, model: _Model) -> tuple[Matrix, NDArray[np.bool_]]:
    """Solve the weighted normal equations of every voxel by Cholesky factorisation.

    Each step works on one element of all voxels' matrices. Elements of the factor replace
    those of the matrix, with the inverse on its diagonal.
    """
    size = model.design.shape[1]
    matrix = model.products @ weights
    place = model.place
    solved = np.ones(weights.shape[1], bool)
    solution = model.design.T @ (weights * logs)
    for j in range(size):
        pivot = matrix[place[j, j]]
        least = SINGULAR * pivot
        for k in range(j):
            pivot -= matrix[place[k, j]] ** 2
        solved &= pivot > least
        pivot[~solved] = 1.0
        np.sqrt(pivot, out=pivot)
        np.divide(1.0, pivot, out=pivot)
        for i in range(j + 1, size):
            element = matrix[place[j, i]]
            for k in range(j):
                element -= matrix[place[k, i]] * matrix[place[k, j]]
            element *= pivot
    for i in range(size):
        for k in range(i):
            solution[i] -= matrix[place[k, i]] * solution[k]
        solution[i] *= matrix[place[i, i]]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            solution[i] -= matrix[place[i, k]] * solution[k]
        solution[i] *= matrix[place[i, i]]
    return solution, solved


def over_voxels(
    function: Callable[[NDArray[np.float32]], Result],
    series: Series,
    mask: NDArray[np.bool_],
    volumes: Sequence[int],
    *,
    scratch: str | os.PathLike[str] | None = None,
    n_threads: int = 1,
) -> Iterator[tuple[slice, Result]]:
    """Apply a function to blocks of whole voxels of a series.

    Volumes are read once, one at a time, into a scratch file of ``4 * volumes * voxels`` bytes;
    memory does not grow with the number of volumes.

    Parameters
    ----------
    function : callable
        Takes an array of float32, shape (N, B): the chosen volumes of a block of voxels.
    series : Series
        Series to read.
    mask : ndarray of bool, shape (I, J, K)
        Voxels to process.
    volumes : sequence of int
        Volumes to process, in increasing order.
    scratch : path, optional
        Folder of the scratch file.
    n_threads : int
        Blocks processed in parallel; does not change the result.

    Yields
    ------
    where : slice
        Which voxels of the mask.
    result : object
        Result of `function` for them.
    """
    from threadpoolctl import threadpool_limits

    n_voxels = int(np.count_nonzero(mask))
    if not n_voxels:
        raise InputError(f"The brain mask of {series.path.name} is empty; check the mask.")

    def work(
        item: tuple[slice, NDArray[np.float32]],
    ) -> tuple[slice, Result]:
        return item[0], function(item[1])

    with (
        threadpool_limits(1, "blas"),
        VoxelStore(len(volumes), n_voxels, folder=scratch) as store,
    ):
        for index in volumes:
            store.add(series.volume(index)[mask])
        series.close()
        yield from ordered_map(work, store.blocks(), n_threads)
