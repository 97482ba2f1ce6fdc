"""Participants whose data lead to the same graph: one of them is planned, the others like it.

Building and flattening a participant's graph takes tens of milliseconds of processor time, a
thousand times over for a cohort in which hardly two graphs differ. What a graph depends on is the
names of the files, their headers and some of their metadata. Which metadata is seen while the
graph is built, so that a date or a serial number that nobody reads keeps no two apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ALL = None


class Watched(Mapping[str, Any]):
    """Metadata that take note of who reads what.

    Parameters
    ----------
    values : mapping
        The metadata.
    read : set
        Takes the keys that were read; ``None`` in it stands for all of them.
    """

    def __init__(self, values: Mapping[str, Any], read: set[str | None]) -> None:
        self._values = values
        self._read = read

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        self._read.add(_ALL)
        return iter(self._values)

    def __len__(self) -> int:
        self._read.add(_ALL)
        return len(self._values)


@dataclasses.dataclass
class _Kind:
    """A participant that was planned, and which metadata of each run that depended on."""

    subject: Any
    read: list[set[str | None]]
    plan: Any


class Alike:
    """Remembers planned participants, and finds for another the one that it is like."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[_Kind]] = defaultdict(list)

    def find(self, subject: Any) -> tuple[str, Any] | None:
        """Give label and plan of a participant whose graph is the same but for the label."""
        for kind in self._kinds[_outline(subject)]:
            pairs = zip(subject.runs, kind.subject.runs, kind.read, strict=True)
            if all(
                _seen(run, subject, read) == _seen(other, kind.subject, read)
                for run, other, read in pairs
            ):
                return kind.subject.label, kind.plan
        return None

    def keep(self, subject: Any, read: list[set[str | None]], plan: Any) -> None:
        """Remember a participant's plan, and what was read of each run to make it."""
        self._kinds[_outline(subject)].append(_Kind(subject, read, plan))


def watch(subject: Any) -> tuple[Any, list[set[str | None]]]:
    """Give the same participant with metadata that take note, and where they note it."""
    read: list[set[str | None]] = [set() for _ in subject.runs]
    runs = tuple(
        dataclasses.replace(run, metadata=Watched(run.metadata, noted))
        for run, noted in zip(subject.runs, read, strict=True)
    )
    return dataclasses.replace(subject, runs=runs), read


def renamed(text: str, label: str, other: str) -> str:
    """Put one participant's label in the place of another's.

    Examples
    --------
    >>> renamed("w.sub_01_wf.a of sub-01, not sub-012", "01", "02")
    'w.sub_02_wf.a of sub-02, not sub-012'
    """
    pattern = rf"(?<![0-9A-Za-z])sub([-_]){re.escape(label)}(?![0-9A-Za-z])"
    return re.sub(pattern, rf"sub\g<1>{other}", text)


def _seen(run: Any, subject: Any, read: set[str | None]) -> str:
    keys = run.metadata if _ALL in read else read
    values = {str(key): run.metadata.get(key, "(none)") for key in keys}
    return renamed(json.dumps(values, sort_keys=True, default=str), subject.label, "*")


def _outline(subject: Any) -> str:
    """Digest of everything but metadata and label."""
    runs = [
        [
            renamed(str(run.path), subject.label, "*"),
            sorted((key, value) for key, value in run.entities.items() if key != "subject"),
            run.suffix,
            run.datatype,
            _header(run.path),
        ]
        for run in subject.runs
    ]
    return hashlib.sha256(json.dumps(runs, default=str).encode()).hexdigest()


def _header(path: Path) -> list[Any]:
    """What a graph may depend on of an image's header."""
    import nibabel as nb

    image: Any = nb.nifti1.load(path)
    header = image.header
    return [
        [int(length) for length in header.get_data_shape()],
        [round(float(zoom), 6) for zoom in header.get_zooms()],
        str(header.get_data_dtype()),
        header.get_xyzt_units(),
        header.get_dim_info(),
        nb.orientations.aff2axcodes(image.affine),
        [float(header[key]) for key in ("slice_code", "slice_duration", "toffset")],
    ]
