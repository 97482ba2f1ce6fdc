from __future__ import annotations

from neuroferry.phantom.dicom import Scanner, objects
from neuroferry.phantom.dicom.header import decimal, uid


def test_uids_tell_numbers_apart():
    assert uid("image", 1, 12) != uid("image", 11, 2)
    assert uid("image", 1, 12) == uid("image", 1, 12)


def test_decimal_strings_fit():
    for value in (-106.53723144531251, 1e-17, 123456789.123456789):
        assert len(str(decimal(value))) <= 16


def test_who_was_scanned_where_is_invented(t1w, patient):
    ds = next(objects(t1w, patient, Scanner("philips", serial="77"), "classic")).dataset
    assert (ds.PatientName, ds.PatientID) == ("Nobody^Invented", "01")
    assert ds.PatientBirthDate.startswith("1901")
    assert ds.DeviceSerialNumber == "77"
    assert ds.Manufacturer == "Philips Medical Systems"
