"""Last job of a round, which finds how all others ended and what has to run again.

It reads the record, and SLURM's state of the jobs where it is still known. Jobs that ran out of
memory or time, or whose node failed, run again with more, followed by those that were cancelled
because of them; steps that can never run are marked, and the record is closed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunRecord, StepSummary, read_events, summarise
from neuroferry.engine.slurm.ends import read_ends
from neuroferry.engine.slurm.manifest import (
    Group,
    Manifest,
    Member,
    Pack,
    last_round,
    more_memory,
    read_manifest,
    write_manifest,
)
from neuroferry.engine.slurm.scripts import write_scripts
from neuroferry.errors import ExitCode, SchedulerError
from neuroferry.trust import read_own

_IN_WORDS = {
    "memory": "ran out of memory",
    "time": "ran out of time",
    "node": "lost its node",
    "lost": "disappeared without a message",
    "interrupted": "was stopped",
    "cancelled": "was cancelled",
    "held": "was put on hold by SLURM, which could not start it on its node",
    "start": "could not start",
    "early": "was started too early",
    "busy": "found its steps still running in another job",
    "job": "could not start its steps",
    "step": "had steps that failed",
}
_WORTH_ANOTHER_TRY = ("memory", "time", "node", "lost", "interrupted", "start", "busy")


class Steward:
    """Steward of one round.

    Parameters
    ----------
    run_dir : pathlib.Path
        Folder of the run.
    number : int or None
        The round; by default the latest.
    """

    def __init__(self, run_dir: Path, number: int | None = None) -> None:
        self.run_dir = run_dir
        latest = last_round(run_dir)
        if latest is None:
            raise SchedulerError(f"{run_dir} is not a run planned for SLURM.")
        self.manifest: Manifest = read_manifest(run_dir, latest if number is None else number)
        self.record = RunRecord(run_dir / "events.jsonl")
        events = read_events(self.record.path)
        self.summary = summarise(events)
        self._steps = {step.step: step for step in self.summary.steps}
        self._ends = read_ends(self.manifest, run_dir, events)
        self._stuck = 0

    @property
    def exit_code(self) -> int | None:
        """Exit code of the run, if its record is closed already."""
        return self.summary.exit_code

    # --- what has to run again ----------------------------------------------------------

    def settle(self) -> Path | None:
        """Plan what has to run again.

        Returns
        -------
        pathlib.Path or None
            The script that submits it; ``None`` if nothing has to run again.
        """
        done = self.summary.count("done", "cached")
        idle = 0 if done > self.manifest.done else self.manifest.idle + 1
        if idle > self.manifest.settings.retries + 1:
            self._stuck = idle
            return None
        plans: dict[tuple[Any, ...], list[Member]] = defaultdict(list)
        models: dict[tuple[Any, ...], Group] = {}
        without_hope: list[tuple[Group, Member, set[int]]] = []
        for group in self.manifest.groups:
            for index, member in enumerate(group.members, 1):
                again, lost = self._again(group, member, index)
                without_hope.append((group, member, lost))
                if again:
                    key = (group.name, again)
                    models[key] = group
                    plans[key].append(replace(member, lost=tuple(sorted(lost))))
        if not plans:
            return None
        for group, member, lost in without_hope:
            self._mark(group, member, lost)
        number = self.manifest.round + 1
        groups = []
        for count, (key, members) in enumerate(sorted(plans.items(), key=str), 1):
            name = f"r{number}g{count}"
            groups.append(_renamed(models[key], name, key[1], members))
        following = replace(
            self.manifest, round=number, groups=tuple(groups), done=done, idle=idle
        )
        write_manifest(following, self.run_dir)
        enter = read_own(self.run_dir / "slurm" / "enter", "The file").strip()
        return write_scripts(following, self.run_dir, enter)

    def _again(
        self, group: Group, member: Member, index: int
    ) -> tuple[tuple[Pack, ...], set[int]]:
        """Find the packs of one unit that run again, and its steps that never can."""
        names = member.step_names(group.steps)
        todo = {i for pack in group.packs for i in pack.steps if not self._is_done(names[i])}
        retried: dict[str, Pack] = {}
        failed: set[int] = set(member.lost)
        for pack in group.packs:
            key = (pack.name, member.name)
            left = todo & set(pack.steps)
            cause = self._ends.cause.get(key)
            if not left or not self._ends.was_submitted(pack.name, index):
                continue
            if cause in _WORTH_ANOTHER_TRY:
                more = self._with_more(pack, cause)
                if more is not None:
                    retried[pack.name] = more
                    self._tell(pack, more, member, cause)
                    continue
            failed |= self._failed_steps(group, pack, member, names, left)
        lost = failed | _all_after(group, failed)
        again = []
        for pack in group.packs:
            runnable = (todo & set(pack.steps)) - lost
            if pack.name in retried:
                again.append(retried[pack.name])
            elif runnable:
                again.append(pack)
        return tuple(again), lost

    def _failed_steps(
        self, group: Group, pack: Pack, member: Member, names: list[str], left: set[int]
    ) -> set[int]:
        """List the steps of a pack that are not retried."""
        key = (pack.name, member.name)
        # a MapNode is skipped when one of its items has failed
        bad = {i for i in left if self._state(names[i]) in ("failed", "skipped")}
        cause = self._ends.cause.get(key)
        if cause in _WORTH_ANOTHER_TRY or cause in ("cancelled", "held", "job"):
            bad |= {i for i in left if not set(group.before[i]) & left}
        elif cause is None and all((p, member.name) in self._ends.ok for p in pack.after):
            # never started although nothing prevented it: someone cancelled it
            bad |= {i for i in left if not set(group.before[i]) & left}
        return bad

    def _with_more(self, pack: Pack, cause: str) -> Pack | None:
        """Increase the resources that a pack lacked; ``None`` if that exceeds the limits."""
        settings = self.manifest.settings
        if pack.attempt >= settings.retries:
            return None
        memory, minutes = pack.mem_mb, pack.minutes
        if cause in ("memory", "lost"):
            more = more_memory(pack, settings)
            if more is None:
                return None
            memory = more
        if cause in ("time", "lost"):
            minutes *= 2
            if settings.max_minutes:
                minutes = min(minutes, settings.max_minutes)
            if cause == "time" and minutes <= pack.minutes:
                return None
        return replace(pack, mem_mb=memory, minutes=minutes, attempt=pack.attempt + 1)

    def _tell(self, pack: Pack, more: Pack, member: Member, cause: str) -> None:
        steps = ", ".join(self._last_names(pack, member))
        text = f"{member.name}: {steps or pack.name} {_IN_WORDS[cause]}"
        text += f" with {pack.mem_mb} MiB and {pack.minutes} min; runs again"
        if (more.mem_mb, more.minutes) != (pack.mem_mb, pack.minutes):
            text += f" with {more.mem_mb} MiB and {more.minutes} min"
        self.record.write(
            "problem", subject=member.subject, severity="warning", message=f"{text}.", path=None
        )

    def _last_names(self, pack: Pack, member: Member) -> list[str]:
        """Name the steps that were running when a pack ended."""
        group = next(g for g in self.manifest.groups if pack in g.packs)
        names = member.step_names(group.steps)
        at_work = [names[i] for i in pack.steps if self._state(names[i]) in ("running", "failed")]
        return [StepName(name).parts[-1] for name in at_work]

    # --- the end ------------------------------------------------------------------------

    def close(self, reason: str | None = None, exit_code: int | None = None) -> int:
        """Mark the steps that never ran, and close the record.

        Returns
        -------
        int
            The run's exit code.
        """
        for group in self.manifest.groups:
            for member in group.members:
                self._mark(group, member, set(range(len(group.steps))))
        summary = summarise(read_events(self.record.path))
        bad = summary.count("failed", "skipped", "running") > 0
        bad = bad or any(p.get("severity") == "error" for p in summary.problems)
        code = int(ExitCode.STEP_FAILED if bad else ExitCode.OK)
        if exit_code is not None:
            code = exit_code
        self.record.write("run_ended", exit_code=code, reason=reason)
        return code

    def _mark(self, group: Group, member: Member, steps: set[int]) -> None:
        """Record for each of ``steps`` that did not finish why it failed."""
        names = member.step_names(group.steps)
        pack_of = {i: pack for pack in group.packs for i in pack.steps}
        bad: dict[int, int] = {
            i: i for i in range(len(names)) if self._state(names[i]) in ("failed", "skipped")
        }
        for i in _in_order(group):
            if i not in pack_of or i not in steps or self._is_done(names[i]) or i in bad:
                continue
            origin = next((bad[b] for b in group.before[i] if b in bad), None)
            if origin is not None:
                bad[i] = origin
                known = self._steps.get(names[origin])
                self.record.write(
                    "step_skipped",
                    step=names[i],
                    subject=member.subject,
                    because=(known and known.because) or names[origin],
                )
                continue
            bad[i] = i
            self._write_failed(pack_of[i], member, names[i])

    def _write_failed(self, pack: Pack, member: Member, name: str) -> None:
        key = (pack.name, member.name)
        cause = self._ends.cause.get(key)
        asked = f"{pack.mem_mb} MiB, {pack.cpus} processor(s) and {pack.minutes} min"
        words = _IN_WORDS[cause] if cause else "never started, or was cancelled before"
        message = f"Its job {words}; it had requested {asked}."
        if self._stuck:
            message += f" In {self._stuck} rounds of jobs in a row no step was done."
        if cause in _WORTH_ANOTHER_TRY and pack.attempt:
            message += f" It was tried {pack.attempt + 1} times."
        if self._ends.reason.get(key):
            message += f" {self._ends.reason[key]}"
        self.record.write(
            "step_failed",
            step=name,
            subject=member.subject,
            message=message,
            crashfile=None,
            traceback="",
        )

    def _state(self, name: str) -> str | None:
        step: StepSummary | None = self._steps.get(name)
        return None if step is None else step.state

    def _is_done(self, name: str) -> bool:
        return self._state(name) in ("done", "cached")


def _renamed(group: Group, name: str, packs: tuple[Pack, ...], members: list[Member]) -> Group:
    """Make a group of the next round from some of a group's packs and members."""
    label = {pack.name: f"{name}p{count:02d}" for count, pack in enumerate(packs, 1)}
    renamed = tuple(
        replace(
            pack,
            name=label[pack.name],
            after=tuple(label[other] for other in _nearest(group, pack, label)),
        )
        for pack in packs
    )
    return replace(group, name=name, packs=renamed, members=tuple(members))


def _nearest(group: Group, pack: Pack, kept: Mapping[str, str]) -> list[str]:
    """Find the packs to wait for among those kept, also through those that are not."""
    by_name = {other.name: other for other in group.packs}
    found: set[str] = set()
    seen: set[str] = set()
    stack = list(pack.after)
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in kept:
            found.add(name)
        elif name in by_name:
            stack += by_name[name].after
    return sorted(found)


def _all_after(group: Group, steps: set[int]) -> set[int]:
    """Find every step that waits, directly or indirectly, for one of ``steps``."""
    found: set[int] = set()
    for i in _in_order(group):
        if any(b in steps or b in found for b in group.before[i]):
            found.add(i)
    return found


def _in_order(group: Group) -> list[int]:
    """Sort the positions of a group's steps, each after those that it waits for."""
    waits = Counter({i: len(before) for i, before in enumerate(group.before)})
    after: dict[int, list[int]] = defaultdict(list)
    for i, before in enumerate(group.before):
        for b in before:
            after[b].append(i)
    ready = [i for i in range(len(group.before)) if not waits[i]]
    order: list[int] = []
    while ready:
        i = ready.pop()
        order.append(i)
        for other in after[i]:
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return order
