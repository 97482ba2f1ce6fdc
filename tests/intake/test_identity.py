"""Words that identify a person are found in any case, and only as far as they tell."""

from __future__ import annotations

import pytest
from scanner import PATIENT, made, received, scan

from neuroferry.errors import InputError
from neuroferry.intake.identity import (
    Identifiers,
    clean_sidecar,
    find_identifiers,
    keyed,
    name_words,
    replace_uid,
    secret,
)


def test_short_words_are_found_as_words_and_long_ones_anywhere():
    known = Identifiers(["Ann", "Mustermann", "1234", "Li", "王小"])
    assert known.found_in("scan of ANN")
    assert not known.found_in("channel planning")
    assert known.found_in("xmustermannx")
    assert known.found_in("id 1234.") and not known.found_in("512345")  # noqa: PT018
    assert not known.found_in("linear Li")
    assert known.found_in("头部王小明")


def test_binary_values_keep_their_length():
    known = Identifiers(["Müller", "Ann"])
    raw = "a Müller, planning Ann".encode("latin-1")
    blank = known.blank(raw)
    assert len(blank) == len(raw)
    assert blank == b"a XXXXXX, planning XXX"
    assert not known.found_in_bytes(blank)
    assert known.found_in_bytes("MÜLLER Müller".encode())


def test_a_label_is_no_identifier():
    known = Identifiers(["sub-007", "007", "Bond"], "007")
    assert known.words == ("Bond",)


def test_what_identifies_is_collected_from_the_header(tmp_path):
    group = made(scan("anat-T1w"), "classic")
    for one in group:
        one.dataset.OperatorsName = "Operatrix^Olga"
        one.dataset.AccessionNumber = "ACC-99"
    known = find_identifiers(received(tmp_path, group))
    for text in ("mustermann", "Erika", PATIENT.id, "Operatrix", "acc-99", "12.08.1964"):
        assert known.found_in(f"x {text} y"), text
    assert "Mustermann" not in repr(known)


def test_sidecars_keep_what_describes_the_scan():
    content = {
        "EchoTime": 0.03,
        "PatientName": "x",
        "ImageComments": "x",
        "SeriesDescription": "T1 Doe",
        "ImageType": ["M", "DOE"],
        "Deep": {"List": ["ok", "by doe"]},
        "AcquisitionTime": "12:00:00",
        "ProtocolName": "anat-T1w",
    }
    kept, found = clean_sidecar(content, Identifiers(["Doe"]))
    assert kept == {
        "EchoTime": 0.03,
        "AcquisitionTime": "12:00:00",
        "ProtocolName": "anat-T1w",
    }
    assert found == ("SeriesDescription", "ImageType", "Deep")
    assert "AcquisitionTime" not in clean_sidecar(content, Identifiers([]), times=False)[0]


def test_names_in_their_parts():
    assert name_words("van der Berg^Jan-Piet=x^y") == sorted(
        {"van", "der", "Berg", "Jan-Piet", "Jan", "Piet"}
    )


def test_pseudonyms_need_the_key(tmp_path):
    key = secret(tmp_path)
    assert secret(tmp_path) == key
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert keyed(key, "a") != keyed(b"0" * 32, "a")
    assert replace_uid(key, "1.2") == replace_uid(key, "1.2") != replace_uid(key, "1.3")
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(InputError, match="too short"):
        secret(tmp_path)
