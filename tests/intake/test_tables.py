"""Tables keep what others wrote into them."""

from __future__ import annotations

import json
from datetime import datetime

from neuroferry.intake.tables import (
    acquisition_time,
    add_participant,
    add_rows,
    describe_dataset,
    drop_rows,
)


def test_rows_are_added_and_other_columns_stay(tmp_path):
    path = tmp_path / "scans.tsv"
    path.write_text("filename\tverdict\nb.nii.gz\tlook\n")
    add_rows(path, "filename", {"a.nii.gz": {"acq_time": "1910-01-01T00:00:00"}})
    add_rows(path, "filename", {"b.nii.gz": {"acq_time": "n/a"}})
    lines = path.read_text().splitlines()
    assert lines[0].split("\t") == ["filename", "verdict", "acq_time"]
    assert lines[1].split("\t") == ["a.nii.gz", "n/a", "1910-01-01T00:00:00"]
    assert lines[2].split("\t") == ["b.nii.gz", "look", "n/a"]
    drop_rows(path, "filename", ["a.nii.gz", "none"])
    assert path.read_text().splitlines() == [lines[0], lines[2]]
    drop_rows(tmp_path / "none.tsv", "filename", ["a"])
    assert not (tmp_path / "none.tsv").exists()


def test_a_dataset_is_described_once(tmp_path):
    describe_dataset(tmp_path, "study", "1.0")
    content = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (content["Name"], content["DatasetType"]) == ("study", "raw")
    (tmp_path / "dataset_description.json").write_text("{}")
    describe_dataset(tmp_path, "study", "1.0")
    assert (tmp_path / "dataset_description.json").read_text() == "{}"
    add_participant(tmp_path, "01")
    add_participant(tmp_path, "01")
    assert (tmp_path / "participants.tsv").read_text() == "participant_id\nsub-01\n"


def test_times():
    when = datetime(2024, 3, 5, 9, 30, 1, 500000)
    assert acquisition_time(when, -40000, "keep") == "2024-03-05T09:30:01.500000"
    assert acquisition_time(when, -40000, "shift") == "1914-08-30T09:30:01.500000"
    assert acquisition_time(when, -40000, "remove") is None
    assert acquisition_time(None, 0, "shift") == "n/a"
