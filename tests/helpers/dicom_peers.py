"""Peers of a DICOM node, for real: DCMTK's programs and Orthanc, each on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

PATIENCE = 60.0
#: Without it DCMTK waits 40 ms for an acknowledgement of TCP at each object.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


@cache
def program(name: str) -> str | None:
    """Path of a program of DCMTK, or of Orthanc; None if it is not installed.

    pynetdicom brings programs of the same names as DCMTK's: those are passed over.
    """
    for folder in _PATH.split(":"):
        path = shutil.which(name, path=folder) if folder else None
        if path is None:
            continue
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if re.search("dcmtk|Orthanc", asked.stdout):
            return path
    return None


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + patience
    while True:
        if result := condition():
            return result
        assert time.monotonic() < end, f"{what}: not within {patience:.0f} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def echo(port: int, *, called: str = "NEUROFERRY", calling: str = "SCANNER") -> bool:
    """Send a C-ECHO with DCMTK; whether it succeeded."""
    command = [
        str(program("echoscu")),
        "-aet",
        calling,
        "-aec",
        called,
        "-to",
        "10",
        "127.0.0.1",
        str(port),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def send(
    port: int,
    sources: Iterable[Path],
    *,
    called: str = "NEUROFERRY",
    calling: str = "SCANNER",
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Send files, or all files below folders, with DCMTK's storescu, in one association."""
    return subprocess.run(
        send_command(port, sources, called=called, calling=calling, options=options),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )


def send_command(
    port: int,
    sources: Iterable[Path],
    *,
    called: str = "NEUROFERRY",
    calling: str = "SCANNER",
    options: Sequence[str] = (),
) -> list[str]:
    """Make the command line of `send`; ``-R`` proposes only what is sent."""
    who = ["-aet", calling, "-aec", called]
    what = ["+sd", "+r", "-R", "-v", *options]
    return [str(program("storescu")), *who, *what, "127.0.0.1", str(port), *map(str, sources)]


def n_sent(done: subprocess.CompletedProcess[str]) -> int:
    """Count the objects that were acknowledged as stored."""
    return (done.stdout + done.stderr).count("Received Store Response (Success)")


class Orthanc:
    """A running Orthanc.

    Attributes
    ----------
    port : int
        Of DICOM.
    """

    def __init__(self, port: int, http: int) -> None:
        self.port = port
        self._http = http

    def call(self, path: str, body: bytes | Mapping[str, Any] | None = None) -> Any:
        """Ask the REST interface: GET without, POST with a body; return the answer's JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", data=data)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")

    def alive(self) -> bool:
        """Whether the REST interface answers."""
        with suppress(OSError, urllib.error.URLError):
            return bool(self.call("/system"))
        return False

    def take(self, files: Iterable[Path]) -> list[str]:
        """Import files; return the identifiers of their studies."""
        for path in files:
            self.call("/instances", path.read_bytes())
        return list(self.call("/studies"))

    def store(self, peer: str, resources: Sequence[str]) -> Mapping[str, Any]:
        """Push studies to a peer by C-STORE; return Orthanc's account of it."""
        job = {"Resources": list(resources), "Synchronous": True}
        answer: Mapping[str, Any] = self.call(f"/modalities/{peer}/store", job)
        return answer

    def commit(self, peer: str, instances: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
        """Ask a peer to commit to instances, pairs of SOP class and instance UID."""
        asked = {"DicomInstances": [list(pair) for pair in instances], "Timeout": 30}
        transaction = self.call(f"/modalities/{peer}/storage-commitment", asked)["ID"]

        def report() -> Mapping[str, Any] | None:
            answer: Mapping[str, Any] = self.call(f"/storage-commitment/{transaction}")
            return answer if answer["Status"] != "Pending" else None

        done: Mapping[str, Any] = wait(report, "report of storage commitment")
        return done


@contextmanager
def orthanc(
    folder: Path, port: int, *, peers: Mapping[str, int], title: str = "ORTHANC"
) -> Iterator[Orthanc]:
    """Run an Orthanc that stores below `folder` and knows peers on ports of loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    http = free_port()
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": title,
        "DicomPort": port,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {
            name: {"AET": name, "Host": "127.0.0.1", "Port": at, "AllowStorageCommitment": True}
            for name, at in peers.items()
        },
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    executable = program("Orthanc")
    assert executable is not None
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        process = subprocess.Popen([executable, str(path)], stdout=log, stderr=log)
        stack.callback(end, process)
        running = Orthanc(port, http)
        wait(running.alive, f"Orthanc ({folder / 'log'})")
        yield running


def end(process: subprocess.Popen[Any], *, how: int = signal.SIGTERM) -> int:
    """End a process that these tests started, gently or not; return its exit code."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(30)
