"""Reading and writing of series one volume at a time."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.image.series import (
    SeriesWriter,
    open_series,
    temporal_mean_std,
)

SHAPE = (9, 10, 8, 7)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).normal(1000, 50, SHAPE).astype(np.float32)


def write(values: np.ndarray, path: Path, dtype: type = np.int16, unit: str = "sec") -> Path:
    image = nb.Nifti1Image(values, np.diag([3.0, 3.0, 4.0, 1.0]))
    image.set_data_dtype(dtype)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = {"sec": 2.5, "msec": 2500, "usec": 2.5e6}[unit]
    nb.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_values_are_those_of_nibabel(
    tmp_path: Path, values: np.ndarray, name: str, dtype: type
) -> None:
    path = write(values, tmp_path / name, dtype)
    truth = np.asarray(nb.load(path).dataobj, dtype=np.float32)
    series = open_series(path)
    assert series.shape == SHAPE
    np.testing.assert_allclose(series.zooms, [3, 3, 4])
    found = np.stack(list(series.volumes()), axis=-1)
    np.testing.assert_allclose(found, truth, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_single_volumes_in_any_order(tmp_path: Path, values: np.ndarray, name: str) -> None:
    series = open_series(write(values, tmp_path / name, np.float32))
    for index in (2, 3, 6, 0, -1, 2):
        np.testing.assert_array_equal(series.volume(index), values[..., index])
    part = list(series.volumes(2, 5))
    np.testing.assert_array_equal(np.stack(part, axis=-1), values[..., 2:5])
    series.close()


def test_truncated_files_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = write(values, tmp_path / "a.nii", np.float32)
    raw = path.read_bytes()
    path.write_bytes(raw[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_series(path)
    short = tmp_path / "b.nii.gz"
    short.write_bytes(gzip.compress(raw)[:-500])
    with pytest.raises(InputError, match="truncated"):
        list(open_series(short).volumes())
    ends = tmp_path / "c.nii.gz"
    ends.write_bytes(gzip.compress(raw[:-100]))
    with pytest.raises(InputError, match="volume 6 of 7"):
        open_series(ends).volume(6)


def test_a_damaged_compression_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    raw = write(values, tmp_path / "a.nii", np.float32).read_bytes()
    path = tmp_path / "damaged.nii.gz"
    # the second half begins with a kind of block that there is not
    half = len(raw) // 2
    path.write_bytes(gzip.compress(raw[:half]) + gzip.compress(b"")[:10] + b"\xff" * 50)
    with pytest.raises(InputError, match=r"damaged\.nii\.gz ends before volume"):
        list(open_series(path).volumes())


def test_what_is_no_series(tmp_path: Path, values: np.ndarray) -> None:
    single = write(values[..., 0], tmp_path / "single.nii.gz")
    with pytest.raises(InputError, match=r"1 volume\(s\)"):
        open_series(single)
    assert open_series(single, min_volumes=1).shape == (*SHAPE[:3], 1)
    five = write(values[..., None].repeat(2, axis=-1), tmp_path / "five.nii")
    with pytest.raises(GeometryError, match="four-dimensional"):
        open_series(five)
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    with pytest.raises(InputError, match="cannot be read"):
        open_series(text)
    values[3, 3, 3, 4] = np.nan
    series = open_series(write(values, tmp_path / "nan.nii", np.float32))
    with pytest.raises(InputError, match="volume 4"):
        list(series.volumes())


def test_writer_round_trip(tmp_path: Path, values: np.ndarray) -> None:
    affine = np.diag([-3.0, 3.0, 4.0, 1.0])
    ceiling = float(np.abs(values).max())

    def save(path: Path) -> SeriesWriter:
        with SeriesWriter(path, SHAPE[:3], affine, 1.5, SHAPE[3], ceiling=ceiling) as writer:
            for index in range(SHAPE[3]):
                writer.add(values[..., index])
        return writer

    writer = save(tmp_path / "a.nii.gz")
    image = nb.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header.get_zooms()[3] == pytest.approx(1.5)
    np.testing.assert_allclose(image.affine, affine)
    np.testing.assert_allclose(image.get_fdata(), values, atol=ceiling / 32767 * 0.51)
    assert writer.n_clipped == 0
    save(tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_writer_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with (
        pytest.raises(ValueError, match="1 of 2"),
        SeriesWriter(path, (8, 8, 8), np.eye(4), 1.0, 2, ceiling=1.0) as writer,
    ):
        writer.add(np.full((8, 8, 8), 3.0))
    assert writer.n_clipped == 512
    with (
        pytest.raises(KeyboardInterrupt),
        SeriesWriter(path, (8, 8, 8), np.eye(4), 1.0, 1, ceiling=1.0),
    ):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_statistics_over_time(tmp_path: Path, values: np.ndarray) -> None:
    series = open_series(write(values, tmp_path / "a.nii.gz", np.float32))
    mean, std = temporal_mean_std(series, 2)
    np.testing.assert_allclose(mean, values[..., 2:].mean(-1), rtol=1e-5)
    np.testing.assert_allclose(std, values[..., 2:].std(-1), rtol=1e-3)
    mask = values[..., 0] > 1000
    masked, _ = temporal_mean_std(series, 2, mask)
    np.testing.assert_array_equal(masked, np.where(mask, mean, 0))
