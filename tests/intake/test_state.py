"""What an intake tells of itself, to people and to programs."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from dicom_objects import make_object, write_object

from neuroferry.errors import InputError
from neuroferry.intake.headers import read_instance
from neuroferry.intake.model import Outcome
from neuroferry.intake.queue import Queue
from neuroferry.intake.spool import Spool
from neuroferry.intake.state import read_state, show_state


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "root")


@pytest.fixture
def queue(spool):
    with closing(Queue(spool.private)) as opened:
        yield opened


def test_nothing_has_arrived(spool, queue) -> None:
    state = read_state(spool.root)
    assert state == {"series": [], "quality": [], "rejected": {}, "turned_down": {}}
    assert show_state(state) == "Nothing has arrived yet."


def test_a_folder_without_an_intake(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no intake") as caught:
        read_state(tmp_path)
    assert caught.value.exit_code == 66
    assert list(tmp_path.iterdir()) == []


def test_it_tells_of_everything_but_patients(spool, queue, tmp_path) -> None:
    instance = read_instance(write_object(tmp_path))
    for number in range(3):
        queue.add_object(f"o{number}", "d", "s", f"o{number}.dcm", instance)
    queue.add_object("o9", "d", "t", "o9.dcm", instance)
    outcome = Outcome(
        "placed", "By rule 1.", spool.root / "bids", "01", None, ("a.nii.gz",), ("Look.",)
    )
    queue.finish("s", 3, outcome)
    (row,) = queue.quality_in()
    queue.start_quality(row, 1, 0.0)
    queue.end_quality(row, "failed", 70, "the last line")
    queue.reject("a.dcm", "It is no image.")
    queue.see([("00", "It is cut off."), ("01", ""), ("02", "It is cut off.")])
    state = read_state(spool.root)
    text = show_state(state)
    for part in (
        "series 1, 3 objects: placed. By rule 1.",
        "    a.nii.gz",
        "    WARNING: Look.",
        "series 1, 1 objects: receiving.",
        "sub-01: quality control failed. the last line",
        "1 received objects are kept in .intake/rejected: It is no image.",
        "2 files of watched folders stay where they are: It is cut off.",
    ):
        assert part in text
    item = make_object()
    for word in (item.PatientID, str(item.PatientName), item.SeriesInstanceUID, "1990"):
        assert word not in json.dumps(state).replace(str(tmp_path), "")


def test_kept_objects_are_shown_as_their_folder() -> None:
    folder = "sourcedata/unassigned/sub-01/004-MPRAGE"
    row = {
        "number": 4,
        "n_objects": 160,
        "expected": None,
        "last_time": "2026-01-02T12:00:00.000Z",
        "state": "unassigned",
        "reason": "No rule matches it.",
        "files": [*(f"{folder}/{number:06}.dcm" for number in range(160)), f"{folder}/reason.txt"],
        "warnings": ["Look."],
    }
    state = {"series": [row], "quality": [], "rejected": {}, "turned_down": {}}
    assert show_state(state).splitlines() == [
        "2026-01-02T12:00:00  series 4, 160 objects: unassigned. No rule matches it.",
        f"    {folder}/",
        "    WARNING: Look.",
    ]
    row["files"] = ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert "    sub-01/anat/sub-01_T1w.nii.gz" in show_state(state).splitlines()
