"""Prediction of a diffusion-weighted volume from the others of its shell.

Volumes of different directions differ in contrast: aligning them to a common image is biased
towards their common features. So each is aligned to a prediction of itself. The signal of a voxel
on a shell is modelled as a Gaussian process on the sphere [1]_ whose covariance depends only on
the angle between two directions, as a sum of Legendre polynomials of even degree: the power of
the signal in spherical harmonics of that degree [2]_. The power of each degree and the noise are
estimated from the covariance of the volumes. The leave-one-out prediction is then a fixed
combination of the other volumes, the same in every voxel.

With few directions, little power is found in the higher degrees, and the prediction reduces to
the mean.

References
----------
.. [1] Andersson JLR, Sotiropoulos SN (2015). Non-parametric representation and prediction
   of single- and multi-shell diffusion-weighted MRI data using Gaussian processes.
   NeuroImage 122:166-176. doi:10.1016/j.neuroimage.2015.07.067
.. [2] Schoenberg IJ (1942). Positive definite functions on spheres. Duke Math J 9(1):96-108.
   doi:10.1215/S0012-7094-42-00908-6
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

DEGREES = (2, 4, 6)
# Prior variance of the mean over directions, in units of the variance of the rest.
MEAN_VARIANCE = 1e4
LEAST_NOISE = 0.02
CHUNK_VOXELS = 65_536

Floats = NDArray[np.float64]


def direction_kernels(bvecs: Floats) -> Floats:
    """Evaluate Legendre polynomials of the cosines between directions.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors.

    Returns
    -------
    ndarray of float64, shape (3, N, N)
        For degrees 2, 4 and 6.

    Examples
    --------
    >>> direction_kernels(np.eye(3)[:2])[0].round(6).tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
    """
    from scipy.special import eval_legendre

    cosines = np.clip(bvecs @ bvecs.T, -1.0, 1.0)
    return np.stack([eval_legendre(degree, cosines) for degree in DEGREES])


def volume_covariance(signals: NDArray[np.float32], chosen: NDArray[np.bool_]) -> Floats:
    """Compute the covariance between volumes over voxels, with each voxel's mean removed.

    Parameters
    ----------
    signals : ndarray of float32, shape (N, V)
        Aligned volumes.
    chosen : ndarray of bool, shape (V,)
        Voxels to use.

    Returns
    -------
    ndarray of float64, shape (N, N)
    """
    n = len(signals)
    total, count = np.zeros((n, n)), 0
    edges = [*range(0, signals.shape[1], CHUNK_VOXELS), signals.shape[1]]
    for start, stop in pairwise(edges):
        part = signals[:, start:stop][:, chosen[start:stop]].astype(np.float64)
        part -= part.mean(axis=0)
        total += part @ part.T
        count += part.shape[1]
    return total / max(count, 1)


def modelled_covariance(covariance: NDArray[np.floating], bvecs: Floats) -> Floats:
    """Model the covariance of measurements: power of each degree, noise, mean.

    Parameters
    ----------
    covariance : ndarray of float64, shape (N, N)
        Output of :func:`volume_covariance`.
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero for b0 volumes, which differ only by noise.

    Returns
    -------
    ndarray of float64, shape (N, N)
        In units of the variance about the mean.
    """
    from scipy.optimize import nnls

    n = len(bvecs)
    centring = np.eye(n) - 1.0 / n
    kernels = direction_kernels(bvecs)
    terms = [centring @ kernel @ centring for kernel in kernels] + [centring]
    design = np.stack([term.reshape(-1) for term in terms], axis=1)
    power, _ = nnls(design, covariance.reshape(-1))
    scale = max(float(power.sum()), np.finfo(float).tiny)
    signal, noise = power[:-1] / scale, max(float(power[-1]) / scale, LEAST_NOISE)
    modelled: Floats = np.tensordot(signal, kernels, axes=1) + noise * np.eye(n) + MEAN_VARIANCE
    return modelled


def leave_out_weights(covariance: NDArray[np.floating], bvecs: Floats) -> Floats:
    """Compute the weights that predict each volume of a shell from the others.

    Parameters
    ----------
    covariance : ndarray of float64, shape (N, N)
        Output of :func:`volume_covariance`.
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors.

    Returns
    -------
    ndarray of float64, shape (N, N)
        One row per volume; zero on the diagonal; rows sum to one.

    Notes
    -----
    With ``K`` the covariance of measurements, the prediction of volume ``i`` from the others
    is ``y_i - [K^-1 y]_i / [K^-1]_ii``.
    """
    precision = np.linalg.inv(modelled_covariance(covariance, bvecs))
    weights = -precision / np.diag(precision)[:, None]
    weights[np.diag_indices(len(bvecs))] = 0.0
    combined: Floats = weights / weights.sum(axis=1, keepdims=True)
    return combined


def weights_from(modelled: Floats, volume: int, others: NDArray[np.intp]) -> Floats:
    """Compute the weights that predict one volume of a shell from some others.

    Parameters
    ----------
    modelled : ndarray of float64, shape (N, N)
        Output of :func:`modelled_covariance`.
    volume : int
        Index of the predicted volume.
    others : ndarray of int, shape (M,)
        Indices of the volumes used.

    Returns
    -------
    ndarray of float64, shape (M,)
        Weights that sum to one.

    Examples
    --------
    >>> modelled = modelled_covariance(np.eye(4), np.zeros((4, 3)))
    >>> weights_from(modelled, 0, np.array([1, 3])).round(6).tolist()
    [0.5, 0.5]
    """
    weights = np.linalg.solve(modelled[np.ix_(others, others)], modelled[others, volume])
    combined: Floats = weights / weights.sum()
    return combined
