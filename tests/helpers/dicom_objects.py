"""Small DICOM objects that tests make up: slices of a T1w series, of no real scanner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")
ROOT = "2.25.1234567"


def make_object(
    number: int = 1,
    *,
    patient: str = "P1",
    series: int = 1,
    protocol: str = "anat-T1w",
    uid: str = "",
    value: int = 0,
) -> FileDataset:
    """Make one slice of a series; `value` is added to its pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MR_IMAGE
    meta.MediaStorageSOPInstanceUID = UID(uid or f"{ROOT}.{series}.{number}")
    item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID = MR_IMAGE
    item.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    item.SeriesInstanceUID = f"{ROOT}.{series}"
    item.StudyInstanceUID = f"{ROOT}.0"
    item.FrameOfReferenceUID = f"{ROOT}.0.1"
    item.PatientID, item.PatientName, item.PatientBirthDate = (
        patient,
        f"Made^{patient}",
        "19900101",
    )
    item.Modality, item.Manufacturer = "MR", "SIEMENS"
    item.ManufacturerModelName, item.DeviceSerialNumber = "Made-up", "1"
    item.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    item.StudyDate = item.SeriesDate = item.AcquisitionDate = item.ContentDate = "20260102"
    item.StudyTime = item.SeriesTime = item.AcquisitionTime = "101500"
    item.ContentTime = "101500"
    item.ProtocolName = item.SeriesDescription = protocol
    item.SeriesNumber, item.InstanceNumber, item.AcquisitionNumber = series, number, 1
    item.ScanningSequence, item.SequenceVariant = "GR", "SP"
    item.ScanOptions, item.MRAcquisitionType = "", "3D"
    item.RepetitionTime, item.EchoTime, item.FlipAngle = 2300, 2.98, 9
    item.InversionTime, item.MagneticFieldStrength = 900, 3
    item.Rows, item.Columns = 16, 12
    item.PixelSpacing, item.SliceThickness = [1.0, 1.5], 2.0
    item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    item.ImagePositionPatient = [-8.0, -9.0, 2.0 * number]
    item.SliceLocation = 2.0 * number
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    pixels = np.arange(16 * 12, dtype=np.uint16).reshape(16, 12) + number + value
    item.PixelData = pixels.tobytes()
    return item


def write_object(folder: Path, name: str = "", **options: Any) -> Path:
    """Write one slice."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make_object(**options)
    path = folder / (name or f"{made.SeriesNumber}-{made.InstanceNumber}-{made.PatientID}.dcm")
    made.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int = 6, **options: Any) -> list[Path]:
    """Write the slices of a series."""
    return [write_object(folder, number=n, **options) for n in range(1, count + 1)]
