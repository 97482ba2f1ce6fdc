"""Masks of head, air, artefacts and empty frame on simulated heads with known truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.interfaces.qc import background

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACING = (2.0, 2.0, 2.0)


def _ball(shape: tuple[int, ...], radius: float, centre: tuple[float, ...]) -> NDArray[np.bool_]:
    grids = np.indices(shape)
    square = sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True))
    return np.asarray(square <= radius**2)


def _head(
    sigma: float = 8.0, seed: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Simulate a brain (level 400) in dark bone in bright scalp, with Rician noise."""
    shape, centre = (96, 96, 96), (48.0, 48.0, 48.0)
    head, inner, brain = (_ball(shape, r, centre) for r in (36, 33, 30))
    image = np.zeros(shape)
    image[head], image[inner], image[brain] = 600.0, 10.0, 400.0
    image[_ball(shape, 5, (48, 70, 48))] = 0.0  # an air-filled cavity
    rng = np.random.default_rng(seed)
    noisy = np.hypot(image + rng.normal(0, sigma, shape), rng.normal(0, sigma, shape))
    return noisy, head, brain


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_head_mask_finds_the_skin_and_fills_cavities() -> None:
    image, head, brain = _head()
    found = background.head_mask(image, brain, SPACING)
    assert found[head].all()
    assert _dice(found, head) > 0.94  # 2 mm are added on purpose
    assert not found[~_ball(head.shape, 36 + 2.5, (48, 48, 48))].any()


@pytest.mark.parametrize("sigma", [0.0, 2.0, 25.0])
def test_head_mask_stands_any_noise(sigma: float) -> None:
    image, head, brain = _head(sigma)
    assert _dice(background.head_mask(image, brain, SPACING), head) > 0.9


def test_head_mask_of_small_anisotropic_voxels_matches_that_of_large_ones() -> None:
    image, _, brain = _head()
    fine = image.repeat(2, axis=0)
    found = background.head_mask(fine, brain.repeat(2, axis=0), (1.0, 2.0, 2.0))
    assert found.shape == fine.shape
    assert _dice(found[::2], background.head_mask(image, brain, SPACING)) > 0.99


def test_head_mask_ignores_a_weak_ghost() -> None:
    image, head, brain = _head()
    ghost = image + 0.04 * np.roll(image, 48, axis=1)
    assert _dice(background.head_mask(ghost, brain, SPACING), head) > 0.9


def test_rotation_frame_is_found_exactly_and_noise_zeros_are_not() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 4, (40, 40, 40)).astype(float)  # a quarter of the air is 0
    assert not background.rotation_frame(image).any()
    frame = np.zeros(image.shape, dtype=bool)
    frame[:6], frame[:, -5:] = True, True
    found = background.rotation_frame(np.where(frame, 0.0, image + 1))
    assert found[frame].mean() > 0.99
    assert not found[~frame].any()


def test_hole_inside_an_image_is_no_frame() -> None:
    image = np.ones((40, 40, 40))
    image[15:25, 15:25, 15:25] = 0.0
    assert not background.rotation_frame(image).any()


def test_background_of_a_skull_stripped_image_is_frame() -> None:
    brain = _ball((64, 64, 64), 20, (32, 32, 32))
    frame = background.rotation_frame(np.where(brain, 100.0, 0.0))
    assert not frame[brain].any()
    assert frame[~brain].mean() > 0.99


def test_plane_runs_through_both_landmarks_in_any_orientation() -> None:
    shape = (90, 110, 100)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-90, -125, -80)
    for matrix in (affine, np.array(affine)[:, [2, 0, 1, 3]]):
        dims = shape if matrix is affine else (shape[2], shape[0], shape[1])
        above = background.above_plane(dims, matrix)
        for mark in (background.GLABELLA, background.INION):
            voxel = np.linalg.inv(matrix) @ [*mark, 1.0]
            up = np.linalg.inv(matrix)[:3, :3] @ [0, 0, 4.0]
            higher = tuple(np.rint(voxel[:3] + up).astype(int))
            lower = tuple(np.rint(voxel[:3] - up).astype(int))
            assert above[higher]
            assert not above[lower]


def test_artifacts_are_the_blobs_that_stand_out_of_the_air() -> None:
    image, head, _ = _head()
    blob = _ball(image.shape, 3, (10, 10, 48))
    image[blob] += 500.0
    image[90, 90, 90] += 500.0  # one voxel is not an artefact
    found = background.artifact_mask(image, ~head, head, SPACING)
    opened = ndimage.binary_opening(blob, ndimage.generate_binary_structure(3, 1))
    assert np.array_equal(found, opened)
    assert background.qi_1(found, ~head & ~found) == pytest.approx(found.sum() / (~head).sum())


def test_artifacts_next_to_the_skin_do_not_count() -> None:
    image, head, _ = _head()
    blob = _ball(image.shape, 2, (48 - 39, 48, 48)) & ~head
    image[blob] += 500.0
    assert not background.artifact_mask(
        image, ~head, _ball(head.shape, 38, (48, 48, 48)), SPACING
    ).any()


def test_no_air_no_artifacts_and_undefined_qi_1() -> None:
    image, head, _ = _head()
    nothing = np.zeros_like(head)
    assert not background.artifact_mask(image, nothing, head, SPACING).any()
    assert math.isnan(background.qi_1(nothing, nothing))


def _rayleigh(sigma: float, seed: int = 3) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.hypot(rng.normal(0, sigma, (50, 50, 50)), rng.normal(0, sigma, (50, 50, 50)))


def test_qi_2_is_small_for_pure_noise_and_grows_with_a_ghost() -> None:
    noise = _rayleigh(10.0)
    everywhere = np.ones(noise.shape, dtype=bool)
    values = []
    for slices in (0, 1, 4):  # none, 2% and 8% of the air
        spoilt = noise.copy()
        spoilt[:slices] += 40.0
        values.append(background.qi_2(spoilt, everywhere))
    peak = math.exp(-0.5) / 10.0  # of the Rayleigh density
    assert 0 <= values[0] < 0.02 * peak
    assert values[1] > 1.5 * values[0]
    assert values[2] > 2 * values[1]


def test_qi_2_of_a_chi_squared_background_is_nearly_zero() -> None:
    rng = np.random.default_rng(4)
    noise = 3.0 * rng.chisquare(20, (60, 60, 60))
    peak = 0.0648 / 3.0
    assert background.qi_2(noise, np.ones(noise.shape, dtype=bool)) < 0.01 * peak


def test_qi_2_survives_noise_stored_as_a_few_integers() -> None:
    noise = _rayleigh(10.0)
    everywhere = np.ones(noise.shape, dtype=bool)
    coarse = np.rint(noise / 4) * 4
    assert background.qi_2(coarse, everywhere) < 0.03 * math.exp(-0.5) / 10.0


def test_qi_2_is_a_density_per_unit_of_intensity() -> None:
    noise = _rayleigh(10.0)
    everywhere = np.ones(noise.shape, dtype=bool)
    assert background.qi_2(5 * noise, everywhere) == pytest.approx(
        background.qi_2(noise, everywhere) / 5, rel=0.02
    )


def test_qi_2_repeats_exactly_and_needs_voxels() -> None:
    noise = _rayleigh(10.0)
    everywhere = np.ones(noise.shape, dtype=bool)
    assert background.qi_2(noise, everywhere) == background.qi_2(noise.copy(), everywhere)
    assert math.isnan(background.qi_2(noise, noise > 45.0))
    assert math.isnan(background.qi_2(np.zeros_like(noise), everywhere))
    assert math.isnan(background.qi_2(np.ones_like(noise), everywhere))
