"""Kinds of steps: each one of all builders has measured figures, and no label in its name."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from dwi_tables import directions
from other_template import NAME, write_template
from plans import workflow_of

import neuroferry.workflows
from neuroferry.bids.index import index_subjects
from neuroferry.bids.volumes import VolumeFacts
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import StepName, kind_of
from neuroferry.files import package_toml

SPACE = "MNI152NLin2009aSym"
BOLD = {"RepetitionTime": 2.0, "PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}
DWI = {"RepetitionTime": 4.0, "EchoTime": 0.08, **{k: BOLD[k] for k in list(BOLD)[1:]}}
GRID, HEAD = (20, 22, 12), (20, 22, 18)


class Dataset:
    """Images without content: builders read their headers and sidecars."""

    def __init__(self, root):
        self.root = root

    def image(self, name, shape, metadata=None):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.Nifti1Image(np.zeros(shape, np.int16), np.diag([3, 3, 4, 1])).to_filename(path)
        if metadata is not None:
            Path(str(path).replace(".nii.gz", ".json")).write_text(json.dumps(metadata))

    def dwi(self, name, shells, metadata):
        count = sum(n for _, n in shells)
        self.image(f"{name}.nii.gz", (*GRID, 4 + count), metadata)
        bvals = [0] * 4 + [b for b, n in shells for _ in range(n)]
        vectors = np.vstack([np.zeros((4, 3)), *(directions(n) for _, n in shells)])
        np.savetxt(self.root / f"{name}.bval", [bvals], fmt="%g")
        np.savetxt(self.root / f"{name}.bvec", vectors.T, fmt="%.6f")


def opposite(metadata):
    return {**metadata, "PhaseEncodingDirection": "j"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Build the graph of participants who together use every builder."""
    folder = tmp_path_factory.mktemp("kinds")
    raw, mine = Dataset(folder / "bids"), Dataset(folder / "mine")
    for root, more in ((raw, {}), (mine, {"DatasetType": "derivative"})):
        root.root.mkdir()
        text = json.dumps({"Name": "x", "BIDSVersion": "1.10.0", **more})
        (root.root / "dataset_description.json").write_text(text)

    for run in (1, 2):
        raw.image(f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz", HEAD, {})
    for echo in (1, 2, 3):
        timing = {"EchoTime": 0.013 * echo, "SliceTiming": list(np.linspace(0, 1.9, 12))}
        name = f"sub-01/func/sub-01_task-alpha_run-1_echo-{echo}_bold.nii.gz"
        raw.image(name, (*GRID, 30), {**BOLD, **timing})
    where = {"IntendedFor": ["bids::sub-01/func/sub-01_task-alpha_run-1_echo-1_bold.nii.gz"]}
    for number in (1, 2):
        raw.image(f"sub-01/fmap/sub-01_magnitude{number}.nii.gz", GRID, {})
    echoes = {"EchoTime1": 0.004, "EchoTime2": 0.006}
    raw.image("sub-01/fmap/sub-01_phasediff.nii.gz", GRID, {**echoes, **where})
    raw.dwi("sub-01/dwi/sub-01_dir-AP_dwi", [(1000, 30), (2000, 30)], DWI)
    raw.dwi("sub-01/dwi/sub-01_dir-PA_dwi", [(1000, 30), (2000, 30)], opposite(DWI))

    raw.image("sub-02/ses-omega/anat/sub-02_ses-omega_T1w.nii.gz", HEAD, {})
    raw.image("sub-02/ses-omega/anat/sub-02_ses-omega_acq-kappa_T2w.nii.gz", HEAD, {})
    stem = "sub-02/ses-omega/func/sub-02_ses-omega_task-beta"
    raw.image(f"{stem}_bold.nii.gz", (*GRID, 30), BOLD)
    raw.dwi("sub-02/ses-omega/dwi/sub-02_ses-omega_acq-kappa_dwi", [(1000, 12)], DWI)
    for way, metadata in (("AP", DWI), ("PA", opposite(DWI))):
        intended = {
            "IntendedFor": ["bids::sub-02/ses-omega/dwi/sub-02_ses-omega_acq-kappa_dwi.nii.gz"]
        }
        name = f"sub-02/ses-omega/fmap/sub-02_ses-omega_acq-dwi_dir-{way}_epi.nii.gz"
        raw.image(name, (*GRID, 3), {**metadata, **intended})
    raw.image(
        "sub-02/ses-omega/fmap/sub-02_ses-omega_dir-PA_epi.nii.gz",
        GRID,
        {**opposite(BOLD), "IntendedFor": [f"bids::{stem}_bold.nii.gz"]},
    )

    raw.image("sub-03/func/sub-03_task-gamma_bold.nii.gz", (*GRID, 30), BOLD)
    raw.dwi("sub-03/dwi/sub-03_dwi", [(1000, 12)], DWI)

    for label in ("04", "05"):
        raw.image(f"sub-{label}/func/sub-{label}_task-delta_bold.nii.gz", (*GRID, 30), BOLD)
    raw.image("sub-04/anat/sub-04_T1w.nii.gz", HEAD, {})
    mask = "anat/sub-04_desc-brain_mask.nii.gz"
    for name in (mask, "anat/sub-04_dseg.nii.gz", *_probsegs("04")):
        mine.image(f"sub-04/{name}", HEAD, {})
    mine.image("sub-04/func/sub-04_task-delta_desc-hmc_boldref.nii.gz", GRID, {})
    xfms = mine.root / "sub-04/func/sub-04_task-delta_from-{}_mode-image_desc-{}_xfm.txt"
    Path(str(xfms).format("orig_to-boldref", "hmc")).write_text("Parameters: 1\n" * 30)
    Path(str(xfms).format("boldref_to-T1w", "coreg")).touch()
    for name in ("desc-preproc_T1w.nii.gz", "desc-brain_mask.nii.gz", "dseg.nii.gz"):
        mine.image(f"sub-05/anat/sub-05_{name}", HEAD, {})
    for name in _probsegs("05"):
        mine.image(f"sub-05/{name}", HEAD, {})
    for space in (SPACE, NAME):
        for way in (f"from-T1w_to-{space}", f"from-{space}_to-T1w"):
            (mine.root / f"sub-05/anat/sub-05_{way}_mode-image_xfm.h5").touch()

    write_template(folder, 8)
    workflow = workflow_of(
        *map(_with_an_empty_volume, index_subjects(raw.root)),
        folder=folder,
        workflows=("anat", "func", "dwi", "qc"),
        output_spaces=(f"{SPACE}:res-2", "T1w", "bold", f"{NAME}:res-08"),
        templateflow_home=folder,
        derivatives={"mine": mine.root},
    )
    return flatten(workflow)


def _with_an_empty_volume(subject):
    """Let the last volume of the DWI run of sub-03 be empty."""
    if subject.label != "03":
        return subject
    facts = VolumeFacts((90.0,) * 15 + (0.0,), (0.0,) * 16)
    images = (
        replace(image, volumes=facts) if image.suffix == "dwi" else image
        for image in subject.images
    )
    return replace(subject, images=tuple(images))


def _probsegs(label):
    return [f"anat/sub-{label}_label-{t}_probseg.nii.gz" for t in ("GM", "WM", "CSF")]


def steps(graph):
    """Select the nodes that do more than pass on values."""
    return [node for node in graph.nodes() if type(node.interface).__name__ != "IdentityInterface"]


def test_the_graph_has_every_node_that_a_builder_names(graph):
    """Nodes missing in the graph above would escape the tests below."""
    named = {part for node in graph.nodes() for part in StepName(node.fullname).parts}
    missing = []
    for path in sorted(Path(neuroferry.workflows.__file__).parent.rglob("*.py")):
        for start in _node_names(ast.parse(path.read_text(encoding="utf-8"))):
            if not any(name.startswith(start) for name in named):
                missing.append(f"{path.name}: {start}")
    assert missing == []


def _node_names(tree):
    """List the names of the nodes in a module, up to the first formatted value."""
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and "Node" in ast.unparse(call.func)):
            continue
        for word in call.keywords:
            if word.arg == "name" and isinstance(word.value, ast.Constant):
                if word.value.value not in ("inputnode", "outputnode"):  # flattened away
                    yield word.value.value
            elif word.arg == "name" and isinstance(word.value, ast.JoinedStr):
                first = word.value.values[0]
                yield first.value if isinstance(first, ast.Constant) else ""


def test_every_kind_of_step_has_measured_figures(graph):
    table = package_toml("steps.toml")["steps"]
    assert {kind_of(node) for node in steps(graph)} - set(table) == set()


def test_steps_that_write_a_series_take_disk(graph):
    table = package_toml("steps.toml")["steps"]
    names = ("denoise_dwi", "unring_dwi", "correct_rician", "resample_dwi", "resample_t1w")
    kinds = {kind_of(node) for node in steps(graph) if node.name.startswith(names)}
    assert len(kinds) >= 5
    assert all(table[kind]["disk_gb"] > 0.005 for kind in kinds)


def test_no_kind_holds_a_label(graph):
    labels = {"omega", "kappa", "alpha", "beta", "gamma", "delta", "ap", "pa", "res", NAME.lower()}
    for node in graph.nodes():
        assert node.kind
        assert not re.search(r"_\d+(\.|$)", node.kind), node.kind
        assert not labels & set(re.split(r"[._]", node.kind)), node.kind


def test_runs_of_one_kind_learn_from_one_another(graph):
    def kinds(name):
        found = [n for n in graph.nodes() if f".{name}." in n.fullname]
        return {kind_of(node) for node in found}

    assert kinds("dwi_direction_AP_wf")
    assert kinds("dwi_direction_AP_wf") == kinds("dwi_direction_PA_wf")
    assert kinds("ses_omega_dwi_acquisition_kappa_wf") & kinds("dwi_direction_AP_wf")
    assert kinds("to_mni152moved_wf") - {"anatomy.anat.inputnode"} & kinds("anat_wf")
