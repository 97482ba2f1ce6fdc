"""The graph that measures a BOLD series."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.model import Image
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.derivatives import DerivativesNode
from neuroferry.selection.quality import QualityPlan
from neuroferry.workflows.qc.bold import init_bold_qc_wf


@pytest.fixture
def plan(tmp_path):
    echoes = []
    for number in ("1", "2"):
        path = tmp_path / f"sub-01/ses-a/func/sub-01_ses-a_task-rest_echo-{number}_bold.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        entities = {"subject": "01", "session": "a", "task": "rest", "echo": number}
        echoes.append(Image(path, entities, "bold", "func"))
    (tmp_path / "dataset_description.json").write_text("{}")
    shape, zooms = (64, 64, 36), (3.0, 3.0, 3.5)
    run = BoldRun(tuple(echoes), shape, zooms, 150, 2.0, slice_axis=1, unusable_volumes=(3,))
    return QualityPlan("bold", echoes[1], shape, zooms, 150, bold=run)


def build(plan, tmp_path, **settings):
    return init_bold_qc_wf(
        plan=plan,
        bids_dir=tmp_path,
        out_dir=tmp_path / "out",
        config=WorkflowConfig(**settings),
        omp_nthreads=2,
        name="quality_wf",
    )


def test_an_echo_is_measured_with_the_motion_of_the_first(plan, tmp_path):
    measure = build(plan, tmp_path, dummy_scans=4).get_node("measure")
    inputs = measure.inputs
    assert Path(inputs.source).name == "sub-01_ses-a_task-rest_echo-2_bold.nii.gz"
    assert Path(inputs.reference_echo).name == "sub-01_ses-a_task-rest_echo-1_bold.nii.gz"
    assert (inputs.tr, inputs.slice_axis, inputs.unusable, inputs.dummy_scans) == (2.0, 1, [3], 4)
    assert measure.n_procs == inputs.n_procs == 2
    assert 0.2 < measure.mem_gb < 0.6


def test_its_files_have_the_names_of_the_echo(plan, tmp_path):
    workflow = build(plan, tmp_path)
    written = [
        str(path.relative_to(tmp_path / "out"))
        for node in workflow._get_all_nodes()
        if isinstance(node, DerivativesNode)
        for path in (*node.interface.output_paths(), *node.interface.sidecar_paths())
    ]
    stem = "sub-01_ses-a_task-rest_echo-2_desc"
    assert sorted(written) == [
        *(f"sub-01/figures/{stem}-qc{n}_bold.svg" for n in ("carpet", "mean", "noise")),
        f"sub-01/ses-a/func/{stem}-iqms_bold.json",
        *(f"sub-01/ses-a/func/{stem}-iqms_timeseries.{e}" for e in ("json", "tsv")),
    ]


def test_a_plan_without_a_run_is_a_mistake(plan, tmp_path):
    with pytest.raises(ValueError, match="no run"):
        build(QualityPlan("bold", plan.image, plan.shape, plan.zooms), tmp_path)
