"""Rules that judge scans by their metrics: limits, and outliers within a protocol.

The page of all participants applies the same rules in JavaScript (``reports/quality_rules.js``),
so that a limit can be tried without running anything. Their tests compare both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from neuroferry.judgement.tables import Scan

LEVELS = ("accept", "look", "exclude")
"""Suggestions and verdicts, the worse the later."""
BASELINE = 20
"""Scans of a baseline, unless a number or a day is given."""
FEWEST_BASELINE = 10
"""Scans of a baseline, at least."""
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
    baseline : int or datetime.date
        Scans of a scanner's baseline, or the day on which it ends.
    scanner_column : str
        Column that names the scanner that is followed.
    """

    limits: tuple[Limit, ...] = ()
    outliers: Outliers = field(default_factory=Outliers)
    fd_threshold: float | None = None
    exclude_below: float = 1.5
    accept_from: float = 2.5
    baseline: int | date = BASELINE
    scanner_column: str = "scanner"


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
        ``better`` of each metric: higher, lower, near or none. Beyond ``k``, only the worse side
        is an outlier; metrics without direction are never.

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


def group_scans(scans: Iterable[Scan], by: Sequence[str]) -> dict[tuple[str, ...], list[Scan]]:
    """Group scans by the values of columns; a missing value is one of its own."""
    groups: dict[tuple[str, ...], list[Scan]] = {}
    for scan in scans:
        groups.setdefault(tuple(scan.columns.get(name, "") for name in by), []).append(scan)
    return groups


def without_company(scans: Iterable[Scan], how: Outliers) -> int:
    """Count the scans with too few alike to find outliers among them."""
    groups = group_scans(scans, how.by).values() if how.on else ()
    return sum(len(group) for group in groups if len(group) < how.fewest)


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
