"""Packing: which steps of one subject's graph share a job.

A job costs seconds of scheduling and start-up, and waits in a queue; most steps of a neuroimaging
graph take less. So small steps join their neighbours, and chains become one job, as long as
branches can still run in parallel.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from neuroferry.config import PACKINGS
from neuroferry.errors import UsageError

# how many edges are followed to find whether one pack depends on others
_FAR = 200


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
    gpus : int
        Graphics processors.
    """

    name: str
    generic: str
    kind: str
    n_procs: int
    mem_gb: float
    minutes: float
    small: bool
    after: tuple[int, ...]
    gpus: int = 0


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
    """Packs while they are merged: the steps of each, their needs, and the packs around it.

    What one merge makes possible is looked for around it only, and paths are followed only so
    far, so that the time grows with the number of steps and edges.
    """

    def __init__(self, steps: Sequence[StepPlan], small_minutes: float) -> None:
        self._limit = small_minutes
        everyone = range(len(steps))
        self.members = {i: [i] for i in everyone}
        self._before = {i: set(step.after) for i, step in enumerate(steps)}
        self._after: dict[int, set[int]] = {i: set() for i in everyone}
        for i, step in enumerate(steps):
            for earlier in step.after:
                self._after[earlier].add(i)
        self._small = {i: step.small for i, step in enumerate(steps)}
        self._minutes = {i: step.minutes for i, step in enumerate(steps)}
        self._need = {i: (step.mem_gb, step.n_procs) for i, step in enumerate(steps)}
        self._name = {i: (step.generic, i) for i, step in enumerate(steps)}

    def merge(self) -> None:
        """Merge packs as long as possible."""
        changed = set(self.members)
        while changed:
            while changed:
                changed = self._merge_neighbours(changed)
            changed = self._merge_siblings(self._before, self._in_order_of_keys())
            changed |= self._merge_siblings(self._after, self._in_order_of_keys()[::-1])
            changed &= self.members.keys()

    def _merge_neighbours(self, packs: set[int]) -> set[int]:
        """Merge these packs with those that wait for them; return those to look at next."""
        around: set[int] = set()
        for pack in self._in_order_of_keys():
            if pack in packs and pack in self.members:
                around |= self._merge_following(pack)
        return around & self.members.keys()

    def _merge_following(self, pack: int) -> set[int]:
        """Merge a pack with those that wait for it; return the packs around, if any were."""
        candidates = deque(sorted(self._after[pack]))
        merged = False
        while candidates:
            other = candidates.popleft()
            if other not in self._after[pack]:
                continue
            if self._is_chain(pack, other) or self._joins(pack, other):
                candidates.extend(sorted(self._after[other] - self._after[pack]))
                pack = self._unite(pack, other)
                merged = True
        if not merged:
            return set()
        return {pack, *self._before[pack]}.union(
            *(self._before[after] for after in self._after[pack] if self._few_before(after))
        )

    def _few_before(self, pack: int) -> bool:
        return len(self._before[pack]) <= _FAR

    def _is_chain(self, first: int, second: int) -> bool:
        """Tell whether two consecutive packs have no other neighbours and similar needs."""
        if len(self._after[first]) != 1 or len(self._before[second]) != 1:
            return False
        one, two = self._need[first], self._need[second]
        wasteful = max(one[0], two[0]) > 4 * min(one[0], two[0]) or one[1] != two[1]
        return not wasteful or self._small[first] or self._small[second]

    def _joins(self, first: int, second: int) -> bool:
        """Tell whether one of two packs is small and nothing waits longer once they merge."""
        if (
            self._small[second]
            and self._affordable(second, first)
            and self._reaches(first, self._before, self._before[second])
        ):
            return True
        return (
            self._small[first]
            and self._affordable(first, second)
            and self._reaches(second, self._after, self._after[first])
        )

    def _merge_siblings(self, neighbours: dict[int, set[int]], order: list[int]) -> set[int]:
        """Merge small packs with the same predecessors or successors; return those around."""
        seen: dict[frozenset[int], int] = {}
        around: set[int] = set()
        for pack in order:
            if pack not in self.members or not self._small[pack]:
                continue
            key = frozenset(neighbours[pack])
            other = seen.get(key)
            if (
                other is not None
                and other in self.members
                and neighbours[other] == key
                and self._affordable(pack, other)
            ):
                pack = self._unite(other, pack)
                around |= {pack, *self._before[pack]}
            seen[key] = pack
        return around

    def _affordable(self, small: int, other: int) -> bool:
        """Tell whether merged small steps stay small; a big step may take any small ones."""
        return not self._small[other] or self._minutes[small] + self._minutes[other] <= self._limit

    def _reaches(self, pack: int, neighbours: dict[int, set[int]], targets: set[int]) -> bool:
        """Tell whether all of ``targets`` but the pack itself are found by going on from it."""
        if len(targets) > _FAR:
            return False
        left = targets - {pack}
        found: set[int] = set()
        queue = deque([pack])
        followed = 0
        while left and queue and followed < _FAR:
            for other in islice(neighbours[queue.popleft()], _FAR - followed):
                followed += 1
                if other not in found:
                    found.add(other)
                    left.discard(other)
                    queue.append(other)
        return not left

    def _unite(self, first: int, second: int) -> int:
        """Make one pack of two, and return which of them it is: the one with more around it."""
        size = {p: len(self._before[p]) + len(self._after[p]) for p in (first, second)}
        keep, gone = (first, second) if size[first] >= size[second] else (second, first)
        self._small[keep] &= self._small.pop(gone)
        self._minutes[keep] += self._minutes.pop(gone)
        need, other_need = self._need[keep], self._need.pop(gone)
        self._need[keep] = (max(need[0], other_need[0]), max(need[1], other_need[1]))
        self._name[keep] = min(self._name[keep], self._name.pop(gone))
        mine, others = self.members[keep], self.members.pop(gone)
        if len(mine) < len(others):
            mine, others = others, mine
        self.members[keep] = mine
        mine += others
        for mine_now, theirs in ((self._before, self._after), (self._after, self._before)):
            for other in mine_now.pop(gone):
                theirs[other].discard(gone)
                if other != keep:
                    theirs[other].add(keep)
                    mine_now[keep].add(other)
            mine_now[keep].discard(gone)
        return keep

    def _in_order_of_keys(self) -> list[int]:
        """Sort packs after those that they depend on, and ties by the first step's name."""
        waits = {pack: len(before) for pack, before in self._before.items()}
        ready = [(self._name[pack], pack) for pack, count in waits.items() if count == 0]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            _, pack = heapq.heappop(ready)
            order.append(pack)
            for other in self._after[pack]:
                waits[other] -= 1
                if waits[other] == 0:
                    heapq.heappush(ready, (self._name[other], other))
        return order

    def in_order(self) -> list[tuple[int, ...]]:
        """List the steps of each pack, with packs after those that they wait for."""
        return [tuple(sorted(self.members[pack])) for pack in self._in_order_of_keys()]
