"""The intake at work: receives, sorts, converts and starts quality control, until it is stopped.

Each part takes its work from the disk and leaves its result there, so it does not matter when a
process ends: the next one goes on from what it finds.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroferry.errors import ExitCode, NeuroferryError, ResourceError
from neuroferry.intake.convert import process_series
from neuroferry.intake.model import Outcome
from neuroferry.intake.node import NodeSettings
from neuroferry.intake.place import recover
from neuroferry.intake.queue import PROCESSING, READY, RECEIVING, Queue, SeriesRow, now
from neuroferry.intake.receiver import Receiver
from neuroferry.intake.rulebook import IntakeRules
from neuroferry.intake.sorting import Sorter
from neuroferry.intake.spool import Spool, sole
from neuroferry.intake.start import QualityControl
from neuroferry.intake.watch import Watch

_TICK = 0.25
_MOST_ATTEMPTS = 5
_RETRY = 30.0
_LAST_SECONDS = 5.0
_CLEAR_SECONDS = 3600.0
TOO_LATE = (
    "Its objects arrived after the first ones of the series had been removed from the private"
    " folder. Send the whole series again."
)
SET_ASIDE_AGAIN = (
    "Objects with the identifiers of objects that were received before, but of another patient or"
    " with other pixels, are kept here. The first ones are used; find out which are right."
)


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of an intake.

    Attributes
    ----------
    root : pathlib.Path
        Its folder.
    rules : IntakeRules
        How series are named.
    node : NodeSettings or None
        The DICOM node; None: no node.
    folders : tuple of pathlib.Path
        Watched folders, beside ``ROOT/incoming``.
    quiet_seconds : float
        Time without a new object after which a series counts as complete.
    quality : bool
        Whether quality control is started.
    options : tuple of str
        Options of its command.
    quality_hours : float
        Time after which a run of quality control counts as hanging.
    once : bool
        Process what is there, and end.
    keep_days : float
        Days for which received objects are kept after their series was placed.
    """

    root: Path
    rules: IntakeRules
    node: NodeSettings | None = field(default_factory=NodeSettings)
    folders: tuple[Path, ...] = ()
    quiet_seconds: float = 20.0
    quality: bool = True
    options: tuple[str, ...] = ()
    quality_hours: float = 6.0
    once: bool = False
    keep_days: float = 14.0


def run_service(settings: ServiceSettings, say: Callable[[str], None]) -> int:
    """Serve an intake until SIGTERM or Ctrl-C, or until nothing is left to do.

    Parameters
    ----------
    settings : ServiceSettings
        Its settings.
    say : callable
        Takes what happens, as sentences without anything that identifies a patient.

    Returns
    -------
    int
        The exit code: 1 with ``once`` if something was refused or failed.

    Raises
    ------
    NeuroferryError
        With exit code 75 if another process serves the folder; if the port is taken.
    """
    flush = settings.node is None or settings.node.flush
    spool = Spool(settings.root, flush=flush)
    (settings.root / "incoming").mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(sole(settings.root))
        spool.clear_interrupted()
        queue = stack.enter_context(closing(Queue(spool.private)))
        queue.interrupted()
        recover(settings.root)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda *_: stop.set())
        receiver = None
        if settings.node is not None:
            receiver = Receiver(settings.node, spool, say)
            stack.callback(receiver.stop)
        return _Service(settings, spool, queue, receiver, say).run(stop)


class _Service:
    """The loop over all parts."""

    def __init__(
        self,
        settings: ServiceSettings,
        spool: Spool,
        queue: Queue,
        receiver: Receiver | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._spool, self._queue, self._say = settings, spool, queue, say
        self._receiver = receiver
        self._sorter = Sorter(spool, queue)
        folders = {settings.root / "incoming": True, **dict.fromkeys(settings.folders, False)}
        self._watch = Watch(spool, queue, folders, patient=not settings.once)
        self._quality = QualityControl(
            spool, queue, settings.options, hours=settings.quality_hours
        )
        self._quality.end_left_over()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="convert")
        self._converting: tuple[SeriesRow, Future[Outcome]] | None = None
        self._not_before: dict[str, float] = {}
        self._started = time.monotonic()
        self._said: dict[Any, str] = {}
        self._next_clearing = 0.0
        self._bad = 0

    def run(self, stop: threading.Event) -> int:
        try:
            while not stop.is_set():
                busy = self._turn()
                if self._settings.once and not busy:
                    break
                stop.wait(0.0 if busy == "now" else _TICK)
        finally:
            self._quality.stop()
            self._pool.shutdown(wait=False, cancel_futures=True)
            if self._converting is not None:
                wait([self._converting[1]], timeout=_LAST_SECONDS)
        return int(ExitCode.STEP_FAILED) if self._settings.once and self._bad else 0

    def _turn(self) -> str:
        """Let each part do some of its work; tell whether there is more: ``now``, or later."""
        if self._receiver is not None:
            self._receiver.check()
        moved = self._receive()
        if not (moved and self._settings.once):  # folders are read to their end before
            self._complete()
        self._clear()
        converting = self._convert()
        controlling = False
        if self._settings.quality:
            for text in self._quality.step():
                self._bad += "quality control failed" in text
                self._say(text)
            controlling = self._quality.is_busy
        if moved:
            return "now"
        waiting = converting or controlling or self._watch.is_waiting
        return "later" if waiting or self._queue.series_in(RECEIVING, READY) else ""

    def _receive(self) -> int:
        try:
            taken = self._watch.look()
            found = self._sorter.sort()
        except OSError as error:
            why = f"Nothing can be taken in ({error.strerror}); make room."
            if self._settings.once:
                raise ResourceError(why, exit_code=ExitCode.IO) from error
            self._warn("disk", why)
            return 0
        self._said.pop("disk", None)
        for folder, why in self._watch.unreadable.items():
            self._warn(folder, f"{folder} cannot be read ({why}); it is looked at again.")
        for why, count in self._watch.say_turned_down().items():
            self._bad += count
            self._say(f"{count} files of watched folders stay where they are: {why}")
        for why, count in found.rejected.items():
            self._bad += count
            self._say(f"{count} received objects are kept in .intake/rejected: {why}")
        if found.n_again:
            self._say(f"{found.n_again} objects were there already.")
        return taken + found.n_objects

    def _warn(self, about: Any, text: str) -> None:
        """Say something once, until it changes."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._say(f"WARNING: {text}")

    def _complete(self) -> None:
        """Find the series that are complete, by their own account or by the quiet time."""
        moment = time.monotonic()
        quiet = 0.0 if self._settings.once else self._settings.quiet_seconds
        nothing_comes = not self._settings.once or not self._watch.is_waiting
        for row in self._queue.series_in(RECEIVING):
            whole = row.expected is not None and row.n_objects >= row.expected
            since = moment - self._sorter.last_arrival.get(row.series, self._started)
            if whole or (since >= quiet and nothing_comes):
                self._queue.set_state(row.series, READY, complete=whole)
                self._sorter.last_arrival.pop(row.series, None)

    def _clear(self) -> None:
        """Remove the received objects of series that were placed long ago."""
        if time.monotonic() < self._next_clearing:
            return
        self._next_clearing = time.monotonic() + _CLEAR_SECONDS
        for series in self._queue.clear(now(self._settings.keep_days)):
            shutil.rmtree(self._spool.series / series, ignore_errors=True)

    def _convert(self) -> bool:
        """Process one series at a time; tell whether one is on its way."""
        if self._converting is not None:
            row, future = self._converting
            if not future.done():
                return True
            self._converting = None
            self._finish(row, future)
        for row in self._queue.series_in(READY):
            if time.monotonic() < self._not_before.get(row.series, 0.0):
                continue
            if row.again or row.cleared:
                self._note(row, Outcome("refused", SET_ASIDE_AGAIN if row.again else TOO_LATE))
                continue
            series = self._queue.load_series(row.series, self._spool.series / row.series)
            self._queue.set_state(row.series, PROCESSING)
            arguments = (series, self._settings.rules, self._settings.root, self._spool.scratch)
            self._converting = row, self._pool.submit(process_series, *arguments)
            return True
        return False

    def _finish(self, row: SeriesRow, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except (NeuroferryError, OSError) as error:
            attempts = self._queue.note(row.series, str(error))
            self._not_before[row.series] = time.monotonic() + _RETRY
            self._warn(row.series, f"{_name(row)}: {error} It is tried again.")
            if self._settings.once or attempts >= _MOST_ATTEMPTS:
                self._note(row, Outcome("refused", f"It could not be processed: {error}"))
        except Exception as error:  # one series must not end the service for all others
            text = f"A defect of neuroferry ({type(error).__name__}); please report it."
            self._note(row, Outcome("refused", text))
        else:
            self._note(row, outcome)

    def _note(self, row: SeriesRow, outcome: Outcome) -> None:
        self._queue.finish(row.series, row.n_objects, outcome)
        self._bad += outcome.fate == "refused"
        where = f" {', '.join(outcome.files[:3])}" if outcome.fate == "placed" else ""
        self._say(f"{_name(row)}: {outcome.fate}.{where} {outcome.reason}".strip())
        for text in outcome.warnings:
            self._say(f"{_name(row)}: WARNING: {text}")


def _name(row: SeriesRow) -> str:
    number = "" if row.number is None else f" {row.number}"
    return f"series{number} ({row.n_objects} objects)"
