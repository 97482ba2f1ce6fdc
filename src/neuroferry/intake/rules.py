"""Rules of the intake: how series are named, and which labels participants and sessions get."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from neuroferry.bids.entities import ENTITIES, NAMES, did_you_mean, is_label
from neuroferry.bids.naming import DATATYPES, FOLDERS
from neuroferry.bids.tables import read_table
from neuroferry.errors import InputError
from neuroferry.files import package_toml, read_toml
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
_FORBIDDEN = ("subject", "session", "description", "space")
_GROUP = re.compile(r"\{(\w+)\}")


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
    """

    where: str
    patterns: Mapping[str, re.Pattern[str]]
    datatype: str = ""
    suffix: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    ignore: str = ""

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
    reproin: bool = True
    dates: Literal["shift", "keep", "remove"] = "shift"
    repeats: Literal["runs", "replace"] = "runs"
    by_study: bool = False
    subjects: SubjectRule = SubjectRule()
    sessions: SessionRule = SessionRule()
    intended_for: Literal["closest", "all", "none"] = "closest"
    match_shims: bool = True


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
    source = "configs/intake.toml"
    if path is not None:
        source = str(path)
        site = read_toml(path, "file of rules")
        _check_names(source, site, [*settled, "series"])
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
        aside=reader.series("aside", settled["aside"]),
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


def fill(text: str, groups: Mapping[str, str]) -> str:
    """Put named groups in the place of their names.

    >>> fill("{side}1", {"side": "left"})
    'left1'
    """
    return _GROUP.sub(lambda found: groups[found[1]], text)


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
                self.rule(f"{self.source}, [[{name}]] number {number}", rule),
                where=f"{Path(self.source).name}, [[{name}]] number {number}",
            )
            for number, rule in enumerate(rules, 1)
        )

    def rule(self, where: str, rule: Mapping[str, Any]) -> SeriesRule:
        _check_names(where, rule, [*FIELDS, "datatype", "suffix", "entities", "ignore"])
        patterns = {
            name: self.pattern(where, name, rule[name]) for name in FIELDS if rule.get(name)
        }
        if not patterns:
            raise InputError(f"{where}: it has no pattern; give one of {', '.join(FIELDS)}")
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
            unknown = set(_GROUP.findall(text)) - known
            if unknown:
                raise InputError(
                    f"{where}: {name} = {text!r} names the group {min(unknown)!r}, which none of"
                    f" its patterns has: write (?P<{min(unknown)}>...) in one"
                )
            if not is_label(_GROUP.sub("x", text)):
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
