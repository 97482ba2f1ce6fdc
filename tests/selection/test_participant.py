"""What a run makes of each participant."""

from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.app.inputs import with_flags
from neuroferry.bids.filters import apply_filters
from neuroferry.bids.model import Run, Subject
from neuroferry.config import make_config
from neuroferry.errors import UsageError
from neuroferry.selection.participant import selection_problems, usable_subjects, wanted_suffixes


def settings(workflow=None, **given):
    return make_config({"bids_dir": "/a", "output_dir": "/b", "workflow": workflow or {}, **given})


@pytest.fixture
def person(tmp_path):
    """Makes a participant of (session, suffix) pairs; BOLD images have a header."""

    def make(*images):
        runs = []
        for session, suffix in images:
            entities = {"subject": "01", "task": "rest"} if suffix == "bold" else {"subject": "01"}
            if session:
                entities["session"] = session
            path = tmp_path / f"sub-01_ses-{session}_{suffix}.nii.gz"
            if suffix == "bold":
                image = nb.Nifti1Image(np.zeros((20, 20, 10, 6), np.int16), np.diag([3, 3, 3, 1]))
                image.to_filename(path)
            kind = "func" if suffix == "bold" else "anat"
            runs.append(Run(path, entities, suffix, kind, {"RepetitionTime": 2.0}))
        return Subject("01", tuple(runs))

    return make


def diffusion(config):
    """The same settings, with the diffusion workflow chosen."""
    return replace(config, workflow=replace(config.workflow, workflows=("dwi",)))


FUNC = {"workflows": ["func"], "ignore": ["fieldmaps"]}


@pytest.mark.parametrize(
    ("workflow", "images", "usable", "word"),
    [
        ({"workflows": ["anat"]}, ["T1w"], True, None),
        ({"workflows": ["anat"]}, ["bold"], False, "no T1w image that can be used"),
        (FUNC, ["T1w"], False, "no BOLD run that can be used"),
        (FUNC, ["T1w", "bold"], True, None),
        (FUNC, ["bold"], True, "there is no T1w image. The BOLD runs stay in their own space"),
        ({**FUNC, "workflows": ["anat", "func"]}, ["T1w"], True, "there is no BOLD run"),
        ({"workflows": ["anat", "func"]}, [], False, "no T1w image and no BOLD run"),
    ],
)
def test_what_there_is_decides(person, workflow, images, usable, word):
    config = settings(workflow)
    subject = person(*((None, suffix) for suffix in images))
    assert usable_subjects(config, [subject]) == ([subject] if usable else [])
    problems = list(selection_problems(config, subject))
    assert [problem.severity for problem in problems] == (
        [] if word is None else ["warning" if usable else "error"]
    )
    assert word is None or word in problems[0].message


def test_another_session_lends_its_anatomy(person):
    subject = person(("a", "T1w"), ("a", "bold"), ("b", "bold"))
    (problem,) = selection_problems(settings(FUNC), subject)
    assert "BOLD runs of ses-b use the T1w image of ses-a" in problem.message


def test_why_distortion_stays_is_said(person):
    (problem,) = list(
        selection_problems(settings({"workflows": ["func"]}), person((None, "bold")))
    )[:1]
    assert "sub-01_ses-None_bold.nii.gz is not corrected for susceptibility" in problem.message


def test_images_that_are_looked_at():
    assert wanted_suffixes(settings({"workflows": ["anat"]})) == ("T1w",)
    assert {"T1w", "bold", "phasediff", "epi"} <= set(
        wanted_suffixes(settings({"workflows": ["func"]}))
    )
    assert wanted_suffixes(settings(FUNC)) == ("T1w", "bold")


def test_diffusion_runs_are_looked_at_where_they_are_asked_for(person, tmp_path):
    config = diffusion(settings())
    assert {"T1w", "dwi", "phasediff", "epi"} <= set(wanted_suffixes(config))
    assert wanted_suffixes(diffusion(settings({"ignore": ["fieldmaps"]}))) == ("T1w", "dwi")
    (problem,) = selection_problems(config, person((None, "T1w"), (None, "bold")))
    assert "no diffusion-weighted run that can be used" in problem.message
    image = nb.Nifti1Image(np.zeros((20, 20, 10, 3), np.int16), np.diag([3, 3, 3, 1]))
    image.to_filename(tmp_path / "sub-01_dwi.nii.gz")
    (tmp_path / "sub-01_dwi.bval").write_text("0 1000 1000")
    (tmp_path / "sub-01_dwi.bvec").write_text("0 1 0\n0 0 1\n0 0 0")
    run = Run(tmp_path / "sub-01_dwi.nii.gz", {"subject": "01"}, "dwi", "dwi", {})
    subject = Subject("01", (run,))
    assert usable_subjects(config, [subject]) == [subject]
    (problem,) = selection_problems(config, subject)
    assert problem.severity == "warning"
    assert "no T1w image. The diffusion-weighted runs stay in their own space" in problem.message
    plan = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}
    problems = selection_problems(config, Subject("01", (replace(run, metadata=plan),)))
    assert "sub-01_dwi.nii.gz is not corrected for susceptibility" in next(problems).message


def test_flags_narrow_the_search():
    config = settings(input={"task_id": ["rest"], "echo_idx": 2})
    filters = with_flags(config, {"bold": {"session": "a"}})
    runs = [
        Run(Path(f"{task}{echo}"), {"session": "a", "task": task, **echo}, "bold", "func")
        for task in ("rest", "nback")
        for echo in ({"echo": "1"}, {"echo": "02"}, {})
    ]
    kept = apply_filters(filters, runs)
    assert [(run.entities["task"], run.entities.get("echo")) for run in kept] == [
        ("rest", "02"),
        ("rest", None),
    ]
    assert with_flags(settings(), None) == {}
    with pytest.raises(UsageError, match="--task-id and the filter file both"):
        with_flags(config, {"bold": {"task": "nback"}})
