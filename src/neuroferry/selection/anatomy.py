"""The anatomy that goes with a session: computed from its T1w images, or precomputed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroferry.bids.dwi import dwi_runs
from neuroferry.bids.model import Run, Subject
from neuroferry.bids.precomputed import (
    Anatomy,
    find_anatomy,
)
from neuroferry.config import Settings
from neuroferry.templates import (
    TEMPLATE_SPACE,
)

if TYPE_CHECKING:
    from neuroferry.bids.model import Run, Subject


def t1w_of_session(subject: Subject, session: str | None) -> tuple[Run, ...]:
    """Choose the T1w images that go with a session's BOLD runs.

    Returns
    -------
    tuple of Run
        Those of the session itself, or else of the first session that has some.

    Examples
    --------
    >>> t1w = Run(Path("sub-01_ses-a_T1w.nii.gz"), {"session": "a"}, "T1w", "anat")
    >>> t1w_of_session(Subject("01", (t1w,)), "b") == (t1w,)
    True
    """
    images = subject.select("anat", "T1w")
    sessions = [label for label in subject.sessions if any(r.session == label for r in images)]
    if not sessions:
        return ()
    chosen = session if session in sessions else sessions[0]
    return tuple(run for run in images if run.session == chosen)


def sessions_to_compute(subject: Subject, settings: Settings) -> list[str | None]:
    """Name the sessions whose anatomy is computed: those that are asked for, or needed."""
    images = subject.select("anat", "T1w")
    there = [session for session in subject.sessions if any(r.session == session for r in images)]
    if {"anat", "qc"} & set(settings.workflows):
        return there
    needed: set[str | None] = set()
    sessions: list[str | None] = []
    if "func" in settings.workflows:
        sessions += [run.session for run in subject.select("func", "bold")]
    if "dwi" in settings.workflows:
        sessions += [run.session for run in dwi_runs(subject, b0_threshold=settings.b0_threshold)]
    for session in dict.fromkeys(sessions):
        if given_anatomy(settings.derivatives, subject, session) is None:
            needed |= {t1w.session for t1w in t1w_of_session(subject, session)}
    return [session for session in there if session in needed]


def given_anatomy(
    derivatives: Mapping[str, Path],
    subject: Subject,
    session: str | None,
    others: Sequence[str] = (),
) -> Anatomy | None:
    """Find a whole anatomy that was computed before, for the BOLD runs of a session.

    Parameters
    ----------
    derivatives : mapping of str to pathlib.Path
        Precomputed datasets by name.
    subject : Subject
        The participant.
    session : str or None
        Of the runs; where it has none, another session's is taken.
    others : sequence of str
        Spaces of other templates that its transforms must lead to as well.
    """
    for label in dict.fromkeys([session, None, *subject.sessions]):
        found = find_anatomy(derivatives, subject.label, label, TEMPLATE_SPACE, others)
        if found is not None:
            return found
    return None
