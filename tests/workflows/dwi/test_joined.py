"""Joined DWI runs of a session: their choice, and their graph."""

from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
from dwi_tables import SHAPE, directions
from nipype.pipeline.engine.utils import generate_expanded_graph
from plans import workflow_of

from neuroferry.bids.dwi import check_dwi
from neuroferry.bids.entities import NAMES
from neuroferry.bids.model import Image, Subject
from neuroferry.selection.joining import plan_joined

AFFINE = np.diag([3.0, 3, 4, 1])
AP = {
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.03,
    "EchoTime": 0.08,
    "RepetitionTime": 4.0,
}
PA = {**AP, "PhaseEncodingDirection": "j"}


@pytest.fixture
def person(tmp_path):
    """Return a function that makes a participant with a T1w image and DWI runs, by entities."""

    def make(*scans):
        made = []
        for entities, b, count, metadata, affine in scans:
            name = "_".join(f"{key}-{value}" for key, value in entities.items())
            folder = tmp_path / "bids" / "sub-01" / "dwi"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"sub-01_{name}_dwi.nii.gz"
            data = np.zeros((*SHAPE, count + 1), np.int16)
            nb.Nifti1Image(data, affine).to_filename(path)
            stem = str(path).removesuffix(".nii.gz")
            np.savetxt(f"{stem}.bval", [[0.0] + [b] * count], fmt="%g")
            vectors = np.vstack([np.zeros((1, 3)), directions(count)])
            np.savetxt(f"{stem}.bvec", vectors.T, fmt="%.6f")
            named = {NAMES[key]: value for key, value in entities.items()}
            made.append(Image(path, {"subject": "01", **named}, "dwi", "dwi", metadata))
        path = tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nb.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE).to_filename(path)
        made.append(Image(path, {"subject": "01"}, "T1w", "anat", {}))
        return Subject("01", tuple(made))

    return make


def halves(**second):
    """Describe two runs that only differ in the given facts about the second."""
    one = ({"acq": "multi", "run": "1"}, 1000.0, 15, AP, AFFINE)
    two = {"entities": {"acq": "multi", "run": "2"}, "b": 1000.0, "count": 15} | second
    return one, (
        two["entities"],
        two["b"],
        two["count"],
        two.get("metadata", AP),
        two.get("affine", AFFINE),
    )


def test_two_halves_are_one(person):
    runs = check_dwi(person(*halves(b=2000.0, count=20))).runs
    (joined,), reasons = plan_joined(runs, ())
    assert reasons == []
    assert [run.entities["run"] for run in joined.runs] == ["1", "2"]
    assert joined.run.entities == {
        "subject": "01",
        "acquisition": "multi",
        "reconstruction": "joined",
    }
    assert joined.run.n_volumes == 37
    assert [(round(shell.b), len(shell.volumes)) for shell in joined.run.shells] == [
        *((0, 2), (1000, 15), (2000, 20)),
    ]
    assert joined.run.shells[0].volumes == (0, 16)
    assert joined.run.n_directions > runs[1].n_directions


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"metadata": {**AP, "EchoTime": 0.09}}, "differ in EchoTime (0.08 and 0.09 s)"),
        ({"metadata": {**AP, "RepetitionTime": 5}}, "differ in RepetitionTime"),
        (
            {"metadata": {k: v for k, v in AP.items() if k != "EchoTime"}},
            "EchoTime is missing in a sidecar",
        ),
        ({"metadata": PA}, "not known to be the same"),
        ({"metadata": {**AP, "TotalReadoutTime": 0.05}}, "readout times differ"),
        ({"affine": np.diag([2.5, 3, 4, 1])}, "voxel sizes differ"),
        ({"affine": np.diag([-3.0, 3, 4, 1])}, "axes point in different directions"),
    ],
)
def test_runs_that_differ_are_not_joined(person, second, why):
    runs = check_dwi(person(*halves(**second))).runs
    found, (reason,) = plan_joined(runs, ())
    assert found == []
    assert why in reason
    assert reason.startswith("sub-01_acq-multi_run-2_dwi.nii.gz is not joined with ")


@pytest.mark.parametrize(
    "odd", [{"rec": "denoised"}, {"chunk": "1"}, {"part": "mag"}, {"echo": "2"}]
)
def test_only_acq_dir_and_run_may_differ(person, odd):
    one = {"acq": "multi", "run": "1"}
    runs = check_dwi(
        person((one, 1000.0, 15, AP, AFFINE), ({**one, **odd}, 1000.0, 15, AP, AFFINE))
    ).runs
    found, (reason,) = plan_joined(runs, ())
    assert found == []
    assert f"they differ in {next(iter(odd))}, so they are no parts of one scheme" in reason


def test_joined_runs_keep_the_label_of_their_reconstruction(person):
    scans = [
        ({"run": run, **rec}, 1000.0, 15, AP, AFFINE)
        for rec in ({}, {"rec": "denoised"})
        for run in "12"
    ]
    found, _ = plan_joined(check_dwi(person(*scans)).runs, ())
    assert [joined.run.entities["reconstruction"] for joined in found] == [
        "joined",
        "denoisedjoined",
    ]


def test_what_would_be_written_under_one_name_is_joined_once(person):
    scans = [
        ({"acq": acq, "run": run}, 1000.0, 15, {**AP, "EchoTime": time}, AFFINE)
        for acq, run, time in (
            ("a", "1", 0.08),
            ("b", "2", 0.08),
            ("a", "3", 0.1),
            ("b", "4", 0.1),
        )
    ]
    found, reasons = plan_joined(check_dwi(person(*scans)).runs, ())
    assert [[run.entities["run"] for run in joined.runs] for joined in found] == [["1", "2"]]
    assert "are not joined: other results have the name of the joined run" in reasons[-1]


def test_distortion_decides_between_directions(person):
    one, two = halves(metadata=PA)
    runs = check_dwi(person(one, two)).runs
    paths = [run.image.path for run in runs]
    assert len(plan_joined(runs, paths)[0]) == 1
    found, (reason,) = plan_joined(runs, paths[:1])
    assert found == []
    assert "distortion is corrected in only one" in reason


def test_runs_of_other_sessions_are_nothing_to_each_other(person):
    one, two = halves()
    runs = check_dwi(person(one, two)).runs
    other = replace(runs[1].image, entities={**runs[1].image.entities, "session": "2"})
    assert plan_joined([runs[0], replace(runs[1], image=other)], ()) == ([], [])


def graph(subject, tmp_path, **settings):
    workflow = workflow_of(subject, folder=tmp_path, workflows=("dwi",), **settings)
    expanded = generate_expanded_graph(workflow._create_flat_graph())
    start = "neuroferry_wf.sub_01_wf."
    return {n.fullname.removeprefix(start): n for n in expanded.nodes()}, expanded, workflow


HERE = "dwi_acquisition_multi_reconstruction_joined_wf"


def test_what_is_built_for_them(person, tmp_path):
    subject = person(*halves(b=2000.0, count=20))
    found, expanded, workflow = graph(subject, tmp_path, output_spaces=("T1w",))
    steps = {name.rpartition(".")[2] for name in found if name.startswith(HERE)}
    assert {"join_dwi", "fit_tensor", "fit_kurtosis", "fit_csd", "track_streamlines"} <= steps
    join = found[f"{HERE}.join_dwi"]
    assert join.inputs.names == [run.path.name for run in subject.select("dwi", "dwi")]
    before = {node.fullname.split(".")[2] for node in expanded.predecessors(join)}
    assert before == {HERE}  # the lists that hold the files of the runs, in order
    merge = found[f"{HERE}.merge_bvecs"]
    sources = {
        (edge["connect"][0][1], node.fullname.split(".")[2])
        for node, _, edge in expanded.in_edges(merge, data=True)
    }
    assert sources == {
        ("in1", "dwi_acquisition_multi_run_1_wf"),
        ("in2", "dwi_acquisition_multi_run_2_wf"),
    }
    sidecar = found[f"{HERE}.dwi_derivatives_wf.write_dwi_preproc"].inputs.metadata
    assert len(sidecar["Sources"]) == 4
    entities = found[f"{HERE}.dwi_derivatives_wf.write_fa"].inputs.entities[0]
    assert (entities["space"], entities["reconstruction"]) == ("T1w", "joined")
    assert "were concatenated" in workflow.visit_desc()


@pytest.mark.parametrize(
    "settings",
    [{}, {"output_spaces": ("T1w",), "ignore": ("dwi-joining",)}],
)
def test_nothing_is_joined_unasked(person, tmp_path, settings):
    found, _, _ = graph(person(*halves()), tmp_path, **settings)
    assert not [name for name in found if "joined" in name]
