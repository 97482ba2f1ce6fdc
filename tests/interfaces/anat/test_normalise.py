import json
from pathlib import Path

import numpy as np
import pytest
from other_template import MOVED, write_template
from scipy import ndimage

from neuroferry.interfaces.anat.normalise import (
    Normalise,
    SynSettings,
    align_brain,
    normalise,
    syn,
)
from neuroferry.interfaces.image.images import Volume, save_nifti
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    Transform,
    apply_transforms,
    map_points,
    read_transform,
)
from neuroferry.phantom.score import dice
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow

SETTINGS = SynSettings(resolution=4, iterations=(20, 20), smoothing=2.0, step=0.25)


@pytest.fixture(scope="module")
def template():
    return load_template(4)


@pytest.fixture(scope="module")
def bent(template):
    """Brain of a head: the template's brain, warped by a smooth field and moved."""
    rng = np.random.default_rng(8)
    shape = template.t1w.shape
    data = ndimage.gaussian_filter(rng.normal(size=(*shape, 3)), (5, 5, 5, 0))
    data *= 6.0 / np.abs(data).max()
    field = DisplacementField(data.astype(np.float32), template.affine)
    matrix = np.diag([0.95, 1.05, 1.0, 1.0])
    matrix[:3, 3] = (4.0, -6.0, 5.0)
    chain: list[Transform] = [matrix, field]

    def carry(values):
        volume = Volume(values.astype(np.float32), template.affine)
        return apply_transforms(volume, chain, shape, template.affine).data

    brain = Volume(carry(template.t1w * template.brain_mask), template.affine)
    return brain, carry(template.brain_mask) > 0.5, carry(template.gm), np.linalg.inv(matrix)


def test_affine_comes_close(template, bent):
    brain, _, _, truth = bent
    found, score = align_brain(brain, template, None)
    corners = np.array([[60, -60, 0, 0], [0, 0, -90, 60], [40, 40, 0, 60], [1, 1, 1, 1.0]])
    assert np.linalg.norm((found - truth) @ corners, axis=0).max() < 8
    assert score > 0.5


def test_normalisation_overlaps_better_than_the_affine(template, bent):
    brain, mask, grey, _ = bent
    found = normalise(brain, mask, SETTINGS)
    shape = template.t1w.shape
    carried = [
        apply_transforms(brain.with_data(grey), chain, shape, template.affine).data > 0.5
        for chain in ([found.affine], found.anat2std)
    ]
    before, after = (dice(image, template.gm > 0.5) for image in carried)
    assert after > 0.9
    assert after > before + 0.02
    assert found.fit.folded == 0
    inside = template.brain_mask
    plain = apply_transforms(brain, [found.affine], shape, template.affine).data
    assert found.fit.correlation > np.corrcoef(plain[inside], template.t1w[inside])[0, 1] + 0.05


def test_both_ways_cancel(bent):
    brain, mask, _, _ = bent
    found = normalise(brain, mask, SETTINGS)
    index = np.argwhere(mask).T
    points = brain.affine[:3, :3] @ index + brain.affine[:3, 3:]
    there = map_points(points.astype(float), found.std2anat)
    back = map_points(there, found.anat2std)
    assert np.mean(np.linalg.norm(back - points, axis=0)) < 0.6


def test_syn_of_an_image_with_itself_does_not_move(template):
    brain = Volume((template.t1w * template.brain_mask).astype(np.float32), template.affine)
    forward, backward = syn(brain.data, template.affine, brain, np.eye(4), SETTINGS)
    assert np.abs(forward.data).max() < 0.2
    assert np.abs(backward.data).max() < 0.2


def test_syn_repeats_and_points_from_static_to_moving(template, bent):
    brain, _, _, truth = bent
    static = (template.t1w * template.brain_mask).astype(np.float32)
    one = syn(static, template.affine, brain, truth, SETTINGS)
    two = syn(static, template.affine, brain, truth, SETTINGS)
    np.testing.assert_array_equal(one[0].data, two[0].data)
    shape = template.t1w.shape
    plain = apply_transforms(brain, [truth], shape, template.affine).data
    warped = apply_transforms(brain, [one[0], truth], shape, template.affine).data
    wrong = apply_transforms(brain, [one[1], truth], shape, template.affine).data
    error = [np.mean((image - static) ** 2) for image in (plain, warped, wrong)]
    assert error[1] < 0.5 * error[0] < error[2]


def test_another_template_is_found_through_the_own_one(template, bent, tmp_path, monkeypatch):
    """The other template is the built-in one, moved; transforms to it are moved likewise."""
    brain, mask, _, _ = bent
    folder = write_template(tmp_path, 4)
    (t1w,), (outline,) = folder.glob("*_T1w.nii.gz"), folder.glob("*_mask.nii.gz")
    save_nifti(brain.data, brain.affine, tmp_path / "brain.nii.gz")
    save_nifti(mask.astype(np.uint8), brain.affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    files = {"in_file": str(tmp_path / "brain.nii.gz"), "in_mask": str(tmp_path / "mask.nii.gz")}
    own = json.loads(Path(Normalise(**files, sloppy=True).run().outputs.norm_report).read_text())
    (tmp_path / "anat2std.h5").rename(tmp_path / "own.h5")
    names = {"template": str(t1w), "template_mask": str(outline)}
    node = Normalise(**files, **names, own_xfm=str(tmp_path / "own.h5"), sloppy=True)
    found = node.run().outputs
    fit = json.loads(Path(found.norm_report).read_text())
    assert fit["folded"] == 0
    assert fit["correlation"] > own["correlation"] - 0.02
    inside = np.argwhere(template.brain_mask)[::50]
    points = (template.affine @ np.c_[inside, np.ones(len(inside))].T)[:3]
    moved = MOVED[:3, :3] @ points + MOVED[:3, 3:]
    expected = map_points(points, read_transform(tmp_path / "own.h5"))
    error = np.linalg.norm(
        map_points(moved, read_transform(found.anat2std_xfm)) - expected, axis=0
    )
    assert np.median(error) < 2  # half a voxel of the template
    assert np.percentile(error, 95) < 6
    back = map_points(expected, read_transform(found.std2anat_xfm))
    assert np.median(np.linalg.norm(back - moved, axis=0)) < 2
