"""Packages of an environment with their licences, read from their metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from neuroferry.errors import InputError
from neuroferry.licences.terms import allows_commercial_use, join_expressions, load_licences


@dataclass(frozen=True)
class Package:
    """A package, its version and its licence.

    Parameters
    ----------
    name, version : str
        As written by its kind of package.
    kind : str
        ``python``, ``debian`` or ``data``.
    licence : str
        An SPDX licence expression.
    """

    name: str
    version: str
    kind: str
    licence: str

    @property
    def commercial(self) -> bool | None:
        """Whether its licence allows commercial use; None if unknown."""
        return allows_commercial_use(self.licence)


def data_packages() -> list[Package]:
    """List the data in the image that no package manager lists."""
    return [
        Package(entry["name"], entry["version"], "data", entry["licence"])
        for entry in load_licences()["data"]
    ]


def python_packages(root: str = "") -> list[Package]:
    """Read the licences of Python packages.

    Parameters
    ----------
    root : str
        Only this package and its installed requirements; by default all installed packages.

    Raises
    ------
    InputError
        If neither a package nor ``configs/licences.toml`` declares its licence.
    """
    names = _requirements(root) if root else None
    packages: dict[str, Package] = {}
    for distribution in metadata.distributions():
        name = _normalise(distribution.metadata["Name"])
        if names is None or name in names:
            packages.setdefault(
                name,
                Package(name, distribution.version, "python", _python_licence(name, distribution)),
            )
    return [packages[name] for name in sorted(packages)]


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(root: str) -> set[str]:
    found: set[str] = set()
    queue = [_normalise(root)]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requires:
            wanted = re.match(r"[A-Za-z0-9._-]+", requirement)
            if wanted and not re.search(r";.*\bextra\b", requirement):
                queue.append(_normalise(wanted[0]))
    return found


def _python_licence(name: str, distribution: metadata.Distribution) -> str:
    parts = [_declared(name, distribution)]
    table = load_licences()["python"]["libraries"]
    for library in sorted(_bundled(distribution)):
        known = [start for start in table if library.startswith(start)]
        if not known:
            raise InputError(
                f"The Python package {name} bundles the library {library}, whose licence is "
                "unknown. Add it to configs/licences.toml, under [python.libraries]."
            )
        parts.append(table[max(known, key=len)])
    return parts[0] if len(parts) == 1 else join_expressions(parts)


def _declared(name: str, distribution: metadata.Distribution) -> str:
    """Return the licence expression of a package's metadata, or of the table for its words."""
    table = load_licences()["python"]
    if name in table["packages"]:
        return str(table["packages"][name])
    about = distribution.metadata
    words = [
        word.removeprefix("License :: ")
        for field in ("License-Expression", "License", "Classifier")
        for word in about.get_all(field) or []
    ]
    for word in words:
        expression = table["names"].get(word, word)
        if _is_known(expression):
            return str(expression)
    raise InputError(
        f"The Python package {name} does not declare its licence as an SPDX expression, and "
        "configs/licences.toml has no entry for it. Add one there, under [python.packages]."
    )


def _is_known(expression: str) -> bool:
    try:
        return bool(expression) and allows_commercial_use(expression) is not None
    except ValueError:
        return False


def _bundled(distribution: metadata.Distribution) -> Iterator[str]:
    """List the shared libraries that a wheel bundles from elsewhere."""
    for file in distribution.files or ():
        if file.parts[0].endswith(".libs") and ".so" in file.name:
            yield Path(file.name).name
