"""The receive field of a DWI run."""

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.dwi.bias import CorrectB0Bias, mean_b0
from neuroferry.interfaces.image.series import open_series

SHAPE = (40, 44, 32)
AFFINE = np.diag([-4.0, 4, 4, 1])
BVALS = np.array([0.0, 1000, 2, 1000, 1000])


def head():
    """Make a ball of three tissues, a smooth field on it, and its mask."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = np.sqrt((place**2).sum(axis=0))
    folds = np.sin(9 * place[0]) * np.sin(8 * place[1] + 1) * np.sin(7 * place[2])
    tissue = np.select([folds > 0.25, folds > -0.25], [500.0, 700.0], 950.0)
    field = np.exp(0.25 * place[0] - 0.3 * place[1] ** 2 + 0.15 * place[2])
    mask = radius < 0.85
    return np.where(mask, tissue, 5), field / np.exp(np.log(field[mask]).mean()), mask


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tissue, field, mask = head()
    true = tissue[..., None] * np.exp(-BVALS / 1000)
    noise = np.random.default_rng(1).normal(scale=5, size=true.shape)
    measured = (true * field[..., None] + noise).astype(np.float32)
    nb.Nifti1Image(measured, AFFINE).to_filename("dwi.nii")
    nb.Nifti1Image(mask.astype(np.uint8), AFFINE).to_filename("mask.nii")
    np.savetxt("dwi.bval", BVALS[None], fmt="%g")
    return {"in_file": "dwi.nii", "tr": 3.0, "bval": "dwi.bval", "mask": "mask.nii"}


def test_one_field_for_all_volumes(files):
    _, field, mask = head()
    result = CorrectB0Bias(**files).run().outputs
    found = nb.load(result.bias_field).get_fdata()
    before = np.log(field[mask]).std()
    assert np.log(found[mask] / field[mask]).std() < 0.25 * before
    assert np.log(found[mask]).mean() == pytest.approx(0, abs=1e-3)
    measured = nb.load("dwi.nii").get_fdata()
    made = nb.load(result.out_file)
    np.testing.assert_allclose(made.affine, AFFINE)
    expected = measured / found[..., None]
    np.testing.assert_allclose(made.get_fdata(), expected, atol=2e-5 * np.abs(expected).max())


def test_near_zero_volumes_take_part(files):
    series = open_series("dwi.nii")
    expected = np.asarray(nb.load("dwi.nii").dataobj)[..., [0, 2]].mean(axis=-1)
    np.testing.assert_allclose(mean_b0(series, BVALS).data, expected, rtol=1e-6)
    np.testing.assert_allclose(
        mean_b0(series, BVALS, 1).data, np.asarray(nb.load("dwi.nii").dataobj)[..., 0]
    )


def test_what_cannot_be_corrected(files):
    Path("weighted.bval").write_text("900 1000 900 900 900")
    with pytest.raises(InputError, match=r"dwi\.nii has no volume with b up to 50"):
        CorrectB0Bias(**{**files, "bval": "weighted.bval"}).run()
    Path("short.bval").write_text("0 1000")
    with pytest.raises(InputError, match="2 b-values for the 5 volumes"):
        CorrectB0Bias(**{**files, "bval": "short.bval"}).run()
    nb.Nifti1Image(np.ones((9, 9, 9), np.uint8), AFFINE).to_filename("other.nii")
    with pytest.raises(GeometryError, match="a different grid"):
        CorrectB0Bias(**{**files, "mask": "other.nii"}).run()
