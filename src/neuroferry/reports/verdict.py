"""Verdicts on participants, with reasons and advice in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunSummary, StepSummary
from neuroferry.reports.gather import Session
from neuroferry.reports.positions import position_doubts
from neuroferry.reports.quality import Quality
from neuroferry.reports.scans import ScanRun, run_doubts, volume_doubts

Level = Literal["good", "look", "failed"]
HEADLINES: dict[Level, str] = {
    "good": "Good",
    "look": "Needs review",
    "failed": "Failed",
}
_ADVICE = (
    (
        r"no space left|disk quota|ENOSPC|no space is left",
        "Free space on the disk of the work and output folders, then run the same command "
        "again: finished steps are kept.",
    ),
    (
        r"nothing shows that memory ran out",
        "Somebody, or a limit of this machine, ended the step. Run the same command again: "
        "finished steps are kept.",
    ),
    (
        r"MemoryError|killed|out of memory|oom|std::bad_alloc|SIGKILL",
        "The step seems to have run out of memory. Allow more with --mem, or run fewer steps at "
        "a time with --nprocs 1; finished steps are kept.",
    ),
    (
        r"Permission denied|not writable|Read-only file system",
        "Make the output and work folders writable for the user who runs neuroferry, then run "
        "the same command again.",
    ),
    (
        r"InputError|GeometryError|truncated|EOFError|CRC check|ImageFileError|not a gzip",
        "Check the input image: repair or replace it, or exclude this participant, then "
        "run the same command again.",
    ),
)
_OTHERWISE = (
    "Run the same command again: finished steps are kept. If it fails in the same way, send "
    "the crash file and events.jsonl of this run to the developers."
)


@dataclass(frozen=True)
class Verdict:
    """Verdict on a participant.

    Attributes
    ----------
    level : {'good', 'look', 'failed'}
        The worst finding.
    reasons : tuple of str
        Reasons, in plain sentences.
    notes : tuple of str
        Notes that do not change the verdict.
    """

    level: Level
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The level in words."""
        return HEADLINES[self.level]


def advice(message: str | None, traceback: str | None) -> str:
    """Advise what to do about a failure.

    Examples
    --------
    >>> advice("OSError: [Errno 28] No space left on device", None)[:10]
    'Free space'
    """
    last = (traceback or "").strip().splitlines()[-1:]
    text = "\n".join([message or "", *last])
    for pattern, sentence in _ADVICE:
        if re.search(pattern, text, re.IGNORECASE):
            return sentence
    return _OTHERWISE


def failure_sentence(step: StepSummary) -> str:
    """Describe in one sentence which step failed, and why."""
    why = (step.message or "no reason given").strip().rstrip(".")
    return f"The step “{StepName(step.step).plain}” failed: {why}."


def judge(
    run: RunSummary,
    sessions: Sequence[Session],
    scans: Sequence[ScanRun] = (),
    quality: Sequence[Quality] = (),
    *,
    any_output: bool,
) -> Verdict:
    """Judge one participant.

    Parameters
    ----------
    run : RunSummary
        The run, restricted to the participant.
    sessions : sequence of Session
        Anatomical results.
    scans : sequence of ScanRun
        Results of BOLD and DWI runs.
    quality : sequence of Quality
        Quality metrics of the images.
    any_output : bool
        Whether there are any derivatives.

    Returns
    -------
    Verdict
        Failed if a step failed or did not finish, or if there are no results; needs review if
        a brain mask or an alignment is doubtful, runs of a session disagree on where the head is,
        a run has many outliers, an input is broken, or a figure is missing.
    """
    failures = [failure_sentence(step) for step in run.failed]
    running = run.count("running")
    if running:
        what = "step had" if running == 1 else "steps had"
        failures.append(f"{running} {what} not finished when the run ended.")
    # one without a participant is about what was left out of the dataset: the overview has it
    own = [p for p in run.problems if p.get("subject") is not None]
    errors = [str(p.get("message", "")) for p in own if p.get("severity") == "error"]
    unfinished = run.count("skipped")
    if not any_output and not failures and not run.steps:
        failures.append("Nothing was computed." if errors else "Nothing was computed in this run.")
    if failures:
        if unfinished:
            steps = "1 step was" if unfinished == 1 else f"{unfinished} steps were"
            failures.append(f"{steps} skipped as a result.")
        return Verdict("failed", (*errors, *failures))
    looks = [*errors]
    for session in sessions:
        where = f" of session {session.label}" if session.label else ""
        if session.brain.get("verdict") == "look":
            looks.append(_brain_sentence(session, where))
        looks += [f"Look at the T1w images{where}. {reason}" for reason in session.doubts]
        looks += _template_sentences(session, where)
        looks += _t2w_sentences(session)
        missing = [r.title.lower() for r in session.reportlets if r.path is None]
        if len(missing) == len(session.reportlets):
            looks.append(f"There are no figures{where}.")
        elif missing:
            looks.append(f"Figures{where} are missing: {', '.join(missing)}.")
    looks += [doubt for scan in scans for doubt in run_doubts(scan)]
    looks += volume_doubts(scans)
    looks += [f"Look at {image.name}. {doubt}" for image in quality for doubt in image.doubts]
    looks += position_doubts(scans)
    warnings = sum(p.get("severity") == "warning" for p in run.problems)
    notes = []
    if warnings:
        notes.append(f"{warnings} warning{'s' if warnings > 1 else ''}: see “Messages”.")
    return Verdict("look" if looks else "good", tuple(looks), tuple(notes))


def _brain_sentence(session: Session, where: str) -> str:
    text = f"The brain mask{where} may be wrong"
    confidence = session.brain.get("confidence")
    if isinstance(confidence, int | float):
        text += f" (confidence {confidence:.2f} of 1)"
    reasons = session.brain.get("reasons")
    if isinstance(reasons, list) and reasons:
        text += ": " + "; ".join(str(reason).rstrip(".") for reason in reasons)
    return f"{text}. Check it on every slice."


def _t2w_sentences(session: Session) -> list[str]:
    """Explain why the alignment of a T2w image with the T1w image is doubtful, if it is."""
    sentences = []
    for name, found in session.t2w.items():
        reasons = [str(reason).rstrip(".") for reason in found.get("reasons") or []]
        why = f": {'; '.join(reasons)}" if reasons else ""
        if found.get("verdict") == "bad":
            sentences.append(
                f"{name} could not be aligned with the T1w image{why}. It is not written in the "
                "space of the T1w image, unless --write-doubtful asks for it."
            )
        elif found.get("verdict") == "look":
            sentences.append(
                f"The alignment of {name} with the T1w image may be wrong{why}. Check it on every "
                "slice."
            )
    return sentences


def _template_sentences(session: Session, where: str) -> list[str]:
    """Explain why the registration to a template is doubtful, if it is."""
    sentences = []
    for name, found in session.templates.items():
        if found.get("verdict") not in ("look", "bad"):
            continue
        reasons = [str(reason).rstrip(".") for reason in found.get("reasons") or []]
        why = f": {'; '.join(reasons)}" if reasons else ""
        sentences.append(
            f"The registration{where} to the template {name} may be wrong{why}. Check the brain "
            "mask and the overlap with the template."
        )
    return sentences
