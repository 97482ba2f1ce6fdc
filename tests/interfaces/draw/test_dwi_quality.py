"""Reportlets of the quality of a DWI run."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw.dwi_quality import (
    DwiAnisotropyPicture,
    DwiRegionsPicture,
    DwiShellsPicture,
    DwiVolumesPicture,
)
from neuroferry.interfaces.dwi.outliers import write_outliers
from neuroferry.interfaces.epi.confound_table import write_table

SHAPE = (24, 26, 20)


@pytest.fixture
def run(tmp_path):
    """Write the images of a run of two shells."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:19, 6:20, 4:16] = 1
    white, callosum = mask.copy(), np.zeros_like(mask)
    white[:9] = 0
    images = {
        "dwi_ref": mask * 900.0,
        "mask": mask,
        "white": white,
        "callosum": callosum,
        "shells": np.stack([mask * 900.0, mask * 300.0], axis=-1),
        "noise": mask * 20.0,
        "fa": mask * 0.5,
        "color_fa": (mask[..., None] * rng.integers(0, 255, (*SHAPE, 3))).astype(np.uint8),
    }
    paths = {}
    for name, data in images.items():
        kind = data.dtype if data.dtype == np.uint8 else np.float32
        paths[name] = str(tmp_path / f"{name}.nii.gz")
        nb.Nifti1Image(data.astype(kind), np.diag([3, 3, 3, 1])).to_filename(paths[name])
    paths["metrics"] = str(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text(json.dumps({"shells": [[0, 1], [1000, 16]]}))
    return paths


def draw(picture, folder):
    folder.mkdir(exist_ok=True)
    text = Path(picture.run(cwd=folder).outputs.out_file).read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    return text


def some(paths, *names):
    return {name: paths[name] for name in names}


def test_regions_without_a_corpus_callosum(run, tmp_path):
    inputs = some(run, "dwi_ref", "mask", "white", "callosum")
    text = draw(DwiRegionsPicture(**inputs), tmp_path / "out")
    assert "white matter" in text
    assert "corpus callosum" in text


def test_shells_are_named_by_their_b_values(run, tmp_path):
    text = draw(
        DwiShellsPicture(**some(run, "shells", "mask", "metrics", "noise")), tmp_path / "o"
    )
    for label in ("b = 0, 1 volume", "b = 1000, 16 volumes", "Noise of each channel"):
        assert f'data-label="{label}"' in text
    nothing = nb.Nifti1Image(np.zeros(SHAPE, np.float32), np.diag([3, 3, 3, 1]))
    nothing.to_filename(run["noise"])
    again = draw(
        DwiShellsPicture(**some(run, "shells", "mask", "metrics", "noise")), tmp_path / "p"
    )
    assert "Noise" not in again.replace("Shells and noise", "")


def test_volumes_without_motion_and_spikes(tmp_path):
    # what a run of few volumes has
    columns = {"framewise_displacement": np.full(6, np.nan), "spikes": np.full(6, np.nan)}
    columns["bval"] = np.array([0.0, *[1000] * 5])
    write_table(tmp_path / "t.tsv", columns)
    deviations, odd = np.full((6, 9), np.nan), np.zeros((6, 9), bool)
    write_outliers(tmp_path / "s.tsv", deviations, odd)
    inputs = {"timeseries": tmp_path / "t.tsv", "slices_tsv": tmp_path / "s.tsv"}
    assert "0 slices with spikes" in draw(DwiVolumesPicture(**inputs), tmp_path / "a")
    deviations[:], odd[2, 4] = 0, True
    deviations[2, 4] = -8
    write_outliers(tmp_path / "s.tsv", deviations, odd)
    assert "1 slice with spikes" in draw(DwiVolumesPicture(**inputs), tmp_path / "b")


def test_anisotropy_and_another_grid(run, tmp_path):
    inputs = some(run, "dwi_ref", "mask", "fa", "color_fa")
    assert "Colour FA" in draw(DwiAnisotropyPicture(**inputs), tmp_path / "a")
    nb.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)).to_filename(run["fa"])
    with pytest.raises(GeometryError):
        DwiAnisotropyPicture(**inputs).run(cwd=tmp_path)
