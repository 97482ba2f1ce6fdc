"""Verdicts in the dataset's own tables."""

import json

import pytest

from neuroferry.errors import InputError
from neuroferry.judgement.scans_tsv import write_scans_columns
from neuroferry.judgement.verdicts import Verdict

TABLE = "filename\tacq_time\nfunc/sub-1_task-x_bold.nii.gz\tn/a\nanat/sub-1_T1w.nii.gz\t2026\n"


@pytest.fixture
def raw(tmp_path):
    for name in ("sub-1/anat/sub-1_T1w.nii.gz", "sub-2/ses-b/anat/sub-2_ses-b_T1w.nii"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / "sub-1" / "sub-1_scans.tsv").write_text(TABLE)
    (tmp_path / "scans.json").write_text('{"acq_time": {"Description": "When"}}')
    return tmp_path


VERDICTS = (
    Verdict("sub-1_T1w", "T1w", "look", final="exclude", rating=1.5, raters=2, artifacts=("inu",)),
    Verdict("sub-2_ses-b_T1w", "T1w", "accept"),
    Verdict("sub-3_T1w", "T1w", "accept"),
)


def test_columns_are_added_and_the_rest_stays(raw):
    written, notes = write_scans_columns(raw, VERDICTS)
    lines = (raw / "sub-1" / "sub-1_scans.tsv").read_text().split("\n")
    assert lines == [
        "filename\tacq_time\tqc_verdict\tqc_rating\tqc_raters\tqc_artifacts",
        "func/sub-1_task-x_bold.nii.gz\tn/a\tn/a\tn/a\tn/a\tn/a",
        "anat/sub-1_T1w.nii.gz\t2026\texclude\t1.5\t2\tinu",
        "",
    ]
    made = raw / "sub-2" / "ses-b" / "sub-2_ses-b_scans.tsv"
    assert made.read_text().splitlines()[1] == "anat/sub-2_ses-b_T1w.nii\taccept\tn/a\t0\tn/a"
    about = json.loads((raw / "scans.json").read_text())
    assert about["acq_time"] == {"Description": "When"}
    assert about["qc_verdict"]["Levels"]["exclude"]
    assert len(written) == 3
    assert notes == [f"sub-3_T1w is not in {raw}; its verdict is not written there."]


def test_writing_again_changes_nothing_and_new_verdicts_replace_old(raw):
    write_scans_columns(raw, VERDICTS)
    before = (raw / "sub-1" / "sub-1_scans.tsv").read_bytes()
    write_scans_columns(raw, VERDICTS)
    assert (raw / "sub-1" / "sub-1_scans.tsv").read_bytes() == before
    write_scans_columns(raw, [Verdict("sub-1_T1w", "T1w", "accept")])
    assert b"\taccept\tn/a\t0\tn/a" in (raw / "sub-1" / "sub-1_scans.tsv").read_bytes()


def test_lines_keep_their_ends(raw):
    path = raw / "sub-1" / "sub-1_scans.tsv"
    path.write_bytes(TABLE.replace("\n", "\r\n").encode())
    write_scans_columns(raw, VERDICTS)
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("text", ["file\tx\na\tb\n", "filename\tx\na\n", "filename,x\na,b\n"])
def test_a_table_that_is_odd_stops_everything_before_it_is_written(raw, text):
    (raw / "sub-1" / "sub-1_scans.tsv").write_text(text)
    with pytest.raises(InputError, match=r"sub-1_scans\.tsv cannot be extended"):
        write_scans_columns(raw, VERDICTS)
    assert not (raw / "sub-2" / "ses-b" / "sub-2_ses-b_scans.tsv").exists()
    assert (raw / "sub-1" / "sub-1_scans.tsv").read_text() == text


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a BIDS dataset"):
        write_scans_columns(tmp_path, VERDICTS)
