"""T2* fit and optimal combination of the echoes of a BOLD run.

References
----------
.. [1] Posse S et al. (1999). Enhancement of BOLD-contrast sensitivity by single-shot
   multi-echo functional MR imaging. Magn Reson Med 42(1):87-97.
   doi:10.1002/(SICI)1522-2594(199907)42:1<87::AID-MRM13>3.0.CO;2-O
.. [2] DuPre E et al. (2021). TE-dependent analysis of multi-echo fMRI with tedana. J Open
   Source Softw 6(66):3669. doi:10.21105/joss.03669
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.images import FloatArray

# Values outside these bounds are implausible for brain tissue, s.
T2STAR_RANGE = (0.002, 0.5)
# An echo is used where it is this much brighter than the air.
ABOVE_AIR = 2.0


def check_echo_times(echo_times: Sequence[float], n_echoes: int) -> None:
    """Refuse impossible echo times.

    Parameters
    ----------
    echo_times : sequence of float
        ``EchoTime`` of each echo, s.
    n_echoes : int
        Number of files.

    Raises
    ------
    InputError
        If there are too few echoes, or their times are missing, not rising or in milliseconds.
    """
    if len(echo_times) != n_echoes:
        raise InputError(f"There are {n_echoes} echoes, but {len(echo_times)} echo times.")
    if n_echoes < 2:
        raise InputError("A T2* map needs at least two echoes.")
    if any(b <= a for a, b in zip([0.0, *echo_times], echo_times, strict=False)):
        raise InputError("Echo times must be positive and increase from echo to echo.")
    if echo_times[-1] >= 1:
        raise InputError(f"An EchoTime of {echo_times[-1]:g} s seems to be in milliseconds.")


def combination_weights(
    t2star: NDArray[np.float32], echo_times: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Compute the weights of the echoes that maximise BOLD contrast [1]_.

    Parameters
    ----------
    t2star : ndarray of float32, any shape
        s; zero or less where unknown: there all echoes have equal weight.
    echo_times : sequence of float
        s.

    Returns
    -------
    list of ndarray of float32
        ``TE exp(-TE / T2*)`` for each echo, adding up to 1.

    Examples
    --------
    >>> weights = combination_weights(np.float32([0.03, 0]), (0.03, 0.06))
    >>> np.round(np.array(weights, dtype=float), 3).tolist()
    [[0.576, 0.5], [0.424, 0.5]]
    """
    known = t2star > 0
    rate = np.where(known, 1.0 / np.clip(t2star, *T2STAR_RANGE), 0.0)
    raw = [np.where(known, te * np.exp(-te * rate), 1.0) for te in echo_times]
    total = np.sum(raw, axis=0)
    return [(w / total).astype(np.float32) for w in raw]


def fit_t2star(
    means: Sequence[FloatArray], echo_times: Sequence[float], head: NDArray[np.bool_]
) -> FloatArray:
    """Fit the mono-exponential decay of the signal across echoes, voxel by voxel.

    A log-linear fit, weighted by the squared signal, because the noise of a logarithm grows
    as the signal falls. From the first echo at the noise level of the air on, echoes are
    excluded.

    Parameters
    ----------
    means : sequence of ndarray of float32, shape (I, J, K)
        Mean image of each echo.
    echo_times : sequence of float
        s.
    head : ndarray of bool, shape (I, J, K)
        Where to fit.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        T2* in s between 0.002 and 0.5; 0 outside the head and where fewer than two echoes
        have signal.
    """
    check_echo_times(echo_times, len(means))
    signal = np.stack([mean[head] for mean in means]).astype(np.float64)
    air = max((float(np.median(mean[~head])) for mean in means), default=0.0)
    floor = max(ABOVE_AIR * air, 1e-6)
    good = np.cumprod(signal > floor, axis=0).astype(bool)
    logs = np.log(np.maximum(signal, floor))
    weights = np.where(good, np.square(signal), 0.0)
    times = np.asarray(echo_times)[:, None]
    total = np.maximum(weights.sum(axis=0), 1e-12)
    centred = times - (weights * times).sum(axis=0) / total
    slope = (weights * centred * logs).sum(axis=0) / np.maximum(
        (weights * centred**2).sum(axis=0), 1e-12
    )
    decay = np.where(slope < 0, -1.0 / np.minimum(slope, -1e-6), T2STAR_RANGE[1])
    values = np.where(good.sum(axis=0) >= 2, np.clip(decay, *T2STAR_RANGE), 0.0)
    out = np.zeros(head.shape, dtype=np.float32)
    out[head] = values
    return out
