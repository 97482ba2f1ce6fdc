"""Time-varying effects on the BOLD signal: task, cardiac, respiratory, drift."""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.grids import smooth_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CONDITIONS = ("face", "house")
_BLOCK_S, _REST_S, _FIRST_S = 12.0, 10.0, 8.0
_STEP = 0.1  # s, of the response's time axis
# Centre (template mm), width (mm) and each condition's share of the amplitude.
_REGIONS = (
    ((-14.0, -92.0, 0.0), 9.0, (0.8, 0.8)),
    ((14.0, -92.0, 0.0), 9.0, (0.8, 0.8)),
    ((40.0, -52.0, -18.0), 8.0, (1.0, 0.2)),
    ((-40.0, -52.0, -18.0), 8.0, (0.9, 0.2)),
    ((26.0, -44.0, -10.0), 7.0, (0.1, 1.0)),
    ((-26.0, -44.0, -10.0), 7.0, (0.1, 0.9)),
)


@dataclass(frozen=True)
class Effect:
    """Effect that multiplies the signal by ``1 + map x course``.

    Attributes
    ----------
    name : str
    weights : ndarray of float32, shape (I, J, K)
        Fractional signal change at a course of 1.
    course : callable
        Seconds since the first volume began (ndarray) to values.
    bold : bool
        Caused by blood oxygenation, and so increases with the echo time.
    """

    name: str
    weights: NDArray[np.float32]
    course: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    bold: bool = False


def haemodynamic_response(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate the response to a brief event, an unscaled difference of two gamma densities.

    Parameters
    ----------
    times : ndarray of float64
        Seconds after the event.

    References
    ----------
    Friston KJ, Fletcher P, Josephs O, Holmes A, Rugg MD, Turner R (1998). Event-related
    fMRI: characterizing differential responses. NeuroImage 7, 30-40.
    doi:10.1006/nimg.1997.0306
    """
    t = np.maximum(np.asarray(times, dtype=np.float64), 1e-9)

    def density(shape: float) -> NDArray[np.float64]:
        return np.asarray(np.exp((shape - 1) * np.log(t) - t - lgamma(shape)))

    response: NDArray[np.float64] = density(6.0) - density(16.0) / 6
    return np.where(np.asarray(times) > 0, response, 0.0)


def draw_events(rng: np.random.Generator, seconds: float) -> list[tuple[float, float, str]]:
    """Draw blocks of the conditions in random order: onset (s), duration (s), condition.

    Each pair of blocks holds each condition once. The last block ends 4 s before the scan.
    """
    events: list[tuple[float, float, str]] = []
    onset = _FIRST_S
    while True:
        for number in rng.permutation(len(CONDITIONS)):
            if onset + _BLOCK_S + 4 > seconds:
                return events
            events.append((onset, _BLOCK_S, CONDITIONS[number]))
            onset += _BLOCK_S + _REST_S


def task_course(
    events: Sequence[tuple[float, float, str]], condition: str, seconds: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Compute the response to a condition's blocks; 1 is the plateau of an endless block."""
    axis = np.arange(0, seconds + 40, _STEP)
    boxes = np.zeros_like(axis)
    for onset, duration, kind in events:
        if kind == condition:
            boxes[(axis >= onset - 1e-9) & (axis < onset + duration - 1e-9)] = 1
    kernel = haemodynamic_response(np.arange(0, 32, _STEP, dtype=np.float64))
    response = np.convolve(boxes, kernel / kernel.sum())[: axis.size]
    return lambda t: np.interp(t, axis, response)


def activation_weights(
    to_template: NDArray[np.float32], gm: NDArray[np.float32], percent: float
) -> dict[str, NDArray[np.float32]]:
    """Compute the fractional signal increase of each condition.

    Parameters
    ----------
    to_template : ndarray of float32, shape (3, I, J, K)
        Template coordinates of each voxel, mm.
    gm : ndarray of float32, shape (I, J, K)
        Grey-matter share of each voxel.
    percent : float
        Signal change in a pure grey matter voxel in the middle of the condition's preferred
        region.
    """
    maps = {name: np.zeros(gm.shape, dtype=np.float32) for name in CONDITIONS}
    for centre, width, shares in _REGIONS:
        square = sum((to_template[axis] - np.float32(centre[axis])) ** 2 for axis in range(3))
        blob = np.exp(-square / np.float32(2 * (width / 2) ** 2)) * gm
        for name, share in zip(CONDITIONS, shares, strict=True):
            np.maximum(maps[name], blob * np.float32(share * percent / 100), out=maps[name])
    return maps


def physiology(
    rng: np.random.Generator,
    tissues: NDArray[np.float32],
    to_template: NDArray[np.float32],
    *,
    strength: float,
) -> list[Effect]:
    """Draw cardiac, respiratory, drift and slow grey-matter fluctuations.

    Parameters
    ----------
    rng : numpy.random.Generator
    tissues : ndarray of float32, shape (3, I, J, K)
        Shares of GM, WM, CSF.
    to_template : ndarray of float32, shape (3, I, J, K)
        Template coordinates of each voxel, mm.
    strength : float
        Scale of all four.
    """
    shape = tissues.shape[1:]
    gm, wm, csf = tissues
    base = np.exp(-((to_template[2] + 40) ** 2) / np.float32(2 * 25**2))  # large vessels
    heart = strength * (0.030 * csf + 0.006 * gm + 0.003 * wm) * (0.4 + 1.2 * base)
    upper = np.clip((to_template[2] + 60) / 120, 0, 1)
    breath = strength * 0.006 * (0.5 + upper) * (gm + wm + csf)
    drift = strength * 0.010 * (1 + 0.5 * smooth_noise(rng, shape, 6.0))
    slow = strength * 0.006 * gm * (1 + 0.5 * smooth_noise(rng, shape, 4.0))
    return [
        Effect("cardiac", heart.astype(np.float32), _rhythm(rng, 1.1, 0.04, 0.35)),
        Effect("respiratory", breath.astype(np.float32), _rhythm(rng, 0.27, 0.02, 0.25)),
        Effect("drift", drift.astype(np.float32), _band(rng, 0.0005, 0.006)),
        Effect("fluctuation", slow.astype(np.float32), _band(rng, 0.01, 0.08), bold=True),
    ]


def _rhythm(
    rng: np.random.Generator, rate: float, wander: float, overtone: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Draw a quasi-periodic course of amplitude about 1; `rate` in Hz drifts slowly."""
    rate = rate * float(np.exp(rng.normal(0, 0.1)))
    offsets = rng.uniform(0, 2 * np.pi, 4)
    slow = rng.uniform(0.005, 0.03, 3)

    def course(t: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = 2 * np.pi * rate * t + offsets[3]
        for frequency, offset in zip(slow, offsets, strict=False):
            phase = phase + wander * rate / frequency * np.sin(2 * np.pi * frequency * t + offset)
        beat: NDArray[np.float64] = np.sin(phase) + overtone * np.sin(2 * phase + offsets[0])
        return beat

    return course


def _band(
    rng: np.random.Generator, low: float, high: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Draw a sum of ten sine waves between two frequencies (Hz), standard deviation 1."""
    frequencies = rng.uniform(low, high, 10)
    phases = rng.uniform(0, 2 * np.pi, 10)

    def course(t: NDArray[np.float64]) -> NDArray[np.float64]:
        waves = np.cos(2 * np.pi * frequencies * np.asarray(t)[..., None] + phases)
        total: NDArray[np.float64] = waves.sum(axis=-1) / np.sqrt(5)
        return total

    return course
