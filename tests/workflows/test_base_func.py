"""BOLD runs in the whole graph: their anatomies and distortion correction."""

from typing import Any

import nibabel as nb
import numpy as np
import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph
from other_template import NAME, write_template
from plans import workflow_of

from neuroferry.bids.model import Image, Subject

SPACE = "MNI152NLin2009aSym"
BOLD = {"RepetitionTime": 2.0, "PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}
EPI = {**BOLD, "PhaseEncodingDirection": "j"}


@pytest.fixture
def person(tmp_path):
    """Return a function that makes a participant from (session, suffix, metadata) triples."""

    def make(*images):
        runs = []
        for session, suffix, metadata in images:
            entities = {"subject": "01", **({"session": session} if session else {})}
            kind = {"T1w": "anat", "bold": "func"}.get(suffix, "fmap")
            name = "sub-01" + (f"_ses-{session}" if session else "")
            if suffix == "bold":
                entities["task"], name = "rest", f"{name}_task-rest"
            path = tmp_path / "bids" / f"{name}_{suffix}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            shape = (20, 22, 18) if suffix == "T1w" else (20, 22, 10, 6)
            nb.Nifti1Image(np.zeros(shape, np.int16), np.diag([3, 3, 4, 1])).to_filename(path)
            runs.append(Image(path, entities, suffix, kind, metadata))
        return Subject("01", tuple(runs))

    return make


def graph(subject, tmp_path, **settings):
    chosen = {"workflows": ("func",), "output_spaces": (f"{SPACE}:res-3", "bold"), **settings}
    workflow = workflow_of(subject, folder=tmp_path, **chosen)
    expanded = generate_expanded_graph(workflow._create_flat_graph())
    start = "neuroferry_wf.sub_01_wf."
    return {node.fullname.removeprefix(start): node for node in expanded.nodes()}, expanded


def feeds(expanded, node):
    """List the names of the steps directly before a step."""
    return {before.fullname.rpartition("sub_01_wf.")[2] for before in expanded.predecessors(node)}


def test_without_bold_nothing_is_added(person, tmp_path):
    found, _ = graph(person((None, "T1w", {})), tmp_path, workflows=("anat", "func"))
    assert all(name.startswith("anatomy_wf.") for name in found)


def test_func_alone_computes_the_anatomy_that_it_needs(person, tmp_path):
    subject = person(("a", "T1w", {}), ("b", "T1w", {}), ("b", "bold", BOLD))
    found, expanded = graph(subject, tmp_path)
    assert not any(name.startswith("ses_a_") for name in found)
    register = found["ses_b_bold_task_rest_wf.fit_wf.register_bold"]
    assert "ses_b_anatomy_wf.anat_wf.correct_bias" in feeds(expanded, register)
    assert not any("write_std_t1w" in name for name in found)


def test_a_session_without_a_t1w_takes_that_of_the_first(person, tmp_path):
    subject = person(("a", "T1w", {}), ("b", "bold", BOLD))
    found, expanded = graph(subject, tmp_path)
    register = found["ses_b_bold_task_rest_wf.fit_wf.register_bold"]
    assert "ses_a_anatomy_wf.anat_wf.correct_bias" in feeds(expanded, register)


@pytest.mark.parametrize("given", [False, True])
def test_another_template_is_reached_by_its_own_transform(person, tmp_path, given):
    write_template(tmp_path, 8)
    anat = tmp_path / "deriv" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for name in (
        *("desc-preproc_T1w.nii.gz", "desc-brain_mask.nii.gz", "dseg.nii.gz"),
        *(f"label-{tissue}_probseg.nii.gz" for tissue in ("GM", "WM", "CSF")),
        *(
            f"from-{a}_to-{b}_mode-image_xfm.h5"
            for space in (SPACE, NAME)
            for a, b in (("T1w", space), (space, "T1w"))
        ),
    ):
        (anat / f"sub-01_{name}").touch()
    image = nb.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4))
    image.to_filename(anat / "sub-01_desc-preproc_T1w.nii.gz")
    found, expanded = graph(
        person((None, "T1w", {}), (None, "bold", BOLD)),
        tmp_path,
        output_spaces=(SPACE, f"{NAME}:res-08"),
        templateflow_home=tmp_path,
        derivatives={"mine": tmp_path / "deriv"} if given else {},
    )
    apply = "bold_task_rest_wf.apply_wf."
    space = f"{NAME.lower()}_res_8"
    chain = found[f"{apply}chain_{space}"]
    if given:
        assert chain.inputs.in2 == str(anat / f"sub-01_from-T1w_to-{NAME}_mode-image_xfm.h5")
    else:
        register = f"anatomy_wf.to_{NAME.lower()}_wf.normalisation_wf.register_template"
        assert register in feeds(expanded, chain)
        own = "anatomy_wf.anat_wf.normalisation_wf.register_template"
        assert own in feeds(expanded, found[register])
        assert own in feeds(expanded, found[f"{apply}chain_{SPACE.lower()}_res_2"])
    # measured with a template of 4 mm: 0.13 GB
    assert 0.12 < found[f"{apply}make_grid_{space}"].mem_gb < 0.2
    assert found[f"{apply}make_grid_{SPACE.lower()}_res_2"].mem_gb > 0.3
    grid = found[f"{apply}make_grid_{space}"].inputs.template
    assert grid == str(tmp_path / f"tpl-{NAME}" / f"tpl-{NAME}_res-08_T1w.nii.gz")
    write = found[f"bold_task_rest_wf.bold_derivatives_wf.write_bold_{space}"]
    (path,) = write.interface.output_paths()
    assert path.name == f"sub-01_task-rest_space-{NAME}_res-8_desc-preproc_bold.nii.gz"
    assert write.inputs.metadata["Resolution"] == "8.48 x 7.6 x 8.32 mm"


def test_without_any_t1w_a_run_stays_in_its_own_space(person, tmp_path):
    found, _ = graph(person((None, "bold", BOLD)), tmp_path)
    steps = {name.rpartition(".")[2] for name in found}
    assert "resample_bold" in steps
    assert not {"register_bold", "carry_tissues", "estimate_fieldmap"} & steps
    assert not any("mni152" in name for name in steps)


@pytest.mark.parametrize("with_t1w", [True, False])
@pytest.mark.parametrize("workflows", [("func",), ("anat", "func")])
def test_a_given_anatomy_is_used_as_it_is(person, tmp_path, workflows, with_t1w):
    anat = tmp_path / "deriv" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for name in (
        *("desc-preproc_T1w.nii.gz", "desc-brain_mask.nii.gz", "dseg.nii.gz"),
        *(f"label-{tissue}_probseg.nii.gz" for tissue in ("GM", "WM", "CSF")),
        f"from-T1w_to-{SPACE}_mode-image_xfm.h5",
        f"from-{SPACE}_to-T1w_mode-image_xfm.h5",
    ):
        (anat / f"sub-01_{name}").touch()
    image = nb.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4))
    image.to_filename(anat / "sub-01_desc-preproc_T1w.nii.gz")
    images: list[tuple[None, str, dict[str, Any]]] = [(None, "T1w", {})] if with_t1w else []
    found, _ = graph(
        person(*images, (None, "bold", BOLD)),
        tmp_path,
        workflows=workflows,
        derivatives={"mine": tmp_path / "deriv"},
    )
    computed = with_t1w and "anat" in workflows
    assert any(name.startswith("anatomy_wf.") for name in found) == computed
    register = found["bold_task_rest_wf.fit_wf.register_bold"]
    if not computed:
        assert register.inputs.t1w_preproc == str(anat / "sub-01_desc-preproc_T1w.nii.gz")
        chain = found[f"bold_task_rest_wf.apply_wf.chain_{SPACE.lower()}_res_3"]
        assert chain.inputs.in2 == str(anat / f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5")


def test_a_field_map_reaches_every_resampling(person, tmp_path):
    subject = person((None, "T1w", {}), (None, "bold", BOLD), (None, "epi", EPI))
    found, expanded = graph(subject, tmp_path)
    apply = "bold_task_rest_wf.fit_wf.sdc_wf.apply_fieldmap"
    assert apply in found
    for space in ("bold", f"{SPACE.lower()}_res_3"):
        resample = found[f"bold_task_rest_wf.apply_wf.resample_{space}"]
        assert apply in feeds(expanded, resample)
        assert (resample.inputs.phase_encoding, resample.inputs.readout_time) == ("j-", 0.03)
    assert apply in feeds(expanded, found["bold_task_rest_wf.fit_wf.register_bold"])
    without, _ = graph(subject, tmp_path, ignore=("fieldmaps",))
    assert apply not in without


def test_the_intensities_of_the_distortion_can_be_left(person, tmp_path):
    subject = person((None, "T1w", {}), (None, "bold", BOLD), (None, "epi", EPI))
    for ignore, jacobian in (((), True), (("fmap-jacobian",), False)):
        found, _ = graph(subject, tmp_path, ignore=ignore)
        assert found["bold_task_rest_wf.apply_wf.resample_bold"].inputs.jacobian is jacobian
        node = found["bold_task_rest_wf.fit_wf.sdc_wf.apply_fieldmap"]
        assert node.inputs.jacobian is jacobian
