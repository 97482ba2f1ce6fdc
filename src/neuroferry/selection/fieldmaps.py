"""Choice of the field map of a run, from names, sidecars, headers and values.

A run names its field maps by ``B0FieldSource``, or field maps name their runs by
``IntendedFor``; if a session has a single set of field maps that names no run, it is used for
all runs. Nothing missing is guessed: the reason for every unused field map and every
uncorrected run is given in a plain sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from neuroferry.bids.epi import epi_encoding
from neuroferry.bids.gradients import B0_THRESHOLD
from neuroferry.bids.model import Image, Subject
from neuroferry.errors import InputError
from neuroferry.selection.epi_fieldmaps import plan_pepolar
from neuroferry.selection.fieldmap_plan import (
    PREFERENCE,
    FieldmapPlan,
    Method,
    NoFieldmap,
    without_fieldmap,
)
from neuroferry.selection.fieldmap_sets import MatchingSets, matching_sets
from neuroferry.selection.gre_fieldmaps import plan_direct, plan_phases


def choose_fieldmap(
    subject: Subject,
    bold: Image | Sequence[Image],
    *,
    ignore: Collection[str] = (),
    b0_threshold: float = B0_THRESHOLD,
) -> FieldmapPlan:
    """Choose the susceptibility distortion correction of a run.

    Parameters
    ----------
    subject : Subject
        Its images, field maps among them.
    bold : Image or sequence of Image
        The run, or its echoes.
    ignore : collection of str
        With "fieldmaps" none is used.
    b0_threshold : float
        Volumes of diffusion-weighted images up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    FieldmapPlan
    """
    echoes = (bold,) if isinstance(bold, Image) else tuple(bold)
    if "fieldmaps" in ignore:
        return FieldmapPlan(origin="option")
    found = find_fieldmap(subject, echoes, b0_threshold=b0_threshold)
    return found if isinstance(found, FieldmapPlan) else without_fieldmap(echoes[0], found.reasons)


def find_fieldmap(
    subject: Subject, echoes: Sequence[Image], *, b0_threshold: float = B0_THRESHOLD
) -> FieldmapPlan | NoFieldmap:
    """Find the field map of a run, or the reasons why there is none.

    Parameters
    ----------
    subject : Subject
        Its images, field maps among them.
    echoes : sequence of Image
        The images of the run.
    b0_threshold : float
        Volumes of diffusion-weighted images up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    FieldmapPlan or NoFieldmap
    """
    run = echoes[0]
    matching = matching_sets(subject, echoes)
    damaged = _damaged(subject, run.session)
    if not matching.sets:
        reason = "; ".join([matching.why_none, *damaged])
        return NoFieldmap([reason], meant=matching.ambiguous)
    try:
        direction, readout, notes = epi_encoding(run)
    except InputError as error:
        return NoFieldmap([str(error)], meant=True)
    reasons: dict[str, None] = {}
    for label, method in _in_order(matching, run.session):
        members = matching.sets[label]
        try:
            plan = _plan_of(method, members, echoes, direction, b0_threshold, matching)
        except InputError as error:
            reasons[str(error)] = None
            continue
        if plan is not None:
            others = _others_of(method, label, matching)
            if others:
                notes.append(
                    f"{run.path.name}: more than one field map is meant for it;"
                    f" {Path(plan.sources[0]).name} is used, and not {others}."
                )
            notes += _of_another_session(members, run)
            lost = (f"{run.path.name}: {why}; {method} is used instead." for why in reasons)
            return replace(
                plan,
                origin=matching.origin,
                fmap_id=label,
                phase_encoding=direction,
                readout_time=readout,
                warnings=(*notes, *matching.notes, *lost, *plan.warnings),
            )
    if not reasons:
        names = ", ".join(sorted(r.path.name for found in matching.sets.values() for r in found))
        reasons[f"its field maps are incomplete ({names})"] = None
    return NoFieldmap([*reasons, *damaged], meant=True)


def _in_order(matching: MatchingSets, session: str | None) -> list[tuple[str, Method]]:
    """Order the sets and methods to try: those of the run's session come first.

    Another session has another shim and another position of the head.
    """
    own = [label for label, members in matching.sets.items() if members[0].session == session]
    others = [label for label in matching.sets if label not in own]
    return [(label, method) for tier in (own, others) for method in PREFERENCE for label in tier]


def _of_another_session(members: Sequence[Image], run: Image) -> list[str]:
    other = members[0].session
    if other in (run.session, None):
        return []
    return [f"{run.path.name}: its field map is of ses-{other}, by IntendedFor."]


def _damaged(subject: Subject, session: str | None) -> list[str]:
    """Name the images of field maps in the session that were found unusable, if any."""
    found = {
        problem.path.name
        for problem in subject.problems
        if problem.severity == "error" and problem.path and problem.path.parent.name == "fmap"
        if session is None or f"ses-{session}" in problem.path.parts
    }
    return [f"{name} cannot be used (see its own message)" for name in sorted(found)]


def _others_of(method: Method, label: str, matching: MatchingSets) -> str:
    """Name the images of other sets that could have been used by the same method."""
    suffixes = {"pepolar": ("epi",), "direct": ("fieldmap",), "phases": ("phase1",)}.get(
        method, ("phasediff",)
    )
    return " or ".join(
        member.path.name
        for other, members in matching.sets.items()
        for member in members
        if other != label and member.suffix in suffixes
    )


def _plan_of(
    method: Method,
    members: Sequence[Image],
    echoes: Sequence[Image],
    direction: str,
    b0_threshold: float,
    matching: MatchingSets,
) -> FieldmapPlan | None:
    """Plan the correction with one method; None if the set is of another kind.

    Raises
    ------
    InputError
        If it is of this kind, but cannot be used; the message is a clause.
    """
    if method == "pepolar":
        assigned = matching.origin != "inferred"
        return plan_pepolar(members, echoes, direction, b0_threshold, assigned=assigned)
    if method == "direct":
        return plan_direct(members)
    return plan_phases(members, method)
