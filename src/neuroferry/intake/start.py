"""Quality control of what was placed: the ordinary command, one participant at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from neuroferry.errors import ExitCode
from neuroferry.intake.queue import DONE, FAILED, QUEUED, QualityRow, Queue, now
from neuroferry.intake.spool import Spool

#: Ends after which the same command is tried again: something else was in the way.
_AGAIN = (ExitCode.TEMPORARY, ExitCode.IO)
_MOST_ATTEMPTS = 3
_PAUSE = 20.0
_PATIENCE = 10.0
_TAIL = 4000
_SAME = 1.0  # seconds by which two readings of when a process began may differ
#: Logs of earlier runs of a participant that are kept.
_MOST_LOGS = 10


@dataclass
class _Running:
    row: QualityRow
    process: subprocess.Popen[bytes]
    log: Path
    began: float
    too_long: bool = False


class QualityControl:
    """Starts the command for participants in the queue, and notes how it ended.

    Parameters
    ----------
    spool, queue
        Of the intake.
    options : sequence of str
        Further options of the command, such as ``--plugin SLURMGraph``.
    at_once : int
        Participants that are processed at the same time.
    hours : float
        Time after which a run counts as hanging, and is ended.
    """

    def __init__(
        self,
        spool: Spool,
        queue: Queue,
        options: Sequence[str] = (),
        *,
        at_once: int = 1,
        hours: float = 6.0,
    ) -> None:
        self._spool, self._queue, self._options = spool, queue, list(options)
        self._at_once, self._hours = at_once, hours
        self._running: list[_Running] = []
        self._not_before: dict[tuple[str, str], float] = {}

    @property
    def is_busy(self) -> bool:
        """Whether something runs or waits."""
        return bool(self._running or self._queue.quality_in(QUEUED))

    def step(self) -> list[str]:
        """Start what may start and note what ended.

        Returns
        -------
        list of str
            What happened, as sentences.
        """
        for one in self._running:
            if time.monotonic() - one.began > self._hours * 3600 and not one.too_long:
                one.too_long = True
                _end_group(one.process)
        said = [self._end(one) for one in self._running if one.process.poll() is not None]
        self._running = [one for one in self._running if one.process.returncode is None]
        for row in self._queue.quality_in(QUEUED):
            if len(self._running) >= self._at_once:
                break
            if time.monotonic() >= self._not_before.get((row.dataset, row.subject), 0.0):
                said.append(self._start(row))
        return said

    def command(self, row: QualityRow) -> list[str]:
        """Make the command of a participant."""
        return [
            *(sys.executable, "-m", "neuroferry", row.dataset, str(self.output_of(row))),
            *("participant", "--participant-label", row.subject, "--workflows", "qc"),
            *("-w", str(self._spool.private / "work")),
            *self._options,
        ]

    def output_of(self, row: QualityRow) -> Path:
        """Find the folder of the pages: ``ROOT/qc``, or below it for one of several datasets."""
        inside = Path(row.dataset).relative_to(self._spool.root)
        return self._spool.root / "qc" / ("" if inside == Path("bids") else inside)

    def stop(self) -> None:
        """End what runs; it is started again by the next process."""
        for one in self._running:
            _end_group(one.process)

    def end_left_over(self) -> int:
        """End the runs of a service that was killed; they are in the queue again.

        Returns
        -------
        int
            Number of runs that had gone on without it.
        """
        ended = 0
        for pid, began in self._queue.left_over():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                # not another program that got its number since
                same = abs(process.create_time() - began) < _SAME and os.getpgid(pid) == pid
                if same and process.status() != psutil.STATUS_ZOMBIE:
                    _end_group(process)
                    ended += 1
        return ended

    def _start(self, row: QualityRow) -> str:
        log = self._new_log(row)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self.command(row),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = time.time()
        with suppress(psutil.Error):  # it has ended already
            began = psutil.Process(process.pid).create_time()
        self._queue.start_quality(row, process.pid, began)
        self._running.append(_Running(row, process, log, time.monotonic()))
        return f"sub-{row.subject}: quality control has started."

    def _new_log(self, row: QualityRow) -> Path:
        """Name the log of a run, and remove the oldest ones of its participant."""
        for old in sorted(self._spool.logs.glob(f"sub-{row.subject}_*.log"))[: -_MOST_LOGS + 1]:
            old.unlink(missing_ok=True)
        moment = now().translate({ord(mark): None for mark in "-:."})
        return self._spool.logs / f"sub-{row.subject}_{moment}.log"

    def _end(self, one: _Running) -> str:
        code, row = one.process.returncode, one.row
        if code < 0:  # killed: what it had started may go on
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(one.process.pid, signal.SIGKILL)
        page = self.output_of(row) / f"sub-{row.subject}.html"
        attempts = row.attempts + 1
        if code == 0:
            self._queue.end_quality(row, DONE, 0, str(page))
            if page.is_file():
                return f"sub-{row.subject}: {page}"
            return f"sub-{row.subject}: jobs were submitted; {page} will be their report."
        if one.too_long:
            why = f"It took more than {self._hours:g} hours and was ended."
            self._queue.end_quality(row, FAILED, code, why)
            return f"sub-{row.subject}: quality control failed: {why} See {one.log}."
        if (code < 0 or code in _AGAIN) and attempts < _MOST_ATTEMPTS:
            self._not_before[row.dataset, row.subject] = time.monotonic() + _PAUSE
            self._queue.end_quality(row, QUEUED, code, _last_line(one.log))
            return (
                f"sub-{row.subject}: quality control ended early ({code}); it is tried again."
                f" See {one.log}."
            )
        self._queue.end_quality(row, FAILED, code, _last_line(one.log))
        return f"sub-{row.subject}: quality control failed ({code}); see {one.log}."


def _end_group(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """End a command and all that it has started, gently at first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(_PATIENCE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path) -> str:
    """Read the last line that a command printed."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL))
        lines = stream.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""
