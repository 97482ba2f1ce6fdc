"""Server process that has loaded Nipype and runs steps in forks of itself, one at a time.

A Dask worker has threads, and a process with threads must not fork. So each thread has its own
server: each step is still a separate process, whose death is an event and whose memory the kernel
measures, and it starts within milliseconds.

Messages go through the server's standard input and output, each preceded by its length in eight
bytes. When the input closes, the step is killed and the server ends.
"""

from __future__ import annotations

import io
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.engine.usage import ProcessTable
from neuroferry.engine.worker import (
    Outcome,
    Worker,
    explain,
    find_excess,
    find_stall,
    load_shared,
    start_worker,
)

_LENGTH = struct.Struct("<Q")
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class StepRequest:
    """Request to run a step.

    Attributes
    ----------
    node : bytes
        The pickled Nipype node.
    memory_gb : float
        Memory limit, GB, also for a step that runs alone.
    log_file : str or None
        File that collects what the step prints.
    updatehash : bool
        Passed on to Nipype.
    stall_seconds, stopped_seconds : float
        See :func:`neuroferry.engine.worker.find_stall`.
    settings : dict
        Nipype's section ``execution``.
    path : tuple of str
        Search path of modules.
    """

    node: bytes
    memory_gb: float
    log_file: str | None
    updatehash: bool
    stall_seconds: float
    stopped_seconds: float
    settings: dict[str, str]
    path: tuple[str, ...]


class StepServer:
    """Client that starts a server and asks it to run steps."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from neuroferry.engine.dask import stepserver; stepserver.serve()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def run(self, request: StepRequest) -> Outcome | None:
        """Run a step; ``None`` if the server was closed in the meantime or died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, pickle.dumps(request))
            answer = _receive(self._process.stdout)
        except (OSError, ValueError):
            return None
        if answer is None:
            return None
        outcome: Outcome = pickle.loads(answer)
        return outcome

    def close(self) -> None:
        """End the server and its running step."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """Answer requests until the input closes."""
    asking = os.fdopen(os.dup(0), "rb", buffering=0)
    answering = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the messages
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    from neuroferry.engine.guards import guard_nipype
    from neuroferry.engine.multiproc import preload

    preload()
    guard_nipype()
    while True:
        message = _receive(asking)
        if message is None:
            return
        outcome = _run(pickle.loads(message), asking)
        if outcome is None:
            return
        _send(answering, pickle.dumps(outcome))


def _run(request: StepRequest, asking: io.RawIOBase | Any) -> Outcome | None:
    """Run one step in a fork; ``None`` if nobody waits for it any more."""
    import traceback

    from nipype import config

    try:
        sys.path.extend(entry for entry in request.path if entry not in sys.path)
        config._sections["execution"].update(request.settings)
        node = pickle.loads(request.node)
    except Exception as err:
        details = traceback.format_exc()
        return Outcome(0.0, 0.0, None, explain(err, details), details)
    log = Path(request.log_file) if request.log_file else None
    load_shared(node)
    worker = start_worker(node, log=log, updatehash=request.updatehash)
    table = ProcessTable()
    looked = time.monotonic()
    while True:
        readable, _, _ = select.select([worker.pipe, asking], [], [], _LOOK_SECONDS)
        if asking in readable:  # nothing is asked while a step runs: the input has closed
            worker.kill_all()
            worker.collect(block=True)
            return None
        closed = worker.pipe in readable and worker.read(block=False)
        outcome = worker.collect(block=closed)
        if outcome is not None:
            return outcome
        now = time.monotonic()
        if now - looked >= _LOOK_SECONDS:
            _look(worker, table, min(now - looked, 2 * _LOOK_SECONDS), request)
            looked = now


def _look(worker: Worker, table: ProcessTable, elapsed: float, request: StepRequest) -> None:
    pids = table.look([worker.pid])[worker.pid]
    worker.watch.look(pids, elapsed)
    if worker.watch.now_gb > request.memory_gb:
        worker.watch.look(pids, 0.0, exact=True)
    why = find_stall(worker.watch, request.stall_seconds, request.stopped_seconds)
    why = why or find_excess(worker.watch, request.memory_gb)
    if why is not None and worker.stopped is None:
        worker.stop(why)


def _send(stream: Any, message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _receive(stream: Any) -> bytes | None:
    """Read a message; ``None`` at the end of the stream."""
    head = _read(stream, _LENGTH.size)
    return None if head is None else _read(stream, _LENGTH.unpack(head)[0])


def _read(stream: Any, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(size - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
