"""Benchmark of the intake: C-STORE against DCMTK's storescp, and a day of two scanners.

Usage: ``python benchmarks/intake.py throughput [--files 2000]`` or
``python benchmarks/intake.py day [--sessions 20]``. DCMTK's storescu sends, on loopback. Sessions
are random voxels with the headers of a scanner; needs DCMTK.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nb
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from dicom_peers import ENVIRONMENT, end, free_port, listens, n_sent, program, wait
from intake_service import images, intake

from neuroferry.phantom.dicom import (
    Patient,
    ScannedSeries,
    Scanner,
    faults,
    objects,
    write_objects,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

START = datetime(2024, 1, 8, 9, 0)
PATIENT = "PATIENT000"  # as long as the one that takes its place
REPEATS = 3
FOLDER = "/var/tmp"  # a disk, where /tmp is memory
SAMPLE = 0.2  # seconds between two looks at memory


def scan(
    shape: tuple[int, int, int, int], name: str, number: int, tr: float, seed: int
) -> ScannedSeries:
    """Make a series of random voxels, of a brightness that compresses as images do not."""
    rng = np.random.default_rng(seed)
    suffix = "T1w" if name.startswith("anat") else "bold"
    return ScannedSeries(
        data=rng.integers(0, 2000, shape, dtype=np.int16),
        affine=np.diag([3.0, 3.0, 3.0, 1.0]),
        sidecar={"RepetitionTime": tr, "EchoTime": 0.03, "FlipAngle": 70},
        protocol=name,
        suffix=suffix,
        number=number,
        started=START + timedelta(minutes=10 * number),
        study=f"day/{seed}",
        uid=f"{name}/{seed}",
        volume_times=np.arange(shape[3]) * tr,
        slice_times=None if suffix == "T1w" else np.arange(shape[2]) * tr / shape[2],
        phase_axis=None if suffix == "T1w" else 1,
    )


def template(folder: Path, serial: str, seed: int, n_files: int) -> list[Path]:
    """Write a session, T1w and two BOLD runs that arrive at once; paths in order of arrival."""
    scanner, patient = Scanner(serial=serial, station=f"MR{serial}"), Patient(PATIENT)
    slices = max(8, min(176, n_files // 10))
    volumes = max(2, (n_files - slices) // 2 // 30)
    scans = [scan((256, 256, slices, 1), "anat-T1w", 2, 2.3, seed)]
    for run in (1, 2):
        name = f"func-bold_task-rest_run-{run}"
        scans.append(scan((64, 64, 30, volumes), name, 2 + run, 2.0, seed))
    made = [objects(one, patient, scanner, "classic") for one in scans]
    return write_objects(folder, faults.interleave(*made))


def another(paths: Sequence[Path], folder: Path, number: int) -> list[Path]:
    """Write the session again as that of another patient, by replacing text of the same length."""
    from pydicom import dcmread

    folder.mkdir(parents=True)
    made = []
    for path in paths:
        ds = dcmread(path, stop_before_pixels=True)
        content = path.read_bytes().replace(PATIENT.encode(), f"PATIENT{number:03d}".encode())
        for old in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID):
            content = content.replace(old.encode(), f"{old[:-4]}1{number:03d}".encode())
        made.append(folder / path.name)
        made[-1].write_bytes(content)
    return made


@contextmanager
def storescp(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Run DCMTK's receiver; its port and process."""
    folder.mkdir()
    port = free_port()
    command = [str(program("storescp")), "-aet", "NEUROFERRY", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(lambda: listens(port), "storescp")
        yield port, psutil.Process(process.pid)
    finally:
        end(process)


@contextmanager
def ours(root: Path, *options: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run the intake without quality control; its port and process."""
    with intake(root, *options) as node:
        yield node.port, psutil.Process(node.process.pid)


def send_all(port: int, paths: Sequence[Path], environment: dict[str, str]) -> int:
    """Send files in order; number of objects that were acknowledged."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("".join(f"{path}\n" for path in paths))
        listed.flush()
        who = ["-aet", "SCANNER", "-aec", "NEUROFERRY"]
        command = [str(program("storescu")), *who, "-R", "-v", "127.0.0.1", str(port)]
        done = subprocess.run(
            [*command, f"@{listed.name}"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    return n_sent(done)


def throughput(n_files: int) -> None:
    """Print the table of receivers."""
    receivers: dict[str, Callable[[Path], AbstractContextManager[tuple[int, psutil.Process]]]] = {
        "storescp": storescp,
        "neuroferry, no fsync": lambda root: ours(root, "--quiet-seconds", "3600", "--no-fsync"),
        "neuroferry": lambda root: ours(root, "--quiet-seconds", "3600"),
    }
    as_installed = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        paths = template(Path(folder) / "dicom", "000001", 0, n_files)
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{len(paths)} files, {size:.0f} MB; the best of {REPEATS}\n")
        print(f"{'':24}{'storescu as installed':>32}{'with TCP_NODELAY=1':>32}")
        print(f"{'':24}" + f"{'files/s':>12}{'wall s':>10}{'CPU s':>10}" * 2)
        for name, receiver in receivers.items():
            line = f"{name:24}"
            for environment, n in ((as_installed, n_files // 10), (ENVIRONMENT, n_files)):
                runs = [
                    measure(
                        receiver, Path(folder) / f"{time.monotonic_ns()}", paths[:n], environment
                    )
                    for _ in range(REPEATS)
                ]
                wall, cpu = (min(values) for values in zip(*runs, strict=True))
                line += f"{n / wall:12.0f}{wall:10.2f}{cpu:10.2f}"
            print(line, flush=True)


def measure(
    receiver: Callable[[Path], AbstractContextManager[tuple[int, psutil.Process]]],
    root: Path,
    paths: Sequence[Path],
    environment: dict[str, str],
) -> tuple[float, float]:
    """Wall and processor seconds in which a receiver takes files."""
    before = os.environ.get("TCP_NODELAY")
    os.environ.update({"TCP_NODELAY": "1"} if "TCP_NODELAY" in environment else {})
    try:
        with receiver(root) as (port, process):
            begun, used = time.perf_counter(), cpu_seconds(process)
            n_safe = send_all(port, paths, environment)
            wall, now = time.perf_counter() - begun, cpu_seconds(process)
    finally:
        if before is None:
            os.environ.pop("TCP_NODELAY", None)
    if n_safe != len(paths):
        raise SystemExit(f"{n_safe} of {len(paths)} objects were acknowledged")
    shutil.rmtree(root)
    return wall, now - used


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it has started."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Processor seconds that a process and its children, ended ones too, have used."""
    total = 0.0
    for one in family(process):
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total


def day(n_sessions: int, n_files: int) -> None:
    """Send sessions of two scanners at once; print memory, and what became of the objects."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        place = Path(folder)
        models = [template(place / f"model{k}", f"00000{k}", k, n_files) for k in (1, 2)]
        done = [0, 0]

        with intake(place / "root", "--quiet-seconds", "5") as node:
            process = psutil.Process(node.process.pid)
            memory = Memory(process)

            def scanner(k: int) -> None:
                for number in range(k, n_sessions, 2):
                    session = place / f"session{number}"
                    paths = another(models[k], session, number)
                    done[k] += send_all(node.port, paths, ENVIRONMENT)
                    shutil.rmtree(session)

            begun = time.perf_counter()
            scanners = [threading.Thread(target=scanner, args=(k,)) for k in (0, 1)]
            for thread in scanners:
                thread.start()
            for thread in scanners:
                thread.join()
            received = time.perf_counter() - begun
            wait(lambda: len(images(place / "root")) >= 3 * n_sessions, "conversion", 3600)
            used = cpu_seconds(process)
            memory.stop()
        total = n_sessions * len(models[0])
        voxels = sum(
            int(np.prod(nb.load(path).shape[2:])) for path in images(place / "root").values()
        )
        print(f"{n_sessions} sessions, {total} objects, {sum(done)} acknowledged")
        print(f"slices in the dataset: {voxels}, images: {len(images(place / 'root'))}")
        print(f"received in {received:.0f} s, all converted after {memory.seconds:.0f} s")
        print(f"CPU of the service and its converters: {used:.0f} s")
        print(f"memory: {memory.text()}")


class Memory:
    """Memory of a process and its children, converters left out, watched in a thread."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._begun = time.perf_counter()
        self._seen: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            used = 0
            for one in family(self._process):
                with suppress(psutil.NoSuchProcess):
                    used += one.memory_info().rss if one.name() != "dcm2niix" else 0
            self._seen.append(used)

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        self._thread.join()
        self.seconds = time.perf_counter() - self._begun

    def text(self) -> str:
        """Largest memory in each quarter of the time."""
        parts = np.array_split(np.asarray(self._seen), 4)
        return ", ".join(f"{part.max() / 1e6:.0f}" for part in parts) + " MB at most by quarter"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("throughput")
    one.add_argument("--files", type=int, default=2000)
    two = commands.add_parser("day")
    two.add_argument("--sessions", type=int, default=20)
    two.add_argument("--files", type=int, default=2000, help="of each session")
    arguments = parser.parse_args()
    if arguments.command == "throughput":
        throughput(arguments.files)
    else:
        day(arguments.sessions, arguments.files)


if __name__ == "__main__":
    main()
