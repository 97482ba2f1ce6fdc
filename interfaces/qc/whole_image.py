"""Metrics of a whole image, its bias field, its smoothness and its tissue maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.qc.regions import NAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SIGMA_TO_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Ratio of full width at half maximum to standard deviation of a Gaussian."""


def efc(image: NDArray[np.floating], frame: NDArray[np.bool_] | None = None) -> float:
    r"""Compute the entropy focus criterion: how evenly energy is spread over the voxels.

    .. math::

        E = -\sum_j \frac{x_j}{x_\mathrm{max}} \ln \frac{x_j}{x_\mathrm{max}},
        \qquad x_\mathrm{max} = \sqrt{\sum_j x_j^2}

    divided by its largest possible value, :math:`\sqrt{N} \ln \sqrt{N}`, which an image of
    one constant intensity has. 0 when one voxel holds all the energy.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities; negative values are set to 0.
    frame : ndarray of bool, shape (I, J, K), optional
        Voxels to exclude: the empty frame that a rotation leaves around an image.

    Returns
    -------
    float
        ``nan`` for an image without energy or with fewer than two voxels.

    References
    ----------
    Atkinson et al. 1997, IEEE Trans Med Imaging 16(6):903-910, doi:10.1109/42.650886.

    Examples
    --------
    >>> import numpy as np
    >>> round(efc(np.full((4, 4, 4), 7.0)), 12)
    1.0
    """
    x = np.asarray(image)
    positive = x > 0
    n = x.size
    if frame is not None:
        positive &= ~frame
        n -= int(frame.sum())
    values = x[positive].astype(np.float64)
    if n < 2 or values.size == 0:
        return NAN
    # np.sum, not a dot product: its result does not depend on the number of BLAS threads
    values /= math.sqrt(float(np.sum(values * values)))
    entropy = -float(np.sum(values * np.log(values)))
    return entropy / (math.sqrt(n) * math.log(math.sqrt(n)))


def fber(image: NDArray[np.floating], head: NDArray[np.bool_], air: NDArray[np.bool_]) -> float:
    r"""Compute the foreground-background energy ratio.

    .. math:: \mathrm{FBER} = \frac{\mathrm{median}_{head}\, x^2}{\mathrm{median}_{air}\, x^2}

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities.
    head, air : ndarray of bool, shape (I, J, K)
        The head, and the acquired voxels outside it.

    Returns
    -------
    float
        ``nan`` when a region is empty or the air has no energy.

    References
    ----------
    Shehzad et al. 2015, Front Neurosci Conference Abstract: Neuroinformatics 2015,
    doi:10.3389/conf.fnins.2015.91.00047.
    """
    if not head.any() or not air.any():
        return NAN
    background = float(np.median(np.square(image[air], dtype=np.float64)))
    if background < 1e-3:
        return NAN
    return float(np.median(np.square(image[head], dtype=np.float64))) / background


def wm2max(image: NDArray[np.floating], median_wm: float) -> float:
    r"""Compute the ratio of white matter to the brightest voxels of the image.

    .. math:: \mathrm{WM2MAX} = \frac{\mu_\mathrm{WM}}{P_{99.95}(x)}

    Fat and vessels are the brightest parts of a head; a long bright tail lowers the ratio.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities of every voxel of the field of view.
    median_wm : float
        Median of white matter in the same units.

    Returns
    -------
    float
    """
    # a plain number would be divided by 100 in the precision of the image: in float32, the rank
    # among ten million voxels is then wrong by up to one
    brightest = float(np.percentile(image, np.float64(99.95)))
    return median_wm / brightest if brightest > 0 else NAN


def inu_summary(bias_field: NDArray[np.floating], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """Compute median and range of the intensity non-uniformity inside the brain.

    Parameters
    ----------
    bias_field : ndarray of float, shape (I, J, K)
        Multiplicative field: acquired image = true image x field.
    brain : ndarray of bool, shape (I, J, K)
        Voxels labelled by the segmentation.

    Returns
    -------
    median : float
        ``inu_med``; depends on the arbitrary overall scale of the field.
    spread : float
        ``inu_range``: 95th minus 5th percentile.

    References
    ----------
    Tustison et al. 2010, IEEE Trans Med Imaging 29(6):1310-1320,
    doi:10.1109/TMI.2010.2046908.
    """
    if not brain.any():
        return NAN, NAN
    low, median, high = np.percentile(bias_field[brain], (5, 50, 95))
    return float(median), float(high - low)


def volume_fractions(volumes: Mapping[str, float]) -> dict[str, float]:
    """Compute the fraction of each tissue in the intracranial volume; the ``icvs_*`` metrics.

    Parameters
    ----------
    volumes : mapping of str to float
        Summed probabilities of each tissue, any unit.

    Returns
    -------
    dict of str to float
        The same keys; the values sum to 1. ``nan`` when there is no tissue.

    Examples
    --------
    >>> volume_fractions({"csf": 1.0, "gm": 2.0, "wm": 1.0})
    {'csf': 0.25, 'gm': 0.5, 'wm': 0.25}
    """
    total = sum(volumes.values())
    return {name: value / total if total > 0 else NAN for name, value in volumes.items()}


def rpve(probability: NDArray[np.floating], *, outside: int = 0, floor: float = 0.01) -> float:
    r"""Compute the residual partial volume error of one tissue as defined by MRIQC.

    .. math::

        \frac{1}{N} \Big[ \sum_{p_i > 0.5} p_i + \sum_{p_i \le 0.5} (1 - p_i) \Big]

    where :math:`N` counts the voxels with any of the tissue, and probabilities below the
    2nd or above the 98th percentile of those are set to 0 first. The second sum runs over
    all voxels of the image, including empty ones: the metric grows with the field of view.

    Parameters
    ----------
    probability : ndarray of float, shape (I, J, K)
        Probability of the tissue.
    outside : int
        Number of voxels of the field of view outside a cropped `probability`.
    floor : float
        Smaller probabilities are set to 0: a mixture model assigns every voxel of the brain a
        small probability of each tissue.

    Returns
    -------
    float
        ``nan`` when the tissue is absent.
    """
    p = np.clip(np.asarray(probability, dtype=np.float32).ravel(), 0.0, 1.0)
    inside = p[p >= floor]
    if inside.size == 0:
        return NAN
    low, high = np.percentile(inside, (2, 98))
    kept = inside[(inside >= low) & (inside <= high)].astype(np.float64)
    zeros = p.size + outside - kept.size
    far = kept > 0.5
    total = kept[far].sum() + (1.0 - kept[~far]).sum() + zeros
    return float(total) / inside.size


def tpm_overlap(
    probability: NDArray[np.floating], template_probability: NDArray[np.floating]
) -> float:
    r"""Compute the fuzzy Jaccard overlap between a tissue map and that of the template.

    .. math:: \frac{\sum_i \min(p_i, q_i)}{\sum_i \max(p_i, q_i)}

    Parameters
    ----------
    probability, template_probability : ndarray of float, shape (I, J, K)
        Maps on the same grid.

    Returns
    -------
    float
        1 for equal maps, 0 for disjoint ones, ``nan`` when both are empty.

    References
    ----------
    Crum, Camara and Hill 2006, IEEE Trans Med Imaging 25(11):1451-1461,
    doi:10.1109/TMI.2006.880587.
    """
    union = float(np.maximum(probability, template_probability).sum(dtype=np.float64))
    if union <= 0:
        return NAN
    return float(np.minimum(probability, template_probability).sum(dtype=np.float64)) / union


def fwhm(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    r"""Estimate the smoothness of an image along its three axes, in voxels.

    For an axis, with the variance of the image and of the first differences between
    neighbours along that axis, both inside the mask:

    .. math::

        \mathrm{FWHM} = \sqrt{8 \ln 2}\;
        \sqrt{\frac{-1}{4 \ln \left(1 - \frac{\sigma^2_{\Delta}}{2 \sigma^2}\right)}}

    which is exact for a Gaussian field with Gaussian autocorrelation. This is the "classic"
    estimator of AFNI, which MRIQC uses; values of the newer estimator from the autocorrelation
    function are not comparable.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities as acquired.
    mask : ndarray of bool, shape (I, J, K)
        The brain.

    Returns
    -------
    x, y, z : float
        Full width at half maximum in voxels along each axis of the array; ``nan`` where
        there are fewer than six neighbours or the image is rougher than white noise.

    References
    ----------
    Forman et al. 1995, Magn Reson Med 33(5):636-647, doi:10.1002/mrm.1910330508.
    """
    inside = np.asarray(image[mask], dtype=np.float64)
    variance = float(inside.var(ddof=1)) if inside.size > 6 else 0.0
    widths = []
    for axis in range(3):
        here: list[slice] = [slice(None)] * 3
        after = list(here)
        here[axis], after[axis] = slice(None, -1), slice(1, None)
        pairs = mask[tuple(here)] & mask[tuple(after)]
        step = image[tuple(after)][pairs].astype(np.float64) - image[tuple(here)][pairs]
        ratio = 0.5 * float(step.var(ddof=1)) / variance if step.size > 6 and variance else NAN
        correlation = 1.0 - ratio
        ok = 0.0 < correlation < 1.0
        widths.append(SIGMA_TO_FWHM * math.sqrt(-0.25 / math.log(correlation)) if ok else NAN)
    return widths[0], widths[1], widths[2]
