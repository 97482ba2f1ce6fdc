"""Manifest of a submission, as plain values: rounds, groups of subjects, packs of steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from neuroferry.config import SlurmConfig, make_slurm_config
from neuroferry.engine.names import in_subject
from neuroferry.engine.resources import parse_memory
from neuroferry.engine.slurm.pack import StepPlan, pack_steps
from neuroferry.engine.slurm.units import Unit
from neuroferry.errors import SchedulerError
from neuroferry.trust import make_own_folder, read_own, write_own

_START_MINUTES = 10
_ROUND_MINUTES = 5


@dataclass(frozen=True)
class Pack:
    """Steps that share a job; with several subjects, a job array.

    Attributes
    ----------
    name : str
        Unique in the run.
    steps : tuple of int
        Positions in the group's steps.
    mem_mb, cpus, minutes : int
        Requested memory (MiB), processors and minutes.
    after : tuple of str
        Packs that it waits for.
    attempt : int
        Number of earlier attempts.
    gpus : int
        Requested graphics processors.
    """

    name: str
    steps: tuple[int, ...]
    mem_mb: int
    cpus: int
    minutes: int
    after: tuple[str, ...] = ()
    attempt: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Member:
    """A unit of a group; ``lost`` are steps that can never run, ``offset`` finds its payload."""

    name: str
    subject: str | None
    offset: int
    length: int
    steps: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()

    def step_names(self, generic: Sequence[str]) -> list[str]:
        """Return the full names of its steps, from their names in any subject."""
        if self.steps:
            return list(self.steps)
        return [in_subject(name, self.subject) for name in generic]


@dataclass(frozen=True)
class Group:
    """Units of the same structure, and the packs of each."""

    name: str
    structure: str
    steps: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    packs: tuple[Pack, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Manifest:
    """One round of submission.

    Attributes
    ----------
    round : int
        0 for the first; later rounds hold what had to run again or did not fit into the queue.
    run_dir : str
        Folder of the run, as jobs see it.
    source : str
        ``config``: jobs build their subject's graph; ``graphs``: they unpickle it.
    settings : SlurmConfig
        Settings of the run.
    groups : tuple of Group
        Submitted groups.
    token : str
        Last part of the names of this run's jobs, which no other run has.
    done : int
        Number of steps that were done when the round was planned.
    idle : int
        Number of rounds in a row, up to the one before, in which no step was done.
    """

    round: int
    run_dir: str
    source: str
    settings: SlurmConfig
    groups: tuple[Group, ...]
    token: str = "run"
    done: int = 0
    idle: int = 0

    def find(self, pack_name: str) -> tuple[Group, Pack]:
        """Find a pack and its group.

        Raises
        ------
        SchedulerError
            If there is none of that name.
        """
        for group in self.groups:
            for pack in group.packs:
                if pack.name == pack_name:
                    return group, pack
        raise SchedulerError(f"Round {self.round} of {self.run_dir} has no pack '{pack_name}'.")


def manifest_path(run_dir: Path, number: int) -> Path:
    """Return the path of a round's manifest."""
    return run_dir / "slurm" / (f"manifest-{number}.json" if number else "manifest.json")


def write_manifest(manifest: Manifest, run_dir: Path) -> None:
    """Write a round's manifest, whole or not at all."""
    path = manifest_path(run_dir, manifest.round)
    make_own_folder(path.parent)
    write_own(path, json.dumps(asdict(manifest), indent=1))


def read_manifest(run_dir: Path, number: int) -> Manifest:
    """Read a round's manifest.

    Raises
    ------
    SchedulerError
        If there is none.
    NeuroferryError
        With exit code 77 if it was written by someone else.
    """
    path = manifest_path(run_dir, number)
    try:
        values = json.loads(read_own(path, "The plan"))
    except (OSError, ValueError) as err:
        raise SchedulerError(f"The plan {path} cannot be read: {err}.") from err
    groups = tuple(
        Group(
            group["name"],
            group["structure"],
            tuple(group["steps"]),
            tuple(tuple(before) for before in group["before"]),
            tuple(_from(Pack, pack) for pack in group["packs"]),
            tuple(_from(Member, member) for member in group["members"]),
        )
        for group in values["groups"]
    )
    settings = make_slurm_config(values["settings"], source=str(path))
    return Manifest(**{**values, "settings": settings, "groups": groups})


def _from(kind: Any, values: Mapping[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def last_round(run_dir: Path) -> int | None:
    """Find the number of the latest round; ``None`` if nothing was planned."""
    number = None
    while manifest_path(run_dir, 0 if number is None else number + 1).exists():
        number = 0 if number is None else number + 1
    return number


class Grouping:
    """Collector that sorts units into groups; it keeps one plan per group and a name per unit.

    Parameters
    ----------
    settings : SlurmConfig
        How steps are packed and which resources are requested.
    """

    def __init__(self, settings: SlurmConfig) -> None:
        self._settings = settings
        self._packs: dict[str, list[tuple[int, ...]]] = {}
        self._groups: dict[tuple[Any, ...], list[tuple[Unit, Member]]] = {}

    def packs_of(self, unit: Unit) -> list[tuple[int, ...]]:
        """Compute the packs of a unit, the same for every unit of its structure."""
        key = f"{unit.structure}-{[step.small for step in unit.steps]}"
        if key not in self._packs:
            self._packs[key] = pack_steps(
                unit.steps, self._settings.packing, self._settings.small_minutes
            )
        return self._packs[key]

    def add(self, unit: Unit, offset: int, *, keep_names: bool) -> bool:
        """Add a unit; tell whether any of its steps has to run."""
        packs = self.packs_of(unit)
        left = tuple(i for i, pack in enumerate(packs) if not unit.done.issuperset(pack))
        if not left:
            return False
        names = tuple(step.name for step in unit.steps) if keep_names else ()
        member = Member(unit.name, unit.subject, offset, len(unit.payload), names)
        key = (unit.structure, unit.size_class, tuple(packs), left)
        light = replace(unit, payload=b"") if key not in self._groups else unit
        self._groups.setdefault(key, []).append((light, member))
        return True

    def groups(self) -> tuple[Group, ...]:
        """Return the groups, the largest first."""
        ordered = sorted(self._groups.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(
            self._group(f"g{number}", key[0], key[2], key[3], units)
            for number, (key, units) in enumerate(ordered, 1)
        )

    def _group(
        self,
        name: str,
        structure: str,
        packs: Sequence[tuple[int, ...]],
        left: Sequence[int],
        units: Sequence[tuple[Unit, Member]],
    ) -> Group:
        model = units[0][0]
        owner = {step: i for i, pack in enumerate(packs) for step in pack}
        label = {i: f"{name}p{number:02d}" for number, i in enumerate(left, 1)}
        made = []
        for i in left:
            waits = {owner[b] for step in packs[i] for b in model.steps[step].after} - {i}
            rows = [[unit.steps[step] for step in packs[i]] for unit, _ in units]
            needs = [job_needs(row, self._settings) for row in rows]
            mem_mb, cpus, minutes = (max(need[k] for need in needs) for k in range(3))
            after = tuple(label[w] for w in sorted(waits) if w in label)
            gpus = max(step.gpus for row in rows for step in row)
            made.append(Pack(label[i], packs[i], mem_mb, cpus, minutes, after, gpus=gpus))
        return Group(
            name,
            structure,
            tuple(step.generic for step in model.steps),
            tuple(step.after for step in model.steps),
            tuple(made),
            tuple(member for _, member in units),
        )


def job_needs(steps: Iterable[StepPlan], settings: SlurmConfig) -> tuple[int, int, int]:
    """Compute the memory (MiB), processors and minutes to request.

    The memory of the largest step with its margin, plus the overhead of the job itself; the
    largest number of processors of any step; the total time of all steps with its margin, plus
    ten minutes to start, rounded up to five minutes.
    """
    rows = list(steps)
    gigabytes = max(s.mem_gb for s in rows) * (1 + settings.mem_margin) + settings.mem_overhead_gb
    if settings.max_mem:
        gigabytes = min(gigabytes, parse_memory(settings.max_mem))
    minutes = sum(s.minutes for s in rows) * (1 + settings.time_margin) + _START_MINUTES
    minutes = math.ceil(minutes / _ROUND_MINUTES) * _ROUND_MINUTES
    if settings.max_minutes:
        minutes = min(minutes, settings.max_minutes)
    return math.ceil(gigabytes * 1e9 / 2**20), max(s.n_procs for s in rows), minutes


def more_memory(pack: Pack, settings: SlurmConfig) -> int | None:
    """Compute the memory (MiB) of the next attempt; ``None`` if that exceeds the limits."""
    if pack.attempt >= settings.retries:
        return None
    memory = pack.mem_mb * 2
    if settings.max_mem:
        memory = min(memory, int(parse_memory(settings.max_mem) * 1e9 / 2**20))
    return memory if memory > pack.mem_mb else None
