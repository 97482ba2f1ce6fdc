"""Pictures of the quality of a BOLD series."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.draw import bold_quality
from neuroferry.interfaces.epi.confound_table import write_table

SHAPE = (16, 20, 9)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    brain = np.zeros(SHAPE, np.uint8)
    brain[4:12, 5:15, 2:7] = 1
    mean = np.where(brain, 900, 0) + rng.rayleigh(8, SHAPE)
    images = {"mean": mean, "std": mean / 40, "tsnr": np.full(SHAPE, 40.0), "brain_mask": brain}
    for name, data in images.items():
        path = tmp_path / f"{name}.nii.gz"
        nb.Nifti1Image(data.astype(np.float32), np.diag([3, 3, 4, 1])).to_filename(path)
    columns = ("framewise_displacement", "dvars_std", "aor", "aqi")
    write_table(tmp_path / "t.tsv", {name: rng.uniform(0, 0.3, 30) for name in columns})
    made = {"warnings": {"unusable_volumes": [7]}}
    about = {"dummy_trs": 2, "spacing_tr": 2.0, "provenance": made}
    (tmp_path / "iqms.json").write_text(json.dumps(about))
    carpet = rng.normal(100, 5, (30, 40)).astype(np.float32)
    carpet[[0, 1, 7]] = np.nan
    np.savez(tmp_path / "carpet.npz", carpet=carpet, spikes=rng.normal(size=(30, 9)))
    return tmp_path


def views(svg):
    ET.fromstring(svg)
    return re.findall(r'data-label="([^"]*)"', svg)


def test_the_mean_has_a_view_of_its_background(files):
    svg = bold_quality.draw_mean(files / "mean.nii.gz", files / "brain_mask.nii.gz")
    assert views(svg) == ["Mean", "Brain mask", "Background, contrast stretched"]
    assert "brain mask" in svg


def test_without_a_brain_the_pictures_say_so(files):
    nb.Nifti1Image(np.zeros(SHAPE, np.uint8), np.diag([3, 3, 4, 1])).to_filename(files / "e.nii")
    assert "no brain was found" in bold_quality.draw_mean(files / "mean.nii.gz", files / "e.nii")
    noise = bold_quality.draw_noise(files / "std.nii.gz", files / "tsnr.nii.gz", files / "e.nii")
    assert views(noise) == ["Standard deviation", "Temporal SNR"]
    assert "median 40" in noise


def test_volumes_share_one_axis_and_mark_what_is_not_measured(files):
    step = bold_quality.BoldVolumesPicture(
        timeseries=files / "t.tsv", iqms=files / "iqms.json", carpet=files / "carpet.npz"
    )
    svg = step._draw()
    ET.fromstring(svg)
    for title in ("Framewise", "DVARS", "Outliers", "Quality index", "Background", "Carpet"):
        assert title in svg
    assert svg.count(bold_quality.DUMMY) == 4
    assert svg == step._draw()


def test_a_single_volume_is_drawn(files):
    np.savez(files / "one.npz", carpet=np.ones((1, 5), np.float32), spikes=np.zeros((1, 9)))
    nothing = {
        n: np.array([np.nan]) for n in ("framewise_displacement", "dvars_std", "aor", "aqi")
    }
    write_table(files / "one.tsv", nothing)
    svg = bold_quality.draw_volumes(files / "one.tsv", files / "iqms.json", files / "one.npz")
    ET.fromstring(svg)
    assert svg.count("undefined") == 4
