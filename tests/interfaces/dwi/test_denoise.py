"""Removal of noise, ringing and the noise floor from DWI runs, against known truth."""

import hashlib
import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError, ToolError
from neuroferry.interfaces.dwi.denoise import (
    CorrectRician,
    DenoiseDwi,
    UnringDwi,
    unring,
)
from neuroferry.interfaces.dwi.rician import magnitude_mean
from neuroferry.interfaces.image.series import open_series

needs_mrtrix = pytest.mark.skipif(
    shutil.which("mrdegibbs") is None, reason="MRtrix3 is not installed"
)
SHAPE = (20, 18, 12)
SIGMA = 25.0
TR = 3.5
RADIOLOGICAL = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -20], [0, 0, 2.5, -9], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, 2.5, -9], [2.0, 0, 0, -20], [0, -2, 0, 20], [0, 0, 0, 1.0]])


def save(path, data, affine=RADIOLOGICAL):
    image = nb.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
    image.header["pixdim"][4] = 3500  # of another unit: steps are told the repetition time
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return str(path)


def clean_run(count=16):
    """Make smooth signals of two tissues, shape (*SHAPE, count)."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    rng = np.random.default_rng(3)
    decay = rng.uniform(0.3, 1.0, size=(3, count))
    parts = np.stack([1 + 0.3 * i, np.exp(-4 * j**2), 0.5 + 0.5 * np.tanh(4 * (k - i))])
    return 500 * np.einsum("pijk,pt->ijkt", parts, decay)


def noisy_run(count=16):
    noise = np.random.default_rng(5).normal(scale=SIGMA, size=(2, *SHAPE, count))
    return np.hypot(clean_run(count) + noise[0], noise[1])


def digest(path):
    return hashlib.sha1(Path(path).read_bytes()).hexdigest()


def test_noise_goes_and_its_level_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "dwi.nii.gz", noisy_run())
    result = DenoiseDwi(in_file=path, tr=TR).run().outputs
    series = open_series(result.out_file)
    assert series.shape == (*SHAPE, 16)
    assert (series.header["pixdim"][4], series.header.get_xyzt_units()) == (TR, ("mm", "sec"))
    np.testing.assert_allclose(series.affine, RADIOLOGICAL)
    made = np.stack(list(series.volumes()), axis=-1)
    before = np.sqrt(np.mean((noisy_run() - clean_run()) ** 2))
    assert np.sqrt(np.mean((made - clean_run()) ** 2)) < 0.5 * before
    level = nb.load(result.noise_map)
    assert level.shape == SHAPE
    assert np.median(level.get_fdata()) == pytest.approx(SIGMA, rel=0.03)
    assert result.note == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("denoised.nii.gz", "dwi.nii.gz", "noise.nii.gz")
    ]


@needs_mrtrix
def test_neither_threads_nor_orientation_change_a_value(tmp_path, monkeypatch):
    data = noisy_run(8)
    made, values = {}, {}
    for name, affine, threads in (
        ("a", RADIOLOGICAL, 1),
        ("b", RADIOLOGICAL, 2),
        ("c", SAGITTAL, 1),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        path = save(tmp_path / f"{name}.nii", data, affine)
        first = DenoiseDwi(in_file=path, tr=TR, n_procs=threads).run().outputs
        second = UnringDwi(in_file=first.out_file, tr=TR, n_procs=threads).run().outputs
        made[name] = (digest(first.out_file), digest(first.noise_map), digest(second.out_file))
        values[name] = np.asarray(nb.load(second.out_file).dataobj)
        np.testing.assert_allclose(nb.load(second.out_file).affine, affine)
    assert made["a"] == made["b"]
    np.testing.assert_array_equal(values["a"], values["c"])


def test_a_short_run_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "dwi.nii", noisy_run(6))
    result = DenoiseDwi(in_file=path, tr=TR).run().outputs
    assert result.out_file == path
    assert "6 volumes" in result.note
    assert not np.any(nb.load(result.noise_map).get_fdata())
    same = CorrectRician(in_file=result.out_file, noise_map=result.noise_map, tr=TR).run().outputs
    assert same.out_file == path


def test_empty_air_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = noisy_run(8)
    data[:9] = 0
    result = DenoiseDwi(in_file=save(tmp_path / "dwi.nii", data), tr=TR).run().outputs
    made = np.asarray(nb.load(result.out_file).dataobj)
    assert np.isfinite(made).all()
    assert np.isfinite(nb.load(result.noise_map).get_fdata()).all()
    assert not made[:9].any()
    assert not nb.load(result.noise_map).get_fdata()[:9].any()


def ringing(slice_axis):
    """Make a cylinder along the slices with truncated high frequencies; return its interior."""
    fine, coarse, factor = 144, 36, 4
    x, y = np.meshgrid(*2 * [np.arange(fine) / factor - coarse / 2], indexing="ij")
    disc = np.where(np.hypot(x, y) < 12.3, 500.0, 50.0)
    kept = slice((fine - coarse) // 2, (fine + coarse) // 2)
    spectrum = np.fft.fftshift(np.fft.fft2(disc))[kept, kept]
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum))) / factor**2
    flat = np.hypot(*np.meshgrid(*2 * [np.arange(coarse) - coarse / 2], indexing="ij")) < 9
    image, flat = (np.stack([plane] * 9, axis=-1) for plane in (image, flat))
    image, flat = (np.moveaxis(volume, -1, slice_axis) for volume in (image, flat))
    return np.repeat(image[..., None], 2, axis=-1), flat


@needs_mrtrix
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_ringing_goes_along_the_axes_of_a_slice(tmp_path, slice_axis):
    data, flat = ringing(slice_axis)
    before = data[flat].std()
    series = open_series(save(tmp_path / "dwi.nii", data))
    for other in range(3):
        made = nb.load(unring(series, {0, 1, 2} - {other}, tmp_path, TR)).get_fdata()
        assert (made[flat].std() < 0.5 * before) == (other == slice_axis)
        assert made[flat].mean() == pytest.approx(500, rel=0.01)


def test_a_slice_has_two_axes(tmp_path):
    series = open_series(save(tmp_path / "dwi.nii", noisy_run(2)))
    for axes in ([0], [1, 1], [0, 1, 2]):
        with pytest.raises(InputError, match="has two of the axes"):
            unring(series, axes, tmp_path, TR)


def test_a_program_that_is_missing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "dwi.nii", noisy_run(8))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="--ignore unringing"):
        UnringDwi(in_file=path, tr=TR).run()
    assert [p.name for p in tmp_path.iterdir()] == ["dwi.nii"]


@pytest.mark.parametrize("count", [7, 40])
def test_the_kind_of_numbers_in_the_file_changes_nothing(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    whole = np.rint(noisy_run(count)[:9, :9, :8])
    found = []
    for kind, slope in ((np.int16, 1), (np.int16, 0.5), (np.float32, 1), (np.float64, 1)):
        image = nb.Nifti1Image(whole.astype(kind), RADIOLOGICAL)
        image.header.set_slope_inter(slope, 0)
        image.to_filename("dwi.nii")
        found.append(
            nb.load(DenoiseDwi(in_file="dwi.nii", tr=TR).run().outputs.out_file).get_fdata()
        )
    for other in found[1:]:
        scale = 0.5 if other is found[1] else 1.0
        np.testing.assert_allclose(other, scale * found[0], atol=0.1)


def test_what_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad in (np.nan, np.inf):
        data = noisy_run(8)
        data[3, 3, 3, 2] = bad
        with pytest.raises(InputError, match="NaN or infinite values in volume 2"):
            DenoiseDwi(in_file=save("dwi.nii", data), tr=TR).run()
    with pytest.raises(InputError, match="no signal"):
        DenoiseDwi(in_file=save("dwi.nii", np.zeros((*SHAPE, 8))), tr=TR).run()
    assert [p.name for p in tmp_path.iterdir()] == ["dwi.nii"]


def test_the_step_takes_the_floor_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    true = np.broadcast_to(np.linspace(0, 900, 8), (*SHAPE, 8))
    sigma = np.full(SHAPE, SIGMA, np.float32)
    sigma[0] = 0
    data = np.where(sigma[..., None] > 0, SIGMA * magnitude_mean(true / SIGMA), true)
    files = {"in_file": save("dwi.nii", data), "noise_map": save("noise.nii", sigma), "tr": TR}
    made = nb.load(CorrectRician(**files).run().outputs.out_file)
    np.testing.assert_allclose(made.get_fdata()[1:], true[1:], atol=0.1)
    np.testing.assert_allclose(made.get_fdata()[0], true[0], atol=0.05)
    with pytest.raises(GeometryError, match="a different grid"):
        CorrectRician(**{**files, "noise_map": save("x.nii", sigma, SAGITTAL)}).run()
