"""Diffusion tensors: against closed forms, with noise, in rotated frames, and against DIPY."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.dwi.gradients import Gradients, world_to_fsl, write_gradients
from neuroferry.interfaces.dwi.loglinear import CHUNK, fit_log_linear, over_voxels
from neuroferry.interfaces.dwi.tensor import (
    FitTensor,
    fit_tensor,
    fit_tensor_series,
    tensor_design,
    tensor_volumes,
)
from neuroferry.interfaces.dwi.tensor_maps import (
    ELEMENTS,
    compose_tensors,
    eigen_symmetric,
    tensor_maps,
)
from neuroferry.interfaces.image.series import open_series

SHAPE = (14, 12, 10)


def sphere(n):
    """Distribute directions over a hemisphere by a golden spiral."""
    z = (np.arange(n) + 0.5) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def scheme(*shells, b0s=2):
    """Make gradients of shells given as (b, directions)."""
    bvals = np.concatenate([np.zeros(b0s), *(np.full(n, float(b)) for b, n in shells)])
    bvecs = np.concatenate([np.zeros((b0s, 3)), *(sphere(n) for _, n in shells)])
    return Gradients(bvals, bvecs)


def rotations(rng, n):
    q, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
    return q


def random_tensors(rng, n, eigenvalues=None):
    """Draw tensors (6, V) of random directions; eigenvalues (V, 3), largest first, mm²/s."""
    if eigenvalues is None:
        eigenvalues = np.sort(rng.uniform(0.2e-3, 2.5e-3, (n, 3)))[:, ::-1]
    turn = rotations(rng, n)
    full = (turn * eigenvalues[:, None]) @ turn.transpose(0, 2, 1)
    return np.stack([full[:, i, j] for i, j in ELEMENTS]), eigenvalues, turn[:, :, 0]


def signal(tensors, gradients, s0=500.0):
    return s0 * np.exp(tensor_design(gradients)[:, 1:] @ (1e3 * tensors))


def rician(rng, clean, sigma):
    """Compute magnitudes of signals with complex noise."""
    real, imaginary = rng.normal(0, sigma, (2, *clean.shape))
    return np.hypot(clean + real, imaginary)


# --- eigenvalues and maps --------------------------------------------------------------


def test_eigenvalues_are_lapacks_also_where_they_are_equal():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 3))
    values[:100, 1] = values[:100, 0]
    values[100:150] = 1.0
    values[150:160] = 0.0
    turn = rotations(rng, 400)
    full = (turn * values[:, None]) @ turn.transpose(0, 2, 1)
    full[160:200] *= 1e-9
    stored = np.stack([full[:, i, j] for i, j in ELEMENTS])
    found, vectors = eigen_symmetric(stored)
    expected = np.linalg.eigvalsh(full)[:, ::-1].T
    scale = np.abs(expected).max(axis=0) + 1e-300
    assert (np.abs(found - expected) / scale).max() < 1e-14
    residual = np.einsum("vij,jnv->inv", full, vectors) - vectors * found
    assert (np.abs(residual) / scale).max() < 1e-14
    np.testing.assert_allclose(compose_tensors(found, vectors), stored, atol=1e-14)


def test_maps_of_known_tensors():
    tensors, values, first = random_tensors(np.random.default_rng(2), 300)
    maps = tensor_maps(tensors)
    np.testing.assert_allclose(maps.eigenvalues.T, values, rtol=1e-10)
    np.testing.assert_allclose(maps.md, values.mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(maps.ad, values[:, 0], rtol=1e-10)
    np.testing.assert_allclose(maps.rd, values[:, 1:].mean(axis=1), rtol=1e-10)
    spread = np.sqrt(1.5 * ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    fa = spread / np.linalg.norm(values, axis=1)
    np.testing.assert_allclose(maps.fa, fa, rtol=1e-8)
    np.testing.assert_allclose(maps.color_fa, np.abs(first).T * fa, atol=1e-6)
    assert not maps.clipped.any()


def test_negative_eigenvalues_become_zero_and_nothing_else_changes():
    rng = np.random.default_rng(3)
    values = np.array([[2e-3, 1e-3, -4e-4], [2e-3, 1e-3, 4e-4], [-1e-4, -2e-4, -3e-4]])
    tensors, _, first = random_tensors(rng, 3, values)
    maps = tensor_maps(tensors)
    assert maps.clipped.tolist() == [True, False, True]
    np.testing.assert_allclose(maps.eigenvalues.T, np.maximum(values, 0), atol=1e-15)
    np.testing.assert_array_equal(maps.tensors[:, 1], tensors[:, 1])
    again, vectors = eigen_symmetric(maps.tensors)
    np.testing.assert_allclose(again.T, np.maximum(values, 0), atol=1e-15)
    np.testing.assert_allclose(np.abs(vectors[:, 0, 0] @ first[0]), 1, atol=1e-12)
    assert maps.fa[2] == 0
    assert np.isfinite(maps.fa).all()


# --- the fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradients",
    [scheme((1000, 6), b0s=1), scheme((700, 20), (1400, 30)), scheme((500, 7), (1500, 7), b0s=0)],
    ids=["six directions", "two shells", "no b0"],
)
def test_without_noise_the_tensor_is_exact(gradients):
    rng = np.random.default_rng(4)
    tensors, _, _ = random_tensors(rng, 500)
    s0 = rng.uniform(1, 4000, 500)
    fit = fit_tensor(signal(tensors, gradients, s0), gradients)
    np.testing.assert_allclose(fit.tensors, tensors, atol=1e-12)
    np.testing.assert_allclose(fit.s0, s0, rtol=1e-8)
    assert fit.fitted.all()
    assert fit.complete.all()


def test_tensors_turn_with_the_gradients():
    rng = np.random.default_rng(5)
    gradients = scheme((1000, 12))
    tensors, _, _ = random_tensors(rng, 50)
    turn = rotations(rng, 1)[0]
    turned = Gradients(gradients.bvals, gradients.bvecs @ turn.T)
    fit = fit_tensor(signal(tensors, gradients), turned)
    values, vectors = eigen_symmetric(tensors)
    expected = compose_tensors(values, np.einsum("ij,jnv->inv", turn, vectors))
    np.testing.assert_allclose(fit.tensors, expected, atol=1e-12)


def test_noise_leaves_fa_and_md_unbiased_and_weights_help():
    rng = np.random.default_rng(6)
    gradients = scheme((1000, 30), b0s=3)
    values = np.tile([1.7e-3, 0.3e-3, 0.3e-3], (4000, 1))
    tensors, _, first = random_tensors(rng, 4000, values)
    clean = signal(tensors, gradients, 100.0)
    noisy = rician(rng, clean, 100 / 30)
    errors = {}
    for rounds in (0, 2):
        fit = fit_tensor(noisy, gradients, n_iterations=rounds)
        errors[rounds] = np.abs(fit.tensors - tensors).mean()
    maps = tensor_maps(fit.tensors)
    true_fa = tensor_maps(tensors[:, :1]).fa[0]
    assert abs(maps.fa.mean() - true_fa) < 0.01
    assert np.abs(maps.fa - true_fa).mean() < 0.03
    assert abs(maps.md.mean() / 0.7667e-3 - 1) < 0.01
    angle = np.degrees(np.arccos(np.minimum(np.abs((maps.vectors[:, 0].T * first).sum(1)), 1)))
    assert np.median(angle) < 3
    assert errors[2] < 0.97 * errors[0]


def test_unusable_signals_are_left_out_one_by_one():
    rng = np.random.default_rng(7)
    gradients = scheme((1000, 12))
    tensors, _, _ = random_tensors(rng, 6)
    signals = signal(tensors, gradients)
    signals[3, 1], signals[4, 2], signals[5, 3] = 0.0, np.nan, -7.0
    signals[7:10, 3] = np.inf
    signals[7:, 4] = 0.0
    signals[:, 5] = np.nan
    fit = fit_tensor(signals, gradients)
    assert fit.fitted.tolist() == [True] * 4 + [False] * 2
    assert fit.complete.tolist() == [True] + [False] * 5
    np.testing.assert_allclose(fit.tensors[:, :4], tensors[:, :4], atol=1e-12)
    assert not fit.tensors[:, 4:].any()
    assert not fit.s0[4:].any()


def test_any_noise_gives_finite_maps():
    rng = np.random.default_rng(8)
    gradients = scheme((1000, 6), b0s=1)
    signals = 10.0 ** rng.uniform(-6, 5, (7, 3000))
    signals[rng.random(signals.shape) < 0.1] = 0.0
    fit = fit_tensor(signals, gradients)
    maps = tensor_maps(fit.tensors)
    for values in (fit.s0, maps.fa, maps.md, maps.tensors, maps.color_fa):
        assert np.isfinite(values).all()
    assert maps.fa.max() <= 1
    assert maps.clipped.any()


def test_results_do_not_depend_on_how_voxels_are_cut():
    rng = np.random.default_rng(9)
    gradients = scheme((1000, 15))
    tensors, _, _ = random_tensors(rng, 2 * CHUNK + 300)
    signals = signal(tensors, gradients) + rng.normal(0, 40, (17, tensors.shape[1]))
    design = tensor_design(gradients)
    whole = fit_log_linear(signals, design).coefficients
    for cut in (1, 77, CHUNK, CHUNK + 500):
        parts = [fit_log_linear(part, design) for part in (signals[:, :cut], signals[:, cut:])]
        again = np.hstack([part.coefficients for part in parts])
        np.testing.assert_array_equal(again, whole)


def test_beside_dipy():
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    rng = np.random.default_rng(10)
    gradients = scheme((1000, 30), b0s=3)
    tensors, _, _ = random_tensors(rng, 400)
    signals = rician(rng, signal(tensors, gradients, 300.0), 8.0)
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs)
    theirs = TensorModel(table, fit_method="WLS", return_S0_hat=True).fit(signals.T)
    once = fit_tensor(signals, gradients, n_iterations=1)
    i, j = np.array(ELEMENTS).T
    np.testing.assert_allclose(once.tensors, theirs.quadratic_form[:, i, j].T, atol=1e-8)
    np.testing.assert_allclose(once.s0, theirs.S0_hat, rtol=1e-6)
    twice = tensor_maps(fit_tensor(signals, gradients).tensors)
    assert np.median(np.abs(twice.fa - theirs.fa)) < 0.002
    assert np.median(np.abs(twice.md / theirs.md - 1)) < 0.002


# --- which volumes ---------------------------------------------------------------------


def test_high_shells_stay_out_unless_they_are_needed():
    gradients = scheme((1000, 10), (1510, 10), (3000, 40), b0s=2)
    assert tensor_volumes(gradients).tolist() == list(range(22))
    gradients = scheme((1000, 3), (2000, 10), (3000, 40), b0s=2)
    assert tensor_volumes(gradients).tolist() == list(range(15))
    gradients = scheme((3000, 40), b0s=1)
    assert tensor_volumes(gradients).size == 41


def test_too_few_directions_are_said_clearly():
    with pytest.raises(InputError, match=r"directions is 3, and a diffusion tensor needs 6"):
        tensor_volumes(scheme((1000, 3)))
    with pytest.raises(InputError, match="is 0"):
        tensor_volumes(scheme(b0s=4))
    turn = np.linspace(0, np.pi, 12, endpoint=False)
    flat = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    plane = Gradients(np.r_[0.0, np.full(12, 1000.0)], np.vstack([np.zeros(3), flat]))
    with pytest.raises(InputError, match="in a plane or on a cone"):
        tensor_volumes(plane)
    with pytest.raises(InputError, match="no volume without"):
        tensor_volumes(scheme((1000, 30), b0s=0))


# --- files -----------------------------------------------------------------------------


AFFINE = np.array([[-2.0, 0.3, 0, 9], [0.3, 1.9, -0.4, -12], [0, 0.4, 2.1, 4], [0, 0, 0, 1]])


@pytest.fixture
def dwi(tmp_path):
    """Write a run with known tensors, on an oblique grid."""
    rng = np.random.default_rng(11)
    gradients = scheme((1000, 12))
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 1:-1] = True
    tensors, _, _ = random_tensors(rng, int(mask.sum()))
    data = np.zeros((*SHAPE, 14), np.float32)
    data[mask] = signal(tensors, gradients).T
    data[3, 3, 3, 5] = 0.0
    paths = {name: tmp_path / f"dwi.{name}" for name in ("bval", "bvec")}
    write_gradients(gradients, AFFINE, paths["bval"], paths["bvec"])
    for name, values in (("in_file", data), ("mask", mask.astype(np.uint8))):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nb.save(nb.Nifti1Image(values, AFFINE), paths[name])
    return {"paths": paths, "mask": mask, "tensors": tensors, "gradients": gradients}


def run(dwi, folder, **changes):
    folder.mkdir()
    inputs = {name: str(path) for name, path in dwi["paths"].items()} | changes
    return FitTensor(**inputs).run(cwd=str(folder)).outputs


def test_interface_writes_maps_in_world_axes(dwi, tmp_path):
    outputs = run(dwi, tmp_path / "a")
    mask, expected = dwi["mask"], tensor_maps(dwi["tensors"])

    def read(name):
        image = nb.load(getattr(outputs, name))
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
        data = np.asanyarray(image.dataobj)
        assert not data[~mask].any()
        return data[mask]

    for name in ("fa", "md", "ad", "rd"):
        np.testing.assert_allclose(read(name), getattr(expected, name), rtol=2e-4, atol=1e-8)
    np.testing.assert_allclose(read("tensor"), dwi["tensors"].T, atol=2e-7)
    np.testing.assert_allclose(read("s0"), 500, rtol=1e-3)
    colours = read("color_fa")
    assert colours.dtype == np.uint8
    assert np.abs(colours - 255 * expected.color_fa.T).max() < 0.6
    report = json.loads(Path(outputs.report).read_text())
    assert report["NumberOfDirections"] == 12
    assert report["VoxelsWithUnusableSignals"] == 1
    assert report["VoxelsNotFitted"] == 0


def test_threads_change_no_byte(dwi, tmp_path):
    one, two = run(dwi, tmp_path / "a"), run(dwi, tmp_path / "b", n_procs=2)
    for name in ("fa", "md", "tensor", "color_fa", "report"):
        first, second = (Path(getattr(outputs, name)) for outputs in (one, two))
        assert first.read_bytes() == second.read_bytes()


def test_blocks_are_in_the_order_of_the_mask(dwi):
    series = open_series(dwi["paths"]["in_file"])
    parts = list(over_voxels(lambda block: block, series, dwi["mask"], [0, 3]))
    values = np.hstack([block for _, block in parts])
    data = np.asanyarray(nb.load(dwi["paths"]["in_file"]).dataobj)
    np.testing.assert_array_equal(values, data[dwi["mask"]][:, [0, 3]].T)
    assert parts[-1][0].stop == dwi["mask"].sum()


def test_what_does_not_fit_together_is_refused(dwi, tmp_path):
    series = open_series(dwi["paths"]["in_file"])
    three = Gradients(
        np.r_[np.zeros(11), 1e3, 1e3, 1e3], np.vstack([np.zeros((11, 3)), sphere(3)])
    )
    with pytest.raises(InputError, match="needs 6"):
        fit_tensor_series(series, three, dwi["mask"])
    with pytest.raises(InputError, match="empty"):
        fit_tensor_series(series, dwi["gradients"], np.zeros(SHAPE, bool))
    other = tmp_path / "other.nii.gz"
    nb.save(nb.Nifti1Image(np.ones((9, 9, 9), np.uint8), AFFINE), other)
    with pytest.raises(GeometryError):
        run(dwi, tmp_path / "c", mask=str(other))
    few = scheme((1000, 10))
    for name, rows in (("bval", few.bvals[None]), ("bvec", world_to_fsl(few.bvecs, AFFINE).T)):
        np.savetxt(tmp_path / name, rows)
    with pytest.raises(InputError, match="14 volumes"):
        run(dwi, tmp_path / "d", bval=str(tmp_path / "bval"), bvec=str(tmp_path / "bvec"))
