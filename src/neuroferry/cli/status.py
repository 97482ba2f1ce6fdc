"""Show the progress of the latest run, from its record and the queue."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuroferry.engine.durations import duration
from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunSummary, list_runs, read_run
from neuroferry.engine.slurm.queue import LEFT, UNKNOWN, Queue, look
from neuroferry.errors import ExitCode, InputError
from neuroferry.host import in_host_words

_REFRESH_SECONDS = 2.0
_MOST_LINES = 20
_ASK_SECONDS = 30.0
# how often a queue without any job of the run is seen before the run counts as dead
_SURELY_GONE = 3
_KEPT = "finished steps are kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of the run")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the latest)")
    parser.add_argument(
        "--watch", action="store_true", help="update every two seconds until the run ends"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the state of a run.

    Returns
    -------
    int
        0; with ``--watch`` the exit code of the run, or 75 if its jobs left the queue without
        closing its record.
    """
    from rich.console import Console

    folder = find_run(arguments.out, arguments.run)
    console = Console()
    if not arguments.watch:
        queue = _look(folder)
        console.print(picture(read_run(folder), folder.name, queue))
        return int(ExitCode.OK)
    from rich.live import Live

    asked, gone = -_ASK_SECONDS, 0
    queue = UNKNOWN
    with Live(console=console, auto_refresh=False) as live:
        while True:
            if time.monotonic() - asked >= (_REFRESH_SECONDS if gone else _ASK_SECONDS):
                queue = _look(folder)
                asked = time.monotonic()
                gone = gone + 1 if queue.state == "gone" else 0
            summary = read_run(folder)
            live.update(picture(summary, folder.name, queue), refresh=True)
            if summary.exit_code is not None:
                return summary.exit_code
            if gone >= _SURELY_GONE:
                return int(ExitCode.TEMPORARY)
            time.sleep(_REFRESH_SECONDS)


def _look(folder: Path) -> Queue:
    """Ask the queue about a run that has jobs and has not ended."""
    if not (folder / "slurm" / "jobs.tsv").exists() or read_run(folder).exit_code is not None:
        return UNKNOWN
    return look(folder)


def find_run(out: Path, name: str | None = None) -> Path:
    """Find the folder of the named or the latest run.

    Raises
    ------
    InputError
        If there is none.
    """
    runs = list_runs(out)
    if name is not None:
        runs = [folder for folder in runs if folder.name == name]
    if not runs:
        what = f"no run '{name}'" if name else "no run"
        raise InputError(
            f"{out} contains {what}. Give the output folder of a run.", exit_code=ExitCode.NO_INPUT
        )
    return runs[-1]


def picture(summary: RunSummary, name: str, queue: Queue = UNKNOWN) -> Any:
    """Render a run's state: a table of participants, and lists of running and failed steps."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(_headline(summary, name, queue), style="bold")]
    if summary.exit_code is None and queue.state == "gone":
        parts.append(Text(f"{LEFT} Run the same command again: {_KEPT}.", style="red"))
    table = Table(box=None, pad_edge=False)
    for title in ("participant", "done", "running", "failed", "skipped"):
        table.add_column(title, justify="left" if title == "participant" else "right")
    counts: dict[str | None, Counter[str]] = {label: Counter() for label in summary.subjects}
    for step in summary.steps:
        counts.setdefault(step.subject, Counter())[step.state] += 1
    order = sorted(counts, key=lambda label: (-counts[label]["failed"], label or ""))
    for label in order[:_MOST_LINES]:
        count = counts[label]
        done = count["done"] + count["cached"]
        cells = [done, count["running"], count["failed"], count["skipped"]]
        style = "red" if count["failed"] else None
        row = [f"sub-{label}" if label else "(all)", *(str(cell or "") for cell in cells)]
        table.add_row(*row, style=style)
    parts.append(table)
    if len(order) > _MOST_LINES:
        parts.append(Text(f"... and {len(order) - _MOST_LINES} more participants"))
    if summary.exit_code is None:
        parts += _lines("in the queue", queue.lines())
    at_work = [StepName(step.step).short for step in summary.steps if step.state == "running"]
    over = summary.exit_code is not None or queue.state == "gone"
    parts += _lines("unfinished" if over else "running", at_work)
    failed = [
        in_host_words(f"{StepName(step.step).short}: {step.message}") for step in summary.failed
    ]
    parts += _lines("failed", failed, style="red")
    warnings = [in_host_words(p["message"]) for p in summary.problems]
    parts += _lines("noted", warnings)
    return Group(*parts)


def _headline(summary: RunSummary, name: str, queue: Queue) -> str:
    done = summary.count("done", "cached")
    total = summary.n_steps if summary.n_steps is not None else len(summary.steps)
    text = f"{name} ({summary.plugin or 'unknown plugin'}): {done} of {total} steps done"
    if summary.started:
        until = _time(summary.ended) if summary.ended else datetime.now(UTC)
        text += f", {duration((until - _time(summary.started)).total_seconds())}"
    if summary.exit_code is None:
        return text + ("" if queue.state == "gone" else ", not yet ended")
    reason = f" ({in_host_words(summary.reason)})" if summary.reason else ""
    return text + f", ended with exit code {summary.exit_code}{reason}"


def _lines(title: str, lines: list[str], style: str = "") -> list[Any]:
    from rich.text import Text

    if not lines:
        return []
    shown = [f"  {line}" for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        shown.append(f"  ... and {len(lines) - _MOST_LINES} more")
    return [Text(f"{title}:"), *(Text(line, style=style) for line in shown)]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
