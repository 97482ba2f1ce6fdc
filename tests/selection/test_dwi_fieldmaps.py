"""DWI runs of opposite phase encoding as field maps: their choice, and the estimated field."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.dwi import check_dwi
from neuroferry.bids.index import index_subjects
from neuroferry.interfaces.dwi.b0s import AverageB0s
from neuroferry.phantom import DwiOptions, write_phantom_dataset
from neuroferry.selection.dwi_fieldmaps import FMAP_ID, choose_dwi_fieldmap
from neuroferry.workflows.sdc import init_sdc_wf

AFFINE = np.diag([-3.0, 3, 4, 1])
AP = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05, "EchoTime": 0.08}
PA = {**AP, "PhaseEncodingDirection": "j"}
BVALS = (0, 1000, 1000, 5, 1000, 1000, 1000, 1000, 0)
RNG = np.random.default_rng(0)


class Dataset:
    """Images of a participant with sidecars and b-values; plans the one encoded j-."""

    def __init__(self, root):
        self.root = root
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')

    def __call__(self, name, metadata, bvals=BVALS, *, shape=(20, 20, 10), affine=AFFINE):
        path = self.root / "sub-01" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(bvals) if bvals is not None else 2
        data = RNG.integers(0, 900, (*shape, count)).astype(np.int16)
        nb.Nifti1Image(data, affine).to_filename(path)
        stem = str(path).removesuffix(".nii.gz")
        Path(f"{stem}.json").write_text(json.dumps(metadata))
        if bvals is not None:
            vectors = RNG.normal(size=(3, count))
            np.savetxt(f"{stem}.bval", [bvals], fmt="%g")
            np.savetxt(f"{stem}.bvec", vectors / np.linalg.norm(vectors, axis=0))

    def plan(self, **options):
        (subject,) = index_subjects(self.root)
        run = next(
            r
            for r in check_dwi(subject).runs
            if r.image.metadata["PhaseEncodingDirection"] == "j-"
        )
        return choose_dwi_fieldmap(subject, run, **options)


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path)


def names(plan):
    return [Path(path).name for path in plan.epi]


def test_two_runs_are_each_others_field_map(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    plan = dataset.plan()
    assert (plan.method, plan.fmap_id, plan.warnings) == ("pepolar", FMAP_ID, ())
    assert (plan.phase_encoding, plan.readout_time) == ("j-", 0.05)
    assert names(plan) == ["sub-01_dir-PA_dwi.nii.gz"]
    assert (plan.epi_phase_encoding, plan.epi_readout_times) == (("j",), (0.05,))
    assert plan.epi_volumes == ((0, 3, 8),)
    assert dataset.plan(b0_threshold=2).epi_volumes == ((0, 8),)
    assert dataset.plan(ignore=("fieldmaps",)).method is None


def test_the_graph_averages_the_b0s_and_says_where_they_come_from(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    workflow = init_sdc_wf(plan=dataset.plan(), bold_shape=(20, 20, 10))
    assert workflow.get_node("average_b0s").inputs.volumes == [0, 3, 8]
    assert workflow.get_node("estimate_fieldmap").inputs.phase_encoding == ["j-", "j"]
    assert workflow.get_node("apply_fieldmap").inputs.sources == ["sub-01_dir-PA_dwi.nii.gz"]
    assert "its own and sub-01_dir-PA_dwi" in workflow.__desc__


def test_b0s_alone_serve(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA, (0, 0, 0))
    assert dataset.plan().epi_volumes == ((0, 1, 2),)


def test_of_several_the_most_alike_is_taken(dataset):
    dataset("dwi/sub-01_acq-b1k_dir-AP_run-2_dwi", AP)
    dataset("dwi/sub-01_acq-b1k_dir-PA_run-1_dwi", PA)
    dataset("dwi/sub-01_acq-b1k_dir-PA_run-2_dwi", PA)
    dataset("dwi/sub-01_acq-a_dir-PA_run-2_dwi", PA)
    assert names(dataset.plan()) == ["sub-01_acq-b1k_dir-PA_run-2_dwi.nii.gz"]
    named = {**PA, "IntendedFor": "dwi/sub-01_acq-b1k_dir-AP_run-2_dwi.nii.gz"}
    dataset("dwi/sub-01_acq-a_dir-PA_run-2_dwi", named)
    assert names(dataset.plan()) == ["sub-01_acq-a_dir-PA_run-2_dwi.nii.gz"]


@pytest.mark.parametrize("said", [{"IntendedFor": "dwi/x.nii.gz"}, {"B0FieldIdentifier": "x"}])
def test_a_run_that_is_meant_for_others_is_left_alone(dataset, said):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA | said)
    plan = dataset.plan()
    assert plan.method is None
    assert "assigns it to other runs" in plan.warnings[0]


def test_what_the_dataset_says_wins(dataset):
    """B0FieldSource names another run than the nearest, with another readout time."""
    dataset("dwi/sub-01_dir-AP_dwi", AP | {"B0FieldSource": "p0", "B0FieldIdentifier": "p0"})
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    far = PA | {"B0FieldIdentifier": ["p0"], "TotalReadoutTime": 0.03}
    dataset("dwi/sub-01_acq-other_dir-PA_dwi", far)
    plan = dataset.plan()
    assert (names(plan), plan.fmap_id) == (["sub-01_acq-other_dir-PA_dwi.nii.gz"], "p0")
    assert (plan.epi_volumes, plan.epi_readout_times) == (((0, 3, 8),), (0.03,))


def test_a_source_that_is_not_there_is_not_replaced(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP | {"B0FieldSource": "gone"})
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    plan = dataset.plan()
    assert plan.method is None
    assert "its B0FieldSource, gone," in plan.warnings[0]


def test_another_session_shares_names_but_no_field_map(dataset):
    said = {"B0FieldIdentifier": "p0", "B0FieldSource": "p0"}
    dataset("ses-1/dwi/sub-01_ses-1_dir-AP_dwi", AP | said)
    dataset("ses-2/dwi/sub-01_ses-2_dir-PA_dwi", PA | said)
    assert dataset.plan().method is None


@pytest.mark.parametrize("intended", [{}, {"IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}])
def test_fmap_comes_first_with_its_b0s_alone(dataset, intended):
    """A field map cut from a DWI run, including diffusion-weighted volumes."""
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    dataset("fmap/sub-01_dir-PA_epi", PA | intended, (0, 0, 700, 0))
    plan = dataset.plan()
    assert names(plan) == ["sub-01_dir-PA_epi.nii.gz"]
    assert plan.epi_volumes == ((0, 1, 3),)
    dataset("fmap/sub-01_dir-PA_epi", PA | intended, None)  # written over, without b-values
    (Path(plan.epi[0]).parent / "sub-01_dir-PA_epi.bval").unlink()
    assert dataset.plan().epi_volumes == ((0, 1),)


def test_a_field_map_that_cannot_be_used_gives_way(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA)
    dataset("fmap/sub-01_dir-PA_epi", {"PhaseEncodingDirection": "j"}, None)
    plan = dataset.plan()
    assert names(plan) == ["sub-01_dir-PA_dwi.nii.gz"]
    assert "sub-01_dir-PA_epi.nii.gz has neither TotalReadoutTime" in plan.warnings[0]
    assert "are used instead" in plan.warnings[0]


def test_a_run_stored_upside_down_has_the_direction_that_its_axes_say(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    # Flipped along j: what is j- there is j along the axes of the other.
    flipped = np.array([[-3.0, 0, 0, 0], [0, -3, 0, 57], [0, 0, 4, 0], [0, 0, 0, 1]])
    dataset("dwi/sub-01_dir-PA_dwi", AP | {"EchoTime": 0.0801}, affine=flipped)
    (subject,) = index_subjects(dataset.root)
    run = check_dwi(subject).runs[0]
    plan = choose_dwi_fieldmap(subject, run)
    assert names(plan) == ["sub-01_dir-PA_dwi.nii.gz"]
    assert plan.epi_phase_encoding == ("j-",)


@pytest.mark.parametrize(
    ("other", "files", "word"),
    [
        (AP, {}, "has the opposite phase encoding, j; the names have dir-AP and dir-PA, but"),
        (PA | {"PhaseEncodingDirection": "i"}, {}, "has the opposite phase encoding, j"),
        (PA, {"shape": (20, 22, 10)}, "a different matrix (20 x 22 x 10 voxels"),
        (PA, {"affine": np.diag([-3.0, 2.5, 4, 1])}, "a different matrix"),
        (PA, {"affine": np.diag([-3.0, -3, 4, 1])}, "along those of this run it is j-"),
        (
            PA | {"TotalReadoutTime": 0.04},
            {},
            "its readout takes 0.04 s and that of this run 0.05",
        ),
        ({"PhaseEncodingDirection": "j"}, {}, "sub-01_dir-PA_dwi.nii.gz has neither Total"),
        ({"TotalReadoutTime": 0.05}, {}, "sub-01_dir-PA_dwi.nii.gz has no PhaseEncodingDirection"),
        (
            PA | {"ImageType": ["ORIGINAL", "NORM"]},
            {},
            "normalised the intensity of sub-01_dir-PA_dwi.nii.gz (NORM",
        ),
        (PA, {"bvals": (700, 1000)}, "has no b0 volume (b <= 50"),
        (PA, {"bvals": None}, "the .bval file is missing"),
    ],
)
def test_a_run_that_contradicts(dataset, other, files, word):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", {"EchoTime": 0.08, **other}, **files)
    plan = dataset.plan()
    assert plan.method is None
    (warning,) = plan.warnings
    assert word in warning


def test_runs_of_one_direction(dataset):
    dataset("dwi/sub-01_run-1_dwi", AP)
    dataset("dwi/sub-01_run-2_dwi", AP)
    (warning,) = dataset.plan().warnings
    assert warning.endswith("has the opposite phase encoding, j.")


def test_another_echo_time_is_pointed_at(dataset):
    dataset("dwi/sub-01_dir-AP_dwi", AP)
    dataset("dwi/sub-01_dir-PA_dwi", PA | {"EchoTime": 0.07})
    plan = dataset.plan()
    assert plan.method == "pepolar"
    assert "differ in EchoTime (0.08 and 0.07 s)" in plan.warnings[0]


@pytest.fixture(scope="module")
def opposed(tmp_path_factory):
    """Make two runs of opposite phase encoding of a head that moves within and between them."""
    root = tmp_path_factory.mktemp("opposed") / "bids"
    options = DwiOptions(1, n_b0=2, resolution=6.0, more_runs=("PA",), fieldmaps=())
    (person,) = write_phantom_dataset(root, subjects=1, resolution=6.0, seed=5, dwi=options)
    (subject,) = index_subjects(root)
    return person.dwi, subject


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_the_field_is_the_true_one_for_both_runs(opposed, number, tmp_path):
    """Size and sign are right: a field of the wrong sign is off by twice the true shift."""
    written, subject = opposed[0][number], opposed[1]
    run = next(r for r in check_dwi(subject).runs if r.image.path == written.dwi)
    plan = choose_dwi_fieldmap(subject, run)
    assert names(plan) == [opposed[0][1 - number].dwi.name]
    b0s = list(run.shells[0].volumes)
    own = AverageB0s(in_file=str(written.dwi), volumes=b0s)
    workflow = init_sdc_wf(plan=plan, bold_shape=run.shape, sloppy=True)
    workflow.base_dir = str(tmp_path)
    workflow.inputs.inputnode.bold_ref = own.run(cwd=str(tmp_path)).outputs.out_file
    graph = workflow.run(plugin="Linear")
    outputs = {node.name: node.result.outputs for node in graph.nodes()}["apply_fieldmap"]

    truth, brain, flat, bent = (
        np.asarray(nb.load(written.truth[key]).dataobj, dtype=np.float64)
        for key in ("fieldmap", "brain_mask", "noiseless", "dwiref")
    )
    inside = brain > 0
    found = nb.load(outputs.fieldmap).get_fdata()
    assert run.readout_time is not None
    assert run.phase_axis is not None
    shift = run.readout_time * run.zooms["ijk".index(run.phase_axis)]  # mm a hertz
    error = np.abs(found - truth)[inside].mean() * shift
    size = np.abs(truth)[inside].mean() * shift
    assert size > 0.8
    assert error < 0.5 * size
    assert np.abs(-found - truth)[inside].mean() * shift > 1.5 * size
    unwarped = nb.load(outputs.bold_ref_sdc).get_fdata()
    likeness = [np.corrcoef(image[inside], flat[inside])[0, 1] for image in (unwarped, bent)]
    assert likeness[0] > 0.98
    assert 1 - likeness[0] < 0.3 * (1 - likeness[1])
