"""Memory, processor time and state of the processes of a running step.

They are read from ``/proc`` while the step runs, because the kernel's report at the end of a
process (``ru_maxrss``) is about the largest single process, not the sum of a step's processes,
and comes too late to act upon.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from neuroferry.engine.resources import memory_groups, memory_in_use

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
# memory of a Python process that has loaded Nipype, as a step would have without forking
_EMPTY_PROCESS_GB = 0.12
# measuring shared pages takes the kernel up to ten milliseconds per GB, so it is repeated only
# after this many times the processor time that the last measurement took
_EXACT_EVERY = 200
# parameters of mallopt(3), and the largest value that glibc accepts for the first
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Usage:
    """Resources used by a step's processes at one moment.

    Attributes
    ----------
    rss_gb : dict of int to float
        Resident memory of each process, GB, including memory shared with others.
    cpu_seconds : float
        Processor time of the running processes and of their ended children.
    stopped : bool
        Whether the step's own process is stopped (SIGSTOP, SIGTSTP or a debugger).
    """

    rss_gb: dict[int, float]
    cpu_seconds: float
    stopped: bool


@dataclass(frozen=True)
class Pages:
    """Memory of one process according to the kernel's page tables, GB.

    Attributes
    ----------
    shared : float
        Resident pages shared with other processes.
    private : float
        Resident pages of this process alone.
    proportional : float
        Resident pages, each divided by the number of processes that share it (PSS).
    """

    shared: float
    private: float
    proportional: float


@dataclass
class Watch:
    """Monitor of one step while it runs.

    A step starts as a fork of the process that runs the graph and shares all its pages:
    gigabytes, if it is a notebook with data. They take no memory until one of the two writes to
    them. The memory of a step is therefore the sum of

    - the resident memory of its own process minus what it shares with the process that it was
      forked from, as last seen while it had no children; the shared part counts up to the memory
      of a Python process that has loaded Nipype (0.12 GB);
    - the private memory of its forked children;
    - the proportional memory (PSS) of programs that it started.

    Attributes
    ----------
    pid : int
        Its process.
    shared_gb : float
        Memory that this process shares with the one that it was forked from, GB.
    peak_gb : float
        Largest memory so far, summed over its processes, GB.
    now_gb : float
        Memory at the last sample, GB.
    idle_seconds, stopped_seconds : float
        How long no processor time has been used, and how long the step has been stopped.
    """

    pid: int
    shared_gb: float = 0.0
    peak_gb: float = 0.0
    now_gb: float = 0.0
    idle_seconds: float = 0.0
    stopped_seconds: float = 0.0
    _cpu: float = field(default=-1.0, repr=False)
    # resident memory that does not count, of each process below the step's own
    _aside: dict[int, float] = field(default_factory=dict, repr=False)
    _unsure: set[int] = field(default_factory=set, repr=False)
    _exact_after: float = field(default=0.0, repr=False)

    def look(self, pids: tuple[int, ...], elapsed: float, *, exact: bool = False) -> None:
        """Take one more sample.

        Parameters
        ----------
        pids : tuple of int
            The step's processes.
        elapsed : float
            Seconds since the last sample.
        exact : bool
            Measure shared pages now, even if that was done a moment ago.
        """
        if not pids:
            return
        usage = read_usage(self.pid, pids)
        self._tell_apart(usage.rss_gb, exact=exact or time.monotonic() >= self._exact_after)
        self.now_gb = sum(
            max(rss - self._aside.get(pid, 0.0), 0.0) for pid, rss in usage.rss_gb.items()
        )
        self.peak_gb = max(self.peak_gb, self.now_gb)
        self.stopped_seconds = self.stopped_seconds + elapsed if usage.stopped else 0.0
        moved = usage.cpu_seconds - self._cpu > 0.5 / _TICKS
        self.idle_seconds = 0.0 if moved or self._cpu < 0 else self.idle_seconds + elapsed
        self._cpu = usage.cpu_seconds

    def _tell_apart(self, rss_gb: Mapping[int, float], *, exact: bool) -> None:
        """Find the memory that does not count, of all processes or of new ones."""
        started = time.thread_time()
        if exact and len(rss_gb) == 1 and rss_gb[self.pid] > _EMPTY_PROCESS_GB:
            pages = read_pages(self.pid)
            self.shared_gb = self.shared_gb if pages is None else pages.shared
        before, self._aside = self._aside, {self.pid: shared_aside(self.shared_gb)}
        stack, unsure = _start_of_stack(self.pid), set()
        for pid, rss in rss_gb.items():
            if pid == self.pid:
                continue
            if pid in before and pid not in self._unsure and not exact:
                self._aside[pid] = before[pid]
                continue
            pages = read_pages(pid)
            if stack == 0 or _start_of_stack(pid) != stack:
                self._aside[pid] = 0.0 if pages is None else rss - pages.proportional
            elif pid in before:
                self._aside[pid] = 0.0 if pages is None else rss - pages.private
            else:
                # it may be about to become another program; until then, the step's own
                # memory may be its own, too
                self._aside[pid] = rss
                unsure.add(pid)
        self._unsure = unsure
        if exact:
            cost = time.thread_time() - started
            self._exact_after = time.monotonic() + _EXACT_EVERY * cost


class ProcessTable:
    """Table of the processes of each step.

    A process belongs to the step of its parent when it is first seen, so that it is not lost if
    its parent ends. Only processes that are new since the last update are read: on a machine with
    a thousand processes an update takes about a millisecond.
    """

    def __init__(self) -> None:
        self._owner: dict[int, int | None] = {}

    def look(self, roots: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """List, for each step's process, itself and its running descendants."""
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
    ticks, stopped = 0, False
    for here in pids:
        with suppress(OSError, IndexError, ValueError):
            values = _read_stat(here)
            ticks += sum(int(value) for value in values[11:15])
            if here == pid:
                stopped = values[0] in ("T", "t")
    return Usage({here: resident_gb(here) for here in pids}, ticks / _TICKS, stopped)


def shared_aside(shared_gb: float) -> float:
    """Compute the part of the memory shared with the parent that does not count, GB.

    Examples
    --------
    >>> shared_aside(0.03), shared_aside(2.12)
    (0.0, 2.0)
    """
    return max(shared_gb - _EMPTY_PROCESS_GB, 0.0)


def resident_gb(pid: int) -> float:
    """Read the resident memory of a process, GB; 0 if it has ended."""
    with suppress(OSError, IndexError, ValueError):
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE / 1e9
    return 0.0


def measure_peak(born_with_gb: float) -> float:
    """Find the largest memory of this forked process and its ended children, GB.

    Parameters
    ----------
    born_with_gb : float
        Memory inherited from its parent at its start.

    Notes
    -----
    The kernel's value for this process (``ru_maxrss``) includes the pages that it shares with
    the process that it was forked from. A child process starts with the value of this one, even
    if it then executes another program, so a child's value counts only if it is larger.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    shared = 0.0
    if own > _EMPTY_PROCESS_GB:  # otherwise nothing is set aside, whatever is shared
        pages = read_pages(os.getpid())
        shared = born_with_gb if pages is None else pages.shared
    return max(own - shared_aside(shared), below if below > own else 0.0)


def reuse_freed_memory() -> None:
    """Make this process reuse freed memory instead of requesting fresh pages.

    glibc returns large arrays to the kernel as soon as they are freed, and adapts only slowly to
    repeated requests; zeroing fresh pages takes a fifth of the time of steps that process a
    series block by block. This sets the limit at which glibc's own adaptation ends; larger arrays
    are still returned.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


def read_pages(pid: int) -> Pages | None:
    """Read the private and shared memory of a process.

    Returns
    -------
    Pages or None
        ``None`` if the process has ended or the kernel does not tell.
    """
    values: dict[str, float] = {}
    try:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()[1:]:
            name, amount, *_ = line.split()
            values[name] = int(amount) * 1024 / 1e9
        return Pages(
            shared=values["Shared_Clean:"] + values["Shared_Dirty:"],
            private=values["Private_Clean:"] + values["Private_Dirty:"],
            proportional=values["Pss:"],
        )
    except (OSError, KeyError, ValueError):
        return None


def _start_of_stack(pid: int) -> int:
    """Read the start address of a process's stack, which differs between programs.

    A fork keeps it, so it distinguishes a forked process from one that runs another program; 0
    if the kernel does not tell.
    """
    with suppress(OSError, IndexError, ValueError):
        return int(_read_stat(pid)[25])
    return 0


def headroom_gb(root: Path = Path("/")) -> float:
    """Find the memory that is left before the kernel starts to kill, in GB.

    The smaller of what is available on the machine and what this process's control groups still
    allow; page cache that can be released counts as free.
    """
    limits = memory_in_use(root)
    return min((limit - used for limit, used in limits), default=float("inf")) / 1e9


def oom_kills(root: Path = Path("/")) -> int | None:
    """Count the processes that the kernel has killed for memory so far.

    Those of this process's control group where it counts them, else those of the machine.

    Returns
    -------
    int or None
        ``None`` where the kernel does not tell.
    """
    group = next(iter(memory_groups(root)), None)
    places = [group / "memory.events", group / "memory.oom_control"] if group else []
    for path in (*places, root / "proc/vmstat"):
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def prefer_as_oom_victim() -> None:
    """Ask the kernel to kill this process first when memory runs out.

    It then kills the step, not the run that waits for it or other programs of the user.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def kill_tree(pid: int) -> None:
    """Kill a process, its process group and all its descendants."""
    pids = ProcessTable().look([pid])[pid]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for here in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(here, signal.SIGKILL)


def _read_stat(pid: int) -> list[str]:
    """Read the fields of ``/proc/<pid>/stat`` from the third on: state, parent, ..."""
    # the program name before them is in parentheses and may contain blanks and parentheses
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)
