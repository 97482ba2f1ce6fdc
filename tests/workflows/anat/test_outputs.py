import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from bids.layout import BIDSLayout

from neuroferry.bids.outputs import prepare_dataset
from neuroferry.workflows.anat.outputs import init_anat_derivatives_wf

STD = "space-MNI152NLin2009aSym"
VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"
SESSION = "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage"


def write_volume(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(len(path.name)).random((18, 18, 18)).astype(np.float32)
    image = nb.Nifti1Image(data, np.diag([4.0, 4, 4, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return str(path)


def write_text(path, text="x"):
    path.write_text(text)
    return str(path)


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "raw"
    for run in (1, 2):
        write_volume(root / f"{SESSION}_run-{run}_T1w.nii.gz")
    write_text(root / "dataset_description.json", '{"Name": "toy", "BIDSVersion": "1.9.0"}')
    return root


def run_derivatives(tmp_path, raw, out, **options):
    """Write the derivatives of two T1w images of one session from made-up results."""
    sources = [str(raw / f"{SESSION}_run-{run}_T1w.nii.gz") for run in (1, 2)]
    workflow = init_anat_derivatives_wf(
        out_dir=out, bids_dir=raw, source_files=sources, seed=7, **options
    )
    steps = tmp_path / "steps"
    steps.mkdir(exist_ok=True)
    results = {
        "brain_score": write_text(steps / "score.json", '{"confidence": 0.9, "reasons": []}'),
        "average_report": write_text(steps / "average.json", '{"LeftOut": [], "reasons": []}'),
        "tissue_report": write_text(steps / "tissues.json", '{"Contrast": 2.5, "reasons": []}'),
        "norm_report": write_text(steps / "norm.json", '{"verdict": "good", "reasons": []}'),
        "anat2std_xfm": write_text(steps / "forward.h5"),
        "std2anat_xfm": write_text(steps / "back.h5"),
        "run2ref_xfms": [write_text(steps / f"run{i}.txt") for i in range(2)],
        "iqms": [write_text(steps / f"iqms{i}.json", f'{{"cjv": {i}}}') for i in range(2)],
        "tpms": [write_volume(steps / f"tpm{i}.nii.gz") for i in range(3)],
        "std_tpms": [write_volume(steps / f"std{i}.nii.gz") for i in range(3)],
    }
    for name in ("t1w_preproc", "brain_mask", "dseg", "std_t1w", "std_mask", "std_dseg"):
        results[name] = write_volume(steps / f"{name}.nii.gz")
    inputnode = workflow.get_node("inputnode")
    for name in inputnode.outputs.copyable_trait_names():
        setattr(inputnode.inputs, name, results[name])
    workflow.base_dir = str(tmp_path / f"work_{out.name}")
    prepare_dataset(out, bids_dir=raw, version="0.1")
    workflow.run()
    return results


GIVEN = {
    "brain_mask": ["bids:mine:sub-01/anat/sub-01_desc-brain_mask.nii.gz"],
    "dseg": ["bids:mine:sub-01/anat/sub-01_dseg.nii.gz"],
    "tpms": [
        f"bids:mine:sub-01/anat/sub-01_label-{tissue}_probseg.nii.gz"
        for tissue in ("GM", "WM", "CSF")
    ],
    "anat2std_xfm": ["bids:mine:sub-01/anat/sub-01_from-T1w_mode-image_xfm.txt"],
    "std2anat_xfm": ["bids:mine:sub-01/anat/sub-01_to-T1w_mode-image_xfm.txt"],
}


def files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_every_result_has_its_name_and_its_bytes(tmp_path, raw):
    out = tmp_path / "out"
    results = run_derivatives(tmp_path, raw, out)
    expected = {
        "_desc-preproc_T1w": "t1w_preproc",
        "_desc-brain_mask": "brain_mask",
        "_dseg": "dseg",
        f"_{STD}_desc-preproc_T1w": "std_t1w",
        f"_{STD}_desc-brain_mask": "std_mask",
        f"_{STD}_dseg": "std_dseg",
    }
    pairs = {f"{SESSION}{name}.nii.gz": results[field] for name, field in expected.items()}
    for i, tissue in enumerate(("GM", "WM", "CSF")):
        pairs[f"{SESSION}_label-{tissue}_probseg.nii.gz"] = results["tpms"][i]
        pairs[f"{SESSION}_{STD}_label-{tissue}_probseg.nii.gz"] = results["std_tpms"][i]
    mode = "mode-image_xfm"
    pairs[f"{SESSION}_from-T1w_to-MNI152NLin2009aSym_{mode}.h5"] = results["anat2std_xfm"]
    pairs[f"{SESSION}_from-MNI152NLin2009aSym_to-T1w_{mode}.h5"] = results["std2anat_xfm"]
    for i in range(2):
        run = f"{SESSION}_run-{i + 1}"
        pairs[f"{run}_from-orig_to-T1w_{mode}.txt"] = results["run2ref_xfms"][i]
        pairs[f"{run}_desc-iqms_T1w.json"] = results["iqms"][i]
    written = files(out)
    for name, source in pairs.items():
        assert written.pop(name) == Path(source).read_bytes(), name
    sidecars = {name.partition(".")[0] + ".json" for name in pairs if "iqms" not in name}
    assert {name for name in written if name.startswith("sub-")} == sidecars


def test_sidecars_say_where_a_file_comes_from(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out)

    def read(name):
        return json.loads((out / f"{SESSION}{name}.json").read_text())

    preproc = read("_desc-preproc_T1w")
    assert preproc["Sources"] == [f"bids:raw:{SESSION}_run-{run}_T1w.nii.gz" for run in (1, 2)]
    assert preproc["SkullStripped"] is False
    assert preproc["RandomSeed"] == 7
    assert "average of 2 images" in preproc["Description"]
    mask = read("_desc-brain_mask")
    assert mask["BrainExtraction"] == {"confidence": 0.9, "reasons": []}
    assert mask["SpatialReference"] == f"bids::{SESSION}_desc-preproc_T1w.nii.gz"
    for way in ("from-T1w_to-MNI152NLin2009aSym", "from-MNI152NLin2009aSym_to-T1w"):
        fit = read(f"_{way}_mode-image_xfm")["TemplateRegistration"]
        assert fit == {"verdict": "good", "reasons": []}
    std = read(f"_{STD}_dseg")
    assert std["SpatialReference"] == "MNI152NLin2009aSym"
    assert std["Resolution"] == "1 mm isotropic"
    links = {"raw": raw, "": out}
    for path in (out / "sub-01").rglob("*.json"):
        for uri in json.loads(path.read_text()).get("Sources", []):
            _, dataset, name = uri.split(":")
            assert (links[dataset] / name).is_file(), uri


def test_sidecars_of_what_was_computed_elsewhere_name_its_dataset(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out, precomputed=GIVEN)
    xfm = "from-{}_to-{}_mode-image_xfm"
    there = xfm.format("T1w", "MNI152NLin2009aSym")
    names = {
        "brain_mask": "desc-brain_mask",
        "dseg": "dseg",
        "tpms": "label-WM_probseg",
        "anat2std_xfm": there,
        "std2anat_xfm": xfm.format("MNI152NLin2009aSym", "T1w"),
    }
    for part, name in names.items():
        sidecar = json.loads((out / f"{SESSION}_{name}.json").read_text())
        assert sidecar["Sources"] == GIVEN[part]
        assert "precomputed" in sidecar["Description"]
        assert "RandomSeed" not in sidecar
    # A transform in ITK's text stays one, and what it carried cites it by that name.
    assert (out / f"{SESSION}_{there}.txt").is_file()
    assert not (out / f"{SESSION}_{there}.h5").exists()
    carried = json.loads((out / f"{SESSION}_{STD}_desc-brain_mask.json").read_text())
    assert carried["Sources"] == [
        f"bids::{SESSION}_desc-brain_mask.nii.gz",
        f"bids::{SESSION}_{there}.txt",
    ]
    preproc = json.loads((out / f"{SESSION}_desc-preproc_T1w.json").read_text())
    assert all(uri.startswith("bids:raw:") for uri in preproc["Sources"])


def test_the_bytes_repeat(tmp_path, raw):
    run_derivatives(tmp_path, raw, tmp_path / "out")
    run_derivatives(tmp_path, raw, tmp_path / "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")


def test_what_is_not_asked_for_is_not_written(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out, with_std=False, with_iqms=False)
    names = files(out)
    assert not any("space-" in name or "iqms" in name for name in names)
    assert any("from-T1w_to-MNI152NLin2009aSym" in name for name in names)


def test_a_resolution_that_was_asked_for_is_in_the_names(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out, std_label="2")
    names = [name for name in files(out) if "space-" in name]
    assert len(names) == 12
    assert all(f"_{STD}_res-2_" in name for name in names)
    sidecar = json.loads((out / f"{SESSION}_{STD}_res-2_dseg.json").read_text())
    assert sidecar["Resolution"] == "2 mm isotropic"


@pytest.mark.skipif(not VALIDATOR.exists(), reason="the BIDS validator is not installed")
def test_the_validator_finds_no_error(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out)
    (out / "sub-01" / "figures").mkdir()
    write_text(out / "sub-01" / "figures" / "sub-01_ses-a_desc-brain_T1w.svg", "<svg/>")
    write_text(out / "sub-01.html", "<html/>")
    (out / "logs" / "run").mkdir(parents=True)
    write_text(out / "logs" / "run" / "events.jsonl", "{}")
    command = [VALIDATOR, "--ignoreWarnings", "--format", "json", out]

    def errors():
        done = subprocess.run(command, capture_output=True, check=False)
        return [issue["code"] for issue in json.loads(done.stdout)["issues"]["issues"]]

    assert errors() == []
    shutil.move(out / f"{SESSION}_dseg.json", out / f"{SESSION}_dsegs.json")
    assert errors() != []


def test_the_derivatives_can_be_read_as_a_dataset(tmp_path, raw):
    out = tmp_path / "out"
    run_derivatives(tmp_path, raw, out)
    layout = BIDSLayout(out, validate=False, config=["bids", "derivatives"])
    (mask,) = layout.get(suffix="mask", desc="brain", space=None, extension=".nii.gz")
    assert mask.get_metadata()["Type"] == "Brain"
