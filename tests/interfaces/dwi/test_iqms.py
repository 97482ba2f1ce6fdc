"""Quality metrics of a phantom's DWI run, whose noise, motion and lost slices are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.dwi.iqms import DwiIQMs, MeasureDwi, QuickMotion
from neuroferry.interfaces.epi.confound_table import read_table
from neuroferry.judgement.metric_table import metric_table
from neuroferry.phantom import DwiOptions, write_phantom_dataset

pytestmark = pytest.mark.slow

SNR, LOST = 25, 0.04


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write a phantom with two shells, and motion."""
    root = tmp_path_factory.mktemp("phantom") / "bids"
    options = DwiOptions(
        directions=16,
        bvals=(1000.0, 2000.0),
        n_b0=3,
        resolution=4.0,
        snr=SNR,
        dropped=LOST,
        fieldmaps=(),
    )
    write_phantom_dataset(root, subjects=1, resolution=3, seed=3, dwi=options)
    return root


def measure(dwi, folder, unusable=()):
    """Run the three steps; return the document, and their outputs."""
    stem = str(dwi).removesuffix(".nii.gz")
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {"bval": f"{stem}.bval", "bvec": f"{stem}.bvec"}
    if unusable:
        files["unusable"] = list(unusable)
    motion = QuickMotion(in_file=dwi, phase_encoding="j-", **files).run(cwd=folder).outputs
    signals = MeasureDwi(in_file=dwi, **files).run(cwd=folder).outputs
    collected = DwiIQMs(
        source=dwi,
        metrics=signals.metrics,
        volumes_tsv=signals.volumes_tsv,
        motion_tsv=motion.motion_tsv,
        motion_xfms=motion.motion_xfms,
        phase_encoding="j-",
        **files,
    )
    made = collected.run(cwd=folder).outputs
    return json.loads(Path(made.iqms).read_text()), {**signals.get(), **made.get()}


@pytest.fixture(scope="module")
def found(study, tmp_path_factory):
    dwi = study / "sub-01/dwi/sub-01_dwi.nii.gz"
    return measure(dwi, tmp_path_factory.mktemp("iqms"))


def truth(study, name):
    with next(study.glob(f"derivatives/truth/sub-01/dwi/*{name}")).open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_noise_is_that_of_the_phantom(study, found):
    path = next(study.glob("derivatives/truth/sub-01/dwi/*_parameters.json"))
    noise = json.loads(path.read_text())["noise"]
    assert found[0]["sigma_pca"] == pytest.approx(noise, rel=0.1)
    assert found[0]["sigma_piesno"] == pytest.approx(noise, rel=0.05)


def test_displacement_is_that_of_the_head(study, found):
    true = np.array([float(r["framewise_displacement"]) for r in truth(study, "motion.tsv")[1:]])
    told = read_table(found[1]["timeseries"])["framewise_displacement"][1:]
    assert found[0]["fd_mean"] == pytest.approx(true.mean(), rel=0.25)
    assert np.corrcoef(told, true)[0, 1] > 0.97
    assert found[0]["fd_mean"] == pytest.approx(told.mean(), rel=1e-6)


def test_lost_slices_spike(study, found):
    table = read_table(found[1]["timeseries"])
    mask = np.asarray(nb.load(found[1]["mask"]).dataobj) > 0
    large = mask.sum(axis=(0, 1)) > 200
    dark = {
        int(row["volume"])
        for row in truth(study, "dropped.tsv")
        if large[int(row["slice"])] and float(row["kept"]) < 0.5
    }
    # at b = 2000 little signal is left to lose
    lost = [volume for volume in sorted(dark) if table["bval"][volume] < 1500]
    assert len(lost) >= 5
    assert (table["spike_slices"][lost] >= 1).mean() > 0.8
    assert np.isnan(table["spikes"][table["bval"] == 0]).all()
    assert found[0]["spikes_slice_k"] > 0.3e6 * LOST


def test_metrics_are_complete_and_explained(found):
    document, _ = found
    values = {k: v for k, v in document.items() if not isinstance(v, dict)}
    table = metric_table("dwi")
    assert set(values) <= set(table)
    assert {"snr_cc_shell2_best", "efc_shell03", "summary_wm_mad", "bdiffs_median"} <= set(values)
    undefined = document["provenance"]["warnings"]["undefined"]
    assert {name for name, value in values.items() if value is None} == set(undefined)
    shells = document["provenance"]["settings"]["shells"]
    assert {key: row["b"] for key, row in shells.items()} == {
        "shell01": 0,
        "shell02": 1000,
        "shell03": 2000,
    }
    assert values["size_t"] == 35
    assert 0.5 < values["ndc"] < 1


def test_columns_are_described(found):
    columns = read_table(found[1]["timeseries"])
    about = json.loads(Path(found[1]["timeseries_about"]).read_text())
    assert set(about) == set(columns)
    assert about["trans_x"]["Units"] == "mm"


def part(study, folder, volumes, bvals=None, offset=0.0):
    """Write some volumes of the run as another."""
    stem = study / "sub-01/dwi/sub-01_dwi"
    image = nb.load(f"{stem}.nii.gz")
    folder.mkdir()
    data = np.asarray(image.dataobj)[..., volumes] + offset
    nb.Nifti1Image(data.astype(np.float32), image.affine).to_filename(folder / "d.nii.gz")
    values = np.loadtxt(f"{stem}.bval")[volumes] if bvals is None else np.asarray(bvals)
    np.savetxt(folder / "d.bval", values[None], fmt="%g")
    np.savetxt(folder / "d.bvec", np.loadtxt(f"{stem}.bvec")[:, volumes], fmt="%.6f")
    return folder / "d.nii.gz"


def test_seven_volumes_of_one_direction(study, tmp_path):
    bvals = np.loadtxt(study / "sub-01/dwi/sub-01_dwi.bval")
    b0s, weighted = np.flatnonzero(bvals < 50), np.flatnonzero(bvals > 1500)[:1]
    dwi = part(
        study, tmp_path / "few", [*b0s, *b0s[:2], *b0s[:1], *weighted], [0, 2, 2, 0, 2, 0, 2000]
    )
    document, _ = measure(dwi, tmp_path / "out", unusable=[5])
    undefined = document["provenance"]["warnings"]["undefined"]
    for name in ("fa_nans", "snr_cc_shell1_best", "ndc", "spikes_global", "summary_wm_mean"):
        assert document[name] is None
        assert undefined[name].endswith(".")
    assert document["size_t"] == 6
    assert document["fd_mean"] is not None
    assert document["summary_fg_mean"] > 0


def test_many_bvalues_form_no_shells(study, tmp_path):
    bvals = np.loadtxt(study / "sub-01/dwi/sub-01_dwi.bval")
    weighted = bvals > 50
    bvals[weighted] = np.linspace(200, 6000, int(weighted.sum()))
    dwi = part(study, tmp_path / "dsi", list(range(len(bvals))), bvals)
    document, _ = measure(dwi, tmp_path / "out")
    undefined = document["provenance"]["warnings"]["undefined"]
    assert "form no shells" in undefined["efc_shell02"]
    assert "form no shells" in undefined["snr_cc_shell1_best"]
    assert document["efc_shell01"] is not None
    assert document["fd_mean"] is None
    assert document["ndc"] is not None


def test_without_b0_volumes(study, tmp_path):
    bvals = np.loadtxt(study / "sub-01/dwi/sub-01_dwi.bval")
    dwi = part(study, tmp_path / "none", list(np.flatnonzero(bvals > 50)))
    document, _ = measure(dwi, tmp_path / "out")
    undefined = document["provenance"]["warnings"]["undefined"]
    for name in ("efc_shell01", "summary_fg_mean", "sigma_cc", "snr_cc_shell0"):
        assert "without diffusion weighting" in undefined[name]
    assert document["efc_shell02"] is not None
    assert document["fa_nans"] is not None
    assert document["fd_mean"] is not None


def test_an_object_without_a_brain(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.rayleigh(5, (16, 16, 10, 9)).astype(np.float32)
    data[4:12, 4:12, 3:7] += 300
    nb.Nifti1Image(data, np.diag([3.0, 3, 3, 1])).to_filename(tmp_path / "d.nii.gz")
    np.savetxt(tmp_path / "d.bval", [[0, *[1000] * 8]], fmt="%g")
    turns = rng.normal(size=(3, 9))
    np.savetxt(tmp_path / "d.bvec", turns / np.linalg.norm(turns, axis=0), fmt="%.6f")
    document, _ = measure(tmp_path / "d.nii.gz", tmp_path / "out")
    warnings = document["provenance"]["warnings"]
    assert "No brain was found" in warnings["doubts"][0]
    assert "No brain was found" in warnings["undefined"]["sigma_pca"]
    assert document["efc_shell01"] is not None
