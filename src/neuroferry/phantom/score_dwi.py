"""Errors of DWI results against the truth, as plain functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.errors import GeometryError
from neuroferry.phantom.score import course_correlation, same_shape

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def fa_error(found: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Compute the mean absolute difference of fractional anisotropy, or another unitless map.

    Parameters
    ----------
    found, truth : array_like of float, same shape
    mask : array_like of bool
        Voxels to compare: white matter.

    Examples
    --------
    >>> fa_error([0.5, 0.25, 0.9], [0.75, 0.25, 0.1], [1, 1, 0])
    0.125
    """
    first, second = _inside(found, truth, mask)
    return float(np.abs(first - second).mean())


def md_error(found: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Compute the mean absolute difference of a diffusivity, as a fraction of the true one.

    Parameters
    ----------
    found, truth : array_like of float, same shape
        In the same unit.
    mask : array_like of bool
        Voxels to compare: white matter.

    Examples
    --------
    >>> md_error([1.5, 1.0], [1.0, 2.0], [1, 1])
    0.5
    """
    first, second = _inside(found, truth, mask)
    return float((np.abs(first - second) / second).mean())


def direction_error(found: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> tuple[float, float]:
    """Measure the angle between axes, regardless of sign.

    Parameters
    ----------
    found, truth : array_like of float, shape (..., 3)
        Non-zero vectors, along the same axes.
    mask : array_like of bool, shape (...)
        Voxels to compare: those whose true tensor has a direction.

    Returns
    -------
    median, percentile : float
        Degrees: median, and 95th percentile over voxels.

    Examples
    --------
    >>> direction_error([[0, 0, -2.0], [0, 1, 1]], [[0, 0, 1.0], [0, 0, 1]], [1, 0])
    (0.0, 0.0)
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    inside = np.asarray(mask).astype(bool)
    if inside.shape != first.shape[:-1] or not inside.any():
        raise GeometryError("the mask for the direction error is empty, or of another shape")
    angles = _angles(first[inside], second[inside])
    return float(np.median(angles)), float(np.percentile(angles, 95))


def gradient_error(found: ArrayLike, truth: ArrayLike) -> tuple[float, float]:
    """Measure the angle between two gradient tables, volume by volume, regardless of sign.

    Parameters
    ----------
    found, truth : array_like of float, shape (T, 3)
        Along the same axes; rows of zeros (b0) must agree and are skipped.

    Returns
    -------
    mean, maximum : float
        Degrees.

    Examples
    --------
    >>> gradient_error([[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [-1, 0, 0]])
    (0.0, 0.0)
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    weighted, expected = (np.linalg.norm(table, axis=1) > 0 for table in (first, second))
    if not np.array_equal(weighted, expected) or not weighted.any():
        raise GeometryError("the two tables have gradients in different volumes, or none at all")
    angles = _angles(first[weighted], second[weighted])
    return float(angles.mean()), float(angles.max())


def profile_correlation(found: ArrayLike, truth: ArrayLike) -> float:
    """Correlate two profiles along a bundle, node by node; NaN is ignored.

    If the estimated bundle begins or ends elsewhere, or runs in the opposite direction, sample
    the truth at its nodes first: :func:`profile_along`.

    Examples
    --------
    >>> profile_correlation([0.2, 0.4, np.nan, 0.6], [0.3, 0.4, 0.9, 0.5])
    1.0
    """
    return course_correlation(found, truth)


def profile_along(points: ArrayLike, centre: ArrayLike, profile: ArrayLike) -> NDArray[np.float64]:
    """Sample a true profile at the nodes of another line, at its nearest own points.

    Parameters
    ----------
    points : array_like of float, shape (M, 3)
        Nodes of the estimated bundle's core, mm.
    centre : array_like of float, shape (N, 3)
        Nodes of the true centre line, in the same space.
    profile : array_like of float, shape (N,)

    Returns
    -------
    ndarray of float64, shape (M,)

    Examples
    --------
    >>> line = [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    >>> profile_along([[1.0, 0.0, 1.5], [0.0, 3.0, -4.0]], line, [0.0, 1.0]).tolist()
    [0.75, 0.0]
    """
    places, line = np.asarray(points, float), np.asarray(centre, float)
    values = np.asarray(profile, float)
    steps = np.diff(line, axis=0)
    offsets = places[:, None, :] - line[None, :-1, :]
    share = np.clip((offsets * steps).sum(axis=-1) / (steps**2).sum(axis=-1), 0, 1)
    distance = np.linalg.norm(offsets - share[..., None] * steps, axis=-1)
    nearest = distance.argmin(axis=1)
    part = share[np.arange(len(places)), nearest]
    read: NDArray[np.float64] = values[nearest] * (1 - part) + values[nearest + 1] * part
    return read


def _angles(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the angles between axes (N, 3), 0 to 90 degrees."""
    along = np.abs((first * second).sum(axis=1))
    across = np.linalg.norm(np.cross(first, second), axis=1)
    angles: NDArray[np.float64] = np.degrees(np.arctan2(across, along))
    return angles


def _inside(
    found: ArrayLike, truth: ArrayLike, mask: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    first, inside = same_shape(first, np.asarray(mask).astype(bool))
    if not inside.any():
        raise GeometryError("the mask for comparing maps is empty; pass the white matter mask")
    return first[inside], second[inside]
