"""Plugin that runs a Nipype graph one step at a time in this process, for debugging."""

from __future__ import annotations

import resource
import time

from neuroferry.engine.base import RecordingPlugin
from neuroferry.engine.schedule import Schedule
from neuroferry.engine.worker import Outcome, run_node


class LinearPlugin(RecordingPlugin):
    """Plugin that runs steps in this process: breakpoints work, memory is not measured."""

    def _walk(self, schedule: Schedule) -> None:
        while not schedule.finished:
            self._raise_if_interrupted()
            ready = schedule.ready()
            if not ready or self._stopping:
                return
            index = ready[0]
            if not self._prepare(schedule, index):
                continue
            schedule.take(index)
            task = schedule.tasks[index]
            self._announce(task)
            started, cpu = time.monotonic(), _cpu_seconds()
            error, details = run_node(task.node, updatehash=self._updatehash)
            seconds = time.monotonic() - started
            outcome = Outcome(seconds, _cpu_seconds() - cpu, None, error, details)
            self._close(schedule, index, outcome)
        self._raise_if_interrupted()


def _cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
