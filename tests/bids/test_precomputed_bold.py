"""Precomputed files that replace parts of a BOLD run."""

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.model import Image
from neuroferry.bids.precomputed_bold import find_bold, without_position
from neuroferry.errors import ExitCode, InputError

STEM = "sub-01_ses-a_task-rest_run-2_"
XFMS = {
    "motion_xfms": "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
    "boldref2anat_xfm": "from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "anat2boldref_xfm": "from-T1w_to-boldref_mode-image_desc-coreg_xfm.txt",
}
IMAGES = {"bold_ref": "desc-hmc_boldref.nii.gz", "bold_mask": "desc-brain_mask.nii.gz"}
AFFINE = np.diag([3.0, 3, 4, 1])
MOTION = "#Insight Transform File V1.0\n" + 6 * "Parameters: 1 0\nFixedParameters: 0\n"


@pytest.fixture
def run(tmp_path):
    entities = {"subject": "01", "session": "a", "task": "rest", "run": "2"}
    echoes = []
    for echo in ("1", "2"):
        path = tmp_path / f"{STEM}echo-{echo}_bold.nii.gz"
        nb.Nifti1Image(np.zeros((5, 6, 7, 6), np.int16), AFFINE).to_filename(path)
        echoes.append(Image(path, {**entities, "echo": echo}, "bold", "func", {}))
    return BoldRun(tuple(echoes), (5, 6, 7), (3.0, 3.0, 4.0), 6, 2.0)


def write(root, *parts, stem=STEM):
    folder = root / "sub-01" / "ses-a" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part in IMAGES:
            image = nb.Nifti1Image(np.ones((5, 6, 7), np.float32), AFFINE)
            image.to_filename(folder / f"{stem}{IMAGES[part]}")
        else:
            (folder / f"{stem}{XFMS[part]}").write_text(MOTION)
    return folder


def test_each_part_by_its_name(run, tmp_path):
    folder = write(tmp_path / "d", *IMAGES, *XFMS)
    write(tmp_path / "d", *IMAGES, *XFMS, stem="sub-01_ses-a_task-rest_run-1_")
    write(tmp_path / "d", "bold_mask", "bold_ref", stem=f"{STEM}space-T1w_")
    (folder / f"{STEM}desc-coreg_boldref.nii.gz").touch()
    found, cited = find_bold({"mine": tmp_path / "d"}, run)
    assert found == {
        part: str(folder / f"{STEM}{name}") for part, name in {**IMAGES, **XFMS}.items()
    }
    assert cited["bold_ref"] == [f"bids:mine:sub-01/ses-a/func/{STEM}desc-hmc_boldref.nii.gz"]
    assert set(cited) == set(found)


def test_parts_belong_to_one_reference(run, tmp_path):
    write(tmp_path / "a", "motion_xfms", "bold_mask")
    write(tmp_path / "b", "bold_ref", "anat2boldref_xfm")
    write(tmp_path / "c", *IMAGES, *XFMS)
    datasets = {name: tmp_path / name for name in "abc"}
    found, _ = find_bold({"a": datasets["a"]}, run)
    assert found == {}
    found, _ = find_bold(datasets, run)
    assert set(found) == {"bold_ref"}
    found = without_position(find_bold({"c": datasets["c"]}, run)[0])
    assert set(found) == {"bold_ref", "bold_mask", "motion_xfms"}


def test_two_files_for_one_part(run, tmp_path):
    write(tmp_path / "d", "bold_ref")
    write(tmp_path / "d", "bold_ref", stem=f"{STEM}part-mag_")
    with pytest.raises(InputError, match="two files for the bold_ref of one run"):
        find_bold({"d": tmp_path / "d"}, run)


def test_parts_of_another_run(run, tmp_path):
    folder = write(tmp_path / "d", "bold_ref", "motion_xfms")
    (folder / f"{STEM}{XFMS['motion_xfms']}").write_text("Parameters: 1\n")
    with pytest.raises(InputError, match="it has 1 transforms, but the run has 6 volumes"):
        find_bold({"d": tmp_path / "d"}, run)
    image = nb.Nifti1Image(np.ones((5, 6, 7), np.float32), 2 * AFFINE)
    image.to_filename(folder / f"{STEM}{IMAGES['bold_ref']}")
    with pytest.raises(InputError, match="it is on a different grid"):
        find_bold({"d": tmp_path / "d"}, run)


def test_a_dataset_that_is_not_there(run, tmp_path):
    with pytest.raises(InputError, match="is not a folder") as caught:
        find_bold({"d": tmp_path / "none"}, run)
    assert caught.value.exit_code == ExitCode.NO_INPUT
