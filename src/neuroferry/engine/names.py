"""Names of steps, parsed in one place: participant, workflows, item, and names for people.

A step's full name is that of its Nipype node: the workflows around it, its own name, then the
values of its iterables and the item of a MapNode, each with an underscore in front:
``neuroferry_wf.sub_01_wf.anatomy_wf.anat_wf.correct_bias``, ``w.smooth._fwhm_4._smooth12``.

The *kind* of a node, the same for every participant, session, run, template and item, is set by
its builder: ``node.kind``, such as ``bold.fit.estimate_motion``. The engine only reads it, so it
need not know how workflows are named. In workflows that do not set it, the kind is the name
without participant, iterables and item.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from neuroferry.bids.entities import from_node_name, in_node_name

_SUBJECT_WF = re.compile(r"(?:^|(?<=\.))sub_((?:[0-9A-Za-z]|_plus_)+)_wf(?=\.|$)")
_ANY_SUBJECT = "sub_*_wf"
_ANY_ITEM = "[*]"


@dataclass(frozen=True)
class StepName:
    """Full name of a step.

    Attributes
    ----------
    text : str
        As in the record.

    Examples
    --------
    >>> step = StepName("neuroferry_wf.sub_01_wf.ses_a_anat_wf.brain_extraction_wf.find_brain")
    >>> step.subject
    '01'
    >>> step.generic
    'neuroferry_wf.sub_*_wf.ses_a_anat_wf.brain_extraction_wf.find_brain'
    >>> step.plain
    'find brain'
    >>> step.place
    'ses a anat > brain extraction'
    >>> step.short
    'sub-01 ses a anat > brain extraction > find brain'
    >>> StepName("w.smooth._fwhm_4._smooth12").kind
    'w.smooth[*]'
    """

    text: str

    @classmethod
    def of(cls, node: Any) -> StepName:
        """Return the name of a node, with the values of its iterables."""
        return cls(".".join([node.fullname, *(getattr(node, "parameterization", None) or ())]))

    @property
    def parts(self) -> tuple[str, ...]:
        """Workflows, own name, iterables and item."""
        return tuple(self.text.split("."))

    @property
    def subject(self) -> str | None:
        """Participant label, from the name of the participant's workflow."""
        match = _SUBJECT_WF.search(self.text)
        return from_node_name(match[1]) if match else None

    @property
    def generic(self) -> str:
        """Name of the step in any participant."""
        return _SUBJECT_WF.sub(_ANY_SUBJECT, self.text)

    @property
    def base(self) -> str:
        """The generic name without the values of iterables and the item."""
        return drop_iterables(self.generic)

    @property
    def kind(self) -> str:
        """Kind of a step whose builder does not set one."""
        own = re.escape(self.base.rpartition(".")[2])
        is_item = re.fullmatch(rf"_{own}\d+", self.parts[-1]) is not None
        return self.base + _ANY_ITEM * is_item

    @property
    def plain(self) -> str:
        """Own name in plain words."""
        return self.parts[-1].strip("_").replace("_", " ")

    @property
    def place(self) -> str:
        """Workflows around it in plain words, without those of the run and the participant."""
        return " > ".join(_in_words(part) for part in self._around())

    @property
    def short(self) -> str:
        """Participant, workflows and own name, as people would name the step."""
        who = "" if self.subject is None else f"sub-{self.subject} "
        return who + " > ".join(_in_words(part) for part in (*self._around(), self.parts[-1]))

    def _around(self) -> list[str]:
        return [part for part in self.parts[1:-1] if not _SUBJECT_WF.fullmatch(part)]


def drop_iterables(name: str) -> str:
    """Remove the values of iterables and the item from a name.

    >>> drop_iterables("w.smooth._fwhm_4._smooth12")
    'w.smooth'
    """
    if "._" not in name:
        return name
    return ".".join(part for part in name.split(".") if not part.startswith("_"))


def _in_words(part: str) -> str:
    return part.removesuffix("_wf").strip("_").replace("_", " ")


def subject_wf(label: str | None) -> str:
    """Name the workflow of a participant.

    >>> subject_wf("a+b"), StepName("w.sub_a_plus_b_wf.x").subject
    ('sub_a_plus_b_wf', 'a+b')
    """
    return f"sub_{in_node_name(str(label))}_wf"


def in_subject(generic: str, label: str | None) -> str:
    """Name a step in one participant; the inverse of :attr:`StepName.generic`.

    Examples
    --------
    >>> in_subject("neuroferry_wf.sub_*_wf.anat_wf.correct_bias", "02")
    'neuroferry_wf.sub_02_wf.anat_wf.correct_bias'
    """
    return generic.replace(_ANY_SUBJECT, subject_wf(label))


def kind_of(node: Any) -> str:
    """Return the kind of a node: set by its builder, or its name without what varies."""
    return getattr(node, "kind", None) or StepName(node.fullname).kind


def item_kind(kind: str) -> str:
    """Return the kind of the items of a MapNode.

    Examples
    --------
    >>> item_kind("bold.smooth")
    'bold.smooth[*]'
    """
    return kind + _ANY_ITEM
