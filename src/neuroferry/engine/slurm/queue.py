"""What SLURM's queue says about a run: its record alone cannot tell whether its jobs still live.

An answer that does not come says nothing about any job. Neither does that of another cluster, such
as after the output folder was copied, nor one about another user's jobs.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neuroferry.engine.record import RunRecord, read_run
from neuroferry.errors import ExitCode

# file with the answer of the host, from within an image that holds no SLURM
_HANDED_IN = "NEUROFERRY_QUEUE"
_FORMAT = "--format=%F|%K|%T|%r|%j"
_TRIES = 3
# a submission that has not written anything for so long was killed
_SUBMISSION_SECONDS = 600.0
# reasons of SLURM that do not go away by themselves
NEVER = (
    "Partition(Node|Time)Limit",
    "PartitionConfig",
    "BadConstraints",
    "Invalid(Account|QOS)",
    "(Account|QOS|Partition)NotAllowed",
    "(QOS|Assoc)Max[A-Za-z]*PerJob[A-Za-z]*",
    "(QOS|Assoc)Max(WallDuration|Cpu|Mem|Node|CPU|GRES)[A-Za-z]*(PerJob|PerNode)[A-Za-z]*",
    "AssocMax(Cpu|Mem|Node|Gres|Wall)[A-Za-z]*PerJobLimit",
    "QOS(MinCpuNotSatisfied|MinMemory|MinGRES|Min[A-Za-z]*)",
    "DependencyNeverSatisfied",
)
_ADVICE = (
    (
        "PartitionTimeLimit|.*WallDuration.*",
        "more time than allowed: another --slurm-partition or --slurm-qos, or less time with"
        " --slurm-max-minutes",
    ),
    (
        "BadConstraints|PartitionNodeLimit|PartitionConfig",
        "no node has what they ask for: check --slurm-constraint, --slurm-extra, and"
        " --slurm-max-mem",
    ),
    ("Invalid.*|.*NotAllowed", "check --slurm-account, --slurm-partition and --slurm-qos"),
    ("(QOS|Assoc)Max.*Mem.*", "more memory than allowed: --slurm-max-mem"),
    ("(QOS|Assoc)(Max|Grp).*", "a limit of your account or quality of service"),
    ("ReqNodeNotAvail.*|.*DOWN.*|PartitionDown|PartitionInactive", "nodes are out of service"),
    ("JobHeldUser", "held by you: scontrol release"),
    ("JobHeldAdmin", "held by an administrator"),
    (".*held.*", "SLURM could not start them on their node"),
)


@dataclass(frozen=True)
class Queue:
    """Jobs of a run in the queue.

    Attributes
    ----------
    state : str
        ``alive``, ``gone`` (none is left), or ``unknown``.
    running : int
        Number of jobs that run now.
    waiting : Counter of str
        Number of waiting jobs for each reason.
    limited : bool
        Whether the user has jobs that wait for a limit, and none that could end.
    """

    state: Literal["alive", "gone", "unknown"]
    running: int = 0
    waiting: Counter[str] = field(default_factory=Counter)
    limited: bool = False

    def lines(self) -> list[str]:
        """Describe the jobs, a line for each reason to wait."""
        if self.state != "alive":
            return []
        found = [f"{self.running} running"] if self.running else []
        for reason, count in self.waiting.most_common():
            advice = next((text for rule, text in _ADVICE if re.fullmatch(rule, reason)), "")
            never = "cannot start as they are" if self.never(reason) else ""
            note = "; ".join(part for part in (never, advice) if part)
            found.append(f"{count} waiting ({reason})" + (f": {note}" if note else ""))
        return found

    def never(self, reason: str) -> bool:
        """Tell whether jobs with this reason never start."""
        if re.fullmatch("|".join(NEVER), reason):
            return True
        return self.limited and bool(re.fullmatch("(QOS|Assoc)Max.*", reason))


UNKNOWN = Queue("unknown")
LEFT = (
    "Its jobs are no longer in the queue, and none of them closed the record: they were "
    "cancelled, or could not start."
)


def look(run_dir: Path) -> Queue:
    """Find the jobs of a run in the queue."""
    folder = run_dir / "slurm"
    jobs = folder / "jobs.tsv"
    if _is_being_submitted(folder):
        return Queue("alive")
    try:
        numbers = {row.split("\t")[1] for row in jobs.read_text().splitlines() if "\t" in row}
        ours = jobs.stat().st_uid == os.getuid()
        site = (folder / "site").read_text().strip()
    except (OSError, IndexError):
        return UNKNOWN
    answer = _ask(_cluster(folder)) if ours and site else None
    if answer is None or answer[0] != site:
        return UNKNOWN
    rows = [row.split("|", 4) for row in answer[1].splitlines() if row.count("|") >= 4]
    mine = [row for row in rows if row[0] in numbers]
    waiting = Counter(row[3] for row in mine if row[2] == "PENDING" and row[3] != "Dependency")
    later = sum(row[2] == "PENDING" for row in mine) - sum(waiting.values())
    if later:
        waiting["Dependency"] = later
    running = sum(row[2] != "PENDING" for row in mine)
    limited = not any(row[2] in ("RUNNING", "COMPLETING") for row in rows)
    return Queue("alive" if mine else "gone", running, waiting, limited)


def _is_being_submitted(folder: Path) -> bool:
    """Tell whether a submission has begun, and goes on as far as can be seen."""
    begun = sorted(folder.glob("submitted-*"), key=lambda path: int(path.name[10:]))
    if not begun or (begun[-1] / "all").exists():
        return False
    times = [path.stat().st_mtime for path in (begun[-1], folder / "jobs.tsv") if path.exists()]
    return time.time() - max(times) < _SUBMISSION_SECONDS


def _cluster(folder: Path) -> str:
    """Return the name of the jobs' cluster, if there is a choice of several."""
    try:
        return (folder / "cluster-name").read_text().strip()
    except OSError:
        return ""


def _ask(cluster: str) -> tuple[str, str] | None:
    """Ask for the user's jobs; the cluster's name and the answer, or ``None`` without any."""
    handed_in = os.environ.get(_HANDED_IN)
    if handed_in:
        if cluster:
            return None
        try:
            site, end, rows = Path(handed_in).read_text(errors="replace").partition("\n")
        except OSError:
            return None
        return (site.strip(), rows) if end and site.strip() else None
    for attempt in range(_TRIES):
        time.sleep(attempt)
        which = [f"--user={os.getuid()}", *([f"--clusters={cluster}"] if cluster else [])]
        answer = _run(["squeue", "--noheader", "--array", *which, _FORMAT])
        if answer is not None:
            found = _site()
            return None if found is None else (found, answer)
    return None


def _site() -> str | None:
    """Return the cluster's name and its first controller."""
    text = _run(["scontrol", "show", "config"])
    names = [line.split()[:3] for line in (text or "").splitlines()]
    found = [row[2] for row in names if row and row[0] in ("ClusterName", "SlurmctldHost[0]")]
    return " ".join(found) or None


def _run(command: list[str]) -> str | None:
    prefixes = ("SQUEUE_", "SCONTROL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def close_if_gone(run_dir: Path) -> bool:
    """Close the record of a run that has no job left; tell whether it was.

    The queue is asked first: the last job closes the record before it leaves the queue.
    """
    if look(run_dir).state != "gone" or read_run(run_dir).exit_code is not None:
        return False
    RunRecord(run_dir / "events.jsonl").write(
        "run_ended", exit_code=int(ExitCode.TEMPORARY), reason=LEFT
    )
    return True
