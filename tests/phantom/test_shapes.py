from __future__ import annotations

import numpy as np
import pytest

from neuroferry.phantom.shapes import capsule, coverage, ellipsoid, smooth_union


def at(solid, *point):
    return float(solid.distance(tuple(np.float32(v) for v in point)))


def box_of(solid, spacing=1.0, pad=4.0):
    return tuple(
        np.arange(low - pad, high + pad, spacing, dtype=np.float32).reshape(shape)
        for low, high, shape in zip(
            solid.low, solid.high, [(-1, 1, 1), (1, -1, 1), (1, 1, -1)], strict=True
        )
    )


def test_volume_of_an_ellipsoid_from_its_partial_volumes():
    solid = ellipsoid((3, -2, 1), (12, 9, 7))
    volume = coverage(solid.distance(box_of(solid)), 1.0).sum()
    assert volume == pytest.approx(4 / 3 * np.pi * 12 * 9 * 7, rel=0.01)


def test_volume_of_a_capsule():
    solid = capsule((0, 0, 0), (0, 12, 16), 6)
    volume = coverage(solid.distance(box_of(solid)), 1.0).sum()
    assert volume == pytest.approx(np.pi * 36 * 20 + 4 / 3 * np.pi * 216, rel=0.01)


@pytest.mark.parametrize(
    "solid",
    [
        ellipsoid((3, -2, 1), (5, 16, 29), pitch=-30),
        capsule((0, 0, 0), (5, 12, 16), 3, 8),
        ellipsoid((44, 66, -64), (20, 18, 10)).scaled(0.8, (0, 20, -20)),
    ],
)
def test_the_box_holds_the_whole_solid(solid):
    x, y, z = box_of(solid, pad=12.0)
    inside = solid.distance((x, y, z)) < 0
    assert inside.any()
    for axis, (centre, low, high) in enumerate(zip((x, y, z), solid.low, solid.high, strict=True)):
        others = tuple(i for i in range(3) if i != axis)
        reached = centre.ravel()[inside.any(axis=others)]
        assert reached.min() >= low - 1e-3
        assert reached.max() <= high + 1e-3


def test_pitch_turns_about_the_left_right_axis():
    solid = ellipsoid((0, 0, 0), (5, 20, 5), pitch=90)
    assert at(solid, 0, 0, 19) < 0 < at(solid, 0, 19, 0)


def test_scaling_about_an_anchor():
    ball = ellipsoid((10, 0, 0), (4, 4, 4)).scaled(0.5, (0, 0, 0))
    assert at(ball, 5, 0, 0) < 0
    assert at(ball, 7, 0, 0) == pytest.approx(0, abs=1e-5)
    assert at(ball, 9, 0, 0) == pytest.approx(2, abs=1e-5)


def test_union_is_the_minimum_away_from_the_groove_and_fills_it():
    a, b = np.array([-3, 0], np.float32), np.array([9, 0], np.float32)
    np.testing.assert_allclose(smooth_union(a, b, 4.0), [-3, -1])
