"""Metrics of the mean image against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroferry.interfaces.qc.bold_space import ghost_to_signal, slice_spikes, space_metrics

SHAPE = (20, 24, 10)


@pytest.fixture
def brain() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[6:14, 8:16, 2:8] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ghost_raises_the_ratio_of_its_axis_alone(brain: NDArray[np.bool_], axis: int) -> None:
    image = np.where(brain, 1000.0, 10.0)
    image += 0.05 * np.roll(np.where(brain, 1000.0, 0.0), SHAPE[axis] // 2, axis=axis)
    assert ghost_to_signal(image, brain, axis) == pytest.approx(0.05)
    # Along the other axis, the ghost lies in the rest of the background.
    assert ghost_to_signal(image, brain, 1 - axis) < 0
    assert ghost_to_signal(np.where(brain, 1000.0, 10.0), brain, axis) == 0.0


def test_no_ratio_without_brain_background_or_signal(brain: NDArray[np.bool_]) -> None:
    image = np.where(brain, 1000.0, 10.0)
    assert math.isnan(ghost_to_signal(image, np.zeros_like(brain), 0))
    assert math.isnan(ghost_to_signal(image, np.ones_like(brain), 0))
    assert math.isnan(ghost_to_signal(np.zeros(SHAPE), brain, 0))


def test_metrics_of_two_levels(brain: NDArray[np.bool_]) -> None:
    image = np.where(brain, 100.0, 5.0).astype(np.float32)
    image[brain] += np.tile([-10.0, 10.0], brain.sum() // 2).astype(np.float32)
    found = space_metrics(image, brain, (2.0, 2.5, 3.0))
    n = int(brain.sum())
    assert found["summary_fg_n"] == n
    assert found["summary_bg_n"] == image.size - n
    assert found["summary_fg_stdv"] == pytest.approx(10.0)
    assert found["snr"] == pytest.approx(100.0 / (10.0 * math.sqrt(n / (n - 1))))
    assert found["fber"] == pytest.approx(np.median([90.0**2, 110.0**2]) / 25.0)
    assert [found[f"size_{axis}"] for axis in "xyz"] == list(SHAPE)
    assert [found[f"spacing_{axis}"] for axis in "xyz"] == [2.0, 2.5, 3.0]
    assert math.isnan(found["summary_bg_k"])


def test_without_a_brain_the_image_still_has_size_and_entropy() -> None:
    found = space_metrics(np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool), (3.0, 3.0, 3.0))
    assert found["efc"] == pytest.approx(1.0)
    assert found["summary_fg_n"] == 0
    assert all(math.isnan(found[name]) for name in ("snr", "fber", "gsr_x", "fwhm_avg"))


def test_a_spike_stands_out_from_its_slice() -> None:
    rng = np.random.default_rng(0)
    outside = 10 + rng.normal(0, 0.1, (60, 12))
    outside[17, 4] += 3
    outside[:, 9] = 0.0
    found = slice_spikes(outside)
    assert list(np.unravel_index(found.argmax(), found.shape)) == [17, 4]
    assert found[17, 4] == pytest.approx(30, rel=0.3)
    assert not found[:, 9].any()
