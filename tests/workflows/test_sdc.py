import json
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.epi.distortion import distort, shift_of
from neuroferry.interfaces.image.images import Volume, resample_to, save_volume
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.templates import load_template
from neuroferry.workflows.sdc import OUTPUTS, init_sdc_wf

pytestmark = pytest.mark.slow

AFFINE = np.array([[-5.0, 0, 0, 92], [0, 5.0, 0, -122], [0, 0, 5.0, -62], [0, 0, 0, 1]])
SHAPE = (38, 44, 28)
ENCODED: dict[str, Any] = {"phase_encoding": "j-", "readout_time": 0.03}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a BOLD reference, its opposite, gradient echoes and a T1w image, from the template."""
    folder = tmp_path_factory.mktemp("sdc")
    template = load_template(2)
    tissue = template.gm + 0.75 * template.wm + 1.5 * template.csf
    inside = np.where(template.brain_mask, tissue, 0).astype(np.float32)
    flat = 1000 * resample_to(Volume(inside, template.affine), SHAPE, AFFINE).data
    x, y, z = np.indices(SHAPE)
    field = 160 * np.exp(-(((x - 19) / 5) ** 2 + ((y - 33) / 5) ** 2 + ((z - 9) / 4) ** 2) / 2)
    field = field.astype(np.float32)
    rng = np.random.default_rng(3)

    def save(name, data):
        noisy = np.abs(data + rng.normal(scale=15, size=SHAPE)).astype(np.float32)
        return save_volume(Volume(noisy, AFFINE), folder / f"{name}.nii.gz")

    # In air a scanner's phase is noise, which fills the whole range.
    noise = np.where(flat > 100, 0.03, 3.0) * rng.normal(size=SHAPE)
    phase = np.angle(np.exp(2j * np.pi * field * 0.0025 + 1j * noise)) / np.pi * 4096
    return {
        "truth": field,
        "brain": flat > 300,
        "bold": save("bold", distort(flat, shift_of(field, "j-", 0.03), 1)),
        "opposite": save("opposite", distort(flat, shift_of(field, "j", 0.03), 1)),
        "magnitude": save("magnitude", flat),
        "phase": save_volume(
            Volume(phase.astype(np.float32), AFFINE), folder / "phasediff.nii.gz"
        ),
    }


def run(plan, files, tmp_path):
    """Run the workflow in one process; return the estimated field and the report."""
    workflow = init_sdc_wf(plan=plan, bold_shape=SHAPE, sloppy=True)
    workflow.base_dir = str(tmp_path)
    workflow.inputs.inputnode.bold_ref = files["bold"]
    graph = workflow.run(plugin="Linear")
    outputs = {node.name: node.result.outputs for node in graph.nodes()}["apply_fieldmap"]
    with open(outputs.sdc_report) as file:  # noqa: PTH123
        report = json.load(file)
    return nb.load(outputs.fieldmap).get_fdata(), report


def halved(found, files):
    truth, brain = files["truth"], files["brain"]
    return np.abs(found - truth)[brain].mean() < 0.5 * np.abs(truth)[brain].mean()


def test_phase_difference(files, tmp_path):
    plan = FieldmapPlan(
        method="phasediff",
        magnitude=(files["magnitude"],),
        phase=(files["phase"],),
        echo_times=(0.005, 0.0075),
        phase_ranges=((-4096, 4096),),
        **ENCODED,
    )
    found, report = run(plan, files, tmp_path)
    assert halved(found, files)
    assert report["method"] == "phasediff"


def test_one_opposite_image_with_the_bold_itself(files, tmp_path):
    plan = FieldmapPlan(
        method="pepolar",
        epi=(files["opposite"],),
        epi_phase_encoding=("j",),
        epi_readout_times=(0.03,),
        **ENCODED,
    )
    found, report = run(plan, files, tmp_path)
    assert halved(found, files)
    assert report["fieldmap_moved_mm"] == 0


@pytest.mark.parametrize("method", ["phasediff", "phases", "direct", "pepolar"])
def test_every_method_has_the_same_outputs(method, files):
    plan = FieldmapPlan(
        method=method,
        magnitude=(files["magnitude"],),
        phase=(files["phase"],),
        fieldmap=(files["phase"],),
        epi=(files["bold"], files["opposite"]),
        echo_times=(0.005, 0.0075),
        phase_ranges=((-4096, 4096),),
        epi_phase_encoding=("j-", "j"),
        epi_readout_times=(0.03, 0.03),
        **ENCODED,
    )
    workflow = init_sdc_wf(plan=plan, bold_shape=SHAPE)
    assert set(workflow.get_node("outputnode").outputs.get()) == set(OUTPUTS)
    assert "@jezzard1995" in workflow.__desc__
    for name in workflow.list_node_names():
        assert workflow.get_node(name).mem_gb > 0


def test_no_method_no_workflow():
    with pytest.raises(ValueError, match="without a method"):
        init_sdc_wf(plan=FieldmapPlan(), bold_shape=SHAPE)
