"""What the processes of a running step use: memory, processor time, whether they are stopped.

Read from ``/proc`` while the step runs, because what the kernel reports at the end of a
process (``ru_maxrss``) is the largest single process, not the sum of a step's processes, and
comes too late to act upon.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from neuroferry.engine.resources import memory_in_use

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
# telling shared pages apart takes the kernel milliseconds for each GB
_EXACT_SECONDS = 0.5


@dataclass(frozen=True)
class Usage:
    """What a step's processes use at one moment.

    Attributes
    ----------
    pids : tuple of int
        The step's process and everything below it.
    rss_gb : float
        Sum of resident memory, GB; pages that processes share count once for each of them.
    cpu_seconds : float
        Processor time of the living processes and of their ended children.
    stopped : bool
        Whether the step's own process is stopped (SIGSTOP, SIGTSTP or a debugger).
    """

    pids: tuple[int, ...]
    rss_gb: float
    cpu_seconds: float
    stopped: bool


@dataclass
class Watch:
    """Follows one step while it runs.

    Attributes
    ----------
    pid : int
        Its process.
    peak_gb : float
        Largest memory seen, summed over its processes, GB. Pages that several processes
        share are divided among them (PSS) as soon as there is more than one process.
    now_gb : float
        The last value seen.
    idle_seconds, stopped_seconds : float
        For how long no processor time was used, and for how long the step was stopped.
    """

    pid: int
    peak_gb: float = 0.0
    now_gb: float = 0.0
    idle_seconds: float = 0.0
    stopped_seconds: float = 0.0
    _cpu: float = field(default=-1.0, repr=False)
    _since_exact: float = field(default=0.0, repr=False)

    def look(self, pids: tuple[int, ...], elapsed: float, *, exact: bool = False) -> None:
        """Take one more sample.

        Parameters
        ----------
        pids : tuple of int
            The step's processes.
        elapsed : float
            Seconds since the last sample.
        exact : bool
            Divide shared pages even when there is only one process; costs the kernel a walk
            over its pages.
        """
        if not pids:
            return
        usage = read_usage(self.pid, pids)
        self._since_exact += elapsed
        if exact or (len(usage.pids) > 1 and self._since_exact >= _EXACT_SECONDS):
            self.now_gb = pss_gb(usage.pids)
            self._since_exact = 0.0
        elif len(usage.pids) == 1:
            self.now_gb = usage.rss_gb
        self.peak_gb = max(self.peak_gb, self.now_gb)
        self.stopped_seconds = self.stopped_seconds + elapsed if usage.stopped else 0.0
        moved = usage.cpu_seconds - self._cpu > 0.5 / _TICKS
        self.idle_seconds = 0.0 if moved or self._cpu < 0 else self.idle_seconds + elapsed
        self._cpu = usage.cpu_seconds


class ProcessTable:
    """Knows which processes belong to which step.

    A process belongs where its parent belonged when it was first seen, so that one whose
    parent has ended in the meantime is not lost. Only processes that are new since the last
    look are read: on a machine with a thousand processes a look costs about a millisecond.
    """

    def __init__(self) -> None:
        self._owner: dict[int, int | None] = {}

    def look(self, roots: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """List, for each step's process, itself and everything below it that lives."""
        living = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        self._owner = {pid: owner for pid, owner in self._owner.items() if pid in living}
        self._owner.update((root, root) for root in roots)
        parents: dict[int, int] = {}
        for pid in living - self._owner.keys():
            with suppress(OSError, IndexError, ValueError):
                parents[pid] = int(_read_stat(pid)[1])
        for pid in parents:
            self._owner[pid] = self._find_owner(pid, parents)
        found: dict[int, list[int]] = {root: [] for root in roots}
        for pid in sorted(living):
            owner = self._owner.get(pid)
            if owner in found:
                found[owner].append(pid)
        return {root: tuple(pids) for root, pids in found.items()}

    def _find_owner(self, pid: int, parents: Mapping[int, int]) -> int | None:
        while pid not in self._owner:
            if pid not in parents:
                return None
            pid = parents[pid]
        return self._owner[pid]


def read_usage(pid: int, pids: tuple[int, ...]) -> Usage:
    """Measure the processes ``pids`` of the step whose own process is ``pid``."""
    rss, ticks, stopped = 0, 0, False
    for here in pids:
        with suppress(OSError, IndexError, ValueError):
            rss += int(_read(f"/proc/{here}/statm").split()[1])
            values = _read_stat(here)
            ticks += sum(int(value) for value in values[11:15])
            if here == pid:
                stopped = values[0] in ("T", "t")
    return Usage(pids, rss * _PAGE / 1e9, ticks / _TICKS, stopped)


def pss_gb(pids: tuple[int, ...]) -> float:
    """Sum the proportional share of memory (PSS) of processes, in GB.

    Where the kernel does not tell it, the resident memory stands in.
    """
    total = 0.0
    for pid in pids:
        try:
            text = _read(f"/proc/{pid}/smaps_rollup")
            line = next(part for part in text.splitlines() if part.startswith("Pss:"))
            total += int(line.split()[1]) * 1024
        except (OSError, StopIteration):
            with suppress(OSError, IndexError):
                total += int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    return total / 1e9


def headroom_gb(root: Path = Path("/")) -> float:
    """Memory that is left before the kernel starts to kill, in GB.

    The smaller of what the machine has available and what this process's control groups
    still allow; page cache that can be given up counts as free.
    """
    limits = memory_in_use(root)
    return min((limit - used for limit, used in limits), default=float("inf")) / 1e9


def oom_kills() -> int | None:
    """How many processes the kernel has killed for memory since it started.

    Returns
    -------
    int or None
        ``None`` where the kernel does not tell.
    """
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def prefer_as_oom_victim() -> None:
    """Ask the kernel to kill this process first when memory runs out.

    So it takes the step, and neither the run that waits for it nor what else the person has
    open.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def kill_tree(pid: int) -> None:
    """Kill a process, its process group and everything below it."""
    pids = ProcessTable().look([pid])[pid]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for here in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(here, signal.SIGKILL)


def _read_stat(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the third on: state, parent, ..."""
    # the name before them stands in parentheses and may hold blanks and parentheses
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)
