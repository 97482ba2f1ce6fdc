"""Index of the requested participants of a dataset and their images."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from neuroferry.bids.entities import did_you_mean, parse_name, strip_label
from neuroferry.bids.filters import QUERIES, apply_filters, check_filters, query_runs
from neuroferry.bids.metadata import SidecarReader, read_json
from neuroferry.bids.model import Image, Problem, Subject
from neuroferry.errors import ExitCode, InputError

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

IMAGE_EXTENSIONS = (".nii", ".nii.gz")
_DATABASE = "layout_index.sqlite"


def index_subjects(
    bids_dir: str | Path,
    *,
    participant_labels: Sequence[str] = (),
    session_labels: Sequence[str] = (),
    bids_filters: Mapping[str, Any] | None = None,
    database_dir: str | Path | None = None,
    needs_metadata: Collection[str] = (),
) -> list[Subject]:
    """Find the images of the requested participants.

    pybids reads the names; folders of other participants are not entered, so that the cost
    depends on the request and not on the size of the dataset. Sidecars are merged here
    (see `neuroferry.bids.metadata`), so that a broken one only affects its own images.

    Parameters
    ----------
    bids_dir : path
        Root of the dataset.
    participant_labels, session_labels : sequence of str
        With or without ``sub-`` and ``ses-``; empty for all.
    bids_filters : mapping, optional
        Query to entities, as in ``{"t1w": {"session": "01", "acquisition": None}}``; see
        `neuroferry.bids.filters.QUERIES`.
    database_dir : path, optional
        Where pybids keeps its index of the whole dataset between runs. Created if it does
        not exist, and again if it does not match the files of the participants.
    needs_metadata : collection of str
        Suffixes that cannot be processed without metadata: such an image with a broken
        sidecar is skipped with an error; others are kept with a warning.

    Returns
    -------
    list of Subject
        Sorted by label. A participant without images is included, with a problem.

    Raises
    ------
    InputError
        If the folder does not exist (exit code 66), ``dataset_description.json`` is not JSON
        (16), there are no participants (16), a label does not exist, or a filter matches
        nothing at all (18).
    UsageError
        If a filter names an unknown query or entity.
    """
    root = Path(os.path.abspath(bids_dir))  # noqa: PTH100  (resolve() would follow links)
    filters = dict(bids_filters or {})
    check_filters(filters)
    participants = find_participants(root)
    labels = _choose("participant", "sub", participant_labels, participants, root)
    images = _index_images(root, labels, everybody=not participant_labels, cache=database_dir)

    reader = SidecarReader(root)
    found = {label: [_make_run(reader, image) for image in images[label]] for label in labels}
    sessions = {run.session for runs in found.values() for run, _ in runs if run.session}
    wanted = _choose("session", "ses", session_labels, sessions, root) if session_labels else []
    _check_matches(filters, wanted, [run for runs in found.values() for run, _ in runs])

    subjects = []
    for label in labels:
        runs = [run for run, _ in found[label] if not wanted or run.session in wanted]
        kept = apply_filters(filters, runs)
        there = {run.path for run in kept}
        broken = {run.path: errors for run, errors in found[label] if errors and run.path in there}
        problems = (
            *_selection_problems(
                label, [run for run, _ in found[label]], runs, kept, wanted, root
            ),
            *_sidecar_problems(kept, broken, needs_metadata),
        )
        usable = (r for r in kept if r.path not in broken or r.suffix not in needs_metadata)
        subjects.append(Subject(label, tuple(usable), problems))
    return subjects


def find_participants(bids_dir: Path) -> list[str]:
    """List the labels of a dataset's ``sub-`` folders, sorted.

    Raises
    ------
    InputError
        If the folder does not exist or has no participants.
    """
    if not bids_dir.is_dir():
        raise InputError(
            f"The dataset {bids_dir} is not an existing folder; check the path",
            exit_code=ExitCode.NO_INPUT,
        )
    try:
        with os.scandir(bids_dir) as entries:
            labels = sorted(
                entry.name[4:]
                for entry in entries
                if re.fullmatch(r"sub-[a-zA-Z0-9+]+", entry.name) and entry.is_dir()
            )
    except PermissionError as error:
        raise InputError(
            f"The dataset {bids_dir} cannot be read: permission denied; make it readable",
            exit_code=ExitCode.NO_INPUT,
        ) from error
    if not labels:
        raise InputError(
            f"{bids_dir} has no participants (no folder sub-<label>); give the root of a BIDS"
            " dataset",
            exit_code=ExitCode.INVALID_BIDS,
        )
    return labels


def _choose(
    what: str, key: str, asked: Sequence[str], known: Collection[str], root: Path
) -> list[str]:
    """Turn the requested labels into existing ones, sorted, without duplicates."""
    if not asked:
        return sorted(known)
    labels = {strip_label(label, key) for label in asked}
    missing = sorted(labels - set(known))
    if missing:
        hint = did_you_mean(missing[0], known, prefix=f"{key}-")
        names = ", ".join(f"{key}-{label}" for label in missing)
        raise InputError(
            f"The {what}{'s' if len(missing) > 1 else ''} {names}"
            f" {'do' if len(missing) > 1 else 'does'} not exist in {root}{hint}",
            exit_code=ExitCode.NOTHING_MATCHED,
        )
    return sorted(labels)


def _index_images(
    root: Path, labels: list[str], *, everybody: bool, cache: str | Path | None
) -> dict[str, list[tuple[Path, dict[str, str]]]]:
    """Find each participant's images and their entities, in the order of their paths."""
    description = root / "dataset_description.json"
    if description.exists():  # pybids fails without a message if it is not an object
        try:
            read_json(description)
        except InputError as error:
            raise InputError(str(error), exit_code=ExitCode.INVALID_BIDS) from error
    layout = (
        _open_database(root, Path(cache), labels)
        if cache is not None
        else _make_layout(root, () if everybody else labels)
    )
    query: dict[str, Any] = {} if everybody else {"subject": labels}
    images: dict[str, list[tuple[Path, dict[str, str]]]] = {label: [] for label in labels}
    for file in layout.get(extension=list(IMAGE_EXTENSIONS), return_type="object", **query):
        entities = {k: str(v) for k, v in file.get_entities(metadata=False).items()}
        if {"subject", "suffix", "datatype"} <= entities.keys() and entities["subject"] in images:
            images[entities["subject"]].append((Path(file.path), entities))
    for found in images.values():
        found.sort(key=lambda image: str(image[0]))
    return images


def _make_layout(root: Path, labels: Iterable[str]) -> BIDSLayout:
    """Index the ``sub-`` folders of some participants, or of all if none is named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids.layout import BIDSLayout, BIDSLayoutIndexer

        names = "|".join(re.escape(label) for label in labels)
        elsewhere = re.compile(rf"^/(?!sub-(?:{names})(?:/|$))" if names else r"^/(?!sub-)")
        indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[elsewhere])
        return BIDSLayout(str(root), validate=False, indexer=indexer)


def _open_database(root: Path, folder: Path, labels: list[str]) -> BIDSLayout:
    """Load pybids' index of the whole dataset; create it (again) if it does not match."""
    layout = _load_database(root, folder)
    if layout is not None and _is_current(layout, root, labels):
        return layout
    beside = folder / f".{uuid4().hex}"
    try:
        beside.mkdir(parents=True)
        _make_layout(root, ()).save(str(beside))
        (beside / _DATABASE).replace(folder / _DATABASE)
        beside.rmdir()
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise InputError(
            f"The database folder {folder} cannot be written: {error}; choose another"
            " --bids-database-dir",
            exit_code=ExitCode.CANNOT_CREATE,
        ) from error
    layout = _load_database(root, folder)
    if layout is None:
        raise InputError(f"The database in {folder} cannot be read; delete the folder")
    return layout


def _load_database(root: Path, folder: Path) -> BIDSLayout | None:
    """Load the index in a folder; None if there is none for this dataset."""
    if not (folder / _DATABASE).exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids.layout import BIDSLayout
        from sqlalchemy.exc import SQLAlchemyError

        try:
            layout = BIDSLayout(str(root), validate=False, database_path=str(folder))
        except SQLAlchemyError:
            return None
        return layout if Path(layout.root) == root else None


def _is_current(layout: BIDSLayout, root: Path, labels: list[str]) -> bool:
    known = layout.get(extension=list(IMAGE_EXTENSIONS), subject=labels, return_type="file")
    there = {
        os.path.join(folder, name)  # noqa: PTH118  (ten thousand Path objects take a second)
        for label in labels
        for folder, _, names in os.walk(root / f"sub-{label}", followlinks=True)
        for name in names
        if name.endswith(IMAGE_EXTENSIONS)
    }
    return set(known) == there


def _make_run(
    reader: SidecarReader, image: tuple[Path, dict[str, str]]
) -> tuple[Image, list[tuple[Path, InputError]]]:
    path, facts = image
    metadata, broken = reader.read(path)
    # pybids uses keys for some entities of derivatives (desc, res); we never do.
    entities = parse_name(path).entities
    return Image(path, entities, facts["suffix"], facts["datatype"], metadata), broken


def _check_matches(filters: Mapping[str, Any], sessions: list[str], runs: list[Image]) -> None:
    """Check that each filter matches an image of some participant."""
    if sessions:
        runs = [run for run in runs if run.session in sessions]
    for query, conditions in filters.items():
        concerned = query_runs(query, runs)
        if apply_filters({query: conditions}, concerned):
            continue
        there = f"there are {len(concerned)} images of this kind"
        for entity in conditions:
            values = sorted({run.entities[entity] for run in concerned if entity in run.entities})
            if values:
                there += f"; {entity} is {' or '.join(values[:5])}"
        raise InputError(
            f"The BIDS filter for {query!r} ({conditions}) matches no image: {there}",
            exit_code=ExitCode.NOTHING_MATCHED,
        )


def _selection_problems(
    label: str,
    found: list[Image],
    in_sessions: list[Image],
    kept: list[Image],
    sessions: list[str],
    root: Path,
) -> Iterable[Problem]:
    folder = root / f"sub-{label}"
    if not found:
        yield Problem(
            f"sub-{label} has no images: {folder} has no .nii or .nii.gz file in a folder"
            " such as anat; check the names",
            "error",
            folder,
            label,
        )
    for session in sessions:
        if found and all(run.session != session for run in in_sessions):
            yield Problem(
                f"sub-{label} has no session ses-{session}; it is skipped for this participant",
                "warning" if in_sessions else "error",
                folder,
                label,
            )
    for query in QUERIES:
        if query_runs(query, in_sessions) and not query_runs(query, kept):
            yield Problem(
                f"The BIDS filter for {query!r} matches no image of sub-{label}",
                "warning",
                folder,
                label,
            )


def _sidecar_problems(
    runs: list[Image],
    broken: Mapping[Path, list[tuple[Path, InputError]]],
    needs_metadata: Collection[str],
) -> Iterable[Problem]:
    for run in runs:
        needed = run.suffix in needs_metadata
        consequence = "is skipped, as it needs the file" if needed else "is processed without it"
        for path, error in broken.get(run.path, ()):
            yield Problem(
                f"{error}; {run.path.name} {consequence}",
                "error" if needed else "warning",
                path,
                run.entities["subject"],
            )
