"""Plugin that runs a Nipype graph on the processors and the memory of one machine.

It is driven by events: the parent sleeps until a step ends, and starts those that have become
ready. A step that is killed, cannot be pickled or dies without a result leaves a crash file and
a line in the record; steps that do not depend on it continue.

Memory is enforced, not only reserved. The memory of the steps is sampled while they run. When
their sum comes near the budget, or the machine runs short, the step that is furthest above its
estimate is stopped and later runs again, alone with the whole budget, as does a step that the
kernel killed for memory. Measurements correct the estimates of later steps of the same kind.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import selectors
import signal
import time
from collections.abc import Mapping
from typing import Any

from neuroferry.engine.base import RecordingPlugin
from neuroferry.engine.schedule import Schedule, Task, fits
from neuroferry.engine.usage import ProcessTable, headroom_gb
from neuroferry.engine.worker import (
    Stop,
    Worker,
    find_excess,
    find_stall,
    load_shared,
    start_worker,
)

# how often the loop looks for workers whose pipe is held open by a leftover child process
_SWEEP_SECONDS = 0.2
_GRACE_SECONDS = 1.0
# share of the budget at which a step is stopped
_PRESSURE = 0.95
# share of the budget that must remain available on the machine
_LEAST_HEADROOM = 0.02


class MultiProcPlugin(RecordingPlugin):
    """Plugin that runs a graph in processes on this machine.

    Parameters
    ----------
    plugin_args : dict, optional
        As for :class:`~neuroferry.engine.base.RecordingPlugin`, and

        ``stall_seconds`` : float
            Time after which a step fails if none of its processes used any processor time
            (default: 3600; 0: wait for ever).
        ``stopped_seconds`` : float
            Time after which a stopped step (SIGSTOP) fails (default: 60).
        ``n_gpu_procs`` : int
            Steps that use a GPU (``use_gpu``, ``use_cuda``) at the same time (default: 1).

    Examples
    --------
    >>> plugin = MultiProcPlugin(plugin_args={"n_procs": 2, "memory_gb": 4})
    >>> plugin.n_procs, plugin.memory_gb
    (2, 4.0)
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args)
        self._wake_pipe: int | None = None
        self._stall_seconds = float(self.plugin_args.get("stall_seconds", 3600.0))
        self._stopped_seconds = float(self.plugin_args.get("stopped_seconds", 60.0))
        self._n_gpu_procs = max(1, int(self.plugin_args.get("n_gpu_procs") or 1))
        self._processes = ProcessTable()
        self._looked = 0.0
        self._preloaded = False

    def _wake(self) -> None:
        if self._wake_pipe is not None:
            os.write(self._wake_pipe, b"!")

    def _walk(self, schedule: Schedule) -> None:
        running: dict[int, Worker] = {}
        reading, self._wake_pipe = os.pipe()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(reading, selectors.EVENT_READ)
                self._loop(schedule, running, selector)
        except BaseException:
            _end_all(running)
            raise
        finally:
            if self._preloaded:
                gc.unfreeze()
                self._preloaded = False
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
            self._look(schedule, running)
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
                if sum(schedule.tasks[i].n_procs for i in running) >= self.n_procs:
                    return
                task = schedule.tasks[index]
                if not self._fits(task, [schedule.tasks[i] for i in running]):
                    continue
                with self._interruptible():
                    to_run = self._prepare(schedule, index)
                    if to_run:
                        self._load(task)
                if to_run:
                    schedule.take(index)
                    self._announce(task)
                    worker = start_worker(
                        task.node, log=self.log_file, updatehash=self._updatehash
                    )
                    running[index] = worker
                    selector.register(worker.pipe, selectors.EVENT_READ, index)
                else:
                    progressed = True

    def _load(self, task: Task) -> None:
        """Load what steps share, once, before they are forked."""
        if not self._preloaded:
            preload()
            self._preloaded = True
        load_shared(task.node)

    def _fits(self, task: Task, running: list[Task]) -> bool:
        if (
            task.node.is_gpu_node()
            and sum(other.node.is_gpu_node() for other in running) >= self._n_gpu_procs
        ):
            return False
        return fits(task, running, self.n_procs, self.memory_gb, self.booked_gb)

    def _look(self, schedule: Schedule, running: dict[int, Worker]) -> None:
        """Measure the running steps, and stop those that cannot continue."""
        now = time.monotonic()
        elapsed = now - self._looked
        if elapsed < _SWEEP_SECONDS or not running:
            return
        self._looked = now
        elapsed = min(elapsed, 2 * _SWEEP_SECONDS)  # the whole run may have been suspended
        members = self._processes.look([worker.pid for worker in running.values()])
        for worker in running.values():
            worker.watch.look(members[worker.pid], elapsed)
        if _total_gb(running) > _PRESSURE * self.memory_gb:
            for worker in running.values():
                worker.watch.look(members[worker.pid], 0.0, exact=True)
        for worker in running.values():
            stall = find_stall(worker.watch, self._stall_seconds, self._stopped_seconds)
            if stall is not None:
                worker.stop(stall)
        if all(worker.stopped is None for worker in running.values()):
            self._stop_if_short_of_memory(schedule, running)

    def _stop_if_short_of_memory(self, schedule: Schedule, running: dict[int, Worker]) -> None:
        total = _total_gb(running)
        if len(running) == 1:
            (worker,) = running.values()
            excess = find_excess(worker.watch, self.memory_gb)
            if excess is not None:
                worker.stop(excess)
            return
        if (
            total <= _PRESSURE * self.memory_gb
            and headroom_gb() >= _LEAST_HEADROOM * self.memory_gb
        ):
            return
        booked = {index: self.booked_gb(schedule.tasks[index]) for index in running}
        victim = max(
            running, key=lambda i: (running[i].watch.now_gb - booked[i], running[i].started)
        )
        used = running[victim].watch.now_gb
        why = (
            f"Memory ran short: all running steps together used {total:.1f} GB of "
            f"{self.memory_gb:.1f} GB, this one {used:.1f} GB instead of the expected "
            f"{booked[victim]:.1f} GB, so it was stopped."
        )
        running[victim].stop(Stop(why, out_of_memory=True))


def preload() -> None:
    """Prepare for forking: load what every step needs, and freeze existing objects.

    Otherwise every child would repeat what Nipype loads and looks up on its first step. Children
    share the parent's pages only as long as nobody writes to them, so the garbage collector is
    told to ignore existing objects.
    """
    importlib.import_module("nipype.utils.profiler")
    importlib.import_module("nipype.pipeline.engine")
    platform.platform()  # starts a program, and caches its answer

    gc.collect()
    gc.freeze()


def _total_gb(running: dict[int, Worker]) -> float:
    return sum(worker.watch.now_gb for worker in running.values())


def _end_all(running: dict[int, Worker]) -> None:
    """End all running steps and their child processes, first by SIGTERM, then by SIGKILL."""
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
