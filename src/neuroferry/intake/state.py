"""What an intake holds and does, as tables for people and for programs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from neuroferry.errors import ExitCode, InputError
from neuroferry.intake.queue import QualityRow, Queue, SeriesRow


def read_state(root: Path) -> dict[str, Any]:
    """Read the queue of an intake, whether a process serves it or not.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the intake.

    Returns
    -------
    dict
        Lists ``series`` and ``quality``; counts by reason ``rejected`` and ``turned_down``.

    Raises
    ------
    InputError
        If there is no intake in the folder.
    """
    try:
        with closing(Queue(root / ".intake", read_only=True)) as queue:
            return {
                "series": [_series(row) for row in queue.series_in()],
                "quality": [_quality(row) for row in queue.quality_in()],
                "rejected": queue.rejected(),
                "turned_down": queue.turned_down(),
            }
    except (sqlite3.Error, ValueError) as error:
        raise InputError(
            f"{root} holds no intake ({error}). Give the folder that neuroferry intake serves.",
            exit_code=ExitCode.NO_INPUT,
        ) from error


def show_state(state: dict[str, Any]) -> str:
    """Show the state as text: a line for each series and participant."""
    lines = []
    for row in state["series"]:
        expected = f" of {row['expected']}" if row["expected"] else ""
        number = "" if row["number"] is None else f" {row['number']}"
        head = f"{row['last_time'][:19]}  series{number}, {row['n_objects']}{expected} objects"
        lines.append(f"{head}: {row['state']}. {row['reason']}".rstrip())
        lines += [f"    {name}" for name in _shown(row["files"])]
        lines += [f"    WARNING: {text}" for text in row["warnings"]]
    for row in state["quality"]:
        text = f"sub-{row['subject']}: quality control {row['state']}"
        lines.append(f"{text}. {row['message']}".rstrip())
    for reason, count in state["rejected"].items():
        lines.append(f"{count} received objects are kept in .intake/rejected: {reason}")
    for reason, count in state["turned_down"].items():
        lines.append(f"{count} files of watched folders stay where they are: {reason}")
    return "\n".join(lines) or "Nothing has arrived yet."


def _shown(files: Sequence[str]) -> list[str]:
    """Name the files of a series; of DICOM objects that are kept, their folder."""
    kept = [name for name in files if name.startswith("sourcedata/unassigned/")]
    folders = sorted({str(Path(name).parent) for name in kept})
    return [*(name for name in files if name not in set(kept)), *(f"{f}/" for f in folders)]


def _series(row: SeriesRow) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "series": row.series,
        "state": row.state,
        "number": row.number,
        "modality": row.modality,
        "n_objects": row.n_objects,
        "expected": row.expected,
        "first_time": row.first_time,
        "last_time": row.last_time,
        "ended_time": row.ended_time,
        "fate": outcome and outcome.fate,
        "reason": outcome.reason if outcome else row.message,
        "dataset": str(outcome.dataset) if outcome and outcome.dataset else None,
        "subject": outcome and outcome.subject,
        "session": outcome and outcome.session,
        "files": list(outcome.files) if outcome else [],
        "warnings": list(outcome.warnings) if outcome else [],
    }


def _quality(row: QualityRow) -> dict[str, Any]:
    return {
        "dataset": row.dataset,
        "subject": row.subject,
        "state": row.state,
        "attempts": row.attempts,
        "requested_time": row.requested_time,
        "started_time": row.started_time,
        "ended_time": row.ended_time,
        "exit_code": row.exit_code,
        "message": row.message,
    }
