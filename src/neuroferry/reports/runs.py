"""Run records, read once for all pages that are written from them.

The record of a thousand participants has some fifty thousand lines. Reading and searching it
again for each of their pages would take most of the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from neuroferry.engine.record import RunSummary, StepSummary, list_runs, read_run


@dataclass(frozen=True)
class RunBySubject:
    """One run, and its steps by participant.

    Attributes
    ----------
    run : RunSummary
        The whole run.
    steps : mapping of str or None to tuple of StepSummary
        By participant label without ``sub-``.
    """

    run: RunSummary
    steps: Mapping[str | None, tuple[StepSummary, ...]]

    def of_subject(self, subject: str) -> RunSummary:
        """Restrict the run to one participant, keeping problems of the whole dataset."""
        problems = tuple(p for p in self.run.problems if p.get("subject") in (subject, None))
        return replace(self.run, steps=self.steps.get(subject, ()), problems=problems)


def read_run_once(run_dir: Path) -> RunBySubject:
    """Read a run's record; reuse it if it has not changed since."""
    return _read(run_dir, _state(run_dir))


def measured_before(out_dir: Path) -> Mapping[str, StepSummary]:
    """Find the latest measurement of each step that ever finished."""
    runs = tuple(list_runs(out_dir))
    return _measured(runs, tuple(_state(run) for run in runs))


def _state(run_dir: Path) -> tuple[int, int]:
    try:
        stat = (run_dir / "events.jsonl").stat()
    except OSError:
        return (0, 0)
    return (stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _read(run_dir: Path, state: tuple[int, int]) -> RunBySubject:
    run = read_run(run_dir)
    steps: defaultdict[str | None, list[StepSummary]] = defaultdict(list)
    for step in run.steps:
        steps[step.subject].append(step)
    return RunBySubject(run, {subject: tuple(of) for subject, of in steps.items()})


@lru_cache(maxsize=2)
def _measured(
    runs: tuple[Path, ...], states: tuple[tuple[int, int], ...]
) -> Mapping[str, StepSummary]:
    history: dict[str, StepSummary] = {}
    for run_dir, state in zip(runs, states, strict=True):
        for step in _read(run_dir, state).run.steps:
            if step.state == "done" and step.seconds is not None:
                history[step.step] = step
    return MappingProxyType(history)
