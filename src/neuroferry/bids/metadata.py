"""Sidecar JSON files, read by the BIDS inheritance principle.

pybids does the same for a whole dataset, but one broken file anywhere in it makes the index
fail; here it only affects the images that it applies to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If the file cannot be read or is not a JSON object; the message names the file and,
        for a syntax error, the line and column.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno},"
            f" column {error.colno}; correct the file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; make the file readable"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object ({{...}}); correct the file")
    return content


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
            Applicable files that cannot be read.
        """
        metadata: dict[str, Any] = {}
        broken = []
        for path in self.applicable(image):
            content = self._load(path)
            if isinstance(content, InputError):
                broken.append((path, content))
            else:
                metadata.update(content)
        return metadata, broken

    def applicable(self, image: Path) -> list[Path]:
        """List the sidecars that apply to an image, the farthest first."""
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
            self._folders[folder] = [
                path for path in folder.iterdir() if path.suffix == self._extension
            ]
        return self._folders[folder]

    def _load(self, path: Path) -> dict[str, Any] | InputError:
        if path not in self._contents:
            try:
                self._contents[path] = read_json(path)
            except InputError as error:
                self._contents[path] = error
        return self._contents[path]
