"""Gradients checked against the data: flipped and swapped axes are detected and corrected."""

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.bids.metadata import read_json
from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.check_gradients import (
    CheckGradients,
    CheckOrientation,
    check_orientation,
    describe_frame,
    frame_variants,
    orientation_report,
)
from neuroferry.interfaces.dwi.gradients import (
    Gradients,
    fsl_to_world,
    read_gradients,
    world_to_fsl,
)
from neuroferry.interfaces.image.series import open_series

SHAPE = (26, 24, 22)
TURN = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()


def even_directions(count):
    """Make directions on a spiral over a hemisphere, shape (count, 3)."""
    z = (np.arange(count) + 0.5) / count
    angle = np.arange(count) * np.pi * (3 - 5**0.5)
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def grid(sign):
    """Make an oblique affine of anisotropic voxels with a determinant of the given sign."""
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.diag([sign * 2.0, 2.2, 2.5])
    affine[:3, 3] = affine[:3, :3] @ (np.array(SHAPE) - 1) / -2
    return affine


def curved_bundles(affine, snr=None):
    """Simulate tensors along three ring-shaped tubes; return signals, true gradients, head."""
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    place = voxels @ affine[:3, :3].T + affine[:3, 3]
    along, inside = np.zeros(place.shape), np.zeros(SHAPE, dtype=bool)
    for axis, shift, radius in (
        ((0.5, -0.35, 0.79), (3, -4, -6), 16),
        ((-0.8, 0.2, 0.55), (-8, 8, 4), 14),
        ((0.3, 0.9, 0.3), (6, 4, 8), 12),
    ):
        normal = np.array(axis) / np.linalg.norm(axis)
        there = place - shift
        height = there @ normal
        outwards = there - height[..., None] * normal
        tube = np.hypot(np.linalg.norm(outwards, axis=-1) - radius, height) < 4
        ring = np.cross(normal, outwards)
        ring /= np.maximum(np.linalg.norm(ring, axis=-1, keepdims=True), 1e-9)
        along = np.where(tube[..., None], ring, along)
        inside |= tube
    bvecs = np.vstack([np.zeros(3), even_directions(15)])
    bvals = np.array([0.0, *[1000] * 15])
    cosines = along @ bvecs.T
    shape = 0.4 + 1.2 * cosines**2
    signal = 1000 * np.exp(-bvals / 1000 * np.where(inside[..., None], shape, 0.8))
    if snr:
        rng = np.random.default_rng(2)
        noise = rng.normal(scale=1000 / snr, size=(2, *signal.shape))
        signal = np.hypot(signal + noise[0], noise[1])
    return signal.astype(np.float32), Gradients(bvals, bvecs), np.ones(SHAPE, dtype=bool)


@pytest.fixture(scope="module", params=[1, -1], ids=["determinant above 0", "below 0"])
def run(request, tmp_path_factory):
    """Write a noisy run of curved bundles on an oblique grid."""
    affine = grid(request.param)
    signal, gradients, inside = curved_bundles(affine, snr=20)
    path = tmp_path_factory.mktemp("dwi") / "dwi.nii.gz"
    nb.Nifti1Image(signal, affine).to_filename(path)
    return path, affine, gradients, inside


def spoil(gradients, affine, frame):
    """Write the directions in a frame other than that of the data, in the file's axes."""
    return Gradients(
        gradients.bvals, fsl_to_world(world_to_fsl(gradients.bvecs, affine) @ frame.T, affine)
    )


def axis_angle(one, other):
    """Measure the largest angle between directions regardless of sign, degrees."""
    cosines = np.abs((one * other).sum(axis=1))[1:]
    return np.degrees(np.arccos(np.minimum(cosines, 1))).max()


def test_the_frames():
    frames = frame_variants()
    assert frames.shape == (24, 3, 3)
    np.testing.assert_array_equal(
        frames @ frames.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3))
    )
    assert len({frame.tobytes() for frame in [*frames, *(-frames + 0.0)]}) == 48
    assert describe_frame(frames[0]) == "x, y, z"


def test_every_flip_is_found_and_undone(run):
    path, affine, gradients, inside = run
    series = open_series(path)
    frames = list(enumerate(frame_variants()))
    for number, frame in frames if np.linalg.det(affine) > 0 else frames[::5]:
        spoilt = spoil(gradients, affine, frame)
        found = check_orientation(series, spoilt, inside)
        assert found.verdict == ("right" if number == 0 else "wrong")
        assert found.is_clear
        assert (found.best == 0) == (number == 0)
        undone = spoil(spoilt, affine, found.frames[found.best])
        assert axis_angle(undone.bvecs, gradients.bvecs) < 1e-3


def test_the_step_corrects_only_on_request(run, tmp_path, monkeypatch):
    path, affine, gradients, inside = run
    monkeypatch.chdir(tmp_path)
    frame = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, -1]])
    written = world_to_fsl(gradients.bvecs, affine) @ frame.T
    np.savetxt("x.bval", gradients.bvals[None], fmt="%g")
    np.savetxt("x.bvec", written.T)
    nb.Nifti1Image(inside.astype(np.uint8), affine).to_filename("mask.nii.gz")
    files = {"dwi": str(path), "bval": "x.bval", "bvec": "x.bvec", "mask": "mask.nii.gz"}
    for correct, expected in ((False, spoil(gradients, affine, frame)), (True, gradients)):
        result = CheckOrientation(**files, correct=correct).run().outputs
        again = read_gradients("x.bval", result.out_bvec, affine)
        assert axis_angle(again.bvecs, expected.bvecs) < 1e-3
        report = read_json(Path(result.report))
        assert (report["verdict"], report["corrected"]) == ("wrong", correct)
        assert report["best"] == describe_frame(frame.T)
        assert ("They were corrected." in report["text"]) == correct
        assert ("--fix-gradients" in report["text"]) != correct
        assert len(report["frames"]) == 24
    del files["mask"]  # the head is found
    right = CheckOrientation(**{**files, "bvec": result.out_bvec}, correct=True).run().outputs
    report = read_json(Path(right.report))
    assert (report["verdict"], report["corrected"]) == ("right", False)
    assert report["text"] == "The axes of the gradients agree with the data."


def test_what_the_data_cannot_tell(tmp_path):
    """Noise, and bundles along one axis, which look the same when other axes are flipped."""
    affine = np.diag([2.0, 2, 2, 1])
    signal, gradients, _ = curved_bundles(affine)
    mask = np.ones(SHAPE, dtype=bool)
    rng = np.random.default_rng(4)
    noise = np.abs(rng.normal(100, 30, size=signal.shape)).astype(np.float32) + 1
    straight = 1000 * np.exp(-gradients.bvals / 1000 * (0.4 + 1.2 * gradients.bvecs[:, 0] ** 2))
    cases = {"noise": noise, "straight": np.broadcast_to(straight, signal.shape)}
    for name, data in cases.items():
        path = tmp_path / f"{name}.nii.gz"
        nb.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
        found = check_orientation(open_series(path), gradients, mask)
        assert found.verdict == "undecided"
        report = orientation_report(found, corrected=False)
        assert "cannot show whether" in report["text"]


def test_too_few_directions_are_not_judged(run, tmp_path, monkeypatch):
    path, affine, gradients, inside = run
    monkeypatch.chdir(tmp_path)
    np.savetxt("x.bval", gradients.bvals[None], fmt="%g")
    one = np.where(gradients.bvals[:, None] > 0, [0.0, 0, 1], 0)
    np.savetxt("x.bvec", one.T)
    nb.Nifti1Image(inside.astype(np.uint8), affine).to_filename("mask.nii.gz")
    step = CheckOrientation(dwi=str(path), bval="x.bval", bvec="x.bvec", mask="mask.nii.gz")
    result = step.run().outputs
    assert read_json(Path(result.report))["verdict"] == "undecided"
    np.testing.assert_allclose(np.loadtxt(result.out_bvec), one.T, atol=1e-7)


def test_files_are_settled_and_written_as_fsl_does(run, tmp_path, monkeypatch):
    path, _, gradients, _ = run
    monkeypatch.chdir(tmp_path)
    bvals = np.where(np.arange(16) == 3, 2, gradients.bvals)
    vectors = np.vstack([np.zeros(3), even_directions(15)])
    np.savetxt("x.bval", bvals, fmt="%g")
    np.savetxt("x.bvec", vectors * 1.5)
    result = CheckGradients(in_file=str(path), bval="x.bval", bvec="x.bvec").run().outputs
    assert np.loadtxt(result.out_bval).tolist() == np.where(bvals == 2, 0, bvals).tolist()
    expected = np.where(bvals[:, None] > 50, vectors, 0)
    np.testing.assert_allclose(np.loadtxt(result.out_bvec), expected.T, atol=1e-8)
    report = read_json(Path(result.report))
    assert (report["b0_volumes"], report["directions"], report["fits_tensor"]) == (2, 14, True)
    assert report["shells"] == [{"b": 1000.0, "volumes": 14}]
    assert report["near_zero_b_values"] == [2.0]
    assert ["three columns" in note for note in report["notes"]] == [True, False]
    np.savetxt("x.bval", bvals[:8], fmt="%g")
    np.savetxt("x.bvec", vectors[:8].T)
    with pytest.raises(InputError, match=r"has 8 b-values, but dwi\.nii\.gz has 16 volumes"):
        CheckGradients(in_file=str(path), bval="x.bval", bvec="x.bvec").run()
