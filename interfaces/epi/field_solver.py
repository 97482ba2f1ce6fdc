"""Smooth field that explains a set of EPIs, estimated by Gauss-Newton from coarse to fine.

The field ``f`` (voxels of shift for a unit factor, along one axis) unwarps each EPI ``n`` with
factor ``k_n`` to ``I_n(x + k_n f(x)) (1 + k_n f'(x))``. Two EPIs of opposite polarity must
agree. The squared gradient of the field is added as regularisation.

References
----------
.. [1] Andersson JLR, Skare S, Ashburner J (2003). How to correct susceptibility distortions
   in spin-echo echo-planar images: application to diffusion tensor imaging. NeuroImage
   20(2):870-888. doi:10.1016/S1053-8119(03)00336-7
.. [2] Holland D, Kuperman JM, Dale AM (2010). Efficient correction of inhomogeneous static
   magnetic field-induced distortion in echo planar imaging. NeuroImage 50(1):175-183.
   doi:10.1016/j.neuroimage.2009.11.044
.. [3] Ruthotto L et al. (2012). Diffeomorphic susceptibility artifact correction of
   diffusion-weighted magnetic resonance images. Phys Med Biol 57(18):5715-5731.
   doi:10.1088/0031-9155/57/18/5715
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.images import FWHM_PER_SIGMA, FloatArray

CG_STEPS = 40
CG_TOLERANCE = 1e-3
# No line may fold: lower bound of the factor 1 + k f'.
LEAST_STRETCH = 0.15
LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class Level:
    """One resolution level of the optimisation.

    Attributes
    ----------
    blur_mm : float
        Full width at half maximum to which the images are blurred.
    smoothness : float
        Weight of the field's squared gradient (voxels of shift per voxel) against the squared
        difference of the images, whose intensities are about one.
    iterations : int
        Maximum number of Gauss-Newton steps.
    """

    blur_mm: float
    smoothness: float
    iterations: int


PAIR_LEVELS = (
    Level(16.0, 0.05, 8),
    Level(10.0, 0.02, 8),
    Level(6.0, 0.01, 8),
    Level(3.0, 0.005, 10),
)


@dataclass(frozen=True)
class Modulated:
    """EPI unwarped by a field, and its derivatives.

    Attributes
    ----------
    image : ndarray of float64, shape (I, J, K)
        The unwarped EPI.
    by_value, by_slope : ndarray of float64, shape (I, J, K)
        Derivatives with respect to the field and to its slope along the axis.
    """

    image: NDArray[np.float64]
    by_value: NDArray[np.float64]
    by_slope: NDArray[np.float64]


def slope_along(field: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Compute central differences along an axis, one-sided at the ends."""
    result: NDArray[np.float64] = np.gradient(field, axis=axis)
    return result


def slope_transposed(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Apply the transpose of :func:`slope_along`.

    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 3, 7, 2))
    >>> one = np.sum(slope_along(a, 1) * b)
    >>> bool(np.isclose(one, np.sum(a * slope_transposed(b, 1))))
    True
    """
    v = np.moveaxis(values, axis, 0)
    out = np.zeros_like(v)
    out[2:] += 0.5 * v[1:-1]
    out[:-2] -= 0.5 * v[1:-1]
    out[1] += v[0]
    out[0] -= v[0]
    out[-1] += v[-1]
    out[-2] -= v[-1]
    return np.moveaxis(out, 0, axis)


def roughness(field: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the negative discrete Laplacian with free boundaries.

    Parameters
    ----------
    field : ndarray of float64, shape (I, J, K)
        Field.
    weights : ndarray of float64, shape (3,)
        Weight of each axis.

    Returns
    -------
    ndarray of float64, shape (I, J, K)
        Half of the gradient of the weighted sum of squared differences.
    """
    out = np.zeros_like(field)
    for axis in range(3):
        step = weights[axis] * np.diff(field, axis=axis)
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        out[tuple(low)] -= step
        out[tuple(high)] += step
    return out


def modulate(
    coefficients: FloatArray, gradient: FloatArray, field: NDArray[np.float64], k: float, axis: int
) -> Modulated:
    """Unwarp an EPI by a field and differentiate the result with respect to the field.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (I, J, K)
        The EPI, blurred enough for linear interpolation.
    gradient : ndarray of float32, shape (I, J, K)
        Its slope along the axis.
    field : ndarray of float64, shape (I, J, K)
        Field.
    k : float
        Voxels of shift for a unit of the field.
    axis : int
        Phase-encoding axis.

    Returns
    -------
    Modulated
    """
    from scipy import ndimage

    index = np.indices(field.shape, dtype=np.float64)
    index[axis] += k * field
    image, slope = (
        ndimage.map_coordinates(part, index, order=1, mode="nearest", output=np.float64)
        for part in (coefficients, gradient)
    )
    stretch = np.maximum(1.0 + k * slope_along(field, axis), LEAST_STRETCH)
    return Modulated(image * stretch, k * slope * stretch, k * image)


def conjugate_gradients(
    apply: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    right: NDArray[np.float64],
    diagonal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve a symmetric positive definite system, preconditioned by its diagonal.

    Parameters
    ----------
    apply : callable
        The matrix.
    right : ndarray of float64
        Right-hand side.
    diagonal : ndarray of float64
        Diagonal of the matrix, exact or approximate; positive.

    Returns
    -------
    ndarray of float64
    """
    x = np.zeros_like(right)
    residual = right.copy()
    z = residual / diagonal
    way = z.copy()
    energy = float(np.vdot(residual, z))
    target = CG_TOLERANCE**2 * energy
    for _ in range(CG_STEPS):
        if energy <= target or energy == 0:
            break
        turned = apply(way)
        step = energy / float(np.vdot(way, turned))
        x += step * way
        residual -= step * turned
        z = residual / diagonal
        before, energy = energy, float(np.vdot(residual, z))
        way = z + (energy / before) * way
    return x


def solve_field(
    images: Sequence[FloatArray],
    factors: Sequence[float],
    axis: int,
    zooms: NDArray[np.float64],
    *,
    levels: Sequence[Level] = PAIR_LEVELS,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Estimate the field under which two EPIs agree.

    Parameters
    ----------
    images : sequence of ndarray of float32, shape (I, J, K)
        Two EPIs; brain intensities about one.
    factors : sequence of float
        Signed shift of each in voxels for a unit of the field.
    axis : int
        Phase-encoding axis.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes, mm.
    levels : sequence of Level
        From coarse to fine.
    start : ndarray of float64, shape (I, J, K), optional
        Initial field; zero by default.

    Returns
    -------
    ndarray of float64, shape (I, J, K)
        Field.
    """
    from scipy import ndimage

    shape = images[0].shape
    field = np.zeros(shape) if start is None else np.array(start, dtype=np.float64)
    axes_weights = (float(zooms[axis]) / zooms) ** 2
    for level in levels:
        sigma = level.blur_mm / FWHM_PER_SIGMA / zooms
        blurred = [ndimage.gaussian_filter(image, sigma, truncate=3.0) for image in images]
        slopes = [np.gradient(image, axis=axis) for image in blurred]
        smooth = axes_weights * level.smoothness
        field = _descend(blurred, slopes, factors, axis, smooth, field, level.iterations)
    return field


def _descend(
    images: Sequence[FloatArray],
    slopes: Sequence[FloatArray],
    factors: Sequence[float],
    axis: int,
    smooth: NDArray[np.float64],
    field: NDArray[np.float64],
    iterations: int,
) -> NDArray[np.float64]:
    """Take the Gauss-Newton steps of one level, each halved until the cost falls."""

    def look(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], list[Modulated]]:
        parts = [
            modulate(image, slope, at, k, axis)
            for image, slope, k in zip(images, slopes, factors, strict=True)
        ]
        residual = parts[0].image - parts[1].image
        cost = float(np.vdot(residual, residual)) + float(np.vdot(at, roughness(at, smooth)))
        return cost, residual, parts

    cost, residual, parts = look(field)
    for _ in range(iterations):
        step = _gauss_newton_step(residual, parts, axis, smooth, field)
        scale = 1.0
        while scale > 0.05:
            tried = look(field + scale * step)
            if tried[0] < cost:
                break
            scale /= 2
        else:
            break
        field = field + scale * step
        gain = (cost - tried[0]) / cost
        cost, residual, parts = tried
        if gain < LEAST_GAIN:
            break
    return field


def _gauss_newton_step(
    residual: NDArray[np.float64],
    parts: Sequence[Modulated],
    axis: int,
    smooth: NDArray[np.float64],
    field: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve the normal equations at the current field."""
    by_value = parts[0].by_value - parts[1].by_value
    by_slope = parts[0].by_slope - parts[1].by_slope

    def forward(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return by_value * v + by_slope * slope_along(v, axis)

    def backward(r: NDArray[np.float64]) -> NDArray[np.float64]:
        return by_value * r + slope_transposed(by_slope * r, axis)

    def matrix(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return backward(forward(v)) + roughness(v, smooth)

    right = -(backward(residual) + roughness(field, smooth))
    spread = by_slope**2
    diagonal = by_value**2 + 0.25 * (
        np.roll(spread, 1, axis=axis) + np.roll(spread, -1, axis=axis)
    )
    return conjugate_gradients(matrix, right, diagonal + 2.0 * float(smooth.sum()) + 1e-9)
