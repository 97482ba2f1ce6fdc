"""Benchmark of the intake: C-STORE against DCMTK's storescp, and a day of two scanners.

Usage: ``python benchmarks/intake.py throughput [--files 2000]`` or
``python benchmarks/intake.py day [--sessions 20]``. DCMTK's storescu sends, on loopback. Sessions are
random voxels with the headers of a scanner; needs DCMTK.
"""

from __future__ import annotations

import argparse
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

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from dicom_peers import end, free_port, listens, n_sent, program, send_command, wait

from neuroferry.phantom.dicom import (
    Patient,
    ScannedSeries,
    Scanner,
    faults,
    objects,
    write_objects,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START = datetime(2024, 1, 8, 9, 0)
PATIENT = "PATIENT000"  # as long as the one that takes its place
REPEATS = 3
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
