"""Slice-timing correction: every slice resampled to one time within the TR.

A slice is acquired once in each TR, at its own time. Its time course is shifted by a
windowed sinc, volume by volume in one pass; the volumes around the current one are kept in
a ring buffer, so memory does not depend on the length of a run.

References
----------
.. [1] Sladky R et al. (2011). Slice-timing effects and their correction in functional MRI.
   NeuroImage 58(2):588-594. doi:10.1016/j.neuroimage.2011.06.078
.. [2] Parker DB, Razlighi QR (2019). The benefit of slice timing correction in common fMRI
   preprocessing pipelines. Front Neurosci 13:821. doi:10.3389/fnins.2019.00821
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.images import FloatArray

HALF_WIDTH = 5
TIMING_TOLERANCE_S = 1e-3


def check_slice_timing(times: Sequence[float], n_slices: int, tr: float) -> None:
    """Refuse impossible slice times.

    Parameters
    ----------
    times : sequence of float
        ``SliceTiming`` of the sidecar, s.
    n_slices : int
        Slices of the image along its slice axis.
    tr : float
        Time from one volume to the next, s.

    Raises
    ------
    InputError
        If the count is wrong, or the times are not numbers, negative, beyond the TR (often
        milliseconds), or all the same.
    """
    if len(times) != n_slices:
        raise InputError(
            f"SliceTiming has {len(times)} entries, but the image has {n_slices} slices."
        )
    try:
        values = np.asarray(times, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError("SliceTiming holds a value that is not a number.") from error
    if not np.all(np.isfinite(values)) or values.min() < 0:
        raise InputError("SliceTiming holds negative or infinite times.")
    if tr <= 0:
        raise InputError("SliceTiming cannot be used because the repetition time is unknown.")
    if values.max() >= tr + TIMING_TOLERANCE_S:
        hint = "; it seems to be in milliseconds" if values.max() > 50 else ""
        raise InputError(
            f"SliceTiming goes up to {values.max():g} s, beyond the repetition time of "
            f"{tr:g} s{hint}."
        )
    if n_slices > 1 and values.max() == values.min():
        raise InputError("SliceTiming has the same time for all slices: nothing to correct.")


def reference_time(times: Sequence[float], fraction: float = 0.5) -> float:
    """Compute the time within the TR to which slices are shifted.

    >>> reference_time([0.0, 1.0, 0.5, 1.5], 0.5)
    0.75
    """
    first, last = min(times), max(times)
    return first + fraction * (last - first)


def sinc_weights(shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the Hann-windowed sinc that samples a time course `shift` samples later.

    Parameters
    ----------
    shift : ndarray of float64, shape (S,)
        In samples, between -1 and 1.

    Returns
    -------
    ndarray of float64, shape (2 * HALF_WIDTH + 1, S)
        Weights of the samples from ``-HALF_WIDTH`` to ``HALF_WIDTH``; they sum to 1.
    """
    lag = np.arange(-HALF_WIDTH, HALF_WIDTH + 1)[:, None] - shift
    window = np.where(np.abs(lag) < HALF_WIDTH + 1, np.cos(np.pi * lag / (2 * HALF_WIDTH + 2)), 0)
    weights = np.sinc(lag) * window**2
    total: NDArray[np.float64] = weights / weights.sum(axis=0)
    return total


def shift_slices(
    volumes: Iterable[FloatArray],
    slice_times: Sequence[float] | NDArray[np.float64],
    reference_time: float,
    tr: float,
    axis: int = 2,
    *,
    n_skip: int = 0,
) -> Iterator[FloatArray]:
    """Shift the slices of a series to one time.

    Beyond the first and last volume a time course is extended by reflection through its end
    point, so that a drift continues as a drift.

    Parameters
    ----------
    volumes : iterable of ndarray of float32, shape (I, J, K)
        The series.
    slice_times : sequence or ndarray of float, shape (S,)
        Acquisition time of each slice within the TR, s.
    reference_time : float
        Time to which they are shifted, s.
    tr : float
        Time between volumes, s.
    axis : int
        Slice axis.
    n_skip : int
        Volumes before the steady state: passed on unchanged and not used for the others.

    Yields
    ------
    ndarray of float32, shape (I, J, K)
        As many volumes as come in.
    """
    shift = (reference_time - np.asarray(slice_times, dtype=float)) / tr
    shape = [1, 1, 1]
    shape[axis] = shift.size
    taps = [w.reshape(shape).astype(np.float32) for w in sinc_weights(shift)]
    source = iter(volumes)
    for _ in range(n_skip):
        first = next(source, None)
        if first is None:
            return
        yield first
    ring: deque[FloatArray] = deque(maxlen=2 * HALF_WIDTH + 1)
    head: list[FloatArray] = []
    for volume in source:
        if len(head) <= HALF_WIDTH:
            head.append(volume)
            if len(head) <= HALF_WIDTH:
                continue
            ring.extend(_reflected(head))
            ring.extend(head)
        else:
            ring.append(volume)
        yield _weighted(ring, taps)
    if len(head) <= HALF_WIDTH:
        yield from _short(head, taps)
        return
    tail = list(ring)[-HALF_WIDTH - 1 :]
    for beyond in reversed(_reflected(tail[::-1])):
        ring.append(beyond)
        yield _weighted(ring, taps)


def bridge(volumes: Iterable[FloatArray], unusable: Collection[int]) -> Iterator[FloatArray]:
    """Replace volumes without an image by linear interpolation between those around them.

    Slice-timing correction of a volume reads the volumes around it: without this, an empty one
    would darken its neighbours.

    Parameters
    ----------
    volumes : iterable of ndarray of float32, shape (I, J, K)
        The series.
    unusable : collection of int
        Volumes to replace. At an end of the series the nearest other volume is repeated.

    Yields
    ------
    ndarray of float32, shape (I, J, K)
        As many volumes as come in.

    Examples
    --------
    >>> [v.item() for v in bridge([np.float32([x]) for x in (1, 0, 3, 0)], [1, 3])]
    [1.0, 2.0, 3.0, 3.0]
    """
    before: FloatArray | None = None
    waiting = 0
    for number, volume in enumerate(volumes):
        if number in unusable:
            waiting += 1
            continue
        start = volume if before is None else before
        for place in range(1, waiting + 1):
            part = np.float32(place / (waiting + 1))
            yield start + part * (volume - start)
        waiting = 0
        # the caller may change what it is given
        before = volume.copy()
        yield volume
    if before is not None:
        for _ in range(waiting):
            yield before.copy()


def _reflected(head: Sequence[FloatArray]) -> list[FloatArray]:
    """Extend a series before its first volume by reflection through it, earliest first."""
    return [2.0 * head[0] - later for later in head[:0:-1]]


def _short(head: Sequence[FloatArray], taps: Sequence[FloatArray]) -> Iterator[FloatArray]:
    """Shift a series that is shorter than the window."""
    n = len(head)
    for centre in range(n):
        window = []
        for place in range(centre - HALF_WIDTH, centre + HALF_WIDTH + 1):
            if place < 0:
                window.append(2.0 * head[0] - head[min(-place, n - 1)])
            elif place >= n:
                window.append(2.0 * head[-1] - head[max(2 * n - 2 - place, 0)])
            else:
                window.append(head[place])
        yield _weighted(window, taps)


def _weighted(window: Iterable[FloatArray], taps: Sequence[FloatArray]) -> FloatArray:
    """Sum volumes, each slice with its own weights."""
    total: FloatArray | None = None
    for volume, weight in zip(window, taps, strict=True):
        if total is None:
            total = volume * weight
        else:
            total += volume * weight
    if total is None:
        raise ValueError("no volumes in the window")
    return total
