"""A running ``neuroferry intake``, and what it made of what was sent to it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import psutil
from dicom_peers import end, wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from neuroferry.phantom.dicom import ScannedSeries

QUIET = "2"  # seconds after which a series that does not count itself is complete


class Intake:
    """A service on a root, started on a free port of loopback.

    Attributes
    ----------
    root : Path
    port : int
        0 without a node.
    process : subprocess.Popen
    """

    def __init__(self, root: Path, *options: str, qc: bool = False) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._log = root.with_name(f"{root.name}.log")
        command = [sys.executable, "-m", "neuroferry", "intake", str(root)]
        usual = ["--bind", "127.0.0.1", "--port", "0", "--quiet-seconds", QUIET]
        quiet = [] if qc else ["--no-qc"]
        with self._log.open("a") as log:
            begun = log.tell()
            self.process = subprocess.Popen(
                [*command, *usual, *quiet, *options], stdout=log, stderr=log
            )
        found = wait(lambda: self._listening(begun), f"the intake's port ({self._log})")
        self.port = int(found[1])

    def _listening(self, begun: int) -> re.Match[str] | None:
        said = self._log.read_text()[begun:]
        assert self.process.poll() is None, said
        return re.search(r"Listening as \S+ on port (\d+)", said)

    @property
    def said(self) -> str:
        """All that the services on this root have printed."""
        return self._log.read_text()

    def kill(self, *, alone: bool = False) -> None:
        """Kill the service, and all that it has started unless `alone`: nothing can react."""
        process = psutil.Process(self.process.pid)
        others = [] if alone else process.children(recursive=True)
        for one in (process, *others):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


@contextmanager
def intake(root: Path, *options: str, qc: bool = False) -> Iterator[Intake]:
    """Run a service; it has to end well when told to."""
    running = Intake(root, *options, qc=qc)
    try:
        yield running
    finally:
        code = end(running.process)
    assert code == 0, running.said


def once(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the intake over what is there."""
    command = [sys.executable, "-m", "neuroferry", "intake", str(root), "--no-qc", "--no-node"]
    return subprocess.run(
        [*command, "--once", *options], capture_output=True, text=True, check=False
    )


def images(root: Path) -> dict[str, Path]:
    """Images of the dataset, by their names below it."""
    bids = root / "bids"
    found = [path for path in bids.rglob("*.nii.gz") if "sourcedata" not in path.parts]
    return {str(path.relative_to(bids)): path for path in found}


def lacking(root: Path, scans: Iterable[ScannedSeries]) -> str:
    """Say what the dataset lacks of what was scanned, or has too much; empty if nothing."""
    made = images(root)
    expected = {}
    for scan in scans:
        assert scan.source is not None
        expected["/".join(scan.source.parts[-3:])] = scan.source
    if set(made) != set(expected):
        missing, extra = sorted(set(expected) - set(made)), sorted(set(made) - set(expected))
        return f"missing: {missing}; too much: {extra}"
    for name, source in expected.items():
        data, affine = _canonical(made[name])
        truth, placed = _canonical(source)
        if data.shape != truth.shape or not np.array_equal(data, truth):
            return f"{name}: other voxels, {data.shape} for {truth.shape}"
        if not np.allclose(affine, placed, atol=1e-3):
            return f"{name}: elsewhere"
    return ""


def _canonical(path: Path) -> tuple[Any, Any]:
    image: Any = nb.as_closest_canonical(nb.load(path))
    return np.asanyarray(image.dataobj), image.affine


def is_what_was_scanned(root: Path, scans: Iterable[ScannedSeries], patience: float = 90) -> None:
    """Wait until the dataset holds every voxel that was scanned, once."""
    scans = list(scans)
    try:
        wait(lambda: not lacking(root, scans), "the dataset", patience)
    except AssertionError as error:
        raise AssertionError(f"{error}: {lacking(root, scans)}") from None
