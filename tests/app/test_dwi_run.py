"""A DWI run from end to end on a small phantom: results, same bytes from another plugin."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from lying_headers import again, is_honest, lying, whole
from planned_memory import too_little

from neuroferry.engine.record import list_runs, read_run
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.phantom import DwiOptions, write_phantom_dataset
from neuroferry.phantom.score_dwi import direction_error

pytestmark = pytest.mark.slow
QUICK = (
    *("--sloppy", "--skip-bids-validation", "--streamlines", "100", "--workflows", "dwi"),
    *("--output-spaces", "MNI152NLin2009aSym", "T1w"),
)
TRUTH = "derivatives/truth/sub-01/dwi/sub-01"


def neuroferry(*arguments):
    """Run the program as a user does."""
    command = [sys.executable, "-m", "neuroferry", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


def digests(root):
    """Compute the SHA-256 of the derivatives of the run, of images without their compression."""
    found = {}
    for pattern in ("dwi/*", "fmap/*", "figures/*_dwi.*"):
        for path in sorted(root.glob(f"sub-*/{pattern}")):
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


def image(path):
    return np.asarray(nb.load(path).dataobj)


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    root = tmp_path_factory.mktemp("dwi") / "bids"
    options = DwiOptions(12, resolution=5.0, n_b0=2)
    write_phantom_dataset(root, subjects=1, resolution=3.0, seed=3, dwi=options)
    return root


@pytest.fixture(scope="module")
def finished(bids, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    done = neuroferry(bids, out, "participant", *QUICK, "--nprocs", 2)
    assert done.returncode == 0, done.stderr
    return out


def test_everything_that_is_promised_is_there(bids, finished):
    stem = finished / "sub-01" / "dwi" / "sub-01"
    raw = nb.load(bids / "sub-01" / "dwi" / "sub-01_dwi.nii.gz")
    series = nb.load(f"{stem}_desc-preproc_dwi.nii.gz")
    assert series.shape == raw.shape
    np.testing.assert_allclose(series.affine, raw.affine, atol=1e-4)
    bvals = np.loadtxt(f"{stem}_desc-preproc_dwi.bval")
    bvecs = np.loadtxt(f"{stem}_desc-preproc_dwi.bvec")
    assert (bvals == 0).sum() == 2
    np.testing.assert_allclose(np.linalg.norm(bvecs, axis=0), bvals > 0, atol=1e-6)
    mask = image(f"{stem}_desc-brain_mask.nii.gz") > 0
    true_mask = image(bids / f"{TRUTH}_desc-brain_mask.nii.gz") > 0
    assert 2 * (mask & true_mask).sum() / (mask.sum() + true_mask.sum()) > 0.9
    for name in ("AD", "RD", "tensor", "FA_desc-color"):
        assert nb.load(f"{stem}_model-DTI_param-{name}_dwimap.nii.gz").shape[:3] == mask.shape
    assert (finished / "sub-01" / "fmap" / "sub-01_desc-preproc_fieldmap.nii.gz").exists()
    table = pd.read_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t")
    assert len(table) == 14
    assert {"framewise_displacement", "outlier_slices", "rot_z"} <= set(table.columns)


def test_no_step_takes_more_memory_than_planned(finished):
    assert too_little(finished) == {}


def test_headers_that_lie_change_nothing(bids, finished):
    """Every step that reads an image of the dataset runs again; none makes other bytes."""
    before = whole(finished)
    with lying(bids) as paths:
        done = neuroferry(bids, finished, "participant", *QUICK, "--nprocs", 2)
    assert done.returncode == 0, done.stderr
    steps = again(finished)
    assert {"check_gradients", "check_orientation", "denoise_dwi", "average_b0s"} <= steps
    assert not {"unring_dwi", "estimate_eddy", "fit_tensor", "track_streamlines"} & steps
    assert len(paths) >= 3
    assert whole(finished) == before
    folder = finished / "sub-01" / "dwi"
    series = list(folder.glob("*desc-preproc_dwi.nii.gz"))
    assert len(series) == 2
    assert all(is_honest(path, 6.0) for path in series)
    tensor = nb.load(folder / "sub-01_model-DTI_param-tensor_dwimap.nii.gz")
    assert tensor.header.get_xyzt_units() == ("mm", "unknown")  # its fourth axis is not time


def test_the_maps_are_those_of_the_head(bids, finished):
    stem = finished / "sub-01" / "dwi" / "sub-01"
    white = image(bids / f"{TRUTH}_label-WM_probseg.nii.gz") > 0.9
    fluid = image(bids / f"{TRUTH}_label-CSF_probseg.nii.gz") > 0.9
    for name, tolerance in (("FA", 0.06), ("MD", 1e-4)):
        found = image(f"{stem}_model-DTI_param-{name}_dwimap.nii.gz")
        truth = image(bids / f"{TRUTH}_model-DTI_param-{name}_dwimap.nii.gz")
        assert np.median(np.abs(found - truth)[white]) < tolerance
    md = image(f"{stem}_model-DTI_param-MD_dwimap.nii.gz")
    assert np.median(md[fluid]) > 2 * np.median(md[white])


class WhiteMatter(NamedTuple):
    """Maps in T1w space and their ground truth, in pure white matter."""

    directions: np.ndarray
    true_directions: np.ndarray  # as they were in the scanner
    turn: np.ndarray
    fa: np.ndarray
    true_fa: np.ndarray


def in_white_matter(stem, truth):
    tensors = nb.load(f"{stem}_model-DTI_param-tensor_dwimap.nii.gz")
    to_scan = read_itk_affine(f"{truth}_from-dwiref_to-T1w_mode-image_desc-truth_xfm.txt")
    white = nb.load(f"{truth}_label-WM_probseg.nii.gz")
    index = np.indices(tensors.shape[:3]).reshape(3, -1)
    full = np.linalg.inv(white.affine) @ to_scan @ tensors.affine
    place = np.rint(full[:3, :3] @ index + full[:3, 3:]).astype(int)
    inside = ((place >= 0) & (place < np.array(white.shape)[:, None])).all(axis=0)
    there = tuple(place[:, inside])
    fa = image(f"{truth}_model-DTI_param-FA_dwimap.nii.gz")[there]
    chosen = (image(white.get_filename())[there] > 0.9) & (fa > 0.4)
    data = np.asarray(tensors.dataobj).reshape(-1, 6)[inside][chosen]
    d = data[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    found = image(f"{stem}_model-DTI_param-FA_dwimap.nii.gz").reshape(-1)[inside][chosen]
    true = image(f"{truth}_model-DTI_param-direction_dwimap.nii.gz")[there][chosen]
    main = np.linalg.eigh(d)[1][:, :, 2]
    assert len(main) > 300
    return WhiteMatter(main, true, to_scan[:3, :3], found, fa[chosen])


def angle(one, other):
    return direction_error(one, other, np.ones(len(one), dtype=bool))[0]


def test_directions_in_the_space_of_the_t1w_image(bids, finished):
    """They match the truth rotated with the head, not the directions in the scanner."""
    stem = finished / "sub-01" / "dwi" / "sub-01_space-T1w"
    white = in_white_matter(stem, bids / TRUTH)
    right = angle(white.directions, white.true_directions @ white.turn)
    assert right < 6  # of 5 mm voxels and 12 directions
    assert np.degrees(np.arccos((np.trace(white.turn) - 1) / 2)) > 4
    assert angle(white.directions, white.true_directions) > right + 1
    assert angle(white.directions, white.true_directions @ white.turn.T) > right + 3
    assert np.median(np.abs(white.fa - white.true_fa)) < 0.1
    series = nb.load(f"{stem}_desc-preproc_dwi.nii.gz")
    t1w = nb.load(bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    shape = nb.load(f"{stem}_model-DTI_param-FA_dwimap.nii.gz").shape
    assert series.shape == (*shape, 14)
    np.testing.assert_allclose(series.header.get_zooms()[:3], 5, atol=0.01)
    axes = t1w.affine[:3, :3] / np.linalg.norm(t1w.affine[:3, :3], axis=0)
    np.testing.assert_allclose(series.affine[:3, :3] / 5, axes, atol=1e-3)
    for name in ("_dwiref", "_desc-brain_mask"):
        assert nb.load(f"{stem}{name}.nii.gz").shape == shape


def test_bundles_and_their_profiles(finished):
    dwi = finished / "sub-01" / "dwi"
    profiles = pd.read_csv(dwi / "sub-01_desc-profiles_tractometry.tsv", sep="\t")
    assert list(profiles.columns) == ["subjectID", "tractID", "nodeID", "fa", "md", "rd", "ad"]
    assert len(profiles) == 14 * 100
    found = profiles.dropna(subset=["fa"])["tractID"].unique()
    assert len(found) >= 6  # of 5 mm and 12 directions not all can be expected
    files = sorted(dwi.glob("sub-01_bundle-*_tractogram.trk"))
    assert len(files) == len(found)
    assert all(len(nb.streamlines.load(path).streamlines) for path in files)


def test_the_report_shows_it(finished):
    page = (finished / "sub-01.html").read_text()
    for wanted in ("Diffusion runs", "Maps of the diffusion tensor", "Profiles along the bundles"):
        assert wanted in page
    summary = json.loads((finished / "sub-01/figures/sub-01_desc-summary_dwi.json").read_text())
    assert summary["DistortionCorrection"]["method"] == "pepolar"
    assert summary["Models"] == ["DTI"]
    assert "15 directions of one b-value; the run has 12" in summary["ModelsLeftOut"]["CSD"]


def test_another_plugin_gives_the_same_bytes(bids, finished, tmp_path):
    """The existing anatomy is used, not computed again."""
    out = tmp_path / "out"
    given = ("--derivatives", f"anat={finished}")
    done = neuroferry(bids, out, "participant", *QUICK, "--plugin", "Linear", *given)
    assert done.returncode == 0, done.stderr
    steps = [step.step for step in read_run(list_runs(out)[-1]).steps]
    assert not any(".anatomy_wf." in step for step in steps)
    assert digests(out) == digests(finished)


def test_two_runs_are_joined(finished, tmp_path):
    """Runs of opposite phase encoding are joined with less noise than in each of them."""
    bids, out = tmp_path / "bids", tmp_path / "out"
    options = DwiOptions(12, resolution=5.0, n_b0=2, more_runs=("PA",), fieldmaps=())
    write_phantom_dataset(bids, subjects=1, resolution=3.0, seed=3, dwi=options)
    given = ("--derivatives", f"anat={finished}", "--streamlines", 0)
    done = neuroferry(bids, out, "participant", *QUICK, *given)
    assert done.returncode == 0, done.stderr
    stem = out / "sub-01" / "dwi" / "sub-01"
    joined = f"{stem}_rec-joined_space-T1w"
    series = nb.load(f"{joined}_desc-preproc_dwi.nii.gz")
    bvals = np.loadtxt(f"{joined}_desc-preproc_dwi.bval")
    assert series.shape[3] == len(bvals) == 28
    assert (bvals == 0).sum() == 4
    about = json.loads(Path(f"{joined}_desc-preproc_dwi.json").read_text())
    ways = ("AP", "PA")
    names = [f"sub-01_dir-{way}_dwi.nii.gz" for way in ways]
    assert [run["Image"] for run in about["Joined"]["Runs"]] == names
    assert all(abs(run["BrightnessFactor"] - 1) < 0.05 for run in about["Joined"]["Runs"])
    truth = {way: bids / f"{TRUTH}_dir-{way}" for way in ways}
    together = in_white_matter(joined, truth["AP"])
    right = angle(together.directions, together.true_directions @ together.turn)
    # Noise is the spread: partial volume lowers all of them alike, by three quarters of it.
    noise = (together.fa - together.true_fa).std()
    for way in ways:
        alone = in_white_matter(f"{stem}_dir-{way}_space-T1w", truth[way])
        assert right < angle(alone.directions, alone.true_directions @ alone.turn)
        assert noise < (alone.fa - alone.true_fa).std()
    page = (out / "sub-01.html").read_text()
    assert "Diffusion runs, joined" in page
    assert "14 volumes, multiplied by" in page
