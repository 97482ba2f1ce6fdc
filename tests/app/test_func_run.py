"""BOLD runs from end to end on a small phantom: results, reproducibility, without a T1w image."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from lying_headers import again, is_honest, lying, whole
from other_template import NAME, write_template
from planned_memory import too_little

from neuroferry.engine.record import list_runs, read_run
from neuroferry.phantom import BoldOptions, write_phantom_dataset

pytestmark = pytest.mark.slow
SPACE = "MNI152NLin2009aSym"
STEM = "sub-01_task-blocks"
SPACES = (f"{SPACE}:res-4", "T1w", "bold", f"{NAME}:res-4")
ALL = ("--workflows", "anat", "func", "qc")
QUICK = ("--sloppy", "--skip-bids-validation", "--nprocs", "2")


def neuroferry(*arguments):
    """Run the program as a user does."""
    command = [sys.executable, "-m", "neuroferry", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


def digests(root):
    """Compute the SHA-256 of the BOLD derivatives but their metrics, of images uncompressed."""
    found = {}
    for folder in ("func", "fmap", "figures"):
        for path in sorted(root.glob(f"sub-*/{folder}/*task*")):
            if "_desc-iqms_" in path.name or "_desc-qc" in path.name:
                continue
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    root = tmp_path_factory.mktemp("bold") / "bids"
    options = BoldOptions(12, resolution=6.0, fieldmaps=("phasediff",))
    write_phantom_dataset(root, subjects=1, resolution=3.0, seed=3, bold=options)
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    write_template(folder, 4)
    return folder


@pytest.fixture(scope="module")
def finished(bids, home, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    done = neuroferry(
        *(bids, out, "participant", *ALL, *QUICK),
        *("--output-spaces", *SPACES, "--templateflow-home", home),
    )
    assert done.returncode == 0, done.stderr
    return out


def test_everything_that_is_promised_is_there(bids, finished):
    func = finished / "sub-01" / "func"
    series = nb.load(bids / "sub-01" / "func" / f"{STEM}_bold.nii.gz")
    for space in (f"space-{SPACE}_res-4_", f"space-{NAME}_res-4_", "space-T1w_", ""):
        bold = nb.load(func / f"{STEM}_{space}desc-preproc_bold.nii.gz")
        mask = nb.load(func / f"{STEM}_{space}desc-brain_mask.nii.gz")
        mean = nb.load(func / f"{STEM}_{space}boldref.nii.gz")
        assert bold.shape == (*mask.shape, 12) == (*mean.shape, 12)
        assert np.allclose(bold.affine, mask.affine, atol=1e-4)
        inside = np.asarray(mask.dataobj) > 0
        assert inside.sum() * np.prod(mask.header.get_zooms()) / 1000 > 500  # ml
        assert np.asarray(bold.dataobj)[inside].min() >= 0 or inside.mean() < 1
    native = nb.load(func / f"{STEM}_desc-preproc_bold.nii.gz")
    assert native.shape == series.shape
    assert np.allclose(native.affine, series.affine, atol=1e-4)
    assert native.header.get_zooms()[3] == pytest.approx(2.0)
    about = json.loads((func / f"{STEM}_desc-preproc_bold.json").read_text())
    assert (about["RepetitionTime"], about["SliceTimingCorrected"]) == (2.0, True)
    assert 0 < about["StartTime"] < 2
    field = json.loads(
        (finished / "sub-01" / "fmap" / f"{STEM}_desc-preproc_fieldmap.json").read_text()
    )
    assert field["Units"] == "Hz"
    report = json.loads((func / f"{STEM}_desc-coreg_boldref.json").read_text())
    assert report["DistortionCorrection"]["method"] == "phasediff"
    table = pd.read_csv(func / f"{STEM}_desc-confounds_timeseries.tsv", sep="\t")
    assert len(table) == 12
    assert {"trans_x", "rot_z_derivative1_power2", "a_comp_cor_00", "csf"} <= set(table.columns)


def test_no_step_takes_more_memory_than_planned(finished):
    assert too_little(finished) == {}


def test_headers_that_lie_change_nothing(bids, home, finished):
    """Every step that reads an image of the dataset runs again; none makes other bytes."""
    before = whole(finished)
    command = (
        *(bids, finished, "participant", *ALL, *QUICK),
        *("--output-spaces", *SPACES, "--templateflow-home", home),
    )
    with lying(bids) as paths:
        done = neuroferry(*command)
    assert done.returncode == 0, done.stderr
    steps = again(finished)
    assert {"average_runs", "find_reference", "estimate_motion", "resample_template"} <= steps
    assert {"resample_bold", "resample_t1w", "estimate_fieldmap"} <= steps
    assert not {"register_template", "register_bold", "compute_confounds"} & steps
    assert len(paths) >= 5
    assert whole(finished) == before
    series = list((finished / "sub-01" / "func").glob("*desc-preproc_bold.nii.gz"))
    assert len(series) == 4
    assert all(is_honest(path, 2.0) for path in series)


def test_both_templates_hold_the_same_brain(finished):
    """The second template is the first one shifted, and so are the images on its grid."""
    for kind, stem in (("anat", "sub-01"), ("func", STEM)):
        folder = finished / "sub-01" / kind
        mask = {}
        for space in (SPACE, NAME):
            path = folder / f"{stem}_space-{space}_res-4_desc-brain_mask.nii.gz"
            mask[space] = np.asarray(nb.load(path).dataobj) > 0
        own, other = mask[SPACE], mask[NAME][::-1]  # its first axis runs to the left
        assert 2 * (own & other).sum() / (own.sum() + other.sum()) > 0.95
    anat = finished / "sub-01" / "anat"
    assert (anat / f"sub-01_from-T1w_to-{NAME}_mode-image_xfm.h5").exists()
    about = json.loads((anat / f"sub-01_space-{NAME}_res-4_dseg.json").read_text())
    assert about["SpatialReference"] == NAME
    assert f"registered to the template *{NAME}*" in next(
        (finished / "logs").glob("*/methods_sub-01.md")
    ).read_text(encoding="utf-8")


def test_nilearn_reads_the_confounds(finished):
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    path = finished / "sub-01" / "func" / f"{STEM}_space-T1w_desc-preproc_bold.nii.gz"
    for strategy in ("simple", "scrubbing", "compcor"):
        confounds, _ = load_confounds_strategy(str(path), denoise_strategy=strategy)
        assert len(confounds) > 0


def test_a_given_anatomy_another_plugin_and_the_same_bytes(bids, home, finished, tmp_path):
    shutil.copytree(finished / "sub-01" / "anat", tmp_path / "given" / "sub-01" / "anat")
    done = neuroferry(
        *(bids, tmp_path / "out", "participant", "--workflows", "func", *QUICK),
        *("--output-spaces", *SPACES, "--templateflow-home", home),
        *(
            "--derivatives",
            f"anat={tmp_path / 'given'}",
            "--plugin",
            "Linear",
            "--omp-nthreads",
            "1",
        ),
    )
    assert done.returncode == 0, done.stderr
    steps = {step.step for step in read_run(list_runs(tmp_path / "out")[-1]).steps}
    assert not any("anatomy_wf" in step for step in steps)
    expected = digests(finished)
    assert len(expected) > 25
    assert digests(tmp_path / "out") == expected


def test_what_was_estimated_before_is_used_and_gives_the_same_series(bids, finished, tmp_path):
    done = neuroferry(
        *(bids, tmp_path / "out", "participant", "--workflows", "func", *QUICK),
        *("--output-spaces", f"{SPACE}:res-4", "T1w", "--derivatives", f"mine={finished}"),
    )
    assert done.returncode == 0, done.stderr
    steps = {step.step for step in read_run(list_runs(tmp_path / "out")[-1]).steps}
    names = {step.rpartition(".")[2] for step in steps}
    assert not {"estimate_motion", "register_bold", "mask_bold"} & names
    assert {"find_reference", "tabulate_motion", "resample_t1w"} <= names
    before, again = digests(finished), digests(tmp_path / "out")
    same = [name for name in again if name.endswith((".nii.gz", ".tsv", ".txt"))]
    assert len(same) > 12
    assert {name: again[name] for name in same} == {name: before[name] for name in same}
    func = tmp_path / "out" / "sub-01" / "func"
    about = json.loads((func / f"{STEM}_desc-hmc_boldref.json").read_text())
    assert about["Sources"] == [f"bids:mine:sub-01/func/{STEM}_desc-hmc_boldref.nii.gz"]
    assert "MotionCorrection" not in about
    assert (tmp_path / "out" / "sub-01.html").exists()


def test_a_bold_without_a_t1w(bids, tmp_path):
    shutil.copytree(bids, tmp_path / "bids")
    shutil.rmtree(tmp_path / "bids" / "sub-01" / "anat")
    done = neuroferry(
        *(tmp_path / "bids", tmp_path / "out", "participant", "--workflows", "func"),
        *(*QUICK, "--ignore", "fieldmaps", "slicetiming"),
    )
    assert done.returncode == 0, done.stderr
    assert "there is no T1w image. The BOLD runs stay in native space" in done.stderr
    func = tmp_path / "out" / "sub-01" / "func"
    assert (func / f"{STEM}_desc-preproc_bold.nii.gz").exists()
    assert not list(func.glob("*space-*"))
    about = json.loads((func / f"{STEM}_desc-preproc_bold.json").read_text())
    assert about["SliceTimingCorrected"] is False
    assert (tmp_path / "out" / "sub-01.html").exists()


def test_a_plan_knows_the_steps(bids, tmp_path):
    done = neuroferry(
        *(bids, tmp_path / "out", "participant", "--workflows", "func", "--dry-run", *QUICK),
        *("--mem", "16GB"),
    )
    assert done.returncode == 0, done.stderr
    assert "Verdict: fits." in done.stdout
    assert not (tmp_path / "out").exists()
