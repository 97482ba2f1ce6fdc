import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.anat.precomputed import AdoptMask, AdoptTissues, adopt
from neuroferry.interfaces.image.images import Volume, save_nifti

SHAPE = (30, 32, 28)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = (-60.0, -64.0, -56.0)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Reference image, and its mask and tissues in another axis order."""
    monkeypatch.chdir(tmp_path)
    centred = (np.indices(SHAPE).T - np.array(SHAPE) / 2).T
    radius = np.sqrt((centred**2).sum(axis=0))
    labels = np.select([radius < 5, radius < 8, radius < 10], [2, 1, 3], 0)
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = SHAPE[0] - 1
    other = AFFINE @ flip
    paths = {"reference": tmp_path / "t1w.nii.gz"}
    save_nifti(labels * 10.0 + 1, AFFINE, paths["reference"])
    for name, data in {
        "mask": labels > 0,
        "dseg": labels,
        "GM": labels == 1,
        "WM": labels == 2,
        "CSF": labels == 3,
    }.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        save_nifti(data[::-1], other, paths[name], dtype=np.uint8)
    return {name: str(path) for name, path in paths.items()}, labels


def test_mask_comes_to_the_grid_of_the_reference(given):
    paths, labels = given
    found = AdoptMask(in_file=paths["mask"], reference=paths["reference"]).run().outputs
    np.testing.assert_array_equal(np.asanyarray(nb.load(found.out_mask).dataobj), labels > 0)
    score = json.loads(Path(found.out_score).read_text())
    assert score["volume_ml"] == pytest.approx((labels > 0).sum() * 0.064, abs=0.1)
    assert "precomputed" in score["reasons"][0]


def test_tissues_come_to_the_grid_of_the_reference(given):
    paths, labels = given
    maps = [paths[name] for name in ("GM", "WM", "CSF")]
    node = AdoptTissues(dseg=paths["dseg"], tpms=maps, reference=paths["reference"])
    found = node.run().outputs
    np.testing.assert_array_equal(np.asanyarray(nb.load(found.dseg).dataobj), labels)
    for label, path in enumerate(found.tpms, start=1):
        np.testing.assert_allclose(nb.load(path).get_fdata(), labels == label, atol=1e-6)


def test_a_mask_of_another_head_is_refused(given):
    _, labels = given
    away = AFFINE.copy()
    away[:3, 3] += 80
    with pytest.raises(GeometryError, match="another image"):
        adopt(
            Volume((labels > 0).astype(np.float32), away),
            Volume(labels.astype(np.float32), AFFINE),
            "brain mask",
            order=0,
        )


def test_foreign_labels_are_refused(given):
    paths, labels = given
    save_nifti(labels * 7, AFFINE, paths["dseg"], dtype=np.uint8)
    maps = [paths[name] for name in ("GM", "WM", "CSF")]
    node = AdoptTissues(dseg=paths["dseg"], tpms=maps, reference=paths["reference"])
    with pytest.raises(InputError, match="labels"):
        node.run()
    with pytest.raises(InputError, match="three tissue maps"):
        AdoptTissues(dseg=paths["dseg"], tpms=maps[:2], reference=paths["reference"]).run()
