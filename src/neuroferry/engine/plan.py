"""Plan of a run before it starts: steps, memory, time and disk, and whether they fit.

The plan comes from a plugin for ``Workflow.run`` that runs nothing, so that the planned graph is
exactly the one that would run. Finished steps are detected as in a real run, by the hash of their
inputs in the work folder.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import networkx as nx

from neuroferry.engine.base import RecordingPlugin
from neuroferry.engine.done import find_done
from neuroferry.engine.estimate import Source
from neuroferry.engine.names import StepName, item_kind, kind_of
from neuroferry.engine.resources import Resources
from neuroferry.engine.schedule import Schedule, fits, volumes_of

Verdict = Literal["fits", "fits with fewer steps at once", "does not fit"]


@dataclass(frozen=True)
class PlannedStep:
    """One step with its expected resources.

    Attributes
    ----------
    step, subject : str, str or None
        Full name, and participant label.
    n_procs, mem_gb, seconds, disk_gb, files : int, float, float, float, int
        Processors, memory (GB), wall-clock time (s), and its size (GB) and files in the work
        folder.
    mem_source, seconds_source : str
        Sources of the estimates, see :mod:`neuroferry.engine.estimate`.
    done : bool
        Whether its result is in the work folder already.
    """

    step: str
    subject: str | None
    n_procs: int
    mem_gb: float
    seconds: float
    disk_gb: float
    files: int
    mem_source: Source
    seconds_source: Source
    done: bool


@dataclass(frozen=True)
class DiskNeed:
    """Disk space and files that a folder needs, and what its file system has left.

    Attributes
    ----------
    path : str
        The folder.
    needed_gb, needed_files : float, int
        Space (GB) and files that the run adds.
    free_gb, free_files : float, int or None
        Free space (GB) and files; ``None`` if the file system does not count files.
    """

    path: str
    needed_gb: float
    needed_files: int
    free_gb: float
    free_files: int | None

    @property
    def fits(self) -> bool:
        """Whether there is enough room."""
        return self.needed_gb <= self.free_gb and (
            self.free_files is None or self.needed_files <= self.free_files
        )


@dataclass(frozen=True)
class Plan:
    """Resources that a run needs.

    Attributes
    ----------
    steps : tuple of PlannedStep
        Steps, in an order in which they can run.
    n_procs, memory_gb : int, float
        Resources that the run may use.
    seconds : mapping of int to float
        Expected time by number of processors, with the available memory.
    at_once : int
        Largest number of steps that run at the same time.
    held_back : bool
        Whether this number is limited by memory, not by processors.
    disks : tuple of DiskNeed
        Folders that the run writes to.
    verdict : str
        ``fits``, ``fits with fewer steps at once`` or ``does not fit``.
    """

    steps: tuple[PlannedStep, ...]
    n_procs: int
    memory_gb: float
    seconds: Mapping[int, float]
    at_once: int
    held_back: bool
    disks: tuple[DiskNeed, ...] = ()

    @property
    def to_do(self) -> tuple[PlannedStep, ...]:
        """Steps that have to run."""
        return tuple(step for step in self.steps if not step.done)

    @property
    def largest(self) -> PlannedStep | None:
        """The step that needs most memory, of those that have to run."""
        return max(self.to_do, key=lambda step: step.mem_gb, default=None)

    @property
    def too_large(self) -> tuple[PlannedStep, ...]:
        """Steps that need more memory than the run may use, the largest first."""
        found = [step for step in self.to_do if step.mem_gb > self.memory_gb]
        return tuple(sorted(found, key=lambda step: -step.mem_gb))

    @property
    def verdict(self) -> Verdict:
        """Whether this machine can run the plan."""
        if self.too_large or not all(disk.fits for disk in self.disks):
            return "does not fit"
        return "fits with fewer steps at once" if self.held_back else "fits"

    def as_dict(self) -> dict[str, Any]:
        """Convert the plan to plain JSON values."""
        return {
            **asdict(self),
            "seconds": {str(n): value for n, value in self.seconds.items()},
            "verdict": self.verdict,
            "too_large": [step.step for step in self.too_large],
        }


class PlanPlugin(RecordingPlugin):
    """Plugin for ``Workflow.run`` that plans the graph and runs nothing.

    Parameters
    ----------
    plugin_args : dict, optional
        ``n_procs``, ``memory_gb``, ``history`` and ``estimator`` as for the other plugins.

    Attributes
    ----------
    plan : Plan
        Set by ``run``.
    """

    plan: Plan

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Plan each step of the flattened graph; called by ``Workflow.run``."""
        done = find_done(graph)
        steps = {node: self._plan_step(node, node in done) for node in _ordered(graph)}
        resources = Resources(self.n_procs, self.memory_gb)
        self.plan = make_plan(graph, steps, resources)

    def _plan_step(self, node: Any, done: bool) -> PlannedStep:
        name, kind, declared = StepName.of(node), kind_of(node), float(node.mem_gb)
        own = self.estimator.estimate(name.text, declared, volumes_of(node), kind=kind)
        memory, seconds, source = own.mem_gb, own.seconds, own.seconds_source
        disk, files, mem_source = own.disk_gb, own.files, own.mem_source
        items = _count_items(node)
        if items > 1:
            # a name that no item has, so that the largest of all items counts
            item = self.estimator.estimate(f"{name.text}._", declared, kind=item_kind(kind))
            side_by_side = max(1, self.n_procs // max(1, int(node.n_procs)))
            own_seconds = 0.0 if source == "default" else seconds
            seconds = own_seconds + item.seconds * -(-items // side_by_side)
            memory, mem_source, source = item.mem_gb, item.mem_source, item.seconds_source
            disk, files = disk + items * item.disk_gb, files + items * item.files
        return PlannedStep(
            step=name.text,
            subject=name.subject,
            n_procs=max(1, int(node.n_procs)),
            mem_gb=memory,
            seconds=seconds,
            disk_gb=disk,
            files=files,
            mem_source=mem_source,
            seconds_source=source,
            done=done,
        )


def finished_step(step: str, subject: str) -> PlannedStep:
    """Plan a step of a finished participant, which needs no resources."""
    return PlannedStep(step, subject, 1, 0.0, 0.0, 0.0, 0, "measured", "measured", done=True)


def make_plan(graph: Any, steps: Mapping[Any, PlannedStep], resources: Resources) -> Plan:
    """Combine the steps of a graph into a plan.

    Parameters
    ----------
    graph : networkx.DiGraph
        Flattened Nipype graph.
    steps : mapping of node to PlannedStep
        Each of its nodes.
    resources : Resources
        Resources that the run may use.
    """
    seconds: dict[int, float] = {}
    for n_procs in sorted({1, resources.n_procs, 2 * resources.n_procs, 4 * resources.n_procs}):
        seconds[n_procs] = simulate(graph, steps, Resources(n_procs, resources.memory_gb))[0]
    with_memory, at_once = simulate(graph, steps, resources)
    without, more_at_once = simulate(graph, steps, Resources(resources.n_procs, float("inf")))
    return Plan(
        steps=tuple(steps.values()),
        n_procs=resources.n_procs,
        memory_gb=resources.memory_gb,
        seconds=seconds,
        at_once=at_once,
        held_back=at_once < more_at_once or with_memory > 1.1 * without,
    )


def simulate(
    graph: Any, steps: Mapping[Any, PlannedStep], resources: Resources
) -> tuple[float, int]:
    """Simulate the execution of a graph with the expected times.

    Returns
    -------
    seconds : float
        Time to the end of the last step.
    at_once : int
        Largest number of steps that ran at the same time.
    """
    plans = {plan.step: plan for plan in steps.values()}
    schedule = Schedule(graph, {p.step: 0.0 if p.done else p.seconds for p in steps.values()})
    _close_done(schedule, plans)
    now, most = 0.0, 0
    running: list[tuple[float, int]] = []
    while True:
        busy = [schedule.tasks[index] for _, index in running]
        for index in schedule.ready():
            if sum(task.n_procs for task in busy) >= resources.n_procs:
                break
            task = schedule.tasks[index]
            if fits(task, busy, *_limits(resources), lambda t: plans[t.step].mem_gb):
                schedule.take(index)
                heapq.heappush(running, (now + plans[task.step].seconds, index))
                busy.append(task)
        most = max(most, len(running))
        if not running:
            return now, most
        now, index = heapq.heappop(running)
        schedule.done(index)


def _close_done(schedule: Schedule, plans: Mapping[str, PlannedStep]) -> None:
    """Close the steps that need not run, and with each all steps before it."""
    found = True
    while found:
        found = False
        for index in schedule.ready():
            if plans[schedule.tasks[index].step].done:
                schedule.done(index)
                found = True


def disk_need(path: Path, needed_gb: float, needed_files: int) -> DiskNeed:
    """Compare the space that a folder needs with what its file system has left."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    state = os.statvfs(there)
    return DiskNeed(
        str(path),
        needed_gb,
        needed_files,
        state.f_bavail * state.f_frsize / 1e9,
        state.f_favail if state.f_files else None,
    )


def _limits(resources: Resources) -> tuple[int, float]:
    return resources.n_procs, resources.memory_gb


def _ordered(graph: Any) -> Sequence[Any]:
    return list(
        nx.lexicographical_topological_sort(graph, key=lambda node: StepName.of(node).text)
    )


def _count_items(node: Any) -> int:
    """Count the items of a MapNode as far as they are known before it runs; 1 for other nodes."""
    try:
        return max(1, int(node.num_subnodes()))
    except Exception:
        return 1  # its list of items comes from a step that has not run yet
