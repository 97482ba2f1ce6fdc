"""Reading of the rules of the intake: those of the package, and a site's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import ENTITIES, NAMES, did_you_mean, is_label
from neuroferry.bids.naming import DATATYPES, FOLDERS
from neuroferry.bids.tables import read_table
from neuroferry.errors import InputError
from neuroferry.files import package_toml, read_toml
from neuroferry.intake.rulebook import (
    FIELDS,
    GROUP,
    IntakeRules,
    SeriesRule,
    SessionRule,
    SubjectRule,
)

__all__ = ["IntakeRules", "read_rules"]

_FORBIDDEN = ("subject", "session", "description", "space")


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
    settled = package_toml("intake.toml")
    source, site = "configs/intake.toml", {}
    package = _Reader(source, Path())
    if path is not None:
        source = str(path)
        site = read_toml(path, "file of rules")
        _check_names(source, site, [*settled, "series", "sidecar"])
        for name, value in site.items():
            if isinstance(settled.get(name), dict):
                if not isinstance(value, dict):
                    raise InputError(f"{source}: {name} is a table: write [{name}]", path=path)
                _check_names(f"{source}, [{name}]", value, settled[name])
                settled[name] |= value
            else:
                settled[name] = value
    reader = _Reader(source, path.parent if path else Path())
    return IntakeRules(
        source,
        series=reader.series("series", settled.get("series", [])),
        aside=(reader if "aside" in site else package).series("aside", settled["aside"]),
        sidecars=reader.series("sidecar", settled.get("sidecar", [])),
        reproin=reader.truth("reproin", settled["reproin"]),
        dates=reader.choice("dates", settled["dates"], ("shift", "keep", "remove")),
        repeats=reader.choice("repeats", settled["repeats"], ("runs", "replace")),
        by_study=reader.choice("by", settled["dataset"]["by"], ("one", "study")) == "study",
        subjects=reader.subjects(settled["subjects"]),
        sessions=reader.sessions(settled["sessions"]),
        intended_for=reader.choice(
            "intended_for", settled["fieldmaps"]["intended_for"], ("closest", "all", "none")
        ),
        match_shims=reader.truth("match_shims", settled["fieldmaps"]["match_shims"]),
    )


class _Reader:
    """Reads the values of one file, and says where in it one is wrong."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = source, folder

    def choice(self, name: str, value: Any, words: tuple[str, ...]) -> Any:
        if value not in words:
            listed = ", ".join(f'"{word}"' for word in words)
            raise InputError(f"{self.source}: {name} = {value!r} is not one of {listed}")
        return value

    def truth(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(f"{self.source}: {name} = {value!r} is not true or false")
        return value

    def text(self, where: str, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} = {value!r} is not a text in quotation marks")
        return value

    def pattern(self, where: str, name: str, value: Any) -> re.Pattern[str]:
        try:
            return re.compile(self.text(where, name, value))
        except re.error as error:
            raise InputError(
                f"{where}: {name} = {value!r} is not a regular expression: {error}"
            ) from error

    def grouped(self, where: str, value: Any) -> re.Pattern[str] | None:
        if value == "":
            return None
        pattern = self.pattern(where, "pattern", value)
        if not pattern.groups:
            raise InputError(
                f"{where}: pattern = {value!r} has no group: put the label in parentheses, as in"
                ' "^sub-([A-Za-z0-9]+)$"'
            )
        return pattern

    def series(self, name: str, rules: Any) -> tuple[SeriesRule, ...]:
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise InputError(f"{self.source}: {name} is a list of tables: write [[{name}]]")
        return tuple(
            # the name of the file alone: reasons stand in the dataset
            replace(
                self.rule(f"{self.source}, [[{name}]] number {number}", name, rule),
                where=f"{Path(self.source).name}, [[{name}]] number {number}",
            )
            for number, rule in enumerate(rules, 1)
        )

    def rule(self, where: str, kind: str, rule: Mapping[str, Any]) -> SeriesRule:
        values = (
            ("values",) if kind == "sidecar" else (*("datatype", "suffix", "entities", "ignore"),)
        )
        _check_names(where, rule, [*FIELDS, *values])
        patterns = {
            name: self.pattern(where, name, rule[name]) for name in FIELDS if rule.get(name)
        }
        if not patterns:
            raise InputError(f"{where}: it has no pattern; give one of {', '.join(FIELDS)}")
        if kind == "sidecar":
            given = rule.get("values")
            if not isinstance(given, dict) or not given:
                raise InputError(
                    f'{where}: it needs values, as in {{ PhaseEncodingDirection = "j-" }}'
                )
            return SeriesRule(where, patterns, sidecar=given)
        if "ignore" in rule:
            reason = self.text(where, "ignore", rule["ignore"])
            if not reason or rule.keys() & {"datatype", "suffix", "entities"}:
                raise InputError(
                    f"{where}: a rule either has a reason in `ignore`, or datatype and suffix"
                )
            return SeriesRule(where, patterns, ignore=reason)
        datatype = self.text(where, "datatype", rule.get("datatype", ""))
        suffix = self.text(where, "suffix", rule.get("suffix", ""))
        check_place(where, datatype, suffix)
        return SeriesRule(
            where, patterns, datatype, suffix, self.entities(where, rule, patterns.values())
        )

    def entities(
        self, where: str, rule: Mapping[str, Any], patterns: Iterable[re.Pattern[str]]
    ) -> dict[str, str]:
        given = rule.get("entities", {})
        if not isinstance(given, dict):
            raise InputError(f'{where}: entities is a table, as in {{ task = "rest" }}')
        known = {group for pattern in patterns for group in pattern.groupindex}
        found = {}
        for name, value in given.items():
            long = NAMES.get(name, name)
            if long not in ENTITIES or long in _FORBIDDEN:
                raise InputError(
                    f"{where}: {name!r} is not an entity that a rule can set"
                    f"{did_you_mean(name, set(ENTITIES) - set(_FORBIDDEN))}"
                )
            text = str(value) if isinstance(value, int) else self.text(where, name, value)
            unknown = set(GROUP.findall(text)) - known
            if unknown:
                raise InputError(
                    f"{where}: {name} = {text!r} names the group {min(unknown)!r}, which none of"
                    f" its patterns has: write (?P<{min(unknown)}>...) in one"
                )
            if not is_label(GROUP.sub("x", text)):
                raise InputError(
                    f"{where}: {name} = {text!r} may have only letters, digits and + (and"
                    " {groups})"
                )
            found[long] = text
        return found

    def subjects(self, given: Mapping[str, Any]) -> SubjectRule:
        where = f"{self.source}, [subjects]"
        table = self.text(where, "table", given["table"])
        return SubjectRule(
            read_labels(self.folder / table) if table else {},
            self.grouped(where, given["pattern"]),
            self.truth("lower", given["lower"]),
            self.choice("otherwise", given["otherwise"], ("number", "hash", "refuse")),
        )

    def sessions(self, given: Mapping[str, Any]) -> SessionRule:
        where = f"{self.source}, [sessions]"
        by = self.choice("by", given["by"], ("name", "date", "pattern", "none"))
        pattern = self.grouped(where, given["pattern"])
        if (by == "pattern") != (pattern is not None):
            raise InputError(f'{where}: by = "pattern" and `pattern` go together')
        gap = given["gap_hours"]
        if isinstance(gap, bool) or not isinstance(gap, int | float) or not 0 < gap < 1000:
            raise InputError(f"{where}: gap_hours = {gap!r} is not a number of hours above 0")
        return SessionRule(by, self.choice("field", given["field"], tuple(FIELDS)), pattern, gap)


def read_labels(path: Path) -> dict[str, tuple[str, str]]:
    """Read a table of labels: PatientID to the labels of participant and session.

    Parameters
    ----------
    path : pathlib.Path
        TSV with the columns ``patient_id``, ``participant_id`` and perhaps ``session_id``.

    Raises
    ------
    InputError
        If a column is missing, a label is none, or a patient has two; lines are named, patients
        are not.
    """
    table = read_table(path)
    for name in ("patient_id", "participant_id"):
        if name not in table.columns:
            raise InputError(
                f"{path}: the table of labels has no column {name}; it needs patient_id and"
                " participant_id, separated by tabs"
            )
    found: dict[str, tuple[str, str]] = {}
    for line, cells in table.rows():
        row = dict(zip(table.columns, cells, strict=False))
        subject = row["participant_id"].removeprefix("sub-")
        session = row.get("session_id", "").removeprefix("ses-").replace("n/a", "")
        if not is_label(subject) or (session and not is_label(session)):
            raise InputError(f"{path}, line {line}: labels may have only letters, digits and +")
        patient = row["patient_id"].strip()
        if not patient or found.setdefault(patient, (subject, session)) != (subject, session):
            raise InputError(
                f"{path}, line {line}: each line needs a patient_id, and each patient_id one label"
            )
    return found


def check_place(where: str, datatype: str, suffix: str) -> None:
    """Check that BIDS has the folder and, where it is known, that the suffix belongs into it.

    Raises
    ------
    InputError
        If not.
    """
    if datatype not in DATATYPES:
        raise InputError(
            f"{where}: datatype = {datatype!r} is no folder of BIDS"
            f"{did_you_mean(datatype, DATATYPES)}"
        )
    if not suffix.isalnum():
        raise InputError(f"{where}: suffix = {suffix!r} is not a suffix such as T1w or bold")
    if datatype not in FOLDERS.get(suffix, (datatype,)):
        right = " or ".join(FOLDERS[suffix])
        raise InputError(f"{where}: _{suffix} belongs into {right}, not into {datatype}")


def _check_names(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{where}: {name!r} is not known{did_you_mean(name, known)}")
