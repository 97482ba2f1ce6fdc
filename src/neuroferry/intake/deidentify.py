"""DICOM objects without what identifies the patient, for series that are kept as DICOM.

What is kept is listed, and everything else goes: fields that nobody thought of are not kept by
accident. Pixels stay as they are; a face can be seen in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from neuroferry.errors import InputError
from neuroferry.files import whole_file
from neuroferry.intake.headers import moment
from neuroferry.intake.identity import Identifiers, replace_uid

#: Groups of the standard that describe acquisition, geometry and pixels.
_GROUPS = (0x0018, 0x0020, 0x0028, 0x0048, 0x5200, 0x7FE0)
#: What is kept of other groups: kinds, times, the scanner, scaling of values.
_KEPT = frozenset(
    [
        *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate"),
        *("SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime", "StudyTime"),
        *("SeriesTime", "AcquisitionTime", "ContentTime", "Modality", "Manufacturer"),
        *("ManufacturerModelName", "StationName", "StudyDescription", "SeriesDescription"),
        *("ReferencedImageSequence", "ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
        *("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"),
        *("ComplexImageComponent", "AcquisitionContrast", "RealWorldValueMappingSequence"),
        *("RealWorldValueIntercept", "RealWorldValueSlope", "RealWorldValueFirstValueMapped"),
        *("RealWorldValueLastValueMapped", "MeasurementUnitsCodeSequence", "CodeValue"),
        *("CodingSchemeDesignator", "CodeMeaning", "LUTExplanation", "LUTLabel"),
        *("PresentationLUTShape", "NumberOfSlices", "FrameTypeSequence"),
    ]
)
_GONE = frozenset(
    [
        *("ContributingEquipmentSequence", "StudyID", "ImageComments", "FrameComments"),
        *("DeviceUID", "GantryID", "AcquisitionComments", "AcquisitionProtocolDescription"),
        *("ContrastBolusAgent", "RequestedContrastAgent", "IssuerOfPatientID"),
        *("UsedFiducialsSequence", "OriginalAttributesSequence", "PatientFrameOfReferenceSource"),
    ]
)
#: Private parts without which dcm2niix cannot convert, by their creators.
_PRIVATE = re.compile(
    r"SIEMENS CSA HEADER|SIEMENS MR HEADER|SIEMENS MR SDS 01|SIEMENS MR SDI 02"
    r"|GEMS_(ACQU|PARM|RELA|SERS|IMAG)_01|Philips (MR )?Imaging DD 00\d"
    r"|Image Private Header|TOSHIBA_MEC_MR3|CANON_MEC_MR3\^1\d"
)
_TEXTS = ("LO", "SH", "CS", "LT", "ST", "UT", "UC", "PN", "UN")
_FREE = ("LT", "ST", "UT", "UC", "UR", "PN", "AS", "AE")
_UIDS = re.compile(rb"\b[12]\.\d+\.\d+(?:\.\d+){4,}")
_STANDARD_UIDS = "1.2.840.10008."


@dataclass(frozen=True)
class Pseudonym:
    """What stands in the place of what identifies.

    Attributes
    ----------
    label : str
        Label of the participant.
    token : str
        Mark of the label, by which the intake knows its own objects again.
    key : bytes
        Key of the UIDs.
    shift : int
        Days that are added to every date.
    dates : str
        Whether days are shifted, kept or removed.
    """

    label: str
    token: str
    key: bytes
    shift: int
    dates: Literal["shift", "keep", "remove"]


def deidentify(path: Path, target: Path, pseudonym: Pseudonym, identifiers: Identifiers) -> None:
    """Write a DICOM object without what identifies the patient.

    Parameters
    ----------
    path, target : pathlib.Path
        The object, and where it is written, whole or not at all.
    pseudonym : Pseudonym
        Label, key of UIDs, shift of dates.
    identifiers : Identifiers
        What must not be found in the result, outside the pixels.

    Raises
    ------
    InputError
        If the object cannot be read, if its pixels may show a name, or if an identifier is left.
    """
    try:
        source = pydicom.dcmread(path, force=True)
        if source.get("SOPClassUID") == SecondaryCaptureImageStorage or (
            source.get("BurnedInAnnotation") == "YES"
        ):
            raise InputError(
                "It is a picture of a screen, which may show the patient's name.", path=path
            )
        for private in (True, False):
            written = _encode(_Cleaner(pseudonym, identifiers, private).clean(source), source)
            if not _identifies(pydicom.dcmread(BytesIO(written)), identifiers):
                break
        else:
            raise InputError("Something in it that identifies the patient stays.", path=path)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise InputError(
            f"It cannot be read as DICOM without the patient's data ({type(error).__name__}).",
            path=path,
        ) from error
    with whole_file(target) as beside:
        beside.write_bytes(written)


def shift_date(text: str, days: int) -> str:
    """Shift a date of DICOM; an empty text if it is none.

    >>> shift_date("20180918", -36500)
    '19181013'
    """
    day = moment(text[:8], "00")
    return (day.date() + timedelta(days=days)).strftime("%Y%m%d") if day else ""


class _Cleaner:
    def __init__(self, pseudonym: Pseudonym, identifiers: Identifiers, private: bool) -> None:
        self.by, self.identifiers, self.private = pseudonym, identifiers, private
        self.days: dict[bytes, bytes] = {}

    def clean(self, source: FileDataset) -> Dataset:
        self.days = self._days_of(source)
        cleaned = self._dataset(source)
        name = f"sub-{self.by.label}"
        cleaned.PatientName = f"{name}^{self.by.token}"
        cleaned.PatientID, cleaned.PatientBirthDate = name, ""
        cleaned.PatientIdentityRemoved = "YES"
        cleaned.DeidentificationMethod = "neuroferry intake: listed fields only; UIDs replaced"
        if self.by.dates == "shift":
            cleaned.LongitudinalTemporalInformationModified = "MODIFIED"
        elif self.by.dates == "remove":
            cleaned.LongitudinalTemporalInformationModified = "REMOVED"
        return cleaned

    def _days_of(self, source: Dataset) -> dict[bytes, bytes]:
        """Map the days of an object to what is written for them in private parts."""
        found: dict[bytes, bytes] = {}
        if self.by.dates == "keep":
            return found
        for kind in ("Study", "Series", "Acquisition", "Content", "InstanceCreation"):
            text = str(source.get(f"{kind}Date", ""))
            day = shift_date(text, self.by.shift)
            if day:
                new = day if self.by.dates == "shift" else "19000101"
                found[text[:8].encode()] = new.encode()
        return found

    def _dataset(self, source: Dataset, within: int = 0) -> Dataset:
        """Keep what is listed; `within` is the group of a private sequence that holds it."""
        cleaned = Dataset()
        for element in source:
            if element.tag.is_private:
                kept = self._private_element(source, element, within)
            else:
                kept = self._element(element)
            if kept is not None:
                cleaned.add(kept)
        return cleaned

    def _element(self, element: DataElement) -> DataElement | None:
        name = element.keyword
        listed = name in _KEPT or (element.tag.group in _GROUPS and name and name not in _GONE)
        if not listed or element.VR in _FREE:
            return None
        if element.VR == "SQ":
            items = [self._dataset(item) for item in element.value]
            return DataElement(element.tag, "SQ", items)
        rule = self._RULES.get(element.VR)
        if rule is None:
            return element
        return DataElement(element.tag, element.VR, rule(self, element))

    def _private_element(
        self, source: Dataset, element: DataElement, within: int
    ) -> DataElement | None:
        if not self.private:
            return None
        group = element.tag.group
        if element.tag.is_private_creator:
            return element if _PRIVATE.fullmatch(str(element.value).strip()) else None
        # pydicom tells no creator of sequences, and UIH writes none into their items
        creator = source.get((group, element.tag.element >> 8))
        name = str(creator.value).strip() if creator is not None else ""
        if not _PRIVATE.fullmatch(name) and group != within:
            return None
        if element.VR == "SQ":
            items = [self._dataset(item, group) for item in element.value]
            return DataElement(element.tag, "SQ", items)
        if isinstance(element.value, bytes):
            raw = self.identifiers.blank(element.value)
            for day, new in self.days.items():
                raw = raw.replace(day, new)
            raw = _UIDS.sub(lambda found: re.sub(rb"\d", b"0", found[0]), raw)
            return DataElement(element.tag, element.VR, raw)
        if element.VR in _FREE:
            return None
        rule = self._RULES.get(element.VR)
        return (
            element if rule is None else DataElement(element.tag, element.VR, rule(self, element))
        )

    def _uid(self, element: DataElement) -> str | list[str]:
        if isinstance(element.value, str) or element.value is None:
            uid = str(element.value or "")
            standard = uid.startswith(_STANDARD_UIDS) or not uid
            return uid if standard else replace_uid(self.by.key, uid)
        return [replace_uid(self.by.key, str(uid)) for uid in element.value]

    def _text(self, element: DataElement) -> str | list[str]:
        if isinstance(element.value, str) or element.value is None:
            return self.identifiers.remove(str(element.value or ""))
        return [self.identifiers.remove(str(word)) for word in element.value]

    def _date(self, element: DataElement) -> str:
        text = str(element.value or "")
        if self.by.dates == "keep":
            return text
        return shift_date(text, self.by.shift) if self.by.dates == "shift" else ""

    def _datetime(self, element: DataElement) -> str:
        text = str(element.value or "")
        day = self._date(element)[:8]
        return day + text[8:] if day else ""

    def _time(self, element: DataElement) -> str:
        return "" if self.by.dates == "remove" else str(element.value or "")

    _RULES: dict[str, Callable[..., object]] = {
        "UI": _uid,
        "LO": _text,
        "SH": _text,
        "CS": _text,
        "DA": _date,
        "DT": _datetime,
        "TM": _time,
    }


def _encode(cleaned: Dataset, source: FileDataset) -> bytes:
    syntax = source.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    if not source.file_meta.get("TransferSyntaxUID") and not source.original_encoding[0]:
        syntax = ExplicitVRLittleEndian
    stream = BytesIO()
    cleaned.file_meta = pydicom.dataset.FileMetaDataset()
    cleaned.file_meta.TransferSyntaxUID = syntax
    cleaned.file_meta.MediaStorageSOPClassUID = cleaned.SOPClassUID
    cleaned.file_meta.MediaStorageSOPInstanceUID = cleaned.SOPInstanceUID
    pydicom.dcmwrite(stream, cleaned, enforce_file_format=True)
    return stream.getvalue()


def _identifies(written: Dataset, identifiers: Identifiers) -> bool:
    """Look for identifiers in every text and binary value of an object, but for its pixels."""
    for element in written.iterall():
        if element.keyword in ("PatientName", "PatientID") or element.tag.group == 0x7FE0:
            continue
        value = element.value
        if isinstance(value, bytes):
            if identifiers.found_in_bytes(value):
                return True
        elif element.VR in _TEXTS and identifiers.found_in(str(value)):
            return True
    return False
