"""Prediction of a slice of a diffusion-weighted volume from the volumes that show it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.dwi.eddy_model import weights_from
from neuroferry.interfaces.dwi.outliers import MIN_VOLUMES
from neuroferry.interfaces.dwi.slice_patches import slices_last
from neuroferry.interfaces.image.images import FloatArray

# Width of the neighbourhood for the brightness of a slice, in slices; weight of all others.
NEAR_SLICES = 1.0
FAR_SHARE = 1e-4
# No prediction from fewer volumes than this.
LEAST_OTHERS = MIN_VOLUMES
# A position this close to a slice, in slices, is not affected by the next one.
ON_SLICE = 0.01

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def bridge(data: FloatArray, lost: Flags, axis: int = 2) -> FloatArray:
    """Fill slices by interpolating between the nearest intact ones.

    Interpolation next to a slice with dropout would otherwise ring.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Volume; changed in place.
    lost : ndarray of bool, shape (K,)
        Slices to fill.
    axis : int
        Slice axis.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        The volume; unchanged if no slice is intact.

    Examples
    --------
    >>> data = np.array([[[2.0, 0.0, 0.0, 8.0]]], dtype=np.float32)
    >>> bridge(data, np.array([False, True, True, False])).tolist()
    [[[2.0, 4.0, 6.0, 8.0]]]
    """
    whole = np.flatnonzero(~lost)
    if whole.size == 0:
        return data
    stack = slices_last(data, axis)
    for number in np.flatnonzero(lost):
        place = int(np.searchsorted(whole, number))
        below, above = whole[max(place - 1, 0)], whole[min(place, whole.size - 1)]
        share = np.float32((number - below) / (above - below) if above > below else 0.0)
        stack[..., number] = (1 - share) * stack[..., below] + share * stack[..., above]
    return data


def show_whole(place: Floats, shape: tuple[int, int, int], lost: Flags, axis: int = 2) -> Flags:
    """Find the points that a volume shows in intact slices.

    Parameters
    ----------
    place : ndarray of float64, shape (3, P)
        Voxel coordinates in the volume.
    shape : tuple of int
        Its voxels.
    lost : ndarray of bool, shape (K,)
        Its slices with dropout.
    axis : int
        Slice axis.

    Returns
    -------
    ndarray of bool, shape (P,)
    """
    top = np.array(shape, dtype=float)[:, None] - 1.0
    inside = ((place > -0.5) & (place < top + 0.5)).all(axis=0)
    z = np.clip(place[axis], 0, top[axis])
    below = np.floor(z + ON_SLICE).astype(np.intp)
    above = np.ceil(z - ON_SLICE).astype(np.intp)
    shown: Flags = inside & ~lost[below] & ~lost[above]
    return shown


def local_ratio(measured: Floats, predicted: Floats) -> Floats:
    """Compute the ratio of measured to predicted sums, around each slice.

    The model shrinks differences between directions, and brightness may change along the head:
    the slices around a missing one show the error of the prediction there.

    Parameters
    ----------
    measured, predicted : ndarray of float64, shape (K,)
        Sums over each slice; both zero where there is nothing to compare.

    Returns
    -------
    ndarray of float64, shape (K,)
        Ratio of their means, weighted by a Gaussian of the distance; far from known slices, the
        ratio over all slices.

    Examples
    --------
    >>> local_ratio(np.array([2.0, 0, 2, 2]), np.array([1.0, 0, 1, 1])).round(6).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    apart = np.subtract.outer(np.arange(len(measured)), np.arange(len(measured)))
    weights = np.exp(-0.5 * np.square(apart / NEAR_SLICES)) + FAR_SHARE
    ratio: Floats = np.maximum(weights @ measured, 0.0) / np.maximum(weights @ predicted, 1e-6)
    return ratio


def predict_slice(
    logs: NDArray[np.float32], shown: Flags, modelled: Floats, volume: int
) -> tuple[NDArray[np.float32], Flags]:
    """Predict the logarithm of a volume from the other volumes.

    Parameters
    ----------
    logs : ndarray of float32, shape (N, P)
        Logarithms of the volumes at the points to predict.
    shown : ndarray of bool, shape (N, P)
        Where they are valid.
    modelled : ndarray of float64, shape (N, N)
        Output of :func:`neuroferry.interfaces.dwi.eddy_model.modelled_covariance`.
    volume : int
        Index of the predicted volume; not used for the prediction.

    Returns
    -------
    values : ndarray of float32, shape (P,)
    known : ndarray of bool, shape (P,)
        False, with value zero, where too few volumes show the point.
    """
    use = shown.copy()
    use[volume] = False
    patterns, which = np.unique(np.packbits(use, axis=0).T, axis=0, return_inverse=True)
    which = which.reshape(-1)
    values = np.zeros(logs.shape[1], dtype=np.float32)
    known = np.zeros(logs.shape[1], dtype=bool)
    for number, pattern in enumerate(patterns):
        others = np.flatnonzero(np.unpackbits(pattern, count=len(logs)))
        if others.size < LEAST_OTHERS:
            continue
        here = np.flatnonzero(which == number)
        weights = weights_from(modelled, volume, others).astype(np.float32)
        values[here] = weights @ logs[np.ix_(others, here)]
        known[here] = True
    return values, known
