from __future__ import annotations

import numpy as np
import pytest

from neuroferry.phantom.deform import (
    DisplacementField,
    HeadWarp,
    compose_affine,
    integrate,
    inverse_field,
    random_velocity,
    upsample_field,
)
from neuroferry.phantom.files import read_displacement, write_displacement
from neuroferry.phantom.grids import Grid
from neuroferry.phantom.score import folded_voxels

GRID = Grid.covering((-80, -80, -80), (80, 80, 80), 4.0)


@pytest.fixture(scope="module")
def warp():
    velocity = random_velocity(np.random.default_rng(3), GRID, ((16.0, 3.0), (8.0, 1.7)))
    affine = np.eye(4)
    affine[:3, :3] = compose_affine((0.9, 1.05, 0.95), (0.02, 0, 0.01), (8, -5, 12))
    affine[:3, 3] = 4, -9, 13
    return HeadWarp.from_velocity(affine, GRID, velocity)


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(-45, 45, size=(500, 3))


def test_a_constant_velocity_moves_everything_by_itself():
    velocity = np.zeros((3, *GRID.shape), np.float32)
    velocity[1] = 7.0
    np.testing.assert_allclose(integrate(velocity, GRID), velocity, atol=1e-4)


def test_a_linear_velocity_scales_by_the_exponential():
    x, _, _ = GRID.axes()
    velocity = np.zeros((3, *GRID.shape), np.float32)
    velocity[0] = 0.2 * x
    flow = integrate(velocity, GRID)
    middle = np.abs(x).ravel() < 40
    expected = (np.exp(0.2) - 1) * x.ravel()[middle]
    np.testing.assert_allclose(flow[0, middle, 20, 20], expected, rtol=0.005, atol=1e-4)


def test_rotation_matrices_are_proper_and_turn_the_right_way():
    turn = compose_affine((1, 1, 1), (0, 0, 0), (10, 20, 30))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    yaw = compose_affine((1, 1, 1), (0, 0, 0), (0, 0, 90))
    np.testing.assert_allclose(yaw @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_there_and_back_is_where_one_was(warp, points):
    back = warp.to_template(warp.to_subject(points))
    error = np.linalg.norm(back - points, axis=1)
    assert error.mean() < 0.05 * GRID.spacing
    assert error.max() < 0.25 * GRID.spacing


def test_the_flow_moves_points_by_millimetres_and_does_not_fold(warp):
    displacement = np.moveaxis(warp.forward, 0, -1)
    assert 3 < np.linalg.norm(displacement, axis=-1).mean() < 8
    assert folded_voxels(displacement, GRID.affine) == 0


def test_the_stored_inverse_inverts_the_stored_field(warp):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -90
    field = warp.field_on(affine, (90, 90, 90), spacing=4.0)
    nodes = Grid.covering((-40, -40, -40), (40, 40, 40), 4.0)
    inverse = inverse_field(warp, field, nodes)
    targets = np.stack(np.broadcast_arrays(*nodes.axes()), axis=-1).astype(float)
    error = np.linalg.norm(field.apply(targets + inverse.data) - targets, axis=-1)
    assert error.max() < 0.02


def test_upsampling_a_field_equals_applying_it(warp):
    affine = np.eye(4)
    affine[:3, :3] = compose_affine((1, 1, 1), (0, 0, 0), (5, 3, -8)) @ np.diag([-2, 2, 3])
    affine[:3, 3] = 50, -60, -70
    field = warp.field_on(affine, (50, 60, 40), spacing=4.0)
    indices = [np.array([0.0, 10.25, 49.0]), np.array([0.0, 30.5, 59.0]), np.array([1.0, 39.0])]
    block = upsample_field(field, affine, indices)
    voxels = np.stack(np.meshgrid(*indices, indexing="ij"), axis=-1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(np.moveaxis(block, 0, -1), field.apply(world), atol=1e-3)


def test_displacements_survive_the_disk(warp, tmp_path, points):
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -60
    field = warp.field_on(affine, (40, 40, 40), spacing=4.0)
    read = read_displacement(write_displacement(tmp_path / "a_xfm.nii.gz", field))
    np.testing.assert_array_equal(read.data, field.data)
    np.testing.assert_allclose(read.apply(points), field.apply(points), atol=1e-3)


def test_itk_reads_the_same_transform(warp, tmp_path, points):
    """ANTs must see the map that the phantom was made with, in its own convention."""
    ants = pytest.importorskip("ants")
    import pandas as pd

    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -75
    field: DisplacementField = warp.field_on(affine, (50, 50, 50), spacing=4.0)
    path = write_displacement(tmp_path / "b_xfm.nii.gz", field)
    lps = points * [-1, -1, 1]
    moved = ants.apply_transforms_to_points(
        3, pd.DataFrame(lps, columns=["x", "y", "z"]), [str(path)]
    )
    found = moved[["x", "y", "z"]].to_numpy() * [-1, -1, 1]
    np.testing.assert_allclose(found, field.apply(points), atol=0.01)
