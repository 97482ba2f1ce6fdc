"""Licences of Debian packages, read from their copyright files.

Most of these are machine-readable [1]_; the licences of the others are listed in
``configs/licences.toml``. A licence may apply to files of the source package that are not part of
this one: the expression names too many licences rather than too few.

References
----------
.. [1] Debian Project. Machine-readable debian/copyright file, version 1.0.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from neuroferry.licences.packages import Package
from neuroferry.licences.terms import (
    DEBIAN_REF,
    allows_commercial_use,
    join_expressions,
    load_licences,
)

_DOC = Path("/usr/share/doc")
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)-?v?(\d)(\.\d)?(?:\.0)?(\+|-only|-or-later)?")


def debian_packages(doc: Path = _DOC) -> tuple[list[Package], dict[str, str]]:
    """Read the licences of the installed Debian packages.

    Parameters
    ----------
    doc : pathlib.Path
        Folder of ``PACKAGE/copyright``.

    Returns
    -------
    list of Package
        Sorted by name.
    dict of str to str
        The text of each licence that SPDX has no identifier for.
    """
    listing = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages: list[Package] = []
    texts: dict[str, str] = {}
    for line in sorted(set(listing.stdout.splitlines())):
        name, version = line.split("\t")
        copyright_file = (doc / name / "copyright").read_text("utf-8", errors="replace")
        expression, more = read_copyright(name, copyright_file)
        packages.append(Package(name, version, "debian", expression))
        texts.update(
            {key: text for key, text in more.items() if len(text) > len(texts.get(key, ""))}
        )
    return packages, texts


def read_copyright(name: str, text: str) -> tuple[str, dict[str, str]]:
    """Read the licences of a package from its copyright file.

    Parameters
    ----------
    name : str
        The package.
    text : str
        The file.

    Returns
    -------
    str
        An SPDX licence expression.
    dict of str to str
        The text of each licence that SPDX has no identifier for.

    Examples
    --------
    >>> expression, texts = read_copyright("tool", '''Format: 1.0
    ...
    ... Files: *
    ... License: GPL-2+ or Expat
    ...
    ... Files: extra/*
    ... License: mine
    ...  Do as you like.
    ... ''')
    >>> expression
    'LicenseRef-Debian-mine AND (GPL-2.0-or-later OR MIT)'
    >>> texts
    {'LicenseRef-Debian-mine': 'Do as you like.'}
    """
    for pattern, expression in load_licences()["debian"]["packages"].items():
        if fnmatchcase(name, pattern):
            return str(expression), {}
    if not re.match(r"\s*Format", text, re.IGNORECASE):
        ref = DEBIAN_REF + _clean(name)
        return ref, {ref: text.strip()}
    expressions: list[str] = []
    bodies: dict[str, str] = {}
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", text):
        found = re.search(r"^License:[ \t]*(.*)\n?((?:[ \t].*\n?)*)", paragraph, re.MULTILINE)
        if not found:
            continue
        body = re.sub(r"^ \.?", "", found[2], flags=re.MULTILINE).strip()
        words = found[1].strip() or "unnamed"
        if body:
            bodies.setdefault(words, body)
        files = re.search(r"^Files:[ \t]*((?:.*\n?)(?:[ \t].*\n?)*)", paragraph, re.MULTILINE)
        if files and all(part.startswith("debian/") for part in files[1].split()):
            continue
        if files or re.search(r"^Format", paragraph, re.MULTILINE | re.IGNORECASE):
            expressions.append(_expression(words))
    joined = join_expressions(expressions)
    return joined, _texts(joined, bodies)


def _texts(expression: str, bodies: Mapping[str, str]) -> dict[str, str]:
    texts = dict.fromkeys(re.findall(rf"{DEBIAN_REF}[\w.-]+", expression), "")
    for words, body in bodies.items():
        for name in _names(words):
            ref = _identifier(name)
            if ref in texts:
                texts[ref] = max(body, texts[ref], key=len)
    return texts


def _names(words: str) -> list[str]:
    names = re.split(r",?\s+(?:and/or|and|or)\s+|,\s*", words, flags=re.IGNORECASE)
    return [name for name in names if name]


def _expression(words: str) -> str:
    """Convert the words after ``License:`` to an SPDX expression.

    If "and" and "or" are mixed, all apply: this never claims a freedom that is not granted.
    """
    names = list(dict.fromkeys(_identifier(name) for name in _names(words)))
    choice = re.search(r"\bor\b", words, re.IGNORECASE)
    both = re.search(r"\band\b(?!/or)", words, re.IGNORECASE)
    if choice and not both and len(names) > 1:
        return f"({' OR '.join(sorted(names))})"
    return " AND ".join(names)


def _identifier(name: str) -> str:
    """Find the SPDX identifier of a Debian short name.

    Examples
    --------
    >>> _identifier("LGPL-2.1+"), _identifier("GPL-3 with Bison exception"), _identifier("Expat")
    ('LGPL-2.1-or-later', 'GPL-3.0-only', 'MIT')
    """
    bare = re.split(r"[ -](?:with|WITH)[ -]", name.strip())[0]
    known = load_licences()["debian"]["names"].get(bare.lower())
    if known:
        return str(known)
    for licence in load_licences()["commercial"]["allowed"]:
        if licence.lower() == bare.lower():
            return str(licence)
    gnu = _GNU.fullmatch(bare)
    if gnu:
        later = "or-later" if gnu[4] in ("+", "-or-later") else "only"
        guess = f"{gnu[1]}-{gnu[2]}{gnu[3] or '.0'}-{later}"
        if allows_commercial_use(guess):
            return guess
    if bare in ("GPL", "LGPL"):
        return "GPL-1.0-or-later" if bare == "GPL" else "LGPL-2.0-or-later"
    return DEBIAN_REF + _clean(bare)


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "unnamed"
