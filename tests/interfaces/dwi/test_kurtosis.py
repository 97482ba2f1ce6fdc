"""Diffusion kurtosis, against closed forms and DIPY."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.gradients import Gradients, write_gradients
from neuroferry.interfaces.dwi.kurtosis import (
    ELEMENTS,
    FitKurtosis,
    fit_kurtosis,
    kurtosis_design,
    kurtosis_volumes,
)

SHAPE = (12, 10, 9)


def sphere(n):
    """Distribute directions over a hemisphere by a golden spiral."""
    z = (np.arange(n) + 0.5) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def scheme(*shells, b0s=2):
    bvals = np.concatenate([np.zeros(b0s), *(np.full(n, float(b)) for b, n in shells)])
    bvecs = np.concatenate([np.zeros((b0s, 3)), *(sphere(n) for _, n in shells)])
    return Gradients(bvals, bvecs)


def two_compartments(gradients, rng, n):
    """Make two tensors along random axes with half of the water each: true kurtosis."""
    q, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
    signals = 0.0
    for along, across in ((1.8e-3, 0.1e-3), (1.2e-3, 0.7e-3)):
        cosines = gradients.bvecs @ q[:, :, 0].T
        signals = signals + 250 * np.exp(
            -gradients.bvals[:, None] * (across + (along - across) * cosines**2)
        )
    return signals


def test_isotropic_kurtosis_is_exact():
    gradients = scheme((1000, 20), (2000, 25))
    b = gradients.bvals / 1000
    md, mk = 0.9, 0.8
    signals = 400 * np.exp(-b * md + b**2 * md**2 * mk / 6)
    maps, fitted = fit_kurtosis(np.stack([signals, signals / 7, 0 * signals], axis=1), gradients)
    assert fitted.tolist() == [True, True, False]
    for name, expected in (("mk", mk), ("ak", mk), ("rk", mk), ("md", 0.9e-3)):
        np.testing.assert_allclose(maps[name][:2], expected, rtol=1e-5)
    assert maps["fa"].max() < 1e-4
    assert maps["kfa"].max() < 1e-4
    assert not any(values[2] for values in maps.values())


def test_kurtosis_along_one_axis_has_its_place():
    """Diffusion is non-Gaussian only along x: W has one element."""
    gradients = scheme((1000, 20), (2000, 25))
    coefficients = np.zeros(22)
    coefficients[:7] = np.log(300), 1.0, 0, 0, 0.5, 0, 0.5
    coefficients[7 + ELEMENTS.index("xxxx")] = 0.6
    maps, _ = fit_kurtosis(np.exp(kurtosis_design(gradients) @ coefficients)[:, None], gradients)
    np.testing.assert_allclose(maps["ak"], 0.6, rtol=1e-4)
    np.testing.assert_allclose(maps["rk"], 0.0, atol=1e-4)


def test_beside_dipy_with_noise():
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dki import DiffusionKurtosisModel

    rng = np.random.default_rng(2)
    gradients = scheme((1000, 30), (2000, 30), b0s=4)
    signals = two_compartments(gradients, rng, 60) + rng.normal(0, 4, (64, 60))
    once, fitted = fit_kurtosis(signals, gradients, n_iterations=1)
    twice, _ = fit_kurtosis(signals, gradients)
    assert fitted.all()
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs)
    theirs = DiffusionKurtosisModel(table, fit_method="WLS").fit(signals.T)
    for name, values in (
        ("mk", theirs.mk(analytical=True)),
        ("ak", theirs.ak(analytical=True)),
        ("rk", theirs.rk(analytical=True)),
        ("kfa", theirs.kfa),
        ("fa", theirs.fa),
        ("md", 1.0 * theirs.md),
    ):
        np.testing.assert_allclose(once[name], values, rtol=1e-3, atol=1e-3)
        assert np.corrcoef(twice[name], values)[0, 1] > 0.99


def test_what_cannot_be_fitted_is_said():
    for gradients, words in (
        (scheme((1000, 30)), "the run has 1"),
        (scheme((1000, 30), (2000, 7)), "run's shells have 30, 7"),
        (scheme((1000, 30), (5000, 30)), "the run has 1"),
        (scheme((1000, 4)), "the run has 4"),
        (scheme((1000, 30), (2000, 30), b0s=0), "without diffusion weighting"),
    ):
        with pytest.raises(InputError, match=words):
            kurtosis_volumes(gradients)
    high = scheme((1000, 20), (2500, 20), (5000, 40))
    assert kurtosis_volumes(high).tolist() == list(range(42))


def test_interface_writes_maps_and_threads_change_no_byte(tmp_path):
    rng = np.random.default_rng(4)
    gradients = scheme((1000, 20), (2000, 20))
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    mask = np.zeros(SHAPE, bool)
    mask[2:-2, 2:-2, 1:-1] = True
    data = np.zeros((*SHAPE, 42), np.float32)
    data[mask] = two_compartments(gradients, rng, int(mask.sum())).T
    paths = {name: tmp_path / f"dwi.{name}" for name in ("bval", "bvec")}
    write_gradients(gradients, affine, paths["bval"], paths["bvec"])
    for name, values in (("in_file", data), ("mask", mask.astype(np.uint8))):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nb.save(nb.Nifti1Image(values, affine), paths[name])
    found = []
    for n_procs in (1, 2):
        folder = tmp_path / str(n_procs)
        folder.mkdir()
        inputs = {name: str(path) for name, path in paths.items()}
        found.append(FitKurtosis(**inputs, n_procs=n_procs).run(cwd=str(folder)).outputs)
    for name in ("mk", "ak", "rk", "kfa", "fa", "md", "report"):
        first, second = (Path(getattr(outputs, name)) for outputs in found)
        assert first.read_bytes() == second.read_bytes()
    kurtosis = np.asanyarray(nb.load(found[0].mk).dataobj)
    assert not kurtosis[~mask].any()
    assert 0.3 < np.median(kurtosis[mask]) < 1.5
    report = json.loads(Path(found[0].report).read_text())
    assert report["BValues"] == [0.0, 1000.0, 2000.0]
    assert report["VoxelsNotFitted"] == 0
