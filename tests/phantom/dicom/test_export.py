"""What dcm2niix makes of each form of export is what the phantom scanned."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nb
import numpy as np
import pytest
from pydicom import dcmread

from neuroferry.errors import InputError, UsageError
from neuroferry.phantom.dicom import ScannedSeries, read_session, write_dicom

pytestmark = pytest.mark.slow

FORMS = [
    ("mosaic", "siemens"),
    ("classic", "siemens"),
    ("classic", "ge"),
    ("classic", "philips"),
    ("enhanced", "siemens"),
    ("enhanced", "philips"),
]
#: Largest error of a slice time, s; none where the vendor's files do not tell. dcm2niix keeps the
#: time of day of Siemens' single slices in single precision, HHMMSS: to 8 ms.
SLICE_TIMES = {
    ("mosaic", "siemens"): {"bold": 1e-5, "dwi": 1e-5},
    ("classic", "siemens"): {"bold": 8e-3, "dwi": 8e-3},
    ("classic", "ge"): {"bold": 1e-4},
    ("enhanced", "siemens"): {"bold": 1e-5, "dwi": 1e-5},
}
POLARITY_KNOWN = ("siemens", "ge")


def convert(folder: Path, out: Path) -> list[Path]:
    """Convert a folder with dcm2niix; return its images."""
    out.mkdir(parents=True)
    subprocess.run(
        [dcm2niix.bin, "-z", "n", "-f", "image", "-o", out, folder],
        check=True,
        capture_output=True,
    )
    return sorted(out.glob("*.nii"))


def sidecar(image: Path) -> dict:
    return json.loads(image.with_name(image.name.split(".nii")[0] + ".json").read_text())


def canonical(path: Path):
    image = nb.as_closest_canonical(nb.load(path))
    return np.asanyarray(image.dataobj), image.affine


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def converted(request, scanned, tmp_path_factory):
    """Export a session, convert each series; pairs of a scan and its converted image."""
    form, vendor = request.param
    root = tmp_path_factory.mktemp("dicom")
    folders = write_dicom(scanned, root / "in", form=form, vendor=vendor)
    scans = read_session(scanned / "sub-01")
    assert len(folders) == 1 + len({scan.number for scan in scans})
    pairs: list[tuple[ScannedSeries, Path]] = []
    for folder in folders[1:]:
        echoes = [scan for scan in scans if f"{scan.number:03d}-{scan.protocol}" == folder.name]
        images = convert(folder, root / "out" / folder.name)
        assert len(images) == len(echoes), folder.name
        by_time = sorted(images, key=lambda one: sidecar(one)["EchoTime"])
        pairs += zip(echoes, by_time, strict=True)
    assert {"T1w", "bold", "dwi", "epi", "phasediff"} <= {scan.suffix for scan, _ in pairs}
    return request.param, pairs


def test_every_voxel_lies_where_it_was_scanned(converted):
    for scan, image in converted[1]:
        data, affine = canonical(image)
        truth, placed = canonical(scan.source)
        np.testing.assert_array_equal(data, truth, err_msg=scan.protocol)
        np.testing.assert_allclose(affine, placed, atol=1e-3, err_msg=scan.protocol)


def test_timing_is_that_of_the_scan(converted):
    form, pairs = converted
    for scan, image in pairs:
        assert sidecar(image)["RepetitionTime"] == pytest.approx(scan.tr)
        if scan.n_volumes > 1:
            assert nb.load(image).header.get_zooms()[3] == pytest.approx(scan.tr)
        tolerance = SLICE_TIMES.get(form, {}).get(scan.suffix)
        if tolerance is not None:
            times = sidecar(image)["SliceTiming"]
            np.testing.assert_allclose(times, scan.sidecar["SliceTiming"], atol=tolerance)


def test_the_readout_is_that_of_the_scan(converted):
    form, pairs = converted
    for scan, image in pairs:
        if not scan.is_epi:
            continue
        made, truth = sidecar(image), scan.sidecar
        assert made["EchoTime"] == pytest.approx(truth["EchoTime"])
        assert made["FlipAngle"] == truth["FlipAngle"]
        if form[1] in POLARITY_KNOWN:
            assert made["PhaseEncodingDirection"] == truth["PhaseEncodingDirection"]
            assert made["TotalReadoutTime"] == pytest.approx(truth["TotalReadoutTime"], rel=1e-4)
            spacing = pytest.approx(truth["EffectiveEchoSpacing"], rel=1e-4)
            assert made["EffectiveEchoSpacing"] == spacing
        else:
            assert made["PhaseEncodingAxis"] == truth["PhaseEncodingDirection"][0]


def test_gradients_point_where_they_were_played_out(converted):
    for scan, image in converted[1]:
        if scan.suffix != "dwi":
            continue
        beside = scan.source.with_name(scan.source.name.removesuffix(".nii.gz"))
        for ending in (".bval", ".bvec"):
            made, truth = (
                np.loadtxt(path)
                for path in (image.with_suffix(ending), beside.with_name(beside.name + ending))
            )
            np.testing.assert_allclose(made, truth, atol=1e-5)


def test_names_follow_reproin_and_nothing_repeats(scanned, tmp_path):
    folders = write_dicom(scanned, tmp_path, form="mosaic")
    assert [folder.name for folder in folders] == [
        "001-anat-scout",
        "002-anat-T1w",
        "003-fmap_dir-AP",
        "004-fmap_dir-PA",
        "005-fmap",
        "006-fmap",
        "007-func-bold_task-blocks",
        "008-dwi",
    ]
    heads = [dcmread(path, stop_before_pixels=True) for path in tmp_path.rglob("*.dcm")]
    assert len({ds.SOPInstanceUID for ds in heads}) == len(heads)
    assert len({ds.SeriesInstanceUID for ds in heads}) == len(folders)
    assert len({ds.StudyInstanceUID for ds in heads}) == 1
    assert {ds.PatientID for ds in heads} == {"01"}
    numbers = [(int(ds.SeriesNumber), int(ds.InstanceNumber)) for ds in heads]
    assert len(set(numbers)) == len(numbers)


def test_the_same_dataset_gives_the_same_bytes(scanned, tmp_path):
    for name in "ab":
        write_dicom(scanned, tmp_path / name, form="enhanced", vendor="philips")
    for path in (tmp_path / "a").rglob("*.dcm"):
        again = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("form", "vendor", "message"),
    [
        ("nrrd", "siemens", "the form must be one of classic, mosaic, enhanced, not nrrd"),
        ("classic", "acme", "the vendor must be one of"),
        ("mosaic", "ge", "mosaics are Siemens' own"),
        ("enhanced", "ge", "not GE"),
    ],
)
def test_what_no_vendor_writes_is_refused(scanned, tmp_path, form, vendor, message):
    with pytest.raises(UsageError, match=message):
        write_dicom(scanned, tmp_path, form=form, vendor=vendor)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no participant"):
        write_dicom(tmp_path, tmp_path / "out")
