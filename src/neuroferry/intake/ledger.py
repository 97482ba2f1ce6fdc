"""The private record of what became of each series of a participant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.intake.model import Fate, Outcome, Series


@dataclass(frozen=True)
class Entry:
    """What became of one series.

    Attributes
    ----------
    key : str
        `Series.key`.
    digest : str
        Digest of its objects: other or more objects are another state of the series.
    fate, reason, warnings, files
        As in `Outcome`.
    dataset : str
        Path of its dataset, relative to the root of the intake.
    label, session : str
        Labels of participant and session; the latter may be empty.
    datatype, suffix : str
        Of its name; empty if it was kept aside.
    base : tuple of str
        What series that belong together share: protocol and entities.
    run : str
        Label of the run; empty if the name has none.
    number : int or None
        Number on the scanner.
    acquired : str
        Time of acquisition by the scanner's clock, ISO 8601; empty if unknown.
    image_type : tuple of str
    checksums : tuple of str
        SHA-256 of its images.
    n_volumes : int
    shims : tuple of float
        Currents of the shims, if known.
    """

    key: str
    digest: str
    fate: Fate
    reason: str
    dataset: str
    label: str
    session: str = ""
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    datatype: str = ""
    suffix: str = ""
    base: tuple[str, ...] = ()
    run: str = ""
    number: int | None = None
    acquired: str = ""
    image_type: tuple[str, ...] = ()
    checksums: tuple[str, ...] = ()
    n_volumes: int = 1
    shims: tuple[float, ...] = ()

    def outcome(self, root: Path) -> Outcome:
        """Make the outcome that is shown."""
        return Outcome(
            self.fate,
            self.reason,
            root / self.dataset,
            self.label,
            self.session or None,
            self.files,
            self.warnings,
        )

    def when(self) -> datetime | None:
        """Tell the time of acquisition."""
        return datetime.fromisoformat(self.acquired) if self.acquired else None

    def images(self) -> list[str]:
        """List its images in the dataset."""
        return [name for name in self.files if name.endswith(".nii.gz")]


class Ledger:
    """The entries of one participant.

    Parameters
    ----------
    folder : pathlib.Path or None
        The private folder; None for entries that are not kept.
    label : str
        Label of the participant.
    """

    def __init__(self, folder: Path | None, label: str) -> None:
        self._path = folder / "series" / f"sub-{label}.json" if folder else None
        self.entries: dict[str, Entry] = {}
        if self._path and self._path.exists():
            self.entries = {entry.key: entry for entry in _read(self._path)}

    def others(self, key: str, session: str, dataset: str) -> list[Entry]:
        """List other series of a session that lie in the dataset."""
        return [
            entry
            for entry in self.entries.values()
            if entry.key != key
            and entry.session == session
            and entry.dataset == dataset
            and entry.fate == "placed"
        ]

    def put(self, entries: Iterable[Entry]) -> None:
        """Write entries, in the place of earlier ones with their keys."""
        self.entries |= {entry.key: entry for entry in entries}
        if self._path:
            content = [as_json(entry) for _, entry in sorted(self.entries.items())]
            write_json(self._path, {"series": content})


def digest_of(series: Series, rules: str) -> str:
    """Digest the objects of a series, and the rules, whose change may change its name."""
    uids = sorted({instance.sop_uid for instance in series.instances})
    return hashlib.sha256("\n".join([rules, *uids]).encode()).hexdigest()


def as_json(entry: Entry) -> dict[str, Any]:
    """Write an entry as JSON."""
    return asdict(entry)


def from_json(content: Mapping[str, Any]) -> Entry:
    """Read an entry from JSON; what later versions add to it is left out."""
    known: dict[str, Any] = {
        name: tuple(content[name]) if isinstance(content[name], list) else content[name]
        for name in Entry.__dataclass_fields__
        if name in content
    }
    return Entry(**known)


def _read(path: Path) -> list[Entry]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [from_json(entry) for entry in content["series"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged; restore it from a backup, as it says which series are in the"
            " dataset."
        ) from error
