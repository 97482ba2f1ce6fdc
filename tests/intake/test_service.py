"""The intake as a process: its node dies, it is killed at any moment, and the next goes on."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest
from associations import Raw, request
from dicom_objects import ROOT, make_object, write_series
from dicom_peers import wait
from intake_service import Intake, images, intake, once
from pynetdicom import AE

from neuroferry.errors import ResourceError
from neuroferry.intake import receiver as receiver_module
from neuroferry.intake.node import NodeSettings
from neuroferry.intake.receiver import Receiver
from neuroferry.intake.spool import Spool
from neuroferry.intake.state import read_state

pytestmark = pytest.mark.slow
SLICES = 6
T1W = "sub-01/anat/sub-01_T1w.nii.gz"
#: What tells of the made-up patients, and must not be found outside the private folder.
TELLING = ("Made^", "19900101", "Nobody", "19010203", "Nowhere", "Invented")


def send(port, numbers=range(1, SLICES + 1), **options):
    """Send slices; give the numbers of those that were acknowledged."""
    ae = AE("SCANNER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", port, ae_title="NEUROFERRY")
    safe = []
    for number in numbers:
        if not association.is_established:
            break
        answer = association.send_c_store(make_object(number, **options))
        if answer and answer.Status == 0:
            safe.append(number)
    if association.is_established:
        association.release()
    return safe


def node_of(running):
    """The process of the node of a service."""
    children = psutil.Process(running.process.pid).children()
    return next(one for one in children if "spawn_main" in " ".join(one.cmdline()))


def has_image(root):
    return wait(lambda: images(root), "the image")


def objects_of(root):
    with closing(sqlite3.connect(root / ".intake" / "queue.sqlite")) as db:
        return [row[0] for row in db.execute("SELECT object FROM objects")]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


# --- the node's process ---------------------------------------------------------------------


def test_a_killed_node_is_started_again_on_its_port(root) -> None:
    with intake(root) as running:
        first = node_of(running)
        raw = Raw(running.port)  # half an object
        raw.data((True, True, request(b"1.2.3")), (False, False, bytes(500)))
        assert send(running.port, [1, 2]) == [1, 2]
        first.send_signal(signal.SIGKILL)
        wait(lambda: "started again" in running.said, "the node")
        assert node_of(running).pid != first.pid
        assert list((root / ".intake" / "receiving").iterdir()) == []
        assert send(running.port, range(3, SLICES + 1)) == list(range(3, SLICES + 1))
        assert len(has_image(root)) == 1
    assert "The DICOM node had ended (-9)" in running.said


def test_a_port_that_is_taken_is_said(root) -> None:
    with intake(root) as running:
        again = [sys.executable, "-m", "neuroferry", "intake", f"{root}2", "--no-qc"]
        where = ["--bind", "127.0.0.1", "--port", str(running.port)]
        done = subprocess.run([*again, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert f"port {running.port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_that_cannot_be_started_again_ends_the_service(root, monkeypatch) -> None:
    monkeypatch.setattr(receiver_module, "_PAUSES", (0.0, 0.1))
    said: list[str] = []
    node = Receiver(NodeSettings(address="127.0.0.1", port=0), Spool(root), said.append)
    try:
        os.kill(node.pid, signal.SIGKILL)
        port = int(re.findall(r"port (\d+)", said[0])[0])
        wait(lambda: _ended(node.pid), "the end of the node")
        with _listening(port), pytest.raises(ResourceError, match="cannot be started again"):
            _check_until_it_fails(node)
        assert any("Address already in use" in text for text in said)
    finally:
        node.stop()


def _check_until_it_fails(node):
    while True:
        node.check()


def _ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _bound(listener, port):
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _listening(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # the threads of a killed process end after it, and hold its port until then
    wait(lambda: _bound(listener, port), "the port of the node that ended")
    listener.listen()
    return listener


# --- killed, and started again --------------------------------------------------------------


def test_a_second_process_is_refused(root) -> None:
    with intake(root):
        done = once(root)
    assert done.returncode == 75
    assert "Another neuroferry intake" in done.stderr


@pytest.mark.parametrize("alone", [True, False])
def test_killed_while_receiving(root, alone) -> None:
    running = Intake(root)
    raw = Raw(running.port)
    raw.data((True, True, request(b"1.2.3")), (False, False, bytes(500)))
    assert send(running.port, [1, 2, 3]) == [1, 2, 3]
    running.kill(alone=alone)
    with intake(root) as running:
        assert send(running.port, [3, 4, 5, 6]) == [3, 4, 5, 6]  # the third one again
        assert list(has_image(root)) == [T1W]
    assert len(set(objects_of(root))) == len(objects_of(root)) == SLICES
    assert list((root / ".intake" / "receiving").iterdir()) == []


def test_killed_while_converting(root) -> None:
    running = Intake(root)
    assert len(send(running.port)) == SLICES
    private = root / ".intake"
    wait(lambda: any((private / "scratch").iterdir()) or images(root), "the conversion")
    running.kill()
    with intake(root):
        assert list(has_image(root)) == [T1W]
        wait(lambda: read_state(root)["series"][0]["state"] == "placed", "its end")
    assert len(objects_of(root)) == SLICES
    (row,) = read_state(root)["series"]
    assert row["n_objects"] == SLICES
    assert list((root / "bids").rglob("*.part")) == []
    assert list((private / "names").rglob("*.part")) == []


def test_killed_during_quality_control(root) -> None:
    running = Intake(root, qc=True)
    assert len(send(running.port)) == SLICES
    wait(lambda: "quality control has started" in running.said, "quality control")
    service = psutil.Process(running.process.pid)
    (control,) = [one for one in service.children() if "--workflows" in one.cmdline()]
    running.kill(alone=True)
    assert control.is_running()
    with intake(root, qc=True) as running:
        wait(lambda: running.said.count("quality control has started") == 2, "the next one")
        assert _ended(control.pid)
        (row,) = read_state(root)["quality"]
        assert (row["state"], row["attempts"]) == ("running", 1)
        again = psutil.Process(running.process.pid).children()
    wait(lambda: all(_ended(one.pid) for one in again), "their end with the service")


# --- once -----------------------------------------------------------------------------------


def test_once_says_what_was_refused_with_exit_1(root) -> None:
    incoming = root / "incoming"
    write_series(incoming)
    (incoming / "notes.txt").write_text("no image")
    done = once(root)
    assert done.returncode == 1
    assert re.search(r"1 files? of watched folders stays? where .*: .*no DICOM", done.stdout)
    assert list(images(root)) == [T1W]
    assert once(root).returncode == 0  # it was said


def test_once_refuses_two_patients_with_the_same_objects(root, tmp_path) -> None:
    write_series(root / "incoming" / "a")
    write_series(root / "incoming" / "b", value=7)
    done = once(root)
    assert done.returncode == 1, done.stdout
    assert "refused" in done.stdout


def test_once_with_a_file_that_may_not_be_read_ends(root) -> None:
    if os.geteuid() == 0:
        pytest.skip("the super-user may read everything")
    (path, *_) = write_series(root / "incoming")
    path.chmod(0)
    assert once(root).returncode == 1


# --- who was scanned stays inside -----------------------------------------------------------


def test_nothing_outside_the_private_folder_tells_who_was_scanned(root, tmp_path) -> None:
    with intake(root, qc=True) as running:
        send(running.port, patient="Nobody7")
        send(running.port, series=2, protocol="unknown Nobody7", patient="Nobody7")
        wait(lambda: running.said.count("series") >= 2, "both series")
        wait(lambda: "quality control has started" in running.said, "quality control")
        wait(lambda: re.search(r"sub-\S+: /|failed", running.said), "its end", 240)
        time.sleep(0.5)
        with Raw(running.port).socket:
            pass
        said = running.said
    rejected = subprocess.run(
        [sys.executable, "-m", "neuroferry", "intake", str(root), "--status", "--json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = [*TELLING, f"{ROOT}."]
    assert not [word for word in words if word in said + rejected]
    private = root / ".intake"
    assert private.stat().st_mode & 0o077 == 0
    secret = {private / "names", private / "spool", private / "arrivals", private / "rejected"}
    leaks = [
        (str(path.relative_to(root)), word)
        for path in root.rglob("*")
        if not secret & {path, *path.parents}
        for word in words
        if word in path.name or (path.is_file() and word.encode() in path.read_bytes())
    ]
    inside = [leak for leak in leaks if leak[0].startswith(".intake/")]
    assert [leak for leak in leaks if leak not in inside] == []
    # the queue holds what headers say of patients, for its owner alone
    assert {leak[0].split("-")[0] for leak in inside} <= {".intake/queue.sqlite"}
    assert all((root / leak[0]).stat().st_mode & 0o077 == 0 for leak in inside)
