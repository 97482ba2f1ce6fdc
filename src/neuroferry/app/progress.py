"""Progress display of a run: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from neuroferry.engine.durations import duration
from neuroferry.engine.names import StepName
from neuroferry.engine.record import Event, StepSummary, kind_of_event

_REFRESH_SECONDS = 0.25


class Progress:
    """Listener to a run's record that shows its progress.

    Parameters
    ----------
    n_steps : int
        Number of steps.
    n_procs : int
        Processors, to estimate the time left.
    history : mapping of str to StepSummary
        Measured steps of earlier runs, to estimate the time left.
    stream : file, optional
        Output stream; by default standard error.
    """

    def __init__(
        self,
        n_steps: int,
        n_procs: int,
        history: Mapping[str, StepSummary],
        stream: IO[str] | None = None,
    ) -> None:
        self.n_steps = n_steps
        self.n_procs = n_procs
        self.stream = stream or sys.stderr
        self.started = time.monotonic()
        self.running: dict[str, float] = {}
        self._kind_of: dict[str, str] = {}
        self.ended = 0
        self.failed = 0
        self._kinds: dict[str, float] = {}
        for summary in history.values():
            self._learn(summary.kind, summary.seconds)
        self._live: Any = None
        self._shown = 0.0

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(file=self.stream), auto_refresh=False, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Handle one event of the record."""
        kind, step = event["event"], event.get("step", "")
        if kind == "step_started":
            self.running[step] = time.monotonic()
            self._kind_of[step] = kind_of_event(event)
            if event.get("item"):
                self.n_steps += 1
        elif kind in ("step_done", "step_failed", "step_skipped"):
            self.running.pop(step, None)
            self.ended += 1
            if kind == "step_done" and not event.get("cached"):
                self._learn(kind_of_event(event), event.get("seconds"))
            if kind == "step_failed":
                self.failed += 1
        elif kind == "step_retried":
            self.running.pop(step, None)
        line = self._line(event)
        if line:
            self._print(line)
        self.tick(force=True)

    def tick(self, *, force: bool = False) -> None:
        """Redraw the live display, if it is time."""
        now = time.monotonic()
        if self._live is None or (not force and now - self._shown < _REFRESH_SECONDS):
            return
        self._shown = now
        self._live.update(self._picture(now), refresh=True)

    def seconds_left(self) -> float | None:
        """Estimate the time left from similar finished steps; None while there are none."""
        if not self._kinds or self.ended >= self.n_steps:
            return None
        mean = sum(self._kinds.values()) / len(self._kinds)
        left = (self.n_steps - self.ended - len(self.running)) * mean
        now = time.monotonic()
        for step, since in self.running.items():
            left += max(0.0, self._kinds.get(self._kind_of[step], mean) - (now - since))
        return left / self.n_procs

    def _learn(self, kind: str, seconds: float | None) -> None:
        if seconds is not None:
            self._kinds[kind] = seconds

    def _line(self, event: Event) -> str | None:
        kind = event["event"]
        counter = f"[{self.ended}/{self.n_steps}]"
        if kind == "step_failed":
            return f"{counter} FAILED {StepName(event['step']).short}: {event['message']}"
        if kind == "step_retried":
            return f"{counter} AGAIN {StepName(event['step']).short}: {event['message']}"
        if kind == "problem":
            return f"{event['severity'].upper()}: {event['message']}"
        if kind == "step_done" and self._live is None:
            if event.get("cached"):
                return f"{counter} {StepName(event['step']).short} (done before)"
            peak = event.get("peak_gb")
            memory = f", {peak:.1f} GB" if peak is not None else ""
            return (
                f"{counter} {StepName(event['step']).short} ({duration(event['seconds'])}{memory})"
            )
        return None

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self.stream, flush=True)

    def _picture(self, now: float) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left = self.seconds_left()
        head = f"{self.ended} of {self.n_steps} steps"
        head += f", {duration(now - self.started)} so far"
        head += f", about {duration(left)} left" if left is not None else ""
        head += f", {self.failed} failed" if self.failed else ""
        table = Table.grid(padding=(0, 2))
        for step, since in self.running.items():
            table.add_row(Text("  " + StepName(step).short), Text(duration(now - since)))
        bar = ProgressBar(total=max(self.n_steps, 1), completed=self.ended, width=60)
        whole = Table.grid()
        for part in (Text(head), bar, table):
            whole.add_row(part)
        return whole
