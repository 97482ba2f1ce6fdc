"""Watched folders: exports that other programs write, in any order, over hours.

A file is taken once it did not change between two looks. Those of the intake's own folder are
moved away; those of a foreign one stay, and are remembered. Archives (zip) are opened; names in
them are never used as paths.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from neuroferry.errors import InputError
from neuroferry.intake.headers import CutOffError, read_instance
from neuroferry.intake.queue import Queue
from neuroferry.intake.spool import Spool

#: Seconds during which a file must not change.
SETTLE = 2.0
#: Looks after which a file whose end is missing counts as damaged, if it does not change.
_PATIENCE = 30.0
#: Files that are taken before anything else is looked at again.
BATCH = 500
#: Largest archive when opened, and most entries.
_LARGEST_BYTES, _MOST_ENTRIES = 50_000_000_000, 1_000_000
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class _Pending:
    """A file that is being watched: its size and time of change, and since when they hold."""

    state: tuple[int, int]
    since: float


class Watch:
    """Looks into folders and lets whole DICOM objects in.

    Parameters
    ----------
    spool, queue
        Of the intake.
    folders : mapping of pathlib.Path to bool
        Watched folders, and whether files are taken away from them.
    patient : bool
        Wait until files have settled; otherwise take them at once.
    """

    def __init__(
        self, spool: Spool, queue: Queue, folders: dict[Path, bool], *, patient: bool = True
    ) -> None:
        self._spool, self._queue, self._folders = spool, queue, folders
        self._settle = SETTLE if patient else 0.0
        self._patience = _PATIENCE if patient else 0.0
        self._pending: dict[str, _Pending] = {}
        self._seen = {bytes.fromhex(text) for text in queue.seen()}
        self._next_look = 0.0
        #: Folders that cannot be read, with the reason.
        self.unreadable: dict[Path, str] = {}
        #: Files that were turned down since `say_turned_down` was called, by reason.
        self._turned_down: Counter[str] = Counter()

    def look(self) -> int:
        """Take what has settled; return the number of objects."""
        start = time.monotonic()
        if start < self._next_look:
            return 0
        taken, there = 0, set()
        noted: list[tuple[str, str]] = []
        try:
            for path, about, take in self._files():
                name = str(path)
                there.add(name)
                if not self._has_settled(name, about):
                    continue
                taken += self._take(path, about, noted, take=take)
                if taken >= BATCH:
                    break
            else:
                self._pending = {n: p for n, p in self._pending.items() if n in there}
        finally:
            if noted:
                self._queue.see(noted)
                self._seen |= {bytes.fromhex(text) for text, _ in noted}
        took = time.monotonic() - start
        # a folder of 100,000 files on a slow disk is not scanned all the time
        self._next_look = time.monotonic() + (0 if taken else max(1.0, 5 * took))
        return taken

    def say_turned_down(self) -> Counter[str]:
        """Count the files turned down since the last call, by reason."""
        counts, self._turned_down = self._turned_down, Counter()
        return counts

    @property
    def is_waiting(self) -> bool:
        """Whether files have not settled yet."""
        return bool(self._pending)

    def _files(self) -> Iterator[tuple[Path, os.stat_result, bool]]:
        for folder, take in self._folders.items():
            self.unreadable.pop(folder, None)
            waiting = [folder]
            while waiting:
                current = waiting.pop()
                try:
                    with os.scandir(current) as entries:
                        for entry in entries:
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append(Path(entry.path))
                            elif entry.is_file() and not entry.name.startswith("."):
                                about = entry.stat()
                                if self._key(entry.path, about) not in self._seen:
                                    yield Path(entry.path), about, take
                except OSError as error:
                    if current == folder:
                        self.unreadable[folder] = error.strerror or str(error)

    def _key(self, name: str, about: os.stat_result) -> bytes:
        text = f"{name}\0{about.st_size}\0{about.st_mtime_ns}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:16]

    def _has_settled(self, name: str, about: os.stat_result) -> bool:
        state, moment = (about.st_size, about.st_mtime_ns), time.monotonic()
        pending = self._pending.get(name)
        if pending is None or pending.state != state:
            self._pending[name] = pending = _Pending(state, moment)
        return moment - pending.since >= self._settle

    def _take(
        self, path: Path, about: os.stat_result, noted: list[tuple[str, str]], *, take: bool
    ) -> int:
        """Let a file in, note why it is turned down, or leave it for later."""
        key = self._key(str(path), about).hex()
        pending = self._pending[str(path)]
        try:
            if zipfile.is_zipfile(path):
                count = self._open_archive(path)
            else:
                uid = read_instance(path).sop_uid
                with path.open("rb") as stream:
                    self._let_in(stream, uid)
                count = 1
        except CutOffError as error:
            if time.monotonic() - pending.since >= self._patience:
                self._turn_down(path, key, str(error), noted)
            return 0
        except InputError as error:
            if path.exists():  # else it vanished, with its folder perhaps
                self._turn_down(path, key, str(error), noted)
            return 0
        except OSError as error:
            if error.errno in _FULL:
                raise
            if not self._patience and path.exists():  # nobody waits for it to become readable
                self._turned_down[f"It cannot be read ({error.strerror})."] += 1
                del self._pending[str(path)]
            return 0
        del self._pending[str(path)]
        if take:
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, set(self._folders))
        else:
            noted.append((key, ""))
        return count

    def _turn_down(self, path: Path, key: str, reason: str, noted: list[tuple[str, str]]) -> None:
        noted.append((key, reason))
        self._turned_down[reason] += 1
        del self._pending[str(path)]

    def _let_in(self, stream: IO[bytes], uid: str) -> None:
        if not self._spool.has_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file = self._spool.receiving / f"{uuid.uuid4().hex}.dcm"
        try:
            with file.open("xb") as target:
                shutil.copyfileobj(stream, target, _CHUNK)
            self._spool.arrive(file, uid)
        finally:
            file.unlink(missing_ok=True)

    def _open_archive(self, path: Path) -> int:
        """Let the objects of an archive in; what is no DICOM object in it is passed over."""
        try:
            with zipfile.ZipFile(path) as archive:
                members = [item for item in archive.infolist() if not item.is_dir()]
                total = sum(item.file_size for item in members)
                if len(members) > _MOST_ENTRIES or total > _LARGEST_BYTES:
                    raise InputError(
                        f"The archive holds {len(members)} files of {total / 1e9:.0f} GB, more"
                        " than is opened; unpack it yourself."
                    )
                if any(item.flag_bits & 1 for item in members):
                    raise InputError("The archive is encrypted; unpack it yourself.")
                return sum(self._let_member_in(archive, item) for item in members)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise CutOffError("The archive is damaged or incomplete.", path=path) from error

    def _let_member_in(self, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> int:
        file = self._spool.receiving / f"{uuid.uuid4().hex}.dcm"
        if not self._spool.has_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with archive.open(item) as stream, file.open("xb") as target:
                left = item.file_size
                while left > 0 and (block := stream.read(min(left, _CHUNK))):
                    target.write(block)
                    left -= len(block)
            uid = read_instance(file).sop_uid
            self._spool.arrive(file, uid)
        except InputError:
            return 0
        finally:
            file.unlink(missing_ok=True)
        return 1


def _remove_empty(folder: Path, roots: set[Path]) -> None:
    """Remove a folder that is empty now, and those around it, below a watched one."""
    try:
        while folder not in roots:
            folder.rmdir()
            folder = folder.parent
    except OSError:
        return
