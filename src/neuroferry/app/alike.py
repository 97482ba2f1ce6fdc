"""Participants with the same graph, which is built only once.

Building and flattening a participant's graph takes tens of milliseconds of processor time, times
a thousand for a cohort whose graphs hardly differ. A graph depends only on the participant's plan
and the settings, so participants with equal plans share one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Generic, TypeVar

from neuroferry.bids.entities import in_node_name
from neuroferry.selection.participant import ParticipantPlan

Built = TypeVar("Built")


class Alike(Generic[Built]):
    """Cache of objects built for participants, for others with equal plans."""

    def __init__(self) -> None:
        self._built: dict[str, tuple[str, Built]] = {}

    def find(self, plan: ParticipantPlan) -> tuple[str, Built] | None:
        """Find a participant whose plan differs only in the label.

        Returns
        -------
        str
            The label.
        object
            Object built for this participant.
        """
        return self._built.get(_outline(plan))

    def keep(self, plan: ParticipantPlan, built: Built) -> None:
        """Store the object built for a participant."""
        self._built[_outline(plan)] = plan.label, built


def renamed(text: str, label: str, other: str) -> str:
    """Replace one participant's label by another's.

    Examples
    --------
    >>> renamed("w.sub_01_wf.a of sub-01, not sub-012", "01", "02")
    'w.sub_02_wf.a of sub-02, not sub-012'
    >>> renamed("w.sub_a_plus_b_wf.a of sub-a+b, not sub-a+b+c", "a+b", "02")
    'w.sub_02_wf.a of sub-02, not sub-a+b+c'
    """
    for dash, old, new in (
        ("-", label, other),
        ("_", in_node_name(label), in_node_name(other)),
    ):
        pattern = rf"(?<![0-9A-Za-z+])sub{dash}{re.escape(old)}(?![0-9A-Za-z+]|_plus_)"
        text = re.sub(pattern, f"sub{dash}{new}", text)
    return text


def _outline(plan: ParticipantPlan) -> str:
    """Compute a digest of a plan without its label and its problems."""
    # much faster than converting to plain values, and as complete: everything is a dataclass
    text = repr(dataclasses.replace(plan, label="", problems=(), inputs=()))
    text = text.replace(f"'subject': {plan.label!r}", "'subject': '*'")
    return hashlib.sha256(renamed(text, plan.label, "*").encode()).hexdigest()
