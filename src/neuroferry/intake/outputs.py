"""Which of the images that a converter made of a series gets which name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neuroferry.intake.dcm2niix import Converted
from neuroferry.intake.reproin import Name

#: Additions to the name of what dcm2niix makes beside an image: overlays, and images that are
#: interpolated where the slices are not equally far apart or are tilted.
_BESIDE = ("_ROI", "_Eq", "_Tilt")
_PARTS = {"phase": ("P", "PHASE"), "real": ("R", "REAL"), "imag": ("I", "IMAGINARY")}
_MAPS = ("ADC", "TRACE", "TRACEW", "FA", "COLFA", "EXP")


@dataclass(frozen=True)
class Item:
    """One image with its name in BIDS, but for participant, session and run.

    Attributes
    ----------
    converted : Converted
        The image.
    suffix : str
    entities : dict of str to str
        Long names of entities to labels.
    content : dict
        The sidecar, to be completed.
    """

    converted: Converted
    suffix: str
    entities: dict[str, str]
    content: dict[str, Any] = field(default_factory=dict)


def assign(name: Name, converted: Sequence[Converted]) -> tuple[list[Item], str, tuple[str, ...]]:
    """Name each image that came of a series.

    Parameters
    ----------
    name : Name
        Name of the series.
    converted : sequence of Converted
        The images.

    Returns
    -------
    items : list of Item
    reason : str
        Why they cannot be named, as a sentence; else empty.
    notes : tuple of str
        What is left out, as sentences.
    """
    kept = [one for one in converted if not any(word in one.kind for word in _BESIDE)]
    maps = [one for one in kept if set(_words(one)) & set(_MAPS)]
    if 0 < len(maps) < len(kept):
        kept = [one for one in kept if one not in maps]
    notes = []
    if len(kept) < len(converted):
        notes.append(
            f"{len(converted) - len(kept)} of {len(converted)} images that dcm2niix made are"
            " overlays, maps or interpolated copies, and were left out."
        )
    if not kept:
        return [], "dcm2niix made interpolated images only: slices are not equally far apart.", ()
    echoes = sorted({_echo_time(one) for one in kept})
    n_phases = sum(part_of(one) == "phase" for one in kept)
    items = [_item(name, one, echoes, len(kept), n_phases) for one in kept]
    names = Counter((item.suffix, tuple(sorted(item.entities.items()))) for item in items)
    twice = [key for key, count in names.items() if count > 1]
    if twice:
        return (
            [],
            (
                f"dcm2niix made {len(kept)} images of it that would have the same name:"
                " write rules that tell the protocols apart, or look at the series."
            ),
            tuple(notes),
        )
    return items, "", tuple(notes)


def part_of(converted: Converted) -> str:
    """Tell which part of a complex image an image is: "mag", "phase", "real" or "imag"."""
    words = _words(converted)[2:]
    if "_ph" in converted.kind:
        return "phase"
    for part, signs in _PARTS.items():
        if any(sign in words for sign in signs) and "MAGNITUDE" not in words:
            return part
    return "mag"


def _item(name: Name, one: Converted, echoes: list[float], n_images: int, n_phases: int) -> Item:
    entities, suffix, part = dict(name.entities), name.suffix, part_of(one)
    echo = echoes.index(_echo_time(one)) + 1
    if name.datatype == "fmap" and suffix in ("magnitude", "phasediff", "phase"):
        suffix = _fieldmap_suffix(suffix, part, echo, n_phases)
    elif name.datatype == "fmap" and suffix == "fieldmap" and part == "mag" and n_images > 1:
        suffix = "magnitude"
    else:
        if part != "mag":
            entities.setdefault("part", part)
        if len(echoes) > 1:
            entities.setdefault("echo", str(echo))
    return Item(one, suffix, entities, dict(one.content))


def _fieldmap_suffix(suffix: str, part: str, echo: int, n_phases: int) -> str:
    if part == "phase":
        return f"phase{echo}" if n_phases > 1 else "phasediff"
    return f"magnitude{echo}" if suffix == "magnitude" or part == "mag" else suffix


def _echo_time(one: Converted) -> float:
    try:
        return round(float(one.content.get("EchoTime", 0.0)), 6)
    except (TypeError, ValueError):
        return 0.0


def _words(one: Converted) -> list[str]:
    words = one.content.get("ImageType")
    return [str(word) for word in words] if isinstance(words, list) else []
