"""Reading and writing of motion transforms and parameters."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.motion_table import (
    framewise_displacement,
    motion_parameters,
    read_motion_xfms,
    rms_deviation,
    write_motion_table,
    write_motion_xfms,
)
from neuroferry.interfaces.image.images import Volume

RADIOLOGICAL = np.array([[-3.0, 0, 0, 90], [0, 3, 0, -100], [0, 0, 3.5, -60], [0, 0, 0, 1]])
NEUROLOGICAL = np.array([[3.0, 0, 0, -90], [0, 3, 0, -100], [0, 0, 3.5, -60], [0, 0, 0, 1]])


def head(affine: np.ndarray) -> Volume:
    data = np.zeros((61, 65, 37), dtype=np.float32)
    data[20:41, 20:41, 10:27] = 100
    return Volume(data, affine)


def motions(n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.tile(np.eye(4), (n, 1, 1))
    out[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.02, (n, 3))).as_matrix()
    out[:, :3, 3] = rng.normal(0, 1, (n, 3))
    return out


def test_transforms_round_trip(tmp_path: Path) -> None:
    truth = motions(5)
    path = write_motion_xfms(truth, tmp_path / "xfm.txt")
    np.testing.assert_allclose(read_motion_xfms(path), truth, atol=1e-12)
    (tmp_path / "no.txt").write_text("#Insight Transform File V1.0\n")
    with pytest.raises(InputError, match="no linear"):
        read_motion_xfms(tmp_path / "no.txt")


def test_another_library_reads_the_transforms(tmp_path: Path) -> None:
    from nitransforms.linear import load

    truth = motions(4)
    path = write_motion_xfms(truth, tmp_path / "xfm.txt")
    np.testing.assert_allclose(load(str(path), fmt="itk").matrix, truth, atol=1e-6)


@pytest.mark.parametrize("affine", [RADIOLOGICAL, NEUROLOGICAL])
def test_translation_goes_along_fsls_axes(affine: np.ndarray) -> None:
    # The head moved 2 mm left and 1 mm anterior: FSL's matrix moves it back.
    moved = np.eye(4)
    moved[:3, 3] = (-2.0, 1.0, 0.0)
    found = motion_parameters(moved[None], head(affine))[0]
    np.testing.assert_allclose(found, [-2.0, -1.0, 0, 0, 0, 0], atol=1e-9)


def test_rotation_is_about_the_centre_of_mass() -> None:
    volume = head(RADIOLOGICAL)
    centre = RADIOLOGICAL[:3, :3] @ [30, 30, 18] + RADIOLOGICAL[:3, 3]
    # The nose moves down by 0.1 rad: a right-handed rotation by -0.1 about the rightward axis.
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([-0.1, 0, 0]).as_matrix()
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    found = motion_parameters(turn[None], volume)[0]
    np.testing.assert_allclose(np.abs(found), [0, 0, 0, 0.1, 0, 0], atol=1e-9)


@pytest.mark.parametrize("affine", [RADIOLOGICAL, NEUROLOGICAL])
def test_parameters_agree_with_an_independent_conversion(affine: np.ndarray) -> None:
    """Compare with FSL matrices from nitransforms, decomposed as in fMRIPrep, to second order."""
    from nitransforms.io.fsl import FSLLinearTransformArray

    volume = head(affine)
    image = nb.Nifti1Image(volume.data, affine)
    small = motions(4)
    small[:, :3, :3] = Rotation.from_rotvec(
        Rotation.from_matrix(small[:, :3, :3]).as_rotvec() / 20
    ).as_matrix()
    arrays = FSLLinearTransformArray.from_ras(small, reference=image, moving=image)
    matrices = np.stack([x["parameters"] for x in arrays.xforms])
    centre = np.array([30, 30, 18]) * [3, 3, 3.5]
    turned = matrices[:, :3, :3].transpose(0, 2, 1)
    truth = np.hstack(
        [
            matrices[:, :3, 3] - turned @ centre + centre,
            Rotation.from_matrix(turned).as_euler("XYZ"),
        ]
    )
    np.testing.assert_allclose(motion_parameters(small, volume), truth, atol=1.5e-3)
    rebuilt = motion_parameters(motions(4), volume)
    for row, matrix in zip(rebuilt, motions(4), strict=True):
        assert np.linalg.norm(row[3:]) == pytest.approx(
            np.linalg.norm(Rotation.from_matrix(matrix[:3, :3]).as_rotvec()), rel=0.02
        )


def test_deviation_from_volume_to_volume() -> None:
    volume = head(RADIOLOGICAL)
    series = np.tile(np.eye(4), (3, 1, 1))
    series[1, 0, 3] = 1.0
    found = rms_deviation(series, volume)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [1.0, 1.0])
    # The same by brute force, with many points in the sphere.
    series = motions(2)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 200_000))
    points *= 80.0 * rng.uniform(size=200_000) ** (1 / 3) / np.linalg.norm(points, axis=0)
    middle = RADIOLOGICAL[:3, :3] @ [30, 32, 18] + RADIOLOGICAL[:3, 3]
    points += middle[:, None]
    step = np.linalg.inv(series[1]) @ series[0]
    moved = step[:3, :3] @ points + step[:3, 3:]
    truth = np.sqrt(np.mean(np.sum((moved - points) ** 2, axis=0)))
    assert rms_deviation(series, volume)[1] == pytest.approx(truth, rel=0.01)


def test_framewise_displacement() -> None:
    parameters = np.zeros((3, 6))
    parameters[1] = [0.1, -0.2, 0.3, 0.001, 0.002, -0.003]
    found = framewise_displacement(parameters)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], 0.9)


def test_table(tmp_path: Path) -> None:
    path = write_motion_table(np.zeros((2, 6)), np.array([np.nan, 0.5]), tmp_path / "m.tsv")
    assert path.read_text().splitlines() == [
        "trans_x\ttrans_y\ttrans_z\trot_x\trot_y\trot_z\trmsd",
        "\t".join(["0.00000000"] * 6 + ["n/a"]),
        "\t".join(["0.00000000"] * 6 + ["0.50000000"]),
    ]
