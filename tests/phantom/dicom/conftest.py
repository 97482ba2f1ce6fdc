"""A session of scans for export: random voxels, so that each is known again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scanned_session import write_session

from neuroferry.phantom.dicom import Patient, ScannedSeries, read_session

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def scanned(tmp_path_factory) -> Path:
    return write_session(tmp_path_factory.mktemp("scanned"))


def find(root: Path, suffix: str) -> ScannedSeries:
    return next(one for one in read_session(root / "sub-01") if one.suffix == suffix)


@pytest.fixture(scope="session")
def bold(scanned) -> ScannedSeries:
    return find(scanned, "bold")


@pytest.fixture(scope="session")
def dwi(scanned) -> ScannedSeries:
    return find(scanned, "dwi")


@pytest.fixture(scope="session")
def t1w(scanned) -> ScannedSeries:
    return find(scanned, "T1w")


@pytest.fixture
def patient() -> Patient:
    return Patient("01")
