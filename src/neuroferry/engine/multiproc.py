"""Runs a Nipype graph on the processors and the memory of one machine.

Driven by events: the parent sleeps until a step ends, and starts what has become ready. A
step that is killed, cannot be pickled or dies before it has a result ends as a crash file
and a line in the record; what does not depend on it goes on.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import time
from collections.abc import Mapping
from typing import Any

from neuroferry.engine.plugins import RecordingPlugin
from neuroferry.engine.schedule import Schedule, Task
from neuroferry.engine.worker import Worker, start_worker

# how often the loop looks for workers whose pipe is held open by a process they left behind
_SWEEP_SECONDS = 1.0
_GRACE_SECONDS = 5.0


class MultiProcPlugin(RecordingPlugin):
    """Run a graph in processes of this machine.

    Examples
    --------
    >>> plugin = MultiProcPlugin(plugin_args={"n_procs": 2, "memory_gb": 4})
    >>> plugin.n_procs, plugin.memory_gb
    (2, 4.0)
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args)
        self._wake_pipe: int | None = None

    def _wake(self) -> None:
        if self._wake_pipe is not None:
            os.write(self._wake_pipe, b"!")

    def _walk(self, schedule: Schedule) -> None:
        running: dict[int, Worker] = {}
        reading, self._wake_pipe = os.pipe()
        # what Nipype loads on the first step would be loaded anew in every child
        importlib.import_module("nipype.utils.profiler")
        # children share the parent's pages as long as nobody touches them
        gc.collect()
        gc.freeze()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(reading, selectors.EVENT_READ)
                self._loop(schedule, running, selector)
        except BaseException:
            _end_all(running)
            raise
        finally:
            gc.unfreeze()
            os.close(reading)
            os.close(self._wake_pipe)
            self._wake_pipe = None

    def _loop(
        self,
        schedule: Schedule,
        running: dict[int, Worker],
        selector: selectors.DefaultSelector,
    ) -> None:
        while True:
            self._raise_if_interrupted()
            self._start_ready(schedule, running, selector)
            if not running:
                return
            ended = [
                key.data for key, _ in selector.select(_SWEEP_SECONDS) if key.data is not None
            ]
            self._tick()
            for index in list(running):
                worker = running[index]
                closed = index in ended and worker.read(block=False)
                outcome = worker.collect(block=closed)
                if outcome is not None:
                    selector.unregister(worker.pipe)
                    worker.close()
                    del running[index]
                    self._close(schedule, index, outcome)

    def _tick(self) -> None:
        tick = self.plugin_args.get("tick")
        if tick is not None:
            tick()

    def _start_ready(
        self,
        schedule: Schedule,
        running: dict[int, Worker],
        selector: selectors.DefaultSelector,
    ) -> None:
        progressed = True
        while progressed:
            progressed = False
            for index in schedule.ready():
                if self._stopping or self._interrupted_by is not None:
                    return
                task = schedule.tasks[index]
                if not self._fits(task, [schedule.tasks[i] for i in running]):
                    continue
                if self._prepare(schedule, index):
                    schedule.take(index)
                    self._announce(task)
                    worker = start_worker(
                        task.node, log=self.log_file, updatehash=self._updatehash
                    )
                    running[index] = worker
                    selector.register(worker.pipe, selectors.EVENT_READ, index)
                else:
                    progressed = True

    def _fits(self, task: Task, running: list[Task]) -> bool:
        """Tell whether a task fits beside those that run; alone, everything is tried."""
        if not running:
            return True
        procs = task.n_procs + sum(other.n_procs for other in running)
        memory = task.mem_gb + sum(other.mem_gb for other in running)
        return procs <= self.n_procs and memory <= self.memory_gb


def _end_all(running: dict[int, Worker]) -> None:
    """End every running step and what it started: first asked, then forced."""
    for worker in running.values():
        worker.kill(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    left = dict(running)
    while left and time.monotonic() < deadline:
        for index, worker in list(left.items()):
            if worker.collect(block=False) is not None:
                worker.close()
                del left[index]
        time.sleep(0.02)
    for worker in running.values():
        worker.kill(signal.SIGKILL)
    for worker in left.values():
        worker.collect(block=True)
        worker.close()
    running.clear()
