"""Rules that judge scans by their metrics: limits, and outliers within a protocol.

The page of all participants applies the same rules in JavaScript (``reports/quality.js``), so that
a limit can be tried without running anything; ``tests/reports/test_quality_page.py`` compares both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuroferry.errors import InputError
from neuroferry.files import read_toml, write_text
from neuroferry.judgement.tables import (
    MODALITIES,
    Scan,
    Scans,
    read_displacement,
    with_displacement,
)

RULES_FILE = "qc_thresholds.toml"
"""Rules that were applied last, in the output folder."""
LEVELS = ("accept", "look", "exclude")
"""Suggestions and verdicts, the worse the later."""
DIRECTED = ("higher", "lower", "near")
"""Directions (``better`` in ``configs/iqms.toml``) of metrics that can be outliers."""

Directions = Mapping[str, Mapping[str, str]]
"""``better`` of each metric, by modality."""


@dataclass(frozen=True)
class Limit:
    """Limits of a metric, for all scans of a modality or for those with a value in a column.

    Attributes
    ----------
    modality, metric : str
        What is limited.
    low, high : float or None
        Smallest and largest value allowed.
    column, value : str
        Only scans with this value in this column, such as ``protocol``; empty: all. Where a limit
        for a column fits a scan, those for all scans do not count for that metric.
    then : {"exclude", "look"}
        What is suggested for a scan beyond the limit.
    """

    modality: str
    metric: str
    low: float | None = None
    high: float | None = None
    column: str = ""
    value: str = ""
    then: str = "exclude"


@dataclass(frozen=True)
class Outliers:
    """How outliers are found.

    Attributes
    ----------
    on : bool
        Whether they are looked for.
    k : float
        Robust standard deviations (1.4826 times the median absolute deviation) from the median.
    fewest : int
        Scans of a group, at least, to judge any of them.
    by : tuple of str
        Columns whose values form the groups.
    metrics : tuple of str
        Only these; empty: all that have a direction.
    """

    on: bool = True
    k: float = 3.5
    fewest: int = 6
    by: tuple[str, ...] = ("protocol",)
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """All that a judgement depends on besides metrics and ratings.

    Attributes
    ----------
    limits : tuple of Limit
        Limits of metrics.
    outliers : Outliers
        How outliers are found.
    fd_threshold : float or None
        Displacement in mm above which a volume counts in ``fd_num`` and ``fd_perc``; None: what
        the metrics were measured with.
    exclude_below, accept_from : float
        Median ratings (1 to 4) of scans that are excluded, and of scans that are accepted.
    """

    limits: tuple[Limit, ...] = ()
    outliers: Outliers = field(default_factory=Outliers)
    fd_threshold: float | None = None
    exclude_below: float = 1.5
    accept_from: float = 2.5


@dataclass(frozen=True)
class Finding:
    """One reason to look at a scan, or to exclude it.

    Attributes
    ----------
    metric : str
        The metric.
    kind : {"limit", "outlier"}
        What found it.
    level : {"look", "exclude"}
        What it suggests.
    reason : str
        A clause that says why.
    """

    metric: str
    kind: str
    level: str
    reason: str


def read_rules(path: Path) -> Rules:
    """Read rules from a TOML file.

    Raises
    ------
    InputError
        If the file cannot be read, or says something that is no rule; the message names it.
    """
    content = read_toml(path, "file of thresholds")
    known = {"limit", "outliers", "motion", "ratings"}
    _refuse_unknown(content, known, path, "the file")
    limits = content.get("limit", [])
    if not isinstance(limits, list) or not all(isinstance(entry, dict) for entry in limits):
        raise InputError(f"{path}: limits are written as [[limit]], each with its own keys.")
    parts = {key: content.get(key, {}) for key in ("outliers", "motion", "ratings")}
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
    rules = replace(rules, **given)
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
    return table | {"limit": limits}


def write_rules(path: Path, rules: Rules) -> None:
    """Write rules as a TOML file that `read_rules` reads."""
    import tomli_w

    write_text(path, tomli_w.dumps(rules_table(rules)))


def rules_of(out_dir: Path) -> Rules:
    """Read the rules that were applied to an output folder last; without any, the usual ones."""
    path = out_dir / RULES_FILE
    return read_rules(path) if path.exists() else Rules()


def count_motion(scans: Scans, rules: Rules) -> Scans:
    """Count volumes with motion again, above the threshold of the rules, from the time series."""
    if rules.fd_threshold is None:
        return scans
    threshold = rules.fd_threshold
    counted = {
        modality: tuple(
            with_displacement(scan, read_displacement(scan), threshold) for scan in of
        )
        for modality, of in scans.of.items()
    }
    return Scans(counted, scans.notes)


def apply_rules(
    scans: Sequence[Scan], rules: Rules, directions: Mapping[str, str]
) -> dict[str, tuple[Finding, ...]]:
    """Judge the scans of one modality.

    Parameters
    ----------
    scans : sequence of Scan
        Scans of one modality.
    rules : Rules
        The rules.
    directions : mapping of str to str
        ``better`` of each metric: higher, lower, near or none. Beyond ``k``, only the worse side is
        an outlier; metrics without direction are never.

    Returns
    -------
    dict
        Findings of each scan by its name, limits first; empty tuples for those without any.
    """
    found: dict[str, list[Finding]] = {scan.name: [] for scan in scans}
    for scan in scans:
        found[scan.name] += _beyond_limits(scan, rules.limits)
    if rules.outliers.on:
        names = rules.outliers.metrics or tuple(directions)
        for group in group_scans(scans, rules.outliers.by).values():
            for metric in names:
                for scan, reason in _outliers(
                    group, metric, directions.get(metric, "none"), rules.outliers
                ):
                    found[scan.name].append(Finding(metric, "outlier", "look", reason))
    return {name: tuple(findings) for name, findings in found.items()}


def _beyond_limits(scan: Scan, limits: Iterable[Limit]) -> list[Finding]:
    fitting = [
        limit
        for limit in limits
        if limit.modality == scan.modality
        and limit.metric in scan.metrics
        and (not limit.column or scan.columns.get(limit.column) == limit.value)
    ]
    narrow = {limit.metric for limit in fitting if limit.column}
    findings = []
    for limit in fitting:
        if not limit.column and limit.metric in narrow:
            continue
        value = scan.metrics[limit.metric]
        if limit.high is not None and value > limit.high:
            words = f"above {short(limit.high)}"
        elif limit.low is not None and value < limit.low:
            words = f"below {short(limit.low)}"
        else:
            continue
        reason = f"{limit.metric} {short(value)} is {words}"
        findings.append(Finding(limit.metric, "limit", limit.then, reason))
    return findings


def group_scans(
    scans: Iterable[Scan], by: Sequence[str]
) -> dict[tuple[str, ...], list[Scan]]:
    """Group scans by the values of columns; a missing value is one of its own."""
    groups: dict[tuple[str, ...], list[Scan]] = {}
    for scan in scans:
        groups.setdefault(tuple(scan.columns.get(name, "") for name in by), []).append(scan)
    return groups


def _outliers(
    group: Sequence[Scan], metric: str, better: str, how: Outliers
) -> Iterable[tuple[Scan, str]]:
    having = [scan for scan in group if metric in scan.metrics]
    if better not in DIRECTED or len(having) < how.fewest:
        return
    values = [scan.metrics[metric] for scan in having]
    middle, scale = robust_scale(values)
    if scale <= 0:
        return
    for scan, value in zip(having, values, strict=True):
        z = (value - middle) / scale
        if is_worse(z, better, how.k):
            side = "above" if z > 0 else "below"
            yield (
                scan,
                f"{metric} {short(value)} lies {short(abs(z), 2)} robust deviations {side} the"
                f" median {short(middle)} of {len(values)} scans alike",
            )


def is_worse(z: float, better: str, k: float) -> bool:
    """Tell whether a robust score is beyond `k` on the worse side.

    Examples
    --------
    >>> is_worse(4, "lower", 3.5), is_worse(4, "higher", 3.5), is_worse(-4, "near", 3.5)
    (True, False, True)
    """
    if better == "lower":
        return z > k
    return z < -k if better == "higher" else abs(z) > k


def robust_scale(values: Sequence[float]) -> tuple[float, float]:
    """Estimate centre and standard deviation by medians.

    Returns
    -------
    centre, scale : float
        Median, and 1.4826 times the median absolute deviation from it.

    Examples
    --------
    >>> robust_scale([1, 2, 3, 4, 100])
    (3, 1.4826)
    """
    middle = statistics.median(values)
    return middle, 1.4826 * statistics.median(abs(value - middle) for value in values)


def short(value: float, digits: int = 4) -> str:
    """Format a number with few significant digits, as the page does.

    Examples
    --------
    >>> short(0.123456), short(1234.56), short(3)
    ('0.1235', '1235', '3')
    """
    return f"{float(f'{value:.{digits}g}'):.15g}"
