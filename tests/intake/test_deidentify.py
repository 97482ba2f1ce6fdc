"""DICOM without the patient converts to the same images, and holds nothing of the patient."""

from __future__ import annotations

import filecmp

import pytest
from pydicom import dcmread
from scanner import PATIENT, made, received, scan

from neuroferry.errors import InputError
from neuroferry.intake.dcm2niix import convert
from neuroferry.intake.deidentify import Pseudonym, deidentify, shift_date
from neuroferry.intake.identity import find_identifiers

KEY = b"k" * 32
FORMS = [
    ("mosaic", "siemens"),
    ("classic", "siemens"),
    ("classic", "ge"),
    ("classic", "philips"),
    ("enhanced", "siemens"),
    ("enhanced", "philips"),
]


def pseudonym(dates="shift"):
    return Pseudonym("01", "abc", KEY, -40000, dates)


def cleaned(series, folder, dates="shift"):
    known = find_identifiers(series, "01")
    paths = []
    for number, one in enumerate(series.instances):
        paths.append(folder / f"{number}.dcm")
        deidentify(one.path, paths[-1], pseudonym(dates), known)
    return paths


@pytest.mark.parametrize(("form", "vendor"), FORMS, ids="-".join)
def test_the_converter_makes_the_same_of_it(tmp_path, form, vendor):
    series = received(tmp_path / "in", made(scan("dwi"), form, vendor))
    paths = cleaned(series, tmp_path / "out")
    (before,), _ = convert([one.path for one in series.instances], tmp_path / "a")
    (after,), _ = convert(paths, tmp_path / "b")
    assert filecmp.cmp(before.image, after.image, shallow=False)
    assert len(after.gradients) == 2
    for one, other in zip(before.gradients, after.gradients, strict=True):
        assert one.read_text() == other.read_text()
    lost = {key for key, value in before.content.items() if after.content.get(key) != value}
    assert lost <= {"InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName"}


@pytest.mark.parametrize("dates", ["shift", "remove", "keep"])
def test_what_is_not_listed_goes(tmp_path, dates):
    group = made(scan("func_task-rest"))
    for one in group:
        ds = one.dataset
        ds.PatientAddress = "Main Street"
        ds.OperatorsName = "Operatrix^Olga"
        ds.ImageComments = "a free text"
        ds.SeriesDescription = "func_task-rest Mustermann"
        ds.add_new(0x00091001, "LO", "unknown")
        ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value += b"\0Mustermann 20240305\0"
    series = received(tmp_path / "in", group)
    paths = cleaned(series, tmp_path / "out", dates)
    for path in paths:
        raw = path.read_bytes().lower()
        words = [
            PATIENT.id,
            "Mustermann",
            "Erika",
            PATIENT.birth_date,
            "Main",
            "Operatrix",
            "a free",
        ]
        assert not any(word.lower().encode() in raw for word in words)
        assert (b"20240305" in raw) == (dates == "keep")
    ds = dcmread(paths[0])
    assert (str(ds.PatientName), ds.PatientID) == ("sub-01^abc", "sub-01")
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.SeriesDescription == "func_task-rest removed"
    assert ds.AcquisitionDate == {
        "shift": shift_date("20240305", -40000), "remove": "", "keep": "20240305"
    }[dates]  # fmt: skip
    assert (ds.AcquisitionTime == "") == (dates == "remove")
    others = [dcmread(path) for path in paths]
    assert len({other.SeriesInstanceUID for other in others}) == 1
    assert len({other.SOPInstanceUID for other in others}) == len(paths)
    original = dcmread(series.first.path)
    assert ds.SeriesInstanceUID != original.SeriesInstanceUID
    assert ds.SOPClassUID == original.SOPClassUID


def test_pictures_of_a_screen_are_not_written(tmp_path):
    series = received(tmp_path / "in", made(scan("anat-T1w"), "classic")[:1])
    ds = dcmread(series.first.path)
    ds.BurnedInAnnotation = "YES"
    ds.save_as(series.first.path)
    with pytest.raises(InputError, match="picture of a screen"):
        cleaned(series, tmp_path / "out")
    assert not (tmp_path / "out").exists()
