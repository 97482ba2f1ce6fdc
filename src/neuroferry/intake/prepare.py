"""What a series is and whether it is whole, before anything is converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuroferry.errors import InputError
from neuroferry.intake.checks import Findings, check_objects, check_patient
from neuroferry.intake.dcm2niix import Converted
from neuroferry.intake.identity import Identifiers
from neuroferry.intake.model import Series
from neuroferry.intake.naming import name_series
from neuroferry.intake.reproin import Aside, Name
from neuroferry.intake.rulebook import IntakeRules
from neuroferry.intake.volumes import Volumes, read_volumes

_SHORT = 4  # letters of a label that may be a word of a name by chance


@dataclass(frozen=True)
class Prepared:
    """A series with its name, or why it has none.

    Attributes
    ----------
    name : Name or Aside
        The name, if it is to be converted.
    findings : Findings or None
        The state of its objects; None if they were not looked at.
    warnings : tuple of str
        What is doubtful, as sentences.
    """

    name: Name | Aside
    findings: Findings | None = None
    warnings: tuple[str, ...] = ()


def prepare(series: Series, rules: IntakeRules, identifiers: Identifiers) -> Prepared:
    """Name a series and check its objects.

    Parameters
    ----------
    series : Series
        The series; its headers are read.
    rules : IntakeRules
        The rules.
    identifiers : Identifiers
        What must not become a part of a name.
    """
    mixed = check_patient(series)
    if mixed:
        return Prepared(Aside("refused", mixed))
    name = name_series(series.first, rules)
    try:
        findings = check_objects(series, read_volumes(series))
    except InputError as error:
        return Prepared(Aside("refused", str(error)))
    if isinstance(name, Aside):
        state = (findings.reason,) if findings.fate == "refused" else ()
        return Prepared(name, findings, (*findings.warnings, *state))
    if findings.reason:
        return Prepared(
            Aside(findings.fate, findings.reason, name.session), findings, findings.warnings
        )
    telling = [
        key
        for key, value in name.entities.items()
        if len(value) > _SHORT and identifiers.found_in(value)
    ]
    if telling:
        reason = f"The label of {telling[0]} holds a part of what identifies the patient."
        return Prepared(Aside("unassigned", reason, name.session), findings, findings.warnings)
    return Prepared(name, findings, (*name.notes, *findings.warnings))


def foresee(volumes: Volumes) -> list[Converted]:
    """Tell which images a converter will make of a series: one for each part and echo."""
    words = {"mag": "M", "phase": "P", "real": "R", "imag": "I"}
    return [
        Converted(
            Path(),
            {"ImageType": ["ORIGINAL", "PRIMARY", words[part]], "EchoTime": echo},
            (),
            (),
            f"_{number}",
        )
        for number, (part, echo) in enumerate(sorted(volumes.stacks()))
    ]
