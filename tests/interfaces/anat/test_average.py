import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.interfaces.anat.average import (
    AverageRuns,
    align_run,
    average_runs,
    choose_reference,
    robust_mean,
)
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import Volume, inverse, load_volume, save_nifti
from neuroferry.interfaces.image.transforms import apply_transforms, read_itk_affine

SHAPE = (60, 64, 58)


@pytest.fixture(scope="module")
def head():
    """Simulate a textured ball in air at 2 mm."""
    rng = np.random.default_rng(7)
    centred = (np.indices(SHAPE).T - np.array(SHAPE) / 2).T
    ball = np.sqrt((centred**2).sum(axis=0)) < 22
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    data = ball * (100 + 400 * texture)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -np.array(SHAPE)
    return Volume(np.clip(data, 0, None).astype(np.float32), affine)


@pytest.fixture(scope="module")
def moved(head):
    truth = compose(np.array([2.5, -1.5, 2.0, 0.03, -0.04, 0.05]), np.zeros(3))
    image = apply_transforms(head, [inverse(truth)], SHAPE, head.affine, order=3)
    noise = np.random.default_rng(1).normal(0, 3, SHAPE).astype(np.float32)
    return image.with_data(np.maximum(image.data + noise, 0)), truth


def test_alignment_is_finer_than_a_tenth_of_a_voxel(head, moved):
    run, truth = moved
    found = align_run(run, head)
    points = np.vstack([np.random.default_rng(0).uniform(-40, 40, (3, 200)), np.ones(200)])
    assert np.linalg.norm(((found - truth) @ points)[:3], axis=0).mean() < 0.2


def test_one_run_is_itself(head):
    reference, matrices, _ = average_runs([head])
    np.testing.assert_array_equal(reference.data, head.data)
    np.testing.assert_array_equal(matrices[0], np.eye(4))


def test_average_has_less_noise(head, moved):
    run, _ = moved
    noisy = head.with_data(
        head.data + np.random.default_rng(2).normal(0, 3, SHAPE).astype(np.float32)
    )
    average, matrices, alike = average_runs([noisy, run])
    assert min(alike) > 0.9
    inside = ndimage.binary_erosion(head.data > 0, iterations=4)
    error = np.std((average.data - head.data)[inside])
    assert error < 0.85 * np.std((noisy.data - head.data)[inside])
    np.testing.assert_array_equal(matrices[0], np.eye(4))
    kept, *_ = average_runs([noisy, run], average=False)
    np.testing.assert_array_equal(kept.data, noisy.data)


def test_one_bad_run_of_three_does_not_spoil_the_average():
    rng = np.random.default_rng(4)
    truth = rng.uniform(50, 100, (10, 10, 10))
    stack = np.stack([truth + rng.normal(0, 1, truth.shape) for _ in range(3)])
    stack[2, :5] += 60
    found = robust_mean(stack.astype(np.float32))
    assert np.abs(found - truth).mean() < 1.5
    assert np.abs(stack.mean(axis=0) - truth)[:5].mean() > 15


def test_best_resolved_run_is_the_reference(head):
    coarse = Volume(head.data[::2, ::2, ::2].copy(), head.affine @ np.diag([2.0, 2, 2, 1]))
    assert choose_reference([coarse, head, head]) == 1


def test_interface_writes_each_run(head, moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, truth = moved
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = SHAPE[0] - 1
    save_nifti(head.data[::-1], head.affine @ flipped, tmp_path / "a.nii.gz")
    save_nifti(run.data, run.affine, tmp_path / "b.nii.gz")
    found = (
        AverageRuns(t1w=[str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")], sloppy=True)
        .run()
        .outputs
    )
    assert len(found.t1w_runs) == len(found.run2ref_xfms) == 2
    first = load_volume(found.t1w_runs[0])
    np.testing.assert_array_equal(first.data, head.data)
    np.testing.assert_allclose(read_itk_affine(found.run2ref_xfms[0]), np.eye(4))
    np.testing.assert_allclose(read_itk_affine(found.run2ref_xfms[1])[:3, 3], truth[:3, 3], atol=1)


def test_another_head_is_left_out_of_the_average(head, tmp_path):
    rng = np.random.default_rng(11)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    other = head.with_data(
        np.clip((head.data > 0) * (100 + 400 * texture), 0, None).astype(np.float32)
    )
    average, _, alike = average_runs([head, other], sloppy=True)
    np.testing.assert_array_equal(average.data, head.data)
    assert alike[0] == 1.0
    assert alike[1] < 0.5
    for name, image in (("a", head), ("b", other)):
        save_nifti(image.data, image.affine, tmp_path / f"{name}.nii.gz")
    made = AverageRuns(
        t1w=[str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")], sloppy=True
    ).run(cwd=str(tmp_path))
    report = json.loads(Path(made.outputs.report).read_text())
    assert report["LeftOut"] == ["b.nii.gz"]
    assert "another person" in report["reasons"][0]


def test_shading_and_noise_do_not_make_another_head(head, moved):
    run, _ = moved
    shade = np.linspace(0.6, 1.5, SHAPE[2], dtype=np.float32)
    noise = np.random.default_rng(3).normal(0, 25, SHAPE).astype(np.float32)
    shaded = run.with_data(np.maximum(run.data * shade + noise, 0))
    _, _, alike = average_runs([head, shaded], sloppy=True)
    assert alike[1] > 0.9
