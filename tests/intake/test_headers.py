"""Headers of every vendor are read; what is no image or is cut off is said in one sentence."""

from __future__ import annotations

from datetime import datetime

import pytest
from pydicom import dcmread
from pydicom.uid import RawDataStorage
from scanner import PATIENT, SLICES, made, scan

from neuroferry.errors import InputError
from neuroferry.intake.headers import CutOffError, moment, protocol_number, read_instance
from neuroferry.phantom.dicom import write_objects


@pytest.fixture
def path(tmp_path):
    return write_objects(tmp_path, made(scan("func_task-rest", 7)))[2]


def changed(path, **values):
    header = dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(path)
    return path


def test_the_fields_of_an_instance(path):
    one = read_instance(path)
    assert (one.patient_id, one.patient_name, one.birth_date) == (
        PATIENT.id,
        PATIENT.name,
        PATIENT.birth_date,
    )
    assert (one.modality, one.series_number, one.instance_number) == ("MR", 7, 3)
    assert one.protocol == "func_task-rest"
    assert one.acquired == datetime(2024, 3, 5, 10, 5, 4)
    assert "MOSAIC" in one.image_type
    assert PATIENT.id not in repr(one)


@pytest.mark.parametrize("form", ["classic", "enhanced"])
def test_other_forms(tmp_path, form):
    paths = write_objects(tmp_path, made(scan("func_task-rest"), form, "philips"))
    one = read_instance(paths[0])
    assert one.n_frames == (1 if form == "classic" else SLICES * 6)
    assert one.acquired is not None
    assert one.manufacturer.upper().startswith("PHILIPS")


def test_without_preamble_and_with_values_that_break_the_standard(path, capsys):
    changed(path, AcquisitionDate="***", SeriesDate="2018.09.18", SeriesNumber=None)
    raw = path.read_bytes()
    path.write_bytes(raw[132:])
    one = read_instance(path)
    assert one.acquired is not None
    assert one.acquired.year == 2018
    assert one.series_number is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("left", [0.15, 0.3, 0.9, 0.999])
def test_an_object_that_is_cut_off(path, left):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * left)])
    with pytest.raises(CutOffError, match="cut off") as error:
        read_instance(path)
    assert error.value.path == path


@pytest.mark.parametrize("content", [b"", b"P6 picture", b"\0" * 200, b"DICM", b"\x08\0\x05\0CS"])
def test_what_is_no_dicom(tmp_path, content):
    path = tmp_path / "Mustermann.dcm"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_instance(path)
    assert "Mustermann" not in str(error.value)
    assert str(error.value).count(".") == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"Rows": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, "holds no image"),
        ({"SOPClassUID": RawDataStorage}, "raw data"),
        ({"SOPClassUID": "1.3.12.2.1107.5.9.1"}, "raw data"),
        ({"SeriesInstanceUID": None}, "no UID"),
    ],
)
def test_dicom_without_an_image(path, values, said):
    with pytest.raises(InputError, match=said):
        read_instance(changed(path, **values))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_instance(tmp_path / "gone.dcm")


@pytest.mark.parametrize("vendor", ["ge", "siemens", "philips"])
def test_the_number_of_objects_is_never_promised_too_small(tmp_path, vendor):
    paths = write_objects(tmp_path, made(scan("func_task-rest"), "classic", vendor))
    expected = read_instance(paths[0]).expected
    assert expected is None or expected >= len(paths)


def test_moments_and_protocols():
    assert moment("20240229", "120000.25") == datetime(2024, 2, 29, 12, 0, 0, 250000)
    assert moment("20240230", "120000") is None
    assert moment("20240229", "250000") is None
    assert protocol_number("a\nlRepetitions = 9\n", "lRepetitions") == 9
    assert protocol_number("xlRepetitions = 9", "lRepetitions") is None
