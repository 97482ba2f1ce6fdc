"""Schedule of a graph: which steps may run next, and which cannot run after a failure."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from neuroferry.engine.names import StepName, item_kind, kind_of


@dataclass
class Task:
    """One step: a node of the flattened graph, or one item of a MapNode.

    Attributes
    ----------
    node : nipype.pipeline.engine.Node
        Node to run.
    step : str
        Its full name, unique in the graph.
    kind : str
        Kind of step, as :mod:`neuroferry.engine.names` explains it.
    n_procs, mem_gb : int, float
        Processors and memory (GB) that it declares.
    waits_for, leads_to : set of int
        Tasks before and after it.
    map_parent : int or None
        For an item of a MapNode, the task that collects the items.
    expanded : bool
        For a MapNode, whether its items are tasks already.
    alone : bool
        Whether it has to run alone with the whole budget, because memory ran out beside others.
    rank : int
        Position of its participant. Participants are processed in order, so that the first
        results appear early and only a few participants have intermediate results on the disk;
        steps of later participants fill idle processors.
    priority : float
        Expected seconds from its start to the end of all that depends on it.
    """

    node: Any
    step: str
    kind: str
    n_procs: int
    mem_gb: float
    waits_for: set[int] = field(default_factory=set)
    leads_to: set[int] = field(default_factory=set)
    map_parent: int | None = None
    expanded: bool = False
    alone: bool = False
    rank: int = 0
    priority: float = 0.0


class Schedule:
    """State of a graph's steps during a run.

    Parameters
    ----------
    graph : networkx.DiGraph
        Flattened and expanded Nipype graph.
    expected_seconds : mapping of str to float, optional
        Known durations of steps; of a participant's steps, the one with the longest remaining
        path starts first.
    """

    def __init__(
        self, graph: nx.DiGraph, expected_seconds: Mapping[str, float] | None = None
    ) -> None:
        self._expected = dict(expected_seconds or {})
        order = list(nx.lexicographical_topological_sort(graph, key=_identity))
        index = {node: i for i, node in enumerate(order)}
        self.tasks = [_task(node) for node in order]
        for before, after in graph.edges():
            self.tasks[index[before]].leads_to.add(index[after])
            self.tasks[index[after]].waits_for.add(index[before])
        for task in reversed(self.tasks):
            way = max((self.tasks[i].priority for i in task.leads_to), default=0.0)
            task.priority = way + self._expected.get(task.step, 1.0)
        places: dict[str, int] = {}
        for task in self.tasks:
            subject = StepName(task.step).subject
            if subject is not None:
                task.rank = places.setdefault(subject, len(places) + 1)
        self.open = set(range(len(self.tasks)))
        # kept sorted by urgency: a graph may have thousands of ready steps
        self._ready: list[tuple[int, float, int]] = []
        for i, task in enumerate(self.tasks):
            if not task.waits_for:
                self.give_back(i)

    @property
    def finished(self) -> bool:
        """Whether every step has run, failed or been skipped."""
        return not self.open

    def ready(self) -> list[int]:
        """List the tasks that may start now, the most urgent first."""
        return [index for _, _, index in self._ready]

    def take(self, index: int) -> None:
        """Remove a task from the ready ones, because it starts."""
        entry = self._entry(index)
        place = bisect.bisect_left(self._ready, entry)
        if place < len(self._ready) and self._ready[place] == entry:
            del self._ready[place]

    def give_back(self, index: int) -> None:
        """Make a task ready, again or for the first time."""
        bisect.insort(self._ready, self._entry(index))

    def _entry(self, index: int) -> tuple[int, float, int]:
        task = self.tasks[index]
        return task.rank, -task.priority, index

    def done(self, index: int) -> None:
        """Mark a task as done, and make those ready that waited only for it."""
        self.take(index)
        self.open.discard(index)
        for after in self.tasks[index].leads_to:
            task = self.tasks[after]
            task.waits_for.discard(index)
            if not task.waits_for and after in self.open:
                self.give_back(after)

    def fail(self, index: int) -> list[int]:
        """Mark a task as failed.

        Returns
        -------
        list of int
            Tasks that cannot run any more, closed by this call.
        """
        self.take(index)
        self.open.discard(index)
        lost: list[int] = []
        stack = sorted(self.tasks[index].leads_to)
        while stack:
            after = stack.pop(0)
            if after not in self.open:
                continue
            self.take(after)
            self.open.discard(after)
            lost.append(after)
            stack.extend(sorted(self.tasks[after].leads_to))
        return lost

    def expand(self, index: int, items: list[Any]) -> None:
        """Add a task for each item of a MapNode; the MapNode waits for them."""
        parent = self.tasks[index]
        parent.expanded = True
        self.take(index)
        for node in items:
            task = _task(node)
            task.step = f"{parent.step}.{node.name}"
            task.kind = item_kind(parent.kind)
            task.map_parent = index
            task.leads_to = {index}
            task.rank = parent.rank
            task.priority = parent.priority
            self.tasks.append(task)
            number = len(self.tasks) - 1
            parent.waits_for.add(number)
            self.open.add(number)
            self.give_back(number)


def fits(
    task: Task,
    running: Sequence[Task],
    n_procs: int,
    memory_gb: float,
    booked_gb: Callable[[Task], float],
) -> bool:
    """Tell whether a task fits beside the running ones.

    When nothing runs, any task is tried, however large. A task that has to run alone starts
    only then, and nothing starts beside it.
    """
    if not running:
        return True
    if task.alone or any(other.alone for other in running):
        return False
    procs = task.n_procs + sum(other.n_procs for other in running)
    memory = booked_gb(task) + sum(booked_gb(other) for other in running)
    return procs <= n_procs and memory <= memory_gb


def volumes_of(node: Any) -> int | None:
    """Return the number of volumes that a node processes, if its builder declared it."""
    volumes: int | None = getattr(node, "volumes", None)
    return volumes


def _identity(node: Any) -> str:
    return f"{node.fullname}|{node._id}"


def _task(node: Any) -> Task:
    return Task(
        node=node,
        step=StepName.of(node).text,
        kind=kind_of(node),
        n_procs=max(1, int(node.n_procs)),
        mem_gb=float(node.mem_gb),
    )
