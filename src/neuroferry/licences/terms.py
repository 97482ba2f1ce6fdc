"""Licence expressions, and the table ``configs/licences.toml`` of their terms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from neuroferry.files import package_toml

#: Prefix of licences in Debian's main archive without an SPDX identifier.
DEBIAN_REF = "LicenseRef-Debian-"

_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Tool:
    """A tool or template used for a result, and its licence."""

    name: str
    licence: str
    package: str
    cited: tuple[str, ...]


@lru_cache(maxsize=1)
def load_licences() -> Mapping[str, Any]:
    """Read ``configs/licences.toml``."""
    return package_toml("licences.toml")


def load_tools() -> tuple[Tool, ...]:
    """Read all tools of the table."""
    return tuple(
        Tool(
            entry["name"],
            entry["licence"],
            entry.get("package", ""),
            tuple(entry.get("cited", ())),
        )
        for entry in load_licences()["tools"]
    )


def tools_of(cited: Iterable[str]) -> tuple[Tool, ...]:
    """Select the tools used for a result.

    Parameters
    ----------
    cited : iterable of str
        Keys of references that its methods text cites.
    """
    keys = set(cited)
    return tuple(tool for tool in load_tools() if not tool.cited or keys.intersection(tool.cited))


@dataclass(frozen=True)
class LicenceUse:
    """A licence, a result's tools under this licence, and whether it allows commercial use."""

    licence: str
    tools: str
    commercial: bool | None


def licences_of(cited: Iterable[str]) -> tuple[LicenceUse, ...]:
    """List the licences of the tools used for a result, in the order of the table.

    Parameters
    ----------
    cited : iterable of str
        Keys of references that its methods text cites.

    Examples
    --------
    >>> [use.licence for use in licences_of(["nipype"])]
    ['Apache-2.0', 'BSD-3-Clause', 'MIT']
    """
    names: dict[str, list[str]] = {}
    for tool in tools_of(cited):
        names.setdefault(tool.licence, []).append(tool.name)
    return tuple(
        LicenceUse(licence, ", ".join(tools), allows_commercial_use(licence))
        for licence, tools in names.items()
    )


def patents_of(cited: Iterable[str]) -> tuple[str, ...]:
    """List a sentence for each patent on a cited method."""
    keys = set(cited)
    return tuple(
        entry["text"] for entry in load_licences()["patents"] if keys.intersection(entry["cited"])
    )


def allows_commercial_use(expression: str) -> bool | None:
    """Tell whether a licence allows commercial use.

    Parameters
    ----------
    expression : str
        An SPDX licence expression.

    Returns
    -------
    bool or None
        None if this depends on a part of it that is not in the table.

    Raises
    ------
    ValueError
        If it is not an expression.

    Examples
    --------
    >>> allows_commercial_use("MIT AND (GPL-3.0-only WITH GCC-exception-3.1 OR BSD-3-Clause)")
    True
    >>> allows_commercial_use("MIT AND CC-BY-NC-4.0"), allows_commercial_use("MIT OR CC-BY-NC-4.0")
    (False, True)
    >>> allows_commercial_use("LicenseRef-mine")
    """
    tokens = _tokens(expression)
    value = _any_of(tokens)
    if tokens:
        raise ValueError(f"'{expression}' is not an SPDX licence expression.")
    return value


def licence_ids(expression: str) -> list[str]:
    """List the parts of an expression: licences, with their exceptions.

    Examples
    --------
    >>> licence_ids("MIT AND (GPL-3.0-only WITH GCC-exception-3.1 OR MIT)")
    ['MIT', 'GPL-3.0-only WITH GCC-exception-3.1']
    """
    words = re.sub(r"[()]", " ", expression)
    parts = re.split(r"\s+(?:AND|OR)\s+", words.strip())
    return list(dict.fromkeys(" ".join(part.split()) for part in parts))


def join_expressions(expressions: Iterable[str]) -> str:
    """Join expressions that all apply into one, in its shortest form.

    Examples
    --------
    >>> join_expressions(["MIT AND Zlib", "Apache-2.0 OR MIT", "MIT", "ISC OR Apache-2.0"])
    'MIT AND Zlib AND (ISC OR Apache-2.0)'
    """
    alone: dict[str, None] = {}
    choices: dict[str, None] = {}
    for expression in expressions:
        for part in re.split(r"\s+AND\s+(?![^(]*\))", expression):
            bare = part.strip()
            if " OR " in bare:
                choices.setdefault(bare if re.fullmatch(r"\([^()]*\)", bare) else f"({bare})")
            else:
                alone.setdefault(bare.strip("()"))
    # A choice with a part that applies anyway adds nothing.
    open_choices = [choice for choice in choices if not alone.keys() & set(licence_ids(choice))]
    return " AND ".join([*sorted(alone, key=str.lower), *sorted(open_choices, key=str.lower)])


def _tokens(expression: str) -> list[str]:
    """Split an expression into words, the last one first."""
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        raise ValueError(f"'{expression}' is not an SPDX licence expression.")
    return tokens[::-1]


def _any_of(tokens: list[str]) -> bool | None:
    values = [_all_of(tokens)]
    while tokens and tokens[-1] == "OR":
        tokens.pop()
        values.append(_all_of(tokens))
    return True if True in values else None if None in values else False


def _all_of(tokens: list[str]) -> bool | None:
    values = [_one(tokens)]
    while tokens and tokens[-1] == "AND":
        tokens.pop()
        values.append(_one(tokens))
    return False if False in values else None if None in values else True


def _one(tokens: list[str]) -> bool | None:
    if not tokens or tokens[-1] in {"AND", "OR", "WITH", ")"}:
        raise ValueError("An SPDX licence expression ends too early.")
    word = tokens.pop()
    if word == "(":
        value = _any_of(tokens)
        if not tokens or tokens.pop() != ")":
            raise ValueError("An SPDX licence expression lacks a closing parenthesis.")
        return value
    if len(tokens) > 1 and tokens[-1] == "WITH":
        # An exception only widens what a licence allows.
        del tokens[-2:]
    table = load_licences()["commercial"]
    if word in table["allowed"] or word.startswith(DEBIAN_REF):
        return True
    return False if word in table["forbidden"] else None
