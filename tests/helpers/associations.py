"""A DICOM node in its own process, and associations with it by pynetdicom."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dicom_objects import MR_IMAGE, make_object
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from neuroferry.intake import node
from neuroferry.intake import spool as spool_module
from neuroferry.intake.spool import Spool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


class Node:
    """A running node.

    Attributes
    ----------
    port : int
    spool : Spool
    """

    def __init__(self, root: Path, *, limit: int = 0, reserve: int = 0, **settings: Any) -> None:
        self.spool = Spool(root)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        chosen = node.NodeSettings(address="127.0.0.1", port=0, **settings)
        arguments = (chosen, root, theirs, limit, reserve)
        self._process = context.Process(target=_serve, args=arguments)
        self._process.start()
        theirs.close()
        self.port: int = self._connection.recv()

    def said(self) -> list[str]:
        """Take the sentences that it has sent."""
        found = []
        while self._connection.poll(0.1):
            found.append(self._connection.recv())
        return found

    def arrived(self) -> list[Path]:
        """List the objects that it has let in."""
        return sorted(self.spool.arrivals.iterdir())

    def end(self) -> int | None:
        """Close the connection, as its service does or dies; give the exit code."""
        self._connection.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
        return self._process.exitcode

    @contextmanager
    def association(
        self,
        calling: str = "SCANNER",
        called: str = "NEUROFERRY",
        *,
        classes: tuple[str, ...] = (MR_IMAGE,),
        tls: ssl.SSLContext | None = None,
        handlers: Any = (),
        bind: str = "",
    ) -> Iterator[Any]:
        """Associate with it."""
        ae = AE(calling)
        for one in ("1.2.840.10008.1.1", COMMITMENT, *classes):
            ae.add_requested_context(one)
        made = ae.associate(
            "127.0.0.1",
            self.port,
            ae_title=called,
            evt_handlers=list(handlers),
            ext_neg=[],
            tls_args=(tls, "localhost") if tls else None,
            bind_address=(bind, 0) if bind else ("", 0),
        )
        try:
            yield made
        finally:
            if made.is_established:
                made.release()


def _serve(
    settings: node.NodeSettings, root: Path, connection: Connection, limit: int, reserve: int
) -> None:
    """Serve on a disk that takes no file larger than `limit`, or has less room than `reserve`."""
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if reserve:
        spool_module.RESERVE_BYTES = reserve
    node.serve(settings, root, connection)


@contextmanager
def running(root: Path, **settings: Any) -> Iterator[Node]:
    """Run a node; it has to end well."""
    made = Node(root, **settings)
    code: int | None = None
    try:
        yield made
    finally:
        code = made.end()
    assert code == 0


def store(association: Any, number: int = 1, **options: Any) -> int:
    """Send a slice; give the status."""
    return int(association.send_c_store(make_object(number, **options)).Status)


def ask(association: Any, uids: list[str]) -> int:
    """Ask to commit to objects; give the status of the response."""
    asked = Dataset()
    asked.TransactionUID = "1.2.3.4.5"
    asked.ReferencedSOPSequence = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR_IMAGE, uid
        asked.ReferencedSOPSequence.append(item)
    status, _ = association.send_n_action(asked, 1, COMMITMENT, COMMITMENT_INSTANCE)
    return int(status.Status)


class Reports:
    """Takes reports of storage commitment."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, Dataset]] = []
        self.handler = (evt.EVT_N_EVENT_REPORT, self._take)

    def _take(self, event: Any) -> tuple[int, None]:
        self.taken.append((event.event_type, event.event_information))
        return 0x0000, None

    @contextmanager
    def listening(self, title: str) -> Iterator[int]:
        """Listen as a scanner does; give the port."""
        ae = AE(title)
        ae.add_supported_context(COMMITMENT, scp_role=True, scu_role=True)
        handlers: Any = [self.handler]
        server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def wait(self) -> tuple[int, Dataset]:
        """Wait for a report."""
        limit = time.monotonic() + 20
        while not self.taken and time.monotonic() < limit:
            time.sleep(0.02)
        return self.taken.pop()


def role() -> Any:
    """Make the role of who takes reports on its own association."""
    return build_role(COMMITMENT, scu_role=True, scp_role=True)


class Raw:
    """An association whose bytes a test writes itself."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(_associate())
        answer = self.socket.recv(65536)
        assert answer[0] == 2, answer[:1]

    def data(self, *items: tuple[bool, bool, bytes]) -> None:
        """Send items of one PDU: whether each is of a command, whether the last, and bytes."""
        content = b"".join(
            struct.pack(">LBB", len(part) + 2, 1, command | last << 1) + part
            for command, last, part in items
        )
        self.socket.sendall(struct.pack(">BxL", 4, len(content)) + content)

    def status(self) -> int:
        """Read a response; give its status."""
        head = self.socket.recv(6, socket.MSG_WAITALL)
        assert head[0] == 4, head
        body = self.socket.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)
        at = body.index(b"\0\0\0\x09\x02\0\0\0")
        return int.from_bytes(body[at + 8 : at + 10], "little")


def request(uid: bytes, number: int = 1) -> bytes:
    """Encode a request of C-STORE."""
    uid += b"\0" * (len(uid) % 2)
    fields = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value
        for element, value in (
            (0x002, MR_IMAGE.encode() + b"\0"),
            (0x100, b"\1\0"),
            (0x110, struct.pack("<H", number)),
            (0x700, b"\0\0"),
            (0x800, b"\1\0"),
            (0x1000, uid),
        )
    )
    return struct.pack("<HHLL", 0, 0, 4, len(fields)) + fields


def _associate() -> bytes:
    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(content)) + content

    syntax = item(0x30, MR_IMAGE.encode()) + item(0x40, b"1.2.840.10008.1.2.1")
    content = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\1\0\0\0" + syntax)
    content += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    head = struct.pack(">Hxx16s16s32x", 1, b"NEUROFERRY".ljust(16), b"RAW".ljust(16))
    return struct.pack(">BxL", 1, len(head) + len(content)) + head + content
