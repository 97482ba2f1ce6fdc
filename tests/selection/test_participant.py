"""Plans of participants, and their problems."""

from dataclasses import replace
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from plans import plan_of

from neuroferry.bids.model import Image, Subject
from neuroferry.config import WorkflowConfig
from neuroferry.selection.participant import wanted_suffixes


@pytest.fixture
def person(tmp_path):
    """Return a function that makes a participant from (session, suffix) pairs."""

    def make(*images):
        runs = []
        for session, suffix in images:
            entities = {"subject": "01", "task": "rest"} if suffix == "bold" else {"subject": "01"}
            if session:
                entities["session"] = session
            path = tmp_path / f"sub-01_ses-{session}_{suffix}.nii.gz"
            shape = (20, 20, 10, 6) if suffix == "bold" else (20, 20, 10)
            image = nb.Nifti1Image(np.zeros(shape, np.int16), np.diag([3, 3, 3, 1]))
            image.header.set_zooms((3, 3, 3, 2)[: len(shape)])
            image.to_filename(path)
            kind = "func" if suffix == "bold" else "anat"
            times = [0.1 * n for n in range(10)]
            metadata = {"RepetitionTime": 2.0, "SliceTiming": times}
            runs.append(Image(path, entities, suffix, kind, metadata))
        return Subject("01", tuple(runs))

    return make


FUNC: dict[str, Any] = {"workflows": ["func"], "ignore": ["fieldmaps"]}


@pytest.mark.parametrize(
    ("workflow", "images", "usable", "word"),
    [
        ({"workflows": ["anat"]}, ["T1w"], True, None),
        ({"workflows": ["anat"]}, ["bold"], False, "no usable T1w image"),
        (FUNC, ["T1w"], False, "no usable BOLD run"),
        (FUNC, ["T1w", "bold"], True, None),
        (FUNC, ["bold"], True, "there is no T1w image. The BOLD runs stay in native space"),
        ({**FUNC, "workflows": ["anat", "func"]}, ["T1w"], True, "there is no usable BOLD run"),
        ({"workflows": ["anat", "func"]}, [], False, "no usable T1w image and no usable BOLD run"),
    ],
)
def test_what_there_is_decides(person, workflow, images, usable, word):
    plan = plan_of(person(*((None, suffix) for suffix in images)), **workflow)
    assert plan.has_work == usable
    assert [problem.severity for problem in plan.problems] == (
        [] if word is None else ["warning" if usable else "error"]
    )
    assert word is None or word in plan.problems[0].message


def test_another_session_lends_its_anatomy(person):
    subject = person(("a", "T1w"), ("a", "bold"), ("b", "bold"))
    plan = plan_of(subject, **FUNC)
    (problem,) = plan.problems
    assert "BOLD runs of ses-b use the T1w image of ses-a" in problem.message
    assert [bold.anatomy for bold in plan.bold] == ["ses_a_anatomy_wf"] * 2


def test_why_distortion_stays_is_said(person):
    plan = plan_of(person((None, "bold")), workflows=("func",))
    assert "sub-01_ses-None_bold.nii.gz is not corrected for susceptibility" in (
        plan.problems[0].message
    )
    assert (plan.bold[0].fieldmap.method, plan.bold[0].fieldmap.origin) == (None, None)
    ignored = plan_of(person((None, "bold")), **FUNC)
    assert (ignored.bold[0].fieldmap.method, ignored.bold[0].fieldmap.origin) == (None, "option")


def test_images_that_are_looked_at():
    def wanted(*workflows, ignore=()):
        return wanted_suffixes(WorkflowConfig(workflows=workflows, ignore=ignore))

    assert wanted("anat") == ("T1w", "T2w")
    assert wanted("anat", ignore=("t2w",)) == ("T1w",)
    assert {"T1w", "bold", "phasediff", "epi"} <= set(wanted("func"))
    assert wanted("func", ignore=("fieldmaps",)) == ("T1w", "bold")
    assert {"T1w", "dwi", "phasediff", "epi"} <= set(wanted("dwi"))
    assert wanted("dwi", ignore=("fieldmaps",)) == ("T1w", "dwi")


def test_dwi_runs_are_looked_at_where_they_are_asked_for(person, tmp_path):
    (problem,) = plan_of(person((None, "T1w"), (None, "bold")), workflows=("dwi",)).problems
    assert "no usable DWI run" in problem.message
    image = nb.Nifti1Image(np.zeros((20, 20, 10, 3), np.int16), np.diag([3, 3, 3, 1]))
    image.to_filename(tmp_path / "sub-01_dwi.nii.gz")
    (tmp_path / "sub-01_dwi.bval").write_text("0 1000 1000")
    (tmp_path / "sub-01_dwi.bvec").write_text("0 1 0\n0 0 1\n0 0 0")
    run = Image(tmp_path / "sub-01_dwi.nii.gz", {"subject": "01"}, "dwi", "dwi", {})
    plan = plan_of(Subject("01", (run,)), workflows=("dwi",))
    assert plan.has_work
    assert {problem.severity for problem in plan.problems} == {"warning"}
    assert "no T1w image. The DWI runs stay in native space" in plan.problems[-1].message
    encoding = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}
    plan = plan_of(Subject("01", (replace(run, metadata=encoding),)), workflows=("dwi",))
    texts = [problem.message for problem in plan.problems]
    assert any("sub-01_dwi.nii.gz is not corrected for susceptibility" in text for text in texts)
