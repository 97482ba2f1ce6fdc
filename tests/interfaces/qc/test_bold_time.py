"""Temporal metrics against closed forms and against their definitions, voxel by voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from neuroferry.interfaces.image.voxel_store import VoxelStore
from neuroferry.interfaces.qc import bold_time


@contextmanager
def stored(values: NDArray[np.floating], block: int = 7) -> Iterator[VoxelStore]:
    with VoxelStore(*values.shape, block_voxels=block) as store:
        for volume in values:
            store.add(volume)
        yield store


@pytest.fixture(scope="module")
def noise() -> NDArray[np.float64]:
    rng = np.random.default_rng(3)
    sigma = rng.uniform(5, 40, 500)
    return 1000 + sigma * rng.normal(size=(120, 500))


def test_dvars_of_white_noise_is_as_expected(noise: NDArray[np.float64]) -> None:
    with stored(noise) as store:
        found = bold_time.dvars(store)
    for values in (found.nstd, found.std, found.vstd):
        assert math.isnan(values[0])
    # The quartiles are taken without interpolation, from below, and the square of a mean is less
    # than the mean of squares.
    assert found.vstd[1:].mean() == pytest.approx(1.0, abs=0.05)
    sigma = noise.std(axis=0)
    assert found.nstd[1:].mean() == pytest.approx(math.sqrt(2 * np.mean(sigma**2)), rel=0.01)
    expected = math.sqrt(np.mean(sigma**2)) / sigma.mean()
    assert found.std[1:].mean() == pytest.approx(expected, rel=0.05)


def test_dvars_is_its_definition(noise: NDArray[np.float64]) -> None:
    data = noise[:11, :40].astype(np.float32)
    data[:, 5] = 900.0  # a voxel that does not vary is left out
    with stored(data) as store:
        found = bold_time.dvars(store)
    scaled = data.astype(np.float64) / np.median(data) * 1000
    kept = np.delete(scaled, 5, axis=1)
    low, high = np.percentile(kept, (25, 75), axis=0, method="lower")
    away = kept - kept.mean(axis=0)
    r = (away[1:] * away[:-1]).sum(axis=0) / (away**2).sum(axis=0)
    usual = np.sqrt(2 * (1 - r)) * (high - low) / 1.349
    change = np.diff(kept, axis=0)
    np.testing.assert_allclose(found.nstd[1:], np.sqrt((change**2).mean(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found.std, found.nstd / usual.mean(), rtol=1e-6)
    vstd = np.sqrt(((change / usual) ** 2).mean(axis=1))
    np.testing.assert_allclose(found.vstd[1:], vstd, rtol=1e-6)


def test_dvars_shows_a_spike_at_its_volume(noise: NDArray[np.float64]) -> None:
    data = noise.copy()
    data[50] *= 1.1
    with stored(data) as store:
        found = bold_time.dvars(store)
    for values in (found.nstd, found.std, found.vstd):
        assert set(np.argsort(np.nan_to_num(values))[-2:]) == {50, 51}


@pytest.mark.parametrize("shape", [(1, 4), (5, 0)])
def test_without_voxels_or_change_nothing_is_defined(shape: tuple[int, int]) -> None:
    with stored(np.full(shape, 10.0)) as store:
        assert np.isnan(bold_time.dvars(store).std).all()
        assert math.isnan(bold_time.global_correlation(store))
        assert np.isnan(bold_time.quality_index(store, store)).all()


def test_global_correlation_is_the_mean_of_all_correlations() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=(80, 1))
    data = (100 + common + rng.normal(size=(80, 30))).astype(np.float32)
    with stored(data) as store:
        found = bold_time.global_correlation(store)
    assert found == pytest.approx(np.corrcoef(data.T).mean(), rel=1e-6)


def test_global_correlation_of_equal_and_of_opposite_series() -> None:
    wave = np.sin(np.arange(20))[:, None]
    with stored(wave * np.linspace(1, 9, 12)) as store:
        assert bold_time.global_correlation(store) == pytest.approx(1.0)
    with stored(wave * np.tile([1.0, -1.0], 6)) as store:
        assert bold_time.global_correlation(store) == pytest.approx(0.0, abs=1e-9)


def test_outliers_are_counted_in_their_volume() -> None:
    rng = np.random.default_rng(2)
    data = 500 + rng.normal(size=(100, 200))
    data[30, :50] += 100
    data[:, 60] = 7.0  # constant: never an outlier, but counted as a voxel
    with stored(data) as store:
        found = bold_time.outlier_fraction(store)
    assert found[30] == pytest.approx(0.25, abs=0.006)
    assert np.delete(found, 30).max() < 0.02


def test_outliers_begin_where_afni_says() -> None:
    # Median 0 and MAD 1; the reach is alpha sqrt(pi / 2), with Q(alpha) = 0.001 / T.
    data = np.tile([-1.0, 1.0, 0.0, -1.0, 1.0], 4)[:, None].repeat(2, axis=1)
    reach = stats.norm.isf(0.001 / 20) * math.sqrt(math.pi / 2)
    data[0] = [reach * 1.001, reach * 0.999]
    data[2] = 0.0
    assert np.median(np.abs(data - np.median(data, axis=0)), axis=0).tolist() == [1.0, 1.0]
    with stored(data) as store:
        assert bold_time.outlier_fraction(store).tolist() == [0.5] + [0.0] * 19
    with stored(data[:4]) as store:
        assert np.isnan(bold_time.outlier_fraction(store)).all()


def test_quality_index_is_one_minus_the_rank_correlation() -> None:
    rng = np.random.default_rng(5)
    data = np.rint(rng.normal(100, 20, 60) + rng.normal(0, 10, (15, 60))).astype(np.float32)
    data[4] = 3.0
    with stored(data) as store, stored(np.array([bold_time.ranks(v) for v in data])) as ranked:
        found = bold_time.quality_index(store, ranked)
    median = np.median(data, axis=0)
    for number, volume in enumerate(data):
        expected = 1.0 if number == 4 else 1 - stats.spearmanr(volume, median).statistic
        assert found[number] == pytest.approx(expected, abs=1e-6)


def test_ranks_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).integers(0, 50, 300).astype(np.float32)
    np.testing.assert_array_equal(bold_time.ranks(values), stats.rankdata(values))
    assert bold_time.ranks(np.zeros(0)).size == 0


def test_clip_level_parts_head_and_air() -> None:
    rng = np.random.default_rng(4)
    image = np.concatenate([rng.rayleigh(5, 8000), rng.normal(400, 30, 2000), np.zeros(500)])
    level = bold_time.clip_level(image)
    assert level == pytest.approx(0.5 * np.median(image[image >= level]))
    assert 150 < level < 250
    assert bold_time.clip_level(np.zeros(9)) == 0.0
