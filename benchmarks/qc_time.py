"""Time from the last byte of an image to the page about its quality, beside the full workflow.

Usage::

    python benchmarks/qc_time.py DIR [--full] [--nprocs N]

Digital heads are written to DIR once: a T1w image of 1 mm, a BOLD run of 150 volumes of 3 mm and a
DWI run of 65 volumes of 2 mm, each in a dataset of its own. The whole command,
``neuroferry BIDS OUT participant --workflows qc``, then runs with empty output and work folders:
wall time from its start to its end, with the pages written, processor time, and the number of
steps. ``--full`` also runs the workflow that measured the same image until now (anatomy, BOLD or
DWI), and prints the ratio.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from neuroferry.engine.record import list_runs, read_run

TARGETS = {"T1w": 30, "bold": 25, "dwi": 60}
"""Seconds on two idle processors."""
FULL = {"T1w": ("anat",), "bold": ("anat", "func"), "dwi": ("anat", "dwi")}
"""The workflows without which there were no metrics of the modality."""
PHANTOMS = {
    "T1w": ("--resolution", "1"),
    "bold": ("--resolution", "2", "--bold", "150"),
    "dwi": ("--resolution", "2", "--dwi", "60", "--dwi-b0", "5"),
}
"""Options of ``neuroferry phantom``."""


@dataclass(frozen=True)
class Took:
    """Wall and processor seconds of a command, and its steps."""

    wall: float
    cpu: float
    steps: int


def neuroferry(*arguments: str | Path) -> None:
    """Run a command, or stop here with what it printed."""
    command = [sys.executable, "-m", "neuroferry", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def measure(bids: Path, folder: Path, *options: str) -> Took:
    """Run the workflows of an image with empty folders."""
    for name in ("out", "work"):
        shutil.rmtree(folder / name, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    out = folder / "out"
    neuroferry(bids, out, "participant", "-w", folder / "work", *options)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = out / "sub-01.html"
    if not page.is_file():
        raise SystemExit(f"{page} was not written")
    return Took(wall, cpu, len(read_run(list_runs(out)[-1]).steps))


def main() -> None:
    """Print a row for each modality."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="also run the full workflow")
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--modalities", nargs="+", default=list(TARGETS), choices=TARGETS)
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    print("image  target   wall    cpu  steps  full wall  full cpu  ratio")
    for modality in arguments.modalities:
        folder = arguments.folder / modality
        bids = folder / "bids"
        if not (bids / "dataset_description.json").exists():
            neuroferry("phantom", bids, "--subjects", "1", *PHANTOMS[modality])
        common = ["--nprocs", str(arguments.nprocs)]
        took = measure(bids, folder, *common, "--workflows", "qc", "--modalities", modality)
        row = f"{modality:5}  {TARGETS[modality]:5} s {took.wall:5.1f}  {took.cpu:5.1f}"
        row += f"  {took.steps:5}"
        if arguments.full:
            full = measure(bids, folder, *common, "--workflows", *FULL[modality])
            row += f"  {full.wall:9.1f}  {full.cpu:8.1f}  {full.wall / took.wall:5.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
