"""The phantom's scans as scanners export them: DICOM, classic, as mosaics, or enhanced."""

from neuroferry.phantom.dicom.export import FORMS, objects, write_dicom, write_objects
from neuroferry.phantom.dicom.header import Made
from neuroferry.phantom.dicom.scans import (
    Patient,
    ScannedSeries,
    Scanner,
    localiser,
    multiband,
    read_session,
)

__all__ = [
    "FORMS",
    "Made",
    "Patient",
    "ScannedSeries",
    "Scanner",
    "localiser",
    "multiband",
    "objects",
    "read_session",
    "write_dicom",
    "write_objects",
]
