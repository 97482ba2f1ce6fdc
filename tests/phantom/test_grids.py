from __future__ import annotations

import numpy as np
import pytest

from neuroferry.phantom.grids import Grid, lerp_grid, resample_grid, smooth_noise


def ramp(grid: Grid) -> np.ndarray:
    x, y, z = grid.axes()
    return (2 * x - y + 0.5 * z + 1).astype(np.float32)


def test_linear_interpolation_is_exact_for_linear_functions():
    grid = Grid.covering((-5, 0, 3), (5, 8, 9), 2.0)
    points = np.array([[-4.5, 0.1, 3.0], [1.3, 7.7, 8.9], [4.9, 3.2, 5.1]], np.float32).T
    expected = 2 * points[0] - points[1] + 0.5 * points[2] + 1
    np.testing.assert_allclose(grid.sample(ramp(grid), points), expected, atol=1e-5)


def test_resampling_agrees_with_the_function_inside_and_holds_the_border_outside():
    source = Grid.covering((0, 0, 0), (10, 10, 10), 2.0)
    target = Grid.covering((1, 1, 1), (9, 9, 9), 1.0)
    np.testing.assert_allclose(
        resample_grid(ramp(source), source, target), ramp(target), atol=1e-5
    )
    beyond = Grid.covering((-6, 0, 0), (-4, 2, 2), 2.0)
    held = resample_grid(ramp(source), source, beyond)
    np.testing.assert_array_equal(held[0], held[1])


def test_separable_interpolation_equals_point_by_point():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(6, 5, 7)).astype(np.float32)
    indices = [rng.uniform(0, n - 1, size=4) for n in volume.shape]
    grid = Grid(np.zeros(3), 1.0, volume.shape)
    points = np.stack(np.meshgrid(*indices, indexing="ij")).astype(np.float32)
    np.testing.assert_allclose(lerp_grid(volume, indices), grid.sample(volume, points), atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_noise_has_unit_variance_whatever_its_smoothness(sigma):
    field = smooth_noise(np.random.default_rng(5), (60, 60, 60), sigma)
    assert field.std() == pytest.approx(1.0, rel=0.1)
    assert field.mean() == pytest.approx(0.0, abs=0.2)
