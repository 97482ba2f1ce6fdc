"""Summary of a DWI run for the participant's report."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np

from neuroferry.bids.metadata import read_json
from neuroferry.interfaces.dwi.summary import SummariseDwi


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def image(path, value):
    data = np.full((9, 9, 9), value, np.float32)
    data[0] = 0
    nb.Nifti1Image(data, np.eye(4)).to_filename(path)
    return str(path)


def test_reports_are_gathered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eddy = {"NumberOfVolumes": 10, "OutlierSlices": 3, "EddyCurrents": True}
    bundles = {"Bundles": [{"Name": "Left ILF", "Kept": 40}, {"Name": "Right ILF", "Kept": 0}]}
    step = SummariseDwi(
        eddy_report=write(tmp_path / "eddy.json", eddy),
        gradient_report=write(tmp_path / "gradients.json", {"b0_volumes": 2}),
        bundles_report=write(tmp_path / "bundles.json", bundles),
        n_slices=30,
        models=["DTI"],
        dwi_ref=image(tmp_path / "ref.nii.gz", 600),
        noise_map=image(tmp_path / "noise.nii.gz", 20),
        dwi_mask=image(tmp_path / "mask.nii.gz", 1),
    )
    found = read_json(Path(step.run().outputs.out_file))
    mask = found.pop("BrainMask")
    assert (mask["verdict"], mask["AreaAtEdge"]) == ("look", 1.0)
    assert found == {
        "NumberOfVolumes": 10,
        "EddyCurrents": True,
        "OutlierSlices": {"Count": 3, "Fraction": 0.01},
        "Gradients": {"b0_volumes": 2},
        "Models": ["DTI"],
        "Bundles": {"Left ILF": 40, "Right ILF": 0},
        "SNR": 30.0,
    }


def test_without_noise_there_is_no_ratio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eddy = {"NumberOfVolumes": 10, "OutlierSlices": 0}
    step = SummariseDwi(
        eddy_report=write(tmp_path / "eddy.json", eddy),
        n_slices=30,
        dwi_ref=image(tmp_path / "ref.nii.gz", 600),
        noise_map=image(tmp_path / "noise.nii.gz", 0),
        dwi_mask=image(tmp_path / "mask.nii.gz", 1),
    )
    assert "SNR" not in read_json(Path(step.run().outputs.out_file))
