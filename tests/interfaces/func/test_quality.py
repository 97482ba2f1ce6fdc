"""Quality of a series of known motion, noise, ghosts and spikes."""

from __future__ import annotations

import math
from dataclasses import replace

import moving_head as known
import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.func import quality
from neuroferry.interfaces.image.images import Volume
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.qc.bold import Given

STILL = np.eye(4)
SIGMA = 8.0


def brain():
    index = np.indices(known.SHAPE).reshape(3, -1)
    x, y, z = known.AFFINE[:3, :3] @ index + known.AFFINE[:3, 3:]
    return ((x / 60) ** 2 + (y / 74) ** 2 + (z / 54) ** 2 < 1).reshape(known.SHAPE)


def write(folder, volumes, dtype=np.float32):
    path = folder / "bold.nii"
    data = np.stack(volumes, axis=-1).astype(dtype)
    nb.Nifti1Image(data, known.AFFINE).to_filename(path)
    return open_series(path, min_volumes=1)


def aligned(series, matrices=None, **about):
    """Pretend to have aligned a series of a still head."""
    mean = np.asarray(np.mean(list(series.volumes()), axis=0, dtype=np.float64), np.float32)
    if matrices is None:
        matrices = np.tile(STILL, (series.n_volumes, 1, 1))
    given = Given(2.0, series.n_volumes, **about)
    mask = about.get("problems") is None
    return quality.Aligned(Volume(mean, series.affine), matrices, brain() & mask, given)


@pytest.fixture(scope="module")
def still():
    rng = np.random.default_rng(1)
    head = known.head(STILL) + 30
    return [head + rng.normal(0, SIGMA, head.shape) for _ in range(40)]


def test_noise_gives_the_tsnr_of_its_closed_form(tmp_path):
    rng = np.random.default_rng(6)
    level = np.where(brain(), 800.0, 30.0)
    series = write(tmp_path, [level + rng.normal(0, SIGMA, level.shape) for _ in range(40)])
    found = quality.measure_series(series, aligned(series), folder=tmp_path)
    # the median of a standard deviation over 40 volumes is 2 % below sigma
    assert found.values["tsnr"] == pytest.approx(800 / SIGMA, rel=0.03)
    assert found.values["dvars_vstd"] == pytest.approx(1.0, abs=0.08)
    assert found.values["fd_mean"] == 0.0
    assert found.values["gcor"] == pytest.approx(0.0, abs=0.002)
    assert found.values["dummy_trs"] == 0
    assert found.values["size_t"] == 40
    assert found.values["spacing_tr"] == 2.0


def test_a_damaged_volume_shows_at_its_place(tmp_path, still):
    volumes = list(still)
    volumes[17] = volumes[17] * 1.15
    volumes[23] = volumes[23].copy()
    volumes[23][:, :, 9] += 60  # a radio-frequency spike fills one slice
    series = write(tmp_path, volumes)
    found = quality.measure_series(series, aligned(series), folder=tmp_path)
    for name in ("dvars_std", "dvars_nstd", "dvars_vstd"):
        assert set(np.argsort(np.nan_to_num(found.columns[name]))[-2:]) == {17, 18}
    assert found.columns["aor"].argmax() == 17
    assert found.columns["global_signal"].argmax() == 17
    assert list(np.unravel_index(found.spikes.argmax(), found.spikes.shape)) == [23, 9]
    assert found.undefined == {}
    assert np.isfinite(list(found.values.values())).all()


def test_a_ghost_raises_the_ratio_along_its_axis(tmp_path, still):
    ghost = [v + 0.04 * np.roll(known.head(STILL), known.SHAPE[1] // 2, axis=1) for v in still[:6]]
    clean = write(tmp_path, still[:6])
    before = quality.measure_series(clean, aligned(clean), folder=tmp_path).values
    series = write(tmp_path, ghost)
    after = quality.measure_series(series, aligned(series), folder=tmp_path).values
    assert after["gsr_y"] - before["gsr_y"] > 0.015
    assert after["gsr_x"] - before["gsr_x"] < 0.005


def test_known_motion_is_measured_and_undone(tmp_path):
    rng = np.random.default_rng(2)
    moves = [STILL] * 6 + [known.motion(np.array([3.0, 0, 0, 0, 0, 0]))] * 6
    series = write(tmp_path, [known.head(m) + rng.normal(0, 4, known.SHAPE) for m in moves])
    found = quality.align_for_quality(series, 2.0, 0)
    assert found.given.problems == {}
    overlap = 2 * (found.brain & brain()).sum() / (found.brain.sum() + brain().sum())
    assert overlap > 0.7
    measured = quality.measure_series(series, found, folder=tmp_path)
    fd = measured.columns["framewise_displacement"]
    assert np.nanargmax(fd) == 6
    assert fd[6] == pytest.approx(3.0, abs=0.15)
    assert measured.values["fd_num"] == 1
    assert measured.values["fd_perc"] == pytest.approx(100 / 12)
    unmoved = replace(found, matrices=aligned(series).matrices)
    moving = quality.measure_series(series, unmoved, folder=tmp_path)
    assert measured.columns["dvars_nstd"][6] < 0.6 * moving.columns["dvars_nstd"][6]
    again = quality.measure_series(series, found, folder=tmp_path, n_threads=2)
    assert again.values == measured.values


def test_a_head_that_leaves_the_field_of_view_makes_no_edge():
    data = np.full((12, 12, 8), 100.0, dtype=np.float32)
    moved = np.eye(4)
    moved[:3, 3] = (2.3, -1.7, 0.6)
    np.testing.assert_allclose(quality.realign_volume(data, moved), 100.0, rtol=1e-5)
    assert quality.realign_volume(data, np.eye(4)) is data


@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_series_have_what_they_can_have(tmp_path, still, count):
    series = write(tmp_path, still[:count])
    found = quality.measure_series(series, aligned(series), folder=tmp_path)
    missing = {name for name, value in found.values.items() if math.isnan(value)}
    assert missing == set(found.undefined)
    assert ("tsnr" in missing) == (count < 2)
    assert ("aor" in missing) == (count < 5)
    assert math.isfinite(found.values["snr"])


def test_dummies_and_empty_volumes_are_left_out(tmp_path, still):
    volumes = [still[0] * 1.4, *still[1:20]]
    volumes[7] = np.zeros(known.SHAPE)
    series = write(tmp_path, volumes)
    about = {"n_dummy": 1, "unusable": frozenset({7})}
    found = quality.measure_series(series, aligned(series, **about), folder=tmp_path)
    assert found.values["size_t"] == 19
    assert found.values["dummy_trs"] == 1
    others = [v for t, v in enumerate(still[:20]) if t not in (0, 7)]
    there = np.mean(others, axis=0) / np.std(others, axis=0)
    assert found.values["tsnr"] == pytest.approx(np.median(there[brain()]), rel=1e-4)
    for name in ("dvars_std", "aqi", "aor", "framewise_displacement"):
        assert np.isnan(found.columns[name][[0, 7]]).all()
        assert np.isfinite(found.columns[name][[2, 6, 8]]).all()
    assert np.isnan(found.carpet[[0, 7]]).all()


def test_integers_do_not_overflow(tmp_path, still):
    top = 32000 / max(v.max() for v in still[:6])
    series = write(tmp_path, [v * top for v in still[:6]], np.int16)
    found = quality.measure_series(series, aligned(series), folder=tmp_path)
    expected = np.median((known.head(STILL) + 30)[brain()]) * top
    assert found.values["summary_fg_median"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_a_series_without_a_head_is_measured_as_far_as_it_goes(tmp_path, level):
    series = write(tmp_path, [np.full(known.SHAPE, level)] * 6)
    found = quality.align_for_quality(series, 2.0)
    assert set(found.given.problems) == {"motion", "brain"}
    measured = quality.measure_series(series, found, folder=tmp_path)
    assert measured.values["size_x"] == known.SHAPE[0]
    missing = {name for name, value in measured.values.items() if math.isnan(value)}
    assert missing == set(measured.undefined)
    assert "No brain mask" in measured.undefined["tsnr"]


def test_pure_noise_has_no_brain(tmp_path):
    rng = np.random.default_rng(0)
    series = write(tmp_path, [rng.rayleigh(10, known.SHAPE) for _ in range(3)])
    found = quality.align_for_quality(series, 2.0)
    measured = quality.measure_series(series, found, folder=tmp_path)
    assert set(measured.undefined) == {n for n, v in measured.values.items() if math.isnan(v)}


def test_slices_of_zeros_are_no_reason_to_fail(tmp_path, still):
    volumes = [v.copy() for v in still[:8]]
    for volume in volumes:
        volume[:, :, :3] = 0
    volumes[4][:, :, 12] = 0
    series = write(tmp_path, volumes)
    found = quality.measure_series(series, quality.align_for_quality(series, 2.0, 0))
    assert math.isfinite(found.values["tsnr"])


def test_a_damaged_file_is_an_error(tmp_path, still):
    series = write(tmp_path, still[:6])
    whole = series.path.read_bytes()
    series.path.write_bytes(whole[: len(whole) * 5 // 6])
    with pytest.raises(InputError, match="truncated"):
        quality.align_for_quality(open_series(series.path), 2.0)
