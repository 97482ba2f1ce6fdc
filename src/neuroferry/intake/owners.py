"""Whose a SeriesInstanceUID is: two patients under one were mixed on their way."""

from __future__ import annotations

from pathlib import Path

from neuroferry.files import write_text
from neuroferry.intake.identity import keyed, secret
from neuroferry.intake.labels import patient_of
from neuroferry.intake.model import Series

MIXED = (
    "Objects of another patient came under the same SeriesInstanceUID and were processed first:"
    " two patients were mixed on their way. Find out whose the images are, and send the series of"
    " each patient again."
)


def is_of_another(folder: Path, series: Series) -> bool:
    """Tell whether the UID of a series was claimed by a series of another patient.

    Without a PatientID nobody can tell.

    Parameters
    ----------
    folder : pathlib.Path
        The private folder of names.
    series : Series
        Any of its objects tells patient and UID.
    """
    file, owner = _claim(folder, series)
    try:
        return bool(owner) and file.read_text(encoding="utf-8") != owner
    except FileNotFoundError:
        return False


def claim(folder: Path, series: Series) -> None:
    """Note that the UID of a series is that of its patient."""
    file, owner = _claim(folder, series)
    if owner and not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_text(file, owner)


def _claim(folder: Path, series: Series) -> tuple[Path, str]:
    """Name the file of a UID, and what it holds if the UID is this patient's."""
    key, first = secret(folder), series.first
    name = keyed(key, f"uid\0{first.series_uid}").hex()[:32]
    known = any(map(str.isalnum, first.patient_id))
    owner = keyed(key, f"owner\0{patient_of(first)}").hex()[:32] if known else ""
    return folder / "uids" / name, owner
