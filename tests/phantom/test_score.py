from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroferry.errors import GeometryError
from neuroferry.phantom.motion import rigid
from neuroferry.phantom.score import (
    bias_error,
    course_correlation,
    dice,
    effect_recovery,
    folded_voxels,
    jacobian_determinant,
    map_error,
    motion_error,
    rigid_error,
    shift_error,
    template_overlap,
    tissue_dice,
)
from neuroferry.phantom.score_dwi import direction_error, fa_error, gradient_error, md_error


@given(shift=st.integers(0, 20), width=st.integers(1, 10))
def test_dice_of_two_shifted_bars(shift, width):
    a, b = np.zeros(40, bool), np.zeros(40, bool)
    a[:width] = True
    b[shift : shift + width] = True
    assert dice(a, b) == pytest.approx(max(width - shift, 0) / width)


def test_dice_of_nothing_with_nothing_is_one():
    assert dice(np.zeros(3), np.zeros(3)) == 1.0


def test_tissue_dice_keeps_the_labels_apart():
    scores = tissue_dice([1, 1, 2, 2, 0], [1, 1, 2, 3, 0])
    assert scores == {"GM": 1.0, "WM": pytest.approx(2 / 3), "CSF": 0.0}


def test_template_overlap_thresholds():
    assert template_overlap([0.6, 0.4, 0.9], [0.7, 0.6, 0.1]) == pytest.approx(0.5)


@given(scale=st.floats(1e-3, 1e3))
def test_bias_error_ignores_the_scale(scale):
    field = np.linspace(0.7, 1.4, 50)
    assert bias_error(scale * field, field, np.ones(50)) == pytest.approx(0, abs=1e-9)


def test_bias_error_of_no_correction_is_the_relative_spread_of_the_field():
    field = np.array([0.8, 1.25])
    ratio = 1 / field
    expected = ratio.std() / ratio.mean()
    assert bias_error(np.ones(2), field, [1, 1]) == pytest.approx(expected)


def test_shapes_that_differ_are_refused():
    with pytest.raises(GeometryError, match=r"\(3,\) and \(4,\)"):
        dice(np.zeros(3), np.zeros(4))
    with pytest.raises(GeometryError, match="empty"):
        bias_error(np.ones(3), np.ones(3), np.zeros(3))
    with pytest.raises(GeometryError, match="squeeze"):
        jacobian_determinant(np.zeros((4, 4, 4, 1, 3)), np.eye(4))


def oblique_affine():
    affine = np.eye(4)
    c, s = np.cos(0.3), np.sin(0.3)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-2, 3, 1.5])
    return affine


def test_jacobian_of_a_linear_map_is_its_determinant_on_any_grid():
    matrix = np.array([[1.2, 0.1, 0], [0, 0.9, 0.2], [0.05, 0, 1.1]])
    affine = oblique_affine()
    index = np.moveaxis(np.indices((5, 6, 7)), 0, -1).astype(float)
    world = index @ affine[:3, :3].T
    displacement = world @ matrix.T - world
    np.testing.assert_allclose(
        jacobian_determinant(displacement, affine), np.linalg.det(matrix), rtol=1e-9
    )


def test_folding_is_counted_where_it_happens():
    x = np.arange(20, dtype=float)
    displacement = np.zeros((20, 4, 4, 3))
    displacement[10:13, ..., 0] = -2.0 * (x[10:13] - 10)[:, None, None]
    mask = np.zeros((20, 4, 4))
    mask[:5] = 1
    assert folded_voxels(displacement, np.eye(4)) > 0
    assert folded_voxels(displacement, np.eye(4), mask) == 0


def test_map_error_is_a_distance():
    assert map_error(np.zeros((4, 3)), np.full((4, 3), 1.0)) == pytest.approx((3**0.5, 3**0.5))


def wobble(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rigid(rng.normal(0, 1, 3), rng.normal(0, 1, 3)) for _ in range(n)])


BRAIN = np.pad(np.ones((12, 14, 10), dtype=bool), 2)
GRID = np.diag([5.0, 5.0, 5.0, 1.0])
GRID[:3, 3] = -40


def test_motion_error_forgives_another_reference_but_no_error():
    truth = wobble()
    elsewhere = truth @ rigid((1, 2, -1), (3, 0, -2))
    assert motion_error(elsewhere, truth, BRAIN, GRID) == pytest.approx((0, 0), abs=1e-9)
    assert motion_error(elsewhere, truth, BRAIN, GRID, same_reference=True)[0] > 2
    wrong = elsewhere.copy()
    wrong[7, 0, 3] += 0.8
    mean, maximum = motion_error(wrong, truth, BRAIN, GRID)
    assert mean == pytest.approx(0.8 / 20, rel=0.01)
    assert maximum == pytest.approx(0.8, rel=0.01)


def test_inverted_motion_is_wrong():
    truth = wobble()
    assert motion_error(np.linalg.inv(truth), truth, BRAIN, GRID)[0] > 1


def test_rigid_error_is_that_of_the_points():
    found = rigid((0, 0, 1), (0, 0, 0))
    mean, maximum = rigid_error(found, np.eye(4), BRAIN, GRID)
    assert 0 < mean < maximum < np.radians(1) * 60
    with pytest.raises(GeometryError, match="empty"):
        rigid_error(found, np.eye(4), np.zeros((3, 3, 3)), GRID)


def test_shift_error_is_in_millimetres():
    truth = np.zeros((4, 4, 4))
    found = np.full((4, 4, 4), 20.0)
    mean, percentile = shift_error(found, truth, truth == 0, readout=0.05, voxel=3.0)
    assert mean == percentile == pytest.approx(3.0)
    with pytest.raises(GeometryError, match="empty"):
        shift_error(found, truth, truth, readout=0.05, voxel=3.0)


def test_effects_and_courses_compare_by_slope_and_correlation():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200)
    slope, correlation = effect_recovery(0.5 * truth + 3, truth, np.ones(200))
    assert (slope, correlation) == pytest.approx((0.5, 1.0))
    course = np.r_[np.nan, truth[1:]]
    assert course_correlation(course, -truth) == pytest.approx(-1)


def test_diffusion_measures_refuse_what_they_cannot_compare():
    with pytest.raises(GeometryError, match="empty"):
        fa_error(np.ones(3), np.ones(3), np.zeros(3))
    with pytest.raises(GeometryError, match="another shape"):
        direction_error(np.ones((4, 3)), np.ones((4, 3)), np.ones(3))
    with pytest.raises(GeometryError, match="different volumes"):
        gradient_error(np.eye(3), np.diag([1.0, 0.0, 1.0]))
    with pytest.raises(GeometryError, match="resample"):
        md_error(np.ones(3), np.ones(4), np.ones(4))


def test_the_direction_error_is_the_angle_between_axes():
    degrees = np.radians([0.0, 10.0, 30.0, 170.0])
    found = np.stack([np.cos(degrees), np.sin(degrees), np.zeros(4)], axis=1)
    truth = np.tile([2.0, 0.0, 0.0], (4, 1))
    median, percentile = direction_error(found, truth, np.ones(4))
    assert median == pytest.approx(10)
    assert percentile == pytest.approx(np.percentile([0, 10, 30, 10], 95))
    mean, largest = gradient_error(found, truth)
    assert (mean, largest) == pytest.approx((12.5, 30))
