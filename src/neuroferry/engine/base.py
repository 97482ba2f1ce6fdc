"""Base of all plugins: the walk over the graph, the record and the crash files."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroferry.engine.done import is_done
from neuroferry.engine.estimate import Estimator
from neuroferry.engine.guards import guard_nipype
from neuroferry.engine.names import StepName, kind_of
from neuroferry.engine.record import RunRecord, StepState, StepSummary, found_done, rounded
from neuroferry.engine.resources import available_resources
from neuroferry.engine.schedule import Schedule, Task, volumes_of
from neuroferry.engine.worker import Outcome, explain, write_crashfile
from neuroferry.errors import RunInterrupted, StepsFailedError, Terminated


class RecordingPlugin:
    """Base class of plugins that walk over a Nipype graph; subclasses decide where steps run.

    Parameters
    ----------
    plugin_args : dict, optional
        ``n_procs`` : int
            Processors to use; by default all available to this process.
        ``memory_gb`` : float
            Memory to use in GB; by default 90% of what is available to this process.
        ``record`` : RunRecord
            Receives each change of state; by default nothing is recorded.
        ``history`` : mapping of str to StepSummary
            Earlier measurements of the same steps, used to order steps and to record those
            that are found done.
        ``estimator`` : Estimator
            Corrects what steps declare; by default one made from ``history``.
        ``crash_dir``, ``log_file`` : path
            Folder for crash files (by default Nipype's own setting) and the file that
            collects what the steps print.
        ``stop_on_first_crash`` : bool
            Start no further steps once one has failed.
        ``status_callback`` : callable
            As for Nipype's own plugins: called with the node and ``start``, ``end`` or
            ``exception``.
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        guard_nipype()
        self.plugin_args = dict(plugin_args or {})
        limits = available_resources()
        self.n_procs = int(self.plugin_args.get("n_procs") or limits.n_procs)
        self.memory_gb = float(self.plugin_args.get("memory_gb") or 0.9 * limits.memory_gb)
        self.record: RunRecord | None = self.plugin_args.get("record")
        self.history: Mapping[str, StepSummary] = self.plugin_args.get("history") or {}
        self.estimator: Estimator = self.plugin_args.get("estimator") or Estimator(self.history)
        self.log_file: Path | None = self.plugin_args.get("log_file")
        self._callback: Callable[[Any, str], None] | None = self.plugin_args.get("status_callback")
        self._interrupted_by: int | None = None
        self._at_once = False
        self._failures: list[tuple[str, str]] = []

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Run a flattened graph; called by ``Workflow.run``.

        Raises
        ------
        StepsFailedError
            If steps failed, once all others that could run have run.
        RunInterrupted
            On Ctrl-C or SIGTERM, after every child has ended.
        """
        execution = config.get("execution", {})
        self._failures = []
        self._interrupted_by = None
        self._updatehash = updatehash
        self._stop_early = bool(
            self.plugin_args.get(
                "stop_on_first_crash",
                str(execution.get("stop_on_first_crash", "false")).lower() in ("true", "1"),
            )
        )
        self._crash_dir = execution.get("crashdump_dir")
        for node in graph.nodes():
            if _is_map(node):
                # Nipype hangs the plugin's arguments on each MapNode and pickles them with it
                node.use_plugin = None
        schedule = Schedule(graph, self._expected_seconds(graph))
        with self._signals():
            try:
                self._walk(schedule)
            except Terminated:
                self._raise_if_interrupted()
                raise
        if self._failures:
            step, error = self._failures[0]
            more = len(self._failures) - 1
            raise StepsFailedError(
                f"{step} failed: {error}" + (f" ({more} more failed.)" if more else "")
            )

    def _expected_seconds(self, graph: Any) -> dict[str, float]:
        expected = {}
        for node in graph.nodes():
            step = StepName.of(node).text
            estimate = self.estimator.estimate(
                step, float(node.mem_gb), volumes_of(node), kind=kind_of(node)
            )
            if estimate.seconds_source != "default":
                expected[step] = estimate.seconds
        return expected

    def _walk(self, schedule: Schedule) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake up a sleeping subclass; called from the signal handler."""

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM in ``_interrupted_by`` while the graph runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: object) -> None:
            self._interrupted_by = number
            self._wake()
            if self._at_once:
                raise Terminated(number)

        before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let signals end what may take seconds, such as reading a template, at once."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _raise_if_interrupted(self) -> None:
        if self._interrupted_by is not None:
            name = signal.Signals(self._interrupted_by).name
            raise RunInterrupted(
                f"Stopped by {name}. Finished steps are kept: run the same command with the same "
                "work folder to continue.",
                signal_number=self._interrupted_by,
            )

    @property
    def _stopping(self) -> bool:
        return self._stop_early and bool(self._failures)

    def _prepare(self, schedule: Schedule, index: int) -> bool:
        """Check a ready task before it runs; tell whether it still has to run.

        A step with an existing result from the same inputs is done; a MapNode is replaced by
        its items.
        """
        task = schedule.tasks[index]
        try:
            if not task.expanded and _is_map(task.node) and task.node.num_subnodes() > 1:
                if not self._updatehash and is_done(task.node):
                    self._close_cached(schedule, index)
                else:
                    schedule.expand(index, task.node.get_subnodes())
                return False
            if not self._updatehash and not task.expanded and is_done(task.node):
                self._close_cached(schedule, index)
                return False
        except Exception as err:
            # an input that is missing or of the wrong type shows up here, before any run
            details = traceback.format_exc()
            self._close_failed(
                schedule, index, Outcome(0.0, 0.0, None, explain(err, details), details)
            )
            return False
        return True

    def booked_gb(self, task: Task) -> float:
        """Find the memory to reserve for a task: what it declares, corrected by experience."""
        if task.alone:
            return self.memory_gb
        return self.estimator.estimate(task.step, task.mem_gb, kind=task.kind).mem_gb

    def _announce(self, task: Task) -> None:
        self._write(
            "step_started",
            step=task.step,
            kind=task.kind,
            n_procs=task.n_procs,
            mem_gb=round(self.booked_gb(task), 3),
            declared_gb=round(task.mem_gb, 3),
            volumes=volumes_of(task.node),
            item=task.map_parent is not None,
        )
        self._call_back(task, "start")

    def _close(self, schedule: Schedule, index: int, outcome: Outcome) -> None:
        """Record the end of a task that ran."""
        task = schedule.tasks[index]
        again = outcome.out_of_memory or outcome.killed
        if again and not outcome.final and not task.alone:
            self._retry_alone(schedule, index, outcome)
            return
        if outcome.error is not None:
            self._close_failed(schedule, index, outcome)
            return
        schedule.done(index)
        if self.record is not None:
            self.record.write_done(_summary(task, outcome, "done"))
        self._learn(task, outcome, "done")
        self._call_back(task, "end")

    def _retry_alone(self, schedule: Schedule, index: int, outcome: Outcome) -> None:
        """Retry a task that ran out of memory or was killed, with no other task beside it."""
        task = schedule.tasks[index]
        if outcome.out_of_memory:
            self._learn(task, outcome, "failed")
        task.alone = True
        schedule.give_back(index)
        self._write(
            "step_retried",
            step=task.step,
            kind=task.kind,
            message=f"{outcome.error} It runs again, alone with {self.memory_gb:.1f} GB.",
            seconds=round(outcome.seconds, 3),
            peak_gb=rounded(outcome.peak_gb, 3),
            declared_gb=round(task.mem_gb, 3),
            out_of_memory=outcome.out_of_memory,
        )

    def _learn(self, task: Task, outcome: Outcome, state: StepState) -> None:
        if outcome.peak_gb is None:
            return
        summary = _summary(task, outcome, state)
        if state == "done":
            self.estimator.learn(summary)
        else:
            self.estimator.learn_killed(summary)

    def _close_cached(self, schedule: Schedule, index: int) -> None:
        task = schedule.tasks[index]
        schedule.done(index)
        if self.record is not None:
            known = self.history.get(task.step)
            found = found_done(
                task.step,
                known,
                subject=StepName(task.step).subject,
                kind=task.kind,
                mem_gb=self.booked_gb(task),
                declared_gb=task.mem_gb,
                n_procs=task.n_procs,
            )
            self.record.write_done(found)
        self._call_back(task, "end")

    def _close_failed(self, schedule: Schedule, index: int, outcome: Outcome) -> None:
        task = schedule.tasks[index]
        error = outcome.error or "The step failed."
        if outcome.out_of_memory:
            self._learn(task, outcome, "failed")
            error += " " + self._advise(task)
        lost = schedule.fail(index)
        self._failures.append((task.step, error))
        try:
            crashfile = write_crashfile(
                self._folder_of_crash(task), task.step, task.node, error, outcome.traceback
            )
        except OSError:
            crashfile = None  # a full disk must not hide the error itself
        self._write(
            "step_failed",
            step=task.step,
            kind=task.kind,
            seconds=round(outcome.seconds, 3),
            peak_gb=rounded(outcome.peak_gb, 3),
            declared_gb=round(task.mem_gb, 3),
            out_of_memory=outcome.out_of_memory,
            message=error,
            crashfile=None if crashfile is None else str(crashfile),
            traceback=outcome.traceback,
        )
        for other in lost:
            self._write("step_skipped", step=schedule.tasks[other].step, because=task.step)
        self._call_back(task, "exception")

    def _folder_of_crash(self, task: Task) -> Path:
        """Choose the folder: the plugin's, the node's own, the workflow's, the current one."""
        own = (getattr(task.node, "config", None) or {}).get("execution", {})
        choice = self.plugin_args.get("crash_dir") or own.get("crashdump_dir") or self._crash_dir
        return Path(choice) if choice else Path.cwd()

    def _advise(self, task: Task) -> str:
        """Advise what to do about a step that this machine cannot run."""
        need = self.estimator.estimate(task.step, task.mem_gb, kind=task.kind).mem_gb
        return (
            f"{self.memory_gb:.1f} GB is not enough even for this step alone: plan with at least "
            f"{max(need, self.memory_gb):.1f} GB. To continue on a cluster, run the same command "
            "there with --plugin SLURMGraph; 'neuroferry move OUTPUT_DIR USER@HOST:/path' "
            "transfers the unfinished run, so that finished steps do not run again."
        )

    def _write(self, event: str, *, step: str, **values: Any) -> None:
        if self.record is not None:
            self.record.write(event, step=step, subject=StepName(step).subject, **values)

    def _call_back(self, task: Task, status: str) -> None:
        if self._callback is not None:
            self._callback(task.node, status)


def _summary(task: Task, outcome: Outcome, state: StepState) -> StepSummary:
    return StepSummary(
        task.step,
        StepName(task.step).subject,
        state,
        kind=task.kind,
        seconds=outcome.seconds,
        cpu_seconds=outcome.cpu_seconds,
        peak_gb=outcome.peak_gb,
        declared_gb=task.mem_gb,
        volumes=volumes_of(task.node),
        disk_gb=outcome.disk_gb,
        files=outcome.files,
        item=task.map_parent is not None,
    )


def _is_map(node: Any) -> bool:
    from nipype.pipeline.engine import MapNode

    return isinstance(node, MapNode)
