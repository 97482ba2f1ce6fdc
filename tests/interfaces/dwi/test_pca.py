"""Local PCA denoising, against known noise and signals."""

import numpy as np
import pytest

from neuroferry.interfaces.dwi.pca import (
    filter_patches,
    noise_map,
    noise_variance,
    place_patches,
    remove_noise,
)

SIGMA = 20.0


def run_of(shape, count, rng):
    """Make a smooth run of three kinds of tissue, signals of 100 to 1000."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    i, j, k = grids
    decay = rng.uniform(0.3, 1.0, size=(3, count))
    parts = np.stack([1 + 0.3 * i, np.exp(-4 * j**2), 0.5 + 0.5 * np.tanh(4 * (k - i))])
    return 400 * np.einsum("pijk,pt->ijkt", parts, decay)


def with_noise(clean, sigma, rng):
    noise = rng.normal(size=(2, *clean.shape)) * np.asarray(sigma)
    return np.hypot(clean + noise[0], noise[1]).astype(np.float32)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize(("rows", "columns"), [(125, 7), (124, 17), (27, 17), (26, 65), (125, 65)])
@pytest.mark.parametrize("signals", [0, 3])
def test_the_variance_of_noise_is_told_whatever_lies_over_it(rows, columns, signals):
    rng = np.random.default_rng(rows + columns)
    noise = rng.normal(scale=SIGMA, size=(300, rows, columns))
    parts = rng.normal(size=(300, rows, signals)) @ rng.normal(size=(300, signals, columns))
    values = noise + 5 * SIGMA * parts
    turned = values.transpose(0, 2, 1)
    gram = turned @ values if columns <= rows else values @ turned
    found = noise_variance(np.linalg.eigvalsh(gram)[:, ::-1], np.full(300, rows), columns)
    assert np.sqrt(found.mean()) == pytest.approx(SIGMA, rel=0.01)
    assert np.sqrt(found).std() < 0.06 * SIGMA


def test_a_patch_without_anything_has_no_noise():
    assert noise_variance(np.zeros((2, 5)), np.array([0, 4]), 9).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(9, 8, 7), (3, 3, 3), (12, 11, 2), (5, 1, 4)])
@pytest.mark.parametrize("centred", [False, True])
def test_patches_cover_every_voxel(shape, centred):
    patches = place_patches(shape, 3, 2, centred=centred)
    covered = np.zeros((shape[0], shape[1] * shape[2]), int)
    for plane, firsts in patches.layers:
        for above, offset in patches.offsets:
            covered[plane + above, firsts + offset] += 1
    assert covered.min() >= 1
    planes = [plane for plane, _ in patches.layers]
    assert planes == sorted(planes)


def test_components_beyond_the_edge_stay_and_the_others_go():
    rng = np.random.default_rng(4)
    noise = rng.normal(scale=SIGMA, size=(50, 27, 17))
    signal = 500 + 100 * rng.normal(size=(50, 27, 1)) * rng.normal(size=(50, 1, 17))
    made, weight = filter_patches((signal + noise).astype(np.float32), np.full(50, SIGMA))
    assert np.median(weight) == pytest.approx(1 / 3)
    # one component and the mean: (27 + 17 - 1 + 17) of 459 degrees of freedom
    assert rms(made - signal) == pytest.approx(SIGMA * np.sqrt(59 / 459), rel=0.08)
    for number in (0, 7):
        alone, _ = filter_patches(
            (signal + noise)[number : number + 1].astype(np.float32), np.array([SIGMA])
        )
        np.testing.assert_allclose(alone[0], made[number], rtol=1e-5)


def test_air_becomes_flat_and_its_noise_is_told():
    rng = np.random.default_rng(5)
    data = with_noise(np.zeros((16, 16, 16, 12)), SIGMA, rng)
    before = data.copy()
    sigma = remove_noise(data)
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.1)
    np.testing.assert_allclose(data.mean(axis=(0, 1, 2)), before.mean(axis=(0, 1, 2)), rtol=0.02)
    assert data.std() < 0.25 * before.std()


@pytest.mark.parametrize("count", [7, 17, 40])
def test_noise_goes_and_nothing_else(count):
    rng = np.random.default_rng(count)
    clean = run_of((18, 20, 15), count, rng)
    noisy = with_noise(clean, SIGMA, rng)
    made = noisy.copy()
    sigma = remove_noise(made)
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.03)
    assert rms(made - clean) < 0.6 * rms(noisy - clean)
    taken = noisy - made
    detail = clean - clean.mean(axis=(0, 1, 2))
    assert abs(np.corrcoef(taken.ravel(), detail.ravel())[0, 1]) < 0.02
    again = noisy.copy()
    np.testing.assert_array_equal(remove_noise(again, n_threads=3), sigma)
    np.testing.assert_array_equal(again, made)


def test_noise_that_differs_from_place_to_place():
    rng = np.random.default_rng(6)
    shape = (24, 22, 20)
    clean = run_of(shape, 17, rng)
    true = 10 + 30 * np.linspace(0, 1, shape[0])[:, None, None] * np.ones(shape)
    noisy = with_noise(clean, true[..., None], rng)
    made = noisy.copy()
    sigma = remove_noise(made)
    assert rms(sigma / true - 1) < 0.08
    for half in (slice(0, 12), slice(12, 24)):
        assert rms((made - clean)[half]) < 0.6 * rms((noisy - clean)[half])


def test_a_run_without_noise_stays_as_it_is():
    clean = run_of((10, 9, 8), 12, np.random.default_rng(7)).astype(np.float32)
    for data in (
        clean,
        np.full((8, 8, 8, 9), 100, np.float32),
        np.zeros((8, 8, 8, 9), np.float32),
    ):
        made = data.copy()
        sigma = remove_noise(made)
        np.testing.assert_allclose(made, data, rtol=1e-4)
        assert sigma.max() < 0.01


@pytest.mark.parametrize("shape", [(16, 14, 2), (8, 8, 3), (4, 5, 6)])
def test_thin_and_small_grids(shape):
    rng = np.random.default_rng(8)
    clean = np.broadcast_to(rng.uniform(300, 900, size=9), (*shape, 9))
    noisy = with_noise(clean, SIGMA, rng)
    made = noisy.copy()
    sigma = remove_noise(made)
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.1)
    assert rms(made - clean) < 0.5 * rms(noisy - clean)


def test_a_stripped_brain_keeps_its_edge():
    rng = np.random.default_rng(9)
    clean = run_of((20, 20, 20), 17, rng)
    axis = np.linspace(-1, 1, 20)
    ball = np.sqrt(sum(np.square(g) for g in np.meshgrid(axis, axis, axis))) < 0.8
    noisy = with_noise(clean, SIGMA, rng) * ball[..., None].astype(np.float32)
    noisy[0, 0, 0] = 700  # an isolated voxel has no neighbours to learn from
    made = noisy.copy()
    sigma = remove_noise(made)
    assert not made[~ball][1:].any()
    assert not sigma[~ball][1:].any()
    np.testing.assert_allclose(made[0, 0, 0], 700, rtol=1e-4)
    inner = np.sqrt(sum(np.square(g) for g in np.meshgrid(axis, axis, axis))) < 0.6
    shell = ball & ~inner
    assert np.median(sigma[shell]) == pytest.approx(SIGMA, rel=0.05)
    assert rms((made - clean)[shell]) < 0.7 * rms((noisy - clean)[shell])


def test_a_map_has_no_steps_between_its_patches():
    rng = np.random.default_rng(10)
    clean = run_of((20, 16, 14), 17, rng)
    planes = with_noise(clean, SIGMA, rng).reshape(20, -1, 17)
    level = noise_map(planes, (20, 16, 14))
    assert np.abs(np.diff(level, axis=0)).max() < 0.05 * SIGMA
