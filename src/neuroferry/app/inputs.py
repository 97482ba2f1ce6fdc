"""Folders and images of a run: found, checked, or refused with a message."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.config import Config
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.files import write_text
from neuroferry.selection.participant import ParticipantPlan, plan_participant, wanted_suffixes
from neuroferry.selection.spaces import parse_output_spaces
from neuroferry.trust import make_work_folder, open_unlinked, refuse_foreign_links

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem, Subject


def check_folders(config: Config) -> None:
    """Refuse folders that are missing, wrongly nested or not writable."""
    bids_dir, output_dir = config.bids_dir.resolve(), config.output_dir.resolve()
    if not config.bids_dir.exists():
        raise InputError(
            f"The BIDS folder {config.bids_dir} does not exist.", exit_code=ExitCode.NO_INPUT
        )
    if not config.bids_dir.is_dir():
        raise InputError(
            f"{config.bids_dir} is a file. Give the folder of the BIDS dataset.",
            exit_code=ExitCode.NO_INPUT,
        )
    for name, folder in (("output", output_dir), ("work", config.work_dir.resolve())):
        inside = folder == bids_dir or bids_dir in folder.parents
        if inside and not (name == "output" and bids_dir / "derivatives" in folder.parents):
            raise UsageError(
                f"The {name} folder {folder} is inside the input dataset, which must not be "
                f"changed. Choose another, such as {bids_dir / 'derivatives' / 'neuroferry'} for "
                "the output."
            )
    if config.execution.dry_run:
        return
    needs_work = config.level == "participant" and not config.execution.reports_only
    for folder in (config.output_dir, config.work_dir) if needs_work else (config.output_dir,):
        _make_writable(folder)
    if needs_work:
        make_work_folder(config.work_dir / "neuroferry_wf")


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as err:
        raise InputError(
            f"The folder {folder} is not writable ({err.strerror}). Choose another or correct its "
            "permissions.",
            exit_code=ExitCode.CANNOT_CREATE,
        ) from err


def check_links(config: Config, subjects: Iterable[Subject]) -> None:
    """Refuse other users' symbolic links among the folders that this run writes to.

    Folders of other participants are not read: there may be many.
    """
    out = config.output_dir
    refuse_foreign_links(
        out, (out / "logs", *(out / f"sub-{subject.label}" for subject in subjects))
    )


def check_bundles(config: Config) -> None:
    """Refuse a user's unusable bundle definitions before anything runs.

    Raises
    ------
    InputError
        If the file is missing or invalid.
    UsageError
        If no tractography was asked for.
    """
    runs = config.level == "participant" and not config.execution.reports_only
    if config.workflow.bundles is None or not runs:
        return
    if config.workflow.streamlines == 0:
        raise UsageError("--bundles needs tractography, which --streamlines 0 skips.")
    from neuroferry.interfaces.tracts.bundle_definitions import load_bundles

    load_bundles(config.workflow.bundles)


def find_subjects(config: Config) -> list[Subject]:
    """Index the participants that the settings ask for."""
    from neuroferry.bids.index import index_subjects

    return index_subjects(
        config.bids_dir,
        participant_labels=config.input.participant_label,
        session_labels=config.input.session_label,
        bids_filters=with_flags(config, _read_filters(config.input.bids_filter_file)),
        database_dir=config.input.bids_database_dir,
        needs_metadata=[s for s in wanted_suffixes(config.workflow) if s not in ("T1w", "dwi")],
    )


def _read_filters(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        filters = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise InputError(
            f"The filter file {path} cannot be read ({err.strerror}).",
            exit_code=ExitCode.NO_INPUT,
        ) from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"The filter file {path} is not valid JSON: {err}.") from err
    if not isinstance(filters, dict):
        raise InputError(f'The filter file {path} must hold one object, such as {{"t1w": {{}}}}.')
    return filters


def check_input(
    config: Config, subjects: list[Subject], n_procs: int
) -> tuple[list[ParticipantPlan], list[Problem]]:
    """Check the dataset and every image that is used, and plan each participant.

    Returns
    -------
    list of ParticipantPlan
        Plan of each participant, with usable images only.
    list of Problem
        All problems of the dataset and of the participants.

    Raises
    ------
    InputError
        For an unusable dataset or folder of the command line.
    UsageError
        For an output space that does not exist.
    """
    from neuroferry.bids.model import Problem
    from neuroferry.bids.precomputed import check_dataset
    from neuroferry.bids.validate import check_subjects, validate_dataset

    for name, root in config.input.derivatives.items():
        check_dataset(name, root)
    problems = validate_dataset(
        config.bids_dir, subjects, use_validator=not config.input.skip_bids_validation
    )
    older = _other_version(config)
    if older is not None:
        text = (
            f"The work folder {config.work_dir} was filled by neuroferry {older}, but this is "
            f"{__version__}: steps finished there are not computed again. Choose another "
            "--work-dir to compute everything again."
        )
        problems.append(Problem(text, "warning", config.work_dir, None))
    checked = check_subjects(
        subjects,
        suffixes=wanted_suffixes(config.workflow),
        n_procs=n_procs,
    )
    spaces = parse_output_spaces(config.workflow.output_spaces, config.input.templateflow_home)
    plans = [
        plan_participant(subject, config.workflow, spaces, config.input.derivatives)
        for subject in checked
    ]
    for plan in plans:
        problems += plan.problems
    return plans, problems


def _other_version(config: Config) -> str | None:
    """Note this version in the work folder; return the one noted before, if it differs."""
    note = config.work_dir / ".neuroferry-version"
    before = _read_version(note)
    if not config.execution.dry_run and before != __version__:
        write_text(note, f"{__version__}\n")
    return None if before in (None, __version__) else before


def _read_version(note: Path) -> str | None:
    try:
        descriptor = open_unlinked(note, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as stream:
        return stream.readline(80).strip()


def with_flags(config: Config, filters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge the flags that select BOLD runs into the filters of a file.

    Raises
    ------
    UsageError
        If a flag and the file filter by the same entity.
    """
    merged = dict(filters or {})
    bold = dict(merged.get("bold") or {})
    flags: dict[str, Any] = {}
    if config.input.task_id:
        flags["task"] = list(config.input.task_id)
    if config.input.echo_idx is not None:
        # a single-echo run has no such entity, and is kept
        flags["echo"] = [config.input.echo_idx, None]
    for entity, value in flags.items():
        if entity in bold:
            raise UsageError(
                f"--{'task-id' if entity == 'task' else 'echo-idx'} and the filter file both"
                f" choose the {entity} of the BOLD runs. Remove one of them."
            )
        bold[entity] = value
    return {**merged, "bold": bold} if flags else merged
