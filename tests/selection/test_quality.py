"""Which images are measured on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neuroferry.bids.model import Image, Subject
from neuroferry.config import WorkflowConfig
from neuroferry.selection.quality import plan_quality


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    images = []
    for name, suffix in (
        ("sub-01_run-1_T1w", "T1w"),
        ("sub-01_run-2_T1w", "T1w"),
        ("sub-01_T2w", "T2w"),
        ("sub-01_part-phase_T2w", "T2w"),
    ):
        path = tmp_path / "sub-01" / "anat" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.diag([1, 2, 3, 1])), path)
        words = {key: value for key, _, value in (word.partition("-") for word in name.split("_"))}
        entities = {"subject": "01"} | {k: words[k] for k in ("run", "part") if k in words}
        sidecar = tmp_path / f"{suffix}.json"
        images.append(Image(path, entities, suffix, "anat", {"FlipAngle": 8}, None, (sidecar,)))
    return Subject("01", tuple(images))


def measured(subject: Subject, **chosen: Any) -> list[str]:
    plans = plan_quality(subject, WorkflowConfig(**chosen))
    return [plan.image.path.name.removesuffix(".nii.gz") for plan in plans]


def test_qc_alone_measures_every_anatomical_image(subject: Subject) -> None:
    names = measured(subject, workflows=("qc",))
    assert names == ["sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_T2w"]


def test_t1w_images_are_left_to_the_anatomical_workflow(subject: Subject) -> None:
    assert measured(subject, workflows=("anat", "qc")) == ["sub-01_T2w"]
    assert measured(subject) == ["sub-01_T2w"]


def test_modalities_and_workflows_restrict_what_is_measured(subject: Subject) -> None:
    assert measured(subject, workflows=("qc",), modalities=("bold",)) == []
    assert measured(subject, workflows=("anat",)) == []


def test_plan_holds_the_geometry_and_the_files_but_no_metadata(subject: Subject) -> None:
    plan = plan_quality(subject, WorkflowConfig(workflows=("qc",)))[0]
    assert (plan.modality, plan.shape, plan.zooms) == ("T1w", (4, 5, 6), (1.0, 2.0, 3.0))
    assert plan.label == "run_1_T1w"
    assert plan.image.metadata == {}
    assert [path.name for path in plan.inputs] == ["sub-01_run-1_T1w.nii.gz", "T1w.json"]
