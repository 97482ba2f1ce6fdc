"""What a run makes of each participant: which workflows, which images, which warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuroferry.config import WORKFLOWS, Config
from neuroferry.errors import UsageError

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem, Subject

FIELDMAP_SUFFIXES = (
    *("phasediff", "phase1", "phase2"),
    *("magnitude", "magnitude1", "magnitude2", "fieldmap", "epi"),
)


def chosen_workflows(config: Config) -> tuple[str, ...]:
    """Name the workflows that a run takes the participants through."""
    return config.workflow.workflows or WORKFLOWS


def wanted_suffixes(config: Config) -> tuple[str, ...]:
    """Name the kinds of image that the workflows read."""
    workflows = chosen_workflows(config)
    suffixes = ["T1w"]
    if "func" in workflows:
        suffixes.append("bold")
        if "fieldmaps" not in config.workflow.ignore:
            suffixes += FIELDMAP_SUFFIXES
    return tuple(suffixes)


def with_flags(config: Config, filters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put what flags choose among the BOLD runs into the filters of a file.

    Raises
    ------
    UsageError
        When a flag and the file both choose.
    """
    merged = dict(filters or {})
    bold = dict(merged.get("bold") or {})
    flags: dict[str, Any] = {}
    if config.input.task_id:
        flags["task"] = list(config.input.task_id)
    if config.input.echo_idx is not None:
        # a run of one echo has no such entity, and stays
        flags["echo"] = [config.input.echo_idx, None]
    for entity, value in flags.items():
        if entity in bold:
            raise UsageError(
                f"--{'task-id' if entity == 'task' else 'echo-idx'} and the filter file both"
                f" choose the {entity} of the BOLD runs. Leave one of them."
            )
        bold[entity] = value
    return {**merged, "bold": bold} if flags else merged


def usable_subjects(config: Config, subjects: Sequence[Subject]) -> list[Subject]:
    """Keep the participants that have what one of the workflows needs."""
    return [subject for subject in subjects if _has_work(config, subject)]


def _has_work(config: Config, subject: Subject) -> bool:
    workflows = chosen_workflows(config)
    if subject.select("anat", "T1w") and {"anat", "qc"} & set(workflows):
        return True
    return "func" in workflows and bool(subject.select("func", "bold"))


def selection_problems(config: Config, subject: Subject) -> Iterator[Problem]:
    """Say what is missing of a participant whose images were looked at."""
    from neuroferry.bids.model import Problem

    workflows = chosen_workflows(config)
    if not _has_work(config, subject):
        kinds = ["T1w image"] if {"anat", "qc"} & set(workflows) else []
        kinds += ["BOLD run"] if "func" in workflows else []
        missing = f"no {' and no '.join(kinds)}"
        text = f"sub-{subject.label} has {missing} that can be used, so nothing was run."
        yield Problem(text, "error", None, subject.label)
    elif "func" in workflows:
        for text in _bold_warnings(config, subject):
            yield Problem(f"sub-{subject.label}: {text}", "warning", None, subject.label)


def _bold_warnings(config: Config, subject: Subject) -> Iterator[str]:
    """Say what the BOLD runs of a participant have to do without."""
    from neuroferry.bids.bold import bold_runs, t1w_of_session
    from neuroferry.workflows.base import given_anatomy
    from neuroferry.workflows.func.fieldmaps import choose_fieldmap

    runs = bold_runs(subject, ignore=config.workflow.ignore)
    if not runs:
        if "func" in config.workflow.workflows:
            yield "there is no BOLD run that can be used; only the anatomy is processed"
        return
    for run in runs:
        plan = choose_fieldmap(subject, run.echoes, ignore=config.workflow.ignore)
        yield from plan.warnings
    for session in dict.fromkeys(run.session for run in runs):
        if given_anatomy(config.input.derivatives, subject, session) is not None:
            continue
        images = t1w_of_session(subject, session)
        where = f" of ses-{session}" if session else ""
        if not images:
            yield (
                f"there is no T1w image. The BOLD runs{where} stay in their own space, without"
                " coregistration, template space and tissues"
            )
            return
        if images[0].session != session:
            yield f"the BOLD runs{where} use the T1w image of ses-{images[0].session}"
