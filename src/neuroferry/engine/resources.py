"""Processors and memory available to this process.

The machine's total is only an upper bound: CPU affinity, control groups (versions 1 and 2) and a
SLURM allocation may each allow less.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroferry.errors import UsageError

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_AMOUNT = re.compile(
    r"^\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[kmgt])(?P<i>i?)b?\s*$", re.I
)
# cgroup v1 writes "no limit" as a number near 2**63
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Resources:
    """Resources that a run may use.

    Attributes
    ----------
    n_procs : int
        Processors.
    memory_gb : float
        Memory in GB (1e9 bytes).
    """

    n_procs: int
    memory_gb: float


def parse_memory(text: str) -> float:
    """Convert an amount of memory with its unit to GB.

    Parameters
    ----------
    text : str
        Such as ``8GB``, ``8000 MB`` or ``7.5GiB``. A bare number is refused, as some programs
        of the field read it as megabytes, others as gigabytes.

    Returns
    -------
    float
        GB (1e9 bytes).

    Raises
    ------
    UsageError
        When the text is not an amount with a unit, is zero or too large to be a number.

    Examples
    --------
    >>> parse_memory("8GB")
    8.0
    >>> parse_memory("500m")
    0.5
    >>> round(parse_memory("1GiB"), 3)
    1.074
    """
    match = _AMOUNT.match(text)
    if match is None:
        raise UsageError(
            f"'{text}' is not an amount of memory. Give it with its unit, such as 8GB or 8000MB."
        )
    units = _BINARY_UNITS if match["i"] else _UNITS
    amount = float(match["number"]) * units[match["unit"].lower()] / 1e9
    if not 0 < amount < math.inf:
        what = "zero" if amount == 0 else "more than any machine has"
        raise UsageError(f"'{text}' is {what}. Give an amount of memory such as 8GB.")
    return amount


def available_resources(
    environ: Mapping[str, str] | None = None, root: Path = Path("/")
) -> Resources:
    """Find the resources available to this process.

    Parameters
    ----------
    environ : mapping, optional
        The environment, searched for a SLURM allocation; by default that of the process.
    root : pathlib.Path
        Folder of ``proc`` and ``sys``.
    """
    env = os.environ if environ is None else environ
    return Resources(_available_processors(env, root), _available_memory_gb(env, root))


def _available_processors(environ: Mapping[str, str], root: Path) -> int:
    limits = [float(len(os.sched_getaffinity(0)))]
    for folder in _cgroup_folders(root, "cpu"):
        quota = _cpu_quota(folder)
        if quota is not None:
            limits.append(quota)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if environ.get(name, "").isdigit():
            limits.append(float(environ[name]))
            break
    return max(1, int(min(limits)))


def _available_memory_gb(environ: Mapping[str, str], root: Path) -> float:
    limits = [_total_memory(root)]
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            value = _read_number(folder / name)
            if value is not None and value < _NO_LIMIT:
                limits.append(value)
    if environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        limits.append(float(environ["SLURM_MEM_PER_NODE"]) * 2**20)
    elif environ.get("SLURM_MEM_PER_CPU", "").isdigit():
        processors = int(environ.get("SLURM_CPUS_ON_NODE") or 1)
        limits.append(float(environ["SLURM_MEM_PER_CPU"]) * processors * 2**20)
    positive = [limit for limit in limits if limit > 0]
    return min(positive) / 1e9


def memory_in_use(root: Path = Path("/")) -> list[tuple[float, float]]:
    """List all memory limits of this process, each with its current use.

    Page cache that the kernel releases before it kills does not count as used.

    Returns
    -------
    list of (float, float)
        Limit and use in bytes: of the machine, then of the control groups.
    """
    meminfo = _read_table(root / "proc/meminfo")
    pairs = []
    if "MemTotal:" in meminfo and "MemAvailable:" in meminfo:
        total = meminfo["MemTotal:"] * 1024
        pairs.append((total, total - meminfo["MemAvailable:"] * 1024))
    for folder in memory_groups(root):
        for limit_name, use_name in (
            ("memory.max", "memory.current"),
            ("memory.high", "memory.current"),  # above it the kernel slows a group to a halt
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _read_number(folder / limit_name), _read_number(folder / use_name)
            if limit is None or used is None or limit >= _NO_LIMIT:
                continue
            stat = _read_table(folder / "memory.stat")
            cache = stat.get("total_inactive_file", stat.get("inactive_file", 0.0))
            pairs.append((limit, used - cache))
    return pairs


def memory_groups(root: Path = Path("/")) -> list[Path]:
    """List the control groups that limit the memory of this process, its own first."""
    return _cgroup_folders(root, "memory")


def _read_table(path: Path) -> dict[str, float]:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: float(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _total_memory(root: Path) -> float:
    meminfo = _read_table(root / "proc/meminfo")
    if "MemTotal:" in meminfo:
        return meminfo["MemTotal:"] * 1024
    raise UsageError("/proc/meminfo has no MemTotal: give the memory with --mem, such as 8GB.")


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """List this process's control group and its ancestors, for one controller."""
    folders: list[Path] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
            if not base.exists():  # usually a link to the folder of all of them
                base = root / "sys/fs/cgroup" / controllers
        else:
            continue
        here = base / path.lstrip("/")
        while True:
            folders.append(here)
            if here == base or base not in here.parents:
                break
            here = here.parent
    return folders


def _cpu_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError):
        pass
    quota_us = _read_number(folder / "cpu.cfs_quota_us")
    period_us = _read_number(folder / "cpu.cfs_period_us")
    if quota_us is None or period_us is None or quota_us <= 0 or period_us <= 0:
        return None
    return quota_us / period_us


def _read_number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
