"""T1w images that are repeats of one another, and those that only look so."""

import re
from pathlib import Path

import pytest
from plans import plan_of
from tiny_dataset import write_dataset

PLAIN = {"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9, "FlipAngle": 9}


def chosen(folder: Path, images: dict):
    """Return the names of the images of the anatomy, and the problems."""
    plan = plan_of(write_dataset(folder / "bids", images))
    names = [[image.path.name[7:-7] for image in anatomy.images] for anatomy in plan.anatomies]
    return names, plan.problems


def test_runs_are_repeats(tmp_path):
    images = {"anat/T1w": PLAIN, "anat/run-1_T1w": PLAIN, "anat/run-2_T1w": {"FlipAngle": 9}}
    names, problems = chosen(tmp_path, images)
    assert names == [["T1w", "run-1_T1w", "run-2_T1w"]]
    assert problems == ()


@pytest.mark.parametrize(
    ("kept", "left", "words"),
    [
        ("T1w", "part-phase_T1w", "part-phase is not a magnitude image"),
        ("part-mag_T1w", "part-phase_T1w", "part-phase is not a magnitude image"),
        ("T1w", "chunk-1_T1w", "chunk-1 shows a part of the head only"),
        ("T1w", "ce-gad_T1w", "differ in ce. .* acquired without a contrast agent"),
        ("acq-z_T1w", "acq-a_ce-gad_T1w", "differ in acq and ce. .* without a contrast agent"),
        ("T1w", "rec-norm_T1w", "differ in rec. .* has fewer entities"),
        ("T1w", "echo-1_T1w", "differ in echo. .* has fewer entities"),
        ("acq-a_T1w", "acq-b_T1w", "differ in acq. .* its name comes first"),
        ("echo-1_T1w", "echo-2_T1w", "differ in echo. .* its name comes first"),
        ("inv-1_T1w", "inv-2_T1w", "differ in inv. "),
    ],
)
def test_what_differs_in_anything_but_run_is_no_repeat(tmp_path, kept, left, words):
    names, (problem,) = chosen(tmp_path, {f"anat/{kept}": PLAIN, f"anat/{left}": PLAIN})
    assert names == [[kept]]
    assert problem.severity == "warning"
    assert problem.path == tmp_path / f"bids/sub-01/anat/sub-01_{left}.nii.gz"
    assert re.search(words, problem.message)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"FlipAngle": 25}, r"FlipAngle \(9 and 25\)"),
        ({"EchoTime": 0.02, "RepetitionTime": 0.5}, r"EchoTime \(0.003 and 0.02\) and Repetition"),
        ({"ContrastBolusIngredient": "GADOLINIUM"}, "ContrastBolusIngredient"),
    ],
)
def test_runs_of_another_contrast_are_no_repeats(tmp_path, other, words):
    images = {"anat/run-1_T1w": PLAIN, "anat/run-2_T1w": {**PLAIN, **other}, "anat/run-3_T1w": {}}
    names, (problem,) = chosen(tmp_path, images)
    assert names == [["run-1_T1w", "run-3_T1w"]]
    assert re.search(f"is no repeat of sub-01_run-1_T1w.nii.gz: .*{words}", problem.message)


def test_an_inversion_time_is_preferred_to_a_name(tmp_path):
    flash = {key: value for key, value in PLAIN.items() if key != "InversionTime"}
    names, (problem,) = chosen(tmp_path, {"anat/acq-a_T1w": flash, "anat/acq-b_T1w": PLAIN})
    assert names == [["acq-b_T1w"]]
    assert "because it was acquired with an inversion time" in problem.message


def test_parts_alone_are_no_anatomy(tmp_path):
    names, problems = chosen(tmp_path, {f"anat/chunk-{n}_T1w": PLAIN for n in (1, 2)})
    assert names == []
    assert [problem.severity for problem in problems] == ["warning", "warning", "error"]


def test_each_session_chooses_for_itself(tmp_path):
    images = {f"ses-{s}/anat/{n}": PLAIN for s, n in (("a", "T1w"), ("b", "acq-x_T1w"))}
    names, problems = chosen(tmp_path, images)
    assert names == [["ses-a_T1w"], ["ses-b_acq-x_T1w"]]
    assert problems == ()
