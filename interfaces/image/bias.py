"""N4 correction of intensity non-uniformity (INU).

The observed image is the true one times a smooth field. N4 iteratively sharpens the
histogram of the log image and fits a B-spline to the change, on ever finer meshes [1]_.
Voxels lie on a grid, so the fit of [2]_ separates into one small matrix for each axis: it
takes seconds where a scattered-data fit takes minutes, and one thread, so that results are
reproducible.

The scale of the field is undetermined; here its geometric mean over the mask is one, so that
intensities keep their scale and images can be compared.

References
----------
.. [1] Tustison NJ et al. (2010). N4ITK: improved N3 bias correction. IEEE Trans Med
   Imaging 29(6):1310-1320. doi:10.1109/TMI.2010.2046908
.. [2] Lee S, Wolberg G, Shin SY (1997). Scattered data interpolation with multilevel
   B-splines. IEEE Trans Vis Comput Graph 3(3):228-244. doi:10.1109/2945.620490
.. [3] Sled JG, Zijdenbos AP, Evans AC (1998). A nonparametric method for automatic
   correction of intensity nonuniformity in MRI data. IEEE Trans Med Imaging
   17(1):87-97. doi:10.1109/42.668698
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.images import (
    Volume,
    crop_to,
    load_mask,
    load_volume,
    resample_to,
    save_volume,
    smooth_for,
    world_grid,
)

HISTOGRAM_BINS = 200
MIN_MASK_VOXELS = 100
FloatField = NDArray[np.float32]
Basis = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class N4Settings:
    """Settings of N4.

    Attributes
    ----------
    zoom : float
        Voxel size at which the field is estimated, mm.
    iterations : tuple of int
        Maximum iterations at each level; knot spacing halves from level to level.
    tolerance : float
        A level ends when the coefficient of variation of the field's change falls below this.
    spline_mm : float
        Knot spacing at the first level, mm.
    fwhm : float
        Full width at half maximum of the blur of the log histogram by the field.
    noise : float
        Noise of the Wiener filter that sharpens the histogram.
    """

    zoom: float = 2.0
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    tolerance: float = 1e-5
    spline_mm: float = 200.0
    fwhm: float = 0.15
    noise: float = 0.01


SLOPPY_N4 = N4Settings(zoom=5.0, iterations=(30, 30, 20), tolerance=1e-4)
HEAD_N4 = N4Settings(zoom=4.0, iterations=(50, 40, 30), tolerance=1e-5)


def foreground(data: FloatField) -> NDArray[np.bool_]:
    """Separate the head from air at half of Otsu's threshold of the positive voxels.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Intensities.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from skimage.filters import threshold_otsu

    positive = data[data > 0]
    if positive.size == 0 or positive.min() == positive.max():
        return data > 0
    ceiling = float(np.percentile(positive, 99.5))
    mask: NDArray[np.bool_] = data > 0.5 * threshold_otsu(np.minimum(positive, ceiling))
    return mask


def bspline_basis(count: int, spans: int) -> NDArray[np.float64]:
    """Compute cubic B-spline weights of evenly spaced points on a line.

    Parameters
    ----------
    count : int
        Number of points, spread over the line.
    spans : int
        Number of knot intervals.

    Returns
    -------
    ndarray of float64, shape (count, spans + 3)
        Rows sum to one.

    Examples
    --------
    >>> bspline_basis(5, 2).sum(axis=1).round(9).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    position = np.linspace(0, spans, count) if count > 1 else np.array([spans / 2])
    first = np.minimum(position.astype(int), spans - 1)
    t = position - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    basis = np.zeros((count, spans + 3))
    for offset in range(4):
        basis[np.arange(count), first + offset] = weights[:, offset] / 6
    return basis


def contract(
    values: NDArray[np.float64], matrices: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Multiply each axis of a volume by a matrix: ``out[a,b,c] = M0[i,a] M1[j,b] M2[k,c] v``."""
    product = values
    for matrix in matrices:
        product = np.asarray(np.tensordot(product, matrix, axes=(0, 0)), dtype=np.float64)
    return product


def fit_bspline(
    values: NDArray[np.float64], weights: NDArray[np.float64], basis: Basis
) -> NDArray[np.float64]:
    """Fit a tensor product of cubic B-splines to a weighted volume.

    Parameters
    ----------
    values, weights : ndarray of float64, shape (I, J, K)
        Data and their confidence (0: no data).
    basis : tuple of ndarray
        :func:`bspline_basis` of each axis.

    Returns
    -------
    ndarray of float64, shape (A, B, C)
        Control points: eq. 5 of Lee et al., summed one axis at a time.
    """
    return _fit(values, weights, basis, _spread(weights, basis))


def _spread(
    weights: NDArray[np.float64], basis: Basis
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the parts of a fit that do not depend on the values."""
    squares = [np.asarray(np.sum(b**2, axis=1), dtype=np.float64) for b in basis]
    scale = squares[0][:, None, None] * squares[1][None, :, None] * squares[2][None, None, :]
    return scale, contract(weights, [b**2 for b in basis])


def _fit(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    basis: Basis,
    spread: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    scale, below = spread
    above = contract(values * weights / scale, [b**3 for b in basis])
    fitted: NDArray[np.float64] = np.divide(
        above, below, out=np.zeros_like(above), where=below > 1e-12
    )
    return fitted


def sharpen(
    log_values: NDArray[np.float64], weights: NDArray[np.float64], settings: N4Settings
) -> NDArray[np.float64]:
    """Estimate each log intensity as it was before the field blurred the histogram.

    Parameters
    ----------
    log_values, weights : ndarray of float64, shape (N,)
        Log intensities and their confidence.
    settings : N4Settings
        Width of the blur and noise of the Wiener filter.

    Returns
    -------
    ndarray of float64, shape (N,)
        Eqs. 8-11 of Sled et al.
    """
    low, high = float(log_values.min()), float(log_values.max())
    slope = (high - low) / (HISTOGRAM_BINS - 1)
    if slope <= 0:
        return log_values
    position = (log_values - low) / slope
    lower = np.minimum(position.astype(int), HISTOGRAM_BINS - 2)
    part = position - lower
    counts = np.bincount(lower, weights * (1 - part), HISTOGRAM_BINS)
    counts += np.bincount(lower + 1, weights * part, HISTOGRAM_BINS)
    padded = 4 * int(2 ** np.ceil(np.log2(HISTOGRAM_BINS)))
    offset = (padded - HISTOGRAM_BINS) // 2
    histogram = np.zeros(padded)
    histogram[offset : offset + HISTOGRAM_BINS] = counts
    distance = np.minimum(np.arange(padded), padded - np.arange(padded)) * slope
    blur = np.exp(-4 * np.log(2) * (distance / settings.fwhm) ** 2)
    blur_ft = np.fft.fft(blur / blur.sum())
    wiener = np.conj(blur_ft) / (np.abs(blur_ft) ** 2 + settings.noise)
    true = np.maximum(np.fft.ifft(np.fft.fft(histogram) * wiener).real, 0)
    centres = low + (np.arange(padded) - offset) * slope
    above = np.fft.ifft(np.fft.fft(centres * true) * blur_ft).real
    below = np.fft.ifft(np.fft.fft(true) * blur_ft).real
    expected: NDArray[np.float64] = np.divide(
        above, below, out=centres.copy(), where=below > 1e-9 * below.max()
    )
    expected = expected[offset : offset + HISTOGRAM_BINS]
    sharpened: NDArray[np.float64] = expected[lower] * (1 - part) + expected[lower + 1] * part
    return sharpened


def _n4_control_points(
    log_image: NDArray[np.float64],
    weights: NDArray[np.float64],
    zoom: float,
    settings: N4Settings,
) -> list[NDArray[np.float64]]:
    """Run N4 on a coarse log image; return the control points of each level.

    The knots belong to the whole image, but nothing is computed outside the box of the weights.
    """
    whole = log_image.shape
    box, _ = crop_to(weights > 0, np.eye(4), 0.0)
    log_image, weights = log_image[box], weights[box]
    inside = weights > 0
    levels: list[NDArray[np.float64]] = []
    field = np.zeros(log_image.shape)
    for level, most in enumerate(settings.iterations):
        spacing = settings.spline_mm / 2**level
        spans = [max(1, round((n - 1) * zoom / spacing)) for n in whole]
        x, y, z = (full[part] for full, part in zip(_basis(whole, spans), box, strict=True))
        basis = (x, y, z)
        spread = _spread(weights, basis)
        transposed = [b.T for b in basis]
        lattice = np.zeros([n + 3 for n in spans])
        for _ in range(most):
            corrected = log_image[inside] - field[inside]
            residual = np.zeros(log_image.shape)
            residual[inside] = corrected - sharpen(corrected, weights[inside], settings)
            step = _fit(residual, weights, basis, spread)
            change = contract(step, transposed)
            change -= np.average(change[inside], weights=weights[inside])
            lattice += step
            field += change
            ratio = np.exp(change[inside])
            if ratio.std() / ratio.mean() < settings.tolerance:
                break
        levels.append(lattice)
    return levels


def _basis(shape: Sequence[int], spans: Sequence[int]) -> Basis:
    """Compute the B-spline weights of the three axes."""
    a, b, c = (bspline_basis(n, s) for n, s in zip(shape, spans, strict=True))
    return a, b, c


def estimate_bias(
    volume: Volume,
    mask: NDArray[np.bool_],
    settings: N4Settings,
    *,
    weights: FloatField | None = None,
) -> FloatField:
    """Estimate the multiplicative field of an image with N4.

    N4 runs on a grid of ``settings.zoom`` mm along the image's axes, which is much finer than
    the knot spacing of the field. Outside the mask the field is extended smoothly from the
    nearest voxels inside instead of by extrapolation of the spline.

    Parameters
    ----------
    volume : Volume
        Non-negative image.
    mask : ndarray of bool, shape (I, J, K)
        Region in which the field is estimated.
    settings : N4Settings
        Resolution and iterations.
    weights : ndarray of float32, shape (I, J, K), optional
        Confidence of each voxel, 0 to 1.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Field; its geometric mean inside the mask is one.

    Raises
    ------
    InputError
        If hardly any voxel of the mask is positive.
    """
    from threadpoolctl import threadpool_limits

    shape, affine = world_grid(volume.affine, volume.data.shape, settings.zoom)
    positive = volume.with_data(np.maximum(volume.data, 0))
    smooth = smooth_for(positive.data, volume.zooms, settings.zoom)
    coarse = resample_to(positive.with_data(smooth), shape, affine).data
    confidence = mask.astype(np.float32) if weights is None else np.where(mask, weights, 0)
    low = resample_to(volume.with_data(confidence.astype(np.float32)), shape, affine).data
    inside = (low > (0.5 if weights is None else 0.05)) & (coarse > 0)
    if inside.sum() < MIN_MASK_VOXELS:
        raise InputError(
            "Hardly any voxel inside the mask is positive, so INU cannot be corrected; check "
            "the image and its mask."
        )
    log_image = np.zeros(shape)
    log_image[inside] = np.log(coarse[inside])
    used = np.where(inside, low.astype(np.float64), 0.0)
    log_field = np.zeros(shape)
    # Sums over several BLAS threads are not reproducible to the last bit.
    with threadpool_limits(1, "blas"):
        for lattice in _n4_control_points(log_image, used, settings.zoom, settings):
            spans = [n - 3 for n in lattice.shape]
            log_field += contract(lattice, [b.T for b in _basis(shape, spans)])
    carried = Volume(_extend(log_field, inside, settings.zoom), affine)
    full = _on_grid_of(carried, volume)
    full -= np.float32(full[mask].mean(dtype=np.float64))
    np.exp(full, out=full)
    return full


def _extend(log_field: NDArray[np.float64], inside: NDArray[np.bool_], zoom: float) -> FloatField:
    """Extend a field beyond its mask: the nearest value inside, blurred by 8 mm."""
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    carried = log_field[tuple(nearest)]
    blurred = ndimage.gaussian_filter(carried, 8.0 / zoom, mode="nearest")
    return np.where(inside, log_field, blurred).astype(np.float32)


def _on_grid_of(field: Volume, volume: Volume) -> FloatField:
    """Interpolate a smooth field onto the grid of an image, constant beyond its edges."""
    from scipy import ndimage

    matrix = np.linalg.inv(field.affine) @ volume.affine
    full: FloatField = ndimage.affine_transform(
        field.data,
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=volume.data.shape,
        order=1,
        mode="nearest",
        output=np.float32,
    )
    return full


class _CorrectBiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w image")
    in_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")


class _CorrectBiasOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="image divided by the field, float32")
    out_brain = File(exists=True, desc="corrected image, zero outside the mask")
    bias_field = File(exists=True, desc="multiplicative field, geometric mean one in the mask")


class CorrectBias(SimpleInterface):
    """Image divided by the INU field estimated inside a brain mask."""

    input_spec = _CorrectBiasInputSpec
    output_spec = _CorrectBiasOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, volume, "brain mask")
        field = estimate_bias(volume, mask, SLOPPY_N4 if self.inputs.sloppy else N4Settings())
        corrected = volume.with_data(volume.data / field)
        brain = volume.with_data(np.where(mask, corrected.data, 0).astype(np.float32))
        out = Path(runtime.cwd)
        self._results["bias_field"] = save_volume(volume.with_data(field), out / "bias.nii.gz")
        self._results["out_file"] = save_volume(corrected, out / "preproc.nii.gz")
        self._results["out_brain"] = save_volume(brain, out / "brain.nii.gz")
        return runtime
