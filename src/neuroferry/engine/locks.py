"""Locks against two runs working on the same participant in the same folders at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neuroferry.engine.markers import describe_owner, in_use, mark
from neuroferry.trust import open_unlinked

# errors of file systems without locks: Lustre without -o flock, some NFS, some FUSE
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def hold(folders: Iterable[Path], labels: Iterable[str]) -> Iterator[None]:
    """Hold each participant's lock in each folder, or none at all.

    The kernel releases the locks when the process ends, however it ends; a leftover file locks
    nothing. On a file system without locks, a warning is printed, and a file that only one run can
    create marks each participant instead, see `neuroferry.engine.markers`.

    Parameters
    ----------
    folders : iterable of pathlib.Path
        Folders of the lock files; created if missing.
    labels : iterable of str
        Participants.

    Raises
    ------
    NeuroferryError
        With exit code 75 when another run holds one of them, which the message names. With
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
                    f"WARNING: The file system of {folder} does not support locks: files named "
                    ".sub-<label>.held mark the participants of this run there instead.",
                    file=sys.stderr,
                    flush=True,
                )
                for label in names:
                    stack.enter_context(mark(folder / f".sub-{label}.held"))
        yield


def _allow_files(count: int) -> None:
    """Raise the limit on open files, which is often 1024, by ``count`` as far as permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _take(stack: ExitStack, path: Path) -> bool:
    """Lock a file and note the owner in it; tell whether its file system supports locks."""
    handle, ours = _open(path)
    stream = stack.enter_context(os.fdopen(handle, "r+" if ours else "r", encoding="utf-8"))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        raise in_use(path, stream.read()) from None
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise
        return False
    # a hard link may lead to a file that is not a lock at all
    if ours and os.fstat(handle).st_nlink == 1:
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(describe_owner()))
        stream.flush()
    return True


def _open(path: Path) -> tuple[int, bool]:
    """Open a lock file; tell whether it is writable, as one left by another user may not be."""
    try:
        return open_unlinked(path, os.O_RDWR | os.O_CREAT), True
    except PermissionError:
        if not path.exists():
            raise
        return open_unlinked(path, os.O_RDONLY), False
