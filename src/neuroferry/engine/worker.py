"""Execution of one step in its own process, and its outcome.

A new process for each step costs a few milliseconds (it is forked from a parent that has
imported everything) and has three advantages over a pool: the kernel measures the step's memory,
the death of a worker is an event instead of a hang, and no step can disturb the next.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from neuroferry.engine.resources import available_resources
from neuroferry.engine.usage import (
    Watch,
    kill_tree,
    measure_peak,
    oom_kills,
    prefer_as_oom_victim,
    resident_gb,
    reuse_freed_memory,
    shared_aside,
)
from neuroferry.trust import open_unlinked

_PR_SET_PDEATHSIG = 1
_LONGEST_MESSAGE = 400
# how programs and libraries report that memory ran out
_NO_MEMORY = re.compile(
    r"MemoryError|bad_alloc|Cannot allocate memory|Unable to allocate|out of memory",
    re.IGNORECASE,
)
# how they report that one of their child processes was killed, for whatever reason
_KILLED = re.compile(
    r"return code: (?:137|-9)\b|exit(?:ed with code| code| status) (?:137|-9)\b"
    r"|died with <Signals.SIGKILL|SIGKILL",
    re.IGNORECASE,
)
# share of all memory beyond which a killed step had probably run out of it, where the kernel
# does not count what it kills
_NEARLY_ALL = 0.8
_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*): (.+)$")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a step.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Wall-clock and processor time.
    peak_gb : float or None
        Largest memory, in GB: that of its largest process according to the kernel, or the
        sampled sum over its processes, whichever is larger, without memory that it only shares
        with the process that it was forked from.
    error : str or None
        One sentence; ``None`` if the step succeeded.
    traceback : str
        Details of the error.
    disk_gb, files : float or None, int or None
        Size (GB) and number of files of the step's folder.
    out_of_memory : bool
        Whether it failed for lack of memory.
    final : bool
        Whether it would certainly fail again.
    killed : bool
        Whether it was killed from outside, for whatever reason.
    """

    seconds: float
    cpu_seconds: float
    peak_gb: float | None
    error: str | None = None
    traceback: str = ""
    disk_gb: float | None = None
    files: int | None = None
    out_of_memory: bool = False
    final: bool = False
    killed: bool = False


@dataclass(frozen=True)
class Stop:
    """Reason for which the run itself ended a step."""

    message: str
    out_of_memory: bool = False
    final: bool = False


@dataclass
class Worker:
    """A running step: process id, the pipe that it reports to, and its start time."""

    pid: int
    pipe: int
    started: float
    received: bytes = b""
    watch: Watch = field(init=False)
    stopped: Stop | None = None
    _oom_kills: int | None = field(init=False)

    def __post_init__(self) -> None:
        self._oom_kills = oom_kills()
        # at its birth it shares all that it has
        self.watch = Watch(self.pid, shared_gb=resident_gb(self.pid))

    def collect(self, *, block: bool) -> Outcome | None:
        """Fetch the outcome once the process has ended.

        Parameters
        ----------
        block : bool
            Wait for the end of the process; otherwise return ``None`` while it runs.

        Notes
        -----
        The pipe stays open: it must leave its selector before it is closed, since a sibling
        that was forked in between holds it too, and would keep it in the selector.
        """
        pid, status, usage = os.wait4(self.pid, 0 if block else os.WNOHANG)
        if pid == 0:
            return None
        self.read(block=False)
        seconds = time.monotonic() - self.started
        cpu = usage.ru_utime + usage.ru_stime
        try:
            report = json.loads(self.received)
        except json.JSONDecodeError:
            largest = usage.ru_maxrss * 1024 / 1e9 - shared_aside(self.watch.shared_gb)
            peak = max(largest, self.watch.peak_gb)
            return self._describe_death(Outcome(seconds, cpu, peak), status)
        peak = max(self.watch.peak_gb, report["peak_gb"])
        error, details = report["error"], report["traceback"]
        words = f"{error}\n{details}"
        no_memory = error is not None and (
            _NO_MEMORY.search(words) is not None
            or (_KILLED.search(words) is not None and self._ran_out_of_memory(peak))
        )
        return Outcome(
            seconds, cpu, peak, error, details, report["disk_gb"], report["files"], no_memory
        )

    def _describe_death(self, outcome: Outcome, status: int) -> Outcome:
        """Explain why there is no report."""
        if self.stopped is not None:
            stop = self.stopped
            return replace(
                outcome,
                error=stop.message,
                traceback=stop.message,
                out_of_memory=stop.out_of_memory,
                final=stop.final,
            )
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        no_memory = killed and self._ran_out_of_memory(outcome.peak_gb or 0.0)
        error = _explain_death(status, outcome.peak_gb or 0.0, no_memory=no_memory)
        return replace(
            outcome, error=error, traceback=error, out_of_memory=no_memory, killed=killed
        )

    def _ran_out_of_memory(self, peak_gb: float) -> bool:
        """Tell whether the kernel killed for memory since the step began."""
        before, now = self._oom_kills, oom_kills()
        if before is None or now is None:
            return peak_gb > _NEARLY_ALL * available_resources().memory_gb
        return now > before

    def stop(self, why: Stop) -> None:
        """End the step and all its processes at once."""
        self.stopped = why
        self.kill_all()

    def kill_all(self) -> None:
        """Kill the process and all its descendants."""
        kill_tree(self.pid)

    def read(self, *, block: bool) -> bool:
        """Read what has arrived; tell whether the process closed its end."""
        os.set_blocking(self.pipe, block)
        while True:
            try:
                chunk = os.read(self.pipe, 65536)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            self.received += chunk

    def close(self) -> None:
        """Close the pipe, once it has left its selector."""
        os.close(self.pipe)

    def kill(self, signal_number: int) -> None:
        """Send a signal to the process and to all its descendants."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal_number)


def start_worker(node: Any, *, log: Path | None, updatehash: bool) -> Worker:
    """Fork a process that runs ``node``.

    Parameters
    ----------
    node : nipype.pipeline.engine.Node
        The step.
    log : pathlib.Path or None
        File that collects what the step prints.
    updatehash : bool
        Passed on to Nipype.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_the_worker(node, writing, log, updatehash)
    os.close(writing)
    with suppress(PermissionError, ProcessLookupError):  # the child may have been faster
        os.setpgid(pid, pid)
    return Worker(pid, reading, time.monotonic())


def load_shared(node: Any) -> None:
    """Load data that several steps share, such as a template, into a cache of this process.

    An interface may have a method ``load_shared()`` for it: it is called here, before the fork, so
    that the data are loaded once and not by every step.
    """
    with suppress(Exception):  # the step meets the same error, and reports it
        load = getattr(node.interface, "load_shared", None)
        if load is not None:
            load()
            gc.freeze()


def _be_the_worker(node: Any, pipe: int, log: Path | None, updatehash: bool) -> None:
    """Run the node and report; never returns."""
    code = 1
    born_with_gb = resident_gb(os.getpid())
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()
        prefer_as_oom_victim()
        reuse_freed_memory()
        if log is not None:
            descriptor = open_unlinked(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(node.n_procs)))
        error, details = run_node(node, updatehash=updatehash)
        with os.fdopen(pipe, "wb") as stream:
            disk_gb, files = measure_folder(node)
            report = {
                "error": error,
                "traceback": details,
                "disk_gb": disk_gb,
                "files": files,
                "peak_gb": measure_peak(born_with_gb),
            }
            stream.write(json.dumps(report).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    finally:
        os._exit(code)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent process ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_node(node: Any, *, updatehash: bool) -> tuple[str | None, str]:
    """Run a node in this process.

    Returns
    -------
    error : str or None
        One sentence, ``None`` on success.
    details : str
        The traceback, empty on success.
    """
    try:
        node.run(updatehash=updatehash)
    except Exception as err:
        details = traceback.format_exc()
        return explain(err, details), details
    return None, ""


def measure_folder(node: Any) -> tuple[float | None, int | None]:
    """Measure the folder of a step, in GB on the disk and in files.

    The items of a MapNode, which are steps themselves, do not count again.
    """
    try:
        folder = node.output_dir()
    except Exception:
        return None, None  # a node with broken inputs may not know its folder
    size = files = 0
    for here, folders, names in os.walk(folder):
        if here == folder and "mapflow" in folders:
            folders.remove("mapflow")
        for name in names:
            with suppress(OSError):
                size += os.lstat(f"{here}/{name}").st_blocks * 512
                files += 1
    return size / 1e9, files


def explain(error: BaseException, details: str) -> str:
    r"""Find the sentence that says what went wrong.

    Nipype wraps the exception of an interface in an error with the traceback as text; the last
    line of that text that names an exception is the cause.

    Examples
    --------
    >>> details = "Traceback:\n  File ...\nneuroferry.errors.InputError: bad file."
    >>> explain(ValueError("x"), details)
    'bad file.'
    """
    lines = details.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        match = _EXCEPTION_LINE.match(line.strip())
        if match and match[1] != "NodeExecutionError":
            name, message = match.groups()
            message = " ".join([message, *(more.strip() for more in lines[number + 1 :])]).strip()
            if len(message) > _LONGEST_MESSAGE:
                message = message[:_LONGEST_MESSAGE] + " ..."
            return message if name.endswith("Error") and _is_ours(line) else f"{name}: {message}"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _is_ours(line: str) -> bool:
    return line.strip().startswith("neuroferry.")


def _explain_death(status: int, peak_gb: float, *, no_memory: bool) -> str:
    if not os.WIFSIGNALED(status):
        return f"The step ended with exit status {os.WEXITSTATUS(status)} and left no result."
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name
    if no_memory:
        return (
            f"The step was killed ({name}), because memory ran out; it had reached"
            f" {peak_gb:.1f} GB."
        )
    by_others = " It was ended from outside; nothing shows that memory ran out."
    return (
        f"The step was ended by signal {number} ({name}) after it had reached {peak_gb:.1f} GB of"
        f" memory.{by_others if number == signal.SIGKILL else ''}"
    )


def find_stall(watch: Watch, stall_seconds: float, stopped_seconds: float) -> Stop | None:
    """Tell whether a step has stalled.

    Parameters
    ----------
    watch : Watch
        Samples of the step.
    stall_seconds : float
        Longest time without processor time; 0: no limit.
    stopped_seconds : float
        Longest time stopped by a signal.
    """
    if watch.stopped_seconds > stopped_seconds:
        return Stop(
            "The step's process was stopped from outside (SIGSTOP) and did not continue within "
            f"{stopped_seconds:.0f} s."
        )
    if 0 < stall_seconds < watch.idle_seconds:
        return Stop(
            f"The step used no processor time for {stall_seconds:.0f} s: it seems to wait for "
            "something that never comes. If the wait is intended, allow more time "
            "(stall_seconds, --stall-minutes)."
        )
    return None


def find_excess(watch: Watch, memory_gb: float) -> Stop | None:
    """Tell whether a step that runs alone uses more than the whole budget."""
    if watch.now_gb <= memory_gb:
        return None
    why = f"It used {watch.now_gb:.1f} GB; this run may use {memory_gb:.1f} GB."
    return Stop(why, out_of_memory=True, final=True)


def write_crashfile(folder: Path, step: str, node: Any, error: str, details: str) -> Path:
    """Write the details of a failed step to a text file.

    Returns
    -------
    pathlib.Path
        ``<folder>/crash-<step>.txt``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{step}.txt"
    try:
        inputs = str(node.inputs)
    except Exception as err:
        inputs = f"(could not be read: {err})"
    try:
        where = node.output_dir()
    except Exception as err:
        where = f"(unknown: {err})"
    lines = [
        f"Step:      {step}",
        f"Error:     {error}",
        f"When:      {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"Host:      {socket.gethostname()}",
        f"Folder:    {where}",
        f"Interface: {type(node.interface).__module__}.{type(node.interface).__qualname__}",
        "",
        "Inputs",
        "------",
        inputs.strip(),
        "",
        "Traceback",
        "---------",
        details,
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
