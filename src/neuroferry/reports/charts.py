"""Time and memory of steps as inline SVG, and robust scores."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from neuroferry.engine.durations import duration
from neuroferry.engine.names import StepName
from neuroferry.engine.record import StepSummary

NOTHING = "\u2013"
"""Shown instead of a missing value."""
BAR_HEIGHT = 22
NAME_WIDTH = 300
CHART_WIDTH = 900
BRIEF_SECONDS = 0.5
"""Steps shorter than this are summed into one bar."""


def step_chart(steps: Sequence[StepSummary]) -> str:
    """Draw wall time and peak memory of each step, longest first.

    Parameters
    ----------
    steps : sequence of StepSummary
        Steps with a measured time.

    Returns
    -------
    str
        An ``<svg>`` element; empty if no step was measured.
    """
    measured = [step for step in steps if step.seconds is not None]
    shown = [step for step in measured if (step.seconds or 0) >= BRIEF_SECONDS]
    brief = len(measured) - len(shown)
    shown.sort(key=lambda step: (-(step.seconds or 0), step.step))
    if not shown:
        return ""
    longest = max(step.seconds or 0 for step in shown)
    largest = max([max(step.peak_gb or 0, step.mem_gb or 0) for step in shown]) or 1.0
    half = (CHART_WIDTH - NAME_WIDTH) / 2
    time_room, memory_room = half - 90, half - 90
    memory_x = NAME_WIDTH + half
    height = (len(shown) + 1) * BAR_HEIGHT + 12
    label = "Wall time and peak memory of each step; the table below has the same figures"
    rows = [
        f'<svg class="chart" role="img" viewBox="0 0 {CHART_WIDTH} {height}" '
        f'aria-label="{label}">',
        f'<text x="{NAME_WIDTH}" y="14" class="head">Wall time</text>',
        f'<text x="{memory_x}" y="14" class="head">Peak memory | = reserved</text>',
    ]
    for n, step in enumerate(shown, start=1):
        y = n * BAR_HEIGHT
        seconds, peak = step.seconds or 0, step.peak_gb
        cached = " cached" if step.state == "cached" else ""
        bar = max(seconds / longest * time_room, 1)
        name, place = StepName(step.step).plain, StepName(step.step).place
        rows.append(
            f'<g><text x="{NAME_WIDTH - 8}" y="{y + 14}" text-anchor="end">{escape(name)}'
            f'<tspan class="soft"> {escape(place.rpartition(" > ")[2])}</tspan></text>'
            f'<rect class="time{cached}" x="{NAME_WIDTH}" y="{y + 3}" width="{bar:.1f}" '
            f'height="{BAR_HEIGHT - 8}"/>'
            f'<text x="{NAME_WIDTH + bar + 5:.1f}" y="{y + 14}">{duration(seconds)}</text>'
        )
        if peak is not None:
            bar = max(peak / largest * memory_room, 1)
            end = bar
            over = " over" if step.mem_gb is not None and peak > step.mem_gb else ""
            rows.append(
                f'<rect class="memory{over}" x="{memory_x}" y="{y + 3}" width="{bar:.1f}" '
                f'height="{BAR_HEIGHT - 8}"/>'
            )
            if step.mem_gb is not None:
                mark = step.mem_gb / largest * memory_room
                end = max(end, mark)
                rows.append(
                    f'<path class="mark" d="M{memory_x + mark:.1f} {y + 1}v{BAR_HEIGHT - 4}"/>'
                )
            rows.append(f'<text x="{memory_x + end + 5:.1f}" y="{y + 14}">{peak:.2f} GB</text>')
        rows.append("</g>")
    rows.append("</svg>")
    if brief:
        total = sum(step.seconds or 0 for step in measured if step not in shown)
        rows.append(
            f'<p class="soft">{brief} further step{"s" if brief > 1 else ""} under '
            f"{BRIEF_SECONDS} s each took {duration(total)} in total.</p>"
        )
    return "\n".join(rows)


def robust_z(values: Sequence[float]) -> list[float]:
    """Compute the distance of each value from the median in robust standard deviations.

    The scale is 1.4826 times the median absolute deviation, which equals the standard deviation
    for normally distributed values. Without any spread, all are zero.

    Examples
    --------
    >>> [round(z, 1) for z in robust_z([1, 2, 3, 4, 100])]
    [-1.3, -0.7, 0.0, 0.7, 65.4]
    """
    middle = statistics.median(values)
    scale = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [(value - middle) / scale if scale > 0 else 0.0 for value in values]


OUTLIER_Z = 3.5
"""Robust standard deviations beyond which a point is marked."""
