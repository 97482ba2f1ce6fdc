"""Keeps two runs from working on the same participant in the same folders at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from neuroferry.errors import ExitCode, NeuroferryError
from neuroferry.trust import open_unlinked

# what file systems without locks answer: Lustre without -o flock, some NFS, some FUSE
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def hold(folders: Iterable[Path], labels: Iterable[str]) -> Iterator[None]:
    """Hold each participant's lock in each folder, or none at all.

    The kernel drops the locks when the process ends, however it ends; a file that is left
    behind locks nothing. Where the file system has no locks, that is said once and the run
    goes on without.

    Parameters
    ----------
    folders : iterable of pathlib.Path
        Where the lock files lie; made when they are not there.
    labels : iterable of str
        Participants.

    Raises
    ------
    NeuroferryError
        With exit code 75 when another run holds one of them; the message says which run. With
        exit code 73 when a lock file is a link to another file.
    """
    folders, names = list(folders), sorted(set(labels))
    _allow_files(len(folders) * len(names))
    with ExitStack() as stack:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            locked = [_take(stack, folder / f".sub-{label}.lock") for label in names]
            if not all(locked):
                print(
                    f"WARNING: The file system of {folder} has no locks: see to it yourself that "
                    "no other run works on the same participants there.",
                    file=sys.stderr,
                    flush=True,
                )
        yield


def _allow_files(count: int) -> None:
    """Raise the limit on open files, which is often 1024, by so many, as far as one may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _take(stack: ExitStack, path: Path) -> bool:
    """Lock a file, and note in it by whom; tell whether its file system has locks."""
    handle, ours = _open(path)
    stream = stack.enter_context(os.fdopen(handle, "r+" if ours else "r", encoding="utf-8"))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        raise NeuroferryError(
            f"Another run{_describe(stream.read())} works on {path.stem[1:]} in {path.parent}. "
            "Wait for it, or give this run folders of its own (OUTPUT_DIR and --work-dir).",
            exit_code=ExitCode.TEMPORARY,
        ) from None
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise
        return False
    # a second name may be of a file that is not a lock at all
    if ours and os.fstat(handle).st_nlink == 1:
        stream.seek(0)
        stream.truncate()
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, stream)
        stream.flush()
    return True


def _open(path: Path) -> tuple[int, bool]:
    """Open a lock file; tell whether it may be written, as one that others left may not."""
    try:
        return open_unlinked(path, os.O_RDWR | os.O_CREAT), True
    except PermissionError:
        if not path.exists():
            raise
        return open_unlinked(path, os.O_RDONLY), False


def _describe(text: str) -> str:
    try:
        owner = json.loads(text)
        return f" (process {owner['pid']} on {owner['host']}, started {owner['started']})"
    except (ValueError, KeyError, TypeError):  # somebody else's file may hold anything
        return ""
