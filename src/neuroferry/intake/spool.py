"""The private folder of an intake: where objects wait, and how they reach the disk safely.

::

    ROOT/bids        the dataset
    ROOT/qc          its quality: pages, metrics, tables
    ROOT/incoming    the watched folder, if no other is named
    ROOT/.intake     private: queue.sqlite, arrivals, spool/<series>, rejected, work, logs

File names in it are hexadecimal digits made with a secret key: they reveal neither patient nor
UID, and no UID, whatever characters it has, becomes a path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuroferry.errors import ExitCode, NeuroferryError, ResourceError
from neuroferry.intake.identity import keyed, secret
from neuroferry.intake.labels import locked, series_key
from neuroferry.intake.model import Instance

#: Digits of the names of objects.
_DIGITS = 32
#: Free space below which nothing more is accepted: the queue and what is on its way need it.
RESERVE_BYTES = 200_000_000
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Spool:
    """Folders of an intake.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the intake; it is made if missing.
    flush : bool
        Whether objects are flushed to the disk before they count as stored.

    Raises
    ------
    NeuroferryError
        If a folder cannot be made.
    """

    def __init__(self, root: Path, *, flush: bool = True) -> None:
        self.root = root
        self._flush = flush
        self.private = root / ".intake"
        self.arrivals, self.receiving = self.private / "arrivals", self.private / "receiving"
        self.series, self.rejected = self.private / "spool", self.private / "rejected"
        self.scratch, self.logs = self.private / "scratch", self.private / "logs"
        try:
            root.mkdir(parents=True, exist_ok=True)
            with locked(root) as names:
                self._key = secret(names)
            for folder in (
                *(self.arrivals, self.receiving, self.series),
                *(self.rejected, self.scratch, self.logs),
            ):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{error.filename or root} cannot be made ({error.strerror}). Choose a folder"
                " that you may write to.",
            ) from error

    def object_key(self, sop_uid: str) -> str:
        """Name an object by its SOPInstanceUID."""
        return keyed(self._key, f"object\0{sop_uid}").hex()[:_DIGITS]

    def series_key(self, instance: Instance) -> str:
        """Name the series of an object: by patient and SeriesInstanceUID."""
        return series_key(self._key, instance)

    @property
    def has_room(self) -> bool:
        """Whether more can be accepted."""
        return shutil.disk_usage(self.private).free > RESERVE_BYTES

    def arrive(self, file: Path, sop_uid: str) -> Path:
        """Let a whole object in that lies in ``receiving``: once this returns, it is safe.

        Parameters
        ----------
        file : pathlib.Path
            Moved from ``receiving`` to ``arrivals``.
        sop_uid : str
            Its SOPInstanceUID, or any text if that is not known.

        Raises
        ------
        OSError
            If it could not be stored; nothing is left of it.
        """
        target = self.arrivals / f"{self.object_key(sop_uid)}.{file.stem[-12:]}.dcm"
        try:
            if self._flush:
                _fsync(file)
            file.replace(target)
            if self._flush:
                _fsync(target.parent)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        return target

    def waiting(self) -> set[str]:
        """List the objects that wait in ``arrivals``, by their names."""
        return {name.partition(".")[0] for name in os.listdir(self.arrivals)}  # noqa: PTH208

    def clear_interrupted(self) -> None:
        """Remove what was being received or converted when an earlier process ended."""
        self.clear_receiving()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700, exist_ok=True)

    def clear_receiving(self) -> None:
        """Remove what was being received when the node ended; its sender sends it again."""
        shutil.rmtree(self.receiving, ignore_errors=True)
        self.receiving.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def sole(root: Path) -> Iterator[None]:
    """Let one process serve a folder.

    Raises
    ------
    NeuroferryError
        With exit code 75, if another one serves it.
    """
    descriptor = os.open(root / ".intake" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NeuroferryError(
                f"Another neuroferry intake serves {root}. Stop it first, or choose another"
                " folder; --status shows what it does.",
                exit_code=ExitCode.TEMPORARY,
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
