"""What every DICOM object of the phantom says: patient, study, series, scanner, grid."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from neuroferry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pydicom.uid import UID

    from neuroferry.phantom.dicom.scans import Patient, ScannedSeries, Scanner

IMPLEMENTATION = "NEUROFERRY"
_VENDORS = {
    "siemens": ("SIEMENS", "Prisma", "syngo MR E11"),
    "ge": ("GE MEDICAL SYSTEMS", "SIGNA Premier", "29\\LX\\MR Software release:RX29.1_R02_2131.a"),
    "philips": ("Philips Medical Systems", "Achieva dStream", "5.7.1\\5.7.1.2"),
}
_SEQUENCES = {
    "T1w": (["GR", "IR"], ["SK", "SP", "MP"], "*tfl3d1_16ns"),
    "T2w": ("SE", ["SK", "SP"], "*spc_282ns"),
    "bold": ("EP", "SK", "epfid2d1_56"),
    "sbref": ("EP", "SK", "epfid2d1_56"),
    "dwi": ("EP", ["SK", "SP"], "epse2d1_56"),
    "epi": (["EP", "SE"], ["SK", "SP"], "epse2d1_56"),
}


class Made(NamedTuple):
    """One DICOM object, and which part of its series it holds.

    ``volume`` is None of an object that holds all, ``slice`` of one that holds a whole volume.
    """

    dataset: Dataset
    volume: int | None
    slice: int | None


def uid(*sources: object) -> UID:
    """Make a UID that is the same for the same sources.

    >>> uid("image", 1, 12) == uid("image", 11, 2)
    False
    """
    return generate_uid(entropy_srcs=["/".join(map(str, sources))])


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """Format numbers for DICOM's decimal strings, of 16 characters at most."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def decimal(value: float) -> DSfloat:
    """Format one number for a decimal string."""
    return decimals([value])[0]


def date(moment: datetime) -> str:
    """Format a date."""
    return moment.strftime("%Y%m%d")


def time(moment: datetime) -> str:
    """Format a time of day, with microseconds."""
    return moment.strftime("%H%M%S.%f")


def check_vendor(vendor: str) -> None:
    """Refuse an unknown vendor."""
    if vendor not in _VENDORS:
        raise UsageError(f"the vendor must be one of {', '.join(_VENDORS)}, not {vendor}")


def base(series: ScannedSeries, patient: Patient, scanner: Scanner) -> Dataset:
    """Make what all objects of a series share.

    Parameters
    ----------
    series : ScannedSeries
    patient : Patient
    scanner : Scanner

    Returns
    -------
    Dataset
        Without SOPInstanceUID, pixels and what differs between objects.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    _add_scanner(ds, scanner)
    _add_patient(ds, patient)
    _add_study(ds, series, patient)
    _add_sequence(ds, series)
    _add_grid(ds, series)
    return ds


def _add_scanner(ds: Dataset, scanner: Scanner) -> None:
    maker, model, software = _VENDORS[scanner.vendor]
    ds.Manufacturer = maker
    ds.ManufacturerModelName = model
    ds.SoftwareVersions = (scanner.software or software).split("\\")
    ds.InstitutionName = "Institute of Digital Heads"
    ds.InstitutionAddress = "1 Nowhere Street"
    ds.StationName = scanner.station
    ds.DeviceSerialNumber = scanner.serial
    ds.MagneticFieldStrength = "3"
    ds.ImagingFrequency = "123.2"
    ds.ImagedNucleus = "1H"


def _add_patient(ds: Dataset, patient: Patient) -> None:
    ds.PatientName = patient.name
    ds.PatientID = patient.id
    ds.PatientBirthDate = patient.birth_date
    ds.PatientSex = patient.sex
    ds.PatientWeight = "70"
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "BRAIN"
    ds.ReferringPhysicianName = "Doctor^Invented"
    ds.OperatorsName = "Operator^Invented"


def _add_study(ds: Dataset, series: ScannedSeries, patient: Patient) -> None:
    ds.StudyInstanceUID = uid("study", patient.id, series.study)
    ds.SeriesInstanceUID = uid("series", patient.id, series.study, series.uid)
    ds.FrameOfReferenceUID = uid("frame", patient.id, series.study)
    ds.StudyID = "1"
    ds.AccessionNumber = ""
    ds.StudyDescription = "Phantom^neuroferry"
    day = series.started.replace(hour=9, minute=0, second=0, microsecond=0)
    ds.StudyDate = date(day)
    ds.StudyTime = time(day)
    ds.SeriesDate = date(series.started)
    ds.SeriesTime = time(series.started)
    ds.ProtocolName = series.protocol
    ds.SeriesDescription = series.protocol
    ds.SeriesNumber = series.number


def _add_sequence(ds: Dataset, series: ScannedSeries) -> None:
    sidecar = series.sidecar
    scanning, variant, name = _SEQUENCES.get(series.suffix, ("GR", "SP", "*fm2d2r"))
    ds.ScanningSequence = scanning
    ds.SequenceVariant = variant
    ds.ScanOptions = "PFP" if series.is_3d else "FS"
    ds.MRAcquisitionType = "3D" if series.is_3d else "2D"
    ds.SequenceName = name
    ds.RepetitionTime = decimal(series.tr * 1000)
    ds.EchoTime = decimal(series.echo_time * 1000)
    ds.EchoNumbers = series.echo
    if "InversionTime" in sidecar:
        ds.InversionTime = decimal(sidecar["InversionTime"] * 1000)
    ds.FlipAngle = decimal(sidecar.get("FlipAngle", 90))
    ds.NumberOfAverages = "1"
    ds.EchoTrainLength = int(series.data.shape[series.phase_axis or 0]) if series.is_epi else 1
    ds.PercentSampling = "100"
    ds.PercentPhaseFieldOfView = "100"
    ds.PixelBandwidth = "2000" if series.is_epi else "240"
    ds.TransmitCoilName = "Body"


def _add_grid(ds: Dataset, series: ScannedSeries) -> None:
    columns, rows = (int(n) for n in series.data.shape[:2])
    across, down, between = series.zooms
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = decimals([down, across])
    ds.SliceThickness = decimal(between)
    ds.SpacingBetweenSlices = decimal(between)
    ds.ImageOrientationPatient = decimals(series.orientation())
    axis = 0 if series.phase_axis is None and series.is_3d else series.phase_axis
    axis = 1 if axis is None else axis
    ds.InPlanePhaseEncodingDirection = ("ROW", "COL")[axis]
    ds.AcquisitionMatrix = [0, rows, columns, 0] if axis == 0 else [columns, 0, 0, rows]
    ds.NumberOfPhaseEncodingSteps = int(series.data.shape[axis])
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(series.data.min() < 0)
    ds.WindowCenter = decimal(float(series.data.max()) / 2)
    ds.WindowWidth = decimal(max(1.0, float(series.data.max())))


def copied(ds: Dataset) -> Dataset:
    """Copy a dataset so that elements of the copy can be set, much faster than a deep copy.

    Items of sequences are shared.
    """
    return Dataset({element.tag: copy.copy(element) for element in ds})


def image_type(series: ScannedSeries, *more: str) -> list[str]:
    """Make ImageType: as scanned, magnitude or phase, and the vendor's own words."""
    return ["ORIGINAL", "PRIMARY", "P" if series.phase_image else "M", "ND", *more]


def finish(ds: Dataset, *sources: object) -> Dataset:
    """Give an object its own UID and the head of its file."""
    ds.SOPInstanceUID = uid("instance", ds.SeriesInstanceUID, *sources)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = IMPLEMENTATION
    ds.file_meta = meta
    return ds
