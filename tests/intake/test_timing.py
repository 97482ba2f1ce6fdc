"""The clock of the images decides where it is steady; else the header, and the doubt is said."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from neuroferry.intake.timing import settle_repetition_time, settle_slice_times
from neuroferry.intake.volumes import Frame, Volumes

START = datetime(2024, 3, 5, 9)


def volumes(times, slices=None, *, header=2.0, whole=True, planar=True, lists=None):
    """Make volumes at times in s; `slices` in s after them, by place, one row or one a volume."""
    frames: list[Frame] = []
    rows = np.atleast_2d(slices if slices is not None else [0.0])
    for number, time in enumerate(times):
        row = rows[min(number, len(rows) - 1)]
        for place, late in enumerate(row):
            clock = START + timedelta(seconds=float(time + late)) if time is not None else None
            frames.append(
                Frame(Path(f"{number}"), "mag", 30.0, None if whole else float(place), (0, 0, 1.0),
                      clock, (0, number + 1, len(frames) + 1, 0), None,
                      tuple(lists[min(number, len(lists) - 1)]) if lists else ())
            )  # fmt: skip
    return Volumes(tuple(frames), whole, False, header, planar, None)


STEADY = np.arange(10) * 2.0
RAGGED = [0.0, 1.5, 3.1, 7.0, 7.2, 9.0, 9.9, 12.0, 15.0, 16.1]


@pytest.mark.parametrize(
    ("times", "header", "written", "settled", "said"),
    [
        (STEADY, 2.0, 2.0, 2.0, ""),
        (STEADY, 2.0, 1.794, 2.0, "2 s by the times of its 10 volumes"),
        (STEADY, None, 1.794, 2.0, "by the times"),
        (STEADY, 1.794, 1.794, 2.0, "by the times"),
        (STEADY + 0.0025 * (np.arange(10) % 2), 2.0, 2.0, 2.0, ""),
        (np.floor(np.arange(10) * 2.43537), 2.43537, 2.43537, 2.43537, ""),
        (np.floor(np.arange(60) * 2.43537), 2.43537, 1.794, 2.43537, "by the times"),
        (RAGGED, 2.0, 1.794, 2.0, "derived 1.794 s from times that are not steady"),
        (RAGGED, 2.0, 2.0, 2.0, ""),
        (np.zeros(10), 5.0, 5.0, 5.0, ""),
        ([None] * 10, 2.0, None, 2.0, "by the header"),
        ([None] * 10, None, None, None, "add it to the sidecar"),
        (STEADY[:3], 2.0, 2.1, 2.0, "by the header"),
    ],
)
def test_repetition_times(times, header, written, settled, said):
    content = {} if written is None else {"RepetitionTime": written}
    found, sentence = settle_repetition_time(content, volumes(times, header=header), len(times))
    assert found == (settled if settled is None else pytest.approx(settled, abs=1e-9))
    assert said in sentence
    assert bool(said) == bool(sentence)


def test_a_header_that_the_clock_contradicts_is_said_though_the_converter_was_right():
    content = {"RepetitionTime": 2.0}
    found, said = settle_repetition_time(content, volumes(STEADY, header=1.794), len(STEADY))
    assert (found, "the header says 1.794 s" in said) == (2.0, True)
    # a shot of a three-dimensional sequence
    shots = volumes(STEADY, header=0.05, planar=False)
    assert settle_repetition_time(content, shots, len(STEADY)) == (2.0, "")


def test_whole_seconds_with_a_volume_missing_are_not_steady():
    times = np.array([0.0, 2, 6, 8, 10])
    found, said = settle_repetition_time({"RepetitionTime": 2.5}, volumes(times), len(times))
    assert (found, "not steady" in said) == (2.0, True)


def test_the_header_of_a_3d_sequence_is_that_of_an_excitation():
    found, said = settle_repetition_time(
        {"RepetitionTime": 2.0}, volumes(RAGGED, header=1.5, planar=False), 10
    )
    assert (found, said) == (2.0, "")


def test_one_volume_has_none_to_check():
    assert settle_repetition_time({"RepetitionTime": 5.0}, volumes([0.0]), 1) == (5.0, "")


LATER = [0.0, 0.5, 0.25, 0.0, 0.5, 0.25]
FIRST = [0.0, 1.0, 0.25, 1.25, 0.5, 1.5]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_slice_times_are_those_of_the_later_volumes(whole, turned):
    rows = [FIRST, *[LATER] * 5]
    made = volumes(STEADY[:6], lists=rows) if whole else volumes(STEADY[:6], rows, whole=False)
    turn = slice(None, None, -1 if turned else 1)
    found, said = settle_slice_times({"SliceTiming": FIRST[turn]}, made, 2.0)
    assert found == pytest.approx(LATER[turn])
    assert "were replaced" in said
    # the converter took them from a later volume itself
    assert settle_slice_times({"SliceTiming": LATER[turn]}, made, 2.0) == (LATER[turn], "")
    # it wrote what no volume has
    odd = [time + 0.1 * number for number, time in enumerate(FIRST)]
    found, said = settle_slice_times({"SliceTiming": odd}, made, 2.0)
    assert found is None
    assert "left out" in said


def test_slice_times_after_the_end_of_the_volume_are_left_out():
    found, said = settle_slice_times({"SliceTiming": FIRST}, volumes([0.0]), 1.0)
    assert found is None
    assert "single-band reference" in said


def test_slice_times_that_cannot_be_those_of_several_bands_are_left_out():
    content = {"SliceTiming": FIRST, "MultibandAccelerationFactor": 2}
    found, said = settle_slice_times(content, volumes([0.0]), 2.0)
    assert found is None
    assert "6 slice times cannot be those of 6 slices" in said
    content["SliceTiming"] = LATER
    assert settle_slice_times(content, volumes([0.0]), 2.0) == (LATER, "")


def test_without_slice_times_there_is_nothing_to_settle():
    assert settle_slice_times({}, volumes(STEADY), 2.0) == (None, "")
