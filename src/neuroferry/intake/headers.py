"""Headers of DICOM objects: what the intake reads of each, whoever wrote it."""

from __future__ import annotations

import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RawDataStorage,
)

from neuroferry.errors import InputError
from neuroferry.files import open_input
from neuroferry.intake.model import Instance

#: Siemens' protocol as text, in the CSA series header and, since XA, in a tag of its own.
_PROTOCOLS = ((0x0029, "SIEMENS CSA HEADER", 0x20), (0x0021, "SIEMENS MR SDS 01", 0x19))
_GE_COUNTS = ("NumberOfTemporalPositions", "ImagesInAcquisition")
_READ = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate"),
    *("SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime", "StudyTime"),
    *("SeriesTime", "AcquisitionTime", "ContentTime", "Modality", "Manufacturer", "StationName"),
    *("StudyDescription", "SeriesDescription", "ManufacturerModelName", "PatientName"),
    *("PatientID", "PatientBirthDate", "SequenceName", "PulseSequenceName", "ProtocolName"),
    *("DeviceSerialNumber", "EchoNumbers", "StudyInstanceUID", "SeriesInstanceUID"),
    *("SeriesNumber", "AcquisitionNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns"),
    *("InConcatenationTotalNumber", "SharedFunctionalGroupsSequence", *_GE_COUNTS),
)
_PRIVATE = tuple(
    tag
    for group, _, element in _PROTOCOLS
    for tag in (Tag(group, 0x10), Tag(group, 0x11), Tag(group, 0x1000 + element))
)
_PIXELS = tuple(Tag(0x7FE0, element) for element in (0x0008, 0x0009, 0x0010))
#: UID root of Siemens' objects without an image, such as physiological logs.
_NO_IMAGE = ("1.3.12.2.1107.5.9.1",)
#: UID root of objects that have an image for certain: MR, classic and enhanced.
_IMAGES = "1.2.840.10008.5.1.4.1.1.4"
_LONGEST = 256  # characters of a text; DICOM allows 64


class CutOffError(InputError):
    """A DICOM object whose end is missing: still being written, or damaged."""


def read_instance(path: Path) -> Instance:
    """Read what sorting needs from the header of a DICOM object; pixels are not read.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    Instance

    Raises
    ------
    CutOffError
        If the end of the file is missing.
    InputError
        If it is no DICOM image or cannot be read. The message is one sentence, without the path
        and the content of the file, which may identify the patient; ``error.path`` has the path.
    """
    with open_header(path, specific_tags=[*_READ, *_PRIVATE]) as header:
        return _instance(path, header)


@contextmanager
def open_header(path: Path, **options: Any) -> Iterator[FileDataset]:
    """Read the header of a DICOM image with pydicom, and check that its pixels are all there.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    **options
        Of ``pydicom.dcmread``.

    Raises
    ------
    CutOffError, InputError
        As `read_instance`; errors of pydicom in the block, too, become an `InputError`.
    """
    try:
        stream = open_input(path)
    except InputError as error:
        raise InputError(
            "The file cannot be read; check it and its permissions.", path=path
        ) from error
    with stream:
        try:
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, force=_without_preamble(stream), **options
            )
            _check_image(path, header)
            _check_pixels(path, header, stream)
            yield header
        except InvalidDicomError as error:
            raise InputError("The file is no DICOM object.", path=path) from error
        except (EOFError, BytesLengthException, struct.error) as error:
            raise CutOffError("The header of the DICOM object is cut off.", path=path) from error
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            NotImplementedError,
            OverflowError,
            RecursionError,
            MemoryError,
        ) as error:
            raise InputError(
                f"The header of the DICOM object cannot be read ({type(error).__name__}).",
                path=path,
            ) from error


def text_of(header: Dataset, name: str) -> str:
    r"""Read a text without control characters; several values are joined by a backslash.

    Examples
    --------
    >>> header = Dataset()
    >>> header.ProtocolName = " func_task-rest "
    >>> text_of(header, "ProtocolName"), text_of(header, "SeriesDescription")
    ('func_task-rest', '')
    """
    value = header.get(name)
    if value is None:
        return ""
    words = value if isinstance(value, list | tuple | pydicom.multival.MultiValue) else [value]
    text = "\\".join(str(word) for word in words)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)[:_LONGEST].strip()


def whole_of(header: Dataset, name: str) -> int | None:
    """Read a whole number; None if it is missing or none."""
    try:
        return int(str(header.get(name, "")).strip())
    except ValueError:
        return None


def moment(date: str, clock: str) -> datetime | None:
    """Read a date and a time of day as DICOM writes them.

    Examples
    --------
    >>> moment("20180918", "122500.5375").isoformat()
    '2018-09-18T12:25:00.537500'
    >>> moment("***", "122500"), moment("2018.09.18", "12:25")
    (None, datetime.datetime(2018, 9, 18, 12, 25))
    """
    day = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", date.strip())
    clocks = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6})\d*)?", clock.strip())
    if day is None or clocks is None:
        return None
    hour, minute, second = (int(part or 0) for part in clocks.groups()[:3])
    fraction = int((clocks[4] or "0").ljust(6, "0"))
    try:
        return datetime(int(day[1]), int(day[2]), int(day[3]), hour, minute, second, fraction)
    except ValueError:
        return None


def siemens_protocol(header: Dataset) -> str:
    """Find the text of Siemens' measurement protocol in the private part; empty without one."""
    for group, creator, element in _PROTOCOLS:
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            value = header.private_block(group, creator)[element].value
            raw = value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
            start = raw.find(b"### ASCCONV BEGIN")
            end = raw.find(b"### ASCCONV END", start)
            if 0 <= start < end:
                return raw[start:end].decode("latin-1")
    return ""


def protocol_number(protocol: str, key: str) -> int | None:
    r"""Read a number from a protocol of Siemens.

    Examples
    --------
    >>> protocol_number("lRepetitions\t = \t155\n", "lRepetitions")
    155
    """
    found = re.search(rf"^{re.escape(key)}\s*=\s*(-?\d+)", protocol, re.MULTILINE)
    return int(found[1]) if found else None


def _instance(path: Path, header: FileDataset) -> Instance:
    image_type = image_type_of(header)
    series = text_of(header, "SeriesInstanceUID")
    uid = text_of(header, "SOPInstanceUID")
    if not uid or not series:
        raise InputError(
            "The DICOM object has no UID of its own or of its series, so it cannot be sorted.",
            path=path,
        )
    return Instance(
        path=path,
        sop_uid=uid,
        sop_class=text_of(header, "SOPClassUID"),
        series_uid=series,
        study_uid=text_of(header, "StudyInstanceUID"),
        patient_id=text_of(header, "PatientID"),
        patient_name=text_of(header, "PatientName"),
        birth_date=text_of(header, "PatientBirthDate"),
        modality=text_of(header, "Modality"),
        manufacturer=text_of(header, "Manufacturer"),
        model=text_of(header, "ManufacturerModelName"),
        serial=text_of(header, "DeviceSerialNumber"),
        station=text_of(header, "StationName"),
        study_description=text_of(header, "StudyDescription"),
        protocol=text_of(header, "ProtocolName"),
        description=text_of(header, "SeriesDescription"),
        sequence=text_of(header, "SequenceName") or text_of(header, "PulseSequenceName"),
        image_type=image_type,
        series_number=whole_of(header, "SeriesNumber"),
        acquisition_number=whole_of(header, "AcquisitionNumber"),
        instance_number=whole_of(header, "InstanceNumber"),
        acquired=_acquired(header),
        n_frames=max(whole_of(header, "NumberOfFrames") or 1, 1),
        expected=_expected(header, image_type),
        echo=whole_of(header, "EchoNumbers"),
        transfer_syntax=str(header.file_meta.get("TransferSyntaxUID", "")),
    )


def image_type_of(header: Dataset) -> tuple[str, ...]:
    """Read ImageType, and what FrameType of an enhanced object adds to it."""
    words = [word for word in text_of(header, "ImageType").split("\\") if word]
    for group in header.get("SharedFunctionalGroupsSequence") or ():
        for frame in group.get("MRImageFrameTypeSequence") or ():
            kinds = text_of(frame, "FrameType").split("\\")
            words += [word for word in kinds if word and word not in words]
    return tuple(words)


def _acquired(header: Dataset) -> datetime | None:
    whole = text_of(header, "AcquisitionDateTime")
    found = moment(whole[:8], re.split(r"[+-]", whole[8:])[0]) if len(whole) > 9 else None
    if found is not None:
        return found
    kinds = ("Acquisition", "Series", "Content", "Study")
    dates = [text_of(header, f"{kind}Date") for kind in kinds]
    times = [text_of(header, f"{kind}Time") for kind in kinds]
    date = next((text for text in dates if moment(text, "00")), "")
    clock = next((text for text in times if moment("20000101", text)), "")
    return moment(date, clock)


def _expected(header: Dataset, image_type: tuple[str, ...]) -> int | None:
    """Tell how many objects the series says that it has, where that is reliable.

    GE writes the slices of one volume into ``ImagesInAcquisition``, and into its own "images in
    series" (0025,xx07) too, or else all: the product is never too small, and too large a number
    only waits for the quiet time. Philips, UIH and slices of Siemens say nothing that holds for
    every sequence.
    """
    concatenated = whole_of(header, "InConcatenationTotalNumber")
    if concatenated:
        return concatenated
    if "MOSAIC" in image_type:
        return planned_volumes(header, image_type)
    times, slices = (whole_of(header, name) or 0 for name in _GE_COUNTS)
    if times > 1 and slices and text_of(header, "Manufacturer").upper().startswith("GE"):
        return times * slices
    return None


def planned_volumes(header: Dataset, image_type: tuple[str, ...]) -> int | None:
    """Tell how many volumes were planned by the protocol of Siemens; None where it is not clear.

    Diffusion counts its volumes in another way, several echoes may share a series or not, and the
    single-band reference of a run has the run's protocol.
    """
    protocol = siemens_protocol(header)
    if not protocol or "DIFFUSION" in image_type:
        return None
    if text_of(header, "SeriesDescription").endswith("_SBRef"):
        return 1
    if (protocol_number(protocol, "lContrasts") or 1) > 1:
        return None
    repetitions = protocol_number(protocol, "lRepetitions")
    return repetitions + 1 if repetitions else None


def _without_preamble(stream: IO[bytes]) -> bool:
    """Check whether a file begins with a data set instead of the preamble and "DICM"."""
    start = stream.read(132)
    stream.seek(0)
    if len(start) < 12 or start[128:132] == b"DICM":
        return False
    group, element = struct.unpack("<HH", start[:4])
    return group in (0x0002, 0x0008) and dictionary_has_tag(BaseTag(group << 16 | element))


def _check_image(path: Path, header: FileDataset) -> None:
    sop_class = text_of(header, "SOPClassUID") or text_of(
        header.file_meta, "MediaStorageSOPClassUID"
    )
    if not header and not sop_class:
        raise InputError("The file is no DICOM object.", path=path)
    if sop_class.startswith(_NO_IMAGE) or sop_class == RawDataStorage:
        raise InputError(
            "The DICOM object holds no image but raw data or a log of the scanner.", path=path
        )
    if not whole_of(header, "Rows") or not whole_of(header, "Columns"):
        if sop_class.startswith(_IMAGES):
            raise CutOffError("The DICOM object is cut off before its pixels.", path=path)
        raise InputError(
            "The DICOM object holds no image, but a report or another document.", path=path
        )


def _check_pixels(path: Path, header: FileDataset, stream: IO[bytes]) -> None:
    """Check that the file goes on for as long as its pixels need."""
    syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    if syntax == DeflatedExplicitVRLittleEndian:
        return
    start = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(start)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = stream.read(12)
    if len(raw) < 8:
        raise CutOffError("The DICOM object is cut off before its pixels.", path=path)
    tag = BaseTag(
        struct.unpack(f"{order}HH", raw[:4])[0] << 16 | struct.unpack(f"{order}HH", raw[:4])[1]
    )
    if tag not in _PIXELS:
        raise InputError("The DICOM object has no pixels.", path=path)
    long = raw[4:6].isalpha()
    offset, size = (12, raw[8:12]) if long and len(raw) == 12 else (8, raw[4:8])
    (length,) = struct.unpack(f"{order}I", size)
    if length == 0xFFFFFFFF:
        stream.seek(max(start, end - 512))
        whole = struct.pack(f"{order}HH", 0xFFFE, 0xE0DD) in stream.read()
    else:
        whole = start + offset + length <= end
    if not whole:
        raise CutOffError("The DICOM object is cut off within its pixels.", path=path)


# Values that break the standard are read as they are, and never quoted in a warning or a log.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\b")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
