"""The graph of the quality metrics of a DWI run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from dwi_tables import directions

from neuroferry.bids.dwi import check_dwi
from neuroferry.bids.index import index_subjects
from neuroferry.config import WorkflowConfig
from neuroferry.selection.quality import QualityPlan, plan_quality
from neuroferry.workflows.qc.dwi import init_dwi_qc_wf

CONFIG = WorkflowConfig(workflows=("qc",), modalities=("dwi",))


def plan(root: Path, count: int) -> QualityPlan:
    """Write a run without content, and plan its metrics."""
    folder = root / "sub-01/dwi"
    folder.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    nb.Nifti1Image(np.ones((20, 22, 12, 1 + count), np.int16), np.diag([3, 3, 4, 1])).to_filename(
        folder / "sub-01_dwi.nii.gz"
    )
    (folder / "sub-01_dwi.json").write_text('{"PhaseEncodingDirection": "j-"}')
    np.savetxt(folder / "sub-01_dwi.bval", [[0, *[1000] * count]], fmt="%g")
    vectors = np.vstack([np.zeros((1, 3)), directions(count)])
    np.savetxt(folder / "sub-01_dwi.bvec", vectors.T, fmt="%.6f")
    subject = index_subjects(root)[0]
    (found,) = plan_quality(subject, CONFIG, dwi=check_dwi(subject).runs)
    return found


def build(root: Path, quality: QualityPlan):
    return init_dwi_qc_wf(
        plan=quality, bids_dir=root, out_dir=root / "out", config=CONFIG, name="dwi_qc_wf"
    )


@pytest.mark.parametrize(("count", "with_tensor"), [(12, True), (3, False)])
def test_a_tensor_is_drawn_if_there_is_one(tmp_path, count, with_tensor):
    workflow = build(tmp_path, plan(tmp_path, count))
    names = {name.rpartition(".")[2] for name in workflow.list_node_names()}
    assert {"estimate_motion", "measure_signals", "collect_metrics", "write_iqms"} <= names
    assert ("draw_qctensor" in names) == with_tensor
    assert len(names) <= 20
    motion = workflow.get_node("estimate_motion")
    assert motion.inputs.phase_encoding == "j-"


def test_unusable_volumes_are_left_out_of_every_step(tmp_path):
    quality = plan(tmp_path, 12)
    assert quality.dwi is not None
    run = replace(quality.dwi, unusable_volumes=(4,))
    workflow = build(tmp_path, replace(quality, dwi=run))
    for name in ("estimate_motion", "measure_signals", "collect_metrics"):
        assert workflow.get_node(name).inputs.unusable == [4]


def test_every_picture_has_its_place_in_the_report(tmp_path):
    workflow = build(tmp_path, plan(tmp_path, 12))
    drawn = {n.rpartition("draw_")[2] for n in workflow.list_node_names() if "draw_" in n}
    layout = (Path(__file__).parents[3] / "configs" / "report.yml").read_text(encoding="utf-8")
    assert all(f"desc: {desc}, suffix: dwi" in layout for desc in drawn)
