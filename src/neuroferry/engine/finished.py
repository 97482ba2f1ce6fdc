"""Work folders of finished participants: verified, archived, restored.

A participant's part of the work folder is archived or removed as soon as the participant's last
step is done, so that the number of files and bytes does not grow with the cohort. A receipt is
kept, with the inputs, the outputs and the steps. While it is valid, none of the participant's
steps runs again; otherwise an archived part is unpacked and the run continues from there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from neuroferry.engine.worker import die_with_parent
from neuroferry.errors import ExitCode, NeuroferryError, ToolError
from neuroferry.files import whole_file
from neuroferry.trust import open_own, write_own

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """One participant's share of a run: part of the work folder, outputs and inputs.

    Attributes
    ----------
    folder : pathlib.Path
        The participant's part of the work folder.
    outputs : pathlib.Path
        Folder of the derivatives.
    inputs : tuple of pathlib.Path
        Files that the run reads.
    key : str
        Digest of everything else that the results depend on.
    """

    folder: Path
    outputs: Path
    inputs: tuple[Path, ...]
    key: str

    @property
    def receipt(self) -> Path:
        """Path of the receipt."""
        return self._beside("finished.json")

    @property
    def packed(self) -> Path:
        """Path of the archive."""
        return self._beside("tar")

    @property
    def claimed(self) -> Path:
        """Name of the folder while it is being archived."""
        return self._beside("putting-away")

    def _beside(self, ending: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{ending}")


def finished_steps(part: Part) -> tuple[str, ...] | None:
    """List the steps of a participant with a valid receipt; ``None`` without one.

    It is valid while settings and input files are unchanged and every derivative exists with its
    recorded size. A file with another modification time is unchanged if its SHA-256 is.
    """
    try:
        receipt = json.loads(part.receipt.read_text(encoding="utf-8"))
        if receipt["key"] != part.key or set(receipt["inputs"]) != {str(p) for p in part.inputs}:
            return None
        for name, size in receipt["outputs"].items():
            if (part.outputs / name).stat().st_size != size:
                return None
        for name, (size, time_ns, digest) in receipt["inputs"].items():
            stat = Path(name).stat()
            same = stat.st_size == size
            if not same or (stat.st_mtime_ns != time_ns and sha256(Path(name)) != digest):
                return None
        return tuple(receipt["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged, or about files that are gone


def put_away(part: Part, how: str, steps: Iterable[str]) -> bool:
    """Verify a finished participant's derivatives; archive or remove the part of the work folder.

    Parameters
    ----------
    part : Part
        The participant's part.
    how : str
        ``pack``: archive in one file. ``remove``: keep only the receipt.
    steps : iterable of str
        Full names of the participant's steps.

    Returns
    -------
    bool
        Whether this call archived it; another process may have been faster.

    Raises
    ------
    ToolError
        If a derivative is damaged; the work folder is then left unchanged.
    """
    try:
        part.folder.rename(part.claimed)
    except FileNotFoundError:
        return False
    try:
        receipt = {
            "key": part.key,
            "inputs": {str(path): _identify(path) for path in part.inputs},
            "outputs": verify_outputs(part.outputs),
            "steps": list(steps),
        }
        if how == "pack":
            with (
                whole_file(part.packed) as beside,
                tarfile.open(beside, "x", format=tarfile.PAX_FORMAT) as tar,
            ):
                tar.add(part.claimed, part.folder.name)
        write_own(part.receipt, json.dumps(receipt, indent=1))
    except BaseException:
        part.packed.unlink(missing_ok=True)
        part.claimed.rename(part.folder)
        raise
    shutil.rmtree(part.claimed)
    return True


def bring_back(part: Part) -> None:
    """Restore the work folder of a participant, whatever was left of it.

    Raises
    ------
    NeuroferryError
        With exit code 77 if the archive belongs to someone else or leads out of the folder.
    """
    if part.claimed.exists():
        if part.receipt.exists():
            shutil.rmtree(part.claimed)
        else:  # the program was killed while it archived the folder
            part.claimed.rename(part.folder)
    if part.packed.exists() and not part.folder.exists():
        unpacking = part.folder.with_name(f"{part.folder.name}.unpacking")
        shutil.rmtree(unpacking, ignore_errors=True)
        _unpack(part, unpacking)
        (unpacking / part.folder.name).rename(part.folder)
        unpacking.rmdir()
    part.receipt.unlink(missing_ok=True)
    part.packed.unlink(missing_ok=True)


def _unpack(part: Part, folder: Path) -> None:
    """Unpack an archived part; no member leaves the folder.

    Nodes link to the run's inputs and to other nodes by absolute paths. Such links are made last,
    so that nothing can be written through one.
    """
    links: list[tarfile.TarInfo] = []

    def keep(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
        if not member.issym() or not Path(member.linkname).is_absolute():
            return tarfile.data_filter(member, where)
        target = Path(os.path.normpath(member.linkname))
        if target not in part.inputs and part.folder not in target.parents:
            raise tarfile.AbsoluteLinkError(member)
        # its location is checked as for any other member
        tarfile.data_filter(member.replace(linkname="target", deep=False), where)
        links.append(member)
        return None

    try:
        with (
            open_own(part.packed, "The archived work folder") as stream,
            tarfile.open(fileobj=stream) as tar,
        ):
            tar.extractall(folder, filter=keep)
    except tarfile.FilterError as err:
        shutil.rmtree(folder, ignore_errors=True)
        raise NeuroferryError(
            f"The archived work folder {part.packed} was not unpacked, as it leads out of its"
            f" folder ({err}). Remove it to process the participant again.",
            exit_code=ExitCode.NO_PERMISSION,
        ) from err
    for link in links:
        (folder / link.name).symlink_to(link.linkname)


def verify_outputs(folder: Path) -> dict[str, int]:
    """Verify that every derivative of a participant can be read to its end.

    Parameters
    ----------
    folder : pathlib.Path
        ``<output folder>/sub-<label>``.

    Returns
    -------
    dict of str to int
        Size in bytes of each file, by its name relative to the folder.

    Raises
    ------
    ToolError
        If a file is empty, truncated or damaged, or if there are none.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            _read_to_the_end(path)
        except (OSError, EOFError, ValueError, zlib.error) as err:
            raise ToolError(f"The derivative {path} is damaged ({err}).") from err
        sizes[str(path.relative_to(folder))] = path.stat().st_size
    if not sizes:
        raise ToolError(f"There are no derivatives in {folder}.")
    return sizes


def _read_to_the_end(path: Path) -> None:
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(_CHUNK):
                pass
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def _identify(path: Path) -> tuple[int, int, str]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, sha256(path)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class PutAway:
    """Listener to a run's record that archives the work folder of each finished participant.

    One at a time, in a process beside the run. As a context manager it ends with the last of
    them, or stops when the run is interrupted.

    Parameters
    ----------
    how : str
        See :func:`put_away`.
    parts : mapping of str to Part
        By participant label.
    steps : mapping of str to sequence of str
        Full names of each participant's steps.
    complain : callable
        Called with a label and a sentence when a participant could not be archived.
    """

    def __init__(
        self,
        how: str,
        parts: Mapping[str, Part],
        steps: Mapping[str, Iterable[str]],
        complain: Callable[[str, str], None],
    ) -> None:
        self._how = how
        self._parts = parts
        self._steps = {label: tuple(names) for label, names in steps.items()}
        self._left = {label: set(names) for label, names in self._steps.items()}
        self._complain = complain
        self._waiting: deque[str] = deque()
        self._now: tuple[str, subprocess.Popen[str]] | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Handle one event."""
        label = event.get("subject")
        if label not in self._left:
            return
        if event["event"] in ("step_failed", "step_skipped"):
            del self._left[label]
        elif event["event"] == "step_done":
            self._left[label].discard(event["step"])
            if not self._left[label]:
                del self._left[label]
                self._waiting.append(label)
        self._go_on(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            while self._now is not None or self._waiting:
                self._go_on(wait=True)
        elif self._now is not None:
            self._now[1].terminate()
            self._now[1].communicate()

    def _go_on(self, *, wait: bool) -> None:
        if self._now is not None:
            label, process = self._now
            if not wait and process.poll() is None:
                return
            said = process.communicate()[0].strip()
            self._now = None
            if process.returncode:
                self._complain(label, said.splitlines()[-1] if said else "It was killed.")
        if self._waiting:
            label = self._waiting.popleft()
            self._now = label, self._start(label)

    def _start(self, label: str) -> subprocess.Popen[str]:
        part = self._parts[label]
        process = subprocess.Popen(
            [sys.executable, "-m", "neuroferry.engine.finished"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        request = {
            "folder": str(part.folder),
            "outputs": str(part.outputs),
            "inputs": [str(path) for path in part.inputs],
            "key": part.key,
            "how": self._how,
            "steps": self._steps[label],
        }
        json.dump(request, process.stdin)
        process.stdin.close()
        process.stdin = None
        return process


def main() -> int:
    """Archive the participant named on standard input."""
    die_with_parent()
    os.nice(10)
    request = json.load(sys.stdin)
    part = Part(
        Path(request["folder"]),
        Path(request["outputs"]),
        tuple(Path(name) for name in request["inputs"]),
        request["key"],
    )
    try:
        put_away(part, request["how"], request["steps"])
    except (NeuroferryError, OSError) as err:
        print(err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
