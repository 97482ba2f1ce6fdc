"""Objects of C-STORE, written to the disk as their bytes come in.

pynetdicom negotiates associations and serves everything else. Its threads hand each object from
queue to queue, which takes several milliseconds; here the thread that reads the connection writes
the file and answers, which takes a tenth of that. A request that is not understood here goes the
ordinary way.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, evt

#: Largest PDU that is accepted, in bytes; what is announced to senders is less.
_LARGEST_PDU = 1 << 20
_DATA, _STORE, _NO_DATA_SET = 0x04, 0x0001, 0x0101
_COMMAND, _LAST = 1, 2
_TRANSFERRING = "Sta6"  # of the state machine of PS3.8, 9.2
_CLOSED = "Evt17"
#: Seconds: between looks at whether to stop, for a next object before the thread does other
#: things, and after which it does them in any case.
_LOOK, _NEXT, _TURN = 1.0, 0.02, 1.0


@dataclass
class _Incoming:
    """An object on its way: what is asked, its file, and why it cannot be stored (0: it can)."""

    context: int
    message: int
    sop_class: bytes
    sop_instance: bytes
    path: str
    descriptor: int = -1
    status: int = 0


class Stream:
    """Reads one association.

    Parameters
    ----------
    association : pynetdicom.association.Association
        An association that was asked for: nothing more comes in before it is accepted.
    folder : pathlib.Path
        Where objects are written while they come in.
    store : callable
        Takes the file of a whole object and its SOPInstanceUID; returns the status.
    begin : callable
        Tells with a status whether an object can be stored, before it is.
    why : callable
        Makes a status of an error of the disk.
    stopping : threading.Event
        Set when the node ends: what is on its way is given up.
    """

    def __init__(
        self,
        association: Any,
        folder: Path,
        *,
        store: Callable[[Path, str], int],
        begin: Callable[[], int],
        why: Callable[[OSError], int],
        stopping: threading.Event,
    ) -> None:
        self._dul, self._folder = association.dul, str(folder)
        self._store, self._begin, self._why = store, begin, why
        self._stopping = stopping
        self._patience = association.network_timeout or float("inf")
        self._association = association
        self._syntaxes: dict[int, bytes] = {}
        self._incoming: _Incoming | None = None
        self._back = b""
        self._buffer = bytearray(_LARGEST_PDU)
        self._socket: socket.socket = self._dul.socket.socket
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(_LOOK)
        self._ordinary, self._receive = self._dul._read_pdu_data, self._dul.socket.recv
        self._dul.socket.recv = self._give_back
        self._dul._read_pdu_data = self.read
        association.bind(evt.EVT_CONN_CLOSE, lambda event: self._drop())

    def read(self) -> None:
        """Read what has come in; called by the thread that serves the connection."""
        limit = time.monotonic() + _TURN
        try:
            while self._read_pdu() and time.monotonic() < limit and self._has_more():
                pass
        except (OSError, EOFError):
            self._drop()
            self._dul.event_queue.put(_CLOSED)

    def _has_more(self) -> bool:
        if not self._dul.to_provider_queue.empty():
            return False
        if self._dul.socket.ready:
            return True
        return bool(select.select([self._socket], [], [], _NEXT)[0])

    def _read_pdu(self) -> bool:
        """Read a PDU; tell whether it was one of an object."""
        view = memoryview(self._buffer)
        self._read_into(view[:6])
        length = int.from_bytes(view[2:6], "big")
        transferring = self._dul.state_machine.current_state == _TRANSFERRING
        if self._buffer[0] != _DATA or not transferring or length > _LARGEST_PDU - 6:
            self._drop()
            self._back = bytes(view[:6])
            self._ordinary()
            return False
        self._read_into(view[6 : 6 + length])
        at, end = 6, 6 + length
        while at < end:
            size = int.from_bytes(view[at : at + 4], "big")
            if size < 2 or at + 4 + size > end or not self._take(view[at + 4 : at + 4 + size]):
                rest = view[at:end]
                self._back = struct.pack(">BxL", _DATA, len(rest)) + bytes(rest)
                self._ordinary()
                return False
            at += 4 + size
        return True

    def _take(self, item: memoryview) -> bool:
        """Take a part of an object, or its request; false for anything else."""
        context, control = item[0], item[1]
        if control & _COMMAND:
            self._drop()
            request = _read_command(item[2:]) if control & _LAST else None
            if request is None or context not in self._accepted():
                return False
            self._open(context, *request)
            return True
        if self._incoming is None or self._incoming.context != context:
            return False
        self._write(self._incoming, item[2:])
        if control & _LAST:
            self._finish(self._incoming)
        return True

    def _accepted(self) -> dict[int, bytes]:
        """Give the transfer syntax of each context that was accepted."""
        if not self._syntaxes:
            self._syntaxes = {
                one.context_id: one.transfer_syntax[0].encode()
                for one in self._association.accepted_contexts
            }
        return self._syntaxes

    def _open(self, context: int, message: int, sop_class: bytes, sop_instance: bytes) -> None:
        path = f"{self._folder}/{uuid.uuid4().hex}.dcm"
        made = _Incoming(context, message, sop_class, sop_instance, path)
        self._incoming = made
        made.status = self._begin()
        if not made.status:
            try:
                made.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as error:
                made.status = self._why(error)
        syntax = self._syntaxes[context]
        self._write(made, memoryview(_file_header(sop_class, sop_instance, syntax)))

    def _write(self, made: _Incoming, part: memoryview) -> None:
        if made.status:  # it is read to its end, to answer then
            return
        try:
            while part:
                part = part[os.write(made.descriptor, part) :]
        except OSError as error:
            made.status = self._why(error)

    def _finish(self, made: _Incoming) -> None:
        if made.status:
            self._drop()
        else:
            self._incoming = None
            os.close(made.descriptor)
            uid = made.sop_instance.decode("ascii", "replace").strip("\0 ")
            made.status = self._store(Path(made.path), uid)
        self._socket.sendall(_answer(made))

    def _drop(self) -> None:
        """Remove what has come in of an object whose rest does not come."""
        made, self._incoming = self._incoming, None
        if made is not None and made.descriptor >= 0:
            os.close(made.descriptor)
            with suppress(OSError):
                os.unlink(made.path)  # noqa: PTH108

    def _read_into(self, view: memoryview) -> None:
        last = time.monotonic()
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:
                if self._stopping.is_set() or time.monotonic() - last > self._patience:
                    raise
                continue
            if not count:
                raise EOFError
            view = view[count:]
            last = time.monotonic()

    def _give_back(self, count: int) -> bytearray:
        """Give what was read already, then what comes in."""
        part, self._back = bytearray(self._back[:count]), self._back[count:]
        if len(part) < count:
            rest = bytearray(count - len(part))
            self._read_into(memoryview(rest))
            part += rest
        return part


def _read_command(part: memoryview) -> tuple[int, bytes, bytes] | None:
    """Read a request of C-STORE: its number, SOP class and instance; None if it is another."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(part):
        group, element, length = struct.unpack_from("<HHL", part, at)
        if group or at + 8 + length > len(part):
            return None
        fields[element] = bytes(part[at + 8 : at + 8 + length])
        at += 8 + length
    number = {name: int.from_bytes(fields.get(name, b""), "little") for name in (0x100, 0x800)}
    if 0x000 not in fields or number[0x100] != _STORE or number[0x800] == _NO_DATA_SET:
        return None
    if not (fields.get(0x110) and fields.get(0x002) and fields.get(0x1000)):
        return None
    return int.from_bytes(fields[0x110], "little"), fields[0x002], fields[0x1000]


def _answer(made: _Incoming) -> bytes:
    """Encode the response (PS3.7, 9.3.1.2) as a PDU."""
    content = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value
        for element, value in (
            (0x002, made.sop_class),
            (0x100, struct.pack("<H", 0x8000 | _STORE)),
            (0x120, struct.pack("<H", made.message)),
            (0x800, struct.pack("<H", _NO_DATA_SET)),
            (0x900, struct.pack("<H", made.status)),
            (0x1000, made.sop_instance),
        )
    )
    command = struct.pack("<HHLL", 0, 0, 4, len(content)) + content
    item = struct.pack(">LBB", len(command) + 2, made.context, _COMMAND | _LAST) + command
    return struct.pack(">BxL", _DATA, len(item)) + item


def _file_header(sop_class: bytes, sop_instance: bytes, syntax: bytes) -> bytes:
    """Encode preamble and file meta information (PS3.10, 7.1)."""
    uids = (
        (0x02, sop_class),
        (0x03, sop_instance),
        (0x10, syntax),
        (0x12, PYNETDICOM_IMPLEMENTATION_UID.encode()),
    )
    content = struct.pack("<HH2sxxL2s", 2, 1, b"OB", 2, b"\0\1")
    for element, value in uids:
        value += b"\0" * (len(value) % 2)
        content += struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value
    start = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(content))
    return bytes(128) + b"DICM" + start + content
