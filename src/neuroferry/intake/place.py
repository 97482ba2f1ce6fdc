"""Placing of converted series in a BIDS dataset, whole or not at all.

A placing is staged in the private folder with a journal, and then carried out. Each step of the
journal can be done again, so that one which a crash interrupted is finished by whoever comes next.
Images come last: whoever sees an image sees its sidecar.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuroferry.files import copy_file, write_json
from neuroferry.intake.fieldmaps import update_intended
from neuroferry.intake.labels import locked
from neuroferry.intake.ledger import Entry, Ledger, as_json, from_json
from neuroferry.intake.tables import (
    DATASET_FILES,
    add_participant,
    add_rows,
    describe_dataset,
    drop_rows,
    scans_table,
)

_JOURNAL = "journal.json"
_REPEATED = "sourcedata/repeated"
#: Name of a file that was being written when its process was killed.
_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.part")


@dataclass(frozen=True)
class Placing:
    """What is to be done with the staged files of one series.

    Attributes
    ----------
    entry : Entry
        The entry of the ledger, when it is done.
    files : mapping of str to str
        Names in the staging folder to names in the dataset.
    times : mapping of str to str or None
        Images to their time of acquisition, as it is written.
    gone : tuple of str
        Files of an earlier state of the series, to be removed.
    repeated : Entry or None
        The series whose files are moved away first.
    moves : mapping of str to str
        Its files, and where in ``sourcedata/repeated`` they go.
    intended_for, match_shims
        Rules of field maps.
    version : str
        Version of the program, for the description of a new dataset.
    """

    entry: Entry
    files: Mapping[str, str]
    times: Mapping[str, str | None] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    repeated: Entry | None = None
    moves: Mapping[str, str] = field(default_factory=dict)
    intended_for: str = "none"
    match_shims: bool = True
    version: str = ""


def recover(root: Path) -> int:
    """Finish placings that a crash interrupted.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the intake.

    Returns
    -------
    int
        Number of placings that were finished. `neuroferry.intake.convert.process_series` does it
        too, before it places anything.
    """
    with locked(root) as folder:
        return finish_interrupted(folder, root)


def finish_interrupted(folder: Path, root: Path) -> int:
    """Finish interrupted placings, and remove what was staged without a journal.

    Halves of the files that were being written go, too.

    Parameters
    ----------
    folder : pathlib.Path
        The private folder, locked.
    root : pathlib.Path
        Folder of the intake.
    """
    finished = 0
    for staged in sorted((folder / "placing").glob("*")):
        journal = staged / _JOURNAL
        if journal.exists():
            placing = _read(journal)
            _carry_out(placing, staged, folder, root)
            _remove_halves(placing, folder, root)
            finished += 1
        shutil.rmtree(staged, ignore_errors=True)
    for private in (folder, folder / "series"):
        _remove_halves_in(private, None)
    return finished


def staging(folder: Path, key: str) -> Path:
    """Make the empty folder in which the files of a series are staged."""
    staged = folder / "placing" / key
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


def place(placing: Placing, staged: Path, folder: Path, root: Path) -> None:
    """Place staged files; after the journal is written, nothing stops it for good.

    Parameters
    ----------
    placing : Placing
        What is to be done.
    staged : pathlib.Path
        Folder of `staging` with the files.
    folder : pathlib.Path
        The private folder, locked.
    root : pathlib.Path
        Folder of the intake.
    """
    write_json(staged / _JOURNAL, _as_json(placing))
    _carry_out(placing, staged, folder, root)
    shutil.rmtree(staged, ignore_errors=True)


def stem_of(name: str) -> str:
    """Take the extension off a name.

    >>> stem_of("anat/sub-01_T1w.nii.gz")
    'anat/sub-01_T1w'
    """
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def plan_moves(earlier: Entry, dataset: Path) -> dict[str, str]:
    """Name the places in ``sourcedata/repeated`` for the files of a series that was repeated."""
    number = 0
    while True:
        number += 1
        moves = {}
        for name in earlier.files:
            stem = stem_of(name)
            moves[name] = f"{_REPEATED}/{stem}__dup-{number:02d}{name[len(stem) :]}"
        if not any((dataset / new).exists() for new in moves.values()):
            return moves


def _carry_out(placing: Placing, staged: Path, folder: Path, root: Path) -> None:
    entry, ledger = placing.entry, Ledger(folder, placing.entry.label)
    dataset = root / entry.dataset
    describe_dataset(dataset, Path(entry.dataset).name, placing.version)
    moved = (
        [] if placing.repeated is None else [_move_away(placing.repeated, placing.moves, dataset)]
    )
    for name in placing.gone:
        (dataset / name).unlink(missing_ok=True)
        with suppress(OSError):  # other series are in it
            (dataset / name).parent.rmdir()
    for name in sorted(placing.files, key=lambda name: (name.endswith(".nii.gz"), name)):
        source, target = staged / name, dataset / placing.files[name]
        if source.exists():
            copy_file(source, target)
    if entry.fate == "placed":
        add_participant(dataset, entry.label)
        _list_scans(placing, dataset)
    ledger.put([*moved, entry])
    if placing.intended_for != "none":
        update_intended(
            dataset,
            [one for one in ledger.entries.values() if _beside(one, entry)],
            closest=placing.intended_for == "closest",
            match_shims=placing.match_shims,
        )


def _remove_halves(placing: Placing, folder: Path, root: Path) -> None:
    """Remove the halves of files that an interrupted placing wrote, and of no others."""
    entry = placing.entry
    dataset = root / entry.dataset
    ledger = Ledger(folder, entry.label)
    written = {dataset / name for name in placing.files.values()}
    written |= {dataset / name for one in ledger.entries.values() for name in one.files}
    written.add(dataset / scans_table(entry.label, entry.session))
    for folder_of in {path.parent for path in written}:
        _remove_halves_in(folder_of, {path.name for path in written if path.parent == folder_of})
    _remove_halves_in(dataset, DATASET_FILES)


def _remove_halves_in(folder: Path, names: Iterable[str] | None) -> None:
    for path in folder.glob(".*.part"):
        found = _PART.fullmatch(path.name)
        if found and (names is None or found["name"] in names):
            path.unlink(missing_ok=True)


def _beside(one: Entry, entry: Entry) -> bool:
    mine = (entry.dataset, entry.session, "placed")
    return (one.dataset, one.session, one.fate) == mine


def _list_scans(placing: Placing, dataset: Path) -> None:
    entry = placing.entry
    table = scans_table(entry.label, entry.session)
    below = f"{table.rpartition('/')[0]}/"
    gone = [name.removeprefix(below) for name in placing.gone]
    drop_rows(dataset / table, "filename", gone)
    rows = {
        name.removeprefix(below): {} if time is None else {"acq_time": time}
        for name, time in placing.times.items()
    }
    add_rows(dataset / table, "filename", rows)


def _move_away(earlier: Entry, moves: Mapping[str, str], dataset: Path) -> Entry:
    """Move the files of a series that was repeated, out of the way of BIDS."""
    for old, new in moves.items():
        # if it is there, the file with the old name is that of the later series already
        if not (dataset / new).exists() and (dataset / old).exists():
            (dataset / new).parent.mkdir(parents=True, exist_ok=True)
            (dataset / old).replace(dataset / new)
    table = scans_table(earlier.label, earlier.session)
    below = f"{table.rpartition('/')[0]}/"
    drop_rows(dataset / table, "filename", [name.removeprefix(below) for name in earlier.files])
    return replace(
        earlier,
        fate="set aside",
        reason="It was repeated: a later series has its name.",
        files=tuple(moves.values()),
    )


def _as_json(placing: Placing) -> dict[str, Any]:
    return {
        **{name: getattr(placing, name) for name in Placing.__dataclass_fields__},
        "entry": as_json(placing.entry),
        "repeated": as_json(placing.repeated) if placing.repeated else None,
    }


def _read(journal: Path) -> Placing:
    content = json.loads(journal.read_text(encoding="utf-8"))
    repeated = content["repeated"]
    return Placing(
        **{
            **content,
            "entry": from_json(content["entry"]),
            "gone": tuple(content["gone"]),
            "repeated": from_json(repeated) if repeated else None,
        }
    )


def used_labels(dataset: Path) -> frozenset[str]:
    """List the labels of participants that a dataset has, whoever placed them."""
    folders: Iterable[Path] = dataset.glob("sub-*") if dataset.exists() else ()
    return frozenset(path.name.removeprefix("sub-") for path in folders if path.is_dir())
