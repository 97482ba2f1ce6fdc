"""Spatial metrics of a BOLD series, of its mean after realignment: ghosts, signal, background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.qc import regions
from neuroferry.interfaces.qc import whole_image as whole
from neuroferry.interfaces.qc.regions import NAN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroferry.interfaces.image.images import FloatArray


def ghost_to_signal(image: NDArray[np.floating], brain: NDArray[np.bool_], axis: int) -> float:
    r"""Compute the ghost-to-signal ratio along an axis.

    .. math:: \mathrm{GSR} = \frac{\bar x_G - \bar x_N}{\mathrm{median}_S\, x}

    A Nyquist ghost is the head shifted by half the field of view along the phase-encoding axis:
    :math:`G` are the voxels of the brain mask so shifted that lie outside the mask :math:`S`, and
    :math:`N` are all other voxels.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Mean of the series.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask.
    axis : int
        Axis of the array.

    Returns
    -------
    float
        Near 0 without a ghost; ``nan`` if a region is empty or the brain has no signal.

    References
    ----------
    Giannelli et al. 2010, J Appl Clin Med Phys 11(4):3237, doi:10.1120/jacmp.v11i4.3237.
    """
    ghost = np.roll(brain, brain.shape[axis] // 2, axis=axis) & ~brain
    other = ~ghost & ~brain
    if not (brain.any() and ghost.any() and other.any()):
        return NAN
    signal = float(np.median(image[brain]))
    if not signal > 0:
        return NAN
    excess = image[ghost].mean(dtype=np.float64) - image[other].mean(dtype=np.float64)
    return float(excess) / signal


def space_metrics(
    image: FloatArray, brain: NDArray[np.bool_], spacing: tuple[float, ...]
) -> dict[str, float]:
    """Compute the metrics of the mean image.

    Parameters
    ----------
    image : ndarray of float32, shape (I, J, K)
        Mean of the realigned series, RAS+ axes; negative values are set to zero.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask: the foreground. Everything else is background.
    spacing : tuple of float
        Voxel sizes, mm.

    Returns
    -------
    dict of str to float
        ``efc``, ``fber``, ``fwhm_*``, ``gsr_*``, ``snr``, ``summary_*``, ``size_*`` and
        ``spacing_*`` of the three axes.
    """
    image = np.maximum(image, 0)
    inside = regions.summarize_region(image, brain)
    outside = regions.summarize_region(image, ~brain)
    widths = whole.fwhm(image, brain)
    values: dict[str, float] = {
        "efc": whole.efc(image),
        "fber": whole.fber(image, brain, ~brain),
        "snr": regions.snr(inside.median, inside.stdv, inside.n),
        "gsr_x": ghost_to_signal(image, brain, 0),
        "gsr_y": ghost_to_signal(image, brain, 1),
        "fwhm_avg": sum(widths) / 3.0,
        **inside.as_metrics("fg"),
        **outside.as_metrics("bg"),
    }
    for axis, size, step, width in zip("xyz", image.shape, spacing, widths, strict=True):
        values[f"fwhm_{axis}"] = width
        values[f"size_{axis}"] = size
        values[f"spacing_{axis}"] = float(step)
    return values


def slice_spikes(outside: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standardise the mean signal of each slice outside the head over time.

    A slice in which a radio-frequency spike fell, or from which signal leaks, stands out from the
    other volumes of that slice, whatever the brain does.

    Parameters
    ----------
    outside : ndarray of float, shape (T, K)
        Mean of the background of each slice, before realignment.

    Returns
    -------
    ndarray of float64, shape (T, K)
        Distance from the median over time in robust standard deviations (scaled median absolute
        deviation); 0 in slices that do not vary.

    Examples
    --------
    >>> slice_spikes(np.array([[1.0], [3.0], [1.0], [3.0], [2.0], [40.0]])).round(1)[-1].tolist()
    [25.3]
    """
    values = np.asarray(outside, dtype=np.float64)
    if not values.size:
        return values
    away = values - np.median(values, axis=0)
    spread = regions.MAD_TO_SIGMA * np.median(np.abs(away), axis=0)
    return np.asarray(np.divide(away, spread, out=np.zeros_like(away), where=spread > 0))
