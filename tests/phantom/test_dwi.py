"""DWI simulation: each effect acts as documented, and is absent when switched off."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from neuroferry.errors import UsageError
from neuroferry.phantom import DwiOptions, dwi
from neuroferry.phantom.bold import SCALE, BoldSession, draw_session
from neuroferry.phantom.bundles import BUNDLES
from neuroferry.phantom.diffusion import (
    DIFFUSIVITY,
    Compartment,
    DiffusionHead,
    draw_courses,
    eigenvalues,
    signals_at_rest,
)
from neuroferry.phantom.dwi import (
    DwiRun,
    draw_dwi_run,
    dwi_noise_level,
    dwi_volumes,
    noiseless_b0,
    true_maps,
)
from neuroferry.phantom.epi import EpiHead, render_volume, trace, undistorted
from neuroferry.phantom.gradient_table import draw_table, in_head, spread_directions, to_fsl
from neuroferry.phantom.motion import rigid
from neuroferry.phantom.profiles import fibre_profile, true_profile
from neuroferry.phantom.score_dwi import direction_error, fa_error, gradient_error, md_error
from neuroferry.phantom.subject import draw_subject
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow

PLAIN = {
    "resolution": 5.0,
    "n_b0": 1,
    "snr": 0.0,
    "drift": 0.0,
    "jerk": 0.0,
    "eddy": 0.0,
    "distortion": 0.0,
    "dropped": 0.0,
    "bias": 0.0,
}


class Scan(NamedTuple):
    options: DwiOptions
    session: BoldSession
    run: DwiRun

    def series(self):
        return np.stack(
            list(dwi_volumes(self.run, self.options, np.random.default_rng(7))), axis=-1
        )


@pytest.fixture(scope="module")
def scan(anatomy):
    """Draw a series; heads with the same pose and grid are made once."""
    sessions, heads, wet = {}, {}, {}

    def head(_, warp, pose, grid, field):
        key = (grid.direction, grid.shape, id(field), pose.tobytes())
        if key not in heads:
            heads[key] = EpiHead(anatomy, warp, pose, grid, field)
        return heads[key]

    def diffusion(still, contrast):
        if id(still) not in wet:
            wet[id(still)] = DiffusionHead(still, contrast)
        return wet[id(still)]

    def make(directions=3, **options):
        chosen = DwiOptions(directions, **{**PLAIN, **options})
        key = (chosen.resolution, chosen.distortion, chosen.direction)
        if key not in sessions:
            sessions[key] = draw_session(anatomy, np.eye(4), chosen, np.random.default_rng(1))
        run = draw_dwi_run(anatomy, sessions[key], chosen, np.random.default_rng(2))
        return Scan(chosen, sessions[key], run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dwi, "EpiHead", head)
        patch.setattr(dwi, "DiffusionHead", diffusion)
        yield make


@pytest.fixture(scope="module")
def plain(scan):
    """Simulate 12 directions with every effect off."""
    return scan(12)


@pytest.fixture(scope="module")
def truth(plain):
    return true_maps(plain.run)


def back_on_reference(volume, affine, motion):
    """Resample a volume onto the reference with a known transform."""
    matrix = np.linalg.inv(affine) @ motion @ affine
    return ndimage.affine_transform(volume, matrix[:3, :3], matrix[:3, 3], order=3)


def fitted(series, table, bvecs, mask):
    """Fit tensors by DIPY's weighted least squares."""
    gradients = gradient_table(table.bvals, bvecs=bvecs)
    return TensorModel(gradients).fit(np.maximum(series, 1), mask=mask)


def test_directions_are_unit_vectors_far_from_one_another():
    axes = spread_directions(30, seed=5)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1)
    closeness = np.abs(axes @ axes.T) - np.eye(30)
    assert np.degrees(np.arccos(closeness.max())) > 22
    np.testing.assert_array_equal(axes, spread_directions(30, seed=5))
    assert (spread_directions(30, seed=6) != axes).any()


def test_the_table_begins_with_a_b0_and_mixes_shells():
    table = draw_table(16, (1000.0, 2500.0), 4)
    assert table.bvals[0] == 0
    assert [int((table.bvals == b).sum()) for b in (0, 1000, 2500)] == [4, 16, 16]
    assert np.flatnonzero(table.bvals == 0).tolist() == [0, 9, 18, 27]
    assert set(table.bvals[1:9]) == {1000, 2500}
    lengths = np.linalg.norm(table.bvecs, axis=1)
    np.testing.assert_allclose(lengths, table.bvals > 0)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_fsl_vectors_run_along_the_voxel_axes(flip):
    axes = rigid((10, -20, 30), (0, 0, 0))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag([-flip * 2.0, 2.0, 3.0])
    row = axes[:, 1]  # along j
    np.testing.assert_allclose(to_fsl(row[None], affine), [[0, 1, 0]], atol=1e-12)
    # FSL's first axis points to the left, regardless of the stored orientation.
    np.testing.assert_allclose(to_fsl(axes[:, :1].T, affine), [[-1, 0, 0]], atol=1e-12)


def test_a_turned_head_sees_the_gradient_turned_back():
    quarter = rigid((0, 0, 90), (3, 2, 1))  # its x now lies along the scanner's y
    seen = in_head(np.array([[0.0, 1.0, 0.0]]), quarter[None])
    np.testing.assert_allclose(seen, [[1, 0, 0]], atol=1e-12)


def test_the_signal_of_a_compartment_is_the_formula():
    axial, radial = (float(v) for v in eigenvalues(0.7, 8e-4))
    u, g = np.array([0.6, 0.0, 0.8]), np.array([0.0, 0.6, 0.8])
    part = Compartment(
        np.array([0]),
        np.array([2.0], dtype=np.float32),
        u[:, None].astype(np.float32),
        np.array([axial], dtype=np.float32),
        np.array([radial], dtype=np.float32),
    )
    tensor = radial * np.eye(3) + (axial - radial) * np.outer(u, u)
    expected = 2 * np.exp(-1500 * g @ tensor @ g)
    assert part.weighted(1500.0, g)[0] == pytest.approx(expected, rel=1e-5)


def test_pure_fluid_loses_what_free_water_loses(plain):
    head, g = plain.run.head, np.array([0.0, 0.6, 0.8])
    pure = head.head.fine_tissues[2] > 0.9999
    assert pure.sum() > 50
    left = head.image(1000.0, g)[pure] / head.image(0.0, g)[pure]
    np.testing.assert_allclose(left, np.exp(-1000 * DIFFUSIVITY["csf"]), rtol=2e-3)


def test_within_a_bundle_the_tensor_is_its_own(plain, truth):
    run = plain.run
    shares = run.head.shares()
    found = []
    for bundle, share in zip(BUNDLES, shares, strict=True):
        core = np.nonzero(share > 0.93)
        field = bundle.field(run.head.head.places[:, core[0], core[1], core[2]].T)
        chosen = tuple(axis[field.index] for axis in core)
        fa, md = run.head.courses[bundle.name].at(field.position)
        found += list(zip(truth["fa"][chosen] / fa, truth["md"][chosen] / md, strict=True))
    assert len(found) > 20
    anisotropy, diffusivity = np.median(found, axis=0)
    assert 0.85 < anisotropy < 1.02
    assert diffusivity == pytest.approx(1, abs=0.04)


def test_with_every_effect_off_the_first_volume_is_the_noiseless_b0(scan):
    still = scan(2)
    series = still.series()
    np.testing.assert_array_equal(series[..., 0], noiseless_b0(still.run, distorted=True))
    np.testing.assert_array_equal(series[..., 0], noiseless_b0(still.run, distorted=False))


def test_contrast_is_t2_weighted_and_diffusion_turns_it_round(plain):
    run = plain.run
    pure = ndimage.minimum_filter(run.head.head.tissues, size=(1, 1, 1, 1)) > 0.9
    b0 = noiseless_b0(run, distorted=False)
    gm, wm, csf = (float(b0[share].mean()) for share in pure)
    assert wm == pytest.approx(1000, rel=0.1)
    assert wm < gm < csf
    signals = signals_at_rest(run.head, (1000.0,), np.eye(3)[:1], run.brain)[0] * SCALE
    gm, wm, csf = (float(signals[share[run.brain]].mean()) for share in pure)
    assert csf < min(wm, gm)


def test_the_quick_reading_at_rest_is_the_scan(plain):
    run, g = plain.run, np.array([0.6, 0.0, 0.8])
    head = run.head.head
    quick = signals_at_rest(run.head, (1000.0,), g[None], run.brain)[0]
    image = head.blurred(run.head.image(1000.0, g))
    slow = render_volume(head, image, undistorted(head.signal_voxels()), np.eye(4))
    np.testing.assert_allclose(quick, slow[run.brain], atol=1e-3)


def test_dipy_finds_the_true_maps_in_the_effect_free_series(plain, truth):
    run = plain.run
    fit = fitted(plain.series(), run.table, run.table.bvecs, run.brain)
    white = run.head.head.tissues[1] > 0.9
    assert fa_error(fit.fa, truth["fa"], run.brain) < 2e-3
    assert fa_error(fit.fa, truth["fa"], white) < 2e-3
    assert md_error(fit.md, truth["md"], white) < 2e-3
    for name, found in (("ad", fit.ad), ("rd", fit.rd)):
        assert md_error(found, truth[name], white) < 4e-3, name
    clear = truth["fa"] > 0.3
    assert direction_error(fit.directions[..., 0, :], truth["direction"], clear)[0] < 0.3
    trace_of = truth["tensor"][..., [0, 3, 5]].sum(axis=-1)
    np.testing.assert_allclose(trace_of, 3 * truth["md"], rtol=1e-5)


def test_a_turned_head_is_the_head_scanned_along_the_gradient_turned_back(plain):
    run, g = plain.run, np.array([0.0, 1.0, 0.0])
    head, motion = run.head.head, rigid((0, 0, 25), (1, 0, 0), plain.session.pose[:3, 3])
    voxels = head.signal_voxels()

    def scanned(bvec):
        return render_volume(
            head, head.blurred(run.head.image(1000.0, bvec)), undistorted(voxels), np.eye(4)
        )[run.brain]

    turned = render_volume(
        head,
        head.blurred(run.head.image(1000.0, in_head(g[None], motion[None])[0])),
        undistorted(voxels),
        motion,
    )
    back = back_on_reference(turned, run.grid.affine, motion)[run.brain]
    misses = {
        name: np.abs(back - scanned(bvec)).mean()
        for name, bvec in (
            ("turned back", motion[:3, :3].T @ g),
            ("left", g),
            ("turned on", motion[:3, :3] @ g),
        )
    }
    assert misses["turned back"] < 0.7 * misses["left"] < 0.7 * misses["turned on"]


def test_leaving_out_a_correction_or_turning_gradients_wrongly_loses_points(scan, truth):
    moving = scan(12, drift=25.0)
    run, affine = moving.run, moving.run.grid.affine
    series = moving.series()
    turns = np.degrees(np.arccos((np.trace(run.motion[:, :3, :3].transpose(1, 2, 0)) - 1) / 2))
    assert 4 < turns.max() < 40
    still = np.stack(
        [back_on_reference(series[..., t], affine, motion) for t, motion in enumerate(run.motion)],
        axis=-1,
    )
    white = ndimage.binary_erosion(run.brain) & (run.head.head.tissues[1] > 0.9)
    clear = white & (truth["fa"] > 0.35)
    inverse = np.linalg.inv(run.motion)
    ways = {
        "right": (still, run.seen),
        "gradients left": (still, run.table.bvecs),
        "gradients turned on": (still, in_head(run.table.bvecs, inverse)),
        "motion left": (series, run.table.bvecs),
    }
    scores = {}
    for name, (data, bvecs) in ways.items():
        fit = fitted(data, run.table, bvecs, white)
        scores[name] = (
            direction_error(fit.directions[..., 0, :], truth["direction"], clear)[0],
            fa_error(fit.fa, truth["fa"], white),
        )
    assert scores["right"][0] < 2.5, scores
    assert scores["gradients left"][0] > 1.5 * scores["right"][0], scores
    assert scores["gradients turned on"][0] > 1.5 * scores["gradients left"][0], scores
    assert scores["motion left"][1] > 1.5 * scores["right"][1], scores
    assert gradient_error(run.seen, run.table.bvecs)[1] == pytest.approx(turns.max(), rel=0.5)


def test_eddy_currents_move_along_the_phase_encoding_in_step_with_the_gradient(scan):
    bent = scan(6, eddy=3.0, bvals=(1000.0, 2000.0))
    run, grid = bent.run, bent.session.grid
    along = grid.affine[:3, grid.axis] / grid.zooms[grid.axis]
    points = np.argwhere(run.brain) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    moves = points @ (run.eddy[:, :3, :3].transpose(0, 2, 1) - np.eye(3))
    moves += run.eddy[:, None, :3, 3]
    np.testing.assert_allclose(
        moves, (moves @ along)[..., None] * along, atol=1e-9
    )  # along the axis only
    shifts = moves @ along
    assert (shifts[run.table.bvals == 0] == 0).all()
    low, high = (np.abs(shifts[run.table.bvals == b]).max() for b in (1000, 2000))
    assert 1.0 < max(low, high / 2) <= 3.0 + 1e-9
    per_b = shifts[:, 0] / np.maximum(run.table.bvals, 1)
    weighted = run.table.bvals > 0
    solution = np.linalg.lstsq(run.table.bvecs[weighted], per_b[weighted], rcond=None)[0]
    np.testing.assert_allclose(run.table.bvecs @ solution, per_b, atol=1e-12)


def test_the_true_transforms_undo_motion_and_eddy_currents(scan):
    bent, flat = scan(6, eddy=6.0, drift=4.0), scan(6, drift=4.0)
    series, reference = bent.series(), flat.series()
    inner = ndimage.binary_erosion(bent.run.brain, iterations=2)
    affine = bent.session.grid.affine
    before: list[float] = []
    after: list[float] = []
    wrong: list[float] = []
    for t in range(1, 7):
        whole = bent.run.eddy[t] @ bent.run.motion[t]
        aim = back_on_reference(reference[..., t], affine, bent.run.motion[t])[inner]
        scale = np.linalg.det(bent.run.eddy[t][:3, :3])
        other = np.linalg.inv(bent.run.eddy[t]) @ bent.run.motion[t]
        for errors, matrix, factor in (
            (before, bent.run.motion[t], 1.0),
            (after, whole, scale),
            (wrong, other, scale),
        ):
            found = back_on_reference(series[..., t], affine, matrix)[inner] * factor
            errors.append(float(np.abs(found - aim).mean()))
    assert np.mean(after) < 0.4 * np.mean(before)
    assert np.mean(wrong) > 1.15 * np.mean(before)


@pytest.mark.parametrize("turn", [0.0, 4.0])
def test_starting_from_another_volume_finds_the_same_places(scan, turn):
    bent = scan(3, distortion=6.0, eddy=3.0)
    head, grid = bent.run.head.head, bent.session.grid
    voxels, motion = head.signal_voxels(), rigid((turn, 0, 0), (0, 1, 0), grid.affine[:3, 3])
    first = trace(head, grid, np.eye(4), voxels)
    eddy = bent.run.eddy[1]
    quick, slow = (trace(head, grid, motion, voxels, eddy, start) for start in (first, None))
    miss = np.abs(quick.points - slow.points)[grid.axis]
    assert np.percentile(miss, 99.9) < 0.01
    assert np.percentile(np.abs(quick.jacobian - slow.jacobian), 99.9) < 0.02
    index = np.linalg.inv(head.pose) @ np.linalg.inv(motion) @ grid.affine
    shift = grid.sign * grid.readout * head.field.sample(index, quick.points)
    pull = (np.linalg.inv(grid.affine) @ eddy @ grid.affine - np.eye(4))[grid.axis]
    landed = quick.points[grid.axis] + shift + pull[:3] @ quick.points + pull[3]
    assert np.percentile(np.abs(landed - quick.voxels[grid.axis]), 99.9) < 0.01


def test_dropped_slices_are_the_ones_that_the_truth_names(scan):
    whole, lost = scan(6), scan(6, dropped=0.1)
    kept = lost.run.kept
    assert (kept[0] == 1).all()
    assert 0.05 < (kept[1:] < 1).mean() < 0.15
    assert 0.2 <= kept.min() < kept[kept < 1].max() <= 0.6
    before, after = (each.series().sum(axis=(0, 1)) for each in (whole, lost))
    bright = before > 1000
    np.testing.assert_allclose((after / np.maximum(before, 1))[bright], kept.T[bright], rtol=1e-4)


def test_noise_is_rician_and_as_strong_as_asked(scan):
    noisy, still = scan(3, snr=30.0), scan(3)
    sigma = dwi_noise_level(noisy.options)
    assert sigma == pytest.approx(SCALE / 30)
    series, clean = noisy.series(), still.series()
    assert (series - clean)[noisy.run.brain, 0].std() == pytest.approx(sigma, rel=0.03)
    air = series[clean[..., 0] == 0]
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)


def test_one_switch_leaves_the_other_effects_as_they_were(scan):
    one, other = scan(6, drift=2.0, eddy=2.0, dropped=0.1), scan(6, drift=2.0)
    np.testing.assert_array_equal(one.run.motion, other.run.motion)
    with_drop = scan(6, dropped=0.1)
    np.testing.assert_array_equal(one.run.kept, with_drop.run.kept)


def test_bundles_lie_in_the_templates_white_matter():
    template = load_template(1)
    to_voxel = np.linalg.inv(template.affine)
    for bundle in BUNDLES:
        index = bundle.curve() @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        if bundle.through_grey:  # brainstem and capsules are grey in the maps
            index = index[50:]
        white = ndimage.map_coordinates(template.wm, index.T, order=1)
        assert white.mean() > 0.6, bundle.name
        assert np.percentile(white, 10) > 0.2, bundle.name
    assert len({bundle.name for bundle in BUNDLES}) == len(BUNDLES) == 17


def test_bundles_cross(plain):
    crossing = (plain.run.head.shares() > 0.2).sum(axis=0)
    assert (crossing > 1).sum() > 20
    assert plain.run.head.shares().sum(axis=0).max() < 1.001


def test_a_tube_fans_out_at_its_ends():
    bundle = next(b for b in BUNDLES if b.name == "Left Arcuate")
    wall = bundle.wall(np.linspace(0, bundle.length, 11))
    assert wall[5] == bundle.radius
    assert (wall[0], wall[-1]) == bundle.fan
    line = bundle.curve(400)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    field = bundle.field(line)
    assert field.weight[2:-2].min() > 0.99
    np.testing.assert_allclose((field.direction * tangent[field.index]).sum(axis=1), 1, atol=0.01)
    aside = np.cross(tangent, [0.0, 0.0, 1.0])
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    off = bundle.field(line + 3 * aside)
    outwards = (off.direction * aside[off.index]).sum(axis=1)
    way = off.position.astype(float) * bundle.length
    ends = (way > 1) & (way < 25) | (way > bundle.length - 25) & (way < bundle.length - 1)
    widening = (bundle.wall(way + 0.05) - bundle.wall(way - 0.05)) / 0.1
    expected = 3 * widening / bundle.wall(way)
    assert expected[ends].min() < -0.03
    assert expected[ends].max() > 0.03
    assert np.abs(outwards - expected)[ends].max() < 0.02


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_fibres_fill_the_tube_and_run_as_its_field_says(bundle):
    fibres = bundle.fibres(60)
    ways = np.linspace(0, bundle.length, fibres.shape[1])
    off = np.linalg.norm(fibres - bundle.curve(fibres.shape[1]), axis=2) / bundle.wall(ways)
    np.testing.assert_allclose(off, np.tile(off[:, :1], fibres.shape[1]), atol=1e-6)
    assert np.mean(off[:, 0] ** 2) == pytest.approx(0.5, abs=0.01)  # as many as fill a disc
    middle = np.linalg.norm(fibres.mean(axis=0) - bundle.curve(fibres.shape[1]), axis=1)
    assert middle.max() < 0.1 * bundle.wall(ways).max()
    inner = fibres[off[:, 0] < 0.6][:, 2:-2]
    steps = np.gradient(inner, axis=1)
    steps /= np.linalg.norm(steps, axis=2, keepdims=True)
    field = bundle.field(inner.reshape(-1, 3))
    assert field.weight.min() == 1
    along = (field.direction * steps.reshape(-1, 3)[field.index]).sum(axis=1)
    assert np.percentile(along, 5) > 0.99


def test_every_bundle_has_a_profile_of_its_own(plain, truth):
    courses = plain.run.head.courses
    others = draw_courses(draw_subject(1, seed=11, label="02"))
    shares = plain.run.head.shares() * plain.run.brain
    agreements = []
    for bundle, share in zip(BUNDLES, shares, strict=True):
        own = fibre_profile(courses[bundle.name])
        assert 0.08 < np.ptp(own[:, 0]) < 0.4
        assert 0.3 < own[:, 0].min() < own[:, 0].max() < 0.9
        assert (own != fibre_profile(others[bundle.name])).any()
        np.testing.assert_allclose(own[:, 1], (own[:, 3] + 2 * own[:, 2]) / 3)
        seen = true_profile(bundle, plain.run, truth, share)
        assert np.isfinite(seen).mean() > 0.9
        both = np.isfinite(seen[:, 0])
        agreements.append(np.corrcoef(own[both, 0], seen[both, 0])[0, 1])
        assert np.nanstd(seen[:, 0]) > 0.02
    assert np.median(agreements) > 0.3  # crossings and partial volume do the rest


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"directions": 0}, "directions"),
        ({"bvals": ()}, "b-values"),
        ({"bvals": (30.0,)}, "more than 50"),
        ({"n_b0": 0}, "b0"),
        ({"resolution": 1.0}, "1.5 to 6"),
        ({"tr": 0.0}, "repetition time"),
        ({"echo_time": 80.0}, "echo time"),
        ({"dropped": 0.9}, "dropped"),
        ({"direction": "HF"}, "HF"),
        ({"coverage": 0.0}, "coverage"),
        ({"fieldmaps": ("magic",)}, "magic"),
        ({"fieldmaps": ("phasediff", "phases")}, "choose one"),
        ({"eddy": -1.0}, "eddy"),
    ],
)
def test_options_out_of_range_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        DwiOptions(**wrong)
