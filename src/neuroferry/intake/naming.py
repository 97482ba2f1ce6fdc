"""The name of a series: by a site's rule, by ReproIn, or none."""

from __future__ import annotations

from typing import Any

from neuroferry.bids.entities import is_label
from neuroferry.intake.model import Instance
from neuroferry.intake.reproin import Aside, Name, name_by_reproin, parse_spec
from neuroferry.intake.rulebook import IntakeRules, SeriesRule, fill


def name_series(first: Instance, rules: IntakeRules) -> Name | Aside:
    """Name a series, or say why it has no name.

    Parameters
    ----------
    first : Instance
        An object of the series.
    rules : IntakeRules
        The rules.

    Returns
    -------
    Name or Aside
        A site's own rule counts before what keeps series aside, and that before ReproIn. Nothing
        is guessed from contrast or geometry.
    """
    if first.modality not in ("MR", ""):
        return Aside("unassigned", f"Its modality is {_word(first.modality)}, not MR.")
    for rule in rules.series:
        named = _apply(rule, first)
        if named is not None:
            return named
    for rule in rules.aside:
        named = _apply(rule, first)
        if named is not None:
            return named
    named = name_by_reproin(first) if rules.reproin else None
    if named is not None:
        return named
    names = (
        "no rule matches it, and its name is none of ReproIn"
        if rules.reproin
        else ("no rule matches it")
    )
    return Aside("unassigned", f"{names[0].upper()}{names[1:]}.")


def said_by_rules(first: Instance, rules: IntakeRules) -> dict[str, Any]:
    """Collect what rules say that the sidecar of a series holds."""
    said: dict[str, Any] = {}
    for rule in rules.sidecars:
        if rule.match(first) is not None:
            said |= rule.sidecar
    return said


def _apply(rule: SeriesRule, first: Instance) -> Name | Aside | None:
    groups = rule.match(first)
    if groups is None:
        return None
    session = said_session(first)
    if rule.ignore:
        return Aside("set aside", f"It is {rule.ignore} ({rule.where}).", session)
    entities = {name: fill(text, groups) for name, text in rule.entities.items()}
    odd = {name: value for name, value in entities.items() if value and not is_label(value)}
    if odd:
        name = min(odd)
        return Aside(
            "unassigned",
            f"The rule {rule.where} takes a {name} from its name that is no label: a label has"
            " letters, digits and + only.",
            session,
        )
    run = entities.pop("run", "")
    number = f"{int(run):02d}" if run.isdigit() else ""
    kept = {name: value for name, value in entities.items() if value}
    return Name(rule.datatype, rule.suffix, f"the rule {rule.where}", kept, number, session)


def said_session(first: Instance) -> str:
    """Tell which session a name of ReproIn says; empty if none."""
    for text in (first.protocol, first.description):
        spec = parse_spec(text)
        if spec is not None:
            return spec.session
    return ""


def _word(text: str) -> str:
    return text if text.isalnum() and len(text) <= 4 else "unknown"
