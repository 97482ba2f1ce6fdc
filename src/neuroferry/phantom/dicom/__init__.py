"""The phantom's scans as scanners export them: DICOM, classic, as mosaics, or enhanced."""

from neuroferry.phantom.dicom.export import FORMS, write_dicom
from neuroferry.phantom.dicom.scans import Patient, ScannedSeries, Scanner, read_session

__all__ = ["FORMS", "Patient", "ScannedSeries", "Scanner", "read_session", "write_dicom"]
