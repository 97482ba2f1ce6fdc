"""The file of thresholds: reading and writing of rules as TOML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from neuroferry.errors import InputError
from neuroferry.files import read_toml, write_text
from neuroferry.judgement.rules import FEWEST_BASELINE, LEVELS, Limit, Outliers, Rules
from neuroferry.judgement.tables import MODALITIES

RULES_FILE = "qc_thresholds.toml"
"""Rules that were applied last, in the output folder."""


def read_rules(path: Path) -> Rules:
    """Read rules from a TOML file.

    Raises
    ------
    InputError
        If the file cannot be read, or says something that is no rule; the message names it.
    """
    content = read_toml(path, "file of thresholds")
    known = {"limit", "outliers", "motion", "ratings", "drift"}
    _refuse_unknown(content, known, path, "the file")
    limits = content.get("limit", [])
    if not isinstance(limits, list) or not all(isinstance(entry, dict) for entry in limits):
        raise InputError(f"{path}: limits are written as [[limit]], each with its own keys.")
    parts = {key: content.get(key, {}) for key in ("outliers", "motion", "ratings", "drift")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise InputError(f"{path}: {key} is a table, [{key}].")
    _refuse_unknown(parts["motion"], {"fd_threshold"}, path, "[motion]")
    _refuse_unknown(parts["ratings"], {"exclude_below", "accept_from"}, path, "[ratings]")
    rules = Rules(
        limits=tuple(_read_limit(entry, n, path) for n, entry in enumerate(limits, 1)),
        outliers=_read_outliers(parts["outliers"], path),
        fd_threshold=_number(parts["motion"], "fd_threshold", path, "[motion]"),
    )
    given = {
        key: number
        for key in ("exclude_below", "accept_from")
        if (number := _number(parts["ratings"], key, path, "[ratings]")) is not None
    }
    rules = replace(
        rules,
        exclude_below=given.get("exclude_below", rules.exclude_below),
        accept_from=given.get("accept_from", rules.accept_from),
        **_read_drift(parts["drift"], path),
    )
    if rules.fd_threshold is not None and rules.fd_threshold <= 0:
        raise InputError(f"{path}: fd_threshold is a displacement in mm above 0.")
    if not 1 <= rules.exclude_below <= rules.accept_from <= 4:
        raise InputError(
            f"{path}: [ratings] needs 1 <= exclude_below <= accept_from <= 4, as ratings are."
        )
    return rules


def _read_limit(entry: Mapping[str, Any], n: int, path: Path) -> Limit:
    where = f"[[limit]] number {n}"
    _refuse_unknown(
        entry, {"modality", "metric", "min", "max", "column", "value", "then"}, path, where
    )
    texts = {key: entry.get(key, "") for key in ("modality", "metric", "column", "value", "then")}
    texts["value"] = str(texts["value"])
    if not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"{path}: {where}: write all but min and max as texts, in quotes.")
    low, high = (_number(entry, key, path, where) for key in ("min", "max"))
    if texts["modality"] not in MODALITIES or not texts["metric"]:
        raise InputError(
            f"{path}: {where} needs a metric and a modality: {', '.join(MODALITIES)}."
        )
    if low is None and high is None:
        raise InputError(f"{path}: {where} ({texts['metric']}) needs min, max or both.")
    if low is not None and high is not None and low > high:
        raise InputError(f"{path}: {where} ({texts['metric']}): min is larger than max.")
    if bool(texts["column"]) != bool(texts["value"]):
        raise InputError(f"{path}: {where} needs both column and value, or none of them.")
    then = texts["then"] or "exclude"
    if then not in LEVELS[1:]:
        raise InputError(f"{path}: {where}: then is exclude or look, not {then!r}.")
    return Limit(
        texts["modality"], texts["metric"], low, high, texts["column"], texts["value"], then
    )


def _read_outliers(part: Mapping[str, Any], path: Path) -> Outliers:
    _refuse_unknown(part, {"on", "k", "fewest", "by", "metrics"}, path, "[outliers]")
    usual = Outliers()
    k = _number(part, "k", path, "[outliers]")
    fewest = part.get("fewest", usual.fewest)
    lists = {key: part.get(key, list(getattr(usual, key))) for key in ("by", "metrics")}
    for key, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: [outliers]: {key} is a list of names.")
    on = part.get("on", True)
    if not isinstance(on, bool) or not isinstance(fewest, int) or fewest < 3:
        raise InputError(f"{path}: [outliers]: on is true or false, fewest at least 3.")
    if k is not None and k <= 0:
        raise InputError(f"{path}: [outliers]: k is a number above 0.")
    return Outliers(
        on, usual.k if k is None else k, fewest, tuple(lists["by"]), tuple(lists["metrics"])
    )


def _read_drift(part: Mapping[str, Any], path: Path) -> dict[str, Any]:
    _refuse_unknown(part, {"baseline", "column"}, path, "[drift]")
    read: dict[str, Any] = {}
    if "baseline" in part:
        try:
            read["baseline"] = read_baseline(str(part["baseline"]))
        except InputError as error:
            raise InputError(f"{path}: [drift]: {error}") from error
    if "column" in part:
        if not isinstance(part["column"], str) or not part["column"]:
            raise InputError(f"{path}: [drift]: column is the name of a column.")
        read["scanner_column"] = part["column"]
    return read


def read_baseline(text: str) -> int | date:
    """Read a baseline: a number of scans, or the day that it ends.

    Raises
    ------
    InputError
        If it is neither, or too short.
    """
    if text.isdigit():
        if int(text) < FEWEST_BASELINE:
            raise InputError(f"A baseline has at least {FEWEST_BASELINE} scans, not {text}.")
        return int(text)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"A baseline is a number of scans or a day such as 2026-03-31, not {text!r}."
        ) from error


def _number(table: Mapping[str, Any], key: str, path: Path, where: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {where}: {key} is a number, not {value!r}.")
    return float(value)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], path: Path, where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(
            f"{path}: {where} has the unknown key {unknown[0]!r}; known are"
            f" {', '.join(sorted(known))}."
        )


def rules_table(rules: Rules) -> dict[str, Any]:
    """Give rules in the form of their file, for TOML and for the page."""
    limits = []
    for limit in rules.limits:
        entry: dict[str, Any] = {"modality": limit.modality, "metric": limit.metric}
        if limit.low is not None:
            entry["min"] = limit.low
        if limit.high is not None:
            entry["max"] = limit.high
        if limit.column:
            entry |= {"column": limit.column, "value": limit.value}
        limits.append(entry | {"then": limit.then})
    found = rules.outliers
    table: dict[str, Any] = {
        "outliers": {
            "on": found.on,
            "k": found.k,
            "fewest": found.fewest,
            "by": list(found.by),
            "metrics": list(found.metrics),
        },
        "ratings": {"exclude_below": rules.exclude_below, "accept_from": rules.accept_from},
    }
    if rules.fd_threshold is not None:
        table["motion"] = {"fd_threshold": rules.fd_threshold}
    base = rules.baseline
    table["drift"] = {
        "baseline": base if isinstance(base, int) else base.isoformat(),
        "column": rules.scanner_column,
    }
    return table | {"limit": limits}


def write_rules(path: Path, rules: Rules) -> None:
    """Write rules as a TOML file that `read_rules` reads."""
    import tomli_w

    write_text(path, tomli_w.dumps(rules_table(rules)))


def rules_of(out_dir: Path) -> Rules:
    """Read the rules that were applied to an output folder last; without any, the usual ones."""
    path = out_dir / RULES_FILE
    return read_rules(path) if path.exists() else Rules()
