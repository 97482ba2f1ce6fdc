"""Drift of a scanner over time: control charts of metrics, with limits from a baseline.

Each metric of each scanner and protocol is a series over time. Its first scans are the baseline:
their centre (Hodges and Lehmann 1963, doi:10.1214/aoms/1177704172) and spread (Qn, Rousseeuw and
Croux 1993, doi:10.1080/01621459.1993.10476408) are robust and nearly as exact as mean and standard
deviation. Later scans are compared with them by three rules:

``beyond``
    One value beyond the limits: rule 1 of Western Electric (1956).
``two of three``
    Two of three values in a row beyond two thirds of the limits, on the same side: rule 2.
``average``
    The exponentially weighted moving average (Roberts 1959, doi:10.1080/00401706.1959.10489860)
    beyond its limits; it finds small, lasting changes, as runs on one side would.

Limits are those of three standard deviations, widened because centre and spread are estimated from
a baseline of finite length: the quantile of 0.99865 of Student's t instead of 3, and the variance
of the centre added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.files import write_json, write_lines
from neuroferry.judgement.rules import BASELINE, DIRECTED, FEWEST_BASELINE, Directions, short
from neuroferry.judgement.tables import Scan, Scans

DRIFT_FILE = "qc_drift.tsv"
"""Alarms, in the output folder."""
RULES = {
    "beyond": "its value is outside the limits",
    "two of three": "two of three values in a row are outside two thirds of the limits, on one"
    " side",
    "average": "the exponentially weighted moving average has left its limits",
}
"""Rules, and what they say of the scan that completes a sign."""
SMOOTHING = 0.2
"""Weight of the newest value in the moving average."""
_TAIL = 0.99865
#: Of the estimates, relative to mean and standard deviation of normal values.
_EFFICIENCY_CENTRE, _EFFICIENCY_SPREAD = 0.955, 0.82

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alarm:
    """One sign of a change: the point (from 0) that completes it, and the rule."""

    place: int
    rule: str


@dataclass(frozen=True)
class Chart:
    """Limits of a series, and alarms after its baseline.

    Attributes
    ----------
    n_baseline : int
        Values that centre and spread come from, the first ones.
    centre, spread : float
        Of the baseline.
    limit, average_limit : float
        Largest distance from the centre, of a value and of the moving average.
    average : tuple of float
        Moving average after the baseline, which starts at the centre.
    alarms : tuple of Alarm
        By place.
    """

    n_baseline: int
    centre: float
    spread: float
    limit: float
    average_limit: float
    average: tuple[float, ...]
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True)
class Series:
    """One metric of one scanner and protocol over time.

    Attributes
    ----------
    modality, scanner, protocol, metric : str
        What it is of.
    times : tuple of datetime.datetime
        In order.
    names : tuple of str
        Scans.
    values : tuple of float
        The metric of each.
    chart : Chart or None
        None if there are too few for a baseline, or its values are all alike.
    """

    modality: str
    scanner: str
    protocol: str
    metric: str
    times: tuple[datetime, ...]
    names: tuple[str, ...]
    values: tuple[float, ...]
    chart: Chart | None


def hodges_lehmann(values: Sequence[float] | Floats) -> float:
    """Estimate the centre: the median of the means of all pairs of values, with themselves too.

    Examples
    --------
    >>> hodges_lehmann([1.0, 2.0, 9.0])
    3.5
    """
    array = np.asarray(values, float)
    one, other = np.triu_indices(len(array))
    return float(np.median((array[one] + array[other]) / 2))


def qn_spread(values: Sequence[float] | Floats) -> float:
    """Estimate the standard deviation by the first quartile of the distances of all pairs.

    Parameters
    ----------
    values : sequence of float
        At least 10.

    Returns
    -------
    float
        Qn with its factor for normal values and that for small samples.
    """
    array = np.asarray(values, float)
    n = len(array)
    one, other = np.triu_indices(n, 1)
    half = n // 2 + 1
    place = half * (half - 1) // 2 - 1
    quartile = np.partition(np.abs(array[one] - array[other]), place)[place]
    return float(2.21914 * quartile * (n / (n + 1.4) if n % 2 else n / (n + 3.8)))


def control_chart(values: Sequence[float] | Floats, n_baseline: int) -> Chart | None:
    """Compute limits from the first values, and find where later ones violate them.

    Parameters
    ----------
    values : sequence of float
        In the order of time.
    n_baseline : int
        Values of the baseline.

    Returns
    -------
    Chart or None
        None with a baseline shorter than `FEWEST_BASELINE` or without spread.
    """
    from scipy.stats import t

    array = np.asarray(values, float)
    base = array[:n_baseline]
    n = len(base)
    if n < FEWEST_BASELINE:
        return None
    centre, spread = hodges_lehmann(base), qn_spread(base)
    if not spread > 1e-9 * max(abs(centre), 1e-12):
        return None
    quantile = float(t.ppf(_TAIL, _EFFICIENCY_SPREAD * (n - 1))) * spread
    of_centre = 1 / (_EFFICIENCY_CENTRE * n)
    limit = quantile * math.sqrt(1 + of_centre)
    z = array[n:] - centre
    average = np.empty(len(z))
    level = 0.0
    for k, value in enumerate(z):
        level += SMOOTHING * (value - level)
        average[k] = level
    average_limit = quantile * math.sqrt(SMOOTHING / (2 - SMOOTHING) + of_centre)
    alarms = [Alarm(n + int(k), "beyond") for k in np.flatnonzero(np.abs(z) > limit)]
    alarms += [Alarm(n + k, "two of three") for k in _two_of_three(z, 2 * limit / 3)]
    out = np.abs(average) > average_limit
    starts = np.flatnonzero(out & ~np.r_[False, out[:-1]])
    alarms += [Alarm(n + int(k), "average") for k in starts]
    return Chart(
        n,
        centre,
        spread,
        limit,
        average_limit,
        tuple(float(value) for value in centre + average),
        tuple(sorted(alarms, key=lambda alarm: (alarm.place, alarm.rule))),
    )


def _two_of_three(z: Floats, limit: float) -> list[int]:
    """Find values beyond a limit of which another, one or two before, was so on the same side."""
    found = []
    for side in (1, -1):
        far = side * z > limit
        found += [k for k in range(1, len(z)) if far[k] and far[max(0, k - 2) : k].any()]
    return sorted(found)


def moment_of(scan: Scan) -> datetime | None:
    """Read when a scan was acquired; None without a date.

    Examples
    --------
    >>> moment_of(Scan("sub-01_T1w", "T1w", {}, {"acq_time": "2026-03-04T10:11:12"}))
    datetime.datetime(2026, 3, 4, 10, 11, 12)
    >>> moment_of(Scan("sub-01_T1w", "T1w", {}, {"AcquisitionTime": "10:11:12"}))
    """
    try:
        return datetime.fromisoformat(scan.columns.get("acq_time", "")).replace(tzinfo=None)
    except ValueError:
        return None


def follow(
    scans: Scans,
    directions: Directions,
    *,
    baseline: int | date = BASELINE,
    column: str = "scanner",
) -> tuple[Series, ...]:
    """Follow each metric of each scanner and protocol over time.

    Parameters
    ----------
    scans : Scans
        Scans; those without a date are left out.
    directions : mapping
        ``better`` of each metric, by modality: metrics without direction are not followed.
    baseline : int or datetime.date
        Number of scans of the baseline, or the day that it ends: scans before it are the baseline.
    column : str
        Column that names the scanner.

    Returns
    -------
    tuple of Series
        By modality, scanner, protocol, and in the order of `directions`.
    """
    found = []
    for modality, of in scans.of.items():
        groups: dict[tuple[str, str], list[tuple[datetime, Scan]]] = {}
        for scan in of:
            moment = moment_of(scan)
            if moment is not None:
                key = (scan.columns.get(column, ""), scan.columns.get("protocol", ""))
                groups.setdefault(key, []).append((moment, scan))
        wanted = [
            name for name, better in directions.get(modality, {}).items() if better in DIRECTED
        ]
        for (scanner, protocol), members in sorted(groups.items(), key=lambda item: item[0]):
            members.sort(key=lambda member: (member[0], member[1].name))
            for metric in wanted:
                having = [(when, scan) for when, scan in members if metric in scan.metrics]
                if not having:
                    continue
                values = [scan.metrics[metric] for _, scan in having]
                n = (
                    baseline
                    if isinstance(baseline, int)
                    else sum(when.date() < baseline for when, _ in having)
                )
                found.append(
                    Series(
                        modality,
                        scanner,
                        protocol,
                        metric,
                        tuple(when for when, _ in having),
                        tuple(scan.name for _, scan in having),
                        tuple(values),
                        control_chart(values, n) if len(values) > n else None,
                    )
                )
    return tuple(found)


def undated(scans: Iterable[Scan]) -> int:
    """Count the scans without a date."""
    return sum(moment_of(scan) is None for scan in scans)


def write_drift(out_dir: Path, followed: Sequence[Series]) -> Path:
    """Write all alarms as a table, one row each, with a sidecar that explains the rules."""
    texts: Mapping[str, str] = {
        "modality": "Suffix of the images",
        "scanner": "Scanner, by serial number, station or model",
        "protocol": "Protocol",
        "metric": "Metric",
        "acq_time": "When the scan was acquired that completes the sign",
        "bids_name": "That scan",
        "rule": "; ".join(f"{rule}: {text}" for rule, text in RULES.items()),
        "value": "Value of that scan",
        "centre": "Centre of the baseline",
        "lower": "Lower limit of a value",
        "upper": "Upper limit of a value",
        "n_baseline": "Scans of the baseline",
    }
    rows = ["\t".join(texts)]
    for series in followed:
        chart = series.chart
        for alarm in chart.alarms if chart else ():
            assert chart is not None
            cells = [
                series.modality,
                series.scanner,
                series.protocol,
                series.metric,
                series.times[alarm.place].isoformat(),
                series.names[alarm.place],
                alarm.rule,
                short(series.values[alarm.place], 6),
                short(chart.centre, 6),
                short(chart.centre - chart.limit, 6),
                short(chart.centre + chart.limit, 6),
                str(chart.n_baseline),
            ]
            rows.append("\t".join(cell or "n/a" for cell in cells))
    path = out_dir / DRIFT_FILE
    write_lines(path, rows)
    write_json(path.with_suffix(".json"), {k: {"Description": v} for k, v in texts.items()})
    return path
