"""Keeps two runs from working on the same participant in the same folders at once."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from neuroferry.errors import ExitCode, NeuroferryError


@contextmanager
def hold(folders: Iterable[Path], labels: Iterable[str]) -> Iterator[None]:
    """Hold each participant's lock in each folder, or none at all.

    The kernel drops the locks when the process ends, however it ends; a file that is left
    behind locks nothing.

    Parameters
    ----------
    folders : iterable of pathlib.Path
        Where the lock files lie; made when they are not there.
    labels : iterable of str
        Participants.

    Raises
    ------
    NeuroferryError
        With exit code 75 when another run holds one of them; the message says which run.
    """
    folders, names = list(folders), sorted(set(labels))
    _allow_files(len(folders) * len(names))
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for label in names:
                _take(stack, folder / f".sub-{label}.lock")
        yield


def _allow_files(count: int) -> None:
    """Raise the limit on open files, which is often 1024, by so many, as far as one may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _take(stack: ExitStack, path: Path) -> None:
    stream = stack.enter_context(path.open("a+", encoding="utf-8"))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        raise NeuroferryError(
            f"Another run{_describe(stream.read())} works on {path.stem[1:]} in {path.parent}. "
            "Wait for it, or give this run folders of its own (OUTPUT_DIR and --work-dir).",
            exit_code=ExitCode.TEMPORARY,
        ) from None
    stream.seek(0)
    stream.truncate()
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, stream)
    stream.flush()


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
    except json.JSONDecodeError:
        return ""
    return f" (process {owner['pid']} on {owner['host']}, started {owner['started']})"
