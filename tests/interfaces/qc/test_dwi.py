"""Metrics of a DWI run against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.bids.gradients import find_shells
from neuroferry.interfaces.qc import dwi
from neuroferry.interfaces.qc.whole_image import efc, fber


def test_framewise_displacement_is_summarised_over_the_steps():
    found = dwi.fd_summary(np.array([np.nan, 0.3, 0.1, 0.2, 0.6]))
    assert found == {"fd_mean": 0.3, "fd_num": 2, "fd_perc": 40.0}
    assert all(math.isnan(v) for v in dwi.fd_summary(np.array([np.nan])).values())


def test_gradients_turn_by_the_angle_of_the_head():
    turn = np.tile(np.eye(4), (4, 1, 1))
    angles = (0.0, 0.01, 0.05)
    for pose, angle in zip(turn[1:], angles, strict=True):
        pose[:3, :3] = Rotation.from_rotvec([0, 0, angle]).as_matrix()
    bvecs = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])
    found = dwi.gradient_turns(bvecs, turn)
    expected = {"min": 0.0, "max": 0.05, "mean": 0.02, "median": 0.01}
    assert found == pytest.approx({f"bdiffs_{k}": v for k, v in expected.items()}, abs=1e-12)


def test_gradients_along_the_axis_of_a_turn_stay():
    turn = np.tile(np.eye(4), (1, 1, 1))
    turn[0, :3, :3] = Rotation.from_rotvec([0, 0, 0.3]).as_matrix()
    assert dwi.gradient_turns(np.array([[0.0, 0, 1]]), turn)["bdiffs_max"] == pytest.approx(0)


def test_no_weighted_volume_has_no_turn():
    assert math.isnan(
        dwi.gradient_turns(np.zeros((2, 3)), np.tile(np.eye(4), (2, 1, 1)))["bdiffs_max"]
    )


def test_neighbours_cross_shells_where_they_are_near():
    bvals = np.array([0.0, 1000, 1000, 1100])
    bvecs = np.array([[0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0]])
    assert dwi.nearest_neighbours(bvals, bvecs) == [(1, 3), (2, 1), (3, 1)]
    assert dwi.nearest_neighbours(bvals[:2], bvecs[:2]) == []


def test_correlation_of_neighbours_has_its_closed_form():
    rng = np.random.default_rng(1)
    common, own = rng.normal(size=50_000), rng.normal(size=(2, 50_000))
    signals = (100 + 3 * common + 2 * own).astype(np.float32)
    found = dwi.neighbouring_correlation(signals, [(0, 1), (1, 0)])
    assert found == pytest.approx(9 / (9 + 4), abs=0.01)
    assert found == pytest.approx(float(np.corrcoef(signals.astype(float))[0, 1]), rel=1e-6)


def test_a_constant_volume_has_no_correlation():
    assert math.isnan(dwi.neighbouring_correlation(np.ones((2, 9), np.float32), [(0, 1)]))


@pytest.fixture
def callosum():
    """Signals of known mean in a region whose b0 has a known spread."""
    rng = np.random.default_rng(2)
    region = np.zeros((20, 20, 20), bool)
    region[5:15, 5:15, 5:15] = True
    b0 = rng.normal(1000, 20, region.shape).astype(np.float32)
    bvecs = np.array([[-0.95, 0.3, 0.05], [0.2, 0.97, 0.1], [0.1, 0.1, 0.99], [0.6, 0.6, 0.5]])
    volumes = np.stack([np.full(region.shape, v, np.float32) for v in (200, 500, 700, 400)])
    return b0, volumes, bvecs, region


def test_callosum_is_measured_along_and_across_its_fibres(callosum):
    b0, volumes, bvecs, region = callosum
    found = dwi.callosum_snr(b0, {1: (volumes, bvecs)}, region)
    assert found.sigma == pytest.approx(20, rel=0.08)
    ratios = {name: value * found.sigma for name, value in found.ratios.items()}
    assert ratios["snr_cc_shell0"] == pytest.approx(1000, rel=0.01)
    # the opposite of an axis is the axis
    assert ratios["snr_cc_shell1_worst"] == pytest.approx(200)
    assert ratios["snr_cc_shell1_best"] == pytest.approx(600)
    inside = dwi.callosum_snr(b0, {1: (volumes[:, region], bvecs)}, region)
    assert inside == found


def test_a_small_callosum_is_not_measured(callosum):
    b0, volumes, bvecs, region = callosum
    few = np.zeros_like(region)
    few[5, 5, :4] = True
    found = dwi.callosum_snr(b0, {1: (volumes, bvecs)}, few)
    assert math.isnan(found.sigma)
    assert set(found.ratios) == {"snr_cc_shell0", "snr_cc_shell1_best", "snr_cc_shell1_worst"}
    assert all(math.isnan(value) for value in found.ratios.values())
    flat = dwi.callosum_snr(np.ones_like(b0), {}, region)
    assert math.isnan(flat.ratios["snr_cc_shell0"])


def anisotropy(eigenvalues):
    values = np.asarray(eigenvalues)
    return math.sqrt(1.5 * np.square(values - values.mean()).sum() / np.square(values).sum())


def test_degenerate_tensors_are_those_with_an_anisotropy_above_one():
    rng = np.random.default_rng(3)
    turns = Rotation.random(200, rng=3).as_matrix()
    values = rng.normal(0.5, 0.7, (200, 3))
    full = turns @ (values[:, :, None] * np.eye(3)) @ turns.transpose(0, 2, 1)
    tensors = np.stack(
        [full[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    )
    beyond = np.mean([anisotropy(row) > 1 for row in values])
    assert 0.1 < beyond < 0.9
    nans, degenerate = dwi.tensor_faults(tensors, np.ones(200, bool))
    assert (nans, degenerate) == pytest.approx((0, 1e6 * beyond))


def test_voxels_without_a_tensor_are_counted():
    tensors = np.tile(np.array([[1.0, 0, 0, 1, 0, 1]]).T, (1, 4))
    tensors[:, 1] = 0
    found = dwi.tensor_faults(tensors, np.array([True, True, False, True]))
    assert found == (500_000.0, 0.0)
    assert all(math.isnan(v) for v in dwi.tensor_faults(np.zeros((6, 0)), np.zeros(0, bool)))


def test_volumes_of_a_shell_are_measured_as_one_image():
    rng = np.random.default_rng(4)
    volumes = rng.rayleigh(10, (3, 8, 9, 7)).astype(np.float32)
    volumes[0, 0] = 0
    brain = rng.random((8, 9, 7)) > 0.6
    volumes[:, brain] *= 5
    both = dwi.shell_spread(volumes, brain)
    head = np.broadcast_to(brain, volumes.shape)
    assert both == pytest.approx((efc(volumes), fber(volumes, head, ~head)), rel=1e-9)


def test_energy_of_the_background_has_its_closed_form():
    # the square of a Rayleigh variable has the median 2 ln 2, in units of the noise
    rng = np.random.default_rng(5)
    volumes = rng.rayleigh(3.0, (2, 40, 40, 40)).astype(np.float32)
    brain = np.zeros((40, 40, 40), bool)
    brain[10:30, 10:30, 10:30] = True
    volumes[:, brain] = 60
    expected = 3600 / (9 * 2 * math.log(2))
    assert dwi.energy_ratio(volumes, brain) == pytest.approx(expected, rel=0.01)


def test_an_empty_background_has_no_ratio():
    brain = np.zeros((4, 4, 4), bool)
    assert math.isnan(dwi.energy_ratio(np.ones((1, 4, 4, 4), np.float32), brain))
    brain[1:3] = True
    masked = np.where(brain, 5, 0).astype(np.float32)[None]
    assert math.isnan(dwi.energy_ratio(masked, brain))
    assert math.isnan(dwi.entropy_focus(np.zeros((2, 4, 4, 4), np.float32)))


def test_shells_are_numbered_from_the_b0_volumes():
    shells = dwi.number_shells(find_shells([5, 1000, 2000, 0, 3000, 995]))
    assert {n: shell.b for n, shell in shells.items()} == {0: 0, 1: 998, 2: 2000, 3: 3000}
    assert [dwi.shell_key(n) for n in shells] == ["shell01", "shell02", "shell03", "shell04"]
    assert list(dwi.number_shells(find_shells([1000] * 6))) == [1]


def test_regions_of_the_mean_b0():
    b0 = np.zeros((4, 4, 4), np.float32)
    brain = np.zeros((4, 4, 4), bool)
    brain[:2] = True
    b0[:2], b0[2:] = 100, 7
    found = dwi.region_summaries(b0, brain, np.zeros_like(brain))
    assert (found["summary_fg_mean"], found["summary_bg_mean"]) == (100, 7)
    assert (found["summary_fg_n"], found["summary_bg_n"], found["summary_wm_n"]) == (32, 32, 0)
    assert math.isnan(found["summary_wm_mean"])


def test_without_a_brain_there_is_no_background():
    found = dwi.region_summaries(np.ones((4, 4, 4), np.float32), *[np.zeros((4, 4, 4), bool)] * 2)
    assert found["summary_bg_n"] == 0
