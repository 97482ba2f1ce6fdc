"""Plugin that runs a Nipype graph on a Dask cluster: a local one, or an existing one.

Dask decides where a step runs; its worker resources ``processors`` and ``memory_gb`` keep
concurrent steps within what the worker has. The step itself runs in its own process beside the
worker (:mod:`neuroferry.engine.dask.stepserver`), so that a step that is killed or runs out of
memory does not take the worker with it.

The steps of a lost Dask worker are run elsewhere by Dask.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import pickle
import queue
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuroferry.engine.base import RecordingPlugin
from neuroferry.engine.dask.stepserver import StepRequest, StepServer
from neuroferry.engine.resources import Resources
from neuroferry.engine.schedule import Schedule, Task
from neuroferry.engine.worker import Outcome, explain
from neuroferry.errors import SchedulerError, UsageError
from neuroferry.trust import refuse_foreign

_TICK_SECONDS = 0.2
_CONNECT_SECONDS = 120.0
_ATTEMPT_SECONDS = 5.0
# time after which a worker without a scheduler ends, lest it fill a queue's slot for nothing
_WORKER_PATIENCE_SECONDS = 600.0
# time after which a run says that it waits for a worker
_PATIENCE_SECONDS = 10.0
# worker resources without which no step could ever start
_PROCESSORS, _MEMORY = "processors", "memory_gb"
_SCHEDULER_FILE = "The file of the scheduler"


class DaskPlugin(RecordingPlugin):
    """Plugin that runs a graph on a Dask cluster.

    Parameters
    ----------
    plugin_args : dict, optional
        As for :class:`~neuroferry.engine.base.RecordingPlugin`, and

        ``scheduler`` : str or path
            Address (``tcp://host:8786``) or file of a scheduler; by default
            a cluster of ``n_procs`` processors and ``memory_gb`` on this machine. Its workers
            have the resources ``processors`` and ``memory_gb`` and see the same files; see
            ``neuroferry dask-worker``.
        ``wait_seconds`` : float
            Time to wait for the first worker of a scheduler (default: 120; 0: without end). Those
            of an adaptive cluster may be jobs in a queue.
        ``stall_seconds``, ``stopped_seconds`` : float
            As for :class:`~neuroferry.engine.multiproc.MultiProcPlugin`.
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args)
        self._scheduler = self.plugin_args.get("scheduler")
        self._wait_seconds = float(self.plugin_args.get("wait_seconds", 120.0))
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._token = f"neuroferry-{secrets.token_hex(8)}"
        self._futures: dict[int, Any] = {}
        self._attempts: dict[int, str] = {}
        self._announced: set[int] = set()

    def _wake(self) -> None:
        self._events.put(None)  # a SimpleQueue may be filled from a signal handler

    def _walk(self, schedule: Schedule) -> None:
        with self._connect() as client:
            largest = _largest_worker(client)
            self.n_procs, self.memory_gb = largest.n_procs, largest.memory_gb
            client.subscribe_topic(self._token, lambda event: self._events.put(event[1]))
            try:
                self._loop(schedule, client)
            finally:
                if self._futures:
                    self._stop_steps(client)

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        distributed = _load()
        with contextlib.ExitStack() as stack:
            if self._scheduler is None:
                cluster = distributed.LocalCluster(
                    n_workers=1,
                    # steps run in processes beside the worker: its threads only wait for them
                    processes=False,
                    threads_per_worker=self.n_procs,
                    memory_limit=0,
                    dashboard_address=None,
                    resources={_PROCESSORS: self.n_procs, _MEMORY: self.memory_gb},
                )
                stack.callback(_close_servers)
                stack.enter_context(cluster)
                yield stack.enter_context(distributed.Client(cluster))
                return
            text = str(self._scheduler)
            where = {"address": text} if "://" in text else {"scheduler_file": text}
            if "address" not in where:
                self._wait_for_file(Path(text))
            client = stack.enter_context(self._find_scheduler(distributed, where, text))
            self._wait_for_worker(client, text)
            yield client

    def _find_scheduler(self, distributed: Any, where: Mapping[str, str], text: str) -> Any:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return distributed.Client(**where, timeout=_ATTEMPT_SECONDS)
            except (OSError, TimeoutError) as err:
                if time.monotonic() > deadline:
                    raise _no_cluster(text, f"no scheduler answers: {err}") from err
            self._raise_if_interrupted()

    def _wait_for_worker(self, client: Any, text: str) -> None:
        """Wait for the first worker."""
        if _workers(client):
            return
        # an adaptive cluster has no workers until there is something to do
        asked = client.submit(os.getpid, pure=False)
        said = False
        started = time.monotonic()
        while not _workers(client):
            waited = time.monotonic() - started
            if 0 < self._wait_seconds < waited:
                limit = f"{self._wait_seconds / 60:.0f} min"
                raise _no_cluster(text, f"there was no worker within {limit}")
            if waited > _PATIENCE_SECONDS and not said and self.record is not None:
                said = True
                self.record.write(
                    "problem",
                    subject=None,
                    severity="warning",
                    message=f"The Dask scheduler at {text} has no worker yet; waiting for one.",
                    path=None,
                )
            self._tick()
            self._raise_if_interrupted()
            time.sleep(_TICK_SECONDS)
        asked.release()

    def _wait_for_file(self, path: Path) -> None:
        """Wait for the scheduler to write its address, with a time limit that Dask lacks."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not path.exists():
            self._raise_if_interrupted()
            if time.monotonic() > deadline:
                raise _no_cluster(str(path), "the file does not exist")
            time.sleep(_TICK_SECONDS)
        refuse_foreign(path, _SCHEDULER_FILE)

    def _loop(self, schedule: Schedule, client: Any) -> None:
        while True:
            self._raise_if_interrupted()
            self._submit_ready(schedule, client)
            if not self._futures:
                return
            with contextlib.suppress(queue.Empty):
                self._handle(schedule, self._events.get(timeout=_TICK_SECONDS))
            self._tick()

    def _tick(self) -> None:
        tick = self.plugin_args.get("tick")
        if tick is not None:
            tick()

    def _submit_ready(self, schedule: Schedule, client: Any) -> None:
        progressed = True
        while progressed:
            progressed = False
            for index in schedule.ready():
                if self._stopping:
                    return
                if not self._prepare(schedule, index):
                    progressed = True
                    continue
                schedule.take(index)
                self._submit(schedule, client, index)

    def _submit(self, schedule: Schedule, client: Any, index: int) -> None:
        task = schedule.tasks[index]
        try:
            request = self._request(task)
        except Exception as err:
            details = traceback.format_exc()
            outcome = Outcome(0.0, 0.0, None, explain(err, details), details)
            self._close(schedule, index, outcome)
            return
        self._announced.discard(index)
        self._attempts[index] = attempt = secrets.token_hex(4)
        call = _Call(request, self._token, {"index": index, "attempt": attempt})
        future = client.submit(
            pickle.loads,
            pickle.dumps(call),
            key=f"{task.step}-{attempt}",
            resources={
                # a step too large for any worker is tried with all resources of the largest
                _PROCESSORS: min(task.n_procs, self.n_procs),
                _MEMORY: min(self.booked_gb(task), self.memory_gb),
            },
            priority=task.priority,
            pure=False,
        )
        self._futures[index] = future
        future.add_done_callback(lambda done: self._events.put((index, done)))

    def _request(self, task: Task) -> StepRequest:
        import cloudpickle
        from nipype import config

        return StepRequest(
            node=cloudpickle.dumps(task.node),
            memory_gb=self.memory_gb,
            log_file=None if self.log_file is None else str(Path(self.log_file).absolute()),
            updatehash=self._updatehash,
            stall_seconds=float(self.plugin_args.get("stall_seconds", 3600.0)),
            stopped_seconds=float(self.plugin_args.get("stopped_seconds", 60.0)),
            settings=dict(config._sections["execution"]),
            path=tuple(sys.path),
        )

    def _handle(self, schedule: Schedule, event: Any) -> None:
        """Handle a worker's message about a step, or the end of its future.

        Workers report on one topic when a step starts and how it ended, so that the record has
        both in the order in which they happened; the future tells about lost steps.
        """
        if event is None:
            return
        if isinstance(event, Mapping):
            index, outcome = event["index"], event.get("outcome")
            if event["attempt"] != self._attempts.get(index):
                return
            self._announce_once(schedule, index)
            if outcome is not None:
                self._close_once(schedule, index, Outcome(**outcome))
            return
        index, future = event
        if self._futures.get(index) is not future:
            return
        del self._futures[index]
        self._announce_once(schedule, index)
        try:
            outcome = Outcome(**_result(future))
        except Exception as err:
            details = traceback.format_exc()
            error = f"Dask lost the step: {explain(err, details)}"
            outcome = Outcome(0.0, 0.0, None, error, details)
        self._close_once(schedule, index, outcome)

    def _close_once(self, schedule: Schedule, index: int, outcome: Outcome) -> None:
        if self._attempts.pop(index, None) is not None:
            self._close(schedule, index, outcome)

    def _announce_once(self, schedule: Schedule, index: int) -> None:
        if index in self._attempts and index not in self._announced:
            self._announced.add(index)
            self._announce(schedule.tasks[index])

    def _stop_steps(self, client: Any) -> None:
        """End the running steps, for which nobody waits any more."""
        futures = list(self._futures.values())
        self._futures.clear()
        with contextlib.suppress(OSError, TimeoutError):
            client.cancel(futures, force=True)
            client.run(stop_steps, self._token)


def _load() -> Any:
    """Import Dask only when it is used.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        return importlib.import_module("distributed")
    except ImportError as err:
        raise UsageError(
            f"The plugin Dask needs a package that is not installed ({err}). Install it: pip "
            "install 'neuroferry[dask]'."
        ) from err


def _no_cluster(where: str, why: str) -> SchedulerError:
    return SchedulerError(
        f"No Dask scheduler with a worker answers at {where} ({why}). Start them first: "
        "neuroferry dask-worker SCHEDULER_FILE. If workers wait in a queue, allow more time "
        "(--dask-wait-minutes)."
    )


def _no_scheduler(path: Path, why: str) -> SchedulerError:
    return SchedulerError(
        f"No Dask scheduler answers at {path} ({why}). Start one first, by neuroferry dask-worker "
        "without --no-scheduler."
    )


def _workers(client: Any) -> dict[str, Any]:
    known: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return known


def _result(future: Any) -> dict[str, Any]:
    result: dict[str, Any] = future.result()
    return result


def _largest_worker(client: Any) -> Resources:
    """Find the resources of the largest worker.

    Raises
    ------
    UsageError
        If no worker declares its resources.
    """
    known = [worker.get("resources", {}) for worker in _workers(client).values()]
    usable = [found for found in known if found.get(_PROCESSORS) and found.get(_MEMORY)]
    if not usable:
        raise UsageError(
            "The Dask workers do not declare their resources. Start them with 'neuroferry "
            'dask-worker SCHEDULER_FILE\', or with --resources "processors=8,memory_gb=32".'
        )
    best = max(usable, key=lambda found: float(found[_MEMORY]))
    return Resources(int(best[_PROCESSORS]), float(best[_MEMORY]))


def offer(scheduler_file: Path, *, n_procs: int, memory_gb: float, with_scheduler: bool) -> None:
    """Serve as a Dask worker, optionally with the scheduler, until SIGINT or SIGTERM.

    Parameters
    ----------
    scheduler_file : pathlib.Path
        File with the scheduler's address, visible to workers and runs.
    n_procs, memory_gb : int, float
        Resources that the worker offers.
    with_scheduler : bool
        Start the scheduler in this process.

    Raises
    ------
    SchedulerError
        If no scheduler answers within ten minutes.
    """
    asyncio.run(_offer(scheduler_file, n_procs, memory_gb, with_scheduler))


async def _offer(path: Path, n_procs: int, memory_gb: float, with_scheduler: bool) -> None:
    distributed = _load()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        if with_scheduler:
            path.unlink(missing_ok=True)  # left by an earlier scheduler
            stack.callback(path.unlink, missing_ok=True)
            # anyone who can write to the file can make this machine's workers run commands
            before = os.umask(0o022)
            os.umask(before | 0o022)
            await stack.enter_async_context(
                distributed.Scheduler(port=0, dashboard=False, scheduler_file=str(path))
            )
            os.umask(before)
        deadline = time.monotonic() + _WORKER_PATIENCE_SECONDS
        while not path.exists():
            if stopped.is_set():
                return
            if time.monotonic() > deadline:
                raise _no_scheduler(path, "the file does not exist")
            await asyncio.sleep(_TICK_SECONDS)
        refuse_foreign(path, _SCHEDULER_FILE)
        worker = distributed.Worker(
            scheduler_file=str(path),
            nthreads=n_procs,
            resources={_PROCESSORS: n_procs, _MEMORY: memory_gb},
            memory_limit=0,
            dashboard=False,
            death_timeout=_WORKER_PATIENCE_SECONDS,
        )
        try:
            await stack.enter_async_context(worker)
        except (OSError, TimeoutError) as err:
            raise _no_scheduler(path, str(err)) from err
        ends = [asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(worker.finished())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        _close_servers()


# everything below runs in the Dask workers


class _Call:
    """A call of :func:`run_step`, made where it is unpickled.

    Dask's scheduler, too, unpickles functions and arguments of tasks (distributed 2026.8), and
    that of an existing cluster need not have neuroferry. This way it only meets bytes.
    """

    def __init__(self, request: StepRequest, token: str, name: dict[str, Any]) -> None:
        self._arguments = (request, token, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return run_step, self._arguments


_lock = threading.Lock()
_idle: list[StepServer] = []
_busy: dict[StepServer, str] = {}


def run_step(request: StepRequest, token: str, name: dict[str, Any]) -> dict[str, Any]:
    """Run a step beside this Dask worker.

    Parameters
    ----------
    request : StepRequest
        The step.
    token : str
        Names the run; also the topic on which start and end are announced.
    name : dict
        Names the step and the attempt at it.

    Returns
    -------
    dict
        The fields of an :class:`~neuroferry.engine.worker.Outcome`.
    """
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(token, name)
    with _lock:
        server = _idle.pop() if _idle else StepServer()
        _busy[server] = token
    outcome = server.run(request)
    with _lock:
        _busy.pop(server, None)
        if outcome is not None:
            _idle.append(server)
    if outcome is None:
        server.close()
        error = "The process that runs the steps of this Dask worker has ended."
        outcome = Outcome(0.0, 0.0, None, error, error)
    worker.log_event(token, {**name, "outcome": asdict(outcome)})
    return asdict(outcome)


def stop_steps(token: str) -> None:
    """End the steps of one run on this Dask worker."""
    with _lock:
        servers = [server for server, owner in _busy.items() if owner == token]
    for server in servers:
        server.close()


def _close_servers() -> None:
    with _lock:
        servers = [*_idle, *_busy]
        _idle.clear()
        _busy.clear()
    for server in servers:
        server.close()


atexit.register(_close_servers)
