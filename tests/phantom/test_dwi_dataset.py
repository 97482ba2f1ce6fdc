"""Diffusion files on disk: valid, correctly described, and consistent with their truth."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sysconfig
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.cli import phantom as command
from neuroferry.phantom import DwiOptions, files
from neuroferry.phantom.bundles import BUNDLES
from neuroferry.phantom.dwi_dataset import write_dwi_session
from neuroferry.phantom.place import Place
from neuroferry.phantom.score import dice, effect_recovery
from neuroferry.phantom.score_dwi import (
    direction_error,
    gradient_error,
    profile_along,
    profile_correlation,
)
from neuroferry.phantom.t1w import ScanParameters, scan_pose

pytestmark = pytest.mark.slow

MAPS = ("fa", "md", "ad", "rd", "direction", "tensor", "fibres", "fraction", "bundles")


def load(path):
    return np.asarray(nb.load(path).dataobj, dtype=np.float32)


def sidecar(path):
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def numbers(path, *columns):
    return np.array([[float(row[name]) for name in columns] for row in rows(path)])


@pytest.fixture(scope="module")
def run(diffusion):
    return diffusion.subjects[0].dwi[0]


@pytest.mark.parametrize("part", [".", "derivatives/truth"])
def test_the_dataset_and_its_truth_are_valid_bids(diffusion, part):
    program = Path(sysconfig.get_path("scripts")) / "bids-validator-deno"
    done = subprocess.run(
        [program, "--format", "json", diffusion.root / part],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_diffusion_scans_leave_the_anatomical_bytes_as_they_were(phantom, diffusion):
    several = 0
    for path in diffusion.root.rglob("sub-01*"):
        if path.parent.name == "anat":
            again = phantom.root / path.relative_to(diffusion.root)
            assert path.read_bytes() == again.read_bytes(), path.name
            several += 1
    assert several > 15


def test_the_same_arguments_give_the_same_bytes(anatomy, diffusion, run, tmp_path):
    """Another process would draw the same: all initial draws are repeated here."""
    drawn = json.loads(diffusion.subjects[0].truth["parameters"].read_text())["scan"]
    options = DwiOptions(7, bvals=(1000.0, 2000.0), n_b0=2, resolution=6.0, fieldmaps=())
    pose = scan_pose(ScanParameters(**drawn))
    (again,), maps = write_dwi_session(Place(tmp_path, "01", None), anatomy, pose, options)
    assert maps is None
    assert [p.read_bytes() for p in (again.dwi, again.bval, again.bvec)] == [
        p.read_bytes() for p in (run.dwi, run.bval, run.bvec)
    ]
    for name, path in again.truth.items():
        if name != "parameters":  # names the field maps
            assert path.read_bytes() == run.truth[name].read_bytes(), name


def test_header_sidecar_and_gradient_files_agree(run):
    image, metadata = nb.load(run.dwi), sidecar(run.dwi)
    assert image.shape[3] == 16
    assert image.get_data_dtype() == np.int16
    assert image.header.get_zooms()[3] == pytest.approx(metadata["RepetitionTime"])
    assert metadata["EchoTime"] == 0.08
    assert len(metadata["SliceTiming"]) == image.shape[2]
    assert metadata["TotalReadoutTime"] == pytest.approx(
        metadata["EffectiveEchoSpacing"] * (image.shape[1] - 1)
    )
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    bvals, bvecs = np.loadtxt(run.bval), np.loadtxt(run.bvec)
    assert bvals.shape == (16,)
    assert bvecs.shape == (3, 16)
    assert sorted(set(bvals)) == [0, 1000, 2000]
    assert bvals[0] == 0
    np.testing.assert_allclose(np.linalg.norm(bvecs, axis=0), bvals > 0, atol=1e-6)


def test_the_gradient_file_is_the_true_table_along_the_voxel_axes(run):
    """By FSL's definition: components along i, j, k, the first reversed if needed."""
    image = nb.load(run.dwi)
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    components = np.loadtxt(run.bvec).T
    if np.linalg.det(axes) > 0:
        components[:, 0] *= -1
    played = numbers(run.truth["gradients"], "x", "y", "z")
    np.testing.assert_allclose(components @ axes.T, played, atol=1e-6)
    np.testing.assert_array_equal(
        np.loadtxt(run.bval), numbers(run.truth["gradients"], "bval")[:, 0]
    )


def test_the_head_saw_gradients_turned_by_its_own_motion(run):
    played = numbers(run.truth["gradients"], "x", "y", "z")
    seen = numbers(run.truth["gradients"], "head_x", "head_y", "head_z")
    motion = files.read_affines(run.truth["motion_xfms"])
    expected = np.stack([m[:3, :3].T @ g for m, g in zip(motion, played, strict=True)])
    np.testing.assert_allclose(seen, expected, atol=1e-7)
    assert gradient_error(seen, played)[1] > 0.1
    whole = files.read_affines(run.truth["eddy_xfms"])
    affine = nb.load(run.dwi).affine
    axis = "ijk".index(sidecar(run.dwi)["PhaseEncodingDirection"][0])
    eddy = np.linalg.inv(affine) @ whole @ np.linalg.inv(motion) @ affine - np.eye(4)
    others = [row for row in range(3) if row != axis]
    np.testing.assert_allclose(eddy[:, others], 0, atol=1e-6)
    assert np.abs(eddy[:, axis]).max() > 0.01
    np.testing.assert_allclose(whole[0], np.eye(4), atol=1e-12)


def test_the_truth_lies_on_the_grid_of_the_run(run):
    image = nb.load(run.dwi)
    for name in (*MAPS, "fieldmap", "brain_mask", "dseg", "gm", "noiseless", "dwiref"):
        truth = nb.load(run.truth[name])
        assert truth.shape[:3] == image.shape[:3], name
        np.testing.assert_allclose(truth.affine, image.affine)
    brain = load(run.truth["brain_mask"]) > 0
    first = load(run.dwi)[..., 0]
    assert effect_recovery(first, load(run.truth["dwiref"]), brain)[1] > 0.98
    assert dice(load(run.truth["dseg"]) > 0, brain) == 1
    assert dice(load(run.truth["fa"]) > 0, brain) == 1
    white = load(run.truth["wm"]) > 0.9
    assert 0.25 < np.median(load(run.truth["fa"])[white]) < 0.6
    assert np.median(load(run.truth["md"])[white]) == pytest.approx(7.8e-4, rel=0.06)


def test_fibres_run_along_the_centre_lines(run):
    """In voxels filled by one bundle, the principal direction is that of its centre line."""
    affine = nb.load(run.dwi).affine
    labels, fraction = load(run.truth["bundles"]), load(run.truth["fraction"])
    alone = (load(run.truth["fibres"]) == 1) & (fraction > 0.6)
    points: dict[str, list[list[float]]] = {
        row["tractID"]: [] for row in rows(run.truth["centre_lines"])
    }
    for row in rows(run.truth["centre_lines"]):
        points[row["tractID"]].append([float(row[axis]) for axis in "xyz"])
    names = {int(row["index"]): row["name"] for row in rows(run.truth["bundle_table"])}
    direction = load(run.truth["direction"])
    found, expected = [], []
    for index in np.argwhere(alone):
        line = np.array(points[names[int(labels[tuple(index)])]])
        where = affine[:3, :3] @ index + affine[:3, 3]
        nearest = np.clip(np.linalg.norm(line - where, axis=1).argmin(), 1, 98)
        expected.append(line[nearest + 1] - line[nearest - 1])
        found.append(direction[tuple(index)])
    assert len(found) > 15
    assert direction_error(found, expected, np.ones(len(found)))[0] < 12


def test_the_way_to_the_t1w_is_the_way_to_the_t1w(diffusion, run):
    """The transform maps the centre of the brain to its position in the T1w image."""
    middles = []
    for path in (diffusion.subjects[0].truth["wm"], run.truth["wm"]):
        image = nb.load(path)
        weights = load(path)
        index = np.moveaxis(np.indices(weights.shape), 0, -1)
        centre = (index * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()
        middles.append(image.affine @ [*centre, 1.0])
    matrix = files.read_affines(run.truth["dwiref_to_t1w"])[0]
    assert np.linalg.norm(matrix @ middles[0] - middles[1]) < 1.0
    assert np.linalg.norm(middles[0] - middles[1]) > 1.5


def test_profiles_have_the_layout_that_others_read(run):
    for name in ("profiles", "fibre_profiles"):
        table = rows(run.truth[name])
        assert list(table[0])[:3] == ["subjectID", "tractID", "nodeID"]
        assert set(table[0]) == {"subjectID", "tractID", "nodeID", "fa", "md", "rd", "ad"}
        assert len(table) == 100 * len(BUNDLES)
        assert {row["subjectID"] for row in table} == {"sub-01"}
        assert [row["nodeID"] for row in table[:100]] == [str(node) for node in range(100)]


def test_the_fibres_of_each_bundle_lie_about_its_centre(run):
    table = rows(run.truth["centre_lines"])
    for bundle in BUNDLES:
        lines = nb.streamlines.load(run.truth[f"tract {bundle.name}"]).streamlines
        assert len(lines) == 100
        centre = np.array(
            [[float(row[a]) for a in "xyz"] for row in table if row["tractID"] == bundle.name]
        )
        for part, node in ((0.0, 0), (0.5, 50), (1.0, 99)):
            middle = np.mean([line[int(part * (len(line) - 1))] for line in lines], axis=0)
            # the head's own form bends a cross-section of up to 9 mm
            assert np.linalg.norm(middle - centre[node]) < 3, bundle.name


def test_a_line_beside_the_true_one_reads_the_true_profile(run):
    lines = numbers(run.truth["centre_lines"], "x", "y", "z")[:100]
    profile = numbers(run.truth["fibre_profiles"], "fa")[:100, 0]
    beside = lines[10:90:2] + 0.3
    read = profile_along(beside[::-1], lines, profile)
    assert profile_correlation(read[::-1], profile[10:90:2]) > 0.99
    assert profile_correlation(read, profile[10:90:2]) < 0.9


def test_field_maps_say_whom_they_are_for(diffusion, run):
    [maps] = diffusion.subjects[0].dwi_fieldmaps
    assert set(maps.images) == {"epi-AP", "epi-PA"}
    sources = sidecar(run.dwi)["B0FieldSource"]
    identifiers = {sidecar(path)["B0FieldIdentifier"] for path in maps.images.values()}
    assert identifiers == {sources} == {"dwiepi"}
    for path in maps.images.values():
        assert "_acq-dwi_" in path.name
        for uri in sidecar(path)["IntendedFor"]:
            assert (diffusion.root / uri.removeprefix("bids::")) == run.dwi
    ways = [sidecar(maps.images[f"epi-{way}"])["PhaseEncodingDirection"] for way in ("AP", "PA")]
    assert ways[0] == sidecar(run.dwi)["PhaseEncodingDirection"] != ways[1]
    assert set(maps.truth) == {"epi_to_dwiref"}


def test_the_command_turns_arguments_into_options():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.dwi_options(parser.parse_args(["out"])) is None
    without = ["--dwi-without", "motion", "noise", "distortion", "eddy", "dropped"]
    more = ["--dwi-bvals", "700", "2000", "--dwi-fieldmaps", "--dwi-direction", "PA"]
    chosen = command.dwi_options(parser.parse_args(["out", "--dwi", "12", *without, *more]))
    assert chosen is not None
    assert (chosen.directions, chosen.bvals, chosen.fieldmaps) == (12, (700, 2000), ())
    assert (chosen.drift, chosen.jerk, chosen.snr) == (0, 0, 0)
    assert (chosen.distortion, chosen.eddy, chosen.dropped) == (0, 0, 0)
    assert chosen.bias > 0
    assert chosen.direction == "PA"
    both = command.dwi_options(
        parser.parse_args(["out", "--dwi", "9", "--dwi-direction", "LR", "RL"])
    )
    assert both is not None
    assert both.run_directions == ("LR", "RL")
    plain = command.dwi_options(parser.parse_args(["out", "--dwi", "30"]))
    assert plain == DwiOptions(30)
