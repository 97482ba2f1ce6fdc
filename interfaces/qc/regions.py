"""Metrics of image regions: white matter, grey matter, CSF and air.

Every function takes numbers or arrays and returns numbers; a metric that is not defined
for its input is ``nan``, never a placeholder value.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TISSUES = ("csf", "gm", "wm")
"""Tissues in metric names, in the order of MRIQC."""

WM_LEVEL = 1000.0
"""Median intensity of white matter after :func:`harmonize`."""

DIETRICH_FACTOR = math.sqrt((4.0 - math.pi) / 2.0)
"""Standard deviation of a Rayleigh variable of unit scale: sqrt((4 - pi) / 2)."""

MAD_TO_SIGMA = 1.4826022185056018
BRIGHT_SIGMAS = 5.0
"""Robust standard deviations above the median of white matter from which a voxel is none."""
"""Ratio of standard deviation to median absolute deviation of a normal variable."""

NAN = float("nan")


@dataclass(frozen=True)
class RegionSummary:
    """Intensity distribution of one region; the ``summary_*`` metrics.

    Attributes
    ----------
    mean, median, p05, p95, stdv : float
        Mean, median, 5th and 95th percentile and standard deviation (no degrees of
        freedom removed), in the units of the image.
    mad : float
        Median absolute deviation from the median times 1.4826, so that it estimates the
        standard deviation of a normal distribution.
    k : float
        Excess kurtosis (0 for a normal distribution, biased estimator).
    n : int
        Number of voxels.
    """

    mean: float
    median: float
    p05: float
    p95: float
    k: float
    stdv: float
    mad: float
    n: int

    def as_metrics(self, region: str) -> dict[str, float]:
        """Return the attributes under the names ``summary_<region>_<statistic>``."""
        return {f"summary_{region}_{key}": value for key, value in asdict(self).items()}


def summarize_region(image: NDArray[np.floating], mask: NDArray[np.bool_]) -> RegionSummary:
    """Summarise the intensities of an image inside a mask.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities.
    mask : ndarray of bool, shape (I, J, K)
        The region.

    Returns
    -------
    RegionSummary
        All ``nan`` except ``n`` when the region is empty; ``k`` is also ``nan`` when all
        voxels have the same intensity.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[[1.0, 2.0, 3.0, 4.0, 100.0]]])
    >>> s = summarize_region(image, image < 50)
    >>> s.n, s.mean, s.median, round(s.mad, 3)
    (4, 2.5, 2.5, 1.483)
    """
    values = np.asarray(image[mask], dtype=np.float64)
    if values.size == 0:
        return RegionSummary(NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0)
    mean = float(values.mean())
    centred = values - mean
    variance = float((centred**2).mean())
    kurtosis = float((centred**4).mean()) / variance**2 - 3.0 if variance > 0 else NAN
    p05, median, p95 = (float(p) for p in np.percentile(values, (5, 50, 95)))
    mad = MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
    return RegionSummary(
        mean, median, p05, p95, kurtosis, math.sqrt(variance), mad, int(values.size)
    )


def tissue_core(
    probability: NDArray[np.floating], *, threshold: float = 0.85, erode: bool = True
) -> NDArray[np.bool_]:
    """Choose voxels that certainly belong to a tissue: high probability, away from the border.

    Parameters
    ----------
    probability : ndarray of float, shape (I, J, K)
        Tissue probability or partial volume, 0 to 1.
    threshold : float
        Lowest probability of a voxel.
    erode : bool
        Remove every voxel with a neighbour (of the 18 that share a face or an edge)
        outside the region.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from scipy import ndimage

    core: NDArray[np.bool_] = np.asarray(probability) > threshold
    if erode:
        core = ndimage.binary_erosion(core, ndimage.generate_binary_structure(3, 2))
    return core


def without_bright_outliers(
    image: NDArray[np.floating], mask: NDArray[np.bool_], sigmas: float = BRIGHT_SIGMAS
) -> NDArray[np.bool_]:
    """Remove voxels that are far brighter than a region: vessels and fat in white matter.

    A few voxels of three times the median raise a standard deviation by a quarter and a kurtosis
    from 1 to hundreds; the median and the percentiles do not see them.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities.
    mask : ndarray of bool, shape (I, J, K)
        The region.
    sigmas : float
        Robust standard deviations (scaled median absolute deviation) above the median from which a
        voxel is removed.

    Returns
    -------
    ndarray of bool, shape (I, J, K)

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[[98.0, 99.0, 100.0, 101.0, 102.0, 330.0, 60.0]]])
    >>> without_bright_outliers(image, image > 0).ravel().tolist()
    [True, True, True, True, True, False, True]
    """
    values = image[mask]
    if not values.size:
        return mask
    median = float(np.median(values))
    mad = MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
    kept: NDArray[np.bool_] = mask & (image <= median + sigmas * mad)
    return kept


def should_erode(spacing: tuple[float, ...]) -> bool:
    """Check whether voxels are small enough (< 1.9 mm) for tissues to survive an erosion."""
    return all(size < 1.9 for size in spacing[:3])


def harmonization_factor(
    image: NDArray[np.floating], wm_probability: NDArray[np.floating], *, erode: bool = True
) -> float:
    """Compute the factor that scales the median of white matter to 1000.

    Intensities of T1-weighted images are in arbitrary units; normalising to white matter makes
    summaries from different scanners comparable.

    Parameters
    ----------
    image : ndarray of float, shape (I, J, K)
        Intensities after bias correction.
    wm_probability : ndarray of float, shape (I, J, K)
        Probability of white matter.
    erode : bool
        Use eroded white matter; only voxels with a probability of at least 0.9 are used.

    Returns
    -------
    float
        ``nan`` when there is no white matter or when its median is not positive.
    """
    core = tissue_core(wm_probability, threshold=0.9, erode=erode)
    if not core.any():
        return NAN
    median = float(np.median(image[core]))
    return WM_LEVEL / median if median > 0 else NAN


def snr(median: float, stdv: float, n: int) -> float:
    r"""Compute the signal-to-noise ratio of one tissue.

    .. math:: \mathrm{SNR} = \frac{\mu}{\sigma \sqrt{n / (n - 1)}}

    with the median of the tissue for :math:`\mu`.

    Parameters
    ----------
    median, stdv : float
        Median and standard deviation of the intensities of the tissue.
    n : int
        Number of voxels of the tissue.

    Returns
    -------
    float
        ``nan`` for fewer than two voxels or no variation.

    Examples
    --------
    >>> round(snr(100.0, 10.0, 101), 4)
    9.9504
    """
    if n < 2 or not stdv > 0:
        return NAN
    return median / (stdv * math.sqrt(n / (n - 1)))


def snr_dietrich(median: float, mad_air: float, sigma_air: float) -> float:
    r"""Compute the signal-to-noise ratio, with noise measured in the air around the head.

    .. math:: \mathrm{SNR}_d = \sqrt{\frac{4 - \pi}{2}} \frac{\mu}{\sigma_\mathrm{air}}

    The factor corrects for the Rayleigh distribution of the magnitude of pure noise.

    Parameters
    ----------
    median : float
        Median intensity of the tissue, on the scale where white matter is 1000.
    mad_air, sigma_air : float
        Spread of the air: the robust one (scaled median absolute deviation) is used if it is
        above 1, the standard deviation otherwise.

    Returns
    -------
    float
        ``nan`` when the air does not vary.

    References
    ----------
    Dietrich et al. 2007, J Magn Reson Imaging 26(2):375-385, equation A.12,
    doi:10.1002/jmri.20969.
    """
    spread = mad_air if mad_air > 1.0 else sigma_air
    return DIETRICH_FACTOR * median / spread if spread > 1e-3 else NAN


def cnr(
    median_wm: float, median_gm: float, sigma_air: float, sigma_wm: float, sigma_gm: float
) -> float:
    r"""Compute the contrast-to-noise ratio between white and grey matter.

    .. math::

        \mathrm{CNR} = \frac{|\mu_\mathrm{WM} - \mu_\mathrm{GM}|}
        {\sqrt{\sigma_\mathrm{air}^2 + \sigma_\mathrm{WM}^2 + \sigma_\mathrm{GM}^2}}

    Parameters
    ----------
    median_wm, median_gm : float
        Median intensities.
    sigma_air, sigma_wm, sigma_gm : float
        Standard deviations.

    Returns
    -------
    float
        ``nan`` when an input is ``nan`` or nothing varies.

    References
    ----------
    Magnotta and Friedman 2006, J Digit Imaging 19(2):140-147,
    doi:10.1007/s10278-006-0264-x.
    """
    noise = math.sqrt(sigma_air**2 + sigma_wm**2 + sigma_gm**2)
    return abs(median_wm - median_gm) / noise if noise > 0 else NAN


def cjv(median_wm: float, median_gm: float, mad_wm: float, mad_gm: float) -> float:
    r"""Compute the coefficient of joint variation of white and grey matter.

    .. math::

        \mathrm{CJV} = \frac{\sigma_\mathrm{WM} + \sigma_\mathrm{GM}}
        {|\mu_\mathrm{WM} - \mu_\mathrm{GM}|}

    with medians and scaled median absolute deviations for :math:`\mu` and :math:`\sigma`.

    Parameters
    ----------
    median_wm, median_gm, mad_wm, mad_gm : float
        Medians and scaled median absolute deviations.

    Returns
    -------
    float
        ``nan`` when both tissues have the same median.

    References
    ----------
    Ganzetti et al. 2016, Front Neuroinform 10:10, doi:10.3389/fninf.2016.00010.

    Examples
    --------
    >>> cjv(1000.0, 700.0, 50.0, 40.0)
    0.3
    """
    contrast = abs(median_wm - median_gm)
    return (mad_wm + mad_gm) / contrast if contrast > 0 else NAN


def contrast_metrics(summaries: Mapping[str, RegionSummary]) -> dict[str, float]:
    """Compute the contrast metrics from the summaries of tissues and air.

    Parameters
    ----------
    summaries : mapping of str to RegionSummary
        Keys ``csf``, ``gm``, ``wm`` and ``bg`` (air), on the scale where white matter
        has a median of 1000.

    Returns
    -------
    dict of str to float
        ``cjv``, ``cnr``, ``snr_*`` and ``snrd_*``; the totals are means over tissues.
    """
    gm, wm, air = summaries["gm"], summaries["wm"], summaries["bg"]
    metrics = {
        "cjv": cjv(wm.median, gm.median, wm.mad, gm.mad),
        "cnr": cnr(wm.median, gm.median, air.stdv, wm.stdv, gm.stdv),
    }
    for name in TISSUES:
        tissue = summaries[name]
        metrics[f"snr_{name}"] = snr(tissue.median, tissue.stdv, tissue.n)
        metrics[f"snrd_{name}"] = snr_dietrich(tissue.median, air.mad, air.stdv)
    for kind in ("snr", "snrd"):
        metrics[f"{kind}_total"] = sum(metrics[f"{kind}_{name}"] for name in TISSUES) / 3.0
    return metrics
