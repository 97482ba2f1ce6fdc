"""What a run makes of each participant: which workflows, which images, which warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from neuroferry.config import WORKFLOWS, Config

if TYPE_CHECKING:
    from pathlib import Path

    from neuroferry.bids.bold import BoldRun
    from neuroferry.bids.dwi import DwiRun
    from neuroferry.bids.model import Problem, Subject
    from neuroferry.selection.fieldmaps import FieldmapPlan

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
    if "dwi" in workflows:
        suffixes.append("dwi")
    if {"func", "dwi"} & set(workflows) and "fieldmaps" not in config.workflow.ignore:
        suffixes += FIELDMAP_SUFFIXES
    return tuple(suffixes)


def usable_subjects(config: Config, subjects: Sequence[Subject]) -> list[Subject]:
    """Keep the participants that have what one of the workflows needs."""
    return [subject for subject in subjects if _has_work(config, subject)]


def _has_work(config: Config, subject: Subject) -> bool:
    from neuroferry.bids.dwi import dwi_runs

    workflows = chosen_workflows(config)
    if subject.select("anat", "T1w") and {"anat", "qc"} & set(workflows):
        return True
    if "func" in workflows and subject.select("func", "bold"):
        return True
    threshold = config.workflow.b0_threshold
    return "dwi" in workflows and bool(dwi_runs(subject, b0_threshold=threshold))


def selection_problems(config: Config, subject: Subject) -> Iterator[Problem]:
    """Say what is missing of a participant whose images were looked at."""
    from neuroferry.bids.model import Problem

    workflows = chosen_workflows(config)
    if not _has_work(config, subject):
        kinds = ["T1w image"] if {"anat", "qc"} & set(workflows) else []
        kinds += ["BOLD run"] if "func" in workflows else []
        kinds += ["diffusion-weighted run"] if "dwi" in workflows else []
        missing = f"no {' and no '.join(kinds)}"
        text = f"sub-{subject.label} has {missing} that can be used, so nothing was run."
        yield Problem(text, "error", None, subject.label)
        return
    texts = [*_bold_warnings(config, subject)] if "func" in workflows else []
    texts += [*_dwi_warnings(config, subject)] if "dwi" in workflows else []
    for text in texts:
        yield Problem(f"sub-{subject.label}: {text}", "warning", None, subject.label)


def bold_fieldmap(config: Config, subject: Subject, run: BoldRun) -> FieldmapPlan:
    """Choose what corrects a BOLD run for distortion."""
    from neuroferry.selection.fieldmaps import choose_fieldmap

    ignore, threshold = config.workflow.ignore, config.workflow.b0_threshold
    return choose_fieldmap(subject, run.echoes, ignore=ignore, b0_threshold=threshold)


def dwi_fieldmap(config: Config, subject: Subject, run: DwiRun) -> FieldmapPlan:
    """Choose what corrects a diffusion-weighted run for distortion."""
    from neuroferry.selection.dwi_fieldmaps import choose_dwi_fieldmap

    ignore, threshold = config.workflow.ignore, config.workflow.b0_threshold
    return choose_dwi_fieldmap(subject, run, ignore=ignore, b0_threshold=threshold)


def fieldmap_texts(config: Config, subject: Subject) -> Iterator[str]:
    """Say of each run what its distortion is corrected with."""
    from neuroferry.bids.bold import bold_runs
    from neuroferry.bids.dwi import dwi_runs

    found: list[tuple[Path, FieldmapPlan]] = []
    workflow = config.workflow
    if "func" in chosen_workflows(config):
        for bold in bold_runs(subject, ignore=workflow.ignore):
            found.append((bold.reference.path, bold_fieldmap(config, subject, bold)))
    if "dwi" in chosen_workflows(config):
        for dwi in dwi_runs(subject, b0_threshold=workflow.b0_threshold):
            found.append((dwi.run.path, dwi_fieldmap(config, subject, dwi)))
    for path, plan in found:
        names = [name.rpartition("/")[2] for name in plan.sources]
        with_what = " and ".join(names) if names else "no field map"
        b0s = "the b0 images of " if any(plan.epi_volumes) else ""
        yield f"{path.name}: {b0s}{with_what}"


def _bold_warnings(config: Config, subject: Subject) -> Iterator[str]:
    """Say what the BOLD runs of a participant have to do without."""
    from neuroferry.bids.bold import bold_runs

    runs = bold_runs(subject, ignore=config.workflow.ignore)
    if not runs:
        if "func" in config.workflow.workflows:
            yield "there is no BOLD run that can be used; only the anatomy is processed"
        return
    for run in runs:
        yield from bold_fieldmap(config, subject, run).warnings
    yield from _anatomy_warnings(
        config,
        subject,
        [run.session for run in runs],
        ("BOLD runs", "without coregistration, template space and tissues"),
    )


def _dwi_warnings(config: Config, subject: Subject) -> Iterator[str]:
    """Say what the diffusion-weighted runs of a participant have to do without."""
    from neuroferry.bids.dwi import dwi_runs
    from neuroferry.selection.joining import plan_joined
    from neuroferry.selection.spaces import wants_t1w

    runs = dwi_runs(subject, b0_threshold=config.workflow.b0_threshold)
    if not runs:
        if "dwi" in config.workflow.workflows:
            yield "there is no diffusion-weighted run that can be used"
        return
    corrected = set()
    for run in runs:
        plan = dwi_fieldmap(config, subject, run)
        if run.phase_encoding is not None:  # what its lack means was said of the run itself
            yield from plan.warnings
        if plan.method is not None:
            corrected.add(run.run.path)
    if wants_t1w(config.workflow.output_spaces) and "dwi-joining" not in config.workflow.ignore:
        threshold = config.workflow.b0_threshold
        yield from plan_joined(runs, corrected, b0_threshold=threshold)[1]
    yield from _anatomy_warnings(
        config,
        subject,
        [run.session for run in runs],
        ("diffusion-weighted runs", "without coregistration, template space and bundles"),
    )


def _anatomy_warnings(
    config: Config, subject: Subject, sessions: Sequence[str | None], words: tuple[str, str]
) -> Iterator[str]:
    """Say which sessions' runs have no T1w image, or another session's."""
    from neuroferry.selection.anatomy import given_anatomy, t1w_of_session

    runs, without = words
    for session in dict.fromkeys(sessions):
        if given_anatomy(config.input.derivatives, subject, session) is not None:
            continue
        images = t1w_of_session(subject, session)
        where = f" of ses-{session}" if session else ""
        if not images:
            yield f"there is no T1w image. The {runs}{where} stay in their own space, {without}"
            return
        if images[0].session != session:
            yield f"the {runs}{where} use the T1w image of ses-{images[0].session}"
