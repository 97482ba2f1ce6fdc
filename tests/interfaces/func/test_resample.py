"""Resampling of a series onto another grid in one interpolation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroferry.bids.epi import phase_encoding_axis
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.motion_table import write_motion_xfms
from neuroferry.interfaces.func.resample import ResampleSeries
from neuroferry.interfaces.image.images import save_nifti
from neuroferry.interfaces.image.sampling import (
    distortion_from_field,
    resample_volume,
    static_map,
)
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    write_itk_affine,
    write_itk_composite,
)

SHAPE = (28, 30, 22)
TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", [8, -5, 4], degrees=True).as_matrix()
AFFINE = TURN @ np.array([[-3.0, 0, 0, 40], [0, 3, 0, -44], [0, 0, 3.5, -38], [0, 0, 0, 1]])


def scene(points: np.ndarray) -> np.ndarray:
    """Evaluate a smooth object at points in RAS+ mm, shape (3, ...)."""
    x, y, z = points
    inside = np.exp(-((x / 28) ** 4) - (y / 30) ** 4 - (z / 26) ** 4)
    return 1000 * inside * (1 + 0.3 * np.sin(x / 7) * np.cos(y / 8) + 0.2 * np.sin(z / 6))


def grid_points(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def moved_scene(matrix: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Image the object after a motion (points of the reference to points of the volume)."""
    points = grid_points(shape, affine).reshape(3, -1)
    back = np.linalg.inv(matrix)
    return scene(back[:3, :3] @ points + back[:3, 3:]).reshape(shape)


def motions(n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    out = np.tile(np.eye(4), (n, 1, 1))
    out[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.02, (n, 3))).as_matrix()
    out[:, :3, 3] = rng.normal(0, 1.0, (n, 3))
    out[0] = np.eye(4)
    return out


def save_series(volumes: list[np.ndarray], path: Path, tr: float = 2.0) -> Path:
    image = nb.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = tr
    nb.save(image, path)
    return path


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Path]:
    moves = motions(4)
    save_nifti(scene(grid_points(SHAPE, AFFINE)), AFFINE, tmp_path / "ref.nii.gz")
    return {
        "bold": save_series([moved_scene(m, SHAPE, AFFINE) for m in moves], tmp_path / "b.nii.gz"),
        "xfms": write_motion_xfms(moves, tmp_path / "xfms.txt"),
        "ref": tmp_path / "ref.nii.gz",
        "dir": tmp_path,
    }


def run(study: dict[str, Path], **inputs: object) -> tuple[np.ndarray, nb.Nifti1Image]:
    cwd = study["dir"] / "out"
    cwd.mkdir(exist_ok=True)
    values = {"in_file": [study["bold"]], "motion_xfms": study["xfms"], "tr": 2.0}
    values |= {"reference": study["ref"], **inputs}
    result = ResampleSeries(**values).run(cwd=cwd)
    image = nb.load(result.outputs.out_file)
    return np.asarray(image.dataobj, dtype=np.float32), image


def interior(shape: tuple[int, ...], n: int = 4) -> tuple[slice, ...]:
    return tuple(slice(n, -n) for _ in shape)


def test_motion_is_taken_away(study: dict[str, Path]) -> None:
    found, image = run(study)
    truth = scene(grid_points(SHAPE, AFFINE))
    inner = interior(SHAPE)
    for t in range(4):
        assert np.abs(found[..., t] - truth)[inner].max() < 6
    raw = np.asarray(nb.load(study["bold"]).dataobj)
    assert np.abs(raw[..., 1] - truth)[inner].max() > 60
    assert image.header.get_zooms()[3] == 2.0
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    mean = nb.load(study["dir"] / "out" / "boldref.nii.gz").get_fdata()
    np.testing.assert_allclose(mean, found.mean(axis=-1), atol=0.1)


def test_every_transform_in_one_interpolation(study: dict[str, Path]) -> None:
    """Write reference -> anatomy (linear) -> template (field and linear) transforms."""
    anat = np.eye(4)
    anat[:3, :3] = Rotation.from_euler("xyz", [3, 2, -6], degrees=True).as_matrix()
    anat[:3, 3] = (4.0, -3.0, 2.0)
    target_affine = np.diag([4.0, 4.0, 4.0, 1.0])
    target_affine[:3, 3] = (-30, -34, -28)
    shape = (16, 18, 15)
    points = grid_points(shape, target_affine)
    field = np.stack(
        [2 * np.sin(points[1] / 15), np.cos(points[2] / 12), 1.5 * np.sin(points[0] / 14)], axis=-1
    ).astype(np.float32)
    linear = np.diag([1.1, 0.95, 1.05, 1.0])
    to_anat = write_itk_affine(anat, study["dir"] / "boldref2anat.txt")
    to_std = write_itk_composite(
        [DisplacementField(field, target_affine), linear], study["dir"] / "anat2std.h5"
    )
    save_nifti(np.ones(shape, np.float32), target_affine, study["dir"] / "std.nii.gz")
    found, _ = run(study, transforms=[to_anat, to_std], reference=study["dir"] / "std.nii.gz")
    # The object in template space: template point -> anatomy point -> reference point.
    at = linear @ np.vstack([(points + np.moveaxis(field, -1, 0)).reshape(3, -1), np.ones(4320)])
    truth = scene((anat @ at)[:3]).reshape(shape)
    covered = (np.abs(found) > 0).all(axis=-1)
    assert covered.mean() > 0.6
    for t in range(4):
        assert np.abs(found[..., t] - truth)[covered].mean() < 1.5


@pytest.mark.parametrize("direction", ["j", "j-", "i"])
def test_distortion_is_taken_away(study: dict[str, Path], direction: str) -> None:
    axis, sign = phase_encoding_axis(direction)
    index = np.indices(SHAPE).astype(float)
    hertz = (40 * np.exp(-(((index[0] - 14) / 5) ** 2) - ((index[1] - 15) / 6) ** 2)).astype(
        np.float32
    )
    readout = 0.05
    # Signal of an undistorted voxel x lies at y = x + shift(x): invert by iteration.
    shift = sign * readout * hertz
    source = index.copy()
    from scipy import ndimage

    for _ in range(30):
        source[axis] = index[axis] - ndimage.map_coordinates(
            shift, source, order=3, mode="nearest"
        )
    at = (AFFINE[:3, :3] @ source.reshape(3, -1) + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    squeeze = np.gradient(source[axis], axis=axis)
    distorted = scene(at) * squeeze
    save_series([distorted, distorted], study["bold"])
    write_motion_xfms(np.tile(np.eye(4), (2, 1, 1)), study["xfms"])
    save_nifti(hertz, AFFINE, study["dir"] / "fmap.nii.gz")
    truth = scene(grid_points(SHAPE, AFFINE))
    inner = interior(SHAPE)
    options = {
        "fieldmap": study["dir"] / "fmap.nii.gz",
        "phase_encoding": direction,
        "readout_time": readout,
    }
    raw, _ = run(study)
    right, _ = run(study, **options)
    wrong, _ = run(
        study, **{**options, "phase_encoding": direction.rstrip("-") + "-" * (sign > 0)}
    )
    flat, _ = run(study, jacobian=False, **options)
    errors = [np.abs(x[..., 0] - truth)[inner].mean() for x in (right, flat, raw, wrong)]
    assert errors[0] < 0.2 * errors[2] < errors[2] < errors[3]
    assert errors[0] < 0.5 * errors[1]


def test_threads_and_order_change_nothing(study: dict[str, Path]) -> None:
    run(study, n_procs=1)
    one = (study["dir"] / "out" / "bold.nii.gz").read_bytes()
    run(study, n_procs=3)
    assert (study["dir"] / "out" / "bold.nii.gz").read_bytes() == one


def test_slices_are_shifted_before_they_are_moved(study: dict[str, Path]) -> None:
    times = [2.0 * (k % 2) / 2 for k in range(SHAPE[2])]
    base = scene(grid_points(SHAPE, AFFINE))
    factor = [
        np.array([1 + 0.1 * np.sin(2 * np.pi * 0.05 * (2.0 * t + s)) for s in times])
        for t in range(30)
    ]
    save_series([base * f for f in factor], study["bold"])
    write_motion_xfms(np.tile(np.eye(4), (30, 1, 1)), study["xfms"])
    found, _ = run(study, slice_timing=times, slice_time_ref=0.0)
    course = (found / np.maximum(base, 1)[..., None])[interior(SHAPE)].mean(axis=(0, 1))
    truth = 1 + 0.1 * np.sin(2 * np.pi * 0.05 * 2.0 * np.arange(30))
    assert np.abs(course[:, 6:-6] - truth[6:-6]).max() < 2e-3
    with pytest.raises(InputError, match="22 slices"):
        run(study, slice_timing=times[:-1])


def test_echoes_are_combined(study: dict[str, Path]) -> None:
    base = scene(grid_points(SHAPE, AFFINE))
    times = [0.012, 0.03, 0.05]
    files = [
        save_series([base * np.exp(-te / 0.04)] * 2, study["dir"] / f"echo{n}.nii.gz")
        for n, te in enumerate(times)
    ]
    write_motion_xfms(np.tile(np.eye(4), (2, 1, 1)), study["xfms"])
    save_nifti(np.where(base > 1, 0.04, 0.05), AFFINE, study["dir"] / "t2star.nii.gz")
    found, _ = run(study, in_file=files, echo_times=times, t2star=study["dir"] / "t2star.nii.gz")
    decay = np.exp(-np.array(times) / 0.04)
    weights = np.array(times) * decay
    truth = base * (weights @ decay) / weights.sum()
    np.testing.assert_allclose(found[..., 1], truth, atol=2)
    with pytest.raises(InputError, match="T2"):
        run(study, in_file=files, echo_times=times)
    short = save_series([base] * 3, study["dir"] / "short.nii.gz")
    with pytest.raises(GeometryError, match="echoes of a run"):
        run(
            study,
            in_file=[files[0], short],
            echo_times=times[:2],
            t2star=study["dir"] / "t2star.nii.gz",
        )


def test_voxels_beyond_the_edge_are_zero_and_the_outer_ones_stay() -> None:
    data = np.full(SHAPE, 100, dtype=np.float32)
    where = static_map((SHAPE, AFFINE), (SHAPE, AFFINE))
    move = np.eye(4)
    move[2, 3] = 0.4
    np.testing.assert_allclose(resample_volume(data, where, move), 100, rtol=1e-5)
    move[2, 3] = 0.6
    found = where.fill(resample_volume(data, where, move))
    assert not found[..., -1].any()
    np.testing.assert_allclose(found[..., :-1], 100, rtol=1e-5)


def test_what_does_not_fit_is_refused(study: dict[str, Path]) -> None:
    away = np.eye(4)
    away[:3, 3] = 500
    xfm = write_itk_affine(away, study["dir"] / "away.txt")
    with pytest.raises(GeometryError, match="do not overlap"):
        run(study, transforms=[xfm])
    write_motion_xfms(motions(3), study["xfms"])
    with pytest.raises(InputError, match="3 volumes"):
        run(study)
    with pytest.raises(InputError, match="must be i, j or k"):
        phase_encoding_axis("x")
    with pytest.raises(InputError, match="between 0 and 1 s"):
        distortion_from_field(np.zeros(SHAPE, np.float32), "j", 35.0)


def test_series_header(study: dict[str, Path]) -> None:
    run(study)
    header = open_series(study["dir"] / "out" / "bold.nii.gz").header
    assert (header["pixdim"][4], header.get_xyzt_units()) == (2.0, ("mm", "sec"))


@pytest.mark.parametrize("code", [1, 4])
def test_sform_code_is_that_of_the_target_space(study: dict[str, Path], code: int) -> None:
    """Series and mean in a template's space say so, as their brain mask does."""
    header = nb.Nifti1Header()
    header["sform_code"] = code
    reference = study["dir"] / "std.nii.gz"
    save_nifti(np.ones(SHAPE, np.float32), AFFINE, reference, header=header)
    run(study, reference=reference)
    for name in ("bold", "boldref"):
        found = nb.load(study["dir"] / "out" / f"{name}.nii.gz").header
        assert (int(found["sform_code"]), int(found["qform_code"])) == (code, code)


@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_volumes_without_an_image_do_not_reach_their_neighbours(
    study: dict[str, Path], value: float
) -> None:
    times = [2.0 * (k % 2) / 2 for k in range(SHAPE[2])]
    base = scene(grid_points(SHAPE, AFFINE))
    factor = [
        np.array([1 + 0.05 * np.sin(2 * np.pi * 0.02 * (2.0 * t + s)) for s in times])
        for t in range(24)
    ]
    volumes = [base * f for f in factor]
    empty = [7, 12, 13, 20, 21, 22, 23]
    write_motion_xfms(np.tile(np.eye(4), (24, 1, 1)), study["xfms"])
    save_series(volumes, study["bold"])
    timing = {"slice_timing": times, "slice_time_ref": 0.0}
    truth, _ = run(study, **timing)
    for t in empty:
        volumes[t] = volumes[t] * value
    save_series(volumes, study["bold"])
    spoilt, _ = run(study, **timing)
    found, image = run(study, **timing, unusable=empty)
    sound = [t for t in range(24) if t not in empty]
    inner = interior(SHAPE)
    assert np.abs(spoilt - truth)[inner][..., sound].max() > 100
    assert np.abs(found - truth)[inner][..., sound].max() < 12
    assert not found[..., empty].any()
    mean = nb.load(study["dir"] / "out" / "boldref.nii.gz").get_fdata()
    np.testing.assert_allclose(mean, found[..., sound].mean(axis=-1), atol=0.1)
    # a volume of another scale costs the others no digits
    assert image.dataobj.slope < 0.1
