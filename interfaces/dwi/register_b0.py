"""Rigid registration of two images of a head with unrelated contrasts.

A mean diffusion-weighted image is dark where a b0 image is bright. Registration by similarity of
intensities is off by a millimetre or two. Here the b0 intensity is modelled as an unknown
function of the other intensity, with a spread that also depends on it: the conditional entropy of
one image given the other is minimised [1]_, as with mutual information, but by Gauss-Newton
steps. In each step the values of the function at its nodes are unknowns in addition to the six of
the motion, so that the function fits the head in its new position and does not hold it in the old
one [2]_; points are weighted by the inverse variance at their node.

In the final step fluid is excluded: at the surface of the brain it is bright in one image and as
dark as the skull in the other, and pulls the brain towards the skull by a millimetre or two (as
b0 volumes before and after a weighted volume show). Grey and white matter remain. With equal
weights (the correlation ratio) the steps diverge: fluid and skull are alike in one image and far
apart in the other, and their large differences dominate the fit.

References
----------
.. [1] Roche A, Malandain G, Ayache N (2000). Unifying maximum likelihood approaches in
   medical image registration. Int J Imaging Syst Technol 11(1):71-80.
   doi:10.1002/(SICI)1098-1098(2000)11:1<71::AID-IMA8>3.0.CO;2-5
.. [2] Golub G, Pereyra V (2003). Separable nonlinear least squares: the variable projection
   method and its applications. Inverse Problems 19(2):R1-R26. doi:10.1088/0266-5611/19/2/201
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.epi.realign import (
    COARSE_TOLERANCE_MM,
    FINE_TOLERANCE_MM,
    HEAD_RADIUS_MM,
    MIN_POINTS,
    rigid_step,
    sample,
    solve,
    tukey,
)
from neuroferry.interfaces.epi.realign_target import (
    Level,
    Target,
    block_affine,
    prepare_target,
    soften,
)
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, inverse

NODES = 24
MAX_STEPS = 40
POINTS = 60_000
# Lower limit of a node's variance, relative to the median one.
LEAST_VARIANCE = 0.05
# Fluid is brighter than this, relative to the median signal of the head.
BRIGHT = 1.35
RIM_MM = 4.0
APART_MM = 3.0
# Fluid pulls less than this; a refinement that moves the head farther has failed.
MOST_PULL_MM = 5.0
SMOOTH_VOXELS = 0.7
LEAST_TISSUE = 0.1


def tie_images(
    fixed: Volume, moving: Volume, mask: NDArray[np.bool_], start: Affine | None = None
) -> Affine:
    """Register two images of different contrast rigidly.

    Parameters
    ----------
    fixed : Volume
        Image whose intensity is predicted.
    moving : Volume
        Image that predicts it.
    mask : ndarray of bool, shape (I, J, K)
        Head in `fixed`.
    start : ndarray of float64, shape (4, 4), optional
        Initial transform; the identity by default.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Points of `fixed` to points of `moving`, RAS+ mm.
    """
    matrix = np.eye(4) if start is None else start
    target = prepare_target(fixed, mask.astype(np.float32), max_points=POINTS)
    *coarse, fine = target.levels
    for level in coarse:
        matrix = _tie_level(level, target, moving, matrix, COARSE_TOLERANCE_MM)
    matrix = _tie_level(fine, target, moving, matrix, COARSE_TOLERANCE_MM)
    tissue = solid_tissue(fixed, mask)
    if np.count_nonzero(tissue) < LEAST_TISSUE * np.count_nonzero(mask):
        return matrix
    target = prepare_target(fixed, tissue.astype(np.float32), max_points=POINTS)
    refined = _tie_level(target.levels[-1], target, moving, matrix, FINE_TOLERANCE_MM)
    return refined if _apart(matrix, refined, target.centre) < MOST_PULL_MM else matrix


def _apart(one: Affine, other: Affine, centre: NDArray[np.float64]) -> float:
    """Measure how far two motions differ over the head, mm."""
    difference = inverse(one) @ other - np.eye(4)
    shift = np.linalg.norm(difference[:3, :3] @ centre + difference[:3, 3])
    turn = np.linalg.norm(difference[:3, :3]) / np.sqrt(2)
    return float(np.hypot(shift, HEAD_RADIUS_MM * turn))


def solid_tissue(image: Volume, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find voxels that are neither fluid nor next to it, nor at the rim of the head.

    Parameters
    ----------
    image : Volume
        Image with bright fluid.
    mask : ndarray of bool, shape (I, J, K)
        Head.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(image.data, SMOOTH_VOXELS, mode="nearest")
    solid = smooth < BRIGHT * float(np.median(image.data[mask]))
    depth = ndimage.distance_transform_edt(mask, sampling=image.zooms)
    apart = ndimage.distance_transform_edt(solid, sampling=image.zooms)
    tissue: NDArray[np.bool_] = (depth > RIM_MM) & (apart > APART_MM)
    return tissue


def _tie_level(
    level: Level, target: Target, moving: Volume, start: Affine, tolerance: float
) -> Affine:
    """Run Gauss-Newton steps at one resolution."""
    data: FloatArray = soften(moving.data, level.blocks)
    to_voxels = inverse(block_affine(moving.affine, level.blocks))
    matrix, known = start, level.design[6]
    residuals: NDArray[np.float64] | None = None
    for _ in range(MAX_STEPS):
        values, inside = sample(data, to_voxels @ matrix @ level.affine, level.index)
        if np.count_nonzero(inside) < MIN_POINTS:
            return start
        weights = np.where(inside, level.weights, 0.0)
        basis = hats(values, inside)
        if residuals is not None:
            spread = conditional_spread(residuals, weights, basis)
            weights *= tukey(residuals / spread) * np.square(np.median(spread) / spread)
        # known = f(values) - slopes . step
        design = np.vstack([-level.design[:6], basis])
        solution = solve(design, weights, known)
        residuals = known - solution @ design
        step = solution[:6]
        matrix = matrix @ inverse(rigid_step(step, target.centre))
        moved = np.hypot(np.linalg.norm(step[:3]), HEAD_RADIUS_MM * np.linalg.norm(step[3:6]))
        if moved < tolerance:
            break
    return matrix


def conditional_spread(
    residuals: NDArray[np.float64], weights: NDArray[np.float64], basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Estimate the standard deviation of residuals at the intensity of each point, shape (N,)."""
    shares = basis * weights
    variance = (shares @ np.square(residuals)) / np.maximum(shares.sum(axis=1), 1e-9)
    each = variance @ basis
    spread: NDArray[np.float64] = np.sqrt(
        np.maximum(each, max(LEAST_VARIANCE * float(np.median(each)), 1e-12))
    )
    return spread


def hats(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Build a piecewise linear basis over intensities, with nodes at quantiles of the points.

    Parameters
    ----------
    values : ndarray of float64, shape (N,)
        Intensities.
    inside : ndarray of bool, shape (N,)
        Points that determine the quantiles.

    Returns
    -------
    ndarray of float64, shape (K, N)
        Sums to one at each point.
    """
    nodes = np.unique(np.quantile(values[inside], np.linspace(0.005, 0.995, NODES)))
    if nodes.size < 2:
        return np.ones((1, values.size))
    place = np.interp(values, nodes, np.arange(nodes.size))
    basis: NDArray[np.float64] = np.maximum(
        0.0, 1.0 - np.abs(place - np.arange(nodes.size)[:, None])
    )
    return basis
