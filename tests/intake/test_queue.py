"""The queue: what is done next, whatever happened before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dicom_objects import write_object

from neuroferry.intake.headers import read_instance
from neuroferry.intake.model import Instance, Outcome
from neuroferry.intake.queue import DONE, PROCESSING, QUEUED, READY, RECEIVING, RUNNING, Queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    (tmp_path / ".intake").mkdir()
    with closing(Queue(tmp_path / ".intake")) as opened:
        yield opened


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return read_instance(write_object(tmp_path))


def placed(root: Path) -> Outcome:
    return Outcome("placed", "By a rule.", root / "bids", "01", None, ("sub-01/anat/x",))


def add(queue: Queue, instance: Instance, *names: str) -> None:
    for name in names:
        queue.add_object(name, "digest", "s", name, instance)


def test_outcome_is_read_as_it_was_written(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a", "b")
    queue.finish("s", 2, placed(tmp_path))
    (row,) = queue.series_in()
    assert (row.state, row.n_objects, row.outcome) == ("placed", 2, placed(tmp_path))


def test_a_root_that_was_moved_keeps_its_queue(instance: Instance, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / ".intake").mkdir(parents=True)
    with closing(Queue(old / ".intake")) as queue:
        add(queue, instance, "a")
        queue.finish("s", 1, placed(old))
    old.rename(new)
    with closing(Queue(new / ".intake")) as queue:
        (row,) = queue.quality_in(QUEUED)
        assert row.dataset == str(new / "bids")
        queue.start_quality(row, 1, 0.0)
        queue.end_quality(row, DONE, 0, "")
        assert [one.state for one in queue.quality_in()] == [DONE]
        assert queue.series_in()[0].outcome == placed(new)


def test_series_come_in_the_order_of_acquisition(queue: Queue, instance: Instance) -> None:
    noon = datetime(2026, 1, 2, 12)
    for key, minutes, number in (("b", 9, 2), ("c", 9, 7), ("a", 5, 9)):
        taken = replace(instance, acquired=noon + timedelta(minutes=minutes), series_number=number)
        queue.add_object(key, "digest", key, key, taken)
    assert [row.series for row in queue.series_in(RECEIVING)] == ["a", "b", "c"]


def test_a_series_that_grew_while_it_was_converted_is_converted_again(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a")
    queue.set_state("s", PROCESSING)
    add(queue, instance, "b")
    queue.finish("s", 1, placed(tmp_path))
    assert [row.state for row in queue.series_in()] == [RECEIVING]


def test_objects_of_a_placed_series_open_it_again(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a")
    queue.finish("s", 1, placed(tmp_path))
    add(queue, instance, "late")
    assert [row.state for row in queue.series_in()] == [RECEIVING]


def test_what_was_being_done_is_done_by_the_next_process(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a")
    queue.finish("s", 1, placed(tmp_path))
    queue.start_quality(queue.quality_in(QUEUED)[0], 1, 0.0)
    queue.set_state("s", PROCESSING)
    queue.interrupted()
    assert [row.state for row in queue.series_in()] == [READY]
    assert [row.state for row in queue.quality_in()] == [QUEUED]


def test_series_that_complete_meanwhile_join_the_next_run_of_quality_control(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a")
    queue.finish("s", 1, placed(tmp_path))
    (row,) = queue.quality_in(QUEUED)
    queue.start_quality(row, 1, 0.0)
    queue.finish("s", 1, placed(tmp_path))
    queue.finish("s", 1, placed(tmp_path))
    assert [found.state for found in queue.quality_in()] == [RUNNING]
    queue.end_quality(row, DONE, 0, "")
    assert [found.state for found in queue.quality_in()] == [QUEUED]
    queue.start_quality(row, 1, 0.0)
    queue.end_quality(row, DONE, 0, "")
    assert [found.state for found in queue.quality_in()] == [DONE]


def test_expected_number_is_the_largest_that_an_object_says(
    queue: Queue, instance: Instance
) -> None:
    from dataclasses import replace

    for name, expected in (("a", None), ("b", 6), ("c", 4), ("d", None)):
        add(queue, replace(instance, expected=expected), name)
    assert queue.series_in()[0].expected == 6


def test_objects_of_old_series_can_be_removed_once(
    queue: Queue, instance: Instance, tmp_path: Path
) -> None:
    add(queue, instance, "a")
    queue.finish("s", 1, placed(tmp_path))
    assert queue.clear("2000-01-01") == []
    assert queue.clear("2100-01-01") == ["s"]
    assert queue.clear("2100-01-01") == []
    assert queue.series_in()[0].cleared
