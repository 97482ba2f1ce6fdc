"""Boundary-based registration of an EPI: points on the white-matter surface, and its cost there.

References
----------
.. [1] Greve DN, Fischl B (2009). Accurate and robust brain image alignment using
   boundary-based registration. NeuroImage 48(1):63-72.
   doi:10.1016/j.neuroimage.2009.06.060
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.errors import InputError
from neuroferry.interfaces.image.affine import RIGID, STEPS, compose
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    crop_to,
    inverse,
    resample_isotropic,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

INNER_MM = 1.8
OUTER_MM = 1.5
# Slope of the cost in units of per cent contrast, as in the paper.
SLOPE = 0.5
# White and grey matter differ about five times as much in T2w images as in BOLD. With the slope
# above, nearly all edges of a T2w image would count fully anywhere near the surface, so that the
# cost would have a flat bottom: positions were half as accurate on phantoms.
T2W_SLOPE = 0.1
SURFACE_ZOOM_MM = 1.0
MIN_POINTS = 300
# A white-matter edge without contrast in the T1w image itself is a segmentation error.
T1W_CONTRAST = 0.06
SMALLEST_SIGNAL = 0.1
# Pairs of boundary points of the first pass.
COARSE_PAIRS = 3000


@dataclass(frozen=True)
class Boundary:
    """Pairs of points on either side of the white-matter surface.

    Attributes
    ----------
    inner, outer : ndarray of float64, shape (3, N)
        Inside and outside the white matter, RAS+ mm.
    slope : float
        Slope of the cost where an edge has no contrast, per per cent contrast.
    """

    inner: NDArray[np.float64]
    outer: NDArray[np.float64]
    slope: float = SLOPE

    @property
    def size(self) -> int:
        """Number of pairs."""
        return int(self.inner.shape[1])

    def thin(self, count: int) -> Boundary:
        """Keep about `count` evenly spaced pairs."""
        step = max(1, self.size // count)
        return self.part(slice(None, None, step))

    def part(self, chosen: NDArray[np.bool_] | slice) -> Boundary:
        """Choose some of the pairs."""
        return Boundary(self.inner[:, chosen], self.outer[:, chosen], self.slope)


def find_boundary(
    t1w: Volume,
    mask: NDArray[np.bool_],
    wm_prob: Volume,
    *,
    count: int = 12_000,
    slope: float = SLOPE,
) -> Boundary:
    """Place points on both sides of the surface where white-matter probability crosses 0.5.

    Parameters
    ----------
    t1w : Volume
        Bias-corrected T1w image.
    mask : ndarray of bool, shape (I, J, K)
        Brain mask.
    wm_prob : Volume
        Probability of white matter, on the same grid.
    count : int
        Approximate number of pairs to keep, evenly spaced.
    slope : float
        Slope of the cost.

    Returns
    -------
    Boundary

    Raises
    ------
    InputError
        If there is too little white matter.
    """
    from scipy import ndimage
    from skimage.measure import marching_cubes

    box, affine = crop_to(mask, t1w.affine, 4.0)
    inside = np.where(mask[box], wm_prob.data[box], 0).astype(np.float32)
    prob = resample_isotropic(Volume(inside, affine), SURFACE_ZOOM_MM)
    brain = resample_isotropic(Volume(mask[box].astype(np.float32), affine), SURFACE_ZOOM_MM)
    image = resample_isotropic(Volume(t1w.data[box], affine), SURFACE_ZOOM_MM)
    smooth = ndimage.gaussian_filter(prob.data, 0.7)
    if not smooth.min() < 0.5 < smooth.max():
        raise InputError(
            "The white-matter map has no boundary; check the segmentation of the T1w image."
        )
    vertices = marching_cubes(smooth, 0.5)[0].T.astype(np.float64)
    gradient = np.stack(
        [
            ndimage.map_coordinates(part, vertices, order=1, mode="nearest")
            for part in np.gradient(ndimage.gaussian_filter(prob.data, 1.0))
        ]
    )
    length = np.sqrt(np.sum(gradient**2, axis=0))
    clear = length > 0.05
    vertices, outward = vertices[:, clear], -gradient[:, clear] / length[clear]
    inner, outer = vertices - INNER_MM * outward, vertices + OUTER_MM * outward
    within, without = _sample(image.data, inner), _sample(image.data, outer)
    keep = within - without > T1W_CONTRAST * np.maximum(within, without)
    keep &= _sample(brain.data, outer) > 0.5
    if int(keep.sum()) < MIN_POINTS:
        raise InputError(
            "The white-matter surface is too small for registration; check the segmentation of"
            " the T1w image."
        )
    step = max(1, int(keep.sum()) // count)
    inner, outer = inner[:, keep][:, ::step], outer[:, keep][:, ::step]
    to_world = prob.affine
    return Boundary(
        to_world[:3, :3] @ inner + to_world[:3, 3:],
        to_world[:3, :3] @ outer + to_world[:3, 3:],
        slope,
    )


def _sample(data: FloatArray, index: NDArray[np.float64]) -> NDArray[np.float32]:
    """Interpolate an image linearly at voxel indices."""
    from scipy import ndimage

    values: NDArray[np.float32] = ndimage.map_coordinates(
        data, index, order=1, mode="constant", cval=0.0, output=np.float32
    )
    return values


def boundary_contrast(boundary: Boundary, epi: Volume, matrix: Affine) -> NDArray[np.float64]:
    """Compute the contrast across the boundary: outside minus inside, per cent of their mean.

    Parameters
    ----------
    boundary : Boundary
        Pairs of points in T1w space.
    epi : Volume
        Image with T2*-like contrast: grey matter brighter than white matter.
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (N,)
        NaN where a pair leaves the field of view or there is no signal.
    """
    full = inverse(epi.affine) @ matrix
    index = full[:3, :3] @ np.hstack([boundary.inner, boundary.outer]) + full[:3, 3:]
    values = _sample(epi.data, index).astype(np.float64)
    ends = np.array(epi.shape, dtype=np.float64)[:, None] - 1
    seen = np.all((index >= 0) & (index <= ends), axis=0)
    n = boundary.size
    inner, outer = values[:n], values[n:]
    middle = (inner + outer) / 2
    usable = seen[:n] & seen[n:] & (middle > 0)
    if usable.any():
        usable &= middle > SMALLEST_SIGNAL * np.median(middle[usable])
    contrast = np.full(n, np.nan)
    contrast[usable] = 100.0 * (outer[usable] - inner[usable]) / middle[usable]
    return contrast


def boundary_cost(contrast: NDArray[np.float64], slope: float = SLOPE) -> float:
    """Compute the boundary cost: 0 (every edge aligned) to 2 (every edge inverted).

    Pairs without contrast count as flat edges, so that leaving the field of view is not
    rewarded.

    >>> boundary_cost(np.array([np.nan]))
    1.0
    """
    return 1.0 - float(edge_gains(contrast, slope).sum()) / max(contrast.size, 1)


def edge_gains(contrast: NDArray[np.float64], slope: float = SLOPE) -> NDArray[np.float64]:
    """Compute what each pair takes off the boundary cost: -1 (inverted) to 1; 0 if unknown.

    >>> edge_gains(np.array([np.nan, 0.0, 99.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    gains: NDArray[np.float64] = np.nan_to_num(np.tanh(slope * contrast), nan=0.0)
    return gains


def follow_edges(
    boundary: Boundary, epi: Volume, start: Affine, centre: NDArray[np.float64]
) -> tuple[Affine, float]:
    """Bring the white-matter surface to the EPI's edges from up to a centimetre away.

    Parameters
    ----------
    boundary : Boundary
        Pairs of points in T1w space; about `COARSE_PAIRS` of them are used.
    epi : Volume
        Image with grey matter brighter than white matter, of even brightness.
    start : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm.
    centre : ndarray of float64, shape (3,)
        Centre of rotation in T1w space, RAS+ mm.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points.
    cost : float
        :func:`boundary_cost` there.
    """
    return _descend(boundary.thin(COARSE_PAIRS), epi, start, centre, scale=0.5, sweeps=8)


def polish(
    boundary: Boundary, epi: Volume, start: Affine, centre: NDArray[np.float64]
) -> tuple[Affine, float]:
    """Refine a registration whose edges lie on the surface; as :func:`follow_edges`."""
    return _descend(boundary, epi, start, centre, scale=0.1, sweeps=4)


def _descend(
    boundary: Boundary,
    epi: Volume,
    start: Affine,
    centre: NDArray[np.float64],
    *,
    scale: float,
    sweeps: int,
) -> tuple[Affine, float]:
    """Minimise the boundary cost by Powell's method."""
    from scipy.optimize import minimize

    steps = STEPS[:RIGID] * scale

    def cost_at(x: NDArray[np.float64]) -> float:
        here = start @ compose(x * steps, centre)
        return boundary_cost(boundary_contrast(boundary, epi, here), boundary.slope)

    found: Any = minimize(
        cost_at,
        np.zeros(RIGID),
        method="Powell",
        options={"xtol": 1e-2, "ftol": 1e-5, "maxiter": sweeps},
    )
    return start @ compose(found.x * steps, centre), float(found.fun)
