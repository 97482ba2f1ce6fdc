"""Probabilistic tracking with MRtrix: course of the streamlines, and reproducibility."""

import json

import numpy as np
import pytest

from neuroferry.errors import InputError, ToolError
from neuroferry.interfaces.image.images import save_nifti
from neuroferry.interfaces.image.transforms import write_itk_affine, write_itk_composite
from neuroferry.interfaces.tracts.streamlines import read_streamlines
from neuroferry.interfaces.tracts.tckgen import Part, Source, Tracking, run_part
from neuroferry.interfaces.tracts.tracking import TrackStreamlines

SHAPE = (36, 12, 12)
AFFINE = np.array([[2.0, 0, 0, -36], [0, 2.0, 0, -12], [0, 0, 2.0, -12], [0, 0, 0, 1.0]])
DEFINITIONS = """
space = "MNI152NLin2009aSym"
[[bundles]]
name = "Line"
colour = "#E69F00"
min_length = 30
include = [
    { name = "a", box = [-28, -14, -14, -22, 14, 14] },
    { name = "b", box = [12, -14, -14, 16, 14, 14] },
]
[[bundles]]
name = "Elsewhere"
colour = "#E69F00"
include = [
    { name = "a", box = [50, 0, 0, 60, 10, 10] },
    { name = "b", box = [-28, -14, -14, -22, 14, 14] },
]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make a series of fibres along x with noise, and the files that go with it."""
    root = tmp_path_factory.mktemp("tracking")
    rng = np.random.default_rng(0)
    z = (np.arange(12) + 0.5) / 12
    turn = np.arange(12) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    directions = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)
    tensor = np.diag([1.7e-3, 0.3e-3, 0.3e-3])
    signal = np.exp(-1000 * np.einsum("ni,ij,nj->n", directions, tensor, directions))
    dwi = np.tile(np.concatenate([[1.0], signal]), (*SHAPE, 1)) * 1000
    dwi += rng.normal(0, 30, dwi.shape)
    save_nifti(dwi, AFFINE, root / "dwi.nii.gz")
    save_nifti(np.ones(SHAPE) - (np.indices(SHAPE)[0] == 0), AFFINE, root / "mask.nii.gz")
    save_nifti(0.8 + 0.01 * rng.random(SHAPE), AFFINE, root / "fa.nii.gz")
    bvecs = np.vstack([np.zeros(3), directions]) * [-1, 1, 1]  # det > 0: FSL's first axis turns
    np.savetxt(root / "dwi.bvec", bvecs.T)
    np.savetxt(root / "dwi.bval", np.array([[0.0] + [1000.0] * 12]))
    write_itk_affine(np.eye(4), root / "dwi2anat.txt")
    write_itk_composite([np.eye(4)], root / "std2anat.h5")
    (root / "own.toml").write_text(DEFINITIONS)
    return root


def run(data, folder, **settings):
    folder.mkdir(parents=True)
    inputs = {"dwi": "dwi.nii.gz", "bval": "dwi.bval", "bvec": "dwi.bvec"}
    inputs |= {"mask": "mask.nii.gz", "fa": "fa.nii.gz"}
    paths = {key: str(data / name) for key, name in inputs.items()}
    return TrackStreamlines(**paths, min_length=20.0, **settings).run(cwd=folder).outputs


def targets(data):
    return {
        "dwi2anat_xfm": str(data / "dwi2anat.txt"),
        "std2anat_xfm": str(data / "std2anat.h5"),
        "definitions": str(data / "own.toml"),
    }


def test_streamlines_follow_the_fibres_and_repeat_on_any_number_of_processors(data, tmp_path):
    one = run(data, tmp_path / "one", n_whole=200)
    run(data, tmp_path / "two", n_whole=200, n_procs=2)
    run(data, tmp_path / "other", n_whole=200, seed=2)
    lines = read_streamlines(one.tractogram)
    assert len(lines) > 100
    ends = np.array([line[-1] - line[0] for line in lines])
    along = np.abs(ends[:, 0]) / np.linalg.norm(ends, axis=1)
    assert np.median(along) > 0.98
    first, second, third = (
        (tmp_path / name / "tracts.tck").read_bytes() for name in ("one", "two", "other")
    )
    assert first == second
    assert first != third
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["tracking.json", "tracts.tck"]


def test_where_bundles_are_looked_for(data, tmp_path):
    out = run(data, tmp_path / "a", n_streamlines=30, n_seeds=400, **targets(data))
    report = json.loads((tmp_path / "a" / "tracking.json").read_text())
    assert report["Parts"] == {"Elsewhere": 0, "Line": 30}
    assert report["Algorithm"] == "Tensor_Prob"
    lines = read_streamlines(out.tractogram)
    assert len(lines) == 30
    for line in lines:
        assert line[:, 0].min() < -20
        assert line[:, 0].max() > 10
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["tracking.json", "tracts.tck"]


def test_fibre_orientation_distributions(data, tmp_path):
    """A lobe along x: spherical harmonics of order 2 for a band around it."""
    fod = np.zeros((*SHAPE, 6))
    fod[..., 0] = 0.28  # constant, then l=2: m=-2..2; a peak along x is -m0 and +m2
    fod[..., 3] = -0.32
    fod[..., 5] = 0.55
    save_nifti(fod, AFFINE, tmp_path / "fod.nii.gz")
    fa = np.where(np.indices(SHAPE)[0] < 25, 0.8, 0.05)
    save_nifti(fa, AFFINE, tmp_path / "fa.nii.gz")
    folder = tmp_path / "run"
    folder.mkdir()
    out = TrackStreamlines(
        fod=str(tmp_path / "fod.nii.gz"),
        mask=str(data / "mask.nii.gz"),
        fa=str(tmp_path / "fa.nii.gz"),
        min_length=20.0,
        n_whole=60,
    ).run(cwd=folder)
    lines = read_streamlines(out.outputs.tractogram)
    assert json.loads((folder / "tracking.json").read_text())["Algorithm"] == "iFOD2"
    assert len(lines) > 20
    assert 8 < lines.points[:, 0].max() < 16  # 14 mm: where anisotropy ends
    ends = np.array([line[-1] - line[0] for line in lines])
    assert np.median(np.abs(ends[:, 0]) / np.linalg.norm(ends, axis=1)) > 0.8


def test_nothing_to_follow(data, tmp_path):
    with pytest.raises(InputError, match="needs fibre orientation"):
        TrackStreamlines(mask=str(data / "mask.nii.gz"), fa=str(data / "fa.nii.gz")).run(
            cwd=tmp_path
        )


def test_a_failure_names_the_program(data, tmp_path):
    part = Part("x", data / "absent.nii", (), (), 10, 0, 1.0, 100.0)
    source = Source(data / "dwi.nii.gz", (data / "dwi.bvec", data / "dwi.bval"))
    with pytest.raises(ToolError, match="tckgen"):
        run_part(source, data / "mask.nii.gz", part, Tracking(1, 45, 0.1, 1, 100, 1), 1, tmp_path)
