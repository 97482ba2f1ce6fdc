"""Rules of the intake: how series are named, and which labels participants and sessions get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SeriesRule:
    """A rule that names the series that it matches, or keeps them aside.

    Attributes
    ----------
    where : str
        The file and the rule's place in it, for messages.
    patterns : mapping of str to re.Pattern
        Field of `Instance` to the expression that has to be found in it: ``protocol``,
        ``description``, ``sequence``, ``image_type``, ``scanner``, ``study``, ``patient_id``.
    datatype, suffix : str
        Folder and suffix in BIDS; empty if the rule keeps series aside.
    entities : mapping of str to str
        Long names of entities to values, in which ``{name}`` stands for a named group.
    ignore : str
        Why the series is kept aside; empty if the rule names it.
    """

    where: str
    patterns: Mapping[str, re.Pattern[str]]
    datatype: str = ""
    suffix: str = ""
    entities: Mapping[str, str] = ()  # type: ignore[assignment]
    ignore: str = ""


@dataclass(frozen=True)
class IntakeRules:
    """All rules of a site, checked.

    Attributes
    ----------
    source : str
        Where they come from, for messages.
    series, aside : tuple of SeriesRule
        The first that matches names a series. `aside` is asked after `series` and before ReproIn.
    reproin : bool
        Whether names of ReproIn are understood.
    """

    source: str
    series: tuple[SeriesRule, ...] = ()
    aside: tuple[SeriesRule, ...] = ()
    reproin: bool = True
    dates: Literal["shift", "keep", "remove"] = "shift"
    repeats: Literal["runs", "replace"] = "runs"


def read_rules(path: Path | None = None) -> IntakeRules:
    """Read the rules: those of the package, with a site's own before them.

    Parameters
    ----------
    path : pathlib.Path or None
        A site's TOML file, in the form of ``configs/intake.toml``; None for ReproIn alone.

    Raises
    ------
    InputError
        If the file cannot be read or a rule of it is wrong; the message names the rule, and says
        what is expected.
    """
    raise NotImplementedError
