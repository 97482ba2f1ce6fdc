"""Whole-image metrics against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.interfaces.qc import whole_image as whole


def test_efc_of_a_constant_image_is_one() -> None:
    assert whole.efc(np.full((8, 9, 10), 123.0)) == pytest.approx(1.0)


def test_efc_of_one_bright_voxel_is_zero() -> None:
    image = np.zeros((8, 8, 8))
    image[3, 4, 5] = 9.0
    assert whole.efc(image) == pytest.approx(0.0, abs=1e-12)


def test_efc_of_some_equal_voxels() -> None:
    # m equal voxels of n: sqrt(m) ln sqrt(m) / (sqrt(n) ln sqrt(n))
    image = np.zeros((10, 10, 10))
    image[:5] = 3.0
    expected = math.sqrt(500) * math.log(500) / (math.sqrt(1000) * math.log(1000))
    assert whole.efc(image) == pytest.approx(expected)


def test_efc_ignores_scale_frame_and_negative_values() -> None:
    rng = np.random.default_rng(1)
    image = rng.gamma(2.0, 10.0, (12, 12, 12))
    padded = np.zeros((20, 12, 12))
    padded[:12] = image
    frame = np.zeros(padded.shape, dtype=bool)
    frame[12:] = True
    assert whole.efc(padded, frame) == pytest.approx(whole.efc(image))
    assert whole.efc(padded) < whole.efc(image)
    assert whole.efc(5 * image) == pytest.approx(whole.efc(image))
    padded[15] = -3.0
    assert whole.efc(padded, frame) == pytest.approx(whole.efc(image))


def test_efc_grows_with_ghosts() -> None:
    image = np.zeros((32, 32, 32))
    image[8:24, 8:24, 8:24] = 100.0
    ghost = image + 0.1 * np.roll(image, 12, axis=1)
    assert whole.efc(ghost) > whole.efc(image)


def test_efc_of_nothing_is_undefined() -> None:
    assert math.isnan(whole.efc(np.zeros((4, 4, 4))))


def test_fber_closed_form() -> None:
    image = np.full((10, 10, 10), 2.0)
    head = np.zeros(image.shape, dtype=bool)
    head[:5] = True
    image[head] = 40.0
    assert whole.fber(image, head, ~head) == pytest.approx(400.0)
    image[~head] = 0.0
    assert math.isnan(whole.fber(image, head, ~head))
    assert math.isnan(whole.fber(image, head, np.zeros_like(head)))


def test_wm2max_takes_the_bright_tail() -> None:
    image = np.arange(100_000, dtype=float).reshape(100, 100, 10)
    brightest = 0.9995 * 99_999
    assert whole.wm2max(image, 50_000.0) == pytest.approx(50_000.0 / brightest)
    assert math.isnan(whole.wm2max(np.zeros((4, 4, 4)), 1.0))


def test_wm2max_of_single_precision_takes_the_same_voxel() -> None:
    image = np.arange(3_000_019, dtype=np.float32).reshape(1, 1, -1)
    single, double = (whole.wm2max(x, 1e6) for x in (image, image.astype(float)))
    assert single == pytest.approx(double, rel=1e-9)


def test_inu_of_a_linear_field() -> None:
    field = np.broadcast_to(np.linspace(0.8, 1.2, 401)[:, None, None], (401, 3, 3))
    median, spread = whole.inu_summary(field, np.ones(field.shape, dtype=bool))
    assert median == pytest.approx(1.0)
    assert spread == pytest.approx(0.36)
    assert all(math.isnan(v) for v in whole.inu_summary(field, np.zeros(field.shape, dtype=bool)))


def test_volume_fractions_sum_to_one() -> None:
    shares = whole.volume_fractions({"csf": 3.0, "gm": 5.0, "wm": 8.0})
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["wm"] == pytest.approx(0.5)
    assert all(math.isnan(v) for v in whole.volume_fractions({"csf": 0.0, "gm": 0.0}).values())


def test_rpve_of_a_sharp_map_counts_the_voxels_around() -> None:
    p = np.zeros((10, 10, 10))
    p[:2] = 1.0
    assert whole.rpve(p) == pytest.approx(1000 / 200)
    assert whole.rpve(p[:4], outside=600) == pytest.approx(whole.rpve(p))
    assert math.isnan(whole.rpve(np.zeros((3, 3, 3))))


def test_rpve_closed_form_with_partial_volume() -> None:
    p = np.full((10, 10, 10), 0.25)
    p[:5] = 0.75
    assert whole.rpve(p) == pytest.approx(0.75)


def test_rpve_drops_the_tails() -> None:
    p = np.linspace(0.01, 1.0, 1000).reshape(10, 10, 10)
    low, high = np.percentile(p, (2, 98))
    kept = p[(p >= low) & (p <= high)]
    dropped = p.size - kept.size
    expected = kept[kept > 0.5].sum() + (1 - kept[kept <= 0.5]).sum() + dropped
    assert dropped == 40
    assert whole.rpve(p) == pytest.approx(expected / 1000, rel=1e-6)


def test_rpve_ignores_traces_of_a_tissue() -> None:
    p = np.zeros((10, 10, 10))
    p[:2] = 1.0
    assert whole.rpve(np.maximum(p, 1e-4)) == pytest.approx(whole.rpve(p))


def test_overlap_of_shifted_boxes() -> None:
    a, b = np.zeros((12, 4, 4)), np.zeros((12, 4, 4))
    a[:8], b[4:12] = 1.0, 1.0
    assert whole.tpm_overlap(a, a) == pytest.approx(1.0)
    assert whole.tpm_overlap(a, b) == pytest.approx(4 / 12)
    assert whole.tpm_overlap(a, 0.5 * a) == pytest.approx(0.5)
    assert math.isnan(whole.tpm_overlap(0 * a, 0 * a))


@pytest.mark.parametrize("sigmas", [(1.0, 1.0, 1.0), (0.8, 1.5, 2.2)])
def test_fwhm_of_smoothed_noise(sigmas: tuple[float, float, float]) -> None:
    noise = np.random.default_rng(6).normal(size=(96, 96, 96))
    smooth = ndimage.gaussian_filter(noise, sigmas, mode="wrap", truncate=6.0)
    mask = ndimage.gaussian_filter(noise, 20.0, mode="wrap") > 0  # an irregular region
    for measured, sigma in zip(whole.fwhm(smooth, mask), sigmas, strict=True):
        assert measured == pytest.approx(whole.SIGMA_TO_FWHM * sigma, rel=0.04)


def test_fwhm_does_not_depend_on_scale_and_offset() -> None:
    noise = np.random.default_rng(7).normal(size=(40, 40, 40))
    smooth = ndimage.gaussian_filter(noise, 1.5)
    mask = np.ones(noise.shape, dtype=bool)
    assert whole.fwhm(100 + 7 * smooth, mask) == pytest.approx(whole.fwhm(smooth, mask))


def test_fwhm_of_a_flat_or_tiny_region_is_undefined() -> None:
    mask = np.ones((6, 6, 6), dtype=bool)
    assert all(math.isnan(v) for v in whole.fwhm(np.ones(mask.shape), mask))
    assert all(math.isnan(v) for v in whole.fwhm(np.ones(mask.shape), ~mask))
    checkerboard = np.indices(mask.shape).sum(axis=0) % 2
    assert all(math.isnan(v) for v in whole.fwhm(checkerboard, mask))
