"""Functional files on disk: valid, correctly described, and consistent with their truth."""

from __future__ import annotations

import argparse
import json
import subprocess
import sysconfig
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from neuroferry.cli import phantom as command
from neuroferry.phantom import files
from neuroferry.phantom.fmap import GRE_ECHO_TIMES, PHASE_UNIT
from neuroferry.phantom.score import dice, effect_recovery

pytestmark = pytest.mark.slow


def load(path):
    return np.asarray(nb.load(path).dataobj, dtype=np.float32)


def sidecar(path):
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def errors(folder):
    program = Path(sysconfig.get_path("scripts")) / "bids-validator-deno"
    done = subprocess.run(
        [program, "--format", "json", folder], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


@pytest.fixture(scope="module")
def run(functional):
    return functional.subjects[0].bold[0]


@pytest.mark.parametrize("part", [".", "derivatives/truth"])
def test_the_dataset_and_its_truth_are_valid_bids(functional, part):
    assert errors(functional.root / part) == []


def test_functional_scans_leave_the_anatomical_bytes_as_they_were(phantom, functional):
    several = 0
    for path in functional.root.rglob("sub-01*"):
        if path.parent.name == "anat":
            again = phantom.root / path.relative_to(functional.root)
            assert path.read_bytes() == again.read_bytes(), path.name
            several += 1
    assert several > 15


def test_header_and_sidecar_agree(functional, run):
    assert len(run.echoes) == 3
    for path, te in zip(run.echoes, (0.013, 0.03, 0.047), strict=True):
        image, metadata = nb.load(path), sidecar(path)
        assert image.header.get_zooms()[3] == pytest.approx(metadata["RepetitionTime"])
        assert image.header.get_xyzt_units() == ("mm", "sec")
        assert image.shape[3] == 8
        assert image.get_data_dtype() == np.int16
        assert metadata["EchoTime"] == te
        assert len(metadata["SliceTiming"]) == image.shape[2]
        assert 0 <= min(metadata["SliceTiming"]) < max(metadata["SliceTiming"]) < 2.0
        assert metadata["TotalReadoutTime"] == pytest.approx(
            metadata["EffectiveEchoSpacing"] * (image.shape[1] - 1)
        )
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
        # From anterior to posterior.
        axis = "ijk".index(metadata["PhaseEncodingDirection"][0])
        towards = nb.aff2axcodes(image.affine)[axis]
        minus = metadata["PhaseEncodingDirection"].endswith("-")
        assert (towards, minus) in {("A", True), ("P", False)}


def test_the_truth_lies_on_the_grid_of_the_run(run):
    image = nb.load(run.bold)
    for name in ("fieldmap", "brain_mask", "dseg", "gm", "noiseless", "effect-face", "t2star"):
        truth = nb.load(run.truth[name])
        assert truth.shape == image.shape[:3], name
        np.testing.assert_allclose(truth.affine, image.affine)
    reference = json.loads(run.truth["parameters"].read_text())["reference_volume"]
    brain = load(run.truth["brain_mask"]) > 0
    volume = load(run.bold)[..., reference]
    assert effect_recovery(volume, load(run.truth["boldref"]), brain)[1] > 0.95
    assert dice(load(run.truth["dseg"]) > 0, brain) == 1


def test_the_way_to_the_t1w_is_the_way_to_the_t1w(functional, run):
    """Tissues resampled from the anatomical truth equal those of the functional truth."""
    subject = functional.subjects[0]
    anatomical, functional_gm = nb.load(subject.truth["gm"]), nb.load(run.truth["gm"])
    matrix = files.read_affines(run.truth["boldref_to_t1w"])[0]
    to_t1w = np.linalg.inv(anatomical.affine) @ np.linalg.inv(matrix) @ functional_gm.affine
    found = {}
    for tissue in ("gm", "wm", "csf"):
        smooth = ndimage.gaussian_filter(load(subject.truth[tissue]), 0.7)
        carried = ndimage.affine_transform(
            smooth, to_t1w[:3, :3], to_t1w[:3, 3], functional_gm.shape, order=1
        )
        truth = load(run.truth[tissue])
        found[tissue] = effect_recovery(carried, truth, truth + carried > 0.05)[1]
    assert min(found.values()) > 0.93, found
    moved = np.linalg.norm(matrix[:3, 3])
    assert moved > 1  # the head lies elsewhere


def test_decay_is_that_of_the_tissues(run):
    decay = load(run.truth["t2star"])
    gm = np.median(decay[load(run.truth["gm"]) > 0.9])
    wm = np.median(decay[load(run.truth["wm"]) > 0.95])
    assert 0.040 < gm < 0.058
    assert 0.036 < wm < 0.052


def test_tables_have_one_row_a_volume(run):
    motion = np.genfromtxt(run.truth["motion"], names=True, missing_values="n/a")
    assert len(motion) == 8
    assert motion.dtype.names is not None
    assert motion.dtype.names[-1] == "framewise_displacement"
    assert np.isnan(motion["framewise_displacement"][0])
    assert motion["trans_x"][4] == 0
    courses = np.genfromtxt(run.truth["courses"], names=True)
    assert len(courses) == 8
    assert {"cardiac", "face", "house"} <= set(courses.dtype.names or ())
    assert len(files.read_affines(run.truth["motion_xfms"])) == 8
    events = np.genfromtxt(run.events, names=True, dtype=None)
    assert events.dtype.names == ("onset", "duration", "trial_type")


def test_the_phase_difference_is_the_field_wrapped(functional):
    maps = functional.subjects[0].fieldmaps[0]
    metadata = sidecar(maps.images["phasediff"])
    assert (metadata["EchoTime1"], metadata["EchoTime2"]) == GRE_ECHO_TIMES
    phase = load(maps.images["phasediff"]) * PHASE_UNIT
    field, brain = load(maps.truth["gre_fieldmap"]), load(maps.truth["gre_mask"]) > 0
    turns = 2 * np.pi * (GRE_ECHO_TIMES[1] - GRE_ECHO_TIMES[0]) * field
    miss = np.angle(np.exp(1j * (phase - turns)))[brain]
    assert np.median(np.abs(miss)) < 0.05
    assert np.percentile(np.abs(miss), 99) < 0.3
    assert (np.abs(turns[brain]) > np.pi).any()  # there is something to unwrap
    assert np.abs(phase).max() <= np.pi + PHASE_UNIT
    direct = load(maps.images["fieldmap"])
    assert np.median(np.abs(direct - field)[brain]) < 2
    assert sidecar(maps.images["fieldmap"])["Units"] == "Hz"


def test_field_maps_say_whom_they_are_for(functional, run):
    maps = functional.subjects[0].fieldmaps[0]
    sources = sidecar(run.bold)["B0FieldSource"]
    identifiers = {sidecar(path)["B0FieldIdentifier"] for path in maps.images.values()}
    assert identifiers == set(sources)
    for path in maps.images.values():
        for uri in sidecar(path)["IntendedFor"]:
            assert (functional.root / uri.removeprefix("bids::")).exists()
    ways = {
        name: sidecar(p)["PhaseEncodingDirection"]
        for name, p in maps.images.items()
        if name.startswith("epi")
    }
    assert set(ways) == {"epi-AP", "epi-PA"}
    assert ways["epi-AP"] == sidecar(run.bold)["PhaseEncodingDirection"] != ways["epi-PA"]


def test_field_map_scans_lie_where_their_transforms_say(functional, run):
    maps = functional.subjects[0].fieldmaps[0]
    gre, bold = nb.load(maps.truth["gre_fieldmap"]), nb.load(run.truth["fieldmap"])
    matrix = files.read_affines(maps.truth["gre_to_boldref"])[0]
    to_gre = np.linalg.inv(gre.affine) @ matrix @ bold.affine
    carried = ndimage.affine_transform(
        load(maps.truth["gre_fieldmap"]), to_gre[:3, :3], to_gre[:3, 3], bold.shape, order=3
    )
    brain = ndimage.binary_erosion(load(run.truth["brain_mask"]) > 0)
    assert np.abs(carried - load(run.truth["fieldmap"]))[brain].max() < 1.0


def test_a_series_that_is_not_finished_leaves_nothing(tmp_path):
    volume = np.zeros((2, 2, 2), dtype=np.float32)
    with (
        pytest.raises(ValueError, match="lacks 1"),
        files.SeriesFile(tmp_path / "a.nii.gz", np.eye(4), (2, 2, 2, 2), 2.0) as series,
    ):
        series.add(volume)
    assert list(tmp_path.iterdir()) == []


def test_the_command_turns_arguments_into_options():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.bold_options(parser.parse_args(["out"])) is None
    without = ["--bold-without", "motion", "noise", "distortion", "slicetiming"]
    more = ["--bold-echo-times", "12", "28", "--bold-fieldmaps", "epi", "--bold-direction", "PA"]
    chosen = command.bold_options(parser.parse_args(["out", "--bold", "30", *without, *more]))
    assert chosen is not None
    assert chosen.n_volumes == 30
    assert chosen.echo_times == (0.012, 0.028)
    assert (chosen.drift, chosen.jerk, chosen.snr, chosen.distortion) == (0, 0, 0, 0)
    assert not chosen.slice_timing
    assert chosen.transient
    assert chosen.fieldmaps == ("epi",)
    assert chosen.direction == "PA"
    bare = parser.parse_args(["out", "--bold", "2", "--bold-fieldmaps"])
    options = command.bold_options(bare)
    assert options is not None
    assert options.fieldmaps == ()
