"""Spikes and lost slices are found where they were put."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuroferry.bids.gradients import find_shells
from neuroferry.interfaces.qc.dwi_spikes import find_spikes

SHAPE = (16, 18, 12)
BVALS = [0.0, *[1000.0] * 40]
SHELLS = find_shells(BVALS)


@pytest.fixture
def run():
    """Constant tissue with noise, and a brain."""
    rng = np.random.default_rng(0)
    brain = np.zeros(SHAPE, bool)
    brain[2:14, 3:15, 1:11] = True
    level = rng.uniform(300, 900, SHAPE)
    data = (level + rng.normal(0, 20, (len(BVALS), *SHAPE))).astype(np.float32)
    return data, brain


def measure(data, brain, axis=2):
    return find_spikes(data[:, brain], brain, SHELLS, axis)


def test_noise_alone_rarely_spikes(run):
    found = measure(*run)
    # 63 of a million are beyond four standard deviations; a spread told by 40 volumes adds some
    assert 20 < found.values["spikes_global"] < 400
    assert found.values["spikes_slice_k"] == 0
    assert not found.odd.any()
    assert math.isnan(found.shares[0])


@pytest.mark.parametrize("axis", [0, 2])
def test_lost_slices_are_found(run, axis):
    data, brain = run
    where: list[slice | int] = [slice(None)] * 3
    for volume, number in ((3, 4), (17, 8)):
        where[axis] = number
        data[volume][tuple(where)] *= 0.5
    found = measure(data, brain, axis)
    assert np.argwhere(found.odd).tolist() == [[3, 4], [17, 8]]
    slices = {0: 12, 2: 10}[axis]
    assert found.values[f"spikes_slice_{'ijk'[axis]}"] == pytest.approx(1e6 * 2 / (40 * slices))
    assert (found.deviations[[3, 17], [4, 8]] < -6).all()
    share = 1 / slices
    assert found.shares[[3, 17]] == pytest.approx(share, rel=0.05)


def test_bright_spikes_count_as_well(run):
    data, brain = run
    places = np.argwhere(brain)[::50]
    data[9, *places.T] += 500
    found = measure(data, brain)
    before = measure(*run).values["spikes_global"]
    assert found.values["spikes_global"] >= before
    assert found.shares[9] == pytest.approx(len(places) / brain.sum(), rel=0.05)


def test_anisotropy_does_not_spike(run):
    # one fibre direction per voxel, random gradients: the largest contrast that tissue has
    _, brain = run
    rng = np.random.default_rng(1)
    bvecs, fibres = (rng.normal(size=(n, 3)) for n in (40, int(brain.sum())))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    fibres /= np.linalg.norm(fibres, axis=1, keepdims=True)
    cosines = bvecs @ fibres.T
    clean = 1000 * np.exp(-0.3 - 1.4 * cosines**2) + rng.normal(0, 20, cosines.shape)
    signals = np.vstack([clean[:1], clean]).astype(np.float32)
    assert find_spikes(signals, brain, SHELLS).values["spikes_slice_k"] == 0


def test_too_few_volumes_are_not_judged(run):
    data, brain = run
    found = find_spikes(data[:7, brain], brain, find_shells(BVALS[:7]))
    assert all(math.isnan(value) for value in found.values.values())
    assert np.isnan(found.shares).all()


def test_an_image_without_a_brain_is_not_judged(run):
    nothing = np.zeros(SHAPE, bool)
    found = measure(run[0], nothing)
    assert math.isnan(found.values["spikes_global"])
