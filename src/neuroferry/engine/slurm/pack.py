"""Packing: which steps of one subject's graph share a job.

A job costs seconds of scheduling and start-up, and waits in a queue; most steps of a neuroimaging
graph take less. So small steps join their neighbours, and chains become one job, as long as
branches can still run in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroferry.config import PACKINGS
from neuroferry.errors import UsageError


@dataclass(frozen=True)
class StepPlan:
    """One step, with what planning needs to know of it.

    Attributes
    ----------
    name : str
        Its full name.
    generic : str
        The name that it has in every subject, ``sub_*_wf`` in place of the subject.
    kind : str
        Kind of step, as :mod:`neuroferry.engine.names` explains it.
    n_procs : int
        Processors.
    mem_gb : float
        Memory in GB (1e9 bytes).
    minutes : float
        Expected duration.
    small : bool
        Whether it is too small for its own job.
    after : tuple of int
        Positions of the steps before it.
    """

    name: str
    generic: str
    kind: str
    n_procs: int
    mem_gb: float
    minutes: float
    small: bool
    after: tuple[int, ...]


def pack_steps(
    steps: Sequence[StepPlan], packing: str = "chain", small_minutes: float = 10.0
) -> list[tuple[int, ...]]:
    """Distribute the steps of one graph among jobs.

    Parameters
    ----------
    steps : sequence of StepPlan
        An acyclic graph.
    packing : str
        ``node``: a job for each step. ``chain``: chains and small steps merged. ``subject``:
        one job.
    small_minutes : float
        Longest total time of small steps that share a job.

    Returns
    -------
    list of tuple of int
        Positions in ``steps``; every pack comes after those that it depends on.

    Examples
    --------
    >>> a = StepPlan("a", "a", "a", 1, 0.2, 1, True, ())
    >>> b = StepPlan("b", "b", "b", 4, 8.0, 60, False, (0,))
    >>> pack_steps([a, b]), pack_steps([a, b], "node")
    ([(0, 1)], [(0,), (1,)])
    """
    if packing not in PACKINGS:
        raise UsageError(f"'{packing}' is not a packing. Choose one of: {', '.join(PACKINGS)}.")
    if not steps:
        return []
    if packing == "subject":
        return [tuple(range(len(steps)))]
    packs = _Packs(steps, small_minutes)
    if packing == "chain":
        packs.merge()
    return packs.in_order()


class _Packs:
    """Packs while they are merged: sets of steps, and the packs before and after each."""

    def __init__(self, steps: Sequence[StepPlan], small_minutes: float) -> None:
        self._steps = steps
        self._limit = small_minutes
        self.members: dict[int, list[int]] = {i: [i] for i in range(len(steps))}
        self._before: dict[int, set[int]] = {i: set(s.after) for i, s in enumerate(steps)}
        self._after: dict[int, set[int]] = {i: set() for i in range(len(steps))}
        for i, step in enumerate(steps):
            for earlier in step.after:
                self._after[earlier].add(i)

    def merge(self) -> None:
        """Merge packs as long as possible."""
        while self._merge_once():
            pass

    def _merge_once(self) -> bool:
        for pack in self.in_order_of_keys():
            for other in sorted(self._after[pack]):
                if self._is_chain(pack, other) or self._joins(pack, other):
                    self._unite(pack, other)
                    return True
        return self._merge_siblings()

    def _is_chain(self, first: int, second: int) -> bool:
        """Tell whether two consecutive packs have no other neighbours and similar needs."""
        if self._after[first] != {second} or self._before[second] != {first}:
            return False
        one, two = self._need(first), self._need(second)
        wasteful = max(one[0], two[0]) > 4 * min(one[0], two[0]) or one[1] != two[1]
        return not wasteful or self._small(first) or self._small(second)

    def _joins(self, first: int, second: int) -> bool:
        """Tell whether one of two packs is small and nothing waits longer once they merge."""
        if self._small(second):
            others = self._before[second] - {first}
            if others <= self._reach(first, self._before) and self._affordable(second, first):
                return True
        if self._small(first):
            others = self._after[first] - {second}
            return others <= self._reach(second, self._after) and self._affordable(first, second)
        return False

    def _merge_siblings(self) -> bool:
        """Merge two small packs with the same predecessors or successors; tell if any were."""
        for neighbours in (self._before, self._after):
            seen: dict[frozenset[int], int] = {}
            for pack in self.in_order_of_keys():
                if not self._small(pack):
                    continue
                key = frozenset(neighbours[pack])
                if key in seen and self._affordable(pack, seen[key]):
                    self._unite(seen[key], pack)
                    return True
                seen[key] = pack
        return False

    def _affordable(self, small: int, other: int) -> bool:
        """Tell whether merged small steps stay small; a big step may take any small ones."""
        return not self._small(other) or self._minutes(small) + self._minutes(other) <= self._limit

    def _small(self, pack: int) -> bool:
        return all(self._steps[i].small for i in self.members[pack])

    def _minutes(self, pack: int) -> float:
        return sum(self._steps[i].minutes for i in self.members[pack])

    def _need(self, pack: int) -> tuple[float, int]:
        members = [self._steps[i] for i in self.members[pack]]
        return max(s.mem_gb for s in members), max(s.n_procs for s in members)

    def _reach(self, pack: int, neighbours: dict[int, set[int]]) -> set[int]:
        found: set[int] = set()
        stack = [pack]
        while stack:
            for other in neighbours[stack.pop()] - found:
                found.add(other)
                stack.append(other)
        return found

    def _unite(self, keep: int, gone: int) -> None:
        self.members[keep] += self.members.pop(gone)
        for mine, theirs in ((self._before, self._after), (self._after, self._before)):
            for other in mine.pop(gone):
                theirs[other].discard(gone)
                if other != keep:
                    theirs[other].add(keep)
                    mine[keep].add(other)
            mine[keep].discard(gone)

    def in_order_of_keys(self) -> list[int]:
        """Sort packs after those that they depend on, and ties by the first step's name."""
        waits = {pack: len(before) for pack, before in self._before.items()}
        ready = sorted((p for p, n in waits.items() if n == 0), key=self._name)
        order: list[int] = []
        while ready:
            pack = ready.pop(0)
            order.append(pack)
            for other in self._after[pack]:
                waits[other] -= 1
                if waits[other] == 0:
                    ready.append(other)
            ready.sort(key=self._name)
        return order

    def in_order(self) -> list[tuple[int, ...]]:
        """List the steps of each pack, with packs after those that they wait for."""
        return [tuple(sorted(self.members[pack])) for pack in self.in_order_of_keys()]

    def _name(self, pack: int) -> tuple[str, int]:
        return min(self._steps[i].generic for i in self.members[pack]), pack
