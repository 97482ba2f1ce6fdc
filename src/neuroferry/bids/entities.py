"""Entities of BIDS file names: order, keys, parsing and formatting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Long name (as in pybids) to key, in BIDS order.
#: ``from``, ``to`` and ``mode`` belong to transforms, ``model``, ``param`` and ``bundle`` to
#: diffusion; BIDS has not yet adopted either.
ENTITIES: dict[str, str] = {
    "subject": "sub",
    "template": "tpl",
    "session": "ses",
    "cohort": "cohort",
    "sample": "sample",
    "task": "task",
    "tracksys": "tracksys",
    "acquisition": "acq",
    "nucleus": "nuc",
    "volume": "voi",
    "ceagent": "ce",
    "tracer": "trc",
    "staining": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "flip": "flip",
    "inv": "inv",
    "mt": "mt",
    "part": "part",
    "proc": "proc",
    "hemi": "hemi",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "atlas": "atlas",
    "segmentation": "seg",
    "scale": "scale",
    "resolution": "res",
    "density": "den",
    "from": "from",
    "to": "to",
    "mode": "mode",
    "label": "label",
    "model": "model",
    "parameter": "param",
    "bundle": "bundle",
    "description": "desc",
}
NAMES = {key: name for name, key in ENTITIES.items()}
_LABEL = re.compile(r"[a-zA-Z0-9+]+")
_PLUS = "_plus_"


class FileName(NamedTuple):
    """A BIDS file name in its parts."""

    entities: dict[str, str]
    suffix: str
    extension: str


def is_label(text: str) -> bool:
    """Check that a text can be the value of an entity: letters, digits and plus signs.

    >>> is_label("n+back"), is_label("n-back"), is_label("")
    (True, False, False)
    """
    return _LABEL.fullmatch(text) is not None


def parse_name(path: str | Path) -> FileName:
    """Split a file name into entities, suffix and extension; unknown keys are skipped.

    Examples
    --------
    >>> parse_name("sub-01_acq-mprage_run-02_T1w.nii.gz")
    FileName(entities={'subject': '01', 'acquisition': 'mprage', 'run': '02'}, \
suffix='T1w', extension='.nii.gz')
    >>> parse_name("T1w.json")
    FileName(entities={}, suffix='T1w', extension='.json')
    """
    stem, dot, extension = Path(path).name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if dash and key in NAMES:
            entities[NAMES[key]] = value
    return FileName(entities, suffix, dot + extension)


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Build a file name with its entities in BIDS order; the inverse of `parse_name`.

    Raises
    ------
    ValueError
        If an entity is unknown, or a value is not letters, digits and plus signs.

    Examples
    --------
    >>> build_name({"description": "brain", "subject": "01"}, "mask", ".nii.gz")
    'sub-01_desc-brain_mask.nii.gz'
    """
    for name, value in entities.items():
        if name not in ENTITIES:
            raise ValueError(f"{name!r} is not a BIDS entity{did_you_mean(name, ENTITIES)}")
        if not is_label(value):
            raise ValueError(f"{value!r} cannot be the value of the BIDS entity {name!r}")
    pairs = [f"{key}-{entities[name]}" for name, key in ENTITIES.items() if name in entities]
    return "_".join([*pairs, suffix]) + extension


def common_entities(names: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Find the entities that all have with the same value.

    Examples
    --------
    >>> common_entities([{"subject": "01", "run": "1"}, {"subject": "01", "run": "2"}])
    {'subject': '01'}
    """
    if not names:
        return {}
    first, *others = names
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def strip_label(label: str, key: str) -> str:
    """Remove the key from a label, if it has one.

    Examples
    --------
    >>> strip_label("sub-01", "sub"), strip_label("01", "sub")
    ('01', '01')
    """
    return label.strip().removeprefix(f"{key}-")


def in_node_name(label: str) -> str:
    """Write a label as a part of a Nipype node's name, which may hold no plus sign.

    No two labels are written alike: labels have no underscores.

    Examples
    --------
    >>> in_node_name("pre+post"), from_node_name("pre_plus_post")
    ('pre_plus_post', 'pre+post')
    """
    return label.replace("+", _PLUS)


def from_node_name(text: str) -> str:
    """Read a label from a node's name; the inverse of `in_node_name`."""
    return text.replace(_PLUS, "+")


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Suggest the known words nearest to an unknown one, as the end of a sentence.

    Examples
    --------
    >>> did_you_mean("acq", ["acquisition", "run"])
    '; did you mean acquisition?'
    >>> did_you_mean("xyz", [])
    ''
    """
    words = sorted(set(known))
    near = [other for other in words if word and other.startswith(word)]
    near = (near or difflib.get_close_matches(word, words, n=3, cutoff=0.5))[:3]
    if near:
        return f"; did you mean {' or '.join(prefix + other for other in near)}?"
    if not words:
        return ""
    shown = ", ".join(prefix + other for other in words[:5])
    more = f" and {len(words) - 5} more" if len(words) > 5 else ""
    return f"; available: {shown}{more}"
