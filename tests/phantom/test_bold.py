"""BOLD simulation: each effect acts as documented, and is absent when switched off."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.errors import UsageError
from neuroferry.phantom import BoldOptions, bold
from neuroferry.phantom.bold import (
    BoldRun,
    BoldSession,
    draw_run,
    draw_session,
    noise_level,
    noiseless_reference,
    spin_history,
    volumes,
)
from neuroferry.phantom.epi import EpiHead, trace
from neuroferry.phantom.fmap import scan_opposed
from neuroferry.phantom.score import course_correlation, effect_recovery

pytestmark = pytest.mark.slow

PLAIN = {
    "resolution": 6.0,
    "snr": 0.0,
    "drift": 0.0,
    "jerk": 0.0,
    "activation": 0.0,
    "physiology": 0.0,
    "slice_timing": False,
    "transient": False,
    "distortion": 0.0,
    "dropout": False,
}


class Scan(NamedTuple):
    options: BoldOptions
    session: BoldSession
    run: BoldRun

    def series(self):
        rng = np.random.default_rng(7)
        return np.stack([scanned[0] for scanned in volumes(self.run, self.options, rng)], axis=-1)

    @property
    def brain(self):
        return self.run.head.tissues.sum(axis=0) >= 0.5


@pytest.fixture(scope="module")
def scan(anatomy):
    """Draw a run; heads with the same pose and grid are made once."""
    sessions, heads = {}, {}

    def head(_, warp, pose, grid, field):
        key = (grid.direction, grid.shape, id(field), pose.tobytes())
        if key not in heads:
            heads[key] = EpiHead(anatomy, warp, pose, grid, field)
        return heads[key]

    def make(n_volumes=3, **options):
        chosen = BoldOptions(n_volumes, **{**PLAIN, **options})
        key = (chosen.resolution, chosen.distortion, chosen.direction, chosen.coverage)
        if key not in sessions:
            sessions[key] = draw_session(anatomy, np.eye(4), chosen, np.random.default_rng(1))
        session = sessions[key]
        run = draw_run(anatomy, session, chosen, np.random.default_rng(2), first=True)
        return Scan(chosen, session, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bold, "EpiHead", head)
        yield make


def moved_back(volume, run, motion):
    """Resample a volume onto the reference with a known motion."""
    affine = run.head.grid.affine
    matrix = np.linalg.inv(affine) @ motion @ affine
    return ndimage.affine_transform(volume, matrix[:3, :3], matrix[:3, 3], order=3)


def unwarped(image, shift, axis):
    """Unwarp by the definition of the field map, times the Jacobian."""
    index = np.indices(image.shape, dtype=float)
    index[axis] += shift
    return ndimage.map_coordinates(image, index, order=3) * (1 + np.gradient(shift, axis=axis))


def test_with_every_effect_off_all_volumes_are_the_noiseless_reference(scan):
    plain = scan()
    series = plain.series()
    reference = noiseless_reference(plain.run, plain.options, distorted=True)[0]
    for t in range(3):
        np.testing.assert_array_equal(series[..., t], reference)


def test_contrast_is_t2star_weighted(scan):
    plain = scan(bias=0.0)
    image = noiseless_reference(plain.run, plain.options, distorted=False)[0]
    pure = ndimage.minimum_filter(plain.run.head.tissues, size=(1, 1, 1, 1)) > 0.9
    gm, wm, csf = (float(image[share].mean()) for share in pure)
    assert wm < gm < csf
    assert wm == pytest.approx(1000, rel=0.1)
    assert gm / wm == pytest.approx(1.16, abs=0.06)
    assert image[~plain.brain].mean() < 0.2 * gm  # air, bone, suppressed fat


def test_volumes_are_the_reference_moved_by_the_true_motion(scan):
    moving = scan(20, drift=1.0, jerk=3.0, spin_history=0.0, bias=0.0)
    series, run = moving.series(), moving.run
    reference = series[..., run.reference]
    inner = ndimage.binary_erosion(moving.brain, iterations=2)
    jerk = int(np.argmax(np.linalg.norm(run.motion[:, :3, 3] - run.motion[0, :3, 3], axis=1)))
    before = np.abs(series[..., jerk] - reference)[inner].mean()
    after = np.abs(moved_back(series[..., jerk], run, run.motion[jerk]) - reference)[inner].mean()
    wrong = np.linalg.inv(run.motion[jerk])
    worse = np.abs(moved_back(series[..., jerk], run, wrong) - reference)[inner].mean()
    assert after < 0.3 * before
    assert worse > before


@pytest.mark.parametrize("direction", ["AP", "PA", "LR"])
def test_the_field_map_undoes_the_distortion_as_defined(scan, direction):
    bent = scan(1, distortion=6.0, direction=direction, bias=0.0)
    head, grid, brain = bent.run.head, bent.session.grid, bent.brain
    shift = grid.sign * grid.readout * head.field_on_grid().astype(float)
    flat = noiseless_reference(bent.run, bent.options, distorted=False)[0]
    image = noiseless_reference(bent.run, bent.options, distorted=True)[0]
    scale = flat[brain].mean()
    before = np.abs(image - flat)[brain].mean() / scale
    after = np.abs(unwarped(image, shift, grid.axis) - flat)[brain].mean() / scale
    other = np.abs(unwarped(image, -shift, grid.axis) - flat)[brain].mean() / scale
    assert after < 0.004
    assert after < 0.2 * before
    assert other > 1.5 * before


def test_distortion_moves_signal_but_keeps_its_sum(scan):
    bent = scan(1, distortion=6.0, bias=0.0)
    flat = noiseless_reference(bent.run, bent.options, distorted=False)[0]
    image = noiseless_reference(bent.run, bent.options, distorted=True)[0]
    axis = bent.session.grid.axis
    columns = flat.sum(axis=axis), image.sum(axis=axis)
    bright = columns[0] > 0.3 * columns[0].max()
    np.testing.assert_allclose(columns[1][bright], columns[0][bright], rtol=0.02)


def test_the_shift_is_as_large_as_asked_and_never_folds(scan):
    bent = scan(1, distortion=6.0)
    head, grid = bent.run.head, bent.session.grid
    millimetres = np.abs(head.field_on_grid() * grid.readout * 6.0)[bent.brain]
    assert np.percentile(millimetres, 99.9) == pytest.approx(6.0, rel=0.2)
    for readout in (grid, grid.reversed()):
        origin = trace(head, readout, np.eye(4), head.signal_voxels())
        assert origin.jacobian.min() > 0.3
        index = np.linalg.inv(head.pose) @ grid.affine
        shift = readout.sign * grid.readout * head.field.sample(index, origin.points)
        landed = origin.points[grid.axis] + shift
        np.testing.assert_allclose(landed, origin.voxels[grid.axis], atol=0.005)


def test_the_field_moves_with_the_head(scan):
    bent = scan(1, distortion=6.0)
    head, grid = bent.run.head, bent.session.grid
    motion = np.eye(4)
    motion[:3, 3] = grid.affine[:3, 2]  # one slice up
    voxels = head.signal_voxels()
    voxels = voxels[:, voxels[2] > 0]
    below = trace(head, grid, np.eye(4), voxels - np.array([[0], [0], [1]], dtype=np.float32))
    above = trace(head, grid, motion, voxels)
    np.testing.assert_allclose(above.points[:2], below.points[:2], atol=1e-3)


def test_signal_is_lost_over_the_sinuses_and_more_so_later(scan):
    options = {"distortion": 6.0, "bias": 0.0, "echo_times": (0.015, 0.045)}
    kept, lost = scan(1, **options), scan(1, dropout=True, **options)
    whole = noiseless_reference(kept.run, kept.options, distorted=False)
    left = noiseless_reference(lost.run, lost.options, distorted=False)
    shares = [a[kept.brain] / b[kept.brain] for a, b in zip(left, whole, strict=True)]
    assert shares[0].max() <= 1.001
    assert np.median(shares[1]) > 0.95
    worst = [np.percentile(share, 0.5) for share in shares]
    assert worst[1] < 0.5 < worst[0]


def test_the_first_volumes_are_brighter_fluid_most(scan):
    fresh = scan(6, transient=True, bias=0.0)
    series = fresh.series()
    gm, _, csf = (series[share > 0.8].mean(axis=0) for share in fresh.run.head.tissues)
    assert gm[0] / gm[5] == pytest.approx(1.19, abs=0.06)
    assert csf[0] / csf[5] > 1.5
    assert (np.diff(gm[:4]) < 0).all()
    np.testing.assert_array_equal(series[..., 4], series[..., 5])


def test_slices_are_taken_one_after_the_other(scan):
    active = scan(30, activation=3.0, slice_timing=True, bias=0.0)
    assert sorted(active.run.slice_times) == pytest.approx(
        np.arange(active.session.grid.shape[2]) * 2.0 / active.session.grid.shape[2]
    )
    course = next(e for e in active.run.effects if e.name == "face")
    series = active.series()
    starts = np.arange(30) * 2.0
    for k in np.argsort(course.weights.max(axis=(0, 1)))[-2:]:
        i, j = np.unravel_index(course.weights[:, :, k].argmax(), course.weights.shape[:2])
        others = [e for e in active.run.effects if e.name == "house"]
        expected = 1 + sum(
            e.weights[i, j, k] * e.course(starts + active.run.slice_times[k])
            for e in [course, *others]
        )
        measured = series[i, j, k] / series[i, j, k, 0] * expected[0]
        np.testing.assert_allclose(measured, expected, rtol=1e-4)


def test_an_ordinary_analysis_recovers_the_activation(scan):
    active = scan(45, activation=2.0, bias=0.0)
    series = active.series()[active.brain]
    starts = np.arange(45) * 2.0
    effects = {e.name: e for e in active.run.effects}
    design = np.stack([np.ones(45), *(effects[n].course(starts) for n in ("face", "house"))], 1)
    weights = np.linalg.lstsq(design, series.T, rcond=None)[0]
    for row, name in ((1, "face"), (2, "house")):
        truth = 100 * effects[name].weights[active.brain]
        slope, correlation = effect_recovery(100 * weights[row] / weights[0], truth, truth > 0.2)
        assert (slope, correlation) == pytest.approx((1, 1), abs=1e-3)
        assert 1.0 < truth.max() < 2.0


def test_physiology_changes_the_signal_by_about_a_percent(scan):
    alive = scan(40, physiology=1.0, bias=0.0)
    series = alive.series()[alive.brain]
    spread = series.std(axis=1) / series.mean(axis=1)
    assert 0.005 < np.median(spread) < 0.03
    names = [effect.name for effect in alive.run.effects]
    assert names == ["cardiac", "respiratory", "drift", "fluctuation"]
    gm, csf = alive.run.head.tissues[0][alive.brain], alive.run.head.tissues[2][alive.brain]
    assert np.median(spread[csf > 0.7]) > np.median(spread[gm > 0.9])


def test_noise_is_rician_and_as_strong_as_asked(scan):
    noisy = scan(8, snr=50.0, bias=0.0)
    series = noisy.series()
    sigma = noise_level(noisy.run, noisy.options)
    still = noiseless_reference(noisy.run, noisy.options, distorted=True)[0]
    noise = (series - still[..., None])[noisy.brain]
    assert noise.std() == pytest.approx(sigma, rel=0.03)
    gm = still[noisy.run.head.tissues[0] > 0.95].mean()
    assert gm / sigma == pytest.approx(50, rel=0.1)
    air = series[still == 0]
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)


def test_moving_through_slices_leaves_its_history(scan):
    moving = scan(20, jerk=3.0, spin_history=0.05)
    factors = spin_history(moving.run, moving.options)
    still = np.ptp(moving.run.motion[:, :3, 3], axis=1) < 1e-9
    assert (factors[:5] == 1).all()
    assert 0.01 < np.abs(factors - 1).max() <= 0.061
    assert still[:5].all()
    np.testing.assert_allclose(factors[:, 0] - 1, 1 - factors[:, 1], atol=1e-6)


def test_oxygenation_grows_with_the_echo_time_and_heart_beats_do_not(scan):
    alive = scan(3, physiology=1.0, activation=1.0, echo_times=(0.015, 0.03), bias=0.0)
    assert [e.name for e in alive.run.effects if e.bold] == ["fluctuation", "face", "house"]
    active = scan(20, activation=3.0, echo_times=(0.015, 0.03), bias=0.0)
    rng = np.random.default_rng(0)
    echoes = np.array(
        [[v.copy() for v in echo] for echo in volumes(active.run, active.options, rng)]
    )
    face = next(e for e in active.run.effects if e.name == "face")
    hot = face.weights > 0.01
    change = [echoes[:, e][:, hot].mean(axis=1) / echoes[0, e][hot].mean() - 1 for e in (0, 1)]
    assert change[1].max() > 0.005
    assert change[1].max() / change[0].max() == pytest.approx(2, rel=0.05)
    assert course_correlation(change[0], change[1]) > 0.999


def test_opposed_images_agree_once_undistorted(scan, anatomy):
    bent = scan(1, distortion=6.0)
    opposed = scan_opposed(anatomy, bent.session, bent.options, np.random.default_rng(3))
    head, brain = opposed.head, opposed.head.tissues.sum(axis=0) >= 0.5
    flat = []
    for grid, series in zip(opposed.grids, opposed.series, strict=True):
        shift = grid.sign * grid.readout * head.field_on_grid().astype(float)
        flat.append(unwarped(series[0], shift, grid.axis))
    before = np.abs(opposed.series[0][0] - opposed.series[1][0])[brain].mean()
    assert np.abs(flat[0] - flat[1])[brain].mean() < 0.2 * before
    assert opposed.grids[0].direction.rstrip("-") == opposed.grids[1].direction.rstrip("-")
    assert opposed.grids[0].sign == -opposed.grids[1].sign


def test_partial_coverage_keeps_the_top_of_the_brain(scan):
    whole, part = scan(1).session.grid, scan(1, coverage=0.5).session.grid
    assert part.shape[2] < 0.6 * whole.shape[2]
    tops = [(g.affine @ [0, 0, g.shape[2] - 1, 1])[2] for g in (whole, part)]
    assert tops[0] == pytest.approx(tops[1], abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_volumes": 0}, "at least 1 volume"),
        ({"resolution": 0.5}, "1.5 to 6"),
        ({"tr": 0.0}, "repetition time"),
        ({"runs": 0}, "BOLD runs"),
        ({"echo_times": ()}, "echo times"),
        ({"echo_times": (0.03, 0.01)}, "ascending"),
        ({"direction": "HF"}, "HF"),
        ({"coverage": 0.0}, "coverage"),
        ({"fieldmaps": ("magic",)}, "magic"),
        ({"fieldmaps": ("phasediff", "phases")}, "choose one"),
        ({"physiology": -1.0}, "physiology"),
    ],
)
def test_options_out_of_range_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        BoldOptions(**{"n_volumes": 3, **wrong})
