"""The whole graph, built and flattened for combinations of data and settings."""

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph
from other_template import NAME, write_template
from plans import workflow_of

from neuroferry.bids.headers import image_shape
from neuroferry.bids.model import Image, Subject
from neuroferry.errors import UsageError

SPACE = "MNI152NLin2009aSym"


@pytest.fixture
def dataset(tmp_path):
    """Return a function that makes subjects from (session, run) pairs, with 20x30x40 images."""

    def make(label, *scans):
        runs = []
        (tmp_path / "bids").mkdir(exist_ok=True)
        (tmp_path / "bids" / "dataset_description.json").write_text('{"Name": "made up"}')
        for session, run in scans:
            entities = {"subject": label}
            if session:
                entities["session"] = session
            if run:
                entities["run"] = run
            keys = {"subject": "sub", "session": "ses", "run": "run"}
            name = "_".join(f"{keys[k]}-{v}" for k, v in entities.items()) + "_T1w.nii.gz"
            folders = [f"sub-{label}", *([f"ses-{session}"] if session else []), "anat"]
            path = tmp_path.joinpath("bids", *folders, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            nb.Nifti1Image(np.zeros((20, 30, 40), np.int16), np.eye(4)).to_filename(path)
            runs.append(Image(path, entities, "T1w", "anat"))
        return Subject(label, tuple(runs))

    return make


def steps(subjects, tmp_path, **settings):
    workflow = workflow_of(*subjects, folder=tmp_path, **settings)
    graph = generate_expanded_graph(workflow._create_flat_graph())
    return [node.fullname.removeprefix("neuroferry_wf.") for node in graph.nodes()]


@pytest.mark.parametrize("sloppy", [True, False])
@pytest.mark.parametrize("workflows", [("anat",), ("anat", "qc")])
@pytest.mark.parametrize("spaces", [(SPACE,), (f"{SPACE}:res-2", "T1w")])
def test_one_image(dataset, tmp_path, sloppy, workflows, spaces):
    names = steps(
        [dataset("01", (None, None))],
        tmp_path,
        sloppy=sloppy,
        workflows=workflows,
        output_spaces=spaces,
    )
    assert all(name.startswith("sub_01_wf.anatomy_wf.") for name in names)
    assert any("compute_iqms" in name for name in names) == ("qc" in workflows)
    assert any("write_std_t1w" in name for name in names) == ("anat" in workflows)


def test_native_space_alone_writes_nothing_in_template_space(dataset, tmp_path):
    names = steps([dataset("01", (None, None))], tmp_path, output_spaces=("T1w",))
    assert not any("write_std_" in name for name in names)
    assert any("write_anat2std_xfm" in name for name in names)


def test_sessions_and_runs(dataset, tmp_path):
    subject = dataset("01", ("a", "1"), ("a", "2"), ("b", None))
    names = steps([subject, dataset("02", (None, None))], tmp_path)
    metrics = [name for name in names if name.endswith("compute_iqms")]
    assert sorted(metrics) == [
        "sub_01_wf.ses_a_anatomy_wf.anat_qc_1_wf.compute_iqms",
        "sub_01_wf.ses_a_anatomy_wf.anat_qc_2_wf.compute_iqms",
        "sub_01_wf.ses_b_anatomy_wf.anat_qc_wf.compute_iqms",
        "sub_02_wf.anatomy_wf.anat_qc_wf.compute_iqms",
    ]
    assert len(set(names)) == len(names)


def test_precomputed_results_replace_their_branch(dataset, tmp_path):
    anat = tmp_path / "deriv" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for name in (
        "desc-brain_mask.nii.gz",
        "dseg.nii.gz",
        *(f"label-{tissue}_probseg.nii.gz" for tissue in ("GM", "WM", "CSF")),
        f"from-T1w_to-{SPACE}_mode-image_xfm.h5",
        f"from-{SPACE}_to-T1w_mode-image_xfm.h5",
    ):
        (anat / f"sub-01_{name}").touch()
    subject = dataset("01", (None, None))
    computed = steps([subject], tmp_path)
    given = steps([subject], tmp_path, derivatives={"mine": tmp_path / "deriv"})
    for step in ("extract_brain", "segment_tissues", "register_template"):
        assert any(name.endswith(step) for name in computed)
        assert not any(name.endswith(step) for name in given)


def test_precomputed_results_are_the_sources_that_the_sidecars_name(dataset, tmp_path):
    anat = tmp_path / "deriv" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_desc-brain_mask.nii.gz").touch()
    workflow = workflow_of(
        dataset("01", (None, None)), folder=tmp_path, derivatives={"mine": tmp_path / "deriv"}
    )
    path = "sub_01_wf.anatomy_wf.anat_derivatives_wf.write_"
    sources = {
        part: workflow.get_node(path + part).inputs.metadata["Sources"]
        for part in ("brain_mask", "dseg")
    }
    assert sources == {
        "brain_mask": ["bids:mine:sub-01/anat/sub-01_desc-brain_mask.nii.gz"],
        "dseg": [
            "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
            "bids::sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        ],
    }


@pytest.mark.parametrize(
    "space", ["MNI152NLin6Asym", f"{SPACE}:res-9", f"{SPACE}:a", "T2w", "T1w:res-2", "A:b"]
)
def test_a_space_that_is_not_there(dataset, tmp_path, space):
    with pytest.raises(UsageError, match="not an output space"):
        steps([dataset("01", (None, None))], tmp_path, output_spaces=("T1w", space))


def test_other_templates_have_a_branch_each(dataset, tmp_path):
    write_template(tmp_path, 8, 12)
    write_template(tmp_path, 8, name="Children", cohort="2")
    subject = dataset("01", ("a", None))
    spaces = (f"{NAME}:res-8", f"{NAME}:res-12", "Children:cohort-2", "T1w")
    names = steps(
        [subject], tmp_path, workflows=("anat",), output_spaces=spaces, templateflow_home=tmp_path
    )
    start = "sub_01_wf.ses_a_anatomy_wf."
    moved, children = (f"{start}to_{name}_wf." for name in (NAME.lower(), "children_cohort_2"))
    expected = {
        f"{moved}normalisation_wf.register_template",
        f"{moved}template_outputs_res_8_wf.carry_to_template",
        f"{moved}template_outputs_res_12_wf.carry_to_template",
        f"{moved}template_derivatives_wf.write_std_tpms_res_12",
        f"{children}normalisation_wf.register_template",
        f"{children}template_outputs_wf.carry_to_template",
        f"{children}template_derivatives_wf.write_std_t1w",
        f"{children}template_derivatives_wf.write_anat2std_xfm",
        f"{start}anat_wf.normalisation_wf.register_template",
    }
    assert expected <= set(names)
    assert f"{start}anat_derivatives_wf.write_std_t1w" not in names
    plain = steps([subject], tmp_path, workflows=("anat",), output_spaces=("T1w",))
    assert not any(".to_" in name for name in plain)


def test_precomputed_transforms_to_another_template(dataset, tmp_path):
    write_template(tmp_path, 8)
    anat = tmp_path / "deriv" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for way in (f"from-T1w_to-{NAME}", f"from-{NAME}_to-T1w"):
        (anat / f"sub-01_{way}_mode-image_xfm.h5").touch()
    names = steps(
        [dataset("01", (None, None))],
        tmp_path,
        output_spaces=(NAME,),
        templateflow_home=tmp_path,
        derivatives={"mine": tmp_path / "deriv"},
    )
    registrations = [name for name in names if name.endswith("register_template")]
    assert registrations == ["sub_01_wf.anatomy_wf.anat_wf.normalisation_wf.register_template"]
    assert any(name.endswith("carry_to_template") and ".to_" in name for name in names)


def test_the_graph_needs_memory_by_the_size_of_the_image(dataset, tmp_path):
    small = dataset("01", (None, None))
    large = dataset("02", (None, None))
    nb.Nifti1Image(np.zeros((300, 300, 300), np.int8), np.eye(4)).to_filename(large.images[0].path)
    assert image_shape(Path(large.images[0].path)) == (300, 300, 300)
    workflow = workflow_of(small, large, folder=tmp_path)
    path = "anatomy_wf.anat_wf.correct_bias"
    needs = [workflow.get_node(f"sub_{label}_wf.{path}").mem_gb for label in ("01", "02")]
    assert needs[1] > needs[0] + 0.5
