"""Rician magnitudes: mean and variance from signal and noise, and the inverse.

The magnitude of a complex signal with Gaussian noise follows the Rice distribution. Its mean
exceeds the true signal, the more so the weaker the signal, and its variance is below that of the
noise in each channel, down to 0.43 of it without signal. Both depend only on the signal-to-noise
ratio [1]_.

References
----------
.. [1] Koay CG, Basser PJ (2006). Analytically exact correction scheme for signal extraction
   from noisy magnitude MR signals. J Magn Reson 179(2):317-322, eq. 4 and 9.
   doi:10.1016/j.jmr.2006.01.016
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.images import FloatArray

Floats = NDArray[np.float64]
#: Beyond this ratio of signal to noise the mean of a magnitude has a closed form, to 1e-4.
_TABLE_TOP = 20.0
#: Halvings until a noise level is known to 4e-5 of itself.
_HALVINGS = 14


def magnitude_mean(snr: Floats) -> Floats:
    """Compute the mean magnitude of a complex signal with Gaussian noise, in units of the noise.

    Parameters
    ----------
    snr : ndarray of float64, any shape
        True signal divided by the noise's standard deviation in each channel.

    Returns
    -------
    ndarray of float64
        ``sqrt(pi / 2) L(-snr² / 2)`` with the Laguerre polynomial of degree one half.

    Examples
    --------
    >>> magnitude_mean(np.array([0.0, 3.0])).round(4).tolist()
    [1.2533, 3.1726]
    """
    from scipy.special import ive

    x = np.square(snr) / 4
    mean: Floats = np.sqrt(np.pi / 2) * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x))
    return mean


def magnitude_variance(mean: Floats) -> Floats:
    """Compute the variance of a magnitude from its mean, in units of the noise variance.

    Parameters
    ----------
    mean : ndarray of float64, any shape
        Mean magnitude divided by the noise's standard deviation in each channel.

    Returns
    -------
    ndarray of float64
        Share of the noise's variance, ``2 - pi / 2`` (no signal) to 1 (much).

    Examples
    --------
    >>> magnitude_variance(np.array([1.2533, 1.5486, 10.05])).round(2).tolist()
    [0.43, 0.6, 0.99]
    """
    _, means, variances = _table()
    return np.asarray(np.interp(mean, means, variances))


def channel_sigma(spread: Floats, means: Floats) -> Floats:
    """Estimate the noise in each channel from the spread of magnitudes.

    Parameters
    ----------
    spread : ndarray of float64, shape (P,)
        Standard deviation of magnitudes about their means, pooled over several signals.
    means : ndarray of float64, shape (P, T)
        Mean magnitudes of these signals, in the same unit.

    Returns
    -------
    ndarray of float64, shape (P,)
        `spread` at high signals, 1.53 times `spread` for pure noise.
    """
    low, high = spread.copy(), spread / np.sqrt(2 - np.pi / 2)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ratio = means / np.where(middle > 0, middle, 1)[:, None]
        beyond = np.square(middle) * magnitude_variance(ratio).mean(axis=1) > np.square(spread)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return np.asarray((low + high) / 2)


def without_noise_floor(signal: FloatArray, sigma: FloatArray) -> FloatArray:
    """Recover true signals from mean magnitudes.

    Parameters
    ----------
    signal : ndarray of float32, any shape
        Mean (denoised) magnitudes.
    sigma : ndarray of float32, same shape
        Noise standard deviation in each channel; where it is not positive, the signal is
        unchanged.

    Returns
    -------
    ndarray of float32
        0 where a magnitude does not exceed that of pure noise.

    Notes
    -----
    The mean of a magnitude is inverted exactly. The common ``sqrt(signal² - sigma²)`` leaves a
    bias of 0.18 sigma at a true signal of one sigma and 0.04 sigma at two, where this leaves less
    than 0.01.
    """
    known = np.isfinite(sigma) & (sigma > 0)
    ratio = np.divide(signal, sigma, out=np.zeros(signal.shape, np.float64), where=known)
    steps, means, _ = _table()
    low = np.interp(ratio, means, steps)
    high = np.sqrt(np.maximum(np.square(ratio) - 1, 0))
    true = np.where(ratio < means[-1], low, high) * np.where(known, sigma, 0)
    return np.where(known, true, signal).astype(np.float32)


@cache
def _table() -> tuple[Floats, Floats, Floats]:
    """Tabulate signals with the mean and variance of their magnitudes."""
    steps = np.linspace(0.0, _TABLE_TOP, 2001)
    means = magnitude_mean(steps)
    return steps, means, 2 + np.square(steps) - np.square(means)
