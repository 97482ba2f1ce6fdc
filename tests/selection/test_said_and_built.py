"""Plans and graphs over a matrix of datasets and settings: they agree, and omissions are named."""

import json
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph
from other_template import NAME, write_template
from plans import plan_of, workflow_of
from tiny_dataset import BOLD, DWI, PHASEDIFF, TEMPLATE, write_anatomy, write_dataset

from neuroferry.selection.describe import describe_plan, plan_as_json

REST = "func/task-rest_bold"
GRE = {"fmap/magnitude1": {}, "fmap/phasediff": PHASEDIFF}
OPPOSITE = {**DWI, "PhaseEncodingDirection": "j"}
DATASETS: dict[str, dict[str, dict[str, Any]]] = {
    "T1w": {"anat/T1w": {}},
    "T2w": {"anat/T1w": {}, "anat/run-1_T2w": {}, "anat/run-2_T2w": {}, REST: BOLD},
    "T2w alone": {"anat/T2w": {}},
    "BOLD alone": {REST: BOLD},
    "BOLD": {"anat/T1w": {}, REST: BOLD},
    "BOLD with a field map that nobody names": {"anat/T1w": {}, REST: BOLD, **GRE},
    "BOLD with a field map by IntendedFor": {
        "anat/T1w": {},
        REST: BOLD,
        "fmap/magnitude1": {},
        "fmap/phasediff": {**PHASEDIFF, "IntendedFor": "func/sub-01_task-rest_bold.nii.gz"},
        "fmap/dir-AP_epi": BOLD,
    },
    "BOLD with a field map by B0FieldIdentifier": {
        "anat/T1w": {},
        REST: {**BOLD, "B0FieldSource": "pair"},
        "fmap/dir-PA_epi": {
            **BOLD,
            "PhaseEncodingDirection": "j",
            "B0FieldIdentifier": "pair",
        },
    },
    "echoes": {
        "anat/T1w": {},
        "func/task-rest_echo-1_bold": {**BOLD, "EchoTime": 0.01},
        "func/task-rest_echo-2_bold": {**BOLD, "EchoTime": 0.03},
    },
    "no phase encoding": {
        "anat/T1w": {},
        REST: {"RepetitionTime": 2.0, "PhaseEncodingAxis": "j"},
        **GRE,
    },
    "sessions": {
        "ses-a/anat/T1w": {},
        "ses-a/func/task-rest_bold": BOLD,
        "ses-b/func/task-rest_bold": BOLD,
        "ses-b/dwi/dwi": DWI,
    },
    "DWI alone": {"dwi/dwi": DWI},
    "DWI": {"anat/T1w": {}, "dwi/dwi": DWI},
    "DWI of opposite directions": {
        "anat/T1w": {},
        "dwi/dir-AP_dwi": DWI,
        "dwi/dir-PA_dwi": OPPOSITE,
    },
    "all": {
        "anat/T1w": {},
        REST: BOLD,
        **GRE,
        "dwi/dir-AP_dwi": DWI,
        "dwi/dir-PA_dwi": OPPOSITE,
    },
}
OTHER = f"{NAME}:res-8"
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "anat": {"workflows": ("anat",)},
    "func": {"workflows": ("func",)},
    "dwi": {"workflows": ("dwi",), "output_spaces": ("T1w",)},
    "all spaces": {"output_spaces": (TEMPLATE, "T1w", "bold", OTHER)},
    "func in another template": {"workflows": ("func",), "output_spaces": (OTHER, "T1w")},
    "nothing optional": {
        "ignore": ("t2w", "fieldmaps", "slicetiming", "denoising", "eddy", "dwi-joining"),
        "output_spaces": ("T1w",),
    },
}
DERIVATIVES = {"no": None, "own template": (TEMPLATE,), "both templates": (TEMPLATE, NAME)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Make a TemplateFlow folder."""
    folder = tmp_path_factory.mktemp("templateflow")
    write_template(folder, 8)
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Make the participant of each dataset, and the derivatives."""
    root = tmp_path_factory.mktemp("people")
    found = {
        name: (root / str(number), write_dataset(root / str(number) / "bids", images))
        for number, (name, images) in enumerate(DATASETS.items())
    }
    derivatives = {
        name: {"mine": write_anatomy(root / f"deriv{number}", spaces)} if spaces else {}
        for number, (name, spaces) in enumerate(DERIVATIVES.items())
    }
    return found, derivatives


def steps_of(workflow):
    expanded = generate_expanded_graph(workflow._create_flat_graph())
    return {node.fullname.removeprefix("neuroferry_wf.sub_01_wf."): node for node in expanded}


@pytest.mark.parametrize("given", DERIVATIVES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_said_is_built(people, home, dataset, settings, given):
    (folder, subject), derivatives = people[0][dataset], people[1][given]
    chosen = {"workflows": (), **SETTINGS[settings]}
    options = {**chosen, "templateflow_home": home, "derivatives": derivatives}
    plan = plan_of(subject, **options)
    steps = steps_of(workflow_of(subject, folder=folder, **options))
    said = " ".join(problem.message for problem in plan.problems)

    assert bool(steps) == plan.has_work
    assert plan.has_work or "so nothing was run" in said
    check_anatomies(plan, steps)
    asked = chosen["workflows"] or ("anat", "func", "dwi", "qc")
    check_bold(plan, steps, said, asked, chosen.get("output_spaces", (TEMPLATE,)))
    check_dwi(plan, steps, asked)
    # every workflow of the graph is one that the plan names
    named = {anatomy.node for anatomy in plan.anatomies}
    named |= {f"{prefix(b.run.session)}bold_{b.run.label}_wf" for b in plan.bold}
    named |= {dwi_wf(d.run) for d in plan.dwi} | {dwi_wf(j.run) for j in plan.joined}
    named |= {t2w_wf(t2w) for anatomy in plan.anatomies for t2w in anatomy.t2w}
    measured = {f"quality_{image.label}_wf" for image in plan.quality}
    assert measured <= {name.partition(".")[0] for name in steps}
    named |= measured
    assert {name.partition(".")[0] for name in steps} <= named
    # both ways of saying it hold every decision
    assert len([*describe_plan(plan)]) >= 1 + len(plan.anatomies) + len(plan.bold) + len(plan.dwi)
    told = json.loads(json.dumps(plan_as_json(plan)))
    assert [len(told[key]) for key in ("anatomies", "bold", "dwi", "joined")] == [
        len(part) for part in (plan.anatomies, plan.bold, plan.dwi, plan.joined)
    ]


def prefix(session):
    return "" if session is None else f"ses_{session}_"


def dwi_wf(run):
    return "_".join(filter(None, [f"{prefix(run.session)}dwi", run.label, "wf"]))


def t2w_wf(t2w):
    return "_".join(filter(None, [f"{prefix(t2w.image.session)}t2w", t2w.label, "wf"]))


def check_anatomies(plan, steps):
    for anatomy in plan.anatomies:
        for t2w in anatomy.t2w:
            assert {f"{t2w_wf(t2w)}.align_wf.{step}_t2w" for step in ("register", "place")} <= set(
                steps
            )
            assert f"{t2w_wf(t2w)}.t2w_derivatives_wf.write_t2w_preproc" in steps
        inside = {name for name in steps if name.startswith(f"{anatomy.node}.")}
        if anatomy.source == "precomputed":
            assert not inside
            continue
        assert f"{anatomy.node}.anat_wf.correct_bias" in inside
        for part, step in (("brain_mask", "extract_brain"), ("dseg", "segment_tissues")):
            assert (part in anatomy.files) != any(name.endswith(f".{step}") for name in inside)
        for other in anatomy.templates:
            branch = f"{anatomy.node}.to_{other.template.node}_wf."
            assert any(name.startswith(branch) for name in inside)


def check_bold(plan, steps, said, asked, output_spaces):
    images = {run.reference.path.name for run in (bold.run for bold in plan.bold)}
    assert not images or "func" in asked
    for bold in plan.bold:
        start = f"{prefix(bold.run.session)}bold_{bold.run.label}_wf."
        written = {
            name.partition("write_bold_")[2]
            for name in steps
            if name.startswith(f"{start}bold_derivatives_wf.write_bold_")
        }
        resampled = {
            name.rpartition(".resample_")[2]
            for name in steps
            if name.startswith(f"{start}apply_wf.resample_")
        }
        wanted = {space.node for space in bold.spaces}
        assert wanted <= resampled
        assert {space.node for space in bold.spaces if not space.is_native} <= written
        registered = f"{start}fit_wf.register_bold" in steps
        assert registered == (bold.anatomy is not None)
        corrected = any(name.startswith(f"{start}fit_wf.sdc_wf.") for name in steps)
        assert corrected == (bold.fieldmap.method is not None)
        if bold.fieldmap.method is None and bold.fieldmap.origin != "option":
            assert f"{bold.run.reference.path.name} is not corrected" in said
        # an output space is written, or its absence is said
        for text in output_spaces:
            name = text.partition(":")[0]
            there = name in {space.name for space in bold.spaces}
            assert there or "stay in native space" in said or f"written in {name}" in said


def check_dwi(plan, steps, asked):
    assert not plan.dwi or "dwi" in asked
    for dwi in plan.dwi:
        start = f"{dwi_wf(dwi.run)}."
        assert any(name.startswith(start) for name in steps)
        corrected = any(name.startswith(f"{start}fit_wf.sdc_wf.") for name in steps)
        assert corrected == (dwi.fieldmap.method is not None)
        in_t1w = any(name.startswith(f"{start}models_t1w_wf.") for name in steps)
        assert in_t1w == dwi.in_t1w
    for joined in plan.joined:
        assert f"{dwi_wf(joined.run)}.join_dwi" in steps


def test_origins_of_field_maps(people, home):
    def origin(name, **settings):
        (bold,) = plan_of(people[0][name][1], workflows=("func",), **settings).bold
        return bold.fieldmap.method, bold.fieldmap.origin

    assert origin("BOLD with a field map that nobody names") == ("phasediff", "inferred")
    assert origin("BOLD with a field map by IntendedFor") == ("phasediff", "IntendedFor")
    assert origin("BOLD with a field map by B0FieldIdentifier") == (
        "pepolar",
        "B0FieldIdentifier",
    )
    ignoring = {"ignore": ("fieldmaps",)}
    name = "BOLD with a field map by IntendedFor"
    assert origin(name, **ignoring) == (None, "option")
    dwi = plan_of(people[0]["DWI of opposite directions"][1], workflows=("dwi",)).dwi
    assert [(d.fieldmap.method, d.fieldmap.origin) for d in dwi] == [("pepolar", "inferred")] * 2


def test_a_template_that_precomputed_derivatives_do_not_reach_is_computed(people, home):
    # output spaces were dropped without a word where a complete anatomy lacked one transform
    derivatives = people[1]["own template"]
    options = {"templateflow_home": home, "derivatives": derivatives, "workflows": ("func",)}
    plan = plan_of(people[0]["BOLD"][1], output_spaces=(OTHER, "T1w"), **options)
    (bold,), (anatomy,) = plan.bold, plan.anatomies
    assert [space.name for space in bold.spaces] == [NAME, "T1w"]
    assert anatomy.source == "computed"
    assert {"brain_mask", "dseg", "anat2std_xfm"} <= set(anatomy.files)
    assert any(f"no transform to {NAME}" in problem.message for problem in plan.problems)
    # with the transform it is used as it is
    both = {**options, "derivatives": people[1]["both templates"]}
    (anatomy,) = plan_of(people[0]["BOLD"][1], output_spaces=(OTHER, "T1w"), **both).anatomies
    assert anatomy.source == "precomputed"


def test_a_template_that_cannot_be_reached_is_an_error_and_the_rest_is_done(people, home):
    options = {"templateflow_home": home, "derivatives": people[1]["own template"]}
    plan = plan_of(
        people[0]["BOLD alone"][1], workflows=("func",), output_spaces=(OTHER, "T1w"), **options
    )
    (bold,) = plan.bold
    assert [space.name for space in bold.spaces] == ["T1w"]
    (problem,) = [problem for problem in plan.problems if problem.severity == "error"]
    assert f"no outputs are written in {NAME}" in problem.message
    assert "Add the transform to the derivatives" in problem.message


def texts(plan, severity="warning"):
    return " ".join(p.message for p in plan.problems if p.severity == severity)


def test_a_session_with_a_t1w_image_of_its_own_takes_no_other_sessions_anatomy(tmp_path):
    images = {f"ses-{s}/{i}": BOLD for s in "ab" for i in ("anat/T1w", "func/task-rest_bold")}
    subject = write_dataset(tmp_path / "bids", images)
    derivatives = {"mine": write_anatomy(tmp_path / "deriv", session="a")}
    plan = plan_of(subject, workflows=("func",), derivatives=derivatives)
    anatomies = {bold.run.session: plan.anatomy(bold.anatomy) for bold in plan.bold}
    sources = {session: anatomy and anatomy.source for session, anatomy in anatomies.items()}
    assert sources == {"a": "precomputed", "b": "computed"}


def test_requests_that_change_nothing_are_named(people, tmp_path):
    subject = people[0]["BOLD alone"][1]
    incomplete = write_anatomy(tmp_path / "deriv")
    (incomplete / "sub-01" / "anat" / "sub-01_label-CSF_probseg.nii.gz").unlink()
    plan = plan_of(subject, workflows=("anat", "func"), derivatives={"mine": incomplete})
    said = texts(plan)
    assert "nothing in the derivatives 'mine' is used" in said
    assert "there is no T1w image, so anat cannot be computed" in said
    sizes = (f"{TEMPLATE}:res-3", f"{TEMPLATE}:res-2")
    plan = plan_of(people[0]["BOLD"][1], workflows=("anat", "func"), output_spaces=sizes)
    assert "with voxels of 2 mm only, although 2 resolutions are requested" in texts(plan)
    assert [space.resolution for space in plan.bold[0].spaces] == [3, 2]


def test_every_session_without_a_t1w_image_is_named(tmp_path):
    images = {f"ses-{session}/func/task-rest_bold": BOLD for session in "ab"}
    plan = plan_of(write_dataset(tmp_path / "bids", images), workflows=("func",))
    assert "The BOLD runs of ses-a and ses-b stay in native space" in texts(plan)


def test_a_run_whose_precomputed_parts_cannot_be_read_is_skipped_alone(people, tmp_path):
    func = tmp_path / "deriv" / "sub-01" / "func"
    func.mkdir(parents=True)
    bids = people[0]["BOLD"][0] / "bids" / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz"
    image = nb.nifti1.load(bids)
    reference = nb.Nifti1Image(np.ones(image.shape[:3], np.int16), image.affine)
    reference.to_filename(func / "sub-01_task-rest_desc-hmc_boldref.nii.gz")
    stem = "sub-01_task-rest_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    (func / stem).symlink_to(tmp_path / "nowhere")
    derivatives = {"mine": tmp_path / "deriv"}
    plan = plan_of(people[0]["BOLD"][1], workflows=("func",), derivatives=derivatives)
    assert not plan.has_work  # and no anatomy is computed for nobody
    assert f"{stem} links to a file that does not exist" in texts(plan, "error")
    both = plan_of(people[0]["BOLD"][1], workflows=("anat", "func"), derivatives=derivatives)
    assert both.has_work
    assert both.bold == ()


def test_results_depend_on_the_files_of_their_templates(people, home):
    options = {"output_spaces": (OTHER,), "templateflow_home": home}
    plan = plan_of(people[0]["BOLD"][1], workflows=("func",), **options)
    assert {path.name for path in plan.inputs if "tpl-" in path.name} == {
        f"tpl-{NAME}_res-08_T1w.nii.gz",
        f"tpl-{NAME}_res-08_desc-brain_mask.nii.gz",
    }
