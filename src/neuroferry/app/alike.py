"""Participants with the same graph: one of them is planned, the others like it.

Building and flattening a participant's graph takes tens of milliseconds of processor time, a
thousand times over for a cohort in which hardly two graphs differ. A graph depends on nothing but
the participant's plan and the settings, so participants with equal plans share one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Generic, TypeVar

from neuroferry.selection.participant import ParticipantPlan

Built = TypeVar("Built")


class Alike(Generic[Built]):
    """Remembers what was built for participants, and finds it for those who are like them."""

    def __init__(self) -> None:
        self._built: dict[str, tuple[str, Built]] = {}

    def find(self, plan: ParticipantPlan) -> tuple[str, Built] | None:
        """Find a participant whose plan is the same but for the label.

        Returns
        -------
        str
            The label.
        object
            What was built.
        """
        return self._built.get(_outline(plan))

    def keep(self, plan: ParticipantPlan, built: Built) -> None:
        """Remember what was built for a participant."""
        self._built[_outline(plan)] = plan.label, built


def renamed(text: str, label: str, other: str) -> str:
    """Put one participant's label in the place of another's.

    Examples
    --------
    >>> renamed("w.sub_01_wf.a of sub-01, not sub-012", "01", "02")
    'w.sub_02_wf.a of sub-02, not sub-012'
    """
    pattern = rf"(?<![0-9A-Za-z])sub([-_]){re.escape(label)}(?![0-9A-Za-z])"
    return re.sub(pattern, rf"sub\g<1>{other}", text)


def _outline(plan: ParticipantPlan) -> str:
    """Digest of a plan without its label, and without what was said of it."""
    # much faster than going through plain values, and as complete: everything in it is a dataclass
    text = repr(dataclasses.replace(plan, label="", problems=(), inputs=()))
    text = text.replace(f"'subject': {plan.label!r}", "'subject': '*'")
    return hashlib.sha256(renamed(text, plan.label, "*").encode()).hexdigest()
