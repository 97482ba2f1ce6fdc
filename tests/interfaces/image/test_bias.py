import numpy as np
import pytest
from scipy import ndimage

from neuroferry.errors import InputError
from neuroferry.interfaces.image.bias import (
    HEAD_N4,
    CorrectBias,
    N4Settings,
    bspline_basis,
    estimate_bias,
    fit_bspline,
    foreground,
    sharpen,
)
from neuroferry.interfaces.image.images import Volume, load_volume, save_nifti

QUICK = N4Settings(zoom=4.0, iterations=(40, 40, 40), spline_mm=100.0)
SHAPE = (48, 50, 46)
ZOOM = 3.0


@pytest.fixture(scope="module")
def scene():
    """Simulate blobs of three tissues under a smooth field, inside a ball."""
    rng = np.random.default_rng(3)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    low, high = np.quantile(texture, (0.3, 0.65))
    truth = np.select([texture < low, texture < high], [30.0, 60.0], 100.0)
    index = (np.indices(SHAPE).T - np.array(SHAPE) / 2).T / (np.array(SHAPE) / 2).reshape(
        3, 1, 1, 1
    )
    mask = (index**2).sum(axis=0) < 0.8
    field = np.exp(0.25 * index[0] - 0.2 * index[1] * index[2] + 0.15 * index[2] ** 2)
    field /= np.exp(np.log(field)[mask].mean())
    noisy = truth * field + rng.normal(0, 1.5, SHAPE)
    data = np.where(mask, noisy, 0).astype(np.float32)
    return Volume(data, np.diag([ZOOM, ZOOM, ZOOM, 1.0])), mask, field


def test_basis_reproduces_lines():
    basis = bspline_basis(30, 5)
    knots = np.arange(-1, 7)  # coefficients of the line itself
    np.testing.assert_allclose(basis @ knots, np.linspace(0, 5, 30), atol=1e-12)


def test_fit_adds_up_as_the_published_sum():
    shape = (4, 3, 5)
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=shape), rng.uniform(0.1, 1, shape)
    basis = (bspline_basis(4, 1), bspline_basis(3, 1), bspline_basis(5, 1))
    fitted = fit_bspline(values, weights, basis)
    above, below = np.zeros_like(fitted), np.zeros_like(fitted)
    for place in np.ndindex(shape):
        w = np.einsum("a,b,c->abc", *(b[p] for b, p in zip(basis, place, strict=True)))
        above += weights[place] * w**2 * (w * values[place] / np.sum(w**2))
        below += weights[place] * w**2
    np.testing.assert_allclose(fitted, above / below, rtol=1e-9)


def test_sharpening_narrows_a_blurred_histogram():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(4.0, 0.08, 4000), rng.normal(4.6, 0.08, 4000)])
    sharp = sharpen(values, np.ones(values.size), N4Settings())
    low, high = sharp[:4000], sharp[4000:]
    assert low.std() < 0.7 * values[:4000].std()
    assert abs(low.mean() - 4.0) < 0.03
    assert abs(high.mean() - 4.6) < 0.03


def test_a_known_field_is_found(scene):
    volume, mask, field = scene
    found = estimate_bias(volume, mask, QUICK)
    before = np.std(np.log(field[mask]))
    after = np.std(np.log(found[mask] / field[mask]))
    assert before > 0.1
    assert after < 0.3 * before


def test_scale_is_fixed_and_bytes_repeat(scene):
    volume, mask, _ = scene
    found = estimate_bias(volume, mask, HEAD_N4)
    assert np.log(found)[mask].mean() == pytest.approx(0.0, abs=1e-4)
    brighter = estimate_bias(volume.with_data(volume.data * 7), mask, HEAD_N4)
    np.testing.assert_allclose(brighter, found, rtol=1e-3)
    np.testing.assert_array_equal(found, estimate_bias(volume, mask, HEAD_N4))


def test_field_stays_tame_outside_the_mask(scene):
    volume, mask, _ = scene
    found = estimate_bias(volume, mask, QUICK)
    assert found[~mask].min() > 0.8 * found[mask].min()
    assert found[~mask].max() < 1.25 * found[mask].max()


def test_nothing_positive_is_refused(scene):
    volume, mask, _ = scene
    with pytest.raises(InputError, match="positive"):
        estimate_bias(volume.with_data(-volume.data), mask, QUICK)


def test_foreground_is_the_object(scene):
    volume, mask, _ = scene
    found = foreground(volume.data + np.random.default_rng(0).uniform(0, 2, SHAPE).astype("f4"))
    assert np.mean(found == mask) > 0.99


def test_interface_divides_by_the_field(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volume, mask, _ = scene
    save_nifti(volume.data, volume.affine, tmp_path / "t1w.nii.gz")
    save_nifti(mask, volume.affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    found = (
        CorrectBias(
            in_file=str(tmp_path / "t1w.nii.gz"),
            in_mask=str(tmp_path / "mask.nii.gz"),
            sloppy=True,
        )
        .run()
        .outputs
    )
    field = load_volume(found.bias_field).data
    preproc = load_volume(found.out_file).data
    np.testing.assert_allclose(preproc * field, volume.data, atol=1e-2)
    assert (load_volume(found.out_brain).data[~mask] == 0).all()
