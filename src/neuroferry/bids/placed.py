"""Images of a participant with sound names; all others are left out, each with a problem."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from neuroferry.bids.ignored import Ignored
from neuroferry.bids.model import Problem, Severity
from neuroferry.bids.naming import (
    DATATYPES,
    BadNameError,
    Facts,
    is_session,
    printable,
    read_place,
    seems_used,
)
from neuroferry.bids.tree import Listing, list_images

_SHOWN = 3
#: Entities whose values are numbers: ``run-01`` is ``run-1``.
_INDICES = ("run", "echo", "flip", "inv", "split", "chunk")


class Placed(NamedTuple):
    """Images of a participant.

    Attributes
    ----------
    images : list of (Path, Facts)
        Those with sound names, in the order of their paths.
    problems : list of Problem
        What was left out. An error if it may be an image that a workflow reads.
    n_files : int
        Number of all images, those included.
    """

    images: list[tuple[Path, Facts]]
    problems: list[Problem]
    n_files: int


def find_images(root: Path, label: str, ignored: Ignored, used: Collection[str]) -> Placed:
    """Find a participant's images.

    Parameters
    ----------
    root : path
        Root of the dataset.
    label : str
        Label of the participant.
    ignored : Ignored
        Patterns of files that are left out.
    used : collection of str
        Suffixes of the images that the workflows read.

    Returns
    -------
    Placed
    """
    listing = list_images(root, label)
    sound: dict[str, Facts] = {}
    faults: dict[tuple[str, str], list[str]] = {}
    hidden: list[str] = []
    for place in listing.images:
        try:
            facts = read_place(place.split("/"))
        except BadNameError as fault:
            if place not in ignored:
                folder = place.rpartition("/")[0]
                text = "desc-, space- and the like name derivatives, not images of the scanner"
                faults.setdefault((folder, text if fault.derived else str(fault)), []).append(
                    place
                )
            continue
        if place in ignored:
            hidden += [place] if facts.suffix in used else []
        else:
            sound[place] = facts
    twice = _doubled(sound)
    problems = [
        *_unreadable(listing, root, label),
        *_misnamed(faults, root, label, used),
        *_named_twice(twice, sound, root, label, used),
    ]
    if hidden:
        text = f"{_names(hidden)}: left out, as .bidsignore lists them"
        problems.append(Problem(text, "warning", root / hidden[0], label))
    kept = [(root / place, facts) for place, facts in sound.items() if place not in twice]
    return Placed(kept, problems, len(listing.images))


def _unreadable(listing: Listing, root: Path, label: str) -> Iterator[Problem]:
    for place, why in listing.faults:
        name = place.rpartition("/")[2]
        counts = name in DATATYPES or is_session(name) or name == f"sub-{label}"
        path = root / printable(place)
        severity: Severity = "error" if counts else "warning"
        yield Problem(f"{path} {why}; what is in it is left out", severity, path, label)


def _misnamed(
    faults: dict[tuple[str, str], list[str]], root: Path, label: str, used: Collection[str]
) -> Iterator[Problem]:
    for (_, why), places in faults.items():
        names = [place.rpartition("/")[2] for place in places]
        counts = any(seems_used(name, used) for name in names)
        path = root / printable(places[0])
        what = f"{path}" if len(places) == 1 else f"{path.parent}: {_names(places)}"
        left, it = ("it is left out", "it") if len(places) == 1 else ("they are left out", "them")
        cure = f"Rename or move {it}, or list {it} in .bidsignore"
        severity: Severity = "error" if counts else "warning"
        yield Problem(f"{what}: {printable(why)}, so {left}. {cure}", severity, path, label)


def _doubled(sound: dict[str, Facts]) -> dict[str, str]:
    """Find the images with the facts of another one, which is the first, or the compressed one."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for place, (entities, suffix, datatype) in sound.items():
        facts = frozenset((key, _value(key, value)) for key, value in entities.items())
        groups.setdefault((facts, suffix, datatype), []).append(place)
    found: dict[str, str] = {}
    for places in groups.values():
        if len(places) > 1:
            first = min(places, key=lambda place: (not place.endswith(".gz"), place))
            found |= {place: first for place in places if place != first}
    return found


def _value(entity: str, value: str) -> str:
    is_number = entity in _INDICES and value.isdigit()
    return str(int(value)) if is_number else value


def _named_twice(
    twice: dict[str, str],
    sound: dict[str, Facts],
    root: Path,
    label: str,
    used: Collection[str],
) -> Iterator[Problem]:
    for place, first in twice.items():
        severity: Severity = "error" if sound[place].suffix in used else "warning"
        yield Problem(
            f"{root / place} names the same image as {first.rpartition('/')[2]}, so it is left"
            f" out. Remove one of them, or list it in .bidsignore",
            severity,
            root / place,
            label,
        )


def _names(places: Iterable[str]) -> str:
    names = [printable(place.rpartition("/")[2]) for place in places]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
