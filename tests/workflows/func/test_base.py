"""The functional workflow of a run: graphs for each kind of run, and names of its files."""

from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.model import Image
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.selection.spaces import BoldSpace, parse_output_spaces
from neuroferry.workflows.func.apply import init_bold_apply_wf
from neuroferry.workflows.func.fit import init_bold_fit_wf
from neuroferry.workflows.func.memory import resample_gb, target_voxels
from neuroferry.workflows.func.outputs import init_bold_derivatives_wf
from neuroferry.workflows.sdc import Readout

SPACE = "MNI152NLin2009aSym"
SPACES = parse_output_spaces([f"{SPACE}:res-3", "T1w", "bold"]).of_bold()
TIMES = tuple(i % 2 * 0.5 for i in range(10))


@pytest.fixture
def make_run(tmp_path):
    """Return a function that makes a run with some echoes and empty image files."""

    def make(n_echoes=1, *, slice_times=(), shape=(20, 22, 10), n_volumes=6):
        echoes = []
        for number in range(1, n_echoes + 1):
            entities = {"subject": "01", "session": "a", "task": "rest", "run": "2"}
            name = "sub-01_ses-a_task-rest_run-2"
            if n_echoes > 1:
                entities["echo"], name = str(number), f"{name}_echo-{number}"
            path = tmp_path / "bids" / f"{name}_bold.nii.gz"
            path.parent.mkdir(exist_ok=True)
            image = nb.Nifti1Image(np.zeros((*shape, n_volumes), np.int16), np.diag([3, 3, 4, 1]))
            image.to_filename(path)
            echoes.append(Image(path, entities, "bold", "func"))
        times = tuple(0.01 * n for n in range(1, n_echoes + 1)) if n_echoes > 1 else ()
        return BoldRun(
            tuple(echoes),
            shape,
            (3.0, 3.0, 4.0),
            n_volumes,
            2.0,
            slice_times,
            2,
            times,
            task_name="at rest",
        )

    return make


def nodes(workflow, tmp_path):
    workflow.base_dir = str(tmp_path / "work")
    graph = generate_expanded_graph(workflow._create_flat_graph())
    return {node.name: node for node in graph.nodes()}


def test_spaces():
    assert [space.entities for space in SPACES] == [
        {"space": SPACE, "resolution": "3"},
        {"space": "T1w"},
        {},
    ]
    assert parse_output_spaces([SPACE, f"{SPACE}:res-2", "func", "anat"]).of_bold() == (
        BoldSpace(SPACE, 2),
        BoldSpace("bold"),
        BoldSpace("T1w"),
    )
    spaces = parse_output_spaces([SPACE, "T1w"])
    assert spaces.of_bold(with_anat=False) == (BoldSpace("bold"),)


def test_what_is_estimated(make_run, tmp_path):
    found = nodes(init_bold_fit_wf(run=make_run()), tmp_path)
    assert set(found) == {
        *("find_reference", "estimate_motion", "select_wm", "register_bold", "mask_bold")
    }
    alone = nodes(init_bold_fit_wf(run=make_run(), with_anat=False, dummy_scans=3), tmp_path)
    assert set(alone) == {"find_reference", "estimate_motion", "mask_bold"}
    assert alone["find_reference"].inputs.dummy_scans == 3


def test_a_single_band_reference_is_taken_and_cited(make_run, tmp_path):
    sbref = tmp_path / "bids" / "sub-01_ses-a_task-rest_run-2_sbref.nii.gz"
    run = replace(make_run(), sbref=sbref)
    sbref.touch()
    assert nodes(init_bold_fit_wf(run=run), tmp_path)["find_reference"].inputs.sbref == str(sbref)
    assert "single-band reference" in init_bold_fit_wf(run=run).visit_desc()
    found = sinks(run, tmp_path, spaces=SPACES)
    stem = "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-2_"
    about = found[f"{stem}desc-hmc_boldref.nii.gz"].inputs.metadata
    assert about["Sources"] == [f"bids:raw:{sbref.name}"]


def test_motion_is_estimated_on_the_shortest_echo(make_run, tmp_path):
    run = make_run(3)
    found = nodes(init_bold_fit_wf(run=run), tmp_path)
    for name in ("find_reference", "estimate_motion"):
        assert found[name].inputs.in_file == str(run.echoes[0].path)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("bold_ref",), set()),  # the start of the run is looked at in any case
        (("motion_xfms", "motion_tsv"), {"estimate_motion"}),
        (("motion_xfms",), {"estimate_motion"}),
        (("motion_tsv",), set()),
        (("boldref2anat_xfm", "anat2boldref_xfm"), {"register_bold"}),
        (("boldref2anat_xfm",), {"register_bold"}),
        (("anat2boldref_xfm",), set()),
        (("bold_mask",), {"mask_bold"}),
    ],
)
def test_precomputed_parts_replace_their_step(make_run, tmp_path, given, missing):
    files = {}
    for name in given:
        files[name] = str(tmp_path / name)
        Path(files[name]).touch()
    everything = set(nodes(init_bold_fit_wf(run=make_run()), tmp_path))
    found = nodes(init_bold_fit_wf(run=make_run(), precomputed=files), tmp_path)
    assert everything - set(found) == missing
    if given == ("bold_ref",):
        assert found["estimate_motion"].inputs.ref_file == files["bold_ref"]
        assert found["register_bold"].inputs.bold_ref == files["bold_ref"]
    if set(given) == {"boldref2anat_xfm", "anat2boldref_xfm"}:
        assert found["mask_bold"].inputs.anat2boldref_xfm == files["anat2boldref_xfm"]
    assert ("invert_position" in found) == (given == ("boldref2anat_xfm",))
    assert ("tabulate_motion" in found) == (given == ("motion_xfms",))


def test_each_space_is_resampled_once(make_run, tmp_path):
    run = make_run(slice_times=TIMES)
    readout = Readout("j-", 0.03, jacobian=False)
    found = nodes(
        init_bold_apply_wf(run=run, spaces=SPACES, readout=readout, slice_time_ref=0.25), tmp_path
    )
    resample = [node for name, node in found.items() if name.startswith("resample_")]
    assert len(resample) == 3
    for node in resample:
        assert node.inputs.slice_timing == list(TIMES)
        assert (node.inputs.slice_time_ref, node.inputs.tr) == (0.25, 2.0)
        assert (node.inputs.phase_encoding, node.inputs.readout_time) == ("j-", 0.03)
        assert node.inputs.jacobian is False
    assert {name for name in found if name.startswith("carry_mask")} == {
        "carry_mask_t1w",
        "carry_mask_mni152nlin2009asym_res_3",
    }


def test_the_native_series_is_made_for_the_confounds_alone(make_run, tmp_path):
    found = nodes(init_bold_apply_wf(run=make_run(), spaces=[BoldSpace("T1w")]), tmp_path)
    assert {"resample_bold", "resample_t1w"} <= set(found)


def test_echoes_are_combined(make_run, tmp_path):
    run = make_run(3)
    found = nodes(init_bold_apply_wf(run=run, spaces=SPACES), tmp_path)
    assert found["fit_t2star"].inputs.echo_times == [0.01, 0.02, 0.03]
    assert found["resample_t1w"].inputs.in_file == [str(echo.path) for echo in run.echoes]
    assert "fit_t2star" not in nodes(init_bold_apply_wf(run=make_run(), spaces=SPACES), tmp_path)


def sinks(run, tmp_path, **options):
    workflow = init_bold_derivatives_wf(
        out_dir=tmp_path / "out", bids_dir=tmp_path / "bids", run=run, **options
    )
    found = {}
    for name in workflow.list_node_names():
        if name.startswith("write_"):
            interface = workflow.get_node(name).interface
            (path,) = interface.output_paths()
            found[str(path.relative_to(tmp_path / "out"))] = interface
    return found


@pytest.mark.parametrize(
    ("options", "checked"),
    [
        ({}, True),
        ({"write_doubtful": True}, False),
        ({"with_anat": False}, False),
        ({"given": {"boldref2anat_xfm": ["bids:old:xfm"]}}, False),
    ],
)
def test_only_a_sound_coregistration_is_written_elsewhere(make_run, tmp_path, options, checked):
    workflow = init_bold_derivatives_wf(
        out_dir=tmp_path / "out",
        bids_dir=tmp_path / "bids",
        run=make_run(),
        spaces=SPACES,
        **options,
    )
    held = {
        target.name
        for source, target, edge in workflow._graph.edges(data=True)
        if ("coreg_report", "check_files") in edge["connect"]
    }
    spaces = [space.node for space in SPACES if not space.is_native]
    elsewhere = {f"write_{what}_{s}" for what in ("bold", "boldref", "mask") for s in spaces}
    assert held == (elsewhere if checked else set())


def test_names_and_sidecars(make_run, tmp_path):
    found = sinks(
        make_run(slice_times=TIMES),
        tmp_path,
        spaces=SPACES,
        fieldmap=FieldmapPlan("direct", "gre"),
        slice_time_ref=0.5,
    )
    stem = "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-2_"
    std = f"space-{SPACE}_res-3_"
    assert set(found) == {
        *(f"{stem}{space}boldref.nii.gz" for space in (std, "space-T1w_", "")),
        *(f"{stem}{space}desc-preproc_bold.nii.gz" for space in (std, "space-T1w_", "")),
        *(f"{stem}{space}desc-brain_mask.nii.gz" for space in (std, "space-T1w_", "")),
        f"{stem}desc-hmc_boldref.nii.gz",
        f"{stem}desc-coreg_boldref.nii.gz",
        f"{stem}desc-confounds_timeseries.tsv",
        f"{stem}from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        f"{stem}from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
        f"{stem}from-T1w_to-boldref_mode-image_desc-coreg_xfm.txt",
        f"{stem}from-gre_to-boldref_mode-image_xfm.txt",
        "sub-01/ses-a/fmap/sub-01_ses-a_task-rest_run-2_desc-preproc_fieldmap.nii.gz",
    }
    about = found[f"{stem}{std}desc-preproc_bold.nii.gz"].inputs.metadata
    assert about["RepetitionTime"] == 2.0
    assert (about["SliceTimingCorrected"], about["StartTime"]) == (True, 0.25)
    assert (about["TaskName"], about["SkullStripped"]) == ("at rest", False)
    assert about["SpatialReference"] == SPACE
    assert about["Resolution"] == "3 mm isotropic"
    assert about["Sources"][0] == "bids:raw:sub-01_ses-a_task-rest_run-2_bold.nii.gz"
    assert f"bids::{stem}from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt" in about["Sources"]
    fields = found[
        "sub-01/ses-a/fmap/sub-01_ses-a_task-rest_run-2_desc-preproc_fieldmap.nii.gz"
    ].inputs.metadata
    assert fields["Units"] == "Hz"


def test_what_was_given_is_cited_and_has_no_report(make_run, tmp_path):
    given = {
        "bold_ref": ["bids:mine:sub-01/func/ref.nii.gz"],
        "boldref2anat_xfm": ["bids:mine:sub-01/func/xfm.txt"],
    }
    found = sinks(make_run(), tmp_path, spaces=SPACES, given=given)
    stem = "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-2_"
    reference = found[f"{stem}desc-hmc_boldref.nii.gz"].inputs
    assert reference.metadata["Sources"] == given["bold_ref"]
    assert reference.metadata["Description"].endswith("; precomputed")
    assert "RandomSeed" not in reference.metadata
    assert not isdefined(reference.metadata_key)
    for way in ("from-boldref_to-T1w", "from-T1w_to-boldref"):
        about = found[f"{stem}{way}_mode-image_desc-coreg_xfm.txt"].inputs
        assert about.metadata["Sources"] == given["boldref2anat_xfm"]
        assert not isdefined(about.metadata_key)
    computed = found[f"{stem}desc-brain_mask.nii.gz"].inputs.metadata
    assert "elsewhere" not in computed["Description"]


def test_steps_that_go_through_the_series_say_how_long_it_is(make_run, tmp_path):
    run = make_run(n_volumes=9)
    found = nodes(init_bold_fit_wf(run=run), tmp_path)
    found |= nodes(init_bold_apply_wf(run=run, spaces=SPACES), tmp_path)
    long = {name for name, node in found.items() if getattr(node, "volumes", None) == 9}
    assert long == {"estimate_motion", "resample_bold", "resample_t1w"} | {
        "resample_mni152nlin2009asym_res_3"
    }


def test_a_run_alone_in_its_own_space(make_run, tmp_path):
    found = sinks(make_run(2), tmp_path, spaces=[BoldSpace("bold")], with_anat=False)
    stem = "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-2_"
    assert f"{stem}T2starmap.nii.gz" in found
    assert not any("T1w" in name or "fmap" in name for name in found)
    about = found[f"{stem}desc-preproc_bold.nii.gz"].inputs.metadata
    assert about["SliceTimingCorrected"] is False
    assert "StartTime" not in about
    assert len([uri for uri in about["Sources"] if uri.startswith("bids:raw:")]) == 2


def test_memory_grows_with_a_volume_and_not_with_their_number(make_run):
    short, long = make_run(), make_run(n_volumes=8)
    large = make_run(shape=(40, 44, 20))
    std = BoldSpace(SPACE, 2)
    for space in (std, BoldSpace("T1w"), BoldSpace("bold")):
        sizes = [target_voxels(run, space, 2e7) for run in (short, long)]
        assert sizes[0] == sizes[1]
    assert target_voxels(short, BoldSpace("T1w"), 3.6e7) == pytest.approx(1e6)

    def need(run, n_threads=1):
        return resample_gb(run, 1e6, n_threads, with_field=True)

    assert need(short) == need(long) < need(large)
    assert need(large) < need(large, 4)
