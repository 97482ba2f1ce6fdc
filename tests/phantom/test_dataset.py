from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.cli import phantom as command
from neuroferry.errors import ExitCode, InputError, NeuroferryError, UsageError
from neuroferry.phantom import files, write_phantom_dataset
from neuroferry.phantom.score import dice, folded_voxels, tissue_dice
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow


def load(path):
    return np.asarray(nb.load(path).dataobj, dtype=np.float32)


def validate(folder):
    program = Path(sysconfig.get_path("scripts")) / "bids-validator-deno"
    done = subprocess.run(
        [program, "--format", "json", folder], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


@pytest.mark.parametrize("part", [".", "derivatives/truth"])
def test_the_dataset_and_its_truth_are_valid_bids(phantom, part):
    assert validate(phantom.root / part) == []


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_subjects(phantom, tmp_path):
    write_phantom_dataset(tmp_path / "again", subjects=1, resolution=3.0, seed=11)
    again = sorted(path for path in (tmp_path / "again").rglob("sub-01*") if path.is_file())
    assert len(again) > 15
    for path in again:
        first = phantom.root / path.relative_to(tmp_path / "again")
        assert first.read_bytes() == path.read_bytes(), path.name


def test_nothing_half_written_stays(phantom):
    assert not list(phantom.root.rglob("*.part"))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(NeuroferryError, match="taken could not be written"):
        files.write_text(tmp_path / "taken", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_subjects_differ_and_children_are_smaller(phantom):
    first, child, third = phantom.subjects
    assert child.parameters.child
    assert not first.parameters.child
    volumes = [json.loads(s.truth["parameters"].read_text()) for s in phantom.subjects]
    sizes = [volume["brain_mask_ml"] for volume in volumes]
    assert len({round(size) for size in sizes}) == 3
    for subject, size in zip(phantom.subjects, sizes, strict=True):
        assert size == pytest.approx(1505 * subject.parameters.size, rel=0.02)
    adult = {"M": 1580, "F": 1430}[child.parameters.sex]
    assert child.parameters.size * 1505 < adult
    assert {nb.aff2axcodes(nb.load(s.t1w).affine) for s in (first, child, third)} == {
        ("R", "A", "S"),
        ("L", "A", "S"),
        ("P", "S", "R"),
    }


def test_truth_is_consistent_with_itself(phantom):
    for subject in phantom.subjects:
        truth = {key: load(path) for key, path in subject.truth.items() if key != "parameters"}
        covered = truth["gm"] + truth["wm"] + truth["csf"]
        mask = truth["brain_mask"] > 0
        assert covered.max() <= 1.01
        assert dice(covered >= 0.5, mask) > 0.999
        np.testing.assert_array_equal(truth["dseg"] > 0, mask)
        # The brain lies in the head, unless the field of view cuts through it.
        assert (truth["head_mask"][mask] > 0).mean() > 0.999
        assert truth["bias"][mask].mean() == pytest.approx(1, abs=1e-3)
        sform, qform = nb.load(subject.t1w).get_sform(), nb.load(subject.t1w).get_qform()
        np.testing.assert_allclose(sform, qform, atol=1e-4)


def test_the_bias_field_is_as_strong_as_at_3_tesla(phantom):
    for subject in phantom.subjects:
        field = load(subject.truth["bias"])[load(subject.truth["brain_mask"]) > 0]
        low, high = np.percentile(field, [2, 98])
        assert 0.15 < 1 - low < 0.5
        assert 0.15 < high - 1 < 0.7


def test_noise_is_rician(phantom):
    """Rayleigh in the air (mean over spread 1.91), with the level given by the SNR."""
    for subject in phantom.subjects:
        t1w, head = load(subject.t1w), load(subject.truth["head_mask"]) > 0
        scan = json.loads(subject.truth["parameters"].read_text())["scan"]
        air = t1w[~head & (load(subject.truth["noiseless"]) < 0.002 * scan["scale"])]
        sigma = scan["scale"] / scan["snr"]
        assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)
        assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)


def test_contrast_is_t1_weighted(phantom):
    for subject in phantom.subjects:
        image = load(subject.truth["noiseless"])
        means = [image[load(subject.truth[t]) > 0.95].mean() for t in ("csf", "gm", "wm")]
        assert means[0] < 0.5 * means[1] < 0.5 * means[2]
        head = load(subject.truth["head_mask"]) > 0
        around = head & ~(load(subject.truth["brain_mask"]) > 0)
        assert np.percentile(image[around], 99) > means[2]  # fat
        assert np.percentile(image[around], 10) < means[0]  # bone, sinuses


def in_template(subject):
    """Map each brain voxel of a subject to the template, shape (N, 3); return labels too."""
    dseg_img = nb.load(subject.truth["dseg"])
    labels = np.asarray(dseg_img.dataobj)
    voxels = np.argwhere(labels > 0)
    world = voxels @ dseg_img.affine[:3, :3].T + dseg_img.affine[:3, 3]
    field = files.read_displacement(subject.truth["to_template"])
    return world, field.apply(world), labels[labels > 0]


def template_labels(points):
    template = load_template(1)
    labels = np.where(template.brain_mask, np.argmax(template.tpms, axis=0) + 1, 0)
    index = np.rint(points - template.affine[:3, 3]).astype(int)
    index = np.clip(index, 0, np.array(labels.shape) - 1)
    return labels[tuple(index.T)]


def test_the_true_deformation_beats_the_best_affine_by_far(phantom):
    """Bad registration must cost as much as affine registration between real heads."""
    for subject in phantom.subjects:
        world, points, labels = in_template(subject)
        design = np.column_stack([world, np.ones(len(world))])
        affine_points = design @ np.linalg.lstsq(design, points, rcond=None)[0]
        true = tissue_dice(template_labels(points), labels)
        affine = tissue_dice(template_labels(affine_points), labels)
        assert true["GM"] > 0.85
        assert 0.55 < affine["GM"] < 0.78
        assert true["GM"] - affine["GM"] > 0.12
        assert true["WM"] - affine["WM"] > 0.12
        residual = np.linalg.norm(points - affine_points, axis=1)
        assert 3 < residual.mean() < 7


def test_the_true_deformation_does_not_fold_and_brings_the_template_mask(phantom):
    for subject in phantom.subjects:
        for name in ("to_template", "to_scan"):
            field = files.read_displacement(subject.truth[name])
            inner = np.zeros(field.data.shape[:3], bool)
            inner[2:-2, 2:-2, 2:-2] = True
            assert folded_voxels(field.data, field.affine, inner) == 0
        _, points, _ = in_template(subject)
        assert (template_labels(points) > 0).mean() > 0.98


def kmeans(values, start):
    """Run Lloyd's algorithm on intensities from fixed starts; labels 0, 1, 2 by brightness."""
    centres = np.quantile(values, start)
    for _ in range(40):
        labels = np.abs(values[:, None] - centres).argmin(axis=1)
        centres = np.array([values[labels == k].mean() for k in range(3)])
    return labels


def test_skipping_bias_correction_costs_tissue_dice(phantom):
    """K-means within the true mask, on the scan as it is and on the scan over its bias."""
    losses = []
    for subject in phantom.subjects:
        mask = load(subject.truth["brain_mask"]) > 0
        t1w = load(subject.t1w)[mask]
        bias = load(subject.truth["bias"])[mask]
        truth = load(subject.truth["dseg"])[mask]
        found = [
            tissue_dice(np.array([3, 1, 2])[kmeans(image, (0.05, 0.4, 0.8))], truth)
            for image in (t1w, t1w / bias)
        ]
        raw, corrected = ((scores["GM"] + scores["WM"]) / 2 for scores in found)
        assert corrected > 0.8
        losses.append(corrected - raw)
    assert min(losses) > 0.02
    assert np.mean(losses) > 0.05


def test_sessions_and_runs_scan_the_same_brain_anew(tmp_path):
    (subject,) = write_phantom_dataset(
        tmp_path / "out", subjects=1, resolution=6.0, seed=2, sessions=2, runs=2
    )
    assert [(scan.session, scan.run) for scan in subject.scans] == [
        ("01", 1), ("01", 2), ("02", 1), ("02", 2)
    ]  # fmt: skip
    names = {scan.t1w.relative_to(tmp_path / "out").as_posix() for scan in subject.scans}
    assert "sub-01/ses-02/anat/sub-01_ses-02_run-1_T1w.nii.gz" in names
    volumes = [
        json.loads(scan.truth["parameters"].read_text())["volumes_ml"]["wm"]
        for scan in subject.scans
    ]
    assert np.ptp(volumes) < 0.01 * np.mean(volumes)
    affines = {nb.load(scan.t1w).affine.tobytes() for scan in subject.scans}
    assert len(affines) == 4
    assert validate(tmp_path / "out") == []


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty") as caught:
            write_phantom_dataset(
                tmp_path, subjects=1, resolution=6.0, seed=0, overwrite=overwrite
            )
        assert caught.value.exit_code is ExitCode.CANNOT_CREATE
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwriting_replaces_the_phantom_and_keeps_what_others_derived(phantom, tmp_path):
    out = Path(shutil.copytree(phantom.root, tmp_path / "bids"))
    derived = out / "derivatives" / "other" / "result.txt"
    derived.parent.mkdir()
    derived.touch()
    with pytest.raises(InputError, match="--overwrite"):
        write_phantom_dataset(out, subjects=1, resolution=6.0, seed=1)
    assert (out / "sub-03").exists()
    write_phantom_dataset(out, subjects=1, resolution=6.0, seed=1, overwrite=True)
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-01"]
    assert derived.exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"subjects": 0}, "number of subjects"),
        ({"resolution": 0.1}, "resolution"),
        ({"resolution": float("nan")}, "resolution"),
        ({"seed": -1}, "seed"),
        ({"sessions": -1}, "sessions"),
        ({"runs": 0}, "runs"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong, says):
    numbers = {"subjects": 1, "resolution": 3.0, "seed": 0, **wrong}
    with pytest.raises(UsageError, match=says):
        write_phantom_dataset(tmp_path / "out", **numbers)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file"):
        write_phantom_dataset(tmp_path / "out", subjects=1, resolution=6.0, seed=0)


def test_the_command_writes_and_says_where(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = tmp_path / "ds"
    options = ["--subjects", "1", "--resolution", "6", "--dicom", "enhanced"]
    arguments = parser.parse_args([str(out), *options])
    assert command.run(arguments) == 0
    said = capsys.readouterr().out
    assert "sub-01: adult" in said
    assert str(out / "derivatives" / "truth") in said
    assert f"2 series of DICOM in {out / 'sourcedata'}" in said
    assert (out / "sourcedata" / "sub-01" / "002-anat-T1w" / "IM000001.dcm").is_file()
    assert "optimistic" in (out / "README").read_text()
