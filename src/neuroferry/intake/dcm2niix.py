"""The converter, dcm2niix: running it on the objects of a series, and reading what it wrote."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
from nibabel.filebasedimages import ImageFileError

from neuroferry.errors import ExitCode, InputError, ResourceError, ToolError

_STEM = "image"
#: Fewest bytes that have to be free for a failure not to be one of the disk.
_ROOM = 64 << 20
#: Place of pixdim[4] in a NIfTI-1 header, and of descrip.
_STEP, _DESCRIPTION = 92, (148, 80)
#: What dcm2niix says of every conversion of a kind, and what is said here already.
_KNOWN = re.compile(r"(?i)slices stacked despite|bogus slice timing \(range -1\.\.-1")


@dataclass(frozen=True)
class Converted:
    """One image that dcm2niix made of a series.

    Attributes
    ----------
    image : pathlib.Path
        The image, ``.nii.gz``.
    content : dict
        Its sidecar.
    gradients : tuple of pathlib.Path
        ``.bval`` and ``.bvec``; empty if there are none.
    shape : tuple of int
    kind : str
        What dcm2niix added to the name, such as ``"_ph"`` or ``"_e2"``.
    """

    image: Path
    content: dict[str, Any]
    gradients: tuple[Path, ...]
    shape: tuple[int, ...]
    kind: str

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return self.shape[3] if len(self.shape) > 3 else 1


def find_dcm2niix() -> str:
    """Find the program: the one of the Python package, else one on the PATH.

    Raises
    ------
    ToolError
        If there is none.
    """
    with suppress(ImportError):
        import dcm2niix  # the wheel with the program; what Debian installs is none

        if Path(dcm2niix.bin).exists():
            return str(dcm2niix.bin)
    found = shutil.which("dcm2niix")
    if found is None:
        raise ToolError(
            "dcm2niix is not installed: install neuroferry's extra `intake`, or dcm2niix itself.",
            exit_code=ExitCode.UNAVAILABLE,
        )
    return found


def convert(paths: Iterable[Path], folder: Path) -> tuple[list[Converted], tuple[str, ...]]:
    """Convert the objects of one series.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        The objects. The converter sees them under names without meaning.
    folder : pathlib.Path
        Empty folder to work in.

    Returns
    -------
    converted : list of Converted
        What came of it, in the order of names.
    warnings : tuple of str
        What dcm2niix warned of.

    Raises
    ------
    InputError
        If dcm2niix cannot convert the series; one sentence.
    ResourceError
        If the disk is full.
    ToolError
        If dcm2niix is not installed.
    """
    source, target = folder / "dicom", folder / "nifti"
    for made in (source, target):
        made.mkdir(parents=True)
    for number, path in enumerate(paths):
        (source / f"{number:06d}.dcm").symlink_to(path.resolve())
    command = [find_dcm2niix(), "-g", "i", "-b", "y", "-ba", "y", "-c", "", "-z", "i", "-3"]
    command += ["-w", "2", "-f", _STEM, "-o", str(target), str(source)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolError(
            f"dcm2niix cannot be started: {error.strerror}.", exit_code=ExitCode.UNAVAILABLE
        ) from error
    if done.returncode != 0:
        _explain(done.returncode, f"{done.stdout}\n{done.stderr}", folder)
    converted = [_read(path) for path in sorted(target.glob("*.nii.gz"))]
    if not converted:
        raise InputError("dcm2niix made no image of it.")
    return converted, _warnings(done.stdout, folder)


def set_step(image: Path, seconds: float) -> None:
    """Write the time from volume to volume into the header of an image."""
    _patch(image, _STEP, struct.pack("<f", seconds))


def clear_description(image: Path) -> None:
    """Blank the free text of the header, into which dcm2niix writes the time of day."""
    start, length = _DESCRIPTION
    _patch(image, start, b"\0" * length)


def _patch(image: Path, start: int, raw: bytes) -> None:
    beside = image.with_name(f"{image.name}.new")
    with gzip.open(image, "rb") as stream, beside.open("wb") as target:
        head = bytearray(stream.read(348))
        little = head[:4] == struct.pack("<i", 348)
        head[start : start + len(raw)] = raw if little or len(raw) != 4 else raw[::-1]
        with gzip.GzipFile("", "wb", 3, target, mtime=0) as packed:
            packed.write(head)
            shutil.copyfileobj(stream, packed, 1 << 20)
    beside.replace(image)


def _read(path: Path) -> Converted:
    stem = path.name.removesuffix(".nii.gz")
    try:
        shape = tuple(int(size) for size in nb.Nifti1Image.from_filename(path).shape)
    except (OSError, ValueError, ImageFileError, EOFError) as error:
        raise InputError("The image that dcm2niix wrote cannot be read.") from error
    content: dict[str, Any] = {}
    sidecar = path.with_name(f"{stem}.json")
    if sidecar.exists():
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8", errors="replace"))
        except ValueError as error:
            raise InputError("The sidecar that dcm2niix wrote is not JSON.") from error
    gradients = tuple(path.with_name(f"{stem}.{kind}") for kind in ("bval", "bvec"))
    return Converted(
        path,
        content,
        gradients if all(one.exists() for one in gradients) else (),
        shape,
        stem.removeprefix(_STEM),
    )


def _explain(code: int, text: str, folder: Path) -> None:
    if shutil.disk_usage(folder).free < _ROOM or "No space left" in text:
        raise ResourceError(
            f"No space is left on the disk of {folder}: make room; the series is tried again.",
            exit_code=ExitCode.IO,
        )
    if code < 0:
        raise InputError(f"dcm2niix crashed on it (signal {-code}).")
    lines = [line for line in text.splitlines() if re.match(r"(?i)error", line)]
    said = f": {_clean(lines[-1], folder)}" if lines else ""
    raise InputError(f"dcm2niix could not convert it (exit code {code}){said}.")


def _warnings(text: str, folder: Path) -> tuple[str, ...]:
    lines = [
        _clean(line.partition(":")[2], folder)
        for line in text.splitlines()
        if re.match(r"(?i)warning", line) and not _KNOWN.search(line)
    ]
    return tuple(f"dcm2niix: {line}." for line in dict.fromkeys(lines) if line)[:5]


def _clean(line: str, folder: Path) -> str:
    """Leave out paths, and signs that are no text."""
    line = re.split(r"Convert \d+ DICOM", line.replace(str(folder), ""))[0]
    text = re.sub(r"(?<!\S)/[^\s/]+/\S*", "(file)", line)
    return re.sub(r"[\x00-\x1f\x7f]", " ", text).strip().rstrip(".")[:200]
