"""Run record: one line of JSON for each change of state of each step.

The file is append-only. Whatever runs a step, a worker on a laptop or a job on a cluster,
adds one line with a single ``write``. Progress, status, reports and exit code depend on this file
alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from neuroferry.engine.names import StepName
from neuroferry.trust import open_unlinked

StepState = Literal["running", "done", "cached", "failed", "skipped"]
Event = dict[str, Any]


@dataclass(frozen=True)
class StepSummary:
    """State and measurements of one step in the record.

    Attributes
    ----------
    step : str
        Full name of the Nipype node.
    subject : str or None
        Participant label without ``sub-``.
    state : str
        ``running``, ``done``, ``cached``, ``failed`` or ``skipped``.
    seconds, cpu_seconds : float or None
        Wall-clock and processor time in seconds. For a cached step, of the run that computed it.
    peak_gb : float or None
        Largest resident memory of any of the step's processes, in GB (1e9 bytes).
    mem_gb, n_procs : float or None, int or None
        Memory (GB) and processors reserved for the step.
    declared_gb : float or None
        Memory declared by the step's node, before correction by earlier runs.
    volumes : int or None
        Number of volumes of the series that it processed, if declared.
    disk_gb, files : float or None, int or None
        Size (GB) and number of files of its work folder.
    message : str or None
        Reason of the failure, in one sentence.
    crashfile, traceback : str or None
        File with the details, and the details.
    because : str or None
        For a skipped step, the failed step before it.
    item : bool
        Whether it is one item of a MapNode, which is a step itself.
    kind : str
        Kind of step; if empty, derived from its name (records of earlier versions have none).
    """

    step: str
    subject: str | None
    state: StepState
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_gb: float | None = None
    mem_gb: float | None = None
    n_procs: int | None = None
    declared_gb: float | None = None
    volumes: int | None = None
    disk_gb: float | None = None
    files: int | None = None
    message: str | None = None
    crashfile: str | None = None
    traceback: str | None = None
    because: str | None = None
    item: bool = False
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", StepName(self.step).kind)


def found_done(
    step: str, known: StepSummary | None, *, subject: str | None, **now: Any
) -> StepSummary:
    """Summarise a step that need not run, with the measurements of the run that computed it.

    Parameters
    ----------
    step : str
        Its full name.
    known : StepSummary or None
        The step in that run.
    subject : str or None
        Participant label.
    **now
        Fields of :class:`StepSummary` to override with values of this run.
    """
    return replace(
        known or StepSummary(step, subject, "cached"),
        **{"step": step, "subject": subject, "state": "cached", **now},
    )


@dataclass(frozen=True)
class RunSummary:
    """State of one run in the record."""

    run_id: str | None = None
    version: str | None = None
    image: str | None = None
    command: str | None = None
    host: str | None = None
    plugin: str | None = None
    seed: int | None = None
    n_procs: int | None = None
    memory_gb: float | None = None
    n_steps: int | None = None
    subjects: tuple[str, ...] = ()
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    steps: tuple[StepSummary, ...] = ()
    problems: tuple[Event, ...] = ()

    def count(self, *states: StepState) -> int:
        """Count the steps in one of ``states``, without items of MapNodes."""
        return sum(step.state in states for step in self.steps if not step.item)

    @property
    def failed(self) -> tuple[StepSummary, ...]:
        """Failed steps, in the order of their failures."""
        return tuple(step for step in self.steps if step.state == "failed")

    def of_subject(self, subject: str | None) -> RunSummary:
        """Select the steps and problems of one participant."""
        return replace(
            self,
            steps=tuple(s for s in self.steps if s.subject == subject),
            problems=tuple(p for p in self.problems if p.get("subject") in (subject, None)),
        )


@dataclass
class RunRecord:
    """Record of one run, which writes events and notifies listeners.

    Parameters
    ----------
    path : pathlib.Path
        The ``events.jsonl`` file; its folder is created if missing.
    listeners : list of callable
        Each is called with every event after it has been written.
    """

    path: Path
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    _torn: bool = field(default=False, init=False, repr=False)

    def write(self, event: str, **values: Any) -> Event:
        """Append one event.

        Parameters
        ----------
        event : str
            Its kind: ``run_started``, ``problem``, ``step_started``, ``step_retried``,
            ``step_done``, ``step_failed``, ``step_skipped`` or ``run_ended``.
        **values
            Its values; must be plain JSON values.

        Returns
        -------
        dict
            The event as written.

        Raises
        ------
        OSError
            If the disk is full; a partly written line does not count as an event.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry: Event = {"time": now, "event": event, **values}
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_unlinked(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            # on a network file system, several machines must append one at a time
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = b"\n" * self._torn + line.encode()
            written = os.write(descriptor, data)
            self._torn = 0 < written < len(data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)
        for listener in self.listeners:
            listener(entry)
        return entry

    def write_done(self, step: StepSummary) -> Event:
        """Append the event ``step_done`` for a step that has run or need not run.

        Parameters
        ----------
        step : StepSummary
            Its state is ``done`` or ``cached``.
        """
        return self.write(
            "step_done",
            step=step.step,
            subject=step.subject,
            kind=step.kind,
            seconds=rounded(step.seconds, 3),
            cpu_seconds=rounded(step.cpu_seconds, 3),
            peak_gb=rounded(step.peak_gb, 3),
            mem_gb=rounded(step.mem_gb, 3),
            declared_gb=rounded(step.declared_gb, 3),
            n_procs=step.n_procs,
            volumes=step.volumes,
            disk_gb=rounded(step.disk_gb, 6),
            files=step.files,
            cached=step.state == "cached",
        )


def rounded(value: float | None, digits: int) -> float | None:
    """Round a measurement, if there is one."""
    return None if value is None else round(value, digits)


def kind_of_event(event: Mapping[str, Any]) -> str:
    """Return the kind of an event's step; earlier versions did not write it."""
    return event.get("kind") or StepName(event["step"]).kind


def read_events(path: Path) -> list[Event]:
    """Read a record, without an unfinished last line.

    Parameters
    ----------
    path : pathlib.Path
        An ``events.jsonl`` file.

    Returns
    -------
    list of dict
        Events in the order in which they were written; empty if there is no file. Lines that are
        damaged are skipped.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        # an earlier run's record is not worth more than this run
        print(f"WARNING: {path} cannot be read ({error.strerror}).", file=sys.stderr, flush=True)
        return []
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_event(event):
            events.append(event)
    return events


def latest_states(path: Path, steps: Iterable[str], last_bytes: int = 1 << 26) -> dict[str, str]:
    """Find the latest state of some steps in the last part of a record.

    Parameters
    ----------
    path : pathlib.Path
        An ``events.jsonl`` file.
    steps : iterable of str
        Full names of the steps.
    last_bytes : int
        Size of that part.

    Returns
    -------
    dict of str to str
        ``running``, ``done``, ``failed`` or ``skipped``; only of steps that occur there.
    """
    left = set(steps)
    found: dict[str, str] = {}
    if not left:
        return found
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - last_bytes))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return found
    for line in reversed(lines):
        if not left:
            break
        if b'"step"' not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if _is_event(entry) and entry.get("step") in left and entry["event"] in _STEP_STATES:
            found[entry["step"]] = _STEP_STATES[entry["event"]]
            left.discard(entry["step"])
    return found


def _is_event(value: object) -> bool:
    """Tell events from what a damaged disk leaves in a record."""
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return False
    return value["event"] not in _STEP_STATES or isinstance(value.get("step"), str)


def summarise(events: Iterable[Mapping[str, Any]]) -> RunSummary:
    """Reduce a run's events to the state of the run and of each of its steps."""
    run = RunSummary()
    steps: dict[str, StepSummary] = {}
    problems: list[Event] = []
    for entry in events:
        kind = entry.get("event")
        if kind == "run_started":
            run = replace(
                run,
                started=entry.get("time"),
                n_steps=entry.get("steps"),
                subjects=tuple(entry.get("subjects", ())),
                run_id=entry.get("run_id"),
                version=entry.get("version"),
                image=entry.get("image"),
                command=entry.get("command"),
                host=entry.get("host"),
                plugin=entry.get("plugin"),
                n_procs=entry.get("n_procs"),
                memory_gb=entry.get("memory_gb"),
                seed=entry.get("seed"),
            )
        elif kind == "run_ended":
            run = replace(
                run,
                ended=entry.get("time"),
                exit_code=entry.get("exit_code"),
                reason=entry.get("reason"),
            )
        elif kind == "problem":
            problems.append(dict(entry))
        elif kind in _STEP_STATES:
            step = _after(steps.get(entry["step"]), entry)
            steps.pop(entry["step"], None)
            steps[entry["step"]] = step
    return replace(run, steps=tuple(steps.values()), problems=tuple(problems))


_STEP_STATES: dict[str, StepState] = {
    "step_started": "running",
    "step_done": "done",
    "step_failed": "failed",
    "step_skipped": "skipped",
}


def _after(before: StepSummary | None, entry: Mapping[str, Any]) -> StepSummary:
    """Update the state of a step by one event."""
    state = _STEP_STATES[entry["event"]]
    if state == "done" and entry.get("cached"):
        state = "cached"
    step = before or StepSummary(
        entry["step"], entry.get("subject"), state, kind=entry.get("kind", "")
    )
    keys = (
        "seconds",
        "cpu_seconds",
        "peak_gb",
        "mem_gb",
        "n_procs",
        "declared_gb",
        "volumes",
        "disk_gb",
        "files",
        "message",
        "crashfile",
        "traceback",
        "because",
        "item",
        "kind",
    )
    known = {key: entry[key] for key in keys if entry.get(key) is not None}
    if state in ("running", "done", "cached"):
        known = {"message": None, "crashfile": None, "traceback": None, **known}
    return replace(step, state=state, **known)


def read_run(run_dir: Path) -> RunSummary:
    """Read and summarise the record in a run's folder, ``<out>/logs/<run>``."""
    return summarise(read_events(run_dir / "events.jsonl"))


def list_runs(out_dir: Path) -> list[Path]:
    """List the folders of the runs that wrote into ``out_dir``, oldest first."""
    return sorted(path.parent for path in (out_dir / "logs").glob("*/events.jsonl"))


def read_history(out_dir: Path) -> dict[str, StepSummary]:
    """Read the latest measurement of each step that ever finished.

    Returns
    -------
    dict of str to StepSummary
        By full name of the step; only steps with a measured time.
    """
    history: dict[str, StepSummary] = {}
    for run_dir in list_runs(out_dir):
        for step in read_run(run_dir).steps:
            if step.state == "done" and step.seconds is not None:
                history[step.step] = step
    return history
