"""DWI in the space of another image: one interpolation, rotated gradients."""

from __future__ import annotations

from pathlib import Path

import moving_dwi as md
import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.gradients import (
    Gradients,
    fsl_to_world,
    read_gradients,
    write_gradients,
)
from neuroferry.interfaces.dwi.resample import ResampleDwi, rigid_way
from neuroferry.interfaces.dwi.tensor import FitTensor
from neuroferry.interfaces.epi.motion_table import write_motion_xfms
from neuroferry.interfaces.image.transforms import DisplacementField, write_itk_affine

N = 20
FIBRE = np.array([0.8, 0.36, 0.48])
"""Fibre direction of the head in the position of the reference, RAS+: all components differ."""


def turned(degrees: list[float], shift: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


SCANNED = turned([12.0, -9.0, 5.0], [-25.0, -19.0, -30.0]) @ np.diag([2.0, 2.0, 2.0, 1.0])
"""Oblique grid of the series."""
WAY = turned([-14.0, 10.0, 21.0], [3.0, -4.0, 6.0])
"""Points of the T1w image to points of the reference."""
MOVED = turned([3.0, 4.0, -5.0], [0.0, 0.0, 0.0])
"""Motion of the head after the first volume, about its centre."""


class Ball:
    """A moved head of one fibre direction, and its T1w image in another position."""

    def __init__(self, folder: Path, flip: int) -> None:
        middle = SCANNED[:3, :3] @ np.full(3, 9.5) + SCANNED[:3, 3]
        rigid = np.tile(np.eye(4), (N + 1, 1, 1))
        rigid[1:, :3, :3] = MOVED[:3, :3]
        rigid[1:, :3, 3] = middle - MOVED[:3, :3] @ middle
        bvals = np.r_[0, np.full(N, 1000.0)]
        gradients = Gradients(bvals, np.vstack([np.zeros(3), md.directions(N, 1)]))
        along = (gradients.bvecs @ np.einsum("tij,j->ti", rigid[:, :3, :3], FIBRE).T) ** 2
        values = 1000 * np.exp(-bvals * (0.3e-3 + 1.4e-3 * np.diag(along)))
        apart = np.sqrt(((np.indices((20, 20, 20)) - 9.5) ** 2).sum(axis=0))
        ball = 1 / (1 + np.exp((apart - 8) * 3))
        image = nb.Nifti1Image((ball[..., None] * values).astype("f4"), SCANNED)
        nb.save(image, folder / "d.nii.gz")
        # A T1w image with oblique axes, the first one flipped or not.
        axes = turned([5.0, 8.0, -11.0], [0.0, 0.0, 0.0]) @ np.diag([2.0 * flip, 2, 2, 1])
        self.middle = (np.linalg.inv(WAY) @ [*middle, 1])[:3]
        axes[:3, 3] = self.middle - axes[:3, :3] @ np.full(3, 11.5)
        nb.save(nb.Nifti1Image(np.zeros((24, 24, 24), "f4"), axes), folder / "t1w.nii.gz")
        bval, bvec = write_gradients(gradients, SCANNED, folder / "d.bval", folder / "d.bvec")
        xfms = write_motion_xfms(rigid, folder / "x.txt")
        self.folder, self.axes, self.gradients, self.rigid = folder, axes, gradients, rigid
        self.inputs = {
            "in_file": folder / "d.nii.gz",
            "tr": 3.0,
            "bval": bval,
            "bvec": bvec,
            "eddy_xfms": xfms,
            "motion_xfms": xfms,
            "reference": folder / "t1w.nii.gz",
            "transforms": [write_itk_affine(WAY, folder / "way.txt")],
        }


@pytest.fixture(params=[1, -1])
def ball(request: pytest.FixtureRequest, tmp_path: Path) -> Ball:
    return Ball(tmp_path, request.param)


def main_direction(folder: Path, series: str, gradients: Gradients, affine: np.ndarray):
    """Fit the principal direction in the middle of the ball, in world axes of the image."""
    bval, bvec = write_gradients(gradients, affine, folder / "g.bval", folder / "g.bvec")
    mask = np.zeros((24, 24, 24), np.uint8)
    mask[10:14, 10:14, 10:14] = 1
    nb.save(nb.Nifti1Image(mask, affine), folder / "mask.nii.gz")
    fit = FitTensor(in_file=series, bval=bval, bvec=bvec, mask=folder / "mask.nii.gz")
    data = np.asarray(nb.load(fit.run(cwd=folder).outputs.tensor).dataobj)[mask > 0].mean(axis=0)
    xx, xy, xz, yy, yz, zz = data
    return np.linalg.eigh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])[1][:, -1]


def angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(min(abs(one @ other), 1.0))))


def test_directions_are_those_of_the_other_space(ball: Ball) -> None:
    made = ResampleDwi(**ball.inputs).run(cwd=ball.folder).outputs
    found = read_gradients(made.out_bval, made.out_bvec, ball.axes)
    true = WAY[:3, :3].T @ FIBRE
    series = made.out_file
    assert angle(main_direction(ball.folder, series, found, ball.axes), true) < 0.5
    # the file is along the image axes, as FSL reads it
    raw = np.loadtxt(made.out_bvec).T
    np.testing.assert_allclose(fsl_to_world(raw, ball.axes), found.bvecs, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(raw[1:], axis=1), 1, atol=1e-6)
    # wrong alternatives are detected as wrong
    played = ball.gradients.bvecs
    head = np.einsum("tji,tj->ti", ball.rigid[:, :3, :3], played)
    wrong = {
        "as played out": played,
        "turned with the head alone": head,
        "the other way": head @ WAY[:3, :3].T,
    }
    for name, bvecs in wrong.items():
        gradients = Gradients(ball.gradients.bvals, bvecs)
        error = angle(main_direction(ball.folder, series, gradients, ball.axes), true)
        assert error > 5, name


def test_the_head_lies_where_the_t1w_image_has_it(ball: Ball) -> None:
    made = ResampleDwi(**ball.inputs).run(cwd=ball.folder).outputs
    data = nb.load(made.out_file).get_fdata()
    assert data.shape == (24, 24, 24, N + 1)
    np.testing.assert_allclose(nb.load(made.out_file).affine, ball.axes, atol=1e-5)
    for volume in (0, 3):
        weights = data[..., volume]
        place = (np.indices(weights.shape) * weights).sum(axis=(1, 2, 3)) / weights.sum()
        world = ball.axes[:3, :3] @ place + ball.axes[:3, 3]
        np.testing.assert_allclose(world, ball.middle, atol=0.1)
    first = nb.load(made.out_ref).get_fdata()
    np.testing.assert_allclose(first, data[..., 0], atol=0.1)


def test_brightness_is_divided_out_where_the_head_was(ball: Ball) -> None:
    """A field on the grid of the series, resampled along with it."""
    index = np.indices((20, 20, 20)).astype("f4")
    field = 1 + 0.02 * (index[0] - 9.5) + 0.01 * (index[2] - 9.5)
    nb.save(nb.Nifti1Image(field, SCANNED), ball.folder / "field.nii.gz")
    plain = nb.load(ResampleDwi(**ball.inputs).run(cwd=ball.folder).outputs.out_file).get_fdata()
    step = ResampleDwi(**ball.inputs, bias_field=ball.folder / "field.nii.gz")
    other = ball.folder / "divided"
    other.mkdir()
    divided = nb.load(step.run(cwd=other).outputs.out_file).get_fdata()
    full = np.linalg.inv(SCANNED) @ WAY @ ball.axes
    grid = np.indices((24, 24, 24)).reshape(3, -1)
    place = (full[:3, :3] @ grid + full[:3, 3:]).reshape(3, 24, 24, 24)
    expected = 1 + 0.02 * (place[0] - 9.5) + 0.01 * (place[2] - 9.5)
    inside = plain[..., 0] > 500
    for volume in (0, 5):
        ratio = plain[..., volume][inside] / divided[..., volume][inside]
        np.testing.assert_allclose(ratio, expected[inside], atol=2e-3)


def test_what_no_gradient_can_follow(tmp_path: Path) -> None:
    np.testing.assert_allclose(rigid_way([WAY, MOVED]), MOVED @ WAY)
    with pytest.raises(InputError, match="stretches"):
        rigid_way([np.diag([1.0, 1.1, 1, 1])])
    field = DisplacementField(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    with pytest.raises(InputError, match="not by a field"):
        rigid_way([field])
