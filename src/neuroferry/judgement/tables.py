"""Quality metrics of an output folder, one table per modality, whoever wrote them.

Reads our own files (``sub-01_desc-iqms_T1w.json``) and those of MRIQC (``sub-01_T1w.json``), which
have the same form: metrics on the first level, ``bids_meta`` with the sidecar of the image,
``provenance`` with settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.bids.metadata import read_json
from neuroferry.bids.tables import MISSING, read_table
from neuroferry.errors import InputError
from neuroferry.files import write_lines

MODALITIES: Mapping[str, str] = {"T1w": "anat", "T2w": "anat", "bold": "func", "dwi": "dwi"}
"""Modalities, that is suffixes of images with metrics, and the folder of each."""
ENTITIES = {
    "subject": "subject",
    "session": "session",
    "task": "task",
    "acquisition": "acq",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "echo": "echo",
}
"""Entities of the file name that become columns, and the names of these."""
FIELDS = (
    "Manufacturer",
    "ManufacturersModelName",
    "DeviceSerialNumber",
    "StationName",
    "InstitutionName",
    "MagneticFieldStrength",
    "ProtocolName",
    "SeriesDescription",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "SoftwareVersions",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
)
"""Fields of ``bids_meta`` that become columns."""
DERIVED = ("scanner", "protocol", "acq_time")
"""Columns made from the others: see `derive`."""
_LONGEST = 120


@dataclass(frozen=True)
class Scan:
    """The metrics of one image, and what is known about it.

    Attributes
    ----------
    name : str
        Name of the image without extension, MRIQC's ``bids_name``: ``"sub-01_T1w"``.
    modality : str
        ``"T1w"``, ``"T2w"``, ``"bold"`` or ``"dwi"``.
    metrics : mapping of str to float
        Those that are defined.
    columns : mapping of str to str
        Entities, fields of the sidecar, columns of ``scans.tsv`` and ``participants.tsv``; absent
        where nothing is known.
    series : pathlib.Path or None
        Table with one row per volume.
    md5sum : str
        Checksum of the image, empty if unknown.
    """

    name: str
    modality: str
    metrics: Mapping[str, float]
    columns: Mapping[str, str]
    series: Path | None = None
    md5sum: str = ""


@dataclass(frozen=True)
class Scans:
    """All scans of an output folder.

    Attributes
    ----------
    of : mapping of str to tuple of Scan
        Scans of each modality that has any, sorted by name.
    notes : tuple of str
        Files that could not be used, as sentences.
    """

    of: Mapping[str, tuple[Scan, ...]]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Scan]:
        """Go through the scans of all modalities."""
        for scans in self.of.values():
            yield from scans


@dataclass
class _Columns:
    """Columns that come from tables beside the metrics."""

    bids_dir: Path | None
    before: Mapping[str, Mapping[str, str]]
    notes: list[str] = field(default_factory=list)
    _times: dict[Path, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    _participants: Mapping[str, Mapping[str, str]] | None = None

    def of(self, name: str, subject: str, session: str) -> dict[str, str]:
        """Give the columns of an image from participants.tsv and scans.tsv."""
        if self.bids_dir is None:
            return dict(self.before.get(name, {}))
        if self._participants is None:
            self._participants = self._read(self.bids_dir / "participants.tsv", "participant_id")
        folder, stem = self.bids_dir / f"sub-{subject}", f"sub-{subject}"
        if session:
            folder, stem = folder / f"ses-{session}", f"{stem}_ses-{session}"
        path = folder / f"{stem}_scans.tsv"
        if path not in self._times:
            self._times[path] = self._read(path, "filename")
        return {
            **self._participants.get(f"sub-{subject}", {}),
            **self._times[path].get(name, {}),
        }

    def _read(self, path: Path, key: str) -> Mapping[str, Mapping[str, str]]:
        """Read a table by its key, which for files is their name without extension."""
        if not path.exists():
            return {}
        try:
            table = read_table(path)
        except InputError as error:
            self.notes.append(f"{error}; its columns are not used.")
            return {}
        if key not in table.columns:
            self.notes.append(f"{path} has no column {key}; it is not used.")
            return {}
        place = table.columns.index(key)
        rows = {}
        for _, cells in table.rows():
            name = cells[place].rpartition("/")[2].partition(".")[0]
            rows[name] = {
                column: cell[:_LONGEST]
                for column, cell in zip(table.columns, cells, strict=True)
                if column != key and column and cell not in MISSING
            }
        return rows


def read_scans(out_dir: Path, bids_dir: Path | None = None) -> Scans:
    """Read the metrics of all images of an output folder of neuroferry or MRIQC.

    Parameters
    ----------
    out_dir : pathlib.Path
        The output folder.
    bids_dir : pathlib.Path, optional
        The dataset: its ``participants.tsv`` and ``scans.tsv`` become columns. Without it, they
        are taken from the group tables written before.

    Returns
    -------
    Scans
        Scans by modality; a file that cannot be read is named in the notes, and left out.
    """
    here = bids_dir is not None and bids_dir.is_dir()
    notes: list[str] = []
    found: dict[str, tuple[Scan, ...]] = {}
    for modality, folder in MODALITIES.items():
        before = {} if here else _columns_before(group_table(out_dir, modality))
        tables = _Columns(bids_dir if here else None, before)
        paths = [
            path
            for where in (folder, f"ses-*/{folder}")
            for path in out_dir.glob(f"sub-*/{where}/*_{modality}.json")
        ]
        scans: dict[str, Scan] = {}
        # ours come last and stand where both are there
        for path in sorted(paths, key=lambda path: ("_desc-iqms" in path.name, path)):
            scan = _read_scan(path, modality, tables, notes)
            if scan is not None:
                scans[scan.name] = scan
        if scans:
            found[modality] = tuple(scans[name] for name in sorted(scans))
        notes += tables.notes
    return Scans(found, tuple(dict.fromkeys(notes)))


def _read_scan(path: Path, modality: str, tables: _Columns, notes: list[str]) -> Scan | None:
    desc = parse_name(path).entities.get("description")
    if desc not in (None, "iqms"):
        return None
    try:
        content = read_json(path)
    except InputError as error:
        notes.append(f"{error}; it is left out.")
        return None
    meta, provenance = content.get("bids_meta"), content.get("provenance")
    metrics = {
        " ".join(name.split()): float(value)
        for name, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if not isinstance(provenance, dict) or (desc is None and not isinstance(meta, dict)):
        return None  # a sidecar of something else
    name = path.name.replace("_desc-iqms", "").removesuffix(".json")
    stem = name.removesuffix(f"_{modality}")
    entities = parse_name(path).entities
    columns = {
        column: entities[entity] for entity, column in ENTITIES.items() if entities.get(entity)
    }
    subject, session = columns.get("subject", ""), columns.get("session", "")
    beside = {
        key: value
        for key, value in tables.of(name, subject, session).items()
        if key not in metrics and key not in columns
    }
    columns |= _fields(meta if isinstance(meta, dict) else {}) | beside
    series = next(
        (
            table
            for middle in ("_desc-iqms_timeseries.tsv", "_timeseries.tsv")
            if (table := path.with_name(f"{stem}{middle}")).exists()
        ),
        None,
    )
    md5sum = str(provenance.get("md5sum") or "")
    return Scan(name, modality, metrics, columns | derive(columns), series, md5sum)


def _fields(meta: Mapping[str, Any]) -> dict[str, str]:
    """Pick the fields of a sidecar that become columns, as text."""
    picked = {}
    for name in FIELDS:
        value = meta.get(name)
        if isinstance(value, float) and math.isfinite(value):
            picked[name] = f"{value:g}"
        elif isinstance(value, str | int) and not isinstance(value, bool):
            picked[name] = " ".join(str(value).split())[:_LONGEST]
    return {name: text for name, text in picked.items() if text not in MISSING}


def derive(columns: Mapping[str, str]) -> dict[str, str]:
    """Make the columns that others are compared by.

    Parameters
    ----------
    columns : mapping of str to str
        The columns of a scan.

    Returns
    -------
    dict of str to str
        ``scanner``: serial number, or else name of the station, or model. ``protocol``: model,
        field, name of the protocol (or description of the series), task and acquisition.
        ``acq_time``: date and time from ``scans.tsv`` or, without it, the sidecar.

    Examples
    --------
    >>> derive({"StationName": "MR2", "MagneticFieldStrength": "3", "task": "rest"})
    {'scanner': 'MR2', 'protocol': '3 T, task-rest'}
    """
    scanner = next(
        (
            columns[name]
            for name in ("DeviceSerialNumber", "StationName", "ManufacturersModelName")
            if columns.get(name)
        ),
        "",
    )
    strength = columns.get("MagneticFieldStrength", "")
    parts = [
        columns.get("ManufacturersModelName", ""),
        f"{strength} T" if strength else "",
        columns.get("ProtocolName") or columns.get("SeriesDescription", ""),
        *(f"{key}-{columns[key]}" for key in ("task", "acq", "dir", "echo") if columns.get(key)),
    ]
    protocol = ", ".join(part for part in parts if part)
    time = columns.get("acq_time") or columns.get("AcquisitionDateTime", "")
    made = {"scanner": scanner, "protocol": protocol, "acq_time": time}
    return {name: text for name, text in made.items() if text}


def group_table(out_dir: Path, modality: str) -> Path:
    """Name the table of all scans of a modality, as MRIQC does."""
    return out_dir / f"group_{modality}.tsv"


def column_names(scans: Iterable[Scan]) -> list[str]:
    """List the columns that any scan has: entities, derived, fields, then those of tables."""
    there = {name for scan in scans for name in scan.columns}
    first = [*ENTITIES.values(), *DERIVED, *FIELDS]
    return [name for name in first if name in there] + sorted(there - set(first))


def metric_names(scans: Sequence[Scan], order: Iterable[str] = ()) -> list[str]:
    """List the metrics that any scan has: those of `order` first, then the others by name."""
    there = {name for scan in scans for name in scan.metrics}
    first = [name for name in dict.fromkeys(order) if name in there]
    return first + sorted(there - set(first))


def write_group_table(
    path: Path,
    scans: Sequence[Scan],
    *,
    order: Iterable[str] = (),
    extras: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write the table of a modality: ``bids_name``, metrics, extras, columns.

    Parameters
    ----------
    path : pathlib.Path
        The table.
    scans : sequence of Scan
        Scans of one modality.
    order : iterable of str
        Names of metrics in the order of their columns; others follow by name.
    extras : mapping, optional
        Further columns by name of the scan; a name without scan has a row of its own. A column
        with the name of a metric is called ``processed_<name>``.
    """
    extras = extras or {}
    metrics = metric_names(scans, order)
    more = list(dict.fromkeys(name for row in extras.values() for name in row))
    columns = [name for name in column_names(scans) if name not in {*metrics, *more}]
    header = [f"processed_{name}" if name in metrics else name for name in more]
    by_name = {scan.name: scan for scan in scans}
    rows = ["\t".join(["bids_name", *metrics, *header, *columns])]
    for name in sorted({*by_name, *extras}):
        scan, extra = by_name.get(name), extras.get(name, {})
        values = scan.metrics if scan else {}
        about = scan.columns if scan else {}
        cells = [
            name,
            *(repr(values[metric]) if metric in values else "n/a" for metric in metrics),
            *(extra.get(column) or "n/a" for column in more),
            *(about.get(column) or "n/a" for column in columns),
        ]
        rows.append("\t".join(" ".join(cell.split()) or "n/a" for cell in cells))
    write_lines(path, rows)


def _columns_before(path: Path) -> dict[str, dict[str, str]]:
    """Read the columns of text of a group table written before, by name of the scan."""
    if not path.exists():
        return {}
    try:
        table = read_table(path)
    except InputError:
        return {}
    if "bids_name" not in table.columns:
        return {}
    rows = list(table.rows())
    place = table.columns.index("bids_name")
    start = next((n for n, name in enumerate(table.columns) if name in ENTITIES.values()), None)
    if start is None:
        return {}
    kept = [
        (n, name)
        for n, name in enumerate(table.columns)
        # what the metrics' own files say may have changed since
        if n >= start and n != place and name not in {*ENTITIES.values(), *DERIVED[:2], *FIELDS}
    ]
    return {
        cells[place]: {name: cells[n] for n, name in kept if cells[n] not in MISSING}
        for _, cells in rows
    }
