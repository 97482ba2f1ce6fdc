"""Series that are kept aside: their DICOM objects without the patient's data, and the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from neuroferry.files import write_text
from neuroferry.intake.deidentify import Pseudonym, deidentify
from neuroferry.intake.identity import Identifiers
from neuroferry.intake.model import Instance, Series

_FOLDER = "sourcedata/unassigned"
_LONGEST = 60  # characters of a folder's name


def folder_name(first: Instance, identifiers: Identifiers) -> str:
    """Name the folder of a series: its number and what the scanner calls it, cleaned.

    >>> first = Instance(Path(), "1", "", "1", "", "", "Doe^Jane", "", description="t1 Doe/../x",
    ...     series_number=7)
    >>> folder_name(first, Identifiers(["Doe"]))
    '007-t1-removed-x'
    """
    text = identifiers.remove(first.description or first.protocol)
    clean = re.sub(r"[^A-Za-z0-9_+]+", "-", text).strip("-_")[:_LONGEST]
    number = "none" if first.series_number is None else f"{first.series_number:03d}"
    return f"{number}-{clean or 'series'}"


def aside_folder(label: str, session: str, name: str) -> str:
    """Name the folder of a series that is kept aside, below the dataset.

    >>> aside_folder("01", "", "007-t1")
    'sourcedata/unassigned/sub-01/007-t1'
    """
    parts = (_FOLDER, f"sub-{label}", f"ses-{session}" if session else "", name)
    return "/".join(filter(None, parts))


def keep_objects(
    series: Series,
    folder: Path,
    pseudonym: Pseudonym,
    identifiers: Identifiers,
    sentences: Sequence[str],
) -> list[str]:
    """Write the objects of a series without the patient's data, and the reason beside them.

    Parameters
    ----------
    series : Series
        The series.
    folder : pathlib.Path
        Folder to write into.
    pseudonym, identifiers
        See `neuroferry.intake.deidentify.deidentify`.
    sentences : sequence of str
        Why it is kept aside, and what is doubtful.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    InputError
        If an object cannot be written without the patient's data.
    """
    names = []
    for number, instance in enumerate(series.instances, 1):
        names.append(f"{number:06d}.dcm")
        deidentify(instance.path, folder / names[-1], pseudonym, identifiers)
    write_text(folder / "reason.txt", "".join(f"{sentence}\n" for sentence in sentences))
    return [*names, "reason.txt"]
