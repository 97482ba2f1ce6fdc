"""Background of the head: masks of head, air, artefacts and empty frame, and QI1, QI2.

Air emits no signal, so intensities there are noise, and structure above the noise is
ghosting, spikes or leakage (Mortamet et al. 2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.qc.regions import MAD_TO_SIGMA, NAN

if TYPE_CHECKING:
    from numpy.typing import NDArray

GLABELLA = (0.0, 88.0, -15.0)
"""Glabella (between the eyebrows), mm in MNI152 space: above the eyes, which move."""

INION = (0.0, -118.0, -23.0)
"""Inion (at the back of the skull), mm in MNI152 space."""

_WORK_MM = 2.0  # masks are computed on voxels of about this size, to average out noise


def rotation_frame(image: NDArray[np.floating], *, min_voxels: int = 500) -> NDArray[np.bool_]:
    """Find the empty frame of voxels that were not acquired.

    Rotating, defacing or skull-stripping an image leaves a connected region of zeros that
    touches its border.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities as acquired.
    min_voxels : int
        Smaller regions are ignored.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from scipy import ndimage

    empty = np.pad(np.asarray(image) <= 0, 3, constant_values=True)
    # single zeros among noise are not a frame: only what a brush of 3 voxels can paint is
    empty = ndimage.binary_opening(empty, ndimage.generate_binary_structure(3, 2))
    labels, _ = ndimage.label(empty)
    frame: NDArray[np.bool_] = (labels == labels[1, 1, empty.shape[2] // 2])[3:-3, 3:-3, 3:-3]
    if frame.sum() < min_voxels:
        return np.zeros_like(frame)
    return frame


def _shrink_factors(spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    i, j, k = (max(1, round(_WORK_MM / size)) for size in spacing)
    return i, j, k


def _block_mean(image: NDArray[np.floating], factors: tuple[int, int, int]) -> NDArray[np.float32]:
    """Average blocks of voxels; the last block of an axis is padded with edge values."""
    pad = [(0, -size % f) for size, f in zip(image.shape, factors, strict=True)]
    x = np.pad(np.asarray(image, dtype=np.float32), pad, mode="edge")
    shape = [n for size, f in zip(x.shape, factors, strict=True) for n in (size // f, f)]
    return np.asarray(x.reshape(shape).mean(axis=(1, 3, 5)), dtype=np.float32)


def _expand(
    mask: NDArray[np.bool_], factors: tuple[int, int, int], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    for axis, factor in enumerate(factors):
        mask = np.repeat(mask, factor, axis=axis)
    return mask[tuple(slice(size) for size in shape)]


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labels == sizes.argmax()
    return largest


def _within(
    mask: NDArray[np.bool_], distance: float, sampling: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Find voxels within a distance in mm of a mask."""
    from scipy import ndimage

    if not mask.any():
        return mask
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask, sampling=sampling) <= distance
    return near


def _fill_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill cavities closed in 3-D or in any slice: sinuses, airways, ear canals."""
    from scipy import ndimage

    filled = np.array(ndimage.binary_fill_holes(mask))
    plane = ndimage.generate_binary_structure(2, 1)
    for axis in range(3):
        in_plane = np.expand_dims(plane, axis)
        filled |= ndimage.binary_fill_holes(filled, structure=in_plane)
    return filled


def _otsu(values: NDArray[np.floating], *, bins: int = 256) -> float:
    """Compute Otsu's threshold, which maximises the variance between the two classes."""
    counts, edges = np.histogram(values, bins=bins)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = mass[:-1] / below - (mass[-1] - mass[:-1]) / above
    between = np.nan_to_num(below * above * gap**2)
    return float(edges[1:-1][between.argmax()])


def head_mask(
    image: NDArray[np.floating],
    brain_mask: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> NDArray[np.bool_]:
    """Find the head: brain, skull, scalp, face and neck, with the air inside them.

    Blocks of about 2 mm are split into air and tissue by Otsu's threshold on the square
    root of the intensities, limited to 3% to 25% of the brain's median. The brain with a
    margin of 8 mm always belongs to the head (bone is as dark as air). Gaps of 6 mm are
    closed, cavities are filled in 3-D and in slices, specks are removed, and a margin of 2 mm
    (at least one voxel) is added, so that no partial volume of the skin is left outside.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities after bias correction.
    brain_mask : ndarray of bool, shape (I, J, K)
        The brain.
    spacing : tuple of float
        Voxel sizes in mm.

    Returns
    -------
    ndarray of bool, shape (I, J, K)

    References
    ----------
    Otsu 1979, IEEE Trans Syst Man Cybern 9(1):62-66, doi:10.1109/TSMC.1979.4310076.
    """
    factors = _shrink_factors(spacing)
    sampling = tuple(size * f for size, f in zip(spacing, factors, strict=True))
    x = np.clip(_block_mean(image, factors), 0, None)
    brain = _block_mean(brain_mask.astype(np.float32), factors) >= 0.5
    brain_level = float(np.median(x[brain])) if brain.any() else float(np.percentile(x, 95))

    # above half of the brain's level everything is tissue: clipping keeps fat from pulling
    root = np.sqrt(np.minimum(x, 0.5 * brain_level))
    threshold = float(np.clip(_otsu(root) ** 2, 0.03 * brain_level, 0.25 * brain_level))

    head = (x > threshold) | _within(brain, 8.0, sampling)
    head = _fill_slices(~_within(~_within(head, 6.0, sampling), 6.0, sampling))  # closing
    # opening comes after filling; otherwise it would remove scalp that bone separates
    head = _within(~_within(~head, 4.0, sampling), 4.0, sampling) | brain
    head = _fill_slices(_largest(head))
    return _expand(_within(head, max(2.0, *sampling), sampling), factors, image.shape)


def above_plane(shape: tuple[int, ...], to_template: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Find voxels above the plane through glabella and inion.

    Below it, eyes, mouth and neck move and leak signal into the air around them.

    Parameters
    ----------
    shape : tuple of int
        Shape (I, J, K) of the image.
    to_template : ndarray of float, shape (4, 4)
        Affine from voxel indices to mm in MNI152 space.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    front, back = np.array(GLABELLA), np.array(INION)
    normal = np.cross(np.array([1.0, 0.0, 0.0]), front - back)
    matrix = np.asarray(to_template, dtype=np.float64)
    weights = normal @ matrix[:3, :3]
    offset = float(normal @ (matrix[:3, 3] - front))
    grids = [w * np.arange(size) for w, size in zip(weights, shape, strict=True)]
    in_plane = grids[0][:, None, None] + grids[1][None, :, None]
    return np.asarray(in_plane > -offset - grids[2])


def artifact_mask(
    image: NDArray[np.floating],
    hat: NDArray[np.bool_],
    head: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    *,
    zscore: float = 10.0,
) -> NDArray[np.bool_]:
    """Find connected voxels of the air above the noise.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities as acquired.
    hat : ndarray of bool, shape (I, J, K)
        Air above the plane of the face.
    head : ndarray of bool, shape (I, J, K)
        The head. Air closer to it than a tenth of the largest distance is excluded, because
        the skin blurs into it.
    spacing : tuple of float
        Voxel sizes in mm.
    zscore : float
        Threshold, in scaled median absolute deviations above the median of the positive air
        voxels; isolated voxels are removed by an opening.

    Returns
    -------
    ndarray of bool, shape (I, J, K)

    References
    ----------
    Mortamet et al. 2009, Magn Reson Med 62(2):365-372, doi:10.1002/mrm.21992.
    """
    from scipy import ndimage

    noise = image[hat & (image > 0)]
    nothing = np.zeros(image.shape, dtype=bool)
    if noise.size < 100:
        return nothing
    location = float(np.median(noise))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(noise - location)))
    outstanding = hat & (image > location + zscore * spread)
    if spread <= 0 or not outstanding.any():
        return nothing

    factors = _shrink_factors(spacing)
    sampling = tuple(size * f for size, f in zip(spacing, factors, strict=True))
    low_head = _block_mean(head.astype(np.float32), factors) >= 0.5
    low_hat = _block_mean(hat.astype(np.float32), factors) >= 0.5
    distance = ndimage.distance_transform_edt(~low_head, sampling=sampling)
    farthest = float(distance[low_hat].max(initial=0.0))
    outstanding &= _expand(distance >= 0.1 * farthest, factors, image.shape)
    opened: NDArray[np.bool_] = ndimage.binary_opening(
        outstanding, ndimage.generate_binary_structure(3, 1)
    )
    return opened


def qi_1(artifacts: NDArray[np.bool_], air: NDArray[np.bool_], *, min_voxels: int = 1000) -> float:
    """Compute the fraction of the air above the face affected by artefacts.

    Parameters
    ----------
    artifacts, air : ndarray of bool, shape (I, J, K)
        Artefacts in the air, and the air without them.
    min_voxels : int
        Smallest amount of air that can be measured.

    Returns
    -------
    float
        0 to 1, or ``nan`` with too little air.

    References
    ----------
    Mortamet et al. 2009, Magn Reson Med 62(2):365-372, doi:10.1002/mrm.21992.
    """
    spoilt, clean = int(artifacts.sum()), int(air.sum())
    if spoilt + clean < min_voxels:
        return NAN
    return spoilt / (spoilt + clean)


def _spread_ties(values: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """Draw equally probable quantiles; integer values are spread over their bin."""
    distinct, ties = np.unique(values.astype(np.float64), return_counts=True)
    middles = 0.5 * (distinct[:-1] + distinct[1:])
    first, last = 2 * distinct[0] - middles[0], 2 * distinct[-1] - middles[-1]
    edges = np.concatenate([[first], middles, [last]])
    cumulative = np.concatenate([[0.0], np.cumsum(ties) / values.size])
    return np.asarray(np.interp((np.arange(count) + 0.5) / count, cumulative, edges))


def qi_2(
    image: NDArray[np.floating],
    hat: NDArray[np.bool_],
    *,
    min_voxels: int = 1000,
    samples: int = 20_000,
) -> float:
    r"""Compute the deviation of the bright side of the noise from a chi-squared distribution.

    A chi-squared distribution with free degrees of freedom, location and scale is fitted
    by maximum likelihood to the positive air voxels. The metric is the mean absolute
    difference between its density and that of the noise, both smoothed with a Gaussian
    kernel whose bandwidth is 5% of the 98th percentile, from where the noise falls to
    half of its peak up to the 99th percentile. Densities are per unit of intensity:
    doubling the intensities halves the metric.

    The fit differs from MRIQC's, which excludes the brightest 5% without accounting for it and
    does not smooth the model: there, pure noise scores worse than noise with a faint ghost.
    The values are not comparable.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities as acquired.
    hat : ndarray of bool, shape (I, J, K)
        Air above the plane of the face.
    min_voxels : int
        Minimum number of positive air voxels for a fit.
    samples : int
        Number of quantiles of the noise used in the fit (not a random sample).

    Returns
    -------
    float
        ``nan`` with too few voxels or values.

    References
    ----------
    Mortamet et al. 2009, Magn Reson Med 62(2):365-372, doi:10.1002/mrm.21992.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.stats import chi2

    air = image[hat & (image > 0)]
    if air.size < min_voxels or np.unique(air).size < 3:
        return NAN
    noise = _spread_ties(air, samples)
    p98, p99 = np.percentile(noise, (98, 99))
    counts, edges = np.histogram(noise, bins=4096, range=(0.0, 2.0 * p99))
    width, centres = edges[1] - edges[0], 0.5 * (edges[:-1] + edges[1:])
    df, location, scale = chi2.fit(noise, 32)
    model = chi2.pdf(centres, df, loc=location, scale=scale)
    observed, expected = (
        gaussian_filter1d(density, 0.05 * p98 / width, mode="constant", truncate=6.0)
        for density in (counts / (samples * width), model)
    )
    start = int(np.flatnonzero(observed > 0.5 * observed.max())[-1])
    tail = slice(start, int(np.searchsorted(centres, p99)))
    return float(np.abs(observed[tail] - expected[tail]).mean())
