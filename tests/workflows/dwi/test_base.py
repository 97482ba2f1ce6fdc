"""The diffusion workflow: the steps in its graph, by data and settings."""

import nibabel as nb
import numpy as np
import pytest
from dwi_tables import SHAPE, directions
from nipype.pipeline.engine.utils import generate_expanded_graph
from plans import workflow_of

from neuroferry.bids.model import Image, Subject

DWI = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}
EPI = {**DWI, "PhaseEncodingDirection": "j"}


@pytest.fixture
def person(tmp_path):
    """Return a function that makes a participant with a DWI run and other images."""

    def make(shells=((1000, 12),), *, n_b0=2, metadata=DWI, others=("T1w",)):
        bvals = [0.0] * n_b0 + [float(b) for b, count in shells for _ in range(count)]
        vectors = [np.zeros((n_b0, 3)), *(directions(count) for _, count in shells)]
        folder = tmp_path / "bids" / "sub-01" / "dwi"
        folder.mkdir(parents=True)
        np.savetxt(folder / "sub-01_dwi.bval", [bvals], fmt="%g")
        np.savetxt(folder / "sub-01_dwi.bvec", np.vstack(vectors).T, fmt="%.6f")
        images = {"dwi": (*SHAPE, len(bvals)), **dict.fromkeys(others, SHAPE)}
        kinds = {"T1w": "anat", "epi": "fmap", "dwi": "dwi"}
        runs = []
        for suffix, shape in images.items():
            path = folder.parent / kinds[suffix] / f"sub-01_{suffix}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            data = np.zeros(shape, np.int16)
            nb.Nifti1Image(data, np.diag([3, 3, 4, 1])).to_filename(path)
            about = {"dwi": metadata, "epi": EPI}.get(suffix, {})
            runs.append(Image(path, {"subject": "01"}, suffix, kinds[suffix], about))
        return Subject("01", tuple(runs))

    return make


def graph(subject, tmp_path, **settings):
    chosen = {"workflows": ("dwi",), **settings}
    workflow = workflow_of(subject, folder=tmp_path, **chosen)
    expanded = generate_expanded_graph(workflow._create_flat_graph())
    start = "neuroferry_wf.sub_01_wf."
    found = {node.fullname.removeprefix(start): node for node in expanded.nodes()}
    return found, expanded, workflow


def names(found):
    """List the names of the steps of the run."""
    return {name.rpartition(".")[2] for name in found if name.startswith("dwi_wf.")}


def feeds(expanded, node):
    return {before.fullname.rpartition(".")[2] for before in expanded.predecessors(node)}


def test_every_step_of_a_plain_run(person, tmp_path):
    found, expanded, _ = graph(person([(1000, 16)]), tmp_path)
    steps = names(found)
    assert {
        *("check_gradients", "check_orientation", "denoise_dwi", "unring_dwi", "correct_rician"),
        *("estimate_eddy", "register_dwi", "mask_dwi", "replace_slices", "resample_dwi"),
        *("correct_bias",),
        *("fit_tensor", "fit_csd", "track_streamlines", "segment_bundles", "measure_profiles"),
        *("write_dwi_preproc", "write_dwi_bvec", "write_fa", "write_bundles"),
        *("draw_motion", "draw_gradients", "draw_tensor", "draw_bundles", "draw_summary"),
    } <= steps
    assert not {"fit_kurtosis", "estimate_fieldmap", "draw_kurtosis"} & steps
    models = "dwi_wf.models_wf.fit_tensor"
    assert feeds(expanded, found[models]) == {"correct_bias", "resample_dwi", "mask_dwi"}
    assert "correct_rician" in feeds(expanded, found["dwi_wf.fit_wf.estimate_eddy"])
    # turned gradients go into the models, those as measured into the confounds
    confounds = feeds(expanded, found["dwi_wf.apply_wf.tabulate_confounds"])
    assert confounds == {
        *("check_gradients", "check_orientation", "estimate_eddy", "replace_slices"),
    }
    replace = feeds(expanded, found["dwi_wf.apply_wf.replace_slices"])
    assert replace == {
        *("correct_rician", "check_gradients", "check_orientation", "estimate_eddy"),
    }
    assert "replace_slices" in feeds(expanded, found["dwi_wf.apply_wf.resample_dwi"])
    about = found["dwi_wf.dwi_derivatives_wf.write_dwi_preproc"]
    assert about.inputs.metadata_key == "SliceReplacement"


def test_what_the_shells_allow(person, tmp_path):
    found, _, _ = graph(person([(1000, 30), (2000, 30)]), tmp_path)
    assert {"fit_kurtosis", "write_mk", "draw_kurtosis"} <= names(found)
    track = found["dwi_wf.tracts_wf.track_streamlines"]
    assert track.inputs.n_streamlines == 1000


def test_twelve_directions_give_no_fibre_orientations_and_the_summary_says_why(person, tmp_path):
    found, _, _ = graph(person([(1000, 12)]), tmp_path)
    assert not {"fit_csd", "write_fod"} & names(found)
    assert {"fit_tensor", "track_streamlines"} <= names(found)
    summary = found["dwi_wf.dwi_reports_wf.draw_summary"].inputs
    why = "spherical deconvolution needs 15 directions of one b-value; the run has 12"
    assert summary.models_left_out["CSD"] == why


@pytest.mark.parametrize(
    "shells",
    [
        [(100 * n, 6) for n in range(1, 26)],  # DSI in steps of 100
        [(160 * n, 6) for n in range(1, 26)],  # DSI in steps that no shell spans
        [(b, 6) for b in (60, 80, 100, 150, 200, 300, 400, 600, 800)],  # IVIM
    ],
)
def test_b_values_without_shells_allow_the_tensor_alone(person, tmp_path, shells):
    found, _, _ = graph(person(shells), tmp_path)
    assert not {"fit_csd", "fit_kurtosis"} & names(found)
    assert {"fit_tensor", "write_fa", "estimate_eddy"} <= names(found)
    summary = found["dwi_wf.dwi_reports_wf.draw_summary"].inputs
    assert summary.models_left_out["CSD"].startswith("the b-values form no shells: ")
    assert summary.models_left_out["DKI"] == summary.models_left_out["CSD"]


@pytest.mark.parametrize(
    "shells",
    [
        [(700, 16), (1000, 32), (2800, 64)],
        [(990, 10), (995, 10), (1000, 10), (1010, 10), (2950, 30), (3040, 30)],
        [(b, 16) for b in (350, 800, 1500, 2400, 3450, 4750, 6000, 7800)],
    ],
)
def test_real_shells_are_recognised(person, tmp_path, shells):
    found, _, _ = graph(person(shells), tmp_path)
    assert {"fit_csd", "fit_kurtosis"} <= names(found)


def test_few_directions_follow_tensors_many_fibre_orientations(person, tmp_path):
    found, expanded, _ = graph(person([(1000, 16)]), tmp_path)
    assert "fit_csd" in names(found)
    track = found["dwi_wf.tracts_wf.track_streamlines"]
    assert "fit_csd" not in feeds(expanded, track)


def test_many_directions_follow_fibre_orientations(person, tmp_path):
    found, expanded, _ = graph(person([(1000, 30)]), tmp_path)
    assert "fit_csd" in feeds(expanded, found["dwi_wf.tracts_wf.track_streamlines"])


def test_too_few_directions_for_a_tensor(person, tmp_path):
    found, _, _ = graph(person([(1000, 4)]), tmp_path)
    steps = names(found)
    assert {"estimate_eddy", "resample_dwi", "write_dwi_preproc", "draw_summary"} <= steps
    assert not {"fit_tensor", "fit_csd", "track_streamlines", "denoise_dwi"} & steps
    # four volumes do not predict a fifth
    assert "replace_slices" not in steps


def test_the_space_of_the_t1w_image_is_made_on_request(person, tmp_path):
    subject = person(others=("T1w", "epi"))
    default, _, _ = graph(subject, tmp_path)
    assert not [name for name in names(default) if "t1w" in name.removeprefix("register_")]
    found, expanded, workflow = graph(subject, tmp_path, output_spaces=("anat",))
    steps = names(found)
    new = {
        *("make_grid_t1w", "resample_dwi_t1w", "carry_mask_t1w", "write_dwi_preproc_t1w"),
        *("write_dwi_bvec_t1w", "write_dwi_ref_t1w", "write_dwi_mask_t1w", "write_fa_t1w"),
    }
    assert new <= steps
    assert steps - names(default) >= new
    resample = found["dwi_wf.apply_wf.resample_dwi_t1w"]
    assert feeds(expanded, resample) == {
        *("correct_rician", "check_gradients", "check_orientation", "estimate_eddy"),
        *("replace_slices", "apply_fieldmap", "register_dwi", "make_grid_t1w", "correct_bias"),
    }
    assert (resample.inputs.phase_encoding, resample.inputs.readout_time) == ("j-", 0.03)
    fit = found["dwi_wf.models_t1w_wf.fit_tensor"]
    assert feeds(expanded, fit) == {"resample_dwi_t1w", "carry_mask_t1w"}
    entities = found["dwi_wf.dwi_derivatives_wf.write_fa_t1w"].inputs.entities[0]
    assert (entities["space"], entities["model"], entities["parameter"]) == ("T1w", "DTI", "FA")
    sidecar = found["dwi_wf.dwi_derivatives_wf.write_dwi_preproc_t1w"].inputs.metadata
    assert sidecar["SpatialReference"] == "T1w"
    assert any("from-dwiref_to-T1w" in source for source in sidecar["Sources"])
    assert "resampled into the space of the T1w image" in workflow.visit_desc()
    assert found["dwi_wf.dwi_reports_wf.draw_summary"].inputs.spaces == ["T1w"]


def test_without_a_t1w_image_there_is_no_such_space(person, tmp_path):
    found, _, _ = graph(person(others=()), tmp_path, output_spaces=("T1w",))
    assert "resample_dwi_t1w" not in names(found)


def test_settled_facts_reach_every_step(person, tmp_path):
    """The repetition time and the slice axis of the sidecar, whatever the header says."""
    said = {**DWI, "RepetitionTime": 7500, "SliceEncodingDirection": "i"}
    found, _, _ = graph(person(metadata=said), tmp_path, output_spaces=("anat",))
    told: dict[str, dict[str, float]] = {"tr": {}, "slice_axis": {}}
    for name, node in found.items():
        for field, values in told.items():
            if field in node.inputs.copyable_trait_names():
                values[name.rpartition(".")[2]] = getattr(node.inputs, field)
    assert set(told["tr"]) == {
        *("denoise_dwi", "unring_dwi", "correct_rician"),
        *("resample_dwi", "resample_dwi_t1w", "correct_bias"),
    }
    assert set(told["tr"].values()) == {7.5}
    assert told["slice_axis"] == {"estimate_eddy": 0, "replace_slices": 0}
    assert found["dwi_wf.denoise_wf.unring_dwi"].inputs.axes == [1, 2]


def test_without_a_t1w_there_is_no_coregistration(person, tmp_path):
    found, _, _ = graph(person(others=()), tmp_path)
    steps = names(found)
    assert {"mask_dwi", "fit_tensor", "draw_brain"} <= steps
    assert not {"register_dwi", "track_streamlines", "draw_coreg"} & steps
    assert not any(name.startswith("anatomy_wf.") for name in found)


def test_a_field_map_reaches_the_resampling(person, tmp_path):
    found, expanded, _ = graph(person(others=("T1w", "epi")), tmp_path)
    resample = found["dwi_wf.apply_wf.resample_dwi"]
    assert "apply_fieldmap" in feeds(expanded, resample)
    assert (resample.inputs.phase_encoding, resample.inputs.readout_time) == ("j-", 0.03)
    assert "apply_fieldmap" in feeds(expanded, found["dwi_wf.fit_wf.register_dwi"])
    assert {"write_fieldmap", "draw_sdc"} <= names(found)


def test_steps_can_be_left_out(person, tmp_path):
    ignore = ("denoising", "unringing", "eddy", "slice-replacement", "b0-bias", "fieldmaps")
    found, _, _ = graph(person(others=("T1w", "epi")), tmp_path, ignore=ignore, streamlines=0)
    steps = names(found)
    left_out = {"denoise_dwi", "unring_dwi", "correct_rician", "correct_bias", "apply_fieldmap"}
    left_out |= {"replace_slices"}
    assert not (left_out | {"track_streamlines", "draw_denoising"}) & steps
    assert not found["dwi_wf.fit_wf.estimate_eddy"].inputs.eddy
    raw = str(tmp_path / "bids/sub-01/dwi/sub-01_dwi.nii.gz")
    assert found["dwi_wf.fit_wf.estimate_eddy"].inputs.in_file == raw


def test_without_an_axis_of_phase_encoding(person, tmp_path):
    found, _, workflow = graph(person(metadata={}), tmp_path)
    node = found["dwi_wf.fit_wf.estimate_eddy"]
    assert not isinstance(node.inputs.phase_encoding, str)
    assert "eddy-current distortion were" not in workflow.visit_desc()


def test_the_methods_name_what_is_done(person, tmp_path):
    _, _, workflow = graph(person(others=("T1w", "epi")), tmp_path)
    text = workflow.visit_desc()
    wanted_words = (
        "14 volumes",
        "12 of b = 1000",
        "eddy-current distortion were",
        "opposite phase-encoding",
    )
    for wanted in (*wanted_words, "signal dropout"):
        assert wanted in text, wanted


def test_steps_say_what_they_need(person, tmp_path):
    found, _, _ = graph(person(), tmp_path, omp_nthreads=2)
    large = [n for n in found.values() if n.fullname.startswith("neuroferry_wf.sub_01_wf.dwi_wf")]
    assert all(0 < node.mem_gb < 3 for node in large)
    threads = {n.name for n in large if n.n_procs == 2}
    assert {"denoise_dwi", "estimate_eddy", "resample_dwi", "fit_tensor"} <= threads


def test_bundles_of_the_users_own_and_whole_profiles(person, tmp_path):
    own = tmp_path / "own.toml"
    text = (
        'space = "MNI152NLin2009aSym"\n[[bundles]]\nname = "Line"\ncolour = "#E69F00"\n'
        'include = [{name = "a", sphere = [0, 0, 0, 9]}, {name = "b", sphere = [0, 40, 0, 9]}]\n'
    )
    own.write_text(text)
    found, _, workflow = graph(person(), tmp_path, bundles=own, profile_extent="whole")
    steps = [
        found[f"dwi_wf.tracts_wf.{name}"] for name in ("track_streamlines", "segment_bundles")
    ]
    assert steps[1].mem_gb > 0.3  # it holds the 0.1 GB of the field at 1 mm
    before = [node.inputs.get_hashval(hash_method="content")[1] for node in steps]
    own.write_text(text.replace("9]", "8]"))
    after = [node.inputs.get_hashval(hash_method="content")[1] for node in steps]
    assert not set(before) & set(after)
    assert found["dwi_wf.tracts_wf.measure_profiles"].inputs.extent == "whole"
    methods = workflow.visit_desc()
    assert "regions of each bundle of our own definition" in methods
    assert "from end to end of each streamline" in methods
