"""Phase encoding and readout time of EPIs."""

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.dwi import examine_dwi
from neuroferry.bids.epi import (
    check_readout_time,
    encoding_difference,
    epi_encoding,
    settle_encoding,
)
from neuroferry.bids.model import Image, Subject
from neuroferry.errors import InputError
from neuroferry.selection.dwi_fieldmaps import choose_dwi_fieldmap
from neuroferry.selection.fieldmaps import choose_fieldmap

J = {"PhaseEncodingDirection": "j"}


def make(suffix="bold", name=None, folder="func", root=Path("/data/sub-01"), **metadata):
    return Image(root / (name or f"sub-01_{suffix}.nii.gz"), {}, suffix, folder, metadata)


@pytest.fixture
def on_disk(tmp_path):
    """Write an image with 64 lines along j."""
    path = tmp_path / "sub-01_bold.nii.gz"
    nb.Nifti1Image(np.zeros((20, 64, 10, 5), np.int16), np.diag([3.0, 3, 3, 1])).to_filename(path)
    return tmp_path


@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-", "k", "k-", "j+"])
def test_directions(direction):
    found = settle_encoding(make(PhaseEncodingDirection=direction, TotalReadoutTime=0.05))
    assert found.direction == direction.removesuffix("+")
    assert found.axis == direction[0]
    assert found.readout_time == 0.05
    assert (found.no_direction, found.no_readout_time, found.notes) == ("", "", ())


@pytest.mark.parametrize("direction", ["AP", "y", "j--", "", "x-", 1, ["j"]])
def test_what_is_no_direction_is_named(direction):
    run = make(PhaseEncodingDirection=direction, TotalReadoutTime=0.05)
    found = settle_encoding(run)
    assert (found.direction, found.axis) == (None, None)
    assert f"PhaseEncodingDirection is {direction!r}; it must be i, j or k" in found.no_direction
    with pytest.raises(InputError, match=r"in the sidecar of sub-01_bold\.nii\.gz"):
        epi_encoding(run)


def test_the_axis_alone_leaves_the_polarity_open():
    found = settle_encoding(
        make(PhaseEncodingAxis="j", EffectiveEchoSpacing=1e-3, ReconMatrixPE=51)
    )
    assert (found.direction, found.axis) == (None, "j")
    assert found.readout_time == pytest.approx(0.05)
    assert "the sign is unknown; the polarity is never guessed" in found.no_direction


@pytest.mark.parametrize(
    ("sidecar", "readout"),
    [
        ({"TotalReadoutTime": 0.04}, 0.04),
        ({"EffectiveEchoSpacing": 5e-4}, 63 * 5e-4),
        ({"EffectiveEchoSpacing": 5e-4, "ReconMatrixPE": 101}, 0.05),
        ({"TotalReadoutTime": 0, "EffectiveEchoSpacing": 5e-4}, 63 * 5e-4),
        # partial Fourier of 5/8: lines that were acquired, and lines of the image
        ({"TotalReadoutTime": 0.625 * 0.0315, "EffectiveEchoSpacing": 5e-4}, 0.625 * 0.0315),
        # lines counted without the minus one
        ({"TotalReadoutTime": 0.032, "EffectiveEchoSpacing": 5e-4}, 0.032),
    ],
)
def test_readout_times(on_disk, sidecar, readout):
    found = settle_encoding(make(root=on_disk, **J, **sidecar))
    assert found.readout_time == pytest.approx(readout)
    assert found.no_readout_time == ""


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0, 1 / 4, 10.0])
def test_a_readout_time_that_contradicts_the_echo_spacing_is_not_used(on_disk, factor):
    """An acceleration of 2, 3 or 4 missing in one of the two, or another unit."""
    sidecar = {**J, "EffectiveEchoSpacing": 5e-4, "TotalReadoutTime": factor * 0.0315}
    run = make(root=on_disk, **sidecar)
    found = settle_encoding(run)
    assert (found.direction, found.readout_time) == ("j", None)
    with pytest.raises(InputError, match="contradicts itself: TotalReadoutTime is") as caught:
        epi_encoding(run)
    assert "x (lines - 1) is 0.0005 x 63 = 0.0315 s; neither is used" in str(caught.value)


def test_a_contradiction_leaves_a_bold_run_uncorrected_with_the_reason(on_disk):
    sidecar = {**J, "EffectiveEchoSpacing": 5e-4, "TotalReadoutTime": 0.063}
    bold = make(root=on_disk, **sidecar)
    fieldmap = [
        make(suffix, folder="fmap", EchoTime1=0.004, EchoTime2=0.006)
        for suffix in ("phasediff", "magnitude1")
    ]
    plan = choose_fieldmap(Subject("01", (bold, *fieldmap)), bold)
    assert plan.method is None
    assert "is not corrected for susceptibility distortion: the sidecar of" in plan.warnings[0]
    assert "contradicts itself" in plan.warnings[0]


def test_a_contradiction_leaves_a_diffusion_run_uncorrected_with_the_reason(tmp_path):
    def write(name, **sidecar):
        folder = tmp_path / "sub-01" / "dwi"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.nii.gz"
        image = nb.Nifti1Image(np.ones((20, 64, 10, 8), np.int16), np.diag([3.0, 3, 3, 1]))
        image.to_filename(path)
        vectors = np.array([[0, 0, 0]] * 2 + [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2, float)
        vectors[5:] = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2**0.5
        np.savetxt(folder / f"{name}.bvec", vectors.T)
        np.savetxt(folder / f"{name}.bval", [[0, 0, *[1000] * 6]])
        return Image(path, {"subject": "01"}, "dwi", "dwi", sidecar)

    both = {"EffectiveEchoSpacing": 5e-4, "TotalReadoutTime": 0.063}
    one = write("sub-01_dir-AP_dwi", PhaseEncodingDirection="j-", **both)
    other = write("sub-01_dir-PA_dwi", PhaseEncodingDirection="j", TotalReadoutTime=0.0315)
    run, findings = examine_dwi(one)
    assert run is not None
    assert run.readout_time is None
    assert ["contradicts itself" in finding.message for finding in findings] == [True]
    plan = choose_dwi_fieldmap(Subject("01", (one, other)), run)
    assert plan.method is None
    assert "contradicts itself" in plan.warnings[0]


def test_times_that_are_none_are_named():
    found = settle_encoding(make(**J, TotalReadoutTime=45))
    assert found.readout_time is None
    assert "TotalReadoutTime = 45, which is not a time between 0.001" in found.no_readout_time
    assert "has neither TotalReadoutTime" in settle_encoding(make(**J)).no_readout_time
    for bad in (0.0, 1.0, 50.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1 s"):
            check_readout_time(bad)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"EffectiveEchoSpacing": 0.58}, "EffectiveEchoSpacing = 0.58, which is not a time"),
        ({"EffectiveEchoSpacing": 0.58}, "it is probably in milliseconds: correct it, in seconds"),
        ({"EffectiveEchoSpacing": 580}, "it is probably in microseconds"),
        ({"TotalReadoutTime": 36.5}, "it is probably in milliseconds"),
        ({"TotalReadoutTime": 3.65e-5}, "not a time between 0.001 and 1 s: correct it"),
        ({"TotalReadoutTime": "0.05"}, "TotalReadoutTime = '0.05'"),
        ({"WaterFatShift": 12.1}, "WaterFatShift alone does not give it"),
    ],
)
def test_times_in_another_unit_are_refused(sidecar, words):
    found = settle_encoding(make(**J, ReconMatrixPE=64, **sidecar))
    assert found.readout_time is None
    assert words in found.no_readout_time


def test_of_two_times_the_possible_one_is_used_and_said():
    both = {"EffectiveEchoSpacing": 0.58, "TotalReadoutTime": 0.0365}
    found = settle_encoding(make(**J, ReconMatrixPE=64, **both))
    assert found.readout_time == 0.0365
    assert "it is probably in milliseconds: correct it, in seconds. TotalRe" in found.notes[0]
    both = {"EffectiveEchoSpacing": 0.00058, "TotalReadoutTime": 36.5}
    found = settle_encoding(make(**J, ReconMatrixPE=64, **both))
    assert found.readout_time == pytest.approx(0.00058 * 63)
    assert "EffectiveEchoSpacing is used" in found.notes[0]


@pytest.mark.parametrize(
    ("sidecar", "difference"),
    [
        ({}, ""),
        ({**J, "TotalReadoutTime": 0.0502}, ""),
        ({"PhaseEncodingAxis": "j"}, ""),
        (
            {"PhaseEncodingDirection": "j-"},
            "a different PhaseEncodingDirection (j-) from the run (j)",
        ),
        ({"PhaseEncodingAxis": "i"}, "a different phase-encoding axis (i) from the run (j)"),
        (
            {"TotalReadoutTime": 0.04},
            "a different TotalReadoutTime (0.04 s) from the run (0.05 s)",
        ),
    ],
)
def test_references_must_be_encoded_as_their_run(sidecar, difference):
    run = make(**J, TotalReadoutTime=0.05)
    assert encoding_difference(make("sbref", **sidecar), run) == difference
