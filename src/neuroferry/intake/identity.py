"""What identifies a person: finding it, and keeping it out of texts and sidecars."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from neuroferry.errors import InputError
from neuroferry.files import write_bytes
from neuroferry.intake.headers import moment, open_header, text_of
from neuroferry.intake.model import Series

#: Fields of a header whose words name a person, and those whose whole text identifies one.
_PERSONS = (
    *("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
    *("RequestingPhysician", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
)
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "MedicalRecordLocator", "StudyID")
#: Keys that no sidecar keeps: they identify, or hold what anybody typed.
_DROPPED = frozenset(
    [
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
        *("PatientWeight", "PatientSize", "PatientComments", "OtherPatientIDs"),
        *("OtherPatientNames", "EthnicGroup", "Occupation", "AdditionalPatientHistory"),
        *("AccessionNumber", "StudyID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("SOPInstanceUID", "FrameOfReferenceUID", "ReferringPhysicianName"),
        *("PerformingPhysicianName", "OperatorsName", "RequestingPhysician"),
        *("AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate"),
        *("ImageComments", "StudyComments", "RequestAttributesSequence"),
        *("RequestedProcedureDescription", "ProcedureStepDescription", "StudyDescription"),
        *("InstitutionAddress", "MedicalAlerts", "Allergies", "PregnancyStatus"),
    ]
)
_TIMES = ("AcquisitionTime", "SeriesTime", "ContentTime", "StudyTime")
_SHORTEST = 3  # letters or digits of a word that is looked for
_PART_OF_WORDS = 5  # letters of a word that is looked for within words, too
_MARK = "removed"


class Identifiers:
    """Words and numbers of one series that identify a person.

    Parameters
    ----------
    words : iterable of str
        The words. Those of fewer than three letters or digits are left out (of fewer than two in
        scripts that write words in few signs), as they would be found everywhere; those of fewer
        than five are looked for as whole words, and numbers as whole numbers.
    allowed : str
        A label that stands for the participant, and so is no identifier itself.
    """

    def __init__(self, words: Iterable[str], allowed: str = "") -> None:
        label = allowed.casefold()
        clean = {word.strip() for word in words}
        known = [
            word
            for word in clean
            if _tells(word) and word.casefold() not in (label, f"sub-{label}")
        ]
        self.words = tuple(sorted(known, key=lambda word: (-len(word), word)))
        expression = "|".join(map(_expression, self.words))
        self._pattern = re.compile(expression, re.IGNORECASE) if expression else None
        raws: set[bytes] = {
            _expression(word).encode(code, "ignore")
            for word in self.words
            for code in ("utf-8", "latin-1")
            if len(word.encode(code, "ignore")) >= _SHORTEST
        }
        raw = b"|".join(sorted(raws, reverse=True))  # the longer of two that begin alike first
        self._bytes = re.compile(raw, re.IGNORECASE) if raw else None

    def __repr__(self) -> str:
        return f"Identifiers({len(self.words)} words)"

    def found_in(self, text: str) -> bool:
        """Check whether a text holds one of them, in any case."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def remove(self, text: str) -> str:
        """Replace each in a text.

        >>> Identifiers(["Doe", "Jane"]).remove("anat-T1w for jane doe")
        'anat-T1w for removed removed'
        """
        return text if self._pattern is None else self._pattern.sub(_MARK, text)

    def blank(self, raw: bytes) -> bytes:
        """Overwrite each in a binary value by as many signs, so that its structure stays.

        >>> Identifiers(["Doe"]).blank(b"name DOE.")
        b'name XXX.'
        """
        if self._bytes is None:
            return raw
        return self._bytes.sub(lambda found: b"X" * (found.end() - found.start()), raw)

    def found_in_bytes(self, raw: bytes) -> bool:
        """Check whether a binary value holds one of them."""
        return self._bytes is not None and self._bytes.search(raw) is not None


def find_identifiers(series: Series, allowed: str = "") -> Identifiers:
    """Collect what identifies a person from the headers of a series.

    Parameters
    ----------
    series : Series
        The series; the whole header of its first object is read.
    allowed : str
        Label of the participant.
    """
    words: set[str] = set()
    for instance in series.instances:
        words |= {*name_words(instance.patient_name), instance.patient_id}
        words |= set(_dates(instance.birth_date))
    try:
        with open_header(series.first.path) as header:
            words |= _words_of(header)
    except InputError:
        pass  # what the objects told when they came has to do
    return Identifiers(words, allowed)


def name_words(name: str) -> list[str]:
    """Take the name of a person apart.

    >>> name_words("DOE-SMITH^Jane^^Dr")
    ['DOE', 'DOE-SMITH', 'Jane', 'SMITH']
    """
    parts = [part for part in re.split(r"[\^=\\,;\s]+", name) if part]
    found: list[str] = []
    for part in parts:
        pieces = re.split(r"[-_.']+", part)
        found += [word for word in {part, *pieces} if _tells(word)]
    return sorted(found)


def clean_sidecar(
    content: Mapping[str, Any], identifiers: Identifiers, *, times: bool = True
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Leave out of a sidecar what identifies a person.

    Parameters
    ----------
    content : mapping
        The sidecar as the converter wrote it.
    identifiers : Identifiers
        What identifies the patient and other persons of the series.
    times : bool
        Whether times of day may stay.

    Returns
    -------
    kept : dict
        The sidecar without fields for persons and comments, and without every value that holds
        an identifier.
    found : tuple of str
        Names of the fields whose value held one.
    """
    kept: dict[str, Any] = {}
    found = []
    for name, value in content.items():
        if name in _DROPPED or (not times and name in _TIMES):
            continue
        if any(identifiers.found_in(text) for text in _texts(value)):
            found.append(name)
            continue
        kept[name] = value
    return kept, tuple(found)


def secret(folder: Path) -> bytes:
    """Read the secret key of an intake, or make one; whoever has it can repeat its pseudonyms.

    Parameters
    ----------
    folder : pathlib.Path
        The private folder.
    """
    path = folder / "key"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = os.urandom(32)
        write_bytes(path, key)
        path.chmod(0o600)
    if len(key) < 16:
        raise InputError(
            f"{path} is too short for a key: restore it from a backup, as labels and UIDs depend"
            " on it"
        )
    return key


def keyed(key: bytes, text: str) -> bytes:
    """Make a pseudonym of a text that cannot be undone, nor repeated without the key."""
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def replace_uid(key: bytes, uid: str) -> str:
    """Replace a UID, always by the same one.

    >>> replace_uid(b"0" * 32, "1.2.3")[:5], len(replace_uid(b"0" * 32, "1.2.3")) <= 64
    ('2.25.', True)
    """
    return f"2.25.{int.from_bytes(keyed(key, uid)[:16], 'big')}"


def _tells(word: str) -> bool:
    signs = sum(map(str.isalnum, word))
    return signs >= _SHORTEST or (signs == _SHORTEST - 1 and not word.isascii())


def _expression(word: str) -> str:
    text = re.escape(word)
    if word.isdigit():
        return rf"(?<![0-9]){text}(?![0-9])"
    if len(word) < _PART_OF_WORDS and word.isascii():
        return rf"(?<![A-Za-z0-9]){text}(?![A-Za-z0-9])"
    return text


def _words_of(header: Dataset) -> set[str]:
    words: set[str] = set()
    for name in _PERSONS:
        for text in text_of(header, name).split("\\"):
            words |= set(name_words(text))
    words |= {text_of(header, name) for name in _NUMBERS if len(text_of(header, name)) > 3}
    return words | set(_dates(text_of(header, "PatientBirthDate")))


def _dates(date: str) -> list[str]:
    """Write a date in the ways in which people do."""
    day = moment(date, "00")
    if day is None:
        return []
    return [
        day.strftime(form)
        for form in ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y")
    ] + [day.strftime(form) for form in ("%m/%d/%Y", "%d-%m-%Y", "%d%m%Y", "%m%d%Y")]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
