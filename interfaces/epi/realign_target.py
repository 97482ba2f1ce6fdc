"""Reference image prepared for realignment: points, derivatives, slices.

Everything that :mod:`neuroferry.interfaces.epi.realign` needs of the reference, computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import GeometryError
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, inverse, voxel_sizes

COARSE_MM = 7.0
BLUR_SIGMA_VOXELS = 0.6
SLICE_SAMPLES = 250
BRIGHT_SHARE = 0.5
GAIN_SCALE_MM = 50.0
LEAST_POINTS = 150


@dataclass(frozen=True)
class Level:
    """Reference at one resolution: points, values, derivatives.

    Attributes
    ----------
    index : ndarray of float64, shape (3, N)
        Voxel coordinates of the points on the level's grid.
    design : ndarray of float64, shape (17, N) or (20, N)
        Derivative of the value with respect to each motion parameter (mm, radians), then gain
        and offset: the value, one, and the value times first and second powers of the
        position. With `along`, also the derivatives for each slope of a stretch along it.
    weights : ndarray of float64, shape (N,)
        Prior weight of each point.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices of the level to RAS+ mm.
    blocks : tuple of int
        Image voxels per voxel of the level, along each axis.
    along : ndarray of float64, shape (3,), or None
        Direction in RAS+ along which volumes may also be stretched.
    """

    index: NDArray[np.float64]
    design: NDArray[np.float64]
    weights: NDArray[np.float64]
    affine: Affine
    blocks: tuple[int, int, int]
    along: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Target:
    """Reference image prepared for realignment.

    Attributes
    ----------
    levels : tuple of Level
        Coarse to fine.
    centre : ndarray of float64, shape (3,)
        Centre of rotation of the steps, RAS+ mm.
    coefficients : ndarray of float32, shape (I, J, K)
        Cubic B-spline that interpolates the reference.
    affine : ndarray of float64, shape (4, 4)
        Affine of the reference.
    inner : ndarray of bool, shape (I, J, K)
        Bright tissue that continues in the slices above and below.
    slice_points : ndarray of int64, shape (3, M)
        Voxels used to estimate the gain of their slice.
    slice_axis : int
        Slice axis.
    """

    levels: tuple[Level, ...]
    centre: NDArray[np.float64]
    coefficients: FloatArray
    affine: Affine
    inner: NDArray[np.bool_]
    slice_points: NDArray[np.int64]
    slice_axis: int = 2


def block_mean(data: FloatArray, blocks: tuple[int, int, int]) -> FloatArray:
    """Average blocks of voxels; incomplete blocks at the far ends are dropped.

    >>> block_mean(np.arange(8, dtype=np.float32).reshape(2, 2, 2), (2, 1, 2)).ravel().tolist()
    [2.5, 4.5]
    """
    a, b, c = blocks
    if blocks == (1, 1, 1):
        return data
    i, j, k = (n // size for n, size in zip(data.shape, blocks, strict=True))
    cut = data[: i * a, : j * b, : k * c].reshape(i, a, j, b, k, c)
    mean: FloatArray = cut.mean(axis=(1, 3, 5), dtype=np.float32)
    return mean


def soften(data: FloatArray, blocks: tuple[int, int, int]) -> FloatArray:
    """Blur a volume to the resolution of a level."""
    from scipy import ndimage

    if blocks != (1, 1, 1):
        return block_mean(data, blocks)
    soft: FloatArray = ndimage.gaussian_filter(
        data, BLUR_SIGMA_VOXELS, mode="nearest", truncate=3.0, output=np.float32
    )
    return soft


def block_affine(affine: Affine, blocks: tuple[int, int, int]) -> Affine:
    """Compute the affine of a grid of block centres."""
    scale = np.diag([*(float(b) for b in blocks), 1.0])
    scale[:3, 3] = [(b - 1) / 2 for b in blocks]
    result: Affine = affine @ scale
    return result


def spline_values(data: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Evaluate the B-spline with coefficients `data` and its derivatives at the voxels.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Coefficients.

    Returns
    -------
    value : ndarray of float32, shape (I, J, K)
    gradient : list of ndarray
        Derivatives along the three axes, per voxel.
    """
    from scipy import ndimage

    smooth, slope = np.array([1.0, 4.0, 1.0]) / 6.0, np.array([-0.5, 0.0, 0.5])
    value = data
    gradient = [data, data, data]
    for axis in range(3):
        value = ndimage.correlate1d(value, smooth, axis=axis, mode="nearest")
        gradient = [
            ndimage.correlate1d(g, slope if axis == along else smooth, axis=axis, mode="nearest")
            for along, g in enumerate(gradient)
        ]
    return value, gradient


def prepare_target(
    reference: Volume,
    weights: NDArray[np.floating],
    *,
    slice_axis: int = 2,
    max_points: int = 40_000,
    coarse_mm: float = COARSE_MM,
    along: NDArray[np.float64] | None = None,
) -> Target:
    """Prepare the reference that every volume is aligned to.

    Parameters
    ----------
    reference : Volume
        Image that volumes are aligned to.
    weights : ndarray, shape (I, J, K)
        Weight of each voxel; zero outside the head.
    slice_axis : int
        Slice axis.
    max_points : int
        Maximum number of voxels used; those least informative about motion are excluded.
    coarse_mm : float
        Voxel size of the coarse level.
    along : ndarray of float64, shape (3,), optional
        Unit vector in RAS+ along which volumes may also be stretched and sheared.

    Returns
    -------
    Target

    Raises
    ------
    GeometryError
        If the reference has too little signal or too few slices.
    """
    from scipy import ndimage

    total = float(weights.sum())
    middle = np.array(
        [
            float(weights.sum(axis=tuple(a for a in range(3) if a != axis)) @ np.arange(n)) / total
            for axis, n in enumerate(reference.shape)
        ]
    )
    centre = reference.affine[:3, :3] @ middle + reference.affine[:3, 3]
    sizes = voxel_sizes(reference.affine)
    wanted = np.maximum(1, np.rint(coarse_mm / sizes)).astype(int)
    # A thin slab keeps its slices: blocks of slices would leave none to detect motion across.
    blocks = [max(1, min(int(w), n // 8)) for w, n in zip(wanted, reference.shape, strict=True)]
    coarse = (blocks[0], blocks[1], blocks[2])
    grids = [coarse, (1, 1, 1)] if coarse != (1, 1, 1) else [(1, 1, 1)]
    levels = [_level(reference, weights, blocks, centre, max_points, along) for blocks in grids]
    if levels[-1].weights.size < LEAST_POINTS:
        raise GeometryError(
            "The series has too little signal or too few slices to estimate head motion."
        )
    levels = [level for level in levels if level.weights.size >= LEAST_POINTS]
    coefficients = ndimage.spline_filter(reference.data, order=3, output=np.float32)
    bright = BRIGHT_SHARE * float(np.median(reference.data[np.asarray(weights) > 0]))
    # At the vertex a small shift changes much: use only tissue that continues above and below.
    inner = ndimage.minimum_filter1d(reference.data, 3, axis=slice_axis, mode="nearest") > bright
    points = _slice_points(inner & (np.asarray(weights) > 0), slice_axis)
    return Target(tuple(levels), centre, coefficients, reference.affine, inner, points, slice_axis)


def _slice_points(inside: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Choose up to ``SLICE_SAMPLES`` evenly spaced voxels of each slice, shape (3, M)."""
    found = np.argwhere(inside)
    found = found[np.argsort(found[:, axis], kind="stable")]
    bounds = np.searchsorted(found[:, axis], np.arange(inside.shape[axis] + 1))
    kept = [
        np.linspace(low, high - 1, min(high - low, SLICE_SAMPLES)).astype(np.int64)
        for low, high in pairwise(bounds)
    ]
    points: NDArray[np.int64] = found[np.concatenate(kept)].T
    return points


def _level(
    reference: Volume,
    weights: NDArray[np.floating],
    blocks: tuple[int, int, int],
    centre: NDArray[np.float64],
    max_points: int,
    along: NDArray[np.float64] | None,
) -> Level:
    """Prepare one resolution."""
    value, gradient = spline_values(soften(reference.data, blocks))
    affine = block_affine(reference.affine, blocks)
    weight = block_mean(np.asarray(weights, dtype=np.float32), blocks)
    inner = np.zeros(value.shape, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = True
    chosen = np.flatnonzero((weight > 0) & inner)
    slopes = np.stack([g.reshape(-1)[chosen] for g in gradient]).astype(np.float64)
    # Derivatives per mm: gradients transform by the inverse transpose of an affine.
    slopes = inverse(affine)[:3, :3].T @ slopes
    strength = weight.reshape(-1)[chosen] * np.einsum("ij,ij->j", slopes, slopes)
    if chosen.size > max_points:
        kept = np.sort(np.argsort(strength, kind="stable")[-max_points:])
        chosen, slopes = chosen[kept], slopes[:, kept]
    index = np.stack(np.unravel_index(chosen, value.shape)).astype(np.float64)
    arm = affine[:3, :3] @ index + affine[:3, 3:] - centre[:, None]
    values = value.reshape(-1)[chosen].astype(np.float64)
    turns = np.cross(arm, slopes, axis=0)
    x, y, z = arm / GAIN_SCALE_MM
    gains = [values * term for term in (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)]
    bends = [] if along is None else [(along @ slopes) * place for place in arm]
    design = np.vstack([slopes, turns, values, np.ones_like(values), *gains, *bends])
    counts = weight.reshape(-1)[chosen].astype(np.float64)
    return Level(index, design, counts, affine, blocks, along)
