"""Ends of a round's jobs: the record combined with what SLURM still knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neuroferry.engine.record import Event
from neuroferry.engine.slurm.manifest import Manifest, Member, Pack

_OF_STATE = {
    "OUT_OF_MEMORY": "memory",
    "TIMEOUT": "time",
    "DEADLINE": "time",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "node",
    "CANCELLED": "cancelled",
    "FAILED": "step",
    "COMPLETED": "step",
}


@dataclass
class Ends:
    """Ends of a round's jobs, by pack and unit.

    Attributes
    ----------
    ok : set of (str, str)
        Successful jobs.
    cause : dict of (str, str) to str
        Cause of each other end: ``memory``, ``time``, ``node``, ``lost`` (without a trace),
        ``interrupted``, ``cancelled``, ``held`` (SLURM could not start it), ``start``
        (neuroferry could not start there), ``early`` (what it depends on was not done), ``busy``
        (another job runs its steps), ``job``, ``step``.
        Jobs that never started have none.
    reason : dict of (str, str) to str
        Reason that the job itself gave.
    submitted : dict of str to list of (int, int, str)
        For each pack: first unit, last unit and SLURM job id of each array.
    """

    ok: set[tuple[str, str]] = field(default_factory=set)
    cause: dict[tuple[str, str], str] = field(default_factory=dict)
    reason: dict[tuple[str, str], str] = field(default_factory=dict)
    submitted: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)

    def was_submitted(self, pack: str, index: int) -> bool:
        """Tell whether a pack of a group's unit number ``index`` (from 1) was submitted."""
        return any(first <= index <= last for first, last, _ in self.submitted.get(pack, []))


def read_ends(manifest: Manifest, run_dir: Path, events: Iterable[Event]) -> Ends:
    """Find how the jobs of a round ended.

    Parameters
    ----------
    manifest : Manifest
        The round.
    run_dir : pathlib.Path
        Folder of the run.
    events : iterable of dict
        The record so far.
    """
    ends = Ends()
    started: set[tuple[str, str]] = set()
    unit_of = {
        (pack.name, index): member.name
        for group in manifest.groups
        for pack in group.packs
        for index, member in enumerate(group.members, 1)
    }
    for entry in events:
        if entry["event"] == "job_not_started":
            unit = unit_of.get((str(entry.get("pack")), int(entry.get("task") or 0)))
            if unit is not None:
                ends.cause[str(entry["pack"]), unit] = "start"
                ends.reason[str(entry["pack"]), unit] = (
                    f"On {entry.get('host')}, exit code {entry.get('exit_code')}: "
                    f"{entry.get('reason')}"
                )
            continue
        key = (str(entry.get("pack")), str(entry.get("unit")))
        if entry["event"] == "job_started":
            started.add(key)
            ends.ok.discard(key)
            ends.cause.pop(key, None)
        elif entry["event"] == "job_ended" and entry["exit_code"] == 0:
            ends.ok.add(key)
        elif entry["event"] == "job_ended":
            ends.cause[key] = entry["cause"]
            ends.reason[key] = entry.get("reason") or ""
    folder = run_dir / "slurm"
    for line in _lines(folder / "jobs.tsv"):
        name, job, first, last = line.split("\t")
        ends.submitted.setdefault(name, []).append((int(first), int(last), job))
    states = read_states("\n".join(_lines(folder / f"states-{manifest.round}.txt")))
    given_up = set(_lines(folder / "given-up.txt"))
    for group in manifest.groups:
        for index, member in enumerate(group.members, 1):
            for pack in group.packs:
                _take_state(ends, states, given_up, started, pack, member, index)
    return ends


def _take_state(
    ends: Ends,
    states: Mapping[tuple[str, int], str],
    given_up: set[str],
    started: set[tuple[str, str]],
    pack: Pack,
    member: Member,
    index: int,
) -> None:
    """Combine SLURM's state of one task with the record."""
    key = (pack.name, member.name)
    if key in ends.ok:
        return
    for first, last, job in ends.submitted.get(pack.name, []):
        if not first <= index <= last:
            continue
        task = index - first + 1
        alone = states.get((job, 0), "") if first == last else ""
        cause = _OF_STATE.get(states.get((job, task), alone))
        by_hand = cause == "cancelled" and key in started
        if f"{job}_{task}" in given_up:
            ends.cause[key] = "held"
        elif by_hand or cause in ("memory", "time", "node"):
            ends.cause[key] = str(cause)
        elif key not in ends.cause and key in started:
            ends.cause[key] = "lost" if cause in (None, "step") else cause
        elif key not in ends.cause and cause == "step":
            ends.cause[key] = "start"
            ends.reason[key] = f"SLURM's job {job}_{task} ended before its first step."


def read_states(text: str) -> dict[tuple[str, int], str]:
    """Parse the output of ``sacct`` or ``scontrol``.

    Returns
    -------
    dict of (str, int) to str
        State by job id of the array and number of the task; the task is 0 if unknown: accounting
        may store an array of one task that starts at once without it.

    Examples
    --------
    >>> read_states("12_3|OUT_OF_MEMORY")
    {('12', 3): 'OUT_OF_MEMORY'}
    >>> read_states("12|COMPLETED")
    {('12', 0): 'COMPLETED'}
    >>> read_states("JobId=15 ArrayJobId=12 ArrayTaskId=2-3 JobName=x JobState=TIMEOUT Reason=y")
    {('12', 2): 'TIMEOUT', ('12', 3): 'TIMEOUT'}
    """
    states: dict[tuple[str, int], str] = {}
    for line in text.splitlines():
        match = re.search(r"ArrayJobId=(\d+) ArrayTaskId=(\S+) .*?JobState=(\w+)", line)
        if match is None:
            match = re.match(r"(\d+)(?:_\[?([\d,:%-]+)\]?)?\|(\w+)", line)
        if match is not None:
            for task in _numbers(match[2] or "0"):
                states[match[1], task] = match[3]
    return states


def _numbers(text: str) -> Iterable[int]:
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition(":")[0].partition("-")
        if first.isdigit():
            yield from range(int(first), int(last or first) + 1)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
