"""Head motion is estimated to hundredths of a millimetre."""

from __future__ import annotations

import json
from pathlib import Path

import moving_head as mh
import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.motion import EstimateMotion, estimate_motion, head_mask
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.epi.realign import align_volume
from neuroferry.interfaces.epi.realign_target import prepare_target
from neuroferry.interfaces.func.reference import FindReference, count_dummies, find_reference
from neuroferry.interfaces.image.images import Volume, save_nifti
from neuroferry.interfaces.image.series import open_series

pytestmark = pytest.mark.slow

N = 12


@pytest.fixture(scope="module")
def clean() -> tuple[list[np.ndarray], np.ndarray]:
    truth = mh.motions(N, 3)
    return [mh.head(m, 2) for m in truth], truth


def estimate(
    volumes: list[np.ndarray], folder: Path, n_dummy: int = 0, reference: int = 0
) -> np.ndarray:
    series = open_series(mh.save(volumes, folder / "bold.nii.gz"))
    return estimate_motion(
        series, Volume(series.volume(reference), series.affine), n_dummy
    ).matrices


def test_without_noise(clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    mean, worst = mh.displacement_error(estimate(clean[0], tmp_path), clean[1])
    assert mean < 0.02
    assert worst < 0.05


def test_with_noise(clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    volumes = [mh.noisy(v, 50, rng) for v in clean[0]]
    mean, worst = mh.displacement_error(estimate(volumes, tmp_path), clean[1])
    assert mean < 0.05
    assert worst < 0.15


def test_spoilt_slices_dropout_and_gain(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """Slice dropout after abrupt motion, dropout above a sinus, and scanner drift."""
    rng = np.random.default_rng(2)
    volumes = []
    for number, volume in enumerate(clean[0]):
        spoilt = volume * (1 + 0.01 * number) + 5
        if number % 5 == 4:
            spoilt[..., rng.choice(26, 5, replace=False)] *= 0.6
        spoilt[18:26, 38:46, 4:9] *= rng.uniform(0.2, 1.0)
        volumes.append(mh.noisy(spoilt, 50, rng))
    mean, worst = mh.displacement_error(estimate(volumes, tmp_path), clean[1])
    assert mean < 0.05
    assert worst < 0.15


def test_slices_along_another_axis(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """Slice dropout along the first stored axis: the slice axis of the run is used."""
    rng = np.random.default_rng(2)
    volumes = []
    for number, volume in enumerate(clean[0]):
        spoilt = volume.copy()
        if number % 5 == 4:
            spoilt[..., rng.choice(26, 5, replace=False)] *= 0.6
        volumes.append(mh.noisy(spoilt, 50, rng))
    usual = open_series(mh.save(volumes, tmp_path / "bold.nii.gz"))
    turned = nb.load(usual.path)
    axes = np.eye(4)[:, [2, 0, 1, 3]]
    data = np.asarray(turned.dataobj).transpose(2, 0, 1, 3)
    other = nb.Nifti1Image(data, turned.affine @ axes, turned.header)
    nb.save(other, tmp_path / "turned.nii.gz")
    series = open_series(tmp_path / "turned.nii.gz")
    reference = Volume(series.volume(0), series.affine)
    errors = {
        axis: mh.displacement_error(
            estimate_motion(series, reference, slice_axis=axis).matrices, clean[1]
        )
        for axis in (0, 2)
    }
    assert errors[0][0] < 0.05
    assert errors[0][1] < 0.15
    assert errors[0][1] < errors[2][1]
    with_axis = FindReference(in_file=series.path, tr=2.0, dummy_scans=0, slice_axis=0)
    assert nb.load(with_axis.run(cwd=tmp_path).outputs.bold_ref).shape == (26, 44, 52)


def test_partial_coverage() -> None:
    """Eleven slices of a head that continues above and below."""
    slab = slice(8, 19)
    affine = mh.AFFINE.copy()
    affine[:3, 3] += affine[:3, 2] * 8
    truth = mh.motions(6, 8, jerk=2.5)
    rng = np.random.default_rng(0)
    volumes = [mh.noisy(mh.head(m), 50, rng)[..., slab] for m in truth]
    reference = Volume(volumes[0], affine)
    target = prepare_target(reference, head_mask(reference).astype(np.float32))
    found = np.stack([align_volume(target, v, affine).matrix for v in volumes])
    mean, worst = mh.displacement_error(found, truth)
    assert mean < 0.1
    assert worst < 0.4


def test_an_empty_volume_stays_with_its_neighbour(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    volumes = [mh.noisy(v, 50, np.random.default_rng(0)) for v in clean[0][:4]]
    volumes[2] = np.zeros_like(volumes[2])
    found = estimate(volumes, tmp_path)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[2], found[1])
    assert 2 not in find_reference(open_series(tmp_path / "bold.nii.gz"), 2.0).used


def test_unusable_volumes_are_kept_out_of_reference_and_motion(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    volumes = [mh.noisy(v, 50, rng) for v in [*clean[0][:6], *clean[0][:6]]]
    other = [v.copy() for v in volumes]
    spoilt = [0, 5, 10, 11]
    for t in spoilt:
        other[t] = np.abs(rng.normal(0, 2e5, other[t].shape))
    path = tmp_path / "bold.nii.gz"
    mh.save(other, path)
    series = open_series(path)
    found = find_reference(series, 2.0, unusable=spoilt)
    assert found.n_dummy == 0
    assert not set(found.used) & set(spoilt)
    motion = estimate_motion(series, found.volume, unusable=spoilt)
    mh.save([v for t, v in enumerate(volumes) if t not in spoilt], path)
    sound = open_series(path)
    alone = find_reference(sound, 2.0)
    np.testing.assert_array_equal(alone.volume.data, found.volume.data)
    expected = estimate_motion(sound, alone.volume).matrices
    kept = [t for t in range(12) if t not in spoilt]
    np.testing.assert_array_equal(motion.matrices[kept], expected)
    np.testing.assert_array_equal(motion.matrices[spoilt], motion.matrices[[1, 4, 9, 9]])


def test_dummies_are_counted_past_an_unusable_volume(tmp_path: Path) -> None:
    head = mh.head(np.eye(4))
    gains = [0.0, 1.5, 1.15, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    volumes = [mh.noisy(head * g, 50, np.random.default_rng(t)) for t, g in enumerate(gains)]
    mh.save(volumes, tmp_path / "bold.nii.gz")
    series = open_series(tmp_path / "bold.nii.gz")
    assert find_reference(series, 2.0, unusable=[0, 5]).n_dummy == 3


def test_too_few_slices_are_refused() -> None:
    reference = Volume(mh.head(np.eye(4)).astype(np.float32)[..., 12:14], mh.AFFINE)
    with pytest.raises(GeometryError, match="too few slices"):
        prepare_target(reference, np.ones(reference.shape, np.float32))


def test_a_jump_of_a_centimetre() -> None:
    truth = mh.motion(np.array([6.0, -5.0, 6.0, 7.0, -5.0, 6.0]))
    rng = np.random.default_rng(0)
    reference = Volume(mh.noisy(mh.head(np.eye(4)), 50, rng), mh.AFFINE)
    target = prepare_target(reference, head_mask(reference).astype(np.float32))
    found = align_volume(target, mh.noisy(mh.head(truth), 50, rng), mh.AFFINE)
    assert mh.displacement_error(found.matrix[None], truth[None])[1] < 0.2


def test_volumes_before_the_steady_state(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """Fluid is much brighter in the first volumes; the reference is a later one."""
    rng = np.random.default_rng(4)
    volumes, truth = list(clean[0]), clean[1]
    for number, excess in enumerate((0.6, 0.15)):
        tissue = volumes[number] / 1000
        volumes[number] = volumes[number] * (1 + excess * tissue**2)
    noisy = [mh.noisy(v, 50, rng) for v in volumes]
    found = estimate(noisy, tmp_path, 2, reference=6)
    relative = np.stack([m @ np.linalg.inv(truth[6]) for m in truth])
    mean, worst = mh.displacement_error(found[:2], relative[:2])
    assert mean < 0.1
    assert worst < 0.3
    mean, worst = mh.displacement_error(found[2:], relative[2:])
    assert mean < 0.05
    assert worst < 0.15


def test_reference_and_motion_of_a_run(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """Run the interfaces in sequence; the reference has the position of one volume."""
    rng = np.random.default_rng(6)
    volumes = [mh.noisy(v, 50, rng) for v in clean[0]]
    bold = mh.save(volumes, tmp_path / "bold.nii.gz")
    made = FindReference(in_file=bold, tr=2.0, dummy_scans=1).run(cwd=tmp_path).outputs
    report = json.loads(Path(made.report).read_text())
    assert made.n_dummy == report["NonSteadyStateVolumes"] == 1
    assert 0 not in report["VolumesAveraged"]
    found = EstimateMotion(in_file=bold, ref_file=made.bold_ref, n_dummy=1).run(cwd=tmp_path)
    matrices = read_motion_xfms(found.outputs.motion_xfms)
    start = clean[1][report["PositionOfVolume"]]
    truth = np.stack([m @ np.linalg.inv(start) for m in clean[1]])
    mean, worst = mh.displacement_error(matrices, truth)
    assert mean < 0.05
    assert worst < 0.15
    # Less noise than a single volume, without blurring.
    inner = (slice(14, 30), slice(14, 38), slice(8, 18))
    ideal = mh.head(start, 2)
    mean_error = np.std((nb.load(made.bold_ref).get_fdata() - ideal)[inner])
    single_error = np.std((volumes[report["PositionOfVolume"]] - ideal)[inner])
    assert mean_error < 0.6 * single_error
    table = np.genfromtxt(found.outputs.motion_tsv, names=True)
    assert table.dtype.names is not None
    assert table.dtype.names[:3] == ("trans_x", "trans_y", "trans_z")
    assert np.isnan(table["rmsd"][0])
    first = [Path(p).read_bytes() for p in (found.outputs.motion_xfms, found.outputs.motion_tsv)]
    again = EstimateMotion(in_file=bold, ref_file=made.bold_ref, n_dummy=1, n_procs=3)
    again.run(cwd=tmp_path)
    assert first == [
        Path(p).read_bytes() for p in (found.outputs.motion_xfms, found.outputs.motion_tsv)
    ]


def test_motion_against_a_single_band_reference(
    clean: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """It has brighter fluid and no visible noise, and lies in a position of its own."""
    rng = np.random.default_rng(7)
    volumes = [mh.noisy(v, 50, rng) for v in clean[0]]
    bold = mh.save(volumes, tmp_path / "bold.nii.gz")
    place = mh.motion(np.array([0.6, -0.8, 0.5, 1.0, -0.7, 0.4]))
    still = mh.head(place, 2)
    sbref = (1.7 * still * (1 + 0.3 * (still / 1000) ** 2)).astype(np.float32)
    save_nifti(sbref, mh.AFFINE, tmp_path / "sbref.nii.gz")
    made = FindReference(in_file=bold, tr=2.0, sbref=str(tmp_path / "sbref.nii.gz"), dummy_scans=1)
    made = made.run(cwd=tmp_path).outputs
    np.testing.assert_allclose(nb.load(made.bold_ref).get_fdata(), sbref, atol=0.1)
    report = json.loads(Path(made.report).read_text())
    assert (report["Method"], report["NonSteadyStateVolumes"]) == ("single-band reference", 1)
    assert report["File"] == "sbref.nii.gz"
    found = EstimateMotion(in_file=bold, ref_file=made.bold_ref, n_dummy=1).run(cwd=tmp_path)
    truth = np.stack([m @ np.linalg.inv(place) for m in clean[1]])
    matrices = read_motion_xfms(found.outputs.motion_xfms)
    mean, worst = mh.displacement_error(matrices, truth)
    assert mean < 0.05
    assert worst < 0.15


def test_dummies_are_counted() -> None:
    rng = np.random.default_rng(0)
    for sigma, drift in ((0.3, 0.0), (1.0, 0.0), (0.5, 0.3)):
        steady = 1000 + rng.normal(0, sigma, 60) + drift * np.arange(60)
        assert count_dummies(steady, 2.0) == 0
        decay = np.zeros(60)
        decay[:3] = (150, 45, 14)
        assert count_dummies(steady + decay, 2.0) == 3
    # An early task-related signal increase is not a decay to the steady state.
    assert count_dummies(1000 + 8 * np.sin(np.arange(60) / 5), 2.0) == 0
    assert count_dummies(np.array([1200.0, 1000.0]), 2.0) == 0


def test_one_volume_or_none_left(tmp_path: Path) -> None:
    volume = mh.head(np.eye(4)).astype(np.float32)
    single = save_nifti(volume, mh.AFFINE, tmp_path / "one.nii.gz")
    with pytest.raises(InputError, match="1 volume"):
        open_series(single)
    series = open_series(mh.save([volume] * 3, tmp_path / "three.nii.gz"))
    with pytest.raises(InputError, match="no usable ones are left"):
        find_reference(series, 2.0, 3)
    np.testing.assert_allclose(find_reference(series, 2.0, 2).volume.data, volume, atol=0.5)
    with pytest.raises(GeometryError, match="a different grid"):
        estimate_motion(series, Volume(volume[:-1], mh.AFFINE))


def test_the_head_is_found_in_one_piece() -> None:
    volume = mh.noisy(mh.head(np.eye(4)), 50, np.random.default_rng(0))
    volume[:1] += 300
    mask = head_mask(Volume(volume, mh.AFFINE))
    truth = mh.head(np.eye(4)) > 400
    assert mask[truth].mean() > 0.99
    assert not mask[0].any()
