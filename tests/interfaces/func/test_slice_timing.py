"""Slice-timing correction shifts all slices to one time."""

from __future__ import annotations

import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.func.slice_timing import (
    HALF_WIDTH,
    check_slice_timing,
    reference_time,
    shift_slices,
    sinc_weights,
)

TR = 2.0


def course(t: np.ndarray) -> np.ndarray:
    """Simulate a response-like time course with drift, below 0.12 Hz."""
    return 1000 + 0.5 * t + 20 * np.sin(2 * np.pi * 0.03 * t) + 10 * np.cos(2 * np.pi * 0.12 * t)


def acquired(times: np.ndarray, n: int, axis: int) -> list[np.ndarray]:
    shape = [3, 4, 5]
    shape[axis] = times.size
    view = [1, 1, 1]
    view[axis] = times.size
    return [
        np.broadcast_to(course(TR * k + times.reshape(view)), shape).astype(np.float32)
        for k in range(n)
    ]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_courses_meet_at_the_reference_time(axis: int) -> None:
    times = np.array([0.0, 1.0, 0.25, 1.25, 0.5, 1.5])
    at = reference_time(times.tolist())
    found = np.stack(list(shift_slices(acquired(times, 60, axis), times, at, TR, axis)))
    truth = course(TR * np.arange(60) + at)[:, None, None, None]
    inner = slice(HALF_WIDTH, -HALF_WIDTH)
    assert np.abs(found[inner] - truth[inner]).max() < 0.25
    raw = np.stack(acquired(times, 60, axis)) - truth
    assert np.abs(raw[inner]).max() > 5
    # At the ends half of the window is extrapolated, which is still better than no correction.
    ends = [0, 1, -2, -1]
    assert np.std((found - truth)[ends]) < 0.5 * np.std(raw[ends])


def test_dummies_are_left_alone() -> None:
    times = np.array([0.0, 1.5, 0.5, 1.0])
    volumes = acquired(times, 30, 2)
    volumes[0] = volumes[0] * 3
    clean = list(shift_slices(volumes[1:], times, 0.75, TR))
    found = list(shift_slices(volumes, times, 0.75, TR, n_skip=1))
    np.testing.assert_array_equal(found[0], volumes[0])
    for a, b in zip(clean, found[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 11, 12])
def test_short_series_keep_their_length(n: int) -> None:
    times = np.array([0.0, 1.0])
    found = list(shift_slices(acquired(times, n, 2), times, 0.5, TR))
    assert len(found) == n
    # A straight line is preserved, including its ends.
    ramp = [np.full((2, 2, 2), k, dtype=np.float32) for k in range(n)]
    if n > HALF_WIDTH:
        shifted = np.stack(list(shift_slices(ramp, times, 0.5, TR)))
        np.testing.assert_allclose(
            shifted[..., 0] - shifted[..., 1], np.full((n, 2, 2), 0.5), atol=2e-2
        )


def test_no_shift_changes_nothing() -> None:
    weights = sinc_weights(np.zeros(3))
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    np.testing.assert_allclose(weights[HALF_WIDTH], 1)
    np.testing.assert_allclose(np.delete(weights, HALF_WIDTH, axis=0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([0.0, 0.5], "2 entries, but the image has 3 slices"),
        ([0.0, 0.5, 2.5], "beyond the repetition time"),
        ([0.0, 500.0, 1500.0], "milliseconds"),
        ([0.0, -0.5, 1.0], "negative"),
        ([0.5, 0.5, 0.5], "same time"),
        ([0.0, "x", 1.0], "not a number"),
    ],
)
def test_impossible_times(times: list[float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_slice_timing(times, 3, TR)


def test_possible_times() -> None:
    check_slice_timing([0.0, 1.0, 0.5], 3, TR)
    with pytest.raises(InputError, match="unknown"):
        check_slice_timing([0.0, 1.0, 0.5], 3, 0.0)
