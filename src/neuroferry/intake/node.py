"""The DICOM node: receives what scanners and archives send, and says so once it is safe.

It runs in a process of its own and writes into one folder, so that neither sorting nor conversion
delays a sender. Services: verification (C-ECHO), storage (C-STORE) and storage commitment.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_role, evt
from pynetdicom.presentation import AllStoragePresentationContexts

from neuroferry.errors import InputError, UsageError
from neuroferry.intake.queue import Queue
from neuroferry.intake.spool import Spool
from neuroferry.intake.stream import Stream

# Status codes of PS3.4 (C-STORE: B.2.3) and PS3.7 (annex C).
SUCCESS, OUT_OF_RESOURCES, PROCESSING_FAILURE = 0x0000, 0xA700, 0x0110
_NO_SUCH_OBJECT = 0x0112
# of a rejected association (PS3.8, 9.3.4)
_REJECTED, _BY_USER = 0x01, 0x01
_CALLING_UNKNOWN, _CALLED_UNKNOWN = 0x03, 0x07
#: Seconds for which a title that was refused is not spoken of again, and most titles in that time.
_SILENCE, _MOST_REFUSALS = 60.0, 100
_COMMITTED, _FAILURES_EXIST = 1, 2
_VERIFICATION = UID("1.2.840.10008.1.1")
_COMMITMENT = UID("1.2.840.10008.1.20.1")
_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
_LARGEST_PDU = 1 << 17
_LONGEST_AET = 16
_FAREWELL = 3.0  # seconds in which associations end when the node does
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Peer:
    """Who may send.

    Attributes
    ----------
    title : str
        Its AE title.
    address : str
        The address that it must come from; empty: any.
    port : int
        Where it listens for reports of storage commitment; 0: they go back the way the question
        came.
    """

    title: str
    address: str = ""
    port: int = 0


@dataclass(frozen=True)
class NodeSettings:
    """Settings of the node.

    Attributes
    ----------
    title : str
        Its AE title, at most 16 characters.
    address, port : str, int
        Where it listens; port 0 takes a free one.
    peers : tuple of Peer
        Who may send; empty: everyone.
    certificate, key, authority : pathlib.Path or None
        Files for TLS; with an authority, senders need a certificate of it.
    flush : bool
        Whether objects are flushed to the disk before they are acknowledged.
    """

    title: str = "NEUROFERRY"
    address: str = "0.0.0.0"
    port: int = 11112
    peers: tuple[Peer, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    flush: bool = True


def parse_peer(text: str) -> Peer:
    """Read who may send: ``TITLE``, ``TITLE@ADDRESS`` or ``TITLE@ADDRESS:PORT``.

    Raises
    ------
    UsageError
        If the title is none, or the port no number.

    Examples
    --------
    >>> parse_peer("SCANNER1@10.0.0.7:104")
    Peer(title='SCANNER1', address='10.0.0.7', port=104)
    """
    title, _, place = text.partition("@")
    address, _, port = place.partition(":") if place.count(":") == 1 else (place, "", "")
    if port and not (port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"The port of {text!r} is no number from 1 to 65535.")
    return Peer(check_title(title), address.strip(), int(port or 0))


def check_title(title: str) -> str:
    """Check an AE title.

    Raises
    ------
    UsageError
        If it is empty, longer than 16 characters, or not plain ASCII without backslash.
    """
    title = title.strip()
    if not 0 < len(title) <= _LONGEST_AET or not title.isascii() or "\\" in title:
        raise UsageError(
            f"{title!r} is no AE title: it has 1 to 16 plain characters, without a backslash."
        )
    return title


def tls_context(settings: NodeSettings) -> ssl.SSLContext | None:
    """Make the TLS context of the node, if it has a certificate.

    Raises
    ------
    UsageError
        If one of certificate and key is missing.
    InputError
        If a file cannot be used.
    """
    if settings.certificate is None and settings.key is None and settings.authority is None:
        return None
    if settings.certificate is None or settings.key is None:
        raise UsageError("TLS needs both --tls-certificate and --tls-key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.authority is not None:
            context.load_verify_locations(settings.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The files for TLS cannot be used ({reason}): certificate {settings.certificate},"
            f" key {settings.key}"
            + (f", authority {settings.authority}" if settings.authority else "")
            + "."
        ) from error
    return context


def serve(settings: NodeSettings, root: Path, connection: Connection) -> None:
    """Serve until the connection to the parent process is closed.

    Parameters
    ----------
    settings : NodeSettings
        Its settings.
    root : pathlib.Path
        Folder of the intake.
    connection : multiprocessing.connection.Connection
        Gets the port once the node listens, or the reason why it cannot; then a sentence for
        each sender that was refused.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    spool = Spool(root, flush=settings.flush)
    # an object of 500 MB is not held in memory: it is written as it comes in
    tempfile.tempdir = str(spool.receiving)
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    node = AE(settings.title)
    node.maximum_pdu_size = _LARGEST_PDU
    node.maximum_associations = 100
    node.network_timeout = 600
    node.add_supported_context(_VERIFICATION)
    node.add_supported_context(_COMMITMENT)
    for context in AllStoragePresentationContexts:
        node.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
    stopping = threading.Event()
    handlers: Any = [
        (evt.EVT_REQUESTED, _begin, [Doorkeeper(settings, connection.send), spool, stopping]),
        (evt.EVT_C_ECHO, lambda event: SUCCESS),
        (evt.EVT_C_STORE, _store_ordinary, [spool]),
        (evt.EVT_N_ACTION, _commit, [spool, settings]),
        (evt.EVT_CONN_CLOSE, _clear, [spool]),
    ]
    try:
        server: Any = node.start_server(
            (settings.address, settings.port),
            block=False,
            evt_handlers=handlers,
            ssl_context=tls_context(settings),
        )
    except OSError as error:
        connection.send(error.strerror or str(error))
        return
    connection.send(int(server.server_address[1]))
    with suppress(EOFError, OSError):
        connection.recv()
    # objects that are on their way are not acknowledged, and are sent again
    stopping.set()
    server.shutdown()
    for association in node.active_associations:
        threading.Thread(target=association.abort, daemon=True).start()
    limit = time.monotonic() + _FAREWELL
    while node.active_associations and time.monotonic() < limit:
        time.sleep(0.05)
    # a sender that does not read its farewell would keep its thread, and so the process
    os._exit(0)


class Doorkeeper:
    """Rejects senders that are not allowed, and says so, each title once a minute.

    Parameters
    ----------
    settings : NodeSettings
        Its title, and who may send.
    say : callable
        Takes a sentence.
    """

    def __init__(self, settings: NodeSettings, say: Callable[[str], None]) -> None:
        self._title, self._peers, self._say = settings.title, settings.peers, say
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def why_not(self, called: str, calling: str, address: str) -> tuple[int, str]:
        """Tell why a sender is refused: the reason of PS3.8 (9.3.4) and a sentence; or 0."""
        if called != self._title:
            return _CALLED_UNKNOWN, f"it calls {shown(called)!r}, and this is {self._title}"
        if not self._peers:
            return 0, ""
        addresses = {peer.address for peer in self._peers if peer.title == calling}
        if not addresses:
            return _CALLING_UNKNOWN, "its title is not among those of --allow"
        if "" not in addresses and address not in addresses:
            return _CALLING_UNKNOWN, "--allow has its title with another address"
        return 0, ""

    def check(self, event: Any) -> bool:
        """Let an association in, or reject it; tell which."""
        asked, address = event.assoc.requestor.primitive, event.assoc.requestor.address
        called, calling = asked.called_ae_title.strip(), asked.calling_ae_title.strip()
        reason, why = self.why_not(called, calling, address)
        if not reason:
            return True
        self.note(calling, address, why)
        event.assoc.acse.send_reject(_REJECTED, _BY_USER, reason)
        event.assoc.is_rejected = True
        event.assoc.kill()  # waits until the rejection is sent: pynetdicom closes the connection
        return False

    def note(self, calling: str, address: str, why: str) -> None:
        """Say that a sender is refused, unless its title was named less than a minute ago."""
        with self._lock:
            moment = time.monotonic()
            self._said = {
                title: said for title, said in self._said.items() if moment - said < _SILENCE
            }
            if calling not in self._said and len(self._said) < _MOST_REFUSALS:
                self._said[calling] = moment
                self._say(f"Refused {shown(calling)!r} from {address}: {why}.")


def shown(title: str) -> str:
    """Make an AE title of a stranger fit to be shown.

    >>> shown("SCAN" + chr(27) + "[2J")
    'SCAN?[2J'
    """
    return "".join(one if one.isprintable() else "?" for one in title[:_LONGEST_AET])


def _status(error: OSError) -> int:
    return OUT_OF_RESOURCES if error.errno in _FULL else PROCESSING_FAILURE


def _store(spool: Spool, path: Path, uid: str) -> int:
    """Store a whole object; return the status for its sender."""
    try:
        spool.arrive(path, uid)
    except OSError as error:
        return _status(error)
    return SUCCESS


def _store_ordinary(event: Any, spool: Spool) -> int:
    path = Path(event.dataset_path)
    if not spool.has_room:
        path.unlink(missing_ok=True)
        return OUT_OF_RESOURCES
    return _store(spool, path, str(event.request.AffectedSOPInstanceUID))


def _begin(event: Any, doorkeeper: Doorkeeper, spool: Spool, stopping: threading.Event) -> None:
    """Let an association in, and its objects be written as they come in; or reject it."""
    if not doorkeeper.check(event):
        return
    # it needs parts of pynetdicom that are not promised; without them objects go the ordinary way
    with suppress(AttributeError):
        Stream(
            event.assoc,
            spool.receiving,
            store=functools.partial(_store, spool),
            begin=lambda: SUCCESS if spool.has_room else OUT_OF_RESOURCES,
            why=_status,
            stopping=stopping,
        )


def _clear(event: Any, spool: Spool) -> None:
    """Remove the half object of a connection that broke off."""
    message = getattr(event.assoc.dimse, "message", None)
    path = getattr(message, "_data_set_path", None)
    if path is not None and Path(path).parent == spool.receiving:
        Path(path).unlink(missing_ok=True)


def _commit(event: Any, spool: Spool, settings: NodeSettings) -> tuple[int, Dataset | None]:
    """Answer which objects are stored, in a report that follows (PS3.4 annex J)."""
    if event.action_type != 1:
        return 0x0123, None  # no such action
    asked = event.action_information
    answer = Dataset()
    answer.TransactionUID = asked.TransactionUID
    there, missing = [], []
    items = asked.get("ReferencedSOPSequence") or ()
    stored = _stored(spool, {str(item.ReferencedSOPInstanceUID) for item in items})
    for item in items:
        one = Dataset()
        one.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        one.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        if str(item.ReferencedSOPInstanceUID) in stored:
            there.append(one)
        else:
            one.FailureReason = _NO_SUCH_OBJECT
            missing.append(one)
    if there:
        answer.ReferencedSOPSequence = there
    if missing:
        answer.FailedSOPSequence = missing
    kind = _FAILURES_EXIST if missing else _COMMITTED
    title = event.assoc.requestor.primitive.calling_ae_title.strip()
    peer = next((peer for peer in settings.peers if peer.title == title and peer.port), None)
    # once the response to the request is on its way
    timer = threading.Timer(0.2, _report, [event.assoc, peer, settings.title, answer, kind])
    timer.daemon = True
    timer.start()
    return SUCCESS, None


def _stored(spool: Spool, uids: set[str]) -> set[str]:
    """Find out which objects are stored."""
    # in this order: its row is written before it leaves the arrivals
    waiting = spool.waiting()
    with closing(Queue(spool.private, read_only=True)) as queue:
        return {
            uid
            for uid in uids
            if (key := spool.object_key(uid)) in waiting or queue.find_object(key)
        }


def _report(association: Any, peer: Peer | None, title: str, answer: Dataset, kind: int) -> None:
    """Send the report; a sender that cannot be reached asks again."""
    model, instance = _COMMITMENT, _COMMITMENT_INSTANCE
    with suppress(Exception):
        if peer is None:
            association.send_n_event_report(answer, kind, model, instance)
            return
        node = AE(title)
        node.add_requested_context(model)
        back = node.associate(
            peer.address,
            peer.port,
            ae_title=peer.title,
            ext_neg=[build_role(model, scp_role=True)],
        )
        if back.is_established:
            back.send_n_event_report(answer, kind, model, instance)
            back.release()
