"""Images that are left out because of their names, and how they are told."""

import pytest

from neuroferry.bids.ignored import Ignored
from neuroferry.bids.index import index_subjects
from neuroferry.bids.placed import find_images

T1W = "sub-01/anat/sub-01_T1w.nii.gz"


def images_of(subject):
    return [image.place for image in subject.images]


@pytest.mark.parametrize(
    ("odd", "severity"),
    [
        ("sub-01/anat/old/sub-01_T1w.nii.gz", "error"),
        ("sub-01/anat/sub-01_foo-2_T1w.nii.gz", "error"),
        ("sub-01/func/sub-01_task-n-back_bold.nii.gz", "error"),
        ("sub-01/anat/sub-02_T1w.nii.gz", "error"),
        ("sub-01/anat/sub-01_t1w.nii.gz", "error"),
        ("sub-01/anat/sub-01_MPRAGE.nii.gz", "warning"),
        ("sub-01/anat/sub-01_foo-2_T2w.nii.gz", "warning"),
        ("sub-01/notes/mask.nii.gz", "warning"),
    ],
)
def test_an_odd_image_is_left_out_with_its_path_and_the_others_stay(make_dataset, odd, severity):
    root = make_dataset({T1W: None, odd: None, "sub-02/anat/sub-02_T1w.nii.gz": None})
    first, second = index_subjects(root)
    assert images_of(first) == [T1W]
    (problem,) = first.problems
    assert (problem.path, problem.severity) == (root / odd, severity)
    assert str(root / odd) in problem.message
    assert "so it is left out. Rename or move it, or list it in .bidsignore" in problem.message
    assert images_of(second) == ["sub-02/anat/sub-02_T1w.nii.gz"]
    assert second.problems == ()


@pytest.mark.parametrize("extension", [".mgz", ".img", ".nii.bz2"])
def test_an_image_of_another_format_is_named(make_dataset, extension):
    root = make_dataset({T1W: None})
    odd = root / f"sub-01/anat/sub-01_acq-b_T1w{extension}"
    odd.write_bytes(b"image")
    (subject,) = index_subjects(root)
    assert images_of(subject) == [T1W]
    (problem,) = subject.problems
    assert (problem.path, problem.severity) == (odd, "error")
    assert f"'{extension}' is not .nii.gz or .nii" in problem.message


def test_it_is_an_error_only_if_a_workflow_reads_such_images(make_dataset):
    root = make_dataset({T1W: None, "sub-01/anat/sub-01_task-x_bold.nii.gz": None})
    (subject,) = index_subjects(root, used=["T1w"])
    assert [problem.severity for problem in subject.problems] == ["warning"]


def test_a_participant_whose_images_all_are_odd_has_none(make_dataset):
    root = make_dataset({"sub-01/anat/T1w.nii.gz": None})
    (subject,) = index_subjects(root)
    assert subject.images == ()
    assert "lacks sub-01" in subject.problems[0].message
    assert "sub-01 has no images: nothing in" in subject.problems[1].message


def test_many_of_one_kind_are_one_problem(make_dataset):
    odd = [f"sub-01/anat/sub-01_desc-{n}_T1w.nii.gz" for n in "abcde"]
    root = make_dataset({T1W: None, **dict.fromkeys(odd)})
    (subject,) = index_subjects(root)
    (problem,) = subject.problems
    assert "sub-01_desc-c_T1w.nii.gz and 2 more: desc-, space- and the like" in problem.message
    assert problem.severity == "error"


@pytest.mark.parametrize(
    ("kept", "twin"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.nii"),
        ("sub-01/anat/sub-01_run-01_T1w.nii.gz", "sub-01/anat/sub-01_run-1_T1w.nii.gz"),
        ("sub-01/anat/sub-01_acq-a_run-1_T1w.nii.gz", "sub-01/anat/sub-01_run-1_acq-a_T1w.nii.gz"),
    ],
)
def test_of_two_files_for_one_image_one_is_read(make_dataset, kept, twin):
    root = make_dataset({kept: None, twin: None})
    (subject,) = index_subjects(root)
    assert images_of(subject) == [kept]
    (problem,) = subject.problems
    assert (problem.path, problem.severity) == (root / twin, "error")
    assert f"names the same image as {kept.rpartition('/')[2]}" in problem.message


def test_labels_are_no_numbers(make_dataset):
    names = ["sub-01/anat/sub-01_acq-01_T1w.nii.gz", "sub-01/anat/sub-01_acq-1_T1w.nii.gz"]
    (subject,) = index_subjects(make_dataset(dict.fromkeys(names)))
    assert images_of(subject) == names
    assert subject.problems == ()


def test_hidden_files_and_recordings_are_no_images(make_dataset):
    hidden = ("._sub-01_T1w.nii.gz", ".DS_Store", ".old/sub-01_T1w.nii.gz")
    root = make_dataset({T1W: None, **{f"sub-01/anat/{name}": "x" for name in hidden}})
    (root / "sub-01/meg/sub-01_meg.ds/x.nii.gz").parent.mkdir(parents=True)
    (root / "sub-01/meg/sub-01_meg.ds/x.nii.gz").touch()
    found = find_images(root, "01", Ignored([]), ["T1w"])
    assert [path for path, _ in found.images] == [root / T1W]
    assert found.problems == []
