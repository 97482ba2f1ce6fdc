"""A BOLD series and a diffusion series of the phantoms, as read for export."""

from __future__ import annotations

import pytest

from neuroferry.phantom.dicom import Patient, ScannedSeries, read_session

PATIENT = Patient("01")


def find(dataset, suffix, echo=1) -> ScannedSeries:
    """Return the scan with a suffix of the first participant."""
    scans = read_session(dataset.root / "sub-01")
    return next(one for one in scans if one.suffix == suffix and one.echo == echo)


@pytest.fixture(scope="session")
def bold(functional) -> ScannedSeries:
    return find(functional, "bold")


@pytest.fixture(scope="session")
def dwi(diffusion) -> ScannedSeries:
    return find(diffusion, "dwi")


@pytest.fixture(scope="session")
def t1w(functional) -> ScannedSeries:
    return find(functional, "T1w")


@pytest.fixture
def patient() -> Patient:
    return PATIENT
