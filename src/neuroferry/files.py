"""Atomic writing of files, reading of TOML files, and the errors of unreadable images."""

import errno
import filecmp
import json
import os
import shutil
import struct
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

from neuroferry.errors import ExitCode, InputError, NeuroferryError, ResourceError


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys, so that equal content has equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str, *, flush: bool = True) -> None:
    """Write a UTF-8 text file, whole or not at all; see `whole_file` for `flush`."""
    write_bytes(path, text.encode(), flush=flush)


def write_bytes(path: str | Path, data: bytes, *, flush: bool = True) -> None:
    """Write a file, whole or not at all; a file with the same bytes is left untouched."""
    path = Path(path)
    try:
        if path.read_bytes() == data:
            return
    except OSError:
        pass  # not there yet
    with whole_file(path, flush=flush) as beside:
        beside.write_bytes(data)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a UTF-8 text file line by line, whole or not at all, for tables of any length."""
    with (
        whole_file(path, flush=True) as beside,
        beside.open("x", encoding="utf-8", newline="\n") as stream,
    ):
        stream.writelines(f"{line}\n" for line in lines)


def copy_file(source: str | Path, path: str | Path) -> None:
    """Copy a file, whole or not at all; never link it, as work folders are deleted."""
    source, path = Path(source), Path(path)
    try:
        if filecmp.cmp(source, path, shallow=False):
            return
    except OSError:
        pass  # not there yet
    with (
        source.open("rb") as origin,
        whole_file(path, flush=True) as beside,
        beside.open("xb") as stream,
    ):
        shutil.copyfileobj(origin, stream, 1 << 20)


@contextmanager
def whole_file(path: str | Path, *, flush: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name in its folder, then rename it.

    Every file is written this way: readers see the old file or the new one, never a part of it.
    Missing folders are made.

    Parameters
    ----------
    path : path
        Final path of the file.
    flush : bool
        Flush the bytes to disk before the file is renamed, for results: a power cut leaves no
        empty file behind, and some network file systems report a full disk only then. It costs
        milliseconds a file and the time to write large ones; intermediate results can be
        computed again.

    Yields
    ------
    Path
        Name to create the file under with ``open``, so that its mode follows the umask. It
        becomes `path` when the block ends; after an error nothing is left of it.

    Raises
    ------
    ResourceError
        If no space is left on the disk.
    NeuroferryError
        If the file cannot be written for another reason; the message says what to do.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "sub-01" / "a.txt") as beside:
    ...         _ = beside.write_text("1")
    ...     [path.name for path in Path(folder).rglob("*")]
    ['sub-01', 'a.txt']
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(path, error) from error
    try:
        yield beside
        if flush:
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):  # on a disk that cannot be written there is nothing to remove
            beside.unlink()
        if isinstance(error, OSError) and _is_about(error, beside):
            raise _explain(path, error) from error
        raise


def _is_about(error: OSError, beside: Path) -> bool:
    """Tell whether an error is about writing this file, not about reading its source."""
    named = error.filename is None or str(error.filename) == str(beside)
    return named and error.errno is not None  # gzip's and nibabel's own have no number


def _explain(path: Path, error: OSError) -> NeuroferryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{path} could not be written: no space is left on its disk. Make room and run the"
            " same command again; finished steps are kept.",
            exit_code=ExitCode.IO,
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return NeuroferryError(
            f"{path} could not be written: {error.strerror}; make its folder writable, or choose"
            " another output folder.",
            exit_code=ExitCode.CANNOT_CREATE,
        )
    return NeuroferryError(
        f"{path} could not be written: {error.strerror or error}", exit_code=ExitCode.IO
    )


def image_errors() -> tuple[type[Exception], ...]:
    """List the errors that nibabel raises on an unreadable file.

    Which one depends on where the damage is: in the file, its compression, or a header value
    that is not a valid type, length, offset or quaternion.
    """
    import nibabel as nb

    return (
        *(OSError, EOFError, zlib.error, struct.error, MemoryError),
        *(ValueError, KeyError, TypeError, IndexError, ArithmeticError),
        nb.filebasedimages.ImageFileError,
        nb.spatialimages.HeaderDataError,
        nb.spatialimages.ImageDataError,
        nb.wrapstruct.WrapStructError,
    )


def read_toml(path: Path, what: str = "settings file") -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    what : str
        Its kind, for messages.

    Raises
    ------
    InputError
        When the file is missing, unreadable or not TOML.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as err:
        raise InputError(
            f"The {what} {path} cannot be read ({err.strerror}).",
            exit_code=ExitCode.NO_INPUT,
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"The {what} {path} is not valid TOML: {err}.") from err


def package_toml(name: str) -> dict[str, Any]:
    """Read one of the TOML files that come with the package.

    Parameters
    ----------
    name : str
        File in ``configs/``.

    Examples
    --------
    >>> sorted(package_toml("slurm.toml"))[0]
    'slurm'
    """
    return tomllib.loads(
        resources.files("neuroferry.configs").joinpath(name).read_text(encoding="utf-8")
    )
