"""Folders of a dataset: its participants, and the images of each."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from neuroferry.bids.entities import did_you_mean, is_label
from neuroferry.bids.ignored import Ignored
from neuroferry.bids.model import Problem
from neuroferry.bids.naming import DATATYPES, is_session, printable
from neuroferry.errors import ExitCode, InputError

#: Folders beside the participants that BIDS or programs put there.
_NO_PARTICIPANTS = frozenset(
    [
        "code",
        "derivatives",
        "sourcedata",
        "rawdata",
        "stimuli",
        "phenotype",
        "logs",
        "models",
        "docs",
    ]
)
#: Ends of names of images, also in formats that BIDS has not: these are named, not passed over.
_IMAGES = (
    *(".nii", ".nii.gz", ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip"),
    *(".img", ".img.gz", ".mgz", ".mgh", ".nrrd", ".mnc"),
)


class Listing(NamedTuple):
    """Files below a participant's folder.

    Attributes
    ----------
    images : list of str
        Paths of the images below the root of the dataset, sorted.
    faults : list of (str, str)
        Folders that cannot be read, by path below the root, and why.
    """

    images: list[str]
    faults: list[tuple[str, str]]


def list_images(root: Path, label: str) -> Listing:
    """List every image below a participant's folder, wherever it lies, of any format.

    Links are followed; hidden files and folders are not. A folder with a dot in its name is a
    recording (``.ds``, ``.zarr``), and not entered.
    """
    found = Listing([], [])
    _walk(root, f"sub-{label}", found)
    found.images.sort()
    found.faults.sort()
    return found


def _walk(root: Path, folder: str, found: Listing) -> None:
    try:
        with os.scandir(f"{root}/{folder}") as stream:
            entries = list(stream)
    except OSError as error:
        found.faults.append((folder, f"cannot be read ({error.strerror})"))
        return
    for entry in entries:
        name, place = entry.name, f"{folder}/{entry.name}"
        if name[0] == ".":
            continue
        if name.lower().endswith(_IMAGES):  # a link that leads nowhere as well
            found.images.append(place)
        elif "." not in name and _is_folder(entry, place, found):
            if entry.is_symlink() and _leads_up(entry):
                found.faults.append((place, "links to a folder that it is in"))
            else:
                _walk(root, place, found)


def _is_folder(entry: os.DirEntry[str], place: str, found: Listing) -> bool:
    """Check for a folder; a link that leads nowhere is a fault."""
    why = _dead_link(entry)
    if why:
        found.faults.append((place, why))
        return False
    return entry.is_dir()


def _dead_link(entry: os.DirEntry[str]) -> str:
    """Explain why a link cannot be followed; empty if it can, or is none."""
    if not entry.is_symlink():
        return ""
    try:
        entry.stat()
    except OSError as error:
        target = printable(os.readlink(entry.path))  # noqa: PTH115  (as the rest of the walk)
        why = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        return f"links to {target}, which {why}"
    return ""


def _leads_up(entry: os.DirEntry[str]) -> bool:
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))  # noqa: PTH120
    return f"{here}/".startswith(f"{target.rstrip('/')}/")


def find_participants(bids_dir: Path) -> list[str]:
    """List the labels of a dataset's ``sub-`` folders, sorted, without those in ``.bidsignore``.

    Raises
    ------
    InputError
        If the folder does not exist or has no participants.
    """
    ignored = Ignored.of(bids_dir)
    labels = sorted(
        entry.name[4:]
        for entry in _scan(bids_dir)
        if _is_participant(entry) and f"{entry.name}/" not in ignored
    )
    if not labels:
        odd = [problem.message for problem in odd_participants(bids_dir)]
        raise InputError(
            f"{bids_dir} has no participants (no folder sub-<label>)"
            + (f": {odd[0]}" if odd else "; give the root of a BIDS dataset"),
            exit_code=ExitCode.INVALID_BIDS,
        )
    return labels


def odd_participants(bids_dir: Path) -> list[Problem]:
    """Name the folders that seem to hold a participant, but not under a name of BIDS.

    Returns
    -------
    list of Problem
        An error for each such folder, and warnings of participants in ``.bidsignore`` and of
        labels that differ in case alone.
    """
    ignored = Ignored.of(bids_dir)
    entries = sorted(_scan(bids_dir), key=lambda entry: entry.name)
    problems = []
    for entry in entries:
        hidden, sound = f"{entry.name}/" in ignored, _is_participant(entry)
        why = "" if sound or hidden else _oddity(entry)
        path = bids_dir / printable(entry.name)
        if why:
            problems.append(Problem(f"{path} is left out: {why}", "error", path))
        elif hidden and sound:
            text = f"{path} is left out, as .bidsignore lists it"
            problems.append(Problem(text, "warning", path))
    return [*problems, *_alike([entry.name for entry in entries if _is_participant(entry)])]


def missing_labels(
    what: str, key: str, missing: Sequence[str], known: Collection[str], root: Path
) -> InputError:
    """Make the error for labels of participants or sessions that a dataset does not have."""
    names = [f"{key}-{label}" for label in missing]
    odd = [p for p in odd_participants(root) if p.path and p.path.name in (*names, *missing)]
    hint = f": {odd[0].message}" if odd else did_you_mean(missing[0], known, prefix=f"{key}-")
    many = len(missing) > 1
    return InputError(
        f"The {what}{'s' if many else ''} {', '.join(names)} {'do' if many else 'does'} not exist"
        f" in {root}{hint}",
        exit_code=ExitCode.NOTHING_MATCHED,
    )


def _scan(bids_dir: Path) -> list[os.DirEntry[str]]:
    if not bids_dir.is_dir():
        raise InputError(
            f"The dataset {bids_dir} is not an existing folder; check the path",
            exit_code=ExitCode.NO_INPUT,
        )
    try:
        with os.scandir(bids_dir) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except PermissionError as error:
        raise InputError(
            f"The dataset {bids_dir} cannot be read: permission denied; make it readable",
            exit_code=ExitCode.NO_INPUT,
        ) from error


def _is_participant(entry: os.DirEntry[str]) -> bool:
    named = entry.name.startswith("sub-") and is_label(entry.name[4:])
    return named and not _dead_link(entry) and entry.is_dir()


def _oddity(entry: os.DirEntry[str]) -> str:
    """Explain why an entry of the root that seems a participant is none; empty otherwise."""
    name = entry.name
    named = name.startswith("sub-")
    why = _dead_link(entry)
    if why:
        return f"it {why}" if named else ""
    if not entry.is_dir() or name in _NO_PARTICIPANTS:
        return "it is not a folder" if named and is_label(name[4:]) else ""
    if named:
        return (
            f"'{printable(name[4:])}' is not a label of BIDS (letters, digits and +); rename the"
            " folder and the files in it"
        )
    if _holds_data(entry):
        return (
            "it seems to hold a participant, but is not named sub-<label>; rename the folder and"
            " the files in it, or list it in .bidsignore"
        )
    return ""


def _holds_data(folder: os.DirEntry[str]) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(
                (entry.name in DATATYPES or is_session(entry.name)) and entry.is_dir()
                for entry in entries
            )
    except OSError:
        return False


def _alike(names: list[str]) -> Iterator[Problem]:
    """Warn of labels that differ in case alone."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            yield Problem(
                f"{first} and {name} differ in case alone. They are two participants here; on a"
                " disk that does not tell upper from lower case, one's results would replace the"
                " other's",
                "warning",
            )
