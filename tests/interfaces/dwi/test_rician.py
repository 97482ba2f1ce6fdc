"""Noisy magnitudes: mean and spread against simulation, and the inverse."""

import numpy as np
import pytest

from neuroferry.interfaces.dwi.rician import (
    channel_sigma,
    magnitude_mean,
    magnitude_variance,
    without_noise_floor,
)

SIGMA = 25.0


def test_the_mean_of_a_magnitude():
    rng = np.random.default_rng(7)
    snr = np.array([0.0, 0.5, 1, 2, 4, 10])
    noise = rng.normal(size=(2, 200_000, 1))
    simulated = np.hypot(snr + noise[0], noise[1]).mean(axis=0)
    np.testing.assert_allclose(magnitude_mean(snr), simulated, atol=0.006)
    np.testing.assert_allclose(magnitude_mean(np.zeros(1)), np.sqrt(np.pi / 2))
    many = np.linspace(0, 60, 1000)
    mean = (SIGMA * magnitude_mean(many)).astype(np.float32)
    back = without_noise_floor(mean, np.full(mean.shape, SIGMA, np.float32)) / SIGMA
    np.testing.assert_allclose(back[many > 0.3], many[many > 0.3], atol=2e-3)


@pytest.mark.parametrize("snr", [2.0, 3, 4, 5, 7, 10])
def test_the_bias_of_denoised_magnitudes(snr):
    """Means of ten magnitudes stand for denoised magnitudes."""
    noise = np.random.default_rng(8).normal(size=(2, 50_000, 10))
    denoised = np.hypot(snr + noise[0], noise[1]).mean(axis=1).astype(np.float32)
    made = without_noise_floor(denoised, np.ones_like(denoised))
    bias = abs(float(made.mean()) - snr)
    common = np.sqrt(np.maximum(np.square(denoised) - 1, 0))
    assert bias < 0.02
    assert bias < 0.3 * (denoised.mean() - snr)
    assert bias < abs(common.mean() - snr) + 0.003


def test_the_spread_of_a_magnitude_and_the_noise_behind_it():
    rng = np.random.default_rng(9)
    snr = np.array([0.0, 0.5, 1, 2, 4, 10])
    noise = rng.normal(size=(2, 200_000, 1))
    simulated = np.hypot(snr + noise[0], noise[1])
    variance = magnitude_variance(magnitude_mean(snr))
    np.testing.assert_allclose(variance, simulated.var(axis=0), atol=0.01)
    np.testing.assert_allclose(variance[0], 2 - np.pi / 2, atol=1e-4)
    # several signals in one patch: their variances are averaged
    means = SIGMA * np.stack([magnitude_mean(snr), magnitude_mean(snr + 5)])
    spread = SIGMA * np.sqrt(magnitude_variance(means / SIGMA).mean(axis=1))
    np.testing.assert_allclose(channel_sigma(spread, means), SIGMA, rtol=1e-3)
    assert channel_sigma(np.zeros(1), np.ones((1, 3))) == pytest.approx(0)
