"""The rules of a site, as values: how series are named, and participants and sessions labelled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neuroferry.intake.model import Instance

#: Fields of a rule, and what of an object each is compared with.
FIELDS: dict[str, Callable[[Instance], str]] = {
    "protocol": lambda first: first.protocol,
    "description": lambda first: first.description,
    "sequence": lambda first: first.sequence,
    "image_type": lambda first: "/".join(first.image_type),
    "scanner": lambda first: " ".join(
        (first.manufacturer, first.model, first.serial, first.station)
    ),
    "study": lambda first: first.study_description,
    "patient_id": lambda first: first.patient_id,
}
#: A named group in the value of an entity.
GROUP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class SeriesRule:
    """A rule that names the series that it matches, or keeps them aside.

    Attributes
    ----------
    where : str
        The rule's place in its file, for messages.
    patterns : mapping of str to re.Pattern
        Names of `FIELDS` to the expressions that have to be found in them.
    datatype, suffix : str
        Folder and suffix in BIDS; empty if the rule keeps series aside.
    entities : mapping of str to str
        Long names of entities to values, in which ``{name}`` stands for a named group.
    ignore : str
        Why the series is kept aside; empty if the rule names it.
    sidecar : mapping
        What is written into the sidecar, whatever the converter wrote.
    """

    where: str
    patterns: Mapping[str, re.Pattern[str]]
    datatype: str = ""
    suffix: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    ignore: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)

    def match(self, first: Instance) -> dict[str, str] | None:
        """Compare the rule with a series.

        Parameters
        ----------
        first : Instance
            An object of the series.

        Returns
        -------
        dict of str to str or None
            Named groups of the expressions; None if one of these is not found.
        """
        groups: dict[str, str] = {}
        for name, pattern in self.patterns.items():
            found = pattern.search(FIELDS[name](first))
            if found is None:
                return None
            groups |= {key: text or "" for key, text in found.groupdict().items()}
        return groups


@dataclass(frozen=True)
class SubjectRule:
    """How participants get their labels: table, else pattern, else `otherwise`.

    Attributes
    ----------
    table : mapping of str to (str, str)
        PatientID to the labels of participant and session; the latter may be empty.
    pattern : re.Pattern or None
        Its first group, found in PatientID, is the label.
    lower : bool
        Whether such a label is written in lower case.
    otherwise : str
        What happens without a label.
    """

    table: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    pattern: re.Pattern[str] | None = None
    lower: bool = False
    otherwise: Literal["number", "hash", "refuse"] = "number"


@dataclass(frozen=True)
class SessionRule:
    """How visits become sessions; `field` and `pattern` belong to ``by = "pattern"``."""

    by: Literal["name", "date", "pattern", "none"] = "name"
    field: str = "study"
    pattern: re.Pattern[str] | None = None
    gap_hours: float = 4.0


@dataclass(frozen=True)
class IntakeRules:
    """All rules of a site, checked.

    Attributes
    ----------
    source : str
        Where they come from, for messages.
    series, aside : tuple of SeriesRule
        The first that matches names a series. `aside` is asked after `series` and before ReproIn.
    sidecars : tuple of SeriesRule
        Rules that name nothing, but say what the headers of a scanner do not tell. All that match
        count, the later ones over the earlier.
    reproin : bool
        Whether names of ReproIn are understood.
    dates : str
        What becomes of days.
    repeats : str
        What becomes of a scan with the name of an earlier one.
    by_study : bool
        Whether each StudyDescription has a dataset of its own.
    subjects : SubjectRule
    sessions : SessionRule
    intended_for : str
        Which runs a field map is meant for.
    match_shims : bool
        Whether shims have to agree, where they are known.
    """

    source: str
    series: tuple[SeriesRule, ...] = ()
    aside: tuple[SeriesRule, ...] = ()
    sidecars: tuple[SeriesRule, ...] = ()
    reproin: bool = True
    dates: Literal["shift", "keep", "remove"] = "shift"
    repeats: Literal["runs", "replace"] = "runs"
    by_study: bool = False
    subjects: SubjectRule = SubjectRule()
    sessions: SessionRule = SessionRule()
    intended_for: Literal["closest", "all", "none"] = "closest"
    match_shims: bool = True


def fill(text: str, groups: Mapping[str, str]) -> str:
    """Put named groups in the place of their names.

    >>> fill("{side}1", {"side": "left"})
    'left1'
    """
    return GROUP.sub(lambda found: groups[found[1]], text)
