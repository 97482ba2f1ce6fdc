"""Control charts of the overview: a metric of one scanner over time, as inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

from neuroferry.judgement.drift import Series
from neuroferry.judgement.metric_table import metric_table
from neuroferry.judgement.rules import short
from neuroferry.reports.judged import KEY_METRICS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 170, 62, 12, 12, 24
MOST_CHARTS = 12
"""Charts of one scanner and protocol; those with alarms come first."""
MOST_ALARMS = 8
"""Alarms that are listed below a chart."""


def show_drift(followed: Sequence[Series]) -> list[dict[str, Any]]:
    """Lay out the charts, one group for each modality, scanner and protocol.

    Parameters
    ----------
    followed : sequence of Series
        All series; those too short for a chart are left out.

    Returns
    -------
    list of dict
        Groups with ``title``, ``alarms`` (their number), ``n`` and ``charts``.
    """
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for series in followed:
        key = (series.modality, series.scanner, series.protocol)
        groups.setdefault(key, []).append(series)
    shown = []
    for (modality, scanner, protocol), members in groups.items():
        drawn = [series for series in members if series.chart is not None]
        alarms = sum(len(series.chart.alarms) for series in drawn if series.chart)
        main = [
            series
            for series in drawn
            if series.metric in KEY_METRICS[modality] or (series.chart and series.chart.alarms)
        ]
        main.sort(key=lambda series: -len(series.chart.alarms) if series.chart else 0)
        if main:
            shown.append(
                {
                    "title": ", ".join(
                        part for part in (modality, scanner or "scanner unknown", protocol) if part
                    ),
                    "alarms": alarms,
                    "metrics": len(drawn),
                    "n": max(len(series.values) for series in members),
                    "charts": [_show(series) for series in main[:MOST_CHARTS]],
                }
            )
    return shown


def _show(series: Series) -> dict[str, Any]:
    table = metric_table(series.modality)
    chart = series.chart
    assert chart is not None
    rules = Counter(alarm.rule for alarm in chart.alarms)
    listed = [
        {
            "date": series.times[alarm.place].date().isoformat(),
            "name": series.names[alarm.place],
            "value": short(series.values[alarm.place]),
            "rule": alarm.rule,
        }
        for alarm in chart.alarms[:MOST_ALARMS]
    ]
    return {
        "metric": series.metric,
        "title": table[series.metric].title if series.metric in table else series.metric,
        "svg": control_svg(series),
        "alarms": listed,
        "more": max(0, sum(rules.values()) - MOST_ALARMS),
    }


def control_svg(series: Series) -> str:
    """Draw a control chart.

    Parameters
    ----------
    series : Series
        A series with a chart.

    Returns
    -------
    str
        An ``<svg>`` element: values over time, centre and limits, the moving average, the baseline
        shaded, alarms marked.
    """
    chart = series.chart
    if chart is None:
        raise ValueError("there are no limits to draw")
    edges = (chart.centre - chart.limit, chart.centre + chart.limit)
    low, high = min(*series.values, *edges), max(*series.values, *edges)
    first, last = series.times[0], series.times[-1]
    seconds = (last - first).total_seconds() or 1.0

    def across(when: datetime) -> float:
        return LEFT + (when - first).total_seconds() / seconds * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    label = (
        f"{series.metric}: {len(series.values)} scans from {first.date()} to {last.date()},"
        f" {len(chart.alarms)} alarms"
    )
    end = across(series.times[chart.n_baseline - 1])
    rows = [
        f'<svg class="drift" role="img" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' aria-label="{escape(label)}">',
        f'<rect class="baseline" x="{LEFT}" y="{TOP}" width="{end - LEFT:.1f}"'
        f' height="{HEIGHT - TOP - BOTTOM}"/>',
    ]
    for name, value in (("centre", chart.centre), ("edge", edges[0]), ("edge", edges[1])):
        y = down(value)
        rows.append(f'<path class="{name}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        rows.append(
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
        )
    later = list(zip(series.times[chart.n_baseline :], chart.average, strict=True))
    path = "L".join(f"{across(when):.1f} {down(value):.1f}" for when, value in later)
    rows.append(f'<path class="average" d="M{path}"/>')
    marked: dict[int, set[str]] = {}
    for alarm in chart.alarms:
        marked.setdefault(alarm.place, set()).add(alarm.rule)
    for n, (when, name, value) in enumerate(
        zip(series.times, series.names, series.values, strict=True)
    ):
        odd = marked.get(n)
        text = f"{name}, {when.date()}: {short(value)}"
        if odd:
            text += f" ({', '.join(sorted(odd))})"
        rows.append(
            f'<circle class="{"odd" if odd else "dot"}" cx="{across(when):.1f}"'
            f' cy="{down(value):.1f}" r="{4 if odd else 2.5}">'
            f"<title>{escape(text)}</title></circle>"
        )
    rows.append(
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first.date()}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{last.date()}</text></svg>'
    )
    return "".join(rows)
