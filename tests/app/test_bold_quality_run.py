"""Quality of a BOLD run of the phantom, with the whole command: a spike and a ghost are found."""

import json
import subprocess
import sys

import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.epi.confound_table import read_table
from neuroferry.phantom import BoldOptions, write_phantom_dataset

pytestmark = pytest.mark.slow
STEM = "sub-01_task-blocks"
SPIKE = 8


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    options = BoldOptions(14, resolution=6.0, fieldmaps=(), drift=0.0, jerk=0.0, transient=False)
    write_phantom_dataset(root / "bids", subjects=1, resolution=3.0, seed=3, bold=options)
    path = root / f"bids/sub-01/func/{STEM}_bold.nii.gz"
    image = nb.load(path)
    data = image.get_fdata(dtype=np.float32)
    data += 0.06 * np.roll(data, data.shape[1] // 2, axis=1)
    data[..., SPIKE] *= 1.1
    nb.Nifti1Image(data.astype(np.int16), image.affine, image.header).to_filename(path)
    command = [sys.executable, "-m", "neuroferry", root / "bids", root / "out", "participant"]
    command += ["--workflows", "qc", "--modalities", "bold", "-w", root / "work"]
    command += ["--skip-bids-validation", "--nprocs", "2"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "out"


def test_the_spike_is_at_its_volume(out):
    table = read_table(out / f"sub-01/func/{STEM}_desc-iqms_timeseries.tsv")
    change = np.nan_to_num(table["dvars_std"])
    assert set(np.argsort(change)[-2:]) == {SPIKE, SPIKE + 1}
    assert table["aor"].argmax() == SPIKE
    about = json.loads((out / f"sub-01/func/{STEM}_desc-iqms_timeseries.json").read_text())
    assert about["SamplingFrequency"] == 0.5
    assert set(table) < set(about)


def test_the_ghost_is_along_the_phase_encoding(out):
    metrics = json.loads((out / f"sub-01/func/{STEM}_desc-iqms_bold.json").read_text())
    assert metrics["gsr_y"] > 0.03
    assert metrics["gsr_y"] > metrics["gsr_x"] + 0.03
    assert metrics["bids_meta"]["task_id"] == "blocks"
    assert metrics["dummy_trs"] == 0
    assert metrics["size_t"] == 14


def test_the_page_shows_its_pictures(out):
    page = (out / "sub-01.html").read_text()
    for title in ("Volumes of the BOLD series", "Mean of the BOLD series", "Noise of the BOLD"):
        assert title in page
    assert "Ghost-to-signal ratio" in page
