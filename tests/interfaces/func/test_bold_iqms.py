"""The step: MRIQC's form, its table, the maps; another echo than the one that is aligned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import moving_head as known
import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.epi.confound_table import read_table
from neuroferry.interfaces.func.bold_iqms import BoldIQMs
from neuroferry.interfaces.qc.bold import ABOUT_COLUMNS
from neuroferry.judgement.metric_table import metric_table


@pytest.fixture(scope="module")
def echoes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("echoes")
    rng = np.random.default_rng(1)
    moves = [np.eye(4)] * 4 + [known.motion(np.array([0, 2.0, 0, 0, 0, 0]))] * 4
    heads = [known.head(move) for move in moves]
    paths = []
    for number, factor in ((1, 1.0), (2, 0.4)):
        volumes = [factor * head + rng.normal(0, 5, head.shape) for head in heads]
        path = folder / f"sub-01_task-rest_echo-{number}_bold.nii.gz"
        nb.Nifti1Image(np.stack(volumes, axis=-1).astype(np.int16), known.AFFINE).to_filename(path)
        paths.append(path)
    (folder / "sidecar.json").write_text('{"EchoTime": 0.03, "PatientName": "x"}')
    (folder / "dataset_description.json").write_text('{"Name": "Made up"}')
    return folder, paths


@pytest.fixture(scope="module")
def result(echoes, tmp_path_factory):
    folder, (first, second) = echoes
    step = BoldIQMs(
        source=second,
        sidecars=[folder / "sidecar.json"],
        entities={"subject": "01", "task": "rest", "echo": "2"},
        description=folder / "dataset_description.json",
        reference_echo=first,
        tr=1.5,
        dummy_scans=0,
    )
    return step.run(cwd=tmp_path_factory.mktemp("work")).outputs


def test_the_metrics_are_written_in_the_form_of_mriqc(result, echoes):
    document = json.loads(Path(result.iqms).read_text())
    assert set(metric_table("bold")) == set(document) - {"bids_meta", "provenance"}
    meta, made = document["bids_meta"], document["provenance"]
    assert meta["modality"] == "bold"
    assert meta["echo_id"] == "2"
    assert "PatientName" not in meta
    _, (_, second) = echoes
    assert made["md5sum"] == hashlib.md5(second.read_bytes()).hexdigest()
    assert made["settings"]["fd_thres"] == 0.2
    assert made["settings"]["motion_estimated_from"].endswith("echo-1_bold.nii.gz")
    assert made["warnings"] == {"undefined": {}}
    assert document["spacing_tr"] == 1.5


def test_the_motion_is_that_of_the_first_echo(result):
    table = read_table(result.timeseries)
    assert len(table["aqi"]) == 8
    fd = table["framewise_displacement"]
    # The grid is tilted by 12 degrees: 2 mm become two components.
    tilt = np.radians(12)
    assert fd[4] == pytest.approx(2 * (np.cos(tilt) + np.sin(tilt)), abs=0.1)
    assert list(table) == list(ABOUT_COLUMNS)


def test_maps_lie_on_the_grid_of_the_series(result):
    mean, std, tsnr, mask = (
        nb.load(path) for path in (result.mean, result.std, result.tsnr, result.brain_mask)
    )
    for image in (mean, std, tsnr, mask):
        assert image.shape == known.SHAPE
        np.testing.assert_allclose(image.affine, known.AFFINE, atol=1e-4)
    inside = np.asarray(mask.dataobj) > 0
    ratio = np.asarray(mean.dataobj)[inside] / np.asarray(std.dataobj)[inside]
    np.testing.assert_allclose(np.asarray(tsnr.dataobj)[inside], ratio, rtol=1e-4)
    with np.load(result.carpet) as arrays:
        assert arrays["carpet"].shape[0] == arrays["spikes"].shape[0] == 8
