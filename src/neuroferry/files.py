"""Atomic writing of files, and reading of files that may be anything."""

import errno
import filecmp
import json
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from neuroferry.errors import ExitCode, InputError, NeuroferryError, ResourceError

#: Largest sidecar, table or list of gradients that is read, in bytes: the memory that its content
#: takes is a multiple of it.
MOST_BYTES = 16 << 20
#: Errors of file systems that cannot do what was asked, such as some in user space.
_NOT_POSSIBLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_POINTER = re.compile(rb"annex/objects/|^version https://git-lfs")


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
            _flush(beside)
        _rename(beside, path)
    except BaseException as error:
        with suppress(OSError):  # on a disk that cannot be written there is nothing to remove
            beside.unlink()
        if isinstance(error, OSError) and _is_about(error, beside):
            raise _explain(path, error) from error
        raise


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        try:
            os.fsync(stream.fileno())
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise


def _rename(beside: Path, path: Path) -> None:
    try:
        beside.replace(path)
    except OSError as error:
        over = os.path.lexists(path) and not path.is_dir()
        if (
            error.errno not in (errno.EEXIST, errno.EPERM, errno.EACCES, *_NOT_POSSIBLE)
            or not over
        ):
            raise
        # some network file systems do not replace a file in one step
        path.unlink()
        beside.rename(path)


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


def read_input(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a small file of somebody else's, such as a sidecar, whole.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    most : int
        Largest size in bytes that is read.

    Raises
    ------
    InputError
        If it cannot be read, is not a file, has no content yet, or is larger; the message names
        the file and what to do.
    """
    with open_input(path) as stream:
        try:
            content = stream.read(most + 1)
        except OSError as error:
            raise unreadable(path, error) from error
    if len(content) > most:
        raise InputError(
            f"{path} is larger than {most >> 20} MB, which no file of its kind is; look what it is"
        )
    refuse_pointer(path, content[:400])
    return content


def refuse_pointer(path: Path, start: bytes) -> None:
    """Refuse what git-annex and git-lfs leave in place of content that was not fetched."""
    if _POINTER.search(start):
        raise InputError(
            f"{path} only points to content that is not here; fetch it (`datalad get` in a DataLad"
            " dataset)"
        )


def open_input(path: Path) -> IO[bytes]:
    """Open a file of somebody else's for reading.

    Nothing else is opened: reading from a pipe would wait for ever.

    Raises
    ------
    InputError
        If it cannot be read or is not a file.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    names = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
    what = next((name for test, name in names if test(kind)), "device")
    raise InputError(f"{path} is a {what}, not a file; remove it, or replace it by the file")


def unreadable(path: Path, error: Exception) -> InputError:
    """Explain why a file cannot be read."""
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return InputError(
            f"{path} links to a file that does not exist ({path.readlink()}); fetch its content"
            " (`datalad get` in a DataLad dataset)"
        )
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{path} cannot be read: {reason}; check the file and its permissions")


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
