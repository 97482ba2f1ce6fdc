"""The queue of an intake: objects, series and quality control, in one SQLite file.

Every change is on the disk before the step that follows from it begins, and every step can be
repeated; so a process that is killed anywhere is continued by the next one. The file lies in
the private folder: it holds what headers say about patients.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from neuroferry.intake.model import Instance, Outcome, Series

#: States of a series before it has an outcome.
RECEIVING, READY, PROCESSING = "receiving", "ready", "processing"
#: States of quality control.
QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    object TEXT NOT NULL, digest TEXT NOT NULL, series TEXT NOT NULL, name TEXT NOT NULL,
    header TEXT NOT NULL, PRIMARY KEY (object, digest)
);
CREATE INDEX IF NOT EXISTS objects_of_series ON objects (series);
CREATE TABLE IF NOT EXISTS series (
    series TEXT PRIMARY KEY, state TEXT NOT NULL, number INTEGER, modality TEXT,
    n_objects INTEGER NOT NULL DEFAULT 0, expected INTEGER, complete INTEGER NOT NULL DEFAULT 0,
    again INTEGER NOT NULL DEFAULT 0, first_time TEXT, last_time TEXT, ended_time TEXT,
    outcome TEXT, attempts INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '',
    cleared INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS quality (
    dataset TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, requested_time TEXT, started_time TEXT, ended_time TEXT,
    wanted INTEGER NOT NULL DEFAULT 1, begun INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER, message TEXT NOT NULL DEFAULT '', pid INTEGER, began REAL,
    PRIMARY KEY (dataset, subject)
);
CREATE TABLE IF NOT EXISTS seen (file TEXT PRIMARY KEY, reason TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS rejected (name TEXT PRIMARY KEY, reason TEXT NOT NULL);
"""


@dataclass(frozen=True)
class SeriesRow:
    """A series in the queue; see the columns of the table."""

    series: str
    state: str
    number: int | None
    modality: str
    n_objects: int
    expected: int | None
    again: bool
    first_time: str
    last_time: str
    ended_time: str | None
    outcome: Outcome | None
    message: str
    cleared: bool


@dataclass(frozen=True)
class QualityRow:
    """Quality control of a participant: waiting, running or ended."""

    dataset: str
    subject: str
    state: str
    attempts: int
    requested_time: str
    started_time: str | None
    ended_time: str | None
    exit_code: int | None
    message: str


def now(days_ago: float = 0.0) -> str:
    """Return the time of the clock, or some days before, for people to read."""
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Queue:
    """The queue of an intake.

    Parameters
    ----------
    private : pathlib.Path
        The private folder.
    read_only : bool
        Open it as it is, to look at it.
    """

    def __init__(self, private: Path, *, read_only: bool = False) -> None:
        self._root = private.absolute().parent
        path = private / "queue.sqlite"
        if read_only:
            self._db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)
        else:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- objects ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a group of changes that reach the disk together."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Write the group to the disk."""
        self._db.execute("COMMIT")

    def find_object(self, key: str) -> list[tuple[str, str, str]]:
        """List what is known of an object: digest, series and file name of each version."""
        query = "SELECT digest, series, name FROM objects WHERE object = ?"
        return [tuple(row) for row in self._db.execute(query, (key,))]

    def add_object(
        self,
        key: str,
        digest: str,
        series: str,
        name: str,
        instance: Instance,
        *,
        again: bool = False,
    ) -> None:
        """Add an object to its series, which waits for more from now on."""
        header = _header(instance)
        self._db.execute(
            "INSERT INTO objects VALUES (?, ?, ?, ?, ?)", (key, digest, series, name, header)
        )
        self._db.execute(
            "INSERT INTO series (series, state, number, modality, again, first_time)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (series, RECEIVING, instance.series_number, instance.modality, int(again), now()),
        )
        self._db.execute(
            "UPDATE series SET state = ?, n_objects = n_objects + 1, last_time = ?,"
            " expected = COALESCE(MAX(expected, ?), expected, ?), attempts = 0 WHERE series = ?",
            (RECEIVING, now(), instance.expected, instance.expected, series),
        )

    # --- series -----------------------------------------------------------------------------

    def series_in(self, *states: str) -> list[SeriesRow]:
        """List the series in some states, or all of them, in the order of acquisition.

        Of two runs that arrive together, the one that was taken first gets its name first.
        """
        marks = ", ".join("?" for _ in states)
        where = f"WHERE state IN ({marks})" if states else ""
        acquired = (
            "SELECT json_extract(header, '$.acquired') FROM objects"
            " WHERE objects.series = series.series LIMIT 1"
        )
        query = f"SELECT * FROM series {where} ORDER BY ({acquired}), number, first_time, series"
        return [_series_row(row, self._root) for row in self._db.execute(query, states)]

    def set_state(self, series: str, state: str, *, complete: bool | None = None) -> None:
        """Change the state of a series."""
        self._db.execute("UPDATE series SET state = ? WHERE series = ?", (state, series))
        if complete is not None:
            self._db.execute(
                "UPDATE series SET complete = ? WHERE series = ?", (int(complete), series)
            )

    def note(self, series: str, message: str) -> int:
        """Note why a series could not be processed yet; return the number of attempts."""
        self._db.execute(
            "UPDATE series SET state = ?, message = ?, attempts = attempts + 1 WHERE series = ?",
            (READY, message, series),
        )
        query = "SELECT attempts FROM series WHERE series = ?"
        return int(self._db.execute(query, (series,)).fetchone()[0])

    def load_series(self, key: str, folder: Path) -> Series:
        """Make the series of its objects, whose files lie in a folder."""
        rows = self._db.execute("SELECT name, header FROM objects WHERE series = ?", (key,))
        found = [_instance(row["header"], folder / row["name"]) for row in rows]
        found.sort(key=lambda one: (one.acquisition_number or 0, one.instance_number or 0))
        query = "SELECT complete FROM series WHERE series = ?"
        complete = bool(self._db.execute(query, (key,)).fetchone()[0])
        return Series(key, tuple(found), complete)

    def finish(self, series: str, n_objects: int, outcome: Outcome) -> None:
        """Write what became of a series; one that grew meanwhile goes on receiving.

        Its quality control is put into the queue at the same moment.
        """
        self.begin()
        dataset = self._inside(outcome.dataset) if outcome.dataset else ""
        stored = json.dumps({**asdict(outcome), "dataset": dataset})
        self._db.execute(
            "UPDATE series SET outcome = ?, ended_time = ?, message = '',"
            " state = CASE WHEN n_objects = ? THEN ? ELSE ? END WHERE series = ?",
            (stored, now(), n_objects, outcome.fate, RECEIVING, series),
        )
        if outcome.fate == "placed" and outcome.dataset and outcome.subject:
            self._db.execute(
                "INSERT INTO quality (dataset, subject, state, requested_time)"
                " VALUES (?, ?, ?, ?) ON CONFLICT (dataset, subject) DO UPDATE SET"
                " attempts = 0, requested_time = excluded.requested_time, wanted = wanted + 1,"
                " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END",
                (dataset, outcome.subject, QUEUED, now()),
            )
        self.commit()

    def clear(self, before: str) -> list[str]:
        """Mark the series that were placed or kept aside in the dataset before a time as cleared.

        Returns
        -------
        list of str
            Those whose objects can be removed now.
        """
        where = "ended_time < ? AND state IN ('placed', 'unassigned', 'set aside')"
        query = f"SELECT series FROM series WHERE {where} AND NOT cleared"
        found = [row[0] for row in self._db.execute(query, (before,))]
        self._db.executemany(
            "UPDATE series SET cleared = 1 WHERE series = ?", [(series,) for series in found]
        )
        return found

    def interrupted(self) -> None:
        """Queue again what was being done when an earlier process ended."""
        self._db.execute("UPDATE series SET state = ? WHERE state = ?", (READY, PROCESSING))
        # that it was interrupted is no failure of its own
        self._db.execute(
            "UPDATE quality SET state = ?, attempts = MAX(attempts - 1, 0) WHERE state = ?",
            (QUEUED, RUNNING),
        )

    # --- quality control --------------------------------------------------------------------

    def quality_in(self, *states: str) -> list[QualityRow]:
        """List the participants whose quality control is in some states, or all of them."""
        marks = ", ".join("?" for _ in states)
        where = f"WHERE state IN ({marks})" if states else ""
        query = f"SELECT * FROM quality {where} ORDER BY requested_time"
        names = [field.name for field in fields(QualityRow)[1:]]
        return [
            QualityRow(
                **{name: row[name] for name in names}
                | {"dataset": str(self._root / row["dataset"])}
            )
            for row in self._db.execute(query, states)
        ]

    def start_quality(self, row: QualityRow, pid: int, began: float) -> None:
        """Note that the quality control of a participant runs, in which process, since when."""
        self._db.execute(
            "UPDATE quality SET state = ?, started_time = ?, ended_time = NULL, begun = wanted,"
            " attempts = attempts + 1, pid = ?, began = ? WHERE dataset = ? AND subject = ?",
            (RUNNING, now(), pid, began, self._inside(row.dataset), row.subject),
        )

    def left_over(self) -> list[tuple[int, float]]:
        """List the processes that quality control was started in and of which no end is known."""
        query = "SELECT pid, began FROM quality WHERE pid IS NOT NULL AND began IS NOT NULL"
        return [(int(row[0]), float(row[1])) for row in self._db.execute(query)]

    def end_quality(
        self, row: QualityRow, state: str, exit_code: int | None, message: str
    ) -> None:
        """Note how the quality control ended; more that was placed meanwhile queues it again."""
        self._db.execute(
            "UPDATE quality SET ended_time = ?, exit_code = ?, message = ?, pid = NULL,"
            " state = CASE WHEN wanted > begun THEN 'queued' ELSE ? END"
            " WHERE dataset = ? AND subject = ?",
            (now(), exit_code, message, state, self._inside(row.dataset), row.subject),
        )

    def _inside(self, dataset: Path | str) -> str:
        """Name a dataset below the root, which may be moved, or be another path in an image."""
        return str(Path(dataset).relative_to(self._root))

    # --- what is no image -------------------------------------------------------------------

    def reject(self, name: str, reason: str) -> None:
        """Note why a file that arrived is kept in ``rejected``."""
        self._db.execute("INSERT OR REPLACE INTO rejected VALUES (?, ?)", (name, reason))

    def rejected(self) -> dict[str, int]:
        """Count what was rejected, by reason."""
        query = "SELECT reason, COUNT(*) FROM rejected GROUP BY reason"
        return {row[0]: row[1] for row in self._db.execute(query)}

    # --- files of watched folders -----------------------------------------------------------

    def seen(self) -> Iterator[str]:
        """List the files of watched folders that were taken or turned down."""
        for row in self._db.execute("SELECT file FROM seen"):
            yield row[0]

    def see(self, files: Sequence[tuple[str, str]]) -> None:
        """Note files of watched folders: a digest of each, and why it was turned down, if so."""
        self.begin()
        self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", files)
        self.commit()

    def turned_down(self) -> dict[str, int]:
        """Count the files of watched folders that were turned down, by reason."""
        query = "SELECT reason, COUNT(*) FROM seen WHERE reason != '' GROUP BY reason"
        return {row[0]: row[1] for row in self._db.execute(query)}


def _header(instance: Instance) -> str:
    content = asdict(instance)
    del content["path"]
    content["acquired"] = instance.acquired and instance.acquired.isoformat()
    return json.dumps(content)


def _instance(header: str, path: Path) -> Instance:
    content = json.loads(header)
    content["image_type"] = tuple(content["image_type"])
    if content["acquired"]:
        content["acquired"] = datetime.fromisoformat(content["acquired"])
    return Instance(path=path, **content)


def _series_row(row: sqlite3.Row, root: Path) -> SeriesRow:
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(SeriesRow)}
    values["again"], values["cleared"] = bool(values["again"]), bool(values["cleared"])
    if values["outcome"]:
        content = json.loads(values["outcome"])
        for name in ("files", "warnings"):
            content[name] = tuple(content[name])
        content["dataset"] = root / content["dataset"] if content["dataset"] else None
        values["outcome"] = Outcome(**content)
    return SeriesRow(**values)
