"""The DICOM node, by real associations: who is let in, what is stored, and what is left."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import time
from contextlib import closing

import pytest
from associations import Raw, Reports, ask, request, role, running, store
from dicom_objects import MR_IMAGE, ROOT, make_object
from dicom_peers import program
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import AE

from neuroferry.errors import InputError, UsageError
from neuroferry.intake.node import (
    Doorkeeper,
    NodeSettings,
    Peer,
    check_title,
    parse_peer,
    tls_context,
)
from neuroferry.intake.queue import Queue
from neuroferry.intake.sorting import Sorter, digest_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def everyone(tmp_path_factory):
    """A node that lets everyone in."""
    with running(tmp_path_factory.mktemp("everyone") / "root") as node:
        yield node


@pytest.fixture
def node(everyone):
    yield everyone
    for path in everyone.arrived():
        path.unlink()


def settle(condition):
    limit = time.monotonic() + 20
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)
    return condition()


def data_set(number=1):
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, make_object(number))
    return stream.getvalue()


def test_echo_and_store(node) -> None:
    with node.association() as association:
        assert association.send_c_echo().Status == 0
        assert [store(association, number) for number in (1, 2, 3)] == [0, 0, 0]
        assert association.send_c_echo().Status == 0
    kept = [dcmread(path) for path in node.arrived()]
    sent = {f"{ROOT}.1.{number}": make_object(number) for number in (1, 2, 3)}
    assert {one.SOPInstanceUID for one in kept} == set(sent)
    for one in kept:
        assert one.PixelData == sent[one.SOPInstanceUID].PixelData
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        # pynetdicom writes it; without it, the object was written as it came in
        assert "ImplementationVersionName" not in one.file_meta
    assert all(path.stat().st_mode & 0o077 == 0 for path in node.arrived())
    assert list(node.spool.receiving.iterdir()) == []


def test_a_compressed_object_stays_as_it_was_sent(node, tmp_path) -> None:
    item = make_object()
    item.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    item.PixelData = b"\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\4\0\0\0\xff\xd8\xff\xd9"
    item["PixelData"].is_undefined_length = True
    ae = AE("SCANNER")
    ae.add_requested_context(MR_IMAGE, JPEGBaseline8Bit)
    association = ae.associate("127.0.0.1", node.port, ae_title="NEUROFERRY")
    item.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert association.send_c_store(tmp_path / "a.dcm").Status == 0
    association.release()
    (path,) = node.arrived()
    kept = dcmread(path)
    assert kept.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert kept.PixelData == item.PixelData


@pytest.mark.skipif(program("storescu") is None, reason="DCMTK is not installed")
def test_what_dcmtk_sends_is_kept_byte_for_byte(node, tmp_path) -> None:
    paths = []
    for number in range(1, 6):
        item = make_object(number)
        if number == 3:  # of many PDUs
            item.Rows = item.Columns = 512
            item.PixelData = os.urandom(512 * 512 * 2)
        paths.append(tmp_path / f"{number}.dcm")
        item.save_as(paths[-1], enforce_file_format=True)
    who = ["-aec", "NEUROFERRY", "127.0.0.1", str(node.port)]
    subprocess.run([program("storescu"), *who, *map(str, paths)], check=True)
    assert sorted(map(digest_of, node.arrived())) == sorted(map(digest_of, paths))


@pytest.mark.parametrize("uid", ["../../../../evil", "/tmp/evil", "a/../b", "..", "x" * 64])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_uid_that_looks_like_a_path_stays_inside(node, uid) -> None:
    before = set(node.spool.private.rglob("*"))
    raw = Raw(node.port)
    raw.data((True, True, request(uid.encode())), (False, True, data_set()))
    assert raw.status() == 0
    (made,) = set(node.spool.private.rglob("*")) - before
    assert made.parent == node.spool.arrivals
    assert made.name.startswith(node.spool.object_key(uid))
    assert not any(part in made.name for part in ("evil", ".."))


def test_parts_of_an_object_may_come_as_they_like(node) -> None:
    content = data_set()
    raw = Raw(node.port)
    raw.data((True, True, request(b"1.2.3", 7)))
    for at in range(0, len(content), 100):
        raw.data((False, at + 100 >= len(content), content[at : at + 100]))
    assert raw.status() == 0
    raw.data((True, True, request(b"1.2.4", 8)), (False, False, content), (False, True, b""))
    assert raw.status() == 0
    assert {digest_of(path) for path in node.arrived()} == {hashlib.sha256(content).hexdigest()}
    assert len(node.arrived()) == 2


@pytest.mark.parametrize("end", ["close", "abort", "another", "nonsense"])
def test_half_an_object_leaves_nothing(node, end) -> None:
    raw = Raw(node.port)
    raw.data((True, True, request(b"1.2.3")), (False, False, data_set()[:500]))
    assert settle(lambda: len(list(node.spool.receiving.iterdir())) == 1)
    if end == "close":
        raw.socket.close()
    elif end == "abort":
        raw.socket.sendall(bytes.fromhex("07000000000400000000"))
    elif end == "nonsense":
        raw.socket.sendall(b"\x04\0\xff\xff\xff\xff" + bytes(100))
    else:  # the sender gave it up and sends the next
        raw.data((True, True, request(b"1.2.4")), (False, True, data_set()))
        assert raw.status() == 0
    assert settle(lambda: not list(node.spool.receiving.iterdir()))
    assert len(node.arrived()) == (end == "another")
    with node.association() as association:
        assert association.send_c_echo().Status == 0


def test_several_send_at_once(node) -> None:
    raws = [Raw(node.port) for _ in range(8)]
    content = data_set()
    for number, raw in enumerate(raws):
        raw.data((True, True, request(f"1.2.{number}".encode())), (False, False, content[:900]))
    for raw in reversed(raws):
        raw.data((False, True, content[900:]))
        assert raw.status() == 0
    assert len(node.arrived()) == len(raws)


def test_commitment_tells_what_is_stored_and_what_is_not(tmp_path) -> None:
    reports = Reports()
    with (
        reports.listening("SCANNER") as port,
        running(tmp_path / "root", peers=(Peer("SCANNER", "127.0.0.1", port),)) as node,
        closing(Queue(node.spool.private)) as queue,
    ):
        with node.association() as association:
            assert store(association, 1) == store(association, 2) == 0
            assert ask(association, [f"{ROOT}.1.1", f"{ROOT}.1.2"]) == 0
        kind, report = reports.wait()
        assert (kind, report.TransactionUID) == (1, "1.2.3.4.5")
        assert len(report.ReferencedSOPSequence) == 2
        Sorter(node.spool, queue).sort()
        assert node.arrived() == []
        with node.association() as association:
            assert ask(association, [f"{ROOT}.1.1", "1.2.3"]) == 0
        kind, report = reports.wait()
        assert kind == 2
        assert [one.ReferencedSOPInstanceUID for one in report.ReferencedSOPSequence] == [
            f"{ROOT}.1.1"
        ]
        assert [one.ReferencedSOPInstanceUID for one in report.FailedSOPSequence] == ["1.2.3"]
        assert report.FailedSOPSequence[0].FailureReason == 0x0112


def test_commitment_goes_back_the_way_the_question_came(tmp_path) -> None:
    reports = Reports()
    with running(tmp_path / "root") as node, closing(Queue(node.spool.private)):
        ae = AE("SCANNER")
        ae.add_requested_context("1.2.840.10008.1.20.1")
        association = ae.associate(
            "127.0.0.1",
            node.port,
            ae_title="NEUROFERRY",
            ext_neg=[role()],
            evt_handlers=[reports.handler],
        )
        assert ask(association, ["1.2.3"]) == 0
        assert reports.wait()[0] == 2
        association.release()


def test_who_is_not_allowed_is_refused_and_named_once(tmp_path) -> None:
    peers = (Peer("SCANNER"), Peer("THERE", "10.9.8.7"), Peer("HERE", "127.0.0.1"))
    with running(tmp_path / "root", peers=peers) as node:
        for calling, called, allowed in (
            ("SCANNER", "NEUROFERRY", True),
            ("HERE", "NEUROFERRY", True),
            ("SCANNER", "ELSEWHERE", False),
            ("STRANGER", "NEUROFERRY", False),
            ("STRANGER", "NEUROFERRY", False),
            ("THERE", "NEUROFERRY", False),
        ):
            with node.association(calling, called) as association:
                assert (association.is_established, association.is_rejected) == (
                    allowed,
                    not allowed,
                )
        said = node.said()
    assert [one.split(":")[0] for one in said] == [
        f"Refused {title!r} from 127.0.0.1" for title in ("SCANNER", "STRANGER", "THERE")
    ]
    assert "'ELSEWHERE'" in said[0]
    assert "address" in said[2]


def test_a_refused_title_is_named_again_after_a_minute(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said: list[str] = []
    keeper = Doorkeeper(NodeSettings(), said.append)
    for moment in (0, 59, 61, 62):
        clock[0] = moment
        keeper.note("STRANGER", "10.0.0.1", "why")
    assert len(said) == 2
    for number in range(1000):
        keeper.note(f"T{number}", "10.0.0.1", "why")
    assert len(said) < 110  # a flood of titles does not fill the log


def test_a_full_disk_is_answered_and_nothing_is_left(tmp_path) -> None:
    with running(tmp_path / "root", limit=3000) as node:
        raw = Raw(node.port)
        for number in (1, 2):
            raw.data((True, True, request(b"1.2.3", number)), (False, False, data_set()))
            raw.data((False, True, bytes(5000)))
            assert raw.status() == 0xA700
        assert node.arrived() == list(node.spool.receiving.iterdir()) == []
        raw.data((True, True, request(b"1.2.4", 3)), (False, True, data_set()[:500]))
        assert raw.status() == 0
        assert len(node.arrived()) == 1


def test_a_disk_that_is_nearly_full_takes_nothing_more(tmp_path) -> None:
    with running(tmp_path / "root", reserve=1 << 60) as node:
        with node.association() as association:
            assert [store(association, number) for number in (1, 2)] == [0xA700, 0xA700]
            assert association.send_c_echo().Status == 0
        assert node.arrived() == list(node.spool.receiving.iterdir()) == []


def test_a_node_ends_though_a_sender_stops_in_the_middle(tmp_path) -> None:
    with running(tmp_path / "root") as node:
        raw = Raw(node.port)
        raw.data((True, True, request(b"1.2.3")), (False, False, data_set()[:500]))
        assert settle(lambda: list(node.spool.receiving.iterdir()))
        raw.socket.sendall(b"\x04\0\0\0")
        begun = time.monotonic()
    assert time.monotonic() - begun < 15
    assert node.arrived() == []


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates of an authority for localhost and a scanner, and one of a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "stranger"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl(*new, "-x509", "-days", "2", "-subj", f"/CN={name}", *files)
    for name in ("localhost", "scanner"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "san").write_text(f"subjectAltName=DNS:{name}\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-extfile", "san"),
            *(*signed, "-out", f"{name}.pem"),
        )
    return folder


def client(certificates, name=""):
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def test_tls_and_certificates_of_senders(tmp_path, certificates) -> None:
    files = {
        "certificate": certificates / "localhost.pem",
        "key": certificates / "localhost.key",
        "authority": certificates / "ca.pem",
    }
    with running(tmp_path / "root", **files) as node:
        with node.association(tls=client(certificates, "scanner")) as association:
            big = make_object(2)
            big.Rows = big.Columns = 512
            big.PixelData = os.urandom(512 * 512 * 2)
            assert store(association) == association.send_c_store(big).Status == 0
            assert association.send_c_echo().Status == 0
        assert len(node.arrived()) == 2
        for tls in (None, client(certificates), client(certificates, "stranger")):
            with node.association(tls=tls) as association:
                assert not association.is_established
        with node.association(tls=client(certificates, "scanner")) as association:
            assert association.is_established


def test_files_for_tls_that_cannot_be_used(tmp_path, certificates) -> None:
    assert tls_context(NodeSettings()) is None
    with pytest.raises(UsageError, match="both"):
        tls_context(NodeSettings(certificate=certificates / "ca.pem"))
    with pytest.raises(InputError, match="cannot be used"):
        tls_context(NodeSettings(certificate=certificates / "ca.pem", key=tmp_path / "no"))
    with pytest.raises(InputError, match="cannot be used"):
        tls_context(
            NodeSettings(certificate=certificates / "ca.pem", key=certificates / "scanner.key")
        )


# --- settings -------------------------------------------------------------------------------


def test_peers() -> None:
    assert parse_peer("A") == Peer("A")
    assert parse_peer("A@h:104") == Peer("A", "h", 104)
    assert parse_peer("A@::1") == Peer("A", "::1")
    for text in ("", "@h", "A@h:0", "A@h:x", "A@h:70000", "A\\B", "A" * 17, "Ä"):
        with pytest.raises(UsageError):
            parse_peer(text)
    assert check_title(" A ") == "A"
