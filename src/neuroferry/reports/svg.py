"""SVG files for use inside a page: without scripts, external links or shared identifiers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
ALLOWED = frozenset(
    (
        *("svg", "g", "defs", "use", "symbol", "marker", "pattern", "mask", "clipPath"),
        *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image"),
        *("text", "tspan", "desc", "linearGradient", "radialGradient", "stop"),
    )
)
_REFERENCE = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")
_DATA_IMAGE = re.compile(r"data:image/(webp|png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")


def inline_svg(path: Path, prefix: str) -> str | None:
    """Read an SVG file for use inside a page.

    Only drawing elements are kept; titles are removed too, since browsers show them as a tooltip
    over the whole figure (its ``aria-label`` is kept). References to anything outside the file are
    removed, and identifiers get a prefix.

    Parameters
    ----------
    path : pathlib.Path
        An SVG file.
    prefix : str
        Prefix of every identifier.

    Returns
    -------
    str or None
        The ``<svg>`` element; ``None`` if the file is missing or broken.
    """
    try:
        root = ET.fromstring(path.read_bytes())
    except (OSError, ET.ParseError):
        return None
    if root.tag != f"{{{SVG}}}svg":
        return None
    _clean(root, prefix)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def looks_whole(path: Path) -> bool:
    """Check by its first and last bytes whether a file is a complete SVG."""
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
            stream.seek(-min(path.stat().st_size, 64), 2)
            end = stream.read()
    except OSError:
        return False
    return b"<svg" in start and end.rstrip().endswith(b"</svg>")


def _clean(element: ET.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        kept = _clean_attribute(name, value, prefix)
        if kept is None:
            del element.attrib[name]
        else:
            if name == f"{{{XLINK}}}href":
                del element.attrib[name]
                name = "href"
            element.set(name, kept)
    for child in list(element):
        namespace, _, local = str(child.tag)[1:].rpartition("}")
        if namespace != SVG or local not in ALLOWED:
            element.remove(child)
        else:
            _clean(child, prefix)


def _clean_attribute(name: str, value: str, prefix: str) -> str | None:
    local = name.rpartition("}")[2].lower()
    if local.startswith("on") or local in ("base", "src"):
        return None
    if local == "href":
        if value.startswith("#"):
            return f"#{prefix}{value[1:]}"
        return value if _DATA_IMAGE.fullmatch(value) else None
    if local == "id":
        return prefix + value
    inside = _REFERENCE.sub("", value)
    if re.search(r"url\s*\(|@import|javascript:|expression\s*\(|\\", inside, re.IGNORECASE):
        return None
    return _REFERENCE.sub(lambda match: f"url(#{prefix}{match.group(1)})", value)
