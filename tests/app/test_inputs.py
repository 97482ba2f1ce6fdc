"""Selection of images by the command line."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from tiny_dataset import BOLD, write_dataset

from neuroferry.app.inputs import with_flags
from neuroferry.bids.filters import apply_filters
from neuroferry.bids.model import Image
from neuroferry.cli.main import main
from neuroferry.config import make_config
from neuroferry.errors import ExitCode, UsageError


def settings(**given):
    return make_config({"bids_dir": "/a", "output_dir": "/b", **given})


def write_images(root, images):
    """Write a dataset with voxels that are not all alike."""
    write_dataset(root, images)
    random = np.random.default_rng(1)
    for path in root.rglob("*.nii.gz"):
        image = nb.load(path)
        data = random.integers(1, 900, image.shape).astype(np.int16)
        header = image.header.copy()
        header["pixdim"][1:5] = 4, 4, 5, 2
        affine = np.diag([4.0, 4, 5, 1])
        nb.Nifti1Image(data, affine, header).to_filename(path)


def dry_run(bids, out, capsys, *options):
    """Return exit code, messages and participants of a dry run."""
    words = [str(bids), str(out), "participant", "--dry-run", "--json", "--skip-bids-validation"]
    code = main([*words, "--workflows", "anat", "func", "--nprocs", "1", *options])
    told = capsys.readouterr()
    return code, told.err, json.loads(told.out or "{}").get("participants", [])


def test_an_odd_folder_beside_sound_participants_is_named_and_told_by_the_exit_code(
    tmp_path, capsys
):
    write_images(tmp_path / "bids", {"anat/T1w": {}})
    shutil.copytree(tmp_path / "bids/sub-01", tmp_path / "bids/sub-P-01")
    code, told, participants = dry_run(tmp_path / "bids", tmp_path / "out", capsys)
    assert code == ExitCode.STEP_FAILED
    assert "ERROR: " in told
    assert "'P-01' is not a label of BIDS" in told
    assert [(one["participant"], one["has_work"]) for one in participants] == [("01", True)]
    asked = dry_run(tmp_path / "bids", tmp_path / "out", capsys, "--participant-label", "01")
    assert asked[0] == ExitCode.OK
    assert "P-01" not in asked[1]


def test_an_image_of_another_participant_is_left_out(tmp_path, capsys):
    write_images(tmp_path / "bids", {"anat/T1w": {}})
    shutil.copytree(tmp_path / "bids/sub-01", tmp_path / "bids/sub-02")
    code, told, participants = dry_run(tmp_path / "bids", tmp_path / "out", capsys)
    assert code == ExitCode.STEP_FAILED
    assert "sub-02/anat/sub-01_T1w.nii.gz: its name says sub-01, but its folder sub-02" in told
    assert [(one["participant"], one["has_work"]) for one in participants] == [
        ("01", True),
        ("02", False),
    ]


def test_labels_with_a_plus_sign_are_labels(tmp_path, capsys):
    write_images(tmp_path / "bids", {"ses-1+2/anat/T1w": {}, "ses-1+2/func/task-n+b_bold": BOLD})
    (tmp_path / "bids/sub-01").rename(tmp_path / "bids/sub-a+b")
    for path in [*(tmp_path / "bids/sub-a+b").rglob("sub-01*")]:
        path.rename(path.with_name(path.name.replace("sub-01", "sub-a+b")))
    code, _, (one,) = dry_run(tmp_path / "bids", tmp_path / "out", capsys)
    assert code == ExitCode.OK
    assert (one["participant"], len(one["anatomies"]), len(one["bold"])) == ("a+b", 1, 1)


@pytest.mark.parametrize("which", ["bids", "out"])
def test_a_folder_that_is_not_utf8_is_refused(tmp_path, capsys, which):
    folders = {"bids": tmp_path / "bids", "out": tmp_path / "out"}
    write_images(folders["bids"], {"anat/T1w": {}})
    odd = os.fsencode(tmp_path) + b"/\xe4"
    os.mkdir(odd)  # noqa: PTH102
    folders[which] = (
        folders[which].rename(Path(os.fsdecode(odd)) / "x")
        if which == "bids"
        else (Path(os.fsdecode(odd)) / "x")
    )
    code, told, _ = dry_run(*folders.values(), capsys)
    assert code == ExitCode.USAGE
    assert rf"folder is not UTF-8 ({tmp_path}/\xe4/x)" in told


def test_flags_narrow_the_search():
    config = settings(input={"task_id": ["rest"], "echo_idx": 2})
    filters = with_flags(config, {"bold": {"session": "a"}})
    runs = [
        Image(Path(f"{task}{echo}"), {"session": "a", "task": task, **echo}, "bold", "func")
        for task in ("rest", "nback")
        for echo in ({"echo": "1"}, {"echo": "02"}, {})
    ]
    kept = apply_filters(filters, runs)
    assert [(run.entities["task"], run.entities.get("echo")) for run in kept] == [
        ("rest", "02"),
        ("rest", None),
    ]
    assert with_flags(settings(), None) == {}
    with pytest.raises(UsageError, match="--task-id and the filter file both"):
        with_flags(config, {"bold": {"task": "nback"}})
