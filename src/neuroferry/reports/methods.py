"""The methods text of a run as HTML with numbered citations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from urllib.parse import quote

from neuroferry.files import package_toml

_CITATION = re.compile(r"\[(@[\w:.-]+(?:\s*;\s*@[\w:.-]+)*)\]|(?<![\w/.])@([A-Za-z][\w-]*)")
_DOI = re.compile(r"(?<![\w/.])(?:https?://doi\.org/|doi:\s*)(10\.\d{4,}/[^\s,;)&<]*[^\s,;.)&<])")


@dataclass(frozen=True)
class Reference:
    """One entry of the reference list."""

    key: str
    authors: str
    year: int
    title: str
    journal: str
    doi: str

    @property
    def url(self) -> str:
        """Address of its DOI."""
        return f"https://doi.org/{self.doi}"


@dataclass(frozen=True)
class MethodsText:
    """Methods text as HTML, its references in order, and keys without a reference."""

    html: str
    references: tuple[Reference, ...]
    unknown: tuple[str, ...]


@lru_cache(maxsize=1)
def load_references() -> Mapping[str, Reference]:
    """Read ``configs/references.toml``."""
    entries = package_toml("references.toml")
    return {key: Reference(key, **entry) for key, entry in entries.items()}


def cited_keys(text: str) -> list[str]:
    """Find the keys that a text cites, each once, in the order of their first use.

    Examples
    --------
    >>> cited_keys("By N4 [@tustison2010; @ants], then again @tustison2010. Mail a@b.org.")
    ['tustison2010', 'ants']
    """
    keys: dict[str, None] = {}
    for group, single in _CITATION.findall(text):
        for key in group.split(";") if group else [single]:
            keys.setdefault(key.strip().removeprefix("@"))
    return list(keys)


def render_methods(text: str) -> MethodsText:
    """Render paragraphs, emphasis, code and citations; everything else is shown verbatim.

    Parameters
    ----------
    text : str
        Paragraphs separated by empty lines, with ``[@key]`` or ``[@key; @other]``.

    Returns
    -------
    MethodsText
        With all special characters of HTML escaped.

    Examples
    --------
    >>> render_methods("Done with N4 [@tustison2010].").html
    '<p>Done with N4 <span class="cite">[<a href="#ref-tustison2010">1</a>]</span>.</p>'
    """
    known = load_references()
    keys = cited_keys(text)
    numbers = {key: n for n, key in enumerate((k for k in keys if k in known), start=1)}

    def cite(match: re.Match[str]) -> str:
        group, single = match.groups()
        marks = []
        for part in group.split(";") if group else [single]:
            key = part.strip().removeprefix("@")
            if key in numbers:
                marks.append(f'<a href="#ref-{key}">{numbers[key]}</a>')
            else:
                marks.append(key)
        return f'<span class="cite">[{", ".join(marks)}]</span>'

    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        line = " ".join(block.split())
        if not line:
            continue
        heading = re.match(r"#+\s+(.*)", block.strip())
        if heading and "\n" not in block.strip():
            blocks.append(f"<h3>{escape(heading.group(1))}</h3>")
            continue
        html = escape(line, quote=False)
        html = _DOI.sub(_link, html)
        html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
        html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
        html = re.sub(r"(?<!\*)\*([^*]+)\*(?!\*)", r"<em>\1</em>", html)
        blocks.append(f"<p>{_CITATION.sub(cite, html)}</p>")
    return MethodsText(
        "\n".join(blocks),
        tuple(known[key] for key in numbers),
        tuple(key for key in keys if key not in known),
    )


def _link(match: re.Match[str]) -> str:
    """Link a DOI, encoded so that quotation marks and stars do not break the HTML."""
    doi = match.group(1)
    return f'<a href="https://doi.org/{quote(doi, safe="/:()")}">doi:{doi}</a>'
