"""Files that appear whole or not at all, and files of settings that are read."""

import errno
import filecmp
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from neuroferry.errors import ExitCode, InputError, NeuroferryError, ResourceError


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its keys in order, so that equal content has equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    path = Path(path)
    data = text.encode()
    try:
        if path.read_bytes() == data:
            return
    except OSError:
        pass  # not there yet
    write_whole(path, lambda beside: _write_new(beside, data))


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file line by line as UTF-8, whole or not at all: for tables of any length."""

    def write(beside: Path) -> None:
        with beside.open("x", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())

    write_whole(Path(path), write)


def copy_file(source: str | Path, path: str | Path) -> None:
    """Copy a file's bytes, whole or not at all; never a link, as work folders are deleted."""
    source, path = Path(source), Path(path)
    try:
        if filecmp.cmp(source, path, shallow=False):
            return
    except OSError:
        pass  # not there yet
    write_whole(path, lambda beside: _copy_new(source, beside))


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _copy_new(source: Path, path: Path) -> None:
    with source.open("rb") as origin, path.open("xb") as stream:
        shutil.copyfileobj(origin, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let a file be written under another name in its folder, then give it its own."""
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: OSError) -> NeuroferryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{path} could not be written: no space is left on its disk; make room and start the"
            " same command again, finished steps are kept",
            exit_code=ExitCode.IO,
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return NeuroferryError(
            f"{path} could not be written: {error.strerror}; make its folder writable, or choose"
            " another output folder",
            exit_code=ExitCode.CANNOT_CREATE,
        )
    return NeuroferryError(
        f"{path} could not be written: {error.strerror or error}", exit_code=ExitCode.IO
    )


def read_toml(path: Path, what: str = "settings file") -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    what : str
        What it is, for messages.

    Raises
    ------
    InputError
        When the file is missing, unreadable or no TOML.
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
