"""Start and end of a run: its folder, its record and its resources."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from neuroferry import __version__
from neuroferry.config import Config, write_config
from neuroferry.engine.record import RunRecord
from neuroferry.engine.resources import Resources
from neuroferry.errors import (
    ExitCode,
    NeuroferryError,
    RunInterrupted,
    Terminated,
)
from neuroferry.files import copy_file
from neuroferry.trust import make_own_folder, write_own

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem
    from neuroferry.selection.participant import ParticipantPlan


@dataclass(frozen=True)
class Run:
    """An active run: its settings, folder, record and resources."""

    config: Config
    folder: Path
    record: RunRecord
    resources: Resources
    command: str


def begin(config: Config, resources: Resources, command: str) -> Run:
    """Create the folder of a run, and open its record."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = config.output_dir / "logs" / f"{stamp}-{secrets.token_hex(3)}"
    make_own_folder(folder)
    write_own(folder / "config.toml", write_config(config))
    if config.workflow.bundles is not None:
        # its content, in case the user's file changes
        copy_file(config.workflow.bundles, folder / "bundles.toml")
    if os.environ.get("NEUROFERRY_REENTER"):
        # for the launcher, which binds the same folders when the run continues
        write_own(folder / "enter", base64.b64decode(os.environ["NEUROFERRY_REENTER"]))
    if os.environ.get("NEUROFERRY_LAUNCH"):
        # for the launcher, which moves the run to another machine
        write_own(folder / "launch", base64.b64decode(os.environ["NEUROFERRY_LAUNCH"]))
    return Run(config, folder, RunRecord(folder / "events.jsonl"), resources, command)


def end(job: Run, err: BaseException) -> None:
    """Close the record of an unfinished run."""
    code = int(ExitCode.SOFTWARE)
    if isinstance(err, RunInterrupted | Terminated):
        code = 128 + err.signal_number
    elif isinstance(err, KeyboardInterrupt):
        code = int(ExitCode.INTERRUPTED)
    elif isinstance(err, NeuroferryError):
        code = int(err.exit_code)
    elif isinstance(err, OSError):
        code = int(ExitCode.IO)
    with suppress(OSError):  # a full disk may be what ended the run
        job.record.write("run_ended", exit_code=code, reason=str(err) or type(err).__name__)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM close the record while no step runs: by default, it would end the program."""

    def handle(number: int, _frame: object) -> None:
        raise Terminated(number)

    outside = threading.current_thread() is not threading.main_thread()
    if outside or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def record_start(
    job: Run, plans: list[ParticipantPlan], problems: list[Problem], n_steps: int
) -> None:
    """Write the first events of a run's record."""
    job.record.write(
        "run_started",
        run_id=job.folder.name,
        version=__version__,
        image=image_digest(),
        # as typed on the host
        command=(os.environ.get("NEUROFERRY_HOST_COMMAND") or job.command).strip(),
        subjects=[plan.label for plan in plans],
        steps=n_steps,
        host=socket.gethostname(),
        n_procs=job.resources.n_procs,
        memory_gb=job.resources.memory_gb,
        plugin=job.config.execution.plugin,
        seed=job.config.workflow.random_seed,
    )
    for problem in problems:
        job.record.write(
            "problem",
            subject=problem.subject,
            severity=problem.severity,
            message=problem.message,
            path=None if problem.path is None else str(problem.path),
        )


def image_digest() -> str | None:
    """Return the SHA-256 of the image, if the launcher passed it."""
    return os.environ.get("NEUROFERRY_IMAGE_DIGEST") or None
