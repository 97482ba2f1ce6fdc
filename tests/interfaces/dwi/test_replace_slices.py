"""Slices with dropout are replaced by their prediction, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import moving_dwi as md
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.confounds import dwi_confounds
from neuroferry.interfaces.dwi.eddy_model import (
    leave_out_weights,
    modelled_covariance,
    weights_from,
)
from neuroferry.interfaces.dwi.gradients import Gradients, write_gradients
from neuroferry.interfaces.dwi.outliers import judge_slices, write_outliers
from neuroferry.interfaces.dwi.replace_slices import (
    ReplaceSlices,
    describe_slices,
    replace_slices,
)
from neuroferry.interfaces.dwi.resample import ResampleDwi, Ways
from neuroferry.interfaces.dwi.slice_patches import Patches, read_patches, write_patches
from neuroferry.interfaces.dwi.slice_prediction import bridge, predict_slice, show_whole
from neuroferry.interfaces.epi.motion_table import write_motion_xfms
from neuroferry.interfaces.image.images import Volume, inverse
from neuroferry.interfaces.image.series import open_series

pytestmark = pytest.mark.slow

N = 16
N_B0 = 1
LOST = {3: (12, 13), 7: (9, 12, 15, 18), 11: (17,)}
GAIN = {7: 1.15}


class Scan:
    """A moving head with some dark slices and one brighter volume."""

    def __init__(self, folder: Path) -> None:
        bvals = np.r_[np.zeros(N_B0), np.full(N, 1000.0)]
        self.gradients = Gradients(bvals, np.vstack([np.zeros((N_B0, 3)), md.directions(N)]))
        # The noise is low, so that errors show.
        volumes, truth = md.scan(bvals, self.gradients.bvecs, 3, sigma=5.0, jerk=2.0)
        for volume, gain in GAIN.items():
            volumes[volume] *= gain
        self.whole = np.stack(volumes)
        self.lost = np.zeros((N + N_B0, md.SHAPE[2]), dtype=bool)
        for volume, slices in LOST.items():
            self.lost[volume, list(slices)] = True
            volumes[volume] = volumes[volume].copy()
            volumes[volume][..., list(slices)] *= 0.3
        self.path = md.save(volumes, folder / "dwi.nii.gz")
        self.measured = np.stack(volumes)
        self.ways = Ways(truth.matrices, truth.rigid)
        self.reference = Volume(volumes[0], md.AFFINE)
        self.folder = folder

    def replaced(self, **changes: Any) -> Patches:
        given: dict[str, Any] = {
            "series": open_series(self.path),
            "gradients": self.gradients,
            "ways": self.ways,
            "lost": self.lost,
            "reference": self.reference,
            **changes,
        }
        return replace_slices(**given)

    def patched(self, patches: Patches) -> np.ndarray:
        return np.stack([patches.apply(n, v.copy()) for n, v in enumerate(self.measured)])

    def head(self, volume: int, k: int) -> np.ndarray:
        return self.whole[volume][..., k] > 60


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return Scan(tmp_path_factory.mktemp("lost"))


@pytest.fixture(scope="module")
def patches(scan: Scan) -> Patches:
    return scan.replaced()


def error(scan: Scan, made: np.ndarray) -> float:
    """Compute the mean relative error in the head of the slices with dropout."""
    shares = []
    for volume, k in np.argwhere(scan.lost):
        here = scan.head(volume, k)
        shares.append(np.abs(made[volume][..., k] / scan.whole[volume][..., k] - 1)[here])
    return float(np.concatenate(shares).mean())


def test_lost_slices_look_as_if_they_were_whole(scan: Scan, patches: Patches) -> None:
    np.testing.assert_array_equal(patches.replaced, scan.lost)
    made = scan.patched(patches)
    assert error(scan, scan.measured) > 0.65
    assert error(scan, made) < 0.06
    for volume, k in np.argwhere(scan.lost):
        here = scan.head(volume, k)
        ratio = made[volume][..., k][here].sum() / scan.whole[volume][..., k][here].sum()
        assert ratio == pytest.approx(1, abs=0.05), (volume, k)


def test_threads_change_nothing(scan: Scan, patches: Patches) -> None:
    np.testing.assert_array_equal(scan.replaced(n_threads=3).slices, patches.slices)


def test_nothing_else_changes(scan: Scan, patches: Patches) -> None:
    made = scan.patched(patches)
    same = ~np.broadcast_to(scan.lost[:, None, None, :], made.shape)
    np.testing.assert_array_equal(made[same], scan.measured[same])


def test_it_goes_back_to_where_the_volume_is(scan: Scan) -> None:
    """Without motion, or with inverted motion, the prediction is worse."""
    right = error(scan, scan.patched(scan.replaced()))
    still = np.tile(np.eye(4), (N + N_B0, 1, 1))
    others = {
        "no motion": Ways(still, still),
        "the wrong way": Ways(inverse(scan.ways.matrices), scan.ways.rigid),
    }
    for name, ways in others.items():
        assert error(scan, scan.patched(scan.replaced(ways=ways))) > 1.5 * right, name


def test_the_model_leaves_lost_slices_out(scan: Scan) -> None:
    """A slice missing in most other volumes is predicted from the few that show it."""
    lost = scan.lost.copy()
    measured = scan.measured.copy()
    dark = [2, 4, 5, 8, 9, 10, 12]
    lost[np.ix_(dark, [12])] = True
    measured[dark, ..., 12] *= 0.3
    path = md.save(list(measured), scan.folder / "dark.nii.gz")
    known = scan.replaced(series=open_series(path), lost=lost)
    only = replace(known, replaced=known.replaced)
    made = np.stack([only.apply(n, v.copy()) for n, v in enumerate(measured)])
    blind = scan.replaced(series=open_series(path))
    spoilt = np.stack([blind.apply(n, v.copy()) for n, v in enumerate(measured)])
    assert error(scan, made) < 0.09
    assert error(scan, spoilt) > 2 * error(scan, made)


def test_too_few_volumes_replace_nothing(scan: Scan) -> None:
    """A slice that is missing in all other volumes stays as acquired."""
    lost = scan.lost.copy()
    lost[N_B0 + 2 :, 10:16] = True
    found = scan.replaced(lost=lost).replaced
    assert not found[:, 12].any()
    assert found[7, 18]
    assert found[11, 17]


def test_no_lost_slice_no_change(scan: Scan, tmp_path: Path) -> None:
    """The series is identical byte for byte with and without slice replacement."""
    bval, bvec = write_gradients(scan.gradients, md.AFFINE, tmp_path / "b", tmp_path / "v")
    eddy = write_motion_xfms(scan.ways.matrices, tmp_path / "e.txt")
    rigid = write_motion_xfms(scan.ways.rigid, tmp_path / "m.txt")
    given = {
        "in_file": scan.path,
        "bval": bval,
        "bvec": bvec,
        "eddy_xfms": eddy,
        "motion_xfms": rigid,
        "reference": scan.path,
    }
    first = md.save([scan.measured[0]], tmp_path / "first.nii")
    made = {}
    for name, lost in {"none": np.zeros_like(scan.lost), "some": scan.lost}.items():
        folder = tmp_path / name
        folder.mkdir()
        deviations = np.where(lost, -20.0, 0.1)
        outliers = write_outliers(folder / "o.tsv", deviations, lost)
        step = ReplaceSlices(**given | {"reference": first}, outliers_tsv=outliers, n_procs=2)
        found = step.run(cwd=folder).outputs
        made[name] = found
        again = ResampleDwi(tr=3.0, **given | {"reference": first}, patches=found.patches)
        made[name + " resampled"] = again.run(cwd=folder).outputs.out_file
    plain = ResampleDwi(tr=3.0, **given | {"reference": first}).run(cwd=tmp_path).outputs.out_file
    assert Path(made["none resampled"]).read_bytes() == Path(plain).read_bytes()
    assert Path(made["some resampled"]).read_bytes() != Path(plain).read_bytes()
    # files round transforms
    mine = read_patches(made["some"].patches)
    np.testing.assert_allclose(mine.slices, scan.replaced().slices, atol=0.01)
    report = json.loads(Path(made["some"].report).read_text())
    assert report == {
        "LostSlices": 7,
        "ReplacedSlices": 7,
        "Volumes": {"3": 2, "7": 4, "11": 1},
    }
    assert json.loads(Path(made["none"].report).read_text())["ReplacedSlices"] == 0
    motion = tmp_path / "motion.tsv"
    names = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    motion.write_text("\t".join(names) + "\n" + ("\t".join("0" * 6) + "\n") * (N + N_B0))
    columns, about = dwi_confounds(
        bval, bvec, motion, tmp_path / "some" / "o.tsv", made["some"].patches
    )
    assert columns["replaced_slices"].tolist() == scan.lost.sum(axis=1).tolist()
    assert set(about) == set(columns)


def test_volumes_that_are_mostly_lost_are_named() -> None:
    lost = np.zeros((3, 10), dtype=bool)
    lost[1, :6] = True
    deviations = np.zeros(lost.shape)
    found = describe_slices(deviations, lost, Patches.of({}, lost.shape, (4, 4)))
    assert found["MostlyLostVolumes"] == [1]
    assert "volume 1 " in found["Warning"]
    lost[1, 5] = False
    assert "Warning" not in describe_slices(deviations, lost, Patches.of({}, lost.shape, (4, 4)))


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_volume_that_lost_many_slices(share: float) -> None:
    """They are also detected if they are the majority."""
    rng = np.random.default_rng(1)
    n, n_slices = 20, 40
    differences = rng.normal(0, 0.01, (n, n_slices)) + rng.normal(0, 0.05, (n, 1))
    lost = np.zeros((n, n_slices), dtype=bool)
    lost[4] = rng.permutation(n_slices) < share * n_slices
    losses = np.where(lost, np.log(rng.uniform(0.2, 0.6, lost.shape)), 0)
    combination = (np.ones((n, n)) - np.eye(n)) / (n - 1)
    seen = differences + losses - combination @ losses
    counts = np.full(seen.shape, 2000)
    found = judge_slices(seen, counts, combination, np.zeros(seen.shape)).odd
    np.testing.assert_array_equal(found, lost)


def test_weights_of_all_others_are_those_of_the_alignment() -> None:
    bvecs = md.directions(9)
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(9, 400)) + 3 * (bvecs @ rng.normal(size=(3, 400))) ** 2
    covariance = np.cov(signals)
    weights = leave_out_weights(covariance, bvecs)
    modelled = modelled_covariance(covariance, bvecs)
    for volume in range(9):
        others = np.delete(np.arange(9), volume)
        mine = weights_from(modelled, volume, others)
        np.testing.assert_allclose(mine, weights[volume, others], rtol=1e-5, atol=1e-6)


def test_a_place_is_predicted_from_those_that_show_it() -> None:
    """b0 volumes: the mean of the valid ones."""
    modelled = modelled_covariance(np.eye(8), np.zeros((8, 3)))
    logs = np.arange(16, dtype=np.float32).reshape(8, 2)
    shown = np.ones((8, 2), dtype=bool)
    shown[5, 0] = False
    shown[2:, 1] = False
    values, known = predict_slice(logs, shown, modelled, 7)
    assert values[0] == pytest.approx(np.mean([0, 2, 4, 6, 8, 12]), abs=1e-4)
    assert known.tolist() == [True, False]


def test_places_next_to_a_lost_slice_are_not_shown() -> None:
    lost = np.array([False, False, True, False, False])
    z = np.array([0.0, 1.0, 1.2, 2.0, 2.9, 3.0, 4.6])
    place = np.vstack([np.ones_like(z), np.ones_like(z), z])
    shown = show_whole(place, (4, 4, 5), lost)
    assert shown.tolist() == [True, True, False, False, False, True, False]
    data = np.zeros((2, 2, 3), dtype=np.float32)
    assert bridge(data, np.ones(3, dtype=bool)) is data


def test_files_of_another_series(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they do not belong to one series"):
        scan.replaced(lost=scan.lost[:-1])
    other = Patches.of({}, (3, 9), (4, 4))
    path = write_patches(other, tmp_path / "p.npz")
    assert path.read_bytes() == write_patches(other, tmp_path / "q.npz").read_bytes()
    damaged = tmp_path / "d.npz"
    damaged.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="does not hold replacement slices"):
        read_patches(damaged)
