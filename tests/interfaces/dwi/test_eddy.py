"""Head motion and eddy currents of DWI runs are estimated separately."""

from __future__ import annotations

import json
from pathlib import Path

import moving_dwi as md
import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.confounds import DwiConfounds
from neuroferry.interfaces.dwi.eddy import EstimateEddy
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients, write_gradients
from neuroferry.interfaces.dwi.outliers import read_outliers
from neuroferry.interfaces.dwi.replace_slices import ReplaceSlices
from neuroferry.interfaces.dwi.resample import ResampleDwi
from neuroferry.interfaces.epi.motion_table import read_motion_xfms, write_motion_xfms

pytestmark = pytest.mark.slow

N = 12
SPOILT = (5, 17)
# A volume with dropout in a third of its slices.
DARK = (8, [6, 8, 9, 10, 13, 20, 22, 23])


def measure(folder: Path, gradients: Gradients, volumes: list[np.ndarray]) -> dict[str, Path]:
    """Write a series and its gradients."""
    bval, bvec = write_gradients(gradients, md.AFFINE, folder / "d.bval", folder / "d.bvec")
    return {"in_file": md.save(volumes, folder / "dwi.nii.gz"), "bval": bval, "bvec": bvec}


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], md.Truth, Gradients]:
    """Make one b0 and twelve directions of a moving head; slices of two volumes have dropout."""
    bvals = np.r_[0, np.full(N, 1000.0)]
    bvecs = np.vstack([np.zeros((1, 3)), md.directions(N)])
    volumes, truth = md.scan(bvals, bvecs, 3)
    volumes[SPOILT[0]][..., SPOILT[1]] *= 0.6
    volumes[DARK[0]][..., DARK[1]] *= np.float32(0.35)
    gradients = Gradients(bvals, bvecs)
    return measure(tmp_path_factory.mktemp("dwi"), gradients, volumes), truth, gradients


@pytest.fixture(scope="module")
def found(
    moved: tuple[dict[str, Path], md.Truth, Gradients], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("eddy")
    made = EstimateEddy(**moved[0], phase_encoding="j-", n_procs=2).run(cwd=folder)
    return dict(made.outputs.get())


def test_motion_and_eddy_currents(
    moved: tuple[dict[str, Path], md.Truth, Gradients], found: dict[str, str]
) -> None:
    truth = moved[1]
    matrices = read_motion_xfms(found["eddy_xfms"])
    error = md.errors(matrices, truth.matrices)
    before = md.errors(np.tile(np.eye(4), (N + 1, 1, 1)), truth.matrices)
    assert before.mean() > 1.4
    assert error[0] == 0
    assert error.mean() < 0.4
    assert error[DARK[0]] < 0.5
    assert error.max() < 0.7
    rigid = read_motion_xfms(found["motion_xfms"])
    np.testing.assert_allclose(np.linalg.det(rigid[:, :3, :3]), 1, atol=1e-9)
    turned = np.swapaxes(truth.rigid[:, :3, :3], 1, 2) @ rigid[:, :3, :3]
    assert np.degrees(Rotation.from_matrix(turned).magnitude()).max() < 0.7
    slopes = 70 * (matrices @ np.linalg.inv(rigid) - truth.stretch)[:, 1, :3]
    assert np.abs(slopes).mean() < 0.3


def test_slices_without_their_signal(found: dict[str, str]) -> None:
    deviations, odd = read_outliers(found["outliers_tsv"])
    assert deviations.shape == (N + 1, md.SHAPE[2])
    assert np.isnan(deviations[0]).all()
    assert odd[SPOILT]
    assert odd[DARK[0], DARK[1]].all()
    assert odd.sum() <= 3 + len(DARK[1])
    report = json.loads(Path(found["report"]).read_text())
    assert SPOILT[0] in report["VolumesWithOutlierSlices"]
    assert report["EddyCurrents"]
    assert report["PhaseEncodingAxis"] == "j"  # of j-: only its axis was used
    assert "PhaseEncodingDirection" not in report


def test_confounds(
    moved: tuple[dict[str, Path], md.Truth, Gradients], found: dict[str, str], tmp_path: Path
) -> None:
    files = moved[0]
    made = DwiConfounds(
        bval=files["bval"],
        bvec=files["bvec"],
        motion_tsv=found["motion_tsv"],
        outliers_tsv=found["outliers_tsv"],
    ).run(cwd=tmp_path)
    table = np.genfromtxt(made.outputs.confounds_tsv, names=True, missing_values="n/a")
    assert len(table) == N + 1
    assert np.isnan(table["framewise_displacement"][0])
    assert table["outlier_slices"][SPOILT[0]] >= 1
    assert table["bval"][1] == 1000
    described = json.loads(Path(made.outputs.confounds_json).read_text())
    assert set(described) == set(table.dtype.names or ())
    short = tmp_path / "short.bval"
    short.write_text("0 1000\n")
    with pytest.raises(InputError, match="13 rows"):
        DwiConfounds(
            bval=short,
            bvec=files["bvec"],
            motion_tsv=found["motion_tsv"],
            outliers_tsv=found["outliers_tsv"],
        ).run(cwd=tmp_path)


def test_threads_change_nothing(
    moved: tuple[dict[str, Path], md.Truth, Gradients], found: dict[str, str], tmp_path: Path
) -> None:
    again = EstimateEddy(**moved[0], phase_encoding="j", n_procs=1).run(cwd=tmp_path).outputs
    for name in ("dwi_ref", "eddy_xfms", "motion_xfms", "motion_tsv", "outliers_tsv"):
        assert Path(getattr(again, name)).read_bytes() == Path(found[name]).read_bytes()


def stored_otherwise(path: Path, folder: Path) -> Path:
    """Store a series with its slices along the second axis."""
    image = nb.load(path)
    order = [1, 2, 0]
    affine = image.affine[:, [*order, 3]]
    made = nb.Nifti1Image(np.transpose(np.asarray(image.dataobj), [*order, 3]), affine)
    nb.save(made, folder / "dwi.nii.gz")
    return folder / "dwi.nii.gz"


def test_slices_along_another_stored_axis(
    moved: tuple[dict[str, Path], md.Truth, Gradients], found: dict[str, str], tmp_path: Path
) -> None:
    """The same slices are found and replaced, however the run is stored."""
    files, _, gradients = moved
    path = stored_otherwise(files["in_file"], tmp_path)
    affine = nb.load(path).affine
    bval, bvec = write_gradients(gradients, affine, tmp_path / "d.bval", tmp_path / "d.bvec")
    other = {"in_file": path, "bval": bval, "bvec": bvec}
    made = EstimateEddy(**other, phase_encoding="i", slice_axis=1, n_procs=2).run(cwd=tmp_path)
    here = dict(made.outputs.get())
    deviations, odd = read_outliers(here["outliers_tsv"])
    expected, lost = read_outliers(found["outliers_tsv"])
    np.testing.assert_array_equal(odd, lost)
    assert np.nanmedian(np.abs(deviations - expected)) < 0.1
    apart = md.errors(read_motion_xfms(here["eddy_xfms"]), read_motion_xfms(found["eddy_xfms"]))
    assert apart.max() < 0.1
    series = []
    for given, made_of, axis in ((files, found, 2), (other, here, 1)):
        folder = tmp_path / str(axis)
        folder.mkdir()
        shared = {**given, **{name: made_of[name] for name in ("eddy_xfms", "motion_xfms")}}
        shared["reference"] = made_of["dwi_ref"]
        replaced = ReplaceSlices(
            **shared, outliers_tsv=made_of["outliers_tsv"], slice_axis=axis
        ).run(cwd=folder)
        assert json.loads(Path(replaced.outputs.report).read_text())["ReplacedSlices"] >= 9
        done = ResampleDwi(**shared, tr=3.0, patches=replaced.outputs.patches).run(cwd=folder)
        series.append(nb.load(done.outputs.out_file).get_fdata())
    one, turned = series[0], np.transpose(series[1], [2, 0, 1, 3])
    assert np.abs(one - turned)[..., DARK[0]].mean() < 0.01 * one.mean()
    with pytest.raises(InputError, match="do not belong to one series"):
        ReplaceSlices(**shared, outliers_tsv=here["outliers_tsv"], slice_axis=2).run(cwd=tmp_path)


def test_several_b0s_and_a_shell_of_one(tmp_path: Path) -> None:
    """One volume of b = 2000 among b0 images, near-zero ones among them."""
    bvals = np.array([0.0, 2000, 2, 2, 2])
    bvecs = np.zeros((5, 3))
    bvecs[1:] = [0.6, 0, 0.8]
    volumes, truth = md.scan(bvals, bvecs * (bvals > 50)[:, None], 5, size=0.0, drift=3.0)
    files = measure(tmp_path, Gradients(bvals, bvecs), volumes)
    made = EstimateEddy(**files).run(cwd=tmp_path).outputs
    error = md.errors(read_motion_xfms(made.eddy_xfms), truth.matrices)
    assert np.delete(error, 1).max() < 0.1
    assert error[1] < 1.0
    report = json.loads(Path(made.report).read_text())
    assert not report["EddyCurrents"]
    assert "phase-encoding axis is not known" in report["Warning"]
    assert Path(made.eddy_xfms).read_bytes() == Path(made.motion_xfms).read_bytes()


def fitted_direction(data: np.ndarray, gradients: Gradients) -> np.ndarray:
    """Fit the principal direction of the tensor in the mean of some voxels."""
    signal = np.log(data / data[..., :1]).reshape(-1, data.shape[-1]).mean(axis=0)[1:]
    x, y, z = gradients.bvecs[1:].T
    design = -gradients.bvals[1:, None] * np.stack(
        [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1
    )
    d = np.linalg.lstsq(design, signal, rcond=None)[0]
    tensor = np.array([[d[0], d[3], d[4]], [d[3], d[1], d[5]], [d[4], d[5], d[2]]])
    return np.linalg.eigh(tensor)[1][:, -1]


@pytest.mark.parametrize("flip", [1, -1])
def test_gradients_turn_with_the_head(tmp_path: Path, flip: int) -> None:
    """A head of one fibre direction rotates by ten degrees; only the correct sign recovers it."""
    affine = md.AFFINE @ np.diag([flip, 1, 1, 1])
    fibre = np.array([0.8, 0.36, 0.48])
    bvals, bvecs = np.r_[0, np.full(20, 1000.0)], np.vstack([np.zeros(3), md.directions(20, 1)])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad([4.0, -6.0, 8.0])).as_matrix()
    rigid = np.stack([np.eye(4)] + [turn] * 20)
    along = ((bvecs @ turn[:3, :3]) @ fibre) ** 2
    values = 1000 * np.exp(-bvals * (0.3e-3 + 1.4e-3 * along))
    index = np.indices((20, 20, 20)) - 9.5
    ball = 1 / (1 + np.exp((np.sqrt((index**2).sum(axis=0)) - 8) * 3))
    nb.save(nb.Nifti1Image((ball[..., None] * values).astype("f4"), affine), tmp_path / "d.nii.gz")
    measured = Gradients(bvals, bvecs)
    bval, bvec = write_gradients(measured, affine, tmp_path / "d.bval", tmp_path / "d.bvec")
    middle = affine[:3, :3] @ np.full(3, 9.5) + affine[:3, 3]
    rigid[:, :3, 3] = middle - rigid[:, :3, :3] @ middle
    xfms = write_motion_xfms(rigid, tmp_path / "x.txt")
    made = ResampleDwi(
        in_file=tmp_path / "d.nii.gz",
        tr=3.0,
        bval=bval,
        bvec=bvec,
        eddy_xfms=xfms,
        motion_xfms=xfms,
        reference=tmp_path / "d.nii.gz",
    ).run(cwd=tmp_path)
    data = nb.load(made.outputs.out_file).get_fdata()[7:13, 7:13, 7:13]
    turned = read_gradients(made.outputs.out_bval, made.outputs.out_bvec, affine)
    np.testing.assert_array_equal(turned.bvals, bvals)

    def error(gradients: Gradients) -> float:
        return float(np.degrees(np.arccos(abs(fitted_direction(data, gradients) @ fibre))))

    assert error(turned) < 0.5
    assert error(measured) > 5
    assert error(Gradients(bvals, bvecs @ turn[:3, :3].T)) > 5
