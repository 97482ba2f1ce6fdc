"""Fibre orientations: responses against closed forms, peaks against known bundles."""

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.gradients import find_shells
from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.csd import (
    FitCsd,
    choose_shells,
    estimate_responses,
    find_tissue_voxels,
    zonal_harmonics,
)
from neuroferry.interfaces.dwi.gradients import Gradients, write_gradients
from neuroferry.interfaces.dwi.models import models_for, order_for
from neuroferry.interfaces.image.series import open_series

pytestmark = pytest.mark.slow

needs_mrtrix = pytest.mark.skipif(
    shutil.which("dwi2fod") is None, reason="MRtrix3 is not installed"
)
SHAPE = (20, 18, 14)
AFFINE = np.array([[-2.0, 0.3, 0, 9], [0.3, 1.9, -0.4, -12], [0, 0.4, 2.1, 4], [0, 0, 0, 1]])
ALONG, ACROSS = 1.7e-3, 0.2e-3
FIRST = np.array([0.8, 0.6, 0.0])
SECOND = np.array([-0.5, 0.4, 0.768])
S0 = {"fibres": 500.0, "grey": 600.0, "fluid": 1200.0}
GREY_MD, FLUID_MD = 0.8e-3, 3.0e-3


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


def bundle(gradients, direction):
    direction = direction / np.linalg.norm(direction)
    cosines = gradients.bvecs @ direction
    return np.exp(-gradients.bvals * (ACROSS + (ALONG - ACROSS) * cosines**2))


def make_run(folder, gradients, sigma=2.0):
    """Make bundles, their crossing, grey matter and CSF in four slabs; return their positions."""
    rng = np.random.default_rng(5)
    where = {name: np.zeros(SHAPE, bool) for name in ("first", "second", "both", "grey", "fluid")}
    where["first"][2:9, 2:9, 2:-2] = True
    where["second"][2:9, 9:-2, 2:-2] = True
    where["both"][9:12, 2:-2, 2:-2] = True
    where["grey"][12:15, 2:-2, 2:-2] = True
    where["fluid"][15:-2, 2:-2, 2:-2] = True
    first, second = bundle(gradients, FIRST), bundle(gradients, SECOND)
    signals = {
        "first": S0["fibres"] * first,
        "second": S0["fibres"] * second,
        "both": S0["fibres"] * (first + second) / 2,
        "grey": S0["grey"] * np.exp(-gradients.bvals * GREY_MD),
        "fluid": S0["fluid"] * np.exp(-gradients.bvals * FLUID_MD),
    }
    data = np.zeros((*SHAPE, len(gradients)))
    for name, inside in where.items():
        data[inside] = signals[name]
    data += rng.normal(0, sigma, data.shape)
    data[data < 0] = 0
    paths = {name: folder / f"dwi.{name}" for name in ("bval", "bvec")}
    write_gradients(gradients, AFFINE, paths["bval"], paths["bvec"])
    mask = np.any(list(where.values()), axis=0)
    for name, values in (("in_file", data.astype(np.float32)), ("mask", mask.astype(np.uint8))):
        paths[name] = folder / f"{name}.nii.gz"
        nb.save(nb.Nifti1Image(values, AFFINE), paths[name])
    return {name: str(path) for name, path in paths.items()}, where


def run(inputs, folder, **changes):
    folder.mkdir()
    outputs = FitCsd(**inputs, **changes).run(cwd=str(folder)).outputs
    return Path(outputs.fod), json.loads(Path(outputs.report).read_text())


def peaks(fod, folder, count):
    """Find the directions of the largest peaks with MRtrix, shape (I, J, K, count, 3)."""
    out = folder / "peaks.nii"
    command = ["sh2peaks", str(fod), str(out), "-num", str(count), "-quiet", "-force"]
    subprocess.run([*command, "-nthreads", "0"], check=True)
    found = np.nan_to_num(nb.load(out).get_fdata()).reshape(*SHAPE, count, 3)
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-9)


def angles(found, direction):
    direction = direction / np.linalg.norm(direction)
    return np.degrees(np.arccos(np.clip(np.abs(found @ direction), 0, 1)))


# --- which models ----------------------------------------------------------------------


def test_models_say_why_not():
    two = find_shells([0] * 3 + [1000] * 30 + [2000] * 30)
    assert models_for(two, 60) == models_for(two, 30)
    assert not any(vars(models_for(two, 60)).values())
    single = models_for(find_shells([0] + [1000] * 30), 30)
    assert (single.tensor, single.csd) == ("", "")
    assert "the run has 1" in single.kurtosis
    assert "the run has 1" in single.multi_tissue
    few = models_for(find_shells([0] + [1000] * 3), 3)
    assert few.csd == "spherical deconvolution needs 15 directions of one b-value; the run has 3"
    others = (few.tensor, few.kurtosis, few.multi_tissue)
    assert all("6 gradient directions; the run has 3" in why for why in others)
    uneven = models_for(find_shells([0] + [1000] * 5 + [2000] * 30), 30)
    assert "the run's shells have 5, 30" in uneven.kurtosis
    same = models_for(find_shells([0] + [1000] * 20 + [2000] * 20), 12)
    assert "needs 15 directions" in same.kurtosis
    flat = models_for(two, 60, fits_tensor=False)
    assert all("plane" in why for why in vars(flat).values())
    without = models_for(find_shells([1000] * 30 + [2000] * 30), 60)
    assert (without.tensor, without.csd) == ("", "")
    assert "without diffusion weighting" in without.kurtosis
    assert "without diffusion weighting" in without.multi_tissue
    lone = models_for(find_shells([1000] * 30), 30)
    assert "two b-values" in lone.tensor
    assert lone.csd.startswith("spherical deconvolution needs two b-values")


def test_shells_and_orders_are_chosen():
    assert choose_shells(scheme((1000, 30), (2000, 30)))[1]
    (shell,), several = choose_shells(scheme((1000, 30), (2000, 12)))
    assert (shell.b, several) == (1000, False)
    (shell,), _ = choose_shells(scheme((1000, 12), (2000, 12)))
    assert shell.b == 2000
    assert [order_for(n) for n in (6, 27, 28, 44, 45, 200)] == [4, 4, 6, 6, 8, 8]


# --- responses -------------------------------------------------------------------------


def test_zonal_harmonics_are_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    y = zonal_harmonics(nodes, 8)
    np.testing.assert_allclose(2 * np.pi * (y * weights[:, None]).T @ y, np.eye(5), atol=1e-12)


def test_responses_are_those_of_the_tissues(tmp_path):
    gradients = scheme((1000, 30), (2500, 40))
    inputs, where = make_run(tmp_path, gradients, sigma=1.0)
    series = open_series(inputs["in_file"])
    mask = np.any(list(where.values()), axis=0)
    voxels = find_tissue_voxels(series, gradients, mask)
    kinds = {name: inside.reshape(-1) for name, inside in where.items()}
    assert (kinds["first"] | kinds["second"])[voxels.fibres].all()
    assert kinds["grey"][voxels.grey].all()
    assert kinds["fluid"][voxels.fluid].all()
    assert min(voxels.grey.size, voxels.fluid.size) > 30
    near = np.minimum(angles(voxels.directions, FIRST), angles(voxels.directions, SECOND))
    assert near.max() < 3
    found = estimate_responses(series, gradients, gradients.shells, voxels, 6)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    for row, b in enumerate((0, 1000, 2500)):
        true = S0["fibres"] * np.exp(-b * (ACROSS + (ALONG - ACROSS) * nodes**2))
        expected = 2 * np.pi * zonal_harmonics(nodes, 6).T @ (weights * true)
        np.testing.assert_allclose(found.white[row], expected, atol=0.02 * expected[0])
        for values, s0, md in (
            (found.grey, S0["grey"], GREY_MD),
            (found.fluid, S0["fluid"], FLUID_MD),
        ):
            level = np.sqrt(4 * np.pi) * s0 * np.exp(-b * md)
            np.testing.assert_allclose(values[row], level, rtol=0.02, atol=6)


def test_without_white_matter_it_is_said(tmp_path):
    gradients = scheme((1000, 12))
    path = tmp_path / "water.nii.gz"
    data = 800 * np.exp(-gradients.bvals * 3e-3) * np.ones((*SHAPE, 1))
    nb.save(nb.Nifti1Image(data.astype(np.float32), AFFINE), path)
    with pytest.raises(InputError, match="looks like white matter"):
        find_tissue_voxels(open_series(path), gradients, np.ones(SHAPE, bool))


# --- orientations ----------------------------------------------------------------------


@needs_mrtrix
def test_one_shell_finds_bundles_and_their_crossing_in_world_axes(tmp_path):
    inputs, where = make_run(tmp_path, scheme((1500, 30)))
    fod, report = run(inputs, tmp_path / "a")
    assert (report["Method"], report["LMax"], report["BValues"]) == ("CSD", 6, [1500.0])
    image = nb.load(fod)
    assert image.shape == (*SHAPE, 28)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    mask = np.any(list(where.values()), axis=0)
    assert not np.asanyarray(image.dataobj)[~mask].any()
    found = peaks(fod, tmp_path, 2)
    assert np.median(angles(found[where["first"], 0], FIRST)) < 2
    assert np.median(angles(found[where["second"], 0], SECOND)) < 2
    crossing = found[where["both"]]
    for direction in (FIRST, SECOND):
        assert np.median(angles(crossing, direction).min(axis=1)) < 5


@needs_mrtrix
def test_two_shells_tell_tissues_apart_and_threads_change_no_byte(tmp_path):
    inputs, where = make_run(tmp_path, scheme((1000, 16), (2500, 30), b0s=3))
    fod, report = run(inputs, tmp_path / "a")
    assert (report["Method"], report["LMax"]) == ("multi-tissue CSD", 6)
    assert len(report["ResponseCSF"]) == 3
    again, _ = run(inputs, tmp_path / "b", n_procs=2)
    assert fod.read_bytes() == again.read_bytes()
    density = np.asanyarray(nb.load(fod).dataobj)[..., 0]
    fibres = np.median(density[where["first"]])
    assert np.median(density[where["fluid"]]) < 0.05 * fibres
    assert np.median(density[where["grey"]]) < 0.3 * fibres
    assert np.median(angles(peaks(fod, tmp_path, 1)[where["first"], 0], FIRST)) < 2


@needs_mrtrix
def test_few_directions_are_refused(tmp_path):
    inputs, _ = make_run(tmp_path, scheme((1000, 5)))
    with pytest.raises(InputError, match="5 gradient directions"):
        run(inputs, tmp_path / "a")
