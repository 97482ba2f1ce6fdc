"""Sorting of what arrived into series: each object once, whatever is sent twice."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom

from neuroferry.errors import InputError
from neuroferry.intake.headers import read_instance
from neuroferry.intake.model import Instance
from neuroferry.intake.queue import Queue
from neuroferry.intake.spool import Spool

#: Objects that are sorted before anything else is looked at again.
BATCH = 500
_CHUNK = 1 << 20
_PREAMBLE = 132
_AGAIN = "-again"


@dataclass(frozen=True)
class Sorted:
    """How many objects were sorted, which series grew, and how many were rejected, by reason."""

    n_objects: int
    series: frozenset[str]
    n_again: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)


class Sorter:
    """Moves objects from ``arrivals`` to the folders of their series, and counts them there.

    The row of an object is on the disk before its file is moved. After a crash between the two the
    file still lies in ``arrivals``, is recognised by its row, and moved.
    """

    def __init__(self, spool: Spool, queue: Queue) -> None:
        self._spool, self._queue = spool, queue
        #: Moment of the last object of each series, by a clock that does not jump.
        self.last_arrival: dict[str, float] = {}

    def sort(self, most: int = BATCH) -> Sorted:
        """Sort what waits in ``arrivals``, at most a batch."""
        waiting = []
        with os.scandir(self._spool.arrivals) as entries:
            for entry in entries:
                waiting.append(Path(entry.path))
                if len(waiting) == most:
                    break
        if not waiting:
            return Sorted(0, frozenset())
        moves: list[tuple[Path, Path | None]] = []
        coming: dict[Path, Path] = {}
        grown: set[str] = set()
        n_again, rejected = 0, Counter[str]()
        self._queue.begin()
        try:
            for path in waiting:
                try:
                    instance = read_instance(path)
                except InputError as error:
                    moves.append((path, self._reject(path, str(error))))
                    rejected[str(error)] += 1
                    continue
                series, target, again = self._add(path, instance, coming)
                moves.append((path, target))
                if target is not None:
                    coming[target] = path
                n_again += again
                if series:
                    grown.add(series)
        finally:
            self._queue.commit()
        for path, target in moves:
            if target is None:
                path.unlink(missing_ok=True)
            else:
                target.parent.mkdir(mode=0o700, exist_ok=True)
                path.replace(target)
        moment = time.monotonic()
        self.last_arrival.update(dict.fromkeys(grown, moment))
        return Sorted(len(waiting), frozenset(grown), n_again, rejected)

    def _add(
        self, path: Path, instance: Instance, coming: dict[Path, Path]
    ) -> tuple[str, Path | None, bool]:
        """Count an object; return its series, its place (None: it is there), and whether again.

        `coming` holds the places of objects that this batch is about to move, and where they lie.

        An object that is there with another patient or other pixels is kept beside it, as a series
        of its own that is never converted: only a person knows which of the two is right.
        """
        key = self._spool.object_key(instance.sop_uid)
        digest = digest_of(path)
        series = self._spool.series_key(instance)
        known = self._queue.find_object(key)
        for found, where, name in known:
            target = self._spool.series / where / name
            if where.removesuffix(_AGAIN) != series:
                continue
            there = coming.get(target, target)
            if found == digest or (there.is_file() and same_pixels(there, path)):
                return ("", None, True) if there.exists() else (where, target, False)
        if known:
            series, name = series + _AGAIN, f"{key}-{digest[:8]}.dcm"
        else:
            name = f"{key}.dcm"
        bare = replace(instance, path=Path(name))
        self._queue.add_object(key, digest, series, name, bare, again=bool(known))
        return series, self._spool.series / series / name, False

    def _reject(self, path: Path, reason: str) -> Path:
        """Keep what is no image beside the reason."""
        name = path.name
        self._queue.reject(name, reason)
        return self._spool.rejected / name


def digest_of(path: Path) -> str:
    """Compute a digest of a data set, without the header that each sender writes anew."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        start = stream.read(_PREAMBLE)
        if start[128:] == b"DICM":
            stream.seek(_PREAMBLE + _meta_length(stream.read(12)))
        else:
            stream.seek(0)
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _meta_length(start: bytes) -> int:
    """Read the length of the file's own header, from its first element (0002,0000)."""
    if start[:4] != b"\x02\x00\x00\x00" or len(start) < 12:
        return 0
    return 12 + int.from_bytes(start[8:12], "little")


def same_pixels(one: Path, other: Path) -> bool:
    """Tell whether two objects hold the same pixels, as archives change headers on the way."""
    try:
        first, second = (
            pydicom.dcmread(path, specific_tags=["PixelData"], force=True) for path in (one, other)
        )
        same_form = first.file_meta.get("TransferSyntaxUID") == second.file_meta.get(
            "TransferSyntaxUID"
        )
        return bool(same_form and first.PixelData == second.PixelData)
    except Exception:  # pydicom raises what its parsers raise: what it cannot compare is not equal
        return False
