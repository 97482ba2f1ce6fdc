"""Claims on steps, so that two jobs never run one step in one folder at once.

A scheduler may start a job again while the old one still runs, on a node that only seems to be
dead. Each step is a byte, at a place made from its name, of one file in the work folder; a job
locks the bytes of its steps. The kernel or the file server releases them when the job ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from neuroferry.engine.locks import NO_LOCKS
from neuroferry.trust import open_unlinked

FILE = ".steps.lock"
_PLACES = 1 << 62
_PAUSE_SECONDS = 1.0


class StepsBusyError(Exception):
    """Another job did not let go of some of the steps."""


class Claims:
    """Context manager that holds the claims on some steps.

    Parameters
    ----------
    folder : pathlib.Path
        The work folder.
    steps : iterable of str
        Full names of the steps.
    patience : float
        Seconds to wait for another job that runs one of them.

    Raises
    ------
    StepsBusyError
        When entered, if another job still runs one of them after that time.
    """

    def __init__(self, folder: Path, steps: Iterable[str], patience: float) -> None:
        self._folder = folder
        self._places = sorted({_place(step) for step in steps})
        self._patience = patience
        self._handle: int | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._handle = open_unlinked(self._folder / FILE, os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + self._patience
        while not self._take():
            if time.monotonic() >= deadline:
                self._release()
                raise StepsBusyError
            time.sleep(_PAUSE_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def _take(self) -> bool:
        """Lock all bytes or none; a file system without locks grants them all."""
        assert self._handle is not None
        try:
            for place in self._places:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            fcntl.lockf(self._handle, fcntl.LOCK_UN)
            return False
        except OSError as err:
            if err.errno not in NO_LOCKS:
                raise
        return True

    def _release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _place(step: str) -> int:
    return int.from_bytes(hashlib.sha256(step.encode()).digest()[:8]) % _PLACES
