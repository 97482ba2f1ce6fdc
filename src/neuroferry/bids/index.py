"""Index of the requested participants of a dataset and their images."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroferry.bids.database import keep_database
from neuroferry.bids.entities import strip_label
from neuroferry.bids.filters import (
    QUERIES,
    apply_filters,
    check_filters,
    check_matches,
    query_runs,
    unmet,
)
from neuroferry.bids.ignored import Ignored
from neuroferry.bids.metadata import SidecarReader, read_json
from neuroferry.bids.model import Image, Problem, Subject
from neuroferry.bids.naming import USED, Facts
from neuroferry.bids.placed import Placed, find_images
from neuroferry.bids.tree import find_participants, missing_labels
from neuroferry.errors import ExitCode, InputError


def index_subjects(
    bids_dir: str | Path,
    *,
    participant_labels: Sequence[str] = (),
    session_labels: Sequence[str] = (),
    bids_filters: Mapping[str, Any] | None = None,
    database_dir: str | Path | None = None,
    needs_metadata: Collection[str] = (),
    used: Collection[str] = USED,
) -> list[Subject]:
    """Find the images of the requested participants.

    Folders of other participants are not entered, so that the cost depends on the request and
    not on the size of the dataset. Names are read strictly (see `neuroferry.bids.naming`), and
    sidecars are merged here (see `neuroferry.bids.metadata`), so that an odd one affects its own
    images alone.

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
        Where pybids keeps its index of the whole dataset. Created if it does not exist, and
        again if it does not match the files of the participants.
    needs_metadata : collection of str
        Suffixes that cannot be processed without metadata: such an image with a broken
        sidecar is skipped with an error; others are kept with a warning.
    used : collection of str
        Suffixes of the images that are read: it is an error if such an image is left out because
        of its name; for others it is a warning.

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
    _check_description(root)
    ignored = Ignored.of(root)
    placed = {label: find_images(root, label, ignored, used) for label in labels}
    if database_dir is not None:
        _keep_database(root, Path(database_dir), placed)

    reader = SidecarReader(root)
    found = {label: [_make_run(reader, *i) for i in placed[label].images] for label in labels}
    sessions = {run.session for runs in found.values() for run, _ in runs if run.session}
    wanted = _choose("session", "ses", session_labels, sessions, root) if session_labels else []
    everything = [run for runs in found.values() for run, _ in runs]
    check_matches(filters, [run for run in everything if not wanted or run.session in wanted])

    subjects = []
    for label in labels:
        runs = [run for run, _ in found[label] if not wanted or run.session in wanted]
        kept = apply_filters(filters, runs)
        there = {run.path for run in kept}
        broken = {run.path: errors for run, errors in found[label] if errors and run.path in there}
        problems = (
            *placed[label].problems,
            *_absence(root, label, placed[label]),
            *_session_problems(label, bool(found[label]), runs, wanted, root),
            *_filter_problems(label, runs, kept, filters, root),
            *_sidecar_problems(kept, broken, needs_metadata),
        )
        usable = (r for r in kept if r.path not in broken or r.suffix not in needs_metadata)
        subjects.append(Subject(label, tuple(usable), problems))
    return subjects


def _keep_database(root: Path, folder: Path, placed: Mapping[str, Placed]) -> None:
    images = [path.relative_to(root).as_posix() for p in placed.values() for path, _ in p.images]
    keep_database(root, folder, [*placed], images)


def _choose(
    what: str, key: str, asked: Sequence[str], known: Collection[str], root: Path
) -> list[str]:
    """Turn the requested labels into existing ones, sorted, without duplicates."""
    if not asked:
        return sorted(known)
    labels = {strip_label(label, key) for label in asked}
    missing = sorted(labels - set(known))
    if missing:
        raise missing_labels(what, key, missing, known, root)
    return sorted(labels)


def _check_description(root: Path) -> None:
    """Refuse a description that is not JSON; `neuroferry.bids.validate` checks what it says."""
    description = root / "dataset_description.json"
    if description.exists():
        try:
            read_json(description)
        except InputError as error:
            raise InputError(str(error), exit_code=ExitCode.INVALID_BIDS) from error


def _make_run(
    reader: SidecarReader, path: Path, facts: Facts
) -> tuple[Image, list[tuple[Path, InputError]]]:
    metadata, broken = reader.read(path)
    unread = {other for other, _ in broken}
    sidecars = () if path.parent in unread else tuple(reader.applicable(path))
    image = Image(
        path,
        facts.entities,
        facts.suffix,
        facts.datatype,
        metadata,
        sidecars=tuple(sidecar for sidecar in sidecars if sidecar not in unread),
    )
    return image, broken


def _absence(root: Path, label: str, placed: Placed) -> Iterable[Problem]:
    """Report a participant without images, unless each of them was reported."""
    if placed.images:
        return
    folder = root / f"sub-{label}"
    why = f"{folder} has no .nii or .nii.gz file in a folder such as anat; check the names"
    if placed.n_files:
        why = f"nothing in {folder} can be used, see the other problems"
    yield Problem(f"sub-{label} has no images: {why}", "error", folder, label)


def _session_problems(
    label: str, any_image: bool, in_sessions: list[Image], sessions: list[str], root: Path
) -> Iterable[Problem]:
    for session in sessions:
        if any_image and all(run.session != session for run in in_sessions):
            yield Problem(
                f"sub-{label} has no session ses-{session}; it is skipped for this participant",
                "warning" if in_sessions else "error",
                root / f"sub-{label}",
                label,
            )


def _filter_problems(
    label: str,
    in_sessions: list[Image],
    kept: list[Image],
    filters: Mapping[str, Any],
    root: Path,
) -> Iterable[Problem]:
    folder = root / f"sub-{label}"
    for query in QUERIES:
        if query_runs(query, in_sessions) and not query_runs(query, kept):
            yield Problem(
                f"The BIDS filter for {query!r} matches no image of sub-{label}",
                "warning",
                folder,
                label,
            )
    for text in unmet(filters, in_sessions, kept):
        yield Problem(f"sub-{label}: {text}", "warning", folder, label)


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
