"""Runs, repeats, second reconstructions: the name of a series beside those that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from neuroferry.intake.ledger import Entry
from neuroferry.intake.reproin import Name

_AWAY = ("direction", "part", "echo", "inv")  # entities in which series of one run differ


@dataclass(frozen=True)
class Place:
    """Where a series goes among the others of its session.

    Attributes
    ----------
    run : str
        Label of the run; empty for none.
    instead_of : Entry or None
        The earlier series whose name it takes, and which is kept in ``sourcedata/repeated``.
    reason : str
        Why it gets no place; else empty.
    notes : tuple of str
        What is doubtful, as sentences.
    """

    run: str = ""
    instead_of: Entry | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """What of a series decides about its place.

    Attributes
    ----------
    name : Name
        Its name.
    base : tuple of str
        As `Entry.base`.
    acquired : datetime.datetime or None
    image_type : tuple of str
    checksums : tuple of str
        SHA-256 of its images; empty if they are not known yet.
    n_volumes : int
    before : Entry or None
        What became of the same series before, with fewer objects.
    """

    name: Name
    base: tuple[str, ...]
    acquired: datetime | None
    image_type: tuple[str, ...]
    checksums: tuple[str, ...] = ()
    n_volumes: int = 1
    before: Entry | None = None


def base_of(name: Name, protocol: str) -> tuple[str, ...]:
    """Tell what series of one run share: protocol, folder, entities but direction, part, echo."""
    pairs = sorted(f"{key}-{value}" for key, value in name.entities.items() if key not in _AWAY)
    return (" ".join(protocol.split()).casefold(), name.datatype, *pairs)


def find_place(
    one: Candidate,
    others: Sequence[Entry],
    files: Callable[[str], Sequence[str]],
    exists: Callable[[str], bool],
    repeats: str,
) -> Place:
    """Find the run of a series, or the reason why it gets no place.

    Parameters
    ----------
    one : Candidate
        The series.
    others : sequence of Entry
        Other series of its session in the dataset.
    files : callable
        Names of its images for a run.
    exists : callable
        Whether a file of that name is in the dataset.
    repeats : str
        ``"runs"`` or ``"replace"``.
    """
    owner = {file: entry for entry in others for file in entry.files}
    twin = next((entry for entry in others if _same_images(one, entry)), None)
    if twin is not None:
        return Place(reason=f"The same images are in the dataset as {_first(twin)}.")
    for entry in others:
        together = one.acquired is not None and entry.when() == one.acquired
        if together and set(files(entry.run)) & set(entry.files):
            return Place(
                reason=f"It was acquired together with {_first(entry)} (series {entry.number}): a"
                f" second reconstruction ({_difference(one.image_type, entry.image_type)})."
            )
    run = _wanted(one, others, files, owner)
    taken = [file for file in files(run) if exists(file) and not _mine(file, one)]
    if not taken:
        return Place(run)
    earlier = owner.get(taken[0])
    if earlier is None:
        return Place(
            reason=f"{taken[0]} is in the dataset already, and the intake did not write it."
        )
    if one.name.run.isdigit() or repeats == "replace":
        if one.n_volumes < earlier.n_volumes:
            return Place(
                reason=f"It repeats {_first(earlier)}, but has {one.n_volumes} volumes only where"
                f" that has {earlier.n_volumes}."
            )
        return Place(
            run,
            earlier,
            notes=(
                f"It repeats series {earlier.number}, which had its name and is kept in"
                " sourcedata/repeated.",
            ),
        )
    number = int(run or 1) + 1
    while any(exists(file) for file in files(f"{number:02d}")):
        number += 1
    return Place(
        f"{number:02d}",
        notes=(f"{_first(earlier)} was acquired before, and this repeat is run-{number:02d}.",),
    )


def _wanted(
    one: Candidate,
    others: Sequence[Entry],
    files: Callable[[str], Sequence[str]],
    owner: dict[str, Entry],
) -> str:
    """Tell the run that a series should have: that of the series which it belongs to."""
    if one.before is not None and one.before.fate == "placed":
        return one.before.run
    if one.name.run.isdigit():
        return one.name.run
    last = max((int(entry.run or 1) for entry in others if entry.base == one.base), default=0)
    counted = one.name.run in ("+", "=")
    if last == 0:
        return "01" if counted else ""
    run = f"{last:02d}" if counted or last > 1 else ""
    if one.name.run == "+" and any(file in owner for file in files(run)):
        return f"{last + 1:02d}"
    return run


def _same_images(one: Candidate, entry: Entry) -> bool:
    return one.image_type == entry.image_type and bool(set(one.checksums) & set(entry.checksums))


def _mine(file: str, one: Candidate) -> bool:
    return one.before is not None and file in one.before.files


def _first(entry: Entry) -> str:
    return next(iter(entry.images()), f"series {entry.number}")


def _difference(mine: tuple[str, ...], other: tuple[str, ...]) -> str:
    only = "/".join(word for word in mine if word not in other)
    theirs = "/".join(word for word in other if word not in mine)
    if not only and not theirs:
        return "of the same image type"
    return f"{only or 'nothing'} instead of {theirs or 'nothing'} in its image type"
