"""Repetition time, echo time, slice axis and slice times, from sidecars and headers."""

import math

import pytest

from neuroferry.bids.timing import (
    settle_echo_time,
    settle_slice_axis,
    settle_slice_times,
    settle_tr,
)

SHAPE = (64, 30, 64)


@pytest.mark.parametrize(
    ("sidecar", "header", "used", "word"),
    [
        ({"RepetitionTime": 2.0}, 2.0, 2.0, None),
        ({"RepetitionTime": 2.0}, 1.9995, 2.0, None),
        ({"RepetitionTime": 2000}, 2.0, 2.0, None),  # `check_sidecar` speaks of milliseconds
        ({"RepetitionTime": 2.0}, 2000.0, 2.0, None),
        ({"RepetitionTime": 2.0}, 0.0, 2.0, None),
        ({}, 2.0, 2.0, "that of the header, 2 s, is used"),
        ({"RepetitionTime": "2 s"}, 2.0, 2.0, "is '2 s', not a positive number"),
        ({"RepetitionTime": 0}, 0.0, None, "is 0, not a positive number, and the header has none"),
        ({}, 0.0, None, "neither the sidecar nor the header"),
        ({}, 2e-3, None, "neither the sidecar nor the header"),  # 2 ms: of no scanner
        ({"RepetitionTime": 0.8}, 800.0, 0.8, None),
        ({"RepetitionTime": math.nan}, 2.0, 2.0, "is nan, not a positive number"),
        ({"RepetitionTime": 2.0}, math.nan, 2.0, None),
        ({"RepetitionTime": 2.0}, 1.0, 2.0, "2 s in the sidecar and 1 s in the header"),
        ({"VolumeTiming": [0, 3, 9]}, 3.0, None, "unevenly spaced volumes are not supported"),
    ],
)
def test_where_the_repetition_time_comes_from(sidecar, header, used, word):
    tr, findings = settle_tr(sidecar, header, 100)
    assert tr == used
    assert [finding.fatal for finding in findings] == ([] if word is None else [used is None])
    assert word is None or word in findings[0].message


def test_slices_are_named_in_their_stored_order():
    sidecar = {"SliceTiming": [0, 0.5, 1], "SliceEncodingDirection": "i-"}
    assert settle_slice_axis(sidecar, (3, 9, 9)) == (0, "")
    assert settle_slice_times(sidecar, 3, 2.0) == ((1.0, 0.5, 0.0), "")
    assert settle_slice_times({"SliceTiming": [0.1] * 3}, 3, 2.0) == ((), "")


@pytest.mark.parametrize("times", [[math.nan, 0, 1], [math.inf, 0, 1], [True, 0, 1], ["0", 0, 1]])
def test_times_that_are_no_numbers(times):
    assert settle_slice_times({"SliceTiming": times}, 3, 2.0)[0] == ()


@pytest.mark.parametrize(
    ("sidecar", "header", "axis", "word"),
    [
        ({"SliceEncodingDirection": "j"}, 1, 1, ""),
        ({"SliceEncodingDirection": "j-"}, None, 1, ""),
        ({"SliceEncodingDirection": "k"}, 0, 2, "along k by the sidecar"),
        ({"SliceEncodingDirection": "j"}, 2, 1, "along j by the sidecar"),
        ({"SliceEncodingDirection": "z"}, 2, 2, ""),
        ({}, None, 2, ""),
        ({}, 2, 2, ""),
        ({}, 1, 2, "the third axis, k, is used"),
        ({"SliceTiming": [0.0] * 30}, 1, 1, "SliceTiming agrees with the header"),
        ({"SliceTiming": [0.0] * 64}, 1, 2, "the third axis, k, is used"),
        ({"SliceTiming": [0.0] * 64}, 0, 2, "the third axis, k, is used"),  # both fit
        ({"SliceEncodingDirection": ["k"], "SliceTiming": "?"}, 1, 2, "the third axis"),
    ],
)
def test_the_axis_of_the_slices(sidecar, header, axis, word):
    found, text = settle_slice_axis(sidecar, SHAPE, header)
    assert found == axis
    assert bool(text) == bool(word)
    assert word in text


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(0.03, 0.03), (30, 0.03), (math.nan, None), (math.inf, None), (True, None), ("30", None)],
)
def test_echo_times(said, seconds):
    assert settle_echo_time({"EchoTime": said}) == seconds
