"""Choice of the T1w images of a session: repeats of one acquisition, which are averaged.

Repeats differ in ``run`` alone, and in nothing that changes the contrast or the voxels. Of several
acquisitions one is chosen: without a contrast agent before with one; then thin slices before thick
ones (the longest side of a voxel, in whole mm); then with an inversion time before without, as
inversion separates the tissues best; then smaller voxels; then fewer entities in the name; then
the first name. Phase and complex parts and chunks of a head are never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroferry.bids.entities import ENTITIES
from neuroferry.bids.headers import image_grid
from neuroferry.bids.model import OTHER_PARTS, Image

#: Relative difference up to which times and angles are the same, and voxels.
_SAME = 0.01
_SAME_VOXELS = 0.1
_CONTRAST = ("EchoTime", "InversionTime", "RepetitionTime", "FlipAngle")
_AGENT = "ContrastBolusIngredient"
_HOW = "--bids-filter-file chooses others"


def choose_t1w(images: Sequence[Image]) -> dict[Path, str]:
    """Find the T1w images of a session that are left out.

    Parameters
    ----------
    images : sequence of Image
        All T1w images of one session, in the order of their names.

    Returns
    -------
    dict of Path to str
        Why each of them is left out, as a sentence without its subject.
    """
    left_out = {image.path: why for image in images if (why := why_no_head(image))}
    groups: dict[frozenset[tuple[str, str]], list[Image]] = {}
    for image in images:
        if image.path not in left_out:
            groups.setdefault(_acquisition(image), []).append(image)
    if not groups:
        return left_out
    chosen, *others = sorted(groups.values(), key=lambda group: _rank(group[0]))
    for group in others:
        why = _no_acquisition(group[0], chosen[0])
        left_out |= {image.path: why for image in group}
    first, *repeats = chosen
    for image in repeats:
        differences = [*_contrast(first, image)]
        if differences:
            left_out[image.path] = (
                f"is no repeat of {first.path.name}: they differ in {' and '.join(differences)}."
                f" The first is used; {_HOW}"
            )
    return left_out


def why_no_head(image: Image) -> str:
    """Explain why an image shows no head by itself; empty if it may."""
    part = image.entities.get("part")
    if part in OTHER_PARTS:
        return f"is not used: part-{part} is not a magnitude image"
    chunk = image.entities.get("chunk")
    if chunk is not None:
        return f"is not used: chunk-{chunk} shows a part of the head only"
    return ""


def _acquisition(image: Image) -> frozenset[tuple[str, str]]:
    return frozenset(
        (key, value)
        for key, value in image.entities.items()
        if key != "run" and (key, value) != ("part", "mag")
    )


def _rank(image: Image) -> tuple[bool, int, bool, float, int, str]:
    """Rank an acquisition; the lowest is chosen."""
    _, zooms = image_grid(image.path)
    return (
        "ceagent" in image.entities or _agent(image.metadata) != "",
        max(1, round(max(zooms))),
        not _number(image.metadata, "InversionTime"),
        round(max(zooms), 1),
        len(_acquisition(image)),
        image.path.name,
    )


_RULES = (
    "it was acquired without a contrast agent",
    "its slices are thinner",
    "it was acquired with an inversion time",
    "its voxels are smaller",
    "its name has fewer entities",
    "its name comes first",
)


def _no_acquisition(image: Image, chosen: Image) -> str:
    unlike = {key for key, _ in _acquisition(image) ^ _acquisition(chosen)}
    keys = " and ".join(ENTITIES[key] for key in ENTITIES if key in unlike)
    pairs = zip(_rank(image), _rank(chosen), _RULES, strict=True)
    why = next(rule for one, other, rule in pairs if one != other)
    return (
        f"is no repeat of {chosen.path.name}: they differ in {keys}. {chosen.path.name} is used,"
        f" because {why}; {_HOW}"
    )


def _contrast(first: Image, other: Image) -> Iterator[str]:
    """List what differs between two images of one name, other than the run."""
    for key in _CONTRAST:
        values = [_number(image.metadata, key) for image in (first, other)]
        if values[0] and values[1] and abs(values[0] - values[1]) > _SAME * max(values):
            yield f"{key} ({values[0]:g} and {values[1]:g})"
    agents = [_agent(image.metadata) for image in (first, other)]
    if agents[0] != agents[1]:
        yield _AGENT
    one, two = (np.sort(image_grid(image.path)[1]) for image in (first, other))
    if not np.allclose(one, two, rtol=_SAME_VOXELS, atol=0):
        yield f"voxel size ({_mm(one)} and {_mm(two)} mm)"


def _number(metadata: Mapping[str, Any], key: str) -> float:
    value = metadata.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if known else 0.0  # type: ignore[arg-type]


def _agent(metadata: Mapping[str, Any]) -> str:
    value = str(metadata.get(_AGENT) or "").strip().lower()
    return "" if value in ("none", "n/a") else value


def _mm(sides: Iterable[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in sides)
