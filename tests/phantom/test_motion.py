from __future__ import annotations

import numpy as np
import pytest

from neuroferry.phantom.files import read_affines, write_affines
from neuroferry.phantom.motion import (
    draw_motion,
    framewise_displacement,
    motion_matrices,
    motion_parameters,
    rigid,
)

LAS = np.array([[-3.0, 0, 0, 90], [0, 3, 0, -120], [0, 0, 4, -60], [0, 0, 0, 1]])
RAS = LAS @ np.array([[-1, 0, 0, 59], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SHAPE = (60, 70, 40)
MASS = (29.5, 33.0, 25.0)


def centre(affine):
    return (affine @ [*MASS, 1])[:3]


def draw(seed=0, n=60, **options):
    return draw_motion(np.random.default_rng(seed), n, tr=2.0, **options)


def test_the_largest_jerk_is_as_large_as_asked():
    still = draw(jerk=0.0)
    moved = draw(jerk=3.0) - still
    steps = np.abs(np.linalg.norm(np.diff(moved, axis=0).reshape(-1, 2, 3), axis=2))
    assert steps.max() == pytest.approx(3.0, abs=0.01)
    assert (moved[:5] == 0).all()
    assert len(np.flatnonzero(steps.max(axis=1))) >= 4


def test_each_switch_leaves_the_other_effect_as_it_was():
    both, drift, jerk = draw(), draw(jerk=0.0), draw(drift=0.0)
    np.testing.assert_allclose(both, drift + jerk, atol=1e-12)
    assert not draw(drift=0.0, jerk=0.0).any()


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_short_runs_work(n):
    assert draw(n=n).shape == (n, 6)


def test_the_reference_does_not_move():
    matrices = motion_matrices(draw(), 4, (1.0, -20.0, 30.0))
    np.testing.assert_allclose(matrices[4], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1)


@pytest.mark.parametrize("affine", [LAS, RAS])
def test_translation_has_the_signs_of_fsl(affine):
    """For the motion back to the reference: x to the left, y forwards, z upwards."""
    shift = rigid((0, 0, 0), (1.0, 2.0, 3.0))
    found = motion_parameters(shift[None], affine, SHAPE, MASS)[0]
    np.testing.assert_allclose(found, [1, -2, -3, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("affine", [LAS, RAS])
@pytest.mark.parametrize("axis", range(3))
def test_turning_about_the_centre_is_no_translation(affine, axis):
    turn = np.zeros(3)
    turn[axis] = 2.0
    found = motion_parameters(rigid(turn, (0, 0, 0), centre(affine))[None], affine, SHAPE, MASS)[0]
    np.testing.assert_allclose(found[:3], 0, atol=1e-10)
    expected = np.zeros(3)
    # x is mirrored: rotations about y and z change sign, and the motion is inverted.
    expected[axis] = np.radians(2.0) * (1 if axis == 0 else -1)
    np.testing.assert_allclose(found[3:], expected, atol=1e-10)


def test_parameters_do_not_depend_on_the_direction_of_the_first_axis():
    matrices = motion_matrices(draw(), 4, centre(LAS))
    np.testing.assert_allclose(
        motion_parameters(matrices, LAS, SHAPE, MASS),
        motion_parameters(matrices, RAS, SHAPE, MASS),
    )


def test_framewise_displacement_adds_ways_and_arcs():
    parameters = np.array([[0, 0, 0, 0, 0, 0], [0.1, -0.2, 0, 0.01, 0, -0.02]])
    found = framewise_displacement(parameters)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(0.1 + 0.2 + 50 * 0.03)


def test_transforms_survive_the_file(tmp_path):
    matrices = motion_matrices(draw(n=9), 4, (0.0, 0.0, 0.0))
    path = write_affines(tmp_path / "motion.txt", matrices)
    np.testing.assert_allclose(read_affines(path), matrices, atol=1e-12)
    assert path.read_text().count("#Transform ") == 9
