"""Files of a dataset as a whole: its description, participants, and scans with their times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from neuroferry.bids.outputs import BIDS_VERSION
from neuroferry.bids.tables import read_table
from neuroferry.files import write_json, write_text

#: Files at the top of a dataset that are written here.
DATASET_FILES = frozenset({"dataset_description.json", "README", "participants.tsv"})
_README = """\
This dataset was made from the scanner's DICOM images by `neuroferry intake`.

Series without a name are kept in sourcedata/unassigned as DICOM without the patients' data, each
with the reason. Faces can be seen in anatomical images: deface them before they are shared.
"""


def describe_dataset(dataset: Path, name: str, version: str) -> None:
    """Write description and README of a new dataset; those of an old one stay as they are."""
    description = dataset / "dataset_description.json"
    if not description.exists():
        content = {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "neuroferry intake", "Version": version}],
        }
        write_json(description, content)
    if not any(dataset.glob("README*")):
        write_text(dataset / "README", _README)


def add_participant(dataset: Path, label: str) -> None:
    """Add a participant to ``participants.tsv``; other rows and columns stay as they are."""
    add_rows(dataset / "participants.tsv", "participant_id", {f"sub-{label}": {}})


def scans_table(label: str, session: str) -> str:
    """Name the table of scans of a participant or session, below the dataset.

    >>> scans_table("01", "a"), scans_table("01", "")
    ('sub-01/ses-a/sub-01_ses-a_scans.tsv', 'sub-01/sub-01_scans.tsv')
    """
    session = f"ses-{session}" if session else ""
    stem = "_".join(filter(None, (f"sub-{label}", session, "scans.tsv")))
    return "/".join(filter(None, (f"sub-{label}", session, stem)))


def acquisition_time(
    when: datetime | None, shift: int, dates: Literal["shift", "keep", "remove"]
) -> str | None:
    """Write the time of a scan; None if no times are written.

    >>> acquisition_time(datetime(2018, 9, 18, 12, 25), -40000, "shift")
    '1909-03-14T12:25:00'
    >>> acquisition_time(None, 0, "keep")
    'n/a'
    """
    if dates == "remove":
        return None
    if when is None:
        return "n/a"
    moved = when + timedelta(days=shift if dates == "shift" else 0)
    return moved.isoformat()


def add_rows(path: Path, key: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Add rows to a table, or fill cells of those that it has.

    Parameters
    ----------
    path : pathlib.Path
        The table; written whole or not at all.
    key : str
        The first column.
    rows : mapping of str to mapping of str to str
        Value of the first column to other cells. Columns that the table lacks are added; other
        rows and columns, whoever wrote them, stay as they are.
    """
    columns, table = _read(path, key)
    for name in (name for cells in rows.values() for name in cells):
        if name not in columns:
            columns.append(name)
    for value, cells in rows.items():
        table.setdefault(value, {key: value}).update(cells)
    _write(path, columns, table)


def drop_rows(path: Path, key: str, values: Iterable[str]) -> None:
    """Remove rows from a table, if it has them."""
    if path.exists():
        columns, table = _read(path, key)
        gone = set(values)
        _write(path, columns, {name: row for name, row in table.items() if name not in gone})


def _read(path: Path, key: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    if not path.exists():
        return [key], {}
    table = read_table(path)
    columns = list(table.columns) if key in table.columns else [key, *table.columns]
    rows = [dict(zip(table.columns, cells, strict=False)) for _, cells in table.rows()]
    return columns, {row.get(key, f"n/a {number}"): row for number, row in enumerate(rows)}


def _write(path: Path, columns: list[str], table: Mapping[str, Mapping[str, str]]) -> None:
    ordered = (row for _, row in sorted(table.items()))
    lines = ["\t".join(row.get(name) or "n/a" for name in columns) for row in ordered]
    write_text(path, "".join(f"{line}\n" for line in ["\t".join(columns), *lines]))
