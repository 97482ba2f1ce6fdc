"""Grids of the output spaces and masks resampled onto them."""

import nibabel as nb
import numpy as np
import pytest
from other_template import write_template

from neuroferry.interfaces.image.target_grid import CarryMask, MakeTargetGrid, read_chain
from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.templates import load_template

T1W = np.array([[1.0, 0, 0, -20], [0, 1.0, 0.1, -22], [0, -0.1, 1.0, -24], [0, 0, 0, 1]])
# stored as A, L, S
BOLD = np.array([[0, -3.0, 0, 20], [3.5, 0, 0, -20], [0, 0, 4.0, -20], [0, 0, 0, 1]])


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(1)
    paths = {}
    for name, affine, shape in (("t1w", T1W, (40, 44, 48)), ("bold", BOLD, (12, 14, 10))):
        paths[name] = tmp_path / f"{name}.nii.gz"
        data = rng.uniform(1, 9, shape).astype(np.float32)
        nb.Nifti1Image(data, affine).to_filename(paths[name])
    return paths


def run(interface, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    return interface.run().outputs


def test_the_grid_in_anatomical_space(images, tmp_path, monkeypatch):
    node = MakeTargetGrid(bold_ref=str(images["bold"]), t1w_preproc=str(images["t1w"]))
    grid = nb.load(run(node, tmp_path / "a", monkeypatch).reference)
    # voxels of 3 mm left-right, 3.5 mm posterior-anterior, 4 mm inferior-superior
    assert np.allclose(grid.header.get_zooms(), (3, 3.5, 4), atol=1e-4)
    assert nb.aff2axcodes(grid.affine) == ("R", "A", "S")
    size = np.array(grid.shape) * grid.header.get_zooms()
    assert np.all(size >= np.array([40, 44, 48]) * nb.affines.voxel_sizes(T1W) - 0.1)
    assert np.all(size < np.array([40, 44, 48]) * nb.affines.voxel_sizes(T1W) + 4)
    before, after = (
        nb.affines.apply_affine(affine, (np.array(shape) - 1) / 2)
        for affine, shape in ((T1W, (40, 44, 48)), (grid.affine, grid.shape))
    )
    assert np.allclose(before, after, atol=1e-4)


def test_the_grid_in_template_space(images, tmp_path, monkeypatch):
    node = MakeTargetGrid(bold_ref=str(images["bold"]), resolution=3)
    grid = nb.load(run(node, tmp_path / "a", monkeypatch).reference)
    template = load_template(3)
    assert grid.shape == template.t1w.shape
    assert np.allclose(grid.affine, template.affine)
    assert grid.header["sform_code"] == 4


def test_the_grid_of_another_template(images, tmp_path, monkeypatch):
    (t1w,) = write_template(tmp_path, 8).glob("*_T1w.nii.gz")
    node = MakeTargetGrid(bold_ref=str(images["bold"]), template=str(t1w))
    grid = nb.load(run(node, tmp_path / "a", monkeypatch).reference)
    assert grid.shape == nb.load(t1w).shape
    assert np.allclose(grid.affine, nb.load(t1w).affine)
    assert nb.aff2axcodes(grid.affine) == ("L", "A", "S")
    assert grid.header["sform_code"] == 4


def test_a_mask_goes_through_transforms_in_their_order(images, tmp_path, monkeypatch):
    mask = np.zeros((12, 14, 10), np.uint8)
    mask[4:8, 5:9, 3:7] = 1
    nb.Nifti1Image(mask, BOLD).to_filename(tmp_path / "mask.nii.gz")
    turn = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    shift = np.eye(4)
    shift[:3, 3] = 5, 0, 0
    paths = [str(write_itk_affine(m, tmp_path / f"{n}.txt")) for n, m in enumerate((turn, shift))]
    node = CarryMask(
        in_file=str(tmp_path / "mask.nii.gz"), reference=str(images["t1w"]), transforms=paths
    )
    moved = nb.load(run(node, tmp_path / "a", monkeypatch).out_mask)
    assert moved.get_data_dtype() == np.uint8
    found = nb.affines.apply_affine(T1W, np.argwhere(np.asarray(moved.dataobj)).mean(axis=0))
    # the second transform acts on the points of the new grid first
    centre = nb.affines.apply_affine(BOLD, [5.5, 6.5, 4.5])
    expected = nb.affines.apply_affine(np.linalg.inv(turn @ shift), centre)
    assert np.allclose(found, expected, atol=0.5)
    assert len(read_chain(paths)) == 2
    volume = np.asarray(moved.dataobj).sum() * abs(np.linalg.det(T1W))
    assert volume == pytest.approx(mask.sum() * 42, rel=0.05)
