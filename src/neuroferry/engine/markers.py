"""Files that mark a participant as in use, where the file system has no locks.

Unlike a lock, such a file outlives a process that is killed. Whether its owner still runs can be
known on the same machine only; elsewhere the message names the file to remove.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from neuroferry.errors import ExitCode, NeuroferryError
from neuroferry.trust import open_unlinked

_PROC = Path("/proc")


def describe_owner() -> dict[str, Any]:
    """Describe this process, so that others can tell whether it still runs."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "boot": _boot(),
        "space": _process_space(),
        "born": _birth(os.getpid()),
    }


def in_use(path: Path, owner: str) -> NeuroferryError:
    """Make the error for a participant whose lock or marker is another run's.

    Parameters
    ----------
    path : pathlib.Path
        The file, named after the participant.
    owner : str
        Its content, which may be anything.
    """
    try:
        who = json.loads(owner)
        by = f" (process {who['pid']} on {who['host']}, started {who['started']})"
    except (ValueError, KeyError, TypeError, RecursionError):
        by = ""
    ended = f" If that run has ended, remove {path}." if path.suffix == ".held" else ""
    return NeuroferryError(
        f"Another run{by} is processing {path.stem[1:]} in {path.parent}. Wait for it, or use"
        f" other folders (OUTPUT_DIR and --work-dir).{ended}",
        exit_code=ExitCode.TEMPORARY,
    )


@contextmanager
def mark(path: Path) -> Iterator[None]:
    """Create a marker that no other run has, and remove it in the end.

    Raises
    ------
    NeuroferryError
        With exit code 75 while another run has it.
    """
    own = json.dumps(describe_owner())
    try:
        _create(path, own)
    except FileExistsError:
        _take_over(path)
        try:
            _create(path, own)
        except FileExistsError:  # another run was faster
            raise in_use(path, _read(path)) from None
    try:
        yield
    finally:
        if _read(path) == own:
            with suppress(OSError):
                path.unlink()


def _create(path: Path, content: str) -> None:
    handle = open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(content)


def _take_over(path: Path) -> None:
    """Remove the marker of a run that has ended."""
    owner = _read(path)
    if not _has_ended(owner):
        raise in_use(path, owner)
    aside = path.with_name(f"{path.name}.{uuid4().hex}")
    with suppress(FileNotFoundError):  # another run was faster
        path.rename(aside)
        taken = _read(aside)
        if taken != owner and not os.path.lexists(path):  # a new one, made in between
            aside.rename(path)
            raise in_use(path, taken)
        aside.unlink()


def _read(path: Path) -> str:
    try:
        with os.fdopen(
            open_unlinked(path, os.O_RDONLY), encoding="utf-8", errors="replace"
        ) as file:
            return file.read(4096)
    except OSError:
        return ""


def _has_ended(owner: str) -> bool:
    """Tell whether the process that wrote a marker has certainly ended."""
    try:
        who = json.loads(owner)
        host, boot, space, born = (str(who[key]) for key in ("host", "boot", "space", "born"))
        pid = int(who["pid"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if host != socket.gethostname() or host.startswith("localhost") or not boot:
        return False
    if boot != _boot():
        return True
    return space == _process_space() and _birth(pid) != born


def _boot() -> str:
    """Identify the run of the kernel, which ends with a reboot."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_space() -> str:
    """Identify the name space of process numbers; containers may have their own."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _birth(pid: int) -> str:
    """Return when a process began, in ticks; empty if there is none."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
