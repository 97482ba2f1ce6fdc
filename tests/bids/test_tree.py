"""Folders of participants: sound ones, odd ones, and links."""

import os

import pytest

from neuroferry.bids.ignored import Ignored
from neuroferry.bids.index import index_subjects
from neuroferry.bids.tree import find_participants, odd_participants
from neuroferry.errors import ExitCode, InputError

SOUND = {f"sub-{label}/anat/sub-{label}_T1w.nii.gz": None for label in ("01", "02")}


def told(root):
    return {problem.path.name: problem for problem in odd_participants(root) if problem.path}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("sub-P-01", "'P-01' is not a label of BIDS"),
        ("sub-01 copy", "'01 copy' is not a label"),
        ("sub-", "'' is not a label"),
        ("01", "seems to hold a participant"),
        ("Sub-03", "seems to hold a participant"),
        ("sub_04", "seems to hold a participant"),
    ],
)
def test_a_folder_that_seems_a_participant_is_named(make_dataset, folder, words):
    root = make_dataset({**SOUND, f"{folder}/anat/{folder}_T1w.nii.gz": None})
    assert find_participants(root) == ["01", "02"]
    problem = told(root)[folder]
    assert words in problem.message
    assert problem.severity == "error"
    assert [subject.problems for subject in index_subjects(root)] == [(), ()]


def test_other_folders_are_no_participants(make_dataset):
    root = make_dataset(
        {
            **SOUND,
            "sourcedata/anat/x.nii.gz": None,
            "derivatives/fmriprep/sub-09/anat/sub-09_T1w.nii.gz": None,
            "fmriprep/sub-09/anat/sub-09_T1w.nii.gz": None,
            "code/run.sh": "",
            ".git/anat/x": "",
            "sub-01.zip": "",
            "participants.tsv": "participant_id\nsub-01\n",
        }
    )
    assert odd_participants(root) == []
    assert find_participants(root) == ["01", "02"]


def test_a_dataset_of_odd_folders_alone_says_why(make_dataset):
    root = make_dataset({"sub-P-01/anat/sub-P-01_T1w.nii.gz": None})
    with pytest.raises(InputError, match=r"no participants .*'P-01' is not a label") as caught:
        index_subjects(root)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


def test_an_odd_folder_that_is_asked_for_says_why(make_dataset):
    root = make_dataset({**SOUND, "sub-P-01/anat/sub-P-01_T1w.nii.gz": None})
    with pytest.raises(InputError, match=r"does not exist .*'P-01' is not a label") as caught:
        index_subjects(root, participant_labels=["P-01"])
    assert caught.value.exit_code == ExitCode.NOTHING_MATCHED


def test_links_that_lead_nowhere_are_named(make_dataset):
    root = make_dataset(SOUND)
    (root / "sub-03").symlink_to("../elsewhere/sub-03")
    (root / "sub-01/fmap").symlink_to("/nowhere/fmap")
    (root / "sub-01/notes").symlink_to("/nowhere/notes")
    (root / "sub-02/anat/round").symlink_to("..")
    assert "links to ../elsewhere/sub-03, which does not exist" in told(root)["sub-03"].message
    first, second = index_subjects(root)
    severities = {p.path.name: p.severity for p in first.problems if p.path}
    assert severities == {"fmap": "error", "notes": "warning"}
    assert "links to /nowhere/fmap, which does not exist" in first.problems[0].message
    assert "links to a folder that it is in" in second.problems[0].message
    assert len(first.images) == len(second.images) == 1


def test_links_to_folders_are_followed(make_dataset, tmp_path):
    root = make_dataset(SOUND)
    (root / "sub-02").rename(tmp_path / "store")
    (root / "sub-02").symlink_to("../store")
    _, second = index_subjects(root)
    assert [image.place for image in second.images] == ["sub-02/anat/sub-02_T1w.nii.gz"]
    assert second.problems == ()


def test_names_that_are_not_utf8_are_named(make_dataset):
    root = make_dataset(SOUND)
    image = (root / "sub-01/anat/sub-01_T1w.nii.gz").read_bytes()
    for folder in (b"sub-\xff", b"sub-01/an\xe4t"):
        path = os.path.join(os.fsencode(root), folder)  # noqa: PTH118
        os.mkdir(path)  # noqa: PTH102
        with open(path + b"/sub-01_T1w.nii.gz", "wb") as stream:  # noqa: PTH123
            stream.write(image)
    assert r"'\xff' is not a label" in told(root)[r"sub-\xff"].message
    (problem,) = index_subjects(root)[0].problems
    assert r"sub-01/an\xe4t is not a folder of images" in problem.message
    assert problem.severity == "error"


def test_labels_that_differ_in_case_are_two_with_a_warning(make_dataset):
    root = make_dataset({f"sub-{x}/anat/sub-{x}_T1w.nii.gz": None for x in ("a", "A")})
    assert find_participants(root) == ["A", "a"]
    (problem,) = odd_participants(root)
    assert problem.severity == "warning"
    assert "sub-A and sub-a differ in case alone" in problem.message


def test_what_bidsignore_lists_is_left_out_with_a_word(make_dataset):
    root = make_dataset(
        {
            **SOUND,
            "sub-03/anat/sub-03_T1w.nii.gz": None,
            "01/anat/01_T1w.nii.gz": None,
            "sub-01/anat/old/sub-01_T1w.nii.gz": None,
            "sub-01/anat/sub-01_acq-bad_T1w.nii.gz": None,
            ".bidsignore": "# not ours\n/01/\nsub-03/\nold/\n*_acq-bad_*\n",
        }
    )
    assert find_participants(root) == ["01", "02"]
    (problem,) = odd_participants(root)
    assert problem.severity == "warning"
    assert "sub-03 is left out, as .bidsignore lists it" in problem.message
    first, _ = index_subjects(root)
    assert [image.path.name for image in first.images] == ["sub-01_T1w.nii.gz"]
    (problem,) = first.problems
    assert problem.severity == "warning"
    assert "sub-01_acq-bad_T1w.nii.gz: left out, as .bidsignore lists them" in problem.message


def test_a_pattern_that_is_none_is_taken_literally():
    ignored = Ignored(["[z-a].nii.gz", "*_x.nii.gz"])
    assert "sub-01/anat/[z-a].nii.gz" in ignored
    assert "sub-01/anat/b_x.nii.gz" in ignored


def test_a_byte_order_mark_is_no_part_of_a_pattern(tmp_path):
    (tmp_path / ".bidsignore").write_bytes(b"\xef\xbb\xbf*_acq-bad_*\r\n")
    assert "sub-01/anat/sub-01_acq-bad_T1w.nii.gz" in Ignored.of(tmp_path)
