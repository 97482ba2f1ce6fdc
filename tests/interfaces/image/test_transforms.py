import hashlib

import numpy as np
import pytest
from ants_env import ants_session, to_ants
from scipy import ndimage

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.images import Volume
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    apply_to_many,
    apply_transforms,
    grid_to_itk,
    jacobian_determinant,
    map_points,
    read_itk_affine,
    read_itk_composite,
    read_transform,
    write_itk_affine,
    write_itk_composite,
)

GRID = np.array(
    [
        [-2.0, 0.1, 0.0, 31.0],
        [0.1, 2.1, 0.0, -33.0],
        [0.0, 0.0, 1.9, -28.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
GRID[:3, :3] = np.linalg.svd(GRID[:3, :3])[0] @ np.diag([2.0, 2.1, 1.9])
SHAPE = (30, 32, 28)


def fade():
    """Return weights of one inside the grid that fall to zero at its border."""
    window = np.ones(SHAPE)
    for axis in range(3):
        ramp = np.minimum(np.arange(SHAPE[axis]), np.arange(SHAPE[axis])[::-1]) / 6
        window *= np.clip(ramp, 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
    return window


@pytest.fixture(scope="module")
def blob():
    """Simulate a smooth random image that fades out towards its border."""
    rng = np.random.default_rng(5)
    data = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    data = (data - data.min()) * fade()
    data /= data.max()
    return Volume(data.astype(np.float32), GRID)


@pytest.fixture(scope="module")
def matrix():
    angle = np.deg2rad(14)
    result = np.eye(4)
    result[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0.0],
        [np.sin(angle), np.cos(angle), 0.08],
        [0.0, 0.0, 1.07],
    ]
    result[:3, 3] = (3.0, -4.0, 2.0)
    return result


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(6)
    data = ndimage.gaussian_filter(rng.normal(size=(*SHAPE, 3)), (4, 4, 4, 0))
    data *= 5.0 / np.abs(data).max() * fade()[..., None]
    return DisplacementField(data.astype(np.float32), GRID)


def test_itk_text_round_trip(tmp_path, matrix):
    path = write_itk_affine(matrix, tmp_path / "a.txt")
    np.testing.assert_allclose(read_itk_affine(path), matrix, atol=1e-12)


def test_itk_text_with_a_centre_of_rotation(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 0 -1 0 1 0 0 0 0 1 1 2 3\nFixedParameters: 10 0 0\n"
    )
    # LPS: x' = R (x - c) + c + t; the point at the centre moves by t alone.
    moved = read_itk_affine(path) @ [-10, 0, 0, 1]
    np.testing.assert_allclose(moved[:3], [-11, -2, 3])


def test_wrong_files_are_refused(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("Transform: Euler3DTransform_double_3_3\nParameters: 1 2 3\n")
    with pytest.raises(InputError, match="12 parameters"):
        read_itk_affine(text)
    other = tmp_path / "a.h5"
    other.write_bytes(b"no hdf5")
    with pytest.raises(InputError, match="composite"):
        read_itk_composite(other)


@pytest.mark.parametrize(
    ("numbers", "centre"),
    [
        ("nan 0 0 0 1 0 0 0 1 0 0 0", "0 0 0"),
        ("1 0 0 0 1 0 0 0 1 0 inf 0", "0 0 0"),
        ("1 0 0 0 1 0 0 0 1 0 0 0", "0 0 nan"),
        ("1 0 0 0 1 0 0 0 0 0 0 0", "0 0 0"),
    ],
)
def test_numbers_that_place_nothing_are_refused(tmp_path, numbers, centre):
    path = tmp_path / "a.txt"
    path.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: {centre}\n"
    )
    with pytest.raises(InputError, match=r"finite number|cannot be inverted"):
        read_itk_affine(path)
    with pytest.raises(InputError, match=r"finite number|cannot be inverted"):
        read_motion_xfms(path)


def test_a_displacement_that_is_no_number_is_refused(tmp_path, field):
    data = field.data.copy()
    data[1, 2, 3, 0] = np.nan
    write_itk_composite([DisplacementField(data, field.affine)], tmp_path / "a.h5")
    with pytest.raises(InputError, match="not a finite number"):
        read_itk_composite(tmp_path / "a.h5")


def test_composite_round_trip_and_bytes(tmp_path, matrix, field):
    chain = [field, matrix]
    first = write_itk_composite(chain, tmp_path / "a.h5").read_bytes()
    second = write_itk_composite(chain, tmp_path / "b.h5").read_bytes()
    assert hashlib.sha1(first).digest() == hashlib.sha1(second).digest()
    back, linear = read_transform(tmp_path / "a.h5")
    assert isinstance(back, DisplacementField)
    assert isinstance(linear, np.ndarray)
    np.testing.assert_allclose(back.data, field.data, atol=2**-11 + 1e-6)
    np.testing.assert_allclose(back.affine, field.affine, atol=1e-10)
    np.testing.assert_allclose(linear, matrix, atol=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("order", ["matrix", "field, matrix", "matrix, field"])
def test_ants_resamples_as_we_do(tmp_path, blob, matrix, field, order):
    chain = [{"matrix": matrix, "field": field}[name] for name in order.split(", ")]
    path = write_itk_composite(chain, tmp_path / "x.h5")
    shape = (26, 30, 24)
    affine = np.diag([-2.2, 2.0, 2.3, 1.0])
    middle = (GRID @ [*(np.array(SHAPE) / 2), 1])[:3]
    affine[:3, 3] = middle - affine[:3, :3] @ (np.array(shape) / 2)
    ours = apply_transforms(blob, read_itk_composite(path), shape, affine)
    with ants_session() as ants:
        theirs = ants.apply_transforms(
            to_ants(ants, np.zeros(shape), affine),
            to_ants(ants, blob.data, blob.affine),
            [str(path)],
        ).numpy()
    assert ours.data.std() > 0.05
    inner = tuple(slice(2, -2) for _ in range(3))
    np.testing.assert_allclose(ours.data[inner], theirs[inner], atol=2e-3)


def test_ants_reads_our_text(tmp_path, blob, matrix):
    path = write_itk_affine(matrix, tmp_path / "x.txt")
    ours = apply_transforms(blob, [matrix], SHAPE, GRID)
    with ants_session() as ants:
        image = to_ants(ants, blob.data, blob.affine)
        theirs = ants.apply_transforms(image, image, [str(path)]).numpy()
    np.testing.assert_allclose(ours.data, theirs, atol=2e-3)


def test_forth_and_back_is_where_it_was(matrix):
    points = np.random.default_rng(1).uniform(-20, 20, (3, 50))
    there = map_points(points, [matrix])
    np.testing.assert_allclose(map_points(there, [np.linalg.inv(matrix)]), points, atol=1e-12)


def test_identity_gives_the_image_back(blob):
    for order in (0, 1, 3):
        same = apply_transforms(blob, [], SHAPE, GRID, order=order)
        np.testing.assert_allclose(same.data, blob.data, atol=2e-5)


def test_field_on_its_own_grid_is_read_without_interpolation(blob, field, matrix):
    direct = apply_transforms(blob, [field, matrix], SHAPE, GRID)
    index = np.indices(SHAPE).reshape(3, -1)
    points = map_points(GRID[:3, :3] @ index + GRID[:3, 3:], [field, matrix])
    voxels = np.linalg.inv(GRID)[:3, :3] @ (points - GRID[:3, 3:])
    slow = ndimage.map_coordinates(blob.data, voxels, order=1).reshape(SHAPE)
    inner = tuple(slice(1, -1) for _ in range(3))
    np.testing.assert_allclose(direct.data[inner], slow[inner], atol=1e-4)


def test_labels_stay_labels(blob, matrix):
    labels = Volume((blob.data > blob.data.mean()).astype(np.float32) * 3, GRID)
    moved, image = apply_to_many([labels, blob], [0, 1], [matrix], SHAPE, GRID)
    assert set(np.unique(moved.data)) <= {0.0, 3.0}
    np.testing.assert_array_equal(image.data, apply_transforms(blob, [matrix], SHAPE, GRID).data)


def test_jacobian_of_a_linear_field_is_its_determinant():
    stretch = np.diag([0.1, -0.2, 0.3])
    index = np.indices(SHAPE).reshape(3, -1)
    world = GRID[:3, :3] @ index + GRID[:3, 3:]
    data = (stretch @ world).T.reshape(*SHAPE, 3).astype(np.float32)
    determinant = jacobian_determinant(DisplacementField(data, GRID))
    np.testing.assert_allclose(determinant, 1.1 * 0.8 * 1.3, rtol=1e-3)


def test_folding_is_seen():
    data = np.zeros((*SHAPE, 3), dtype=np.float32)
    data[15:, ..., 0] = 5.0  # the first axis points left: this pushes voxels over each other
    assert (jacobian_determinant(DisplacementField(data, np.diag([-2.0, 2, 2, 1]))) <= 0).any()


def test_grid_to_itk_is_lps():
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (5.0, 6.0, 7.0)
    origin, spacing, direction = grid_to_itk(affine)
    assert origin.tolist() == [-5.0, -6.0, 7.0]
    assert spacing.tolist() == [2.0, 3.0, 4.0]
    np.testing.assert_array_equal(direction, np.diag([1.0, -1.0, 1.0]))
