"""Concatenation of runs on one grid: order, brightness, gradients, brain."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients, write_gradients
from neuroferry.interfaces.dwi.join import JoinDwi
from neuroferry.interfaces.dwi.summary import SummariseJoinedDwi

SHAPE = (12, 11, 10)
AFFINE = np.array([[-2.0, 0.1, 0, 9], [0.1, 2, 0, -7], [0, 0, 2.5, 3], [0, 0, 0, 1]])
RNG = np.random.default_rng(3)
HEAD = RNG.uniform(200, 400, SHAPE).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def run(tmp_path):
    """Write a run with a brightness factor relative to the head and a number of directions."""

    def write(name, gain, count, *, affine=AFFINE, masked=None):
        folder = tmp_path / name
        folder.mkdir()
        bvals = np.array([0.0] + [1000.0] * count)
        bvecs = np.vstack([np.zeros((1, 3)), unit(RNG.normal(size=(count, 3)))])
        series = np.stack([HEAD * (1 if b == 0 else 0.5) for b in bvals], axis=-1) * gain
        nb.Nifti1Image(series.astype(np.float32), affine).to_filename(folder / "dwi.nii.gz")
        nb.Nifti1Image(series[..., 0], affine).to_filename(folder / "ref.nii.gz")
        brain = np.ones(SHAPE, np.uint8)
        if masked is not None:
            brain[masked] = 0
        nb.Nifti1Image(brain, affine).to_filename(folder / "mask.nii.gz")
        gradients = Gradients(bvals, bvecs)
        write_gradients(gradients, affine, folder / "dwi.bval", folder / "dwi.bvec")
        return folder, gradients

    return write


def join(*folders):
    files = {
        "in_files": "dwi.nii.gz",
        "bvals": "dwi.bval",
        "bvecs": "dwi.bvec",
        "references": "ref.nii.gz",
        "masks": "mask.nii.gz",
    }
    inputs = {field: [str(f / name) for f in folders] for field, name in files.items()}
    interface = JoinDwi(tr=3.0, names=[f"{f.name}.nii.gz" for f in folders], **inputs)
    return interface.run(cwd=str(folders[0].parent)).outputs


def test_volumes_come_in_order_and_as_bright_as_the_first(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (one, first), (two, second) = run("one", 1.0, 6), run("two", 1.6, 9)
    made = join(one, two)
    image = nb.load(made.out_file)
    data = image.get_fdata()
    bvals = np.concatenate([first.bvals, second.bvals])
    expected = np.stack([HEAD * (1 if b == 0 else 0.5) for b in bvals], axis=-1)
    np.testing.assert_allclose(data, expected, rtol=1e-3)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(nb.load(made.out_ref).get_fdata(), HEAD, rtol=1e-3)
    found = read_gradients(made.out_bval, made.out_bvec, image.affine)
    np.testing.assert_array_equal(found.bvals, bvals)
    np.testing.assert_allclose(found.bvecs, np.vstack([first.bvecs, second.bvecs]), atol=1e-5)
    np.testing.assert_allclose(np.loadtxt(made.identity_xfm, skiprows=3, usecols=1, max_rows=1), 1)
    report = json.loads(Path(made.report).read_text())
    assert [row["Image"] for row in report["Runs"]] == ["one.nii.gz", "two.nii.gz"]
    assert [row["NumberOfVolumes"] for row in report["Runs"]] == [7, 10]
    assert [row["BrightnessFactor"] for row in report["Runs"]] == [1.0, 0.625]

    summary = SummariseJoinedDwi(join_report=made.report, models=["DTI"]).run(cwd=str(tmp_path))
    content = json.loads(Path(summary.outputs.out_file).read_text())
    assert content["Models"] == ["DTI"]
    assert content["NumberOfVolumes"] == 17


def test_the_brain_is_what_all_runs_show(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, _ = run("one", 1.0, 6, masked=np.s_[:2])
    two, _ = run("two", 1.0, 6, masked=np.s_[:, :3])
    brain = nb.load(join(one, two).out_mask).get_fdata()
    expected = np.ones(SHAPE)
    expected[:2] = expected[:, :3] = 0
    np.testing.assert_array_equal(brain, expected)


def test_what_cannot_be_joined_is_said(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, _ = run("one", 1.0, 6)
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    aside, _ = run("aside", 1.0, 6, affine=moved)
    with pytest.raises((GeometryError, InputError), match="grid"):
        join(one, aside)
    left, _ = run("left", 1.0, 6, masked=np.s_[:6])
    right, _ = run("right", 1.0, 6, masked=np.s_[6:])
    with pytest.raises(InputError, match="common part of the brain"):
        join(left, right)
