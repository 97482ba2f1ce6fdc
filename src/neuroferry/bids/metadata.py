"""Sidecar JSON files, read by the BIDS inheritance principle.

pybids does the same for a whole dataset, but one broken file anywhere in it makes the index
fail; here it only affects the images that it applies to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.errors import InputError
from neuroferry.files import read_input, unreadable

#: Deepest nesting of a sidecar; those of converters have three levels.
_DEEPEST = 50
#: Digits of the longest whole number that fits a float.
_LONGEST_WHOLE = 300
#: Characters of a value in a message.
_LONGEST_SHOWN = 40


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, whatever the file holds.

    Returns
    -------
    dict
        NaN and Infinity, which JSON does not have but converters write, are floats, as are whole
        numbers of hundreds of digits.

    Raises
    ------
    InputError
        If the file cannot be read, is not a JSON object, is nested very deeply, or gives one key
        two values; the message names the file and, for a syntax error, the line and column.
    """
    raw = read_input(path)
    if not raw.strip():
        raise InputError(f"{path} is empty; write a JSON object ({{...}}), or remove the file")
    try:
        content = json.loads(
            raw.decode("utf-8-sig"), parse_int=_parse_int, object_pairs_hook=_unambiguous
        )
        _check_depth(content)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno},"
            f" column {error.colno}; correct the file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        deep = f"it is nested more than {_DEEPEST} levels deep"
        reason = deep if isinstance(error, RecursionError) else error
        raise InputError(f"{path} cannot be used: {reason}; correct the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object ({{...}}); correct the file")
    return content


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_WHOLE else float(digits)


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; a key that is there twice must have one value."""
    content: dict[str, Any] = {}
    for key, found in pairs:
        text, value = _printable(key), _printable(found)
        # by their texts, since NaN differs from itself
        if text in content and repr(content[text]) != repr(value):
            raise ValueError(f"it gives {text!r} twice, with different values")
        content[text] = value
    return content


def _printable(value: Any) -> Any:
    """Replace halves of characters, which no file or terminal takes, in a text or a list."""
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _check_depth(content: object) -> None:
    level = [content]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise RecursionError


def shown(value: object) -> str:
    """Show a value of a sidecar in a message, cut to a readable length.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


class SidecarReader:
    """Reader that merges the sidecars of the images of one dataset, each file read once.

    With another `extension` it finds other files that apply to images, such as ``.bval``.
    """

    def __init__(self, root: Path, extension: str = ".json") -> None:
        self._root = root
        self._extension = extension
        self._folders: dict[Path, list[Path]] = {}
        self._contents: dict[Path, dict[str, Any] | InputError] = {}

    def read(self, image: Path) -> tuple[dict[str, Any], list[tuple[Path, InputError]]]:
        """Merge the sidecars that apply to an image.

        Parameters
        ----------
        image : Path
            A data file below the root of the dataset.

        Returns
        -------
        metadata : dict
            Values from the nearest file win.
        broken : list of (Path, InputError)
            Applicable files that cannot be read, or contradict another one of their folder.
        """
        metadata: dict[str, Any] = {}
        broken = []
        try:
            paths = self.applicable(image)
        except InputError as error:
            return {}, [(image.parent, error)]
        origins: dict[str, Path] = {}
        for path in paths:
            content = self._load(path)
            if isinstance(content, InputError):
                broken.append((path, content))
                continue
            broken += _conflicts(path, content, metadata, origins)
            metadata.update(content)
            origins |= dict.fromkeys(content, path)
        return metadata, broken

    def applicable(self, image: Path) -> list[Path]:
        """List the sidecars that apply to an image, the farthest first.

        Raises
        ------
        InputError
            If a folder above the image cannot be read.
        """
        name = parse_name(image)
        folders = [self._root]
        for part in image.parent.relative_to(self._root).parts:
            folders.append(folders[-1] / part)
        found: list[Path] = []
        for folder in folders:
            here = []
            for path in self._sidecars(folder):
                other = parse_name(path)
                if other.suffix == name.suffix and other.entities.items() <= name.entities.items():
                    here.append((len(other.entities), path.name, path))
            found += [path for _, _, path in sorted(here)]
        return found

    def _sidecars(self, folder: Path) -> list[Path]:
        if folder not in self._folders:
            try:
                self._folders[folder] = [
                    path for path in folder.iterdir() if path.suffix == self._extension
                ]
            except OSError as error:
                raise unreadable(folder, error) from error
        return self._folders[folder]

    def _load(self, path: Path) -> dict[str, Any] | InputError:
        if path not in self._contents:
            try:
                self._contents[path] = read_json(path)
            except InputError as error:
                self._contents[path] = error
        return self._contents[path]


def _conflicts(
    path: Path,
    content: Mapping[str, Any],
    metadata: Mapping[str, Any],
    origins: Mapping[str, Path],
) -> list[tuple[Path, InputError]]:
    """Find values that a file and another one of its folder, neither more special, give a key.

    BIDS allows one applicable file per folder. A file whose name has all entities of the other
    one's, and more, is taken to correct it.
    """
    own = parse_name(path).entities
    for key, value in content.items():
        other = origins.get(key)
        if other is None or other.parent != path.parent or metadata[key] == value:
            continue
        if not parse_name(other).entities.items() < own.items():
            text = (
                f"{path} and {other.name} apply to the same image and give {key!r} different"
                f" values ({shown(value)} and {shown(metadata[key])}), and neither comes first;"
                " correct or rename one"
            )
            return [(path, InputError(text))]
    return []
