"""The report of one participant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neuroferry.engine.durations import duration
from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunSummary, StepSummary
from neuroferry.errors import InputError
from neuroferry.files import read_toml
from neuroferry.judgement.metric_table import Metric, metric_table
from neuroferry.licences.terms import licences_of, patents_of
from neuroferry.reports.charts import NOTHING, step_chart
from neuroferry.reports.gather import (
    Reportlet,
    Session,
    find_inputs,
    find_outputs,
    find_sessions,
    raw_root,
    read_methods,
    session_names,
)
from neuroferry.reports.methods import cited_keys, render_methods
from neuroferry.reports.modalities import MODALITIES, find_all_runs
from neuroferry.reports.quality import Quality, find_quality
from neuroferry.reports.render import write_page
from neuroferry.reports.runs import measured_before, read_run_once
from neuroferry.reports.scans import ScanRun, run_cells, run_facts
from neuroferry.reports.svg import inline_svg
from neuroferry.reports.verdict import advice, failure_sentence, judge

FOLDED = ("Intensity", "Geometry")
"""Groups of metrics that are folded at first."""
_BETTER = {"higher": "higher is better", "lower": "lower is better", "none": NOTHING}


def write_subject_report(out_dir: Path, run_dir: Path, subject: str) -> Path:
    """Write the report of one participant, ``<out_dir>/sub-<subject>.html``.

    Everything comes from the run's record and the derivatives; only the headers of input images
    are read. The same record and files result in the same bytes.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    run_dir : pathlib.Path
        The run's folder, ``<out_dir>/logs/<run>``.
    subject : str
        Label without ``sub-``.

    Returns
    -------
    pathlib.Path
        The page.
    """
    out_dir, run_dir = Path(out_dir), Path(run_dir)
    run = _with_history(read_run_once(run_dir).of_subject(subject), out_dir)
    sessions, scans, quality, pictures = _inline_pictures(
        find_sessions(out_dir, subject),
        find_all_runs(out_dir, subject),
        find_quality(out_dir, subject),
    )
    outputs = find_outputs(out_dir, subject)
    raw = raw_root(out_dir)
    methods = read_methods(run_dir, subject)
    values = {
        "subject": subject,
        "verdict": judge(run, sessions, scans, quality, any_output=bool(outputs)),
        "brain_facts": _brain_facts(sessions),
        "run": run,
        "run_facts": _run_facts(run, _read_seed(run_dir)),
        "raw_root": str(raw) if raw is not None else "",
        "inputs": find_inputs(out_dir, subject, raw),
        "sessions": _show_sessions(sessions, pictures),
        "modalities": _show_scans(scans, pictures),
        "quality": [_show_quality(image, pictures) for image in quality],
        "advice": sorted({advice(step.message, step.traceback) for step in run.failed}),
        "failures": [_show_failure(step) for step in run.failed],
        "skipped": [_show_skipped(step) for step in run.steps if step.state == "skipped"],
        "problems": [_show_problem(problem) for problem in run.problems],
        "methods": render_methods(methods),
        "licences": licences_of(cited_keys(methods)) if methods else (),
        "patents": patents_of(cited_keys(methods)),
        "chart": step_chart(run.steps),
        "step_sentence": _step_sentence(run),
        "step_rows": [_step_row(step) for step in run.steps],
        "outputs": [
            {
                "href": quote(item.path),
                "path": item.path,
                "description": item.description,
                "size": file_size(item.size),
            }
            for item in outputs
        ],
    }
    return write_page("subject.html", out_dir / f"sub-{subject}.html", values)


def _with_history(run: RunSummary, out_dir: Path) -> RunSummary:
    """Add earlier measurements to steps that were reused from an earlier run."""
    unmeasured = any(s.state == "cached" and s.seconds is None for s in run.steps)
    history = measured_before(out_dir) if unmeasured else {}
    steps = []
    for step in run.steps:
        past = history.get(step.step)
        if step.state == "cached" and step.seconds is None and past is not None:
            step = replace(
                step,
                seconds=past.seconds,
                cpu_seconds=past.cpu_seconds,
                peak_gb=past.peak_gb,
                mem_gb=past.mem_gb,
            )
        steps.append(step)
    return replace(run, steps=tuple(steps))


def _read_seed(run_dir: Path) -> str:
    """Read the seed from the recorded settings of the run."""
    try:
        settings = read_toml(run_dir / "config.toml")
    except InputError:
        return ""
    return str(settings.get("workflow", {}).get("random_seed", ""))


def _run_facts(run: RunSummary, seed: str) -> list[tuple[str, str]]:
    facts = [
        ("neuroferry", run.version or "unknown version"),
        ("Container", run.image or "none"),
        ("Run", run.run_id or "unknown"),
        ("Host", run.host or "unknown"),
        ("Plugin", run.plugin or ""),
        ("Processors", str(run.n_procs or "")),
        ("Memory", f"{run.memory_gb:.1f} GB" if run.memory_gb else ""),
        ("Random seed", seed),
        ("Started", _moment(run.started)),
        ("Ended", _moment(run.ended) or "not recorded"),
        ("Exit code of the whole run", _exit(run)),
    ]
    return [(name, text) for name, text in facts if text]


def _exit(run: RunSummary) -> str:
    """Describe the exit code of the run; empty if it succeeded."""
    if not run.exit_code:
        return ""
    return f"{run.exit_code}, {run.reason}" if run.reason else str(run.exit_code)


def _moment(time: str | None) -> str:
    """Format a time of the record for people.

    Examples
    --------
    >>> _moment("2026-01-02T03:04:05.678Z")
    '2026-01-02 03:04:05 UTC'
    """
    if not time:
        return ""
    try:
        return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return time


def _brain_facts(sessions: Sequence[Session]) -> list[tuple[str, str]]:
    """Describe confidence and volume of the brain masks, and the fit to templates."""
    facts = []
    for session in sessions:
        where = f", session {session.label}" if session.label else ""
        confidence, volume = session.brain.get("confidence"), session.brain.get("volume_ml")
        if isinstance(confidence, int | float):
            facts.append((f"Brain mask confidence{where}", f"{confidence:.2f} of 1"))
        if isinstance(volume, int | float):
            facts.append((f"Brain mask volume{where}", f"{volume:.0f} ml"))
        for name, fit in session.templates.items():
            alike, overlap = fit.get("correlation"), fit.get("overlap")
            if isinstance(alike, int | float) and isinstance(overlap, int | float):
                text = f"correlation {alike:.2f}, overlap {100 * overlap:.0f} %"
                facts.append((f"Fit to the template {name}{where}", text))
        for name, found in session.t2w.items():
            words = {"good": "looks good", "look": "check it", "bad": "failed"}
            error = found.get("expected_error_mm")
            exact = f", exact to about {error:.1f} mm" if isinstance(error, int | float) else ""
            text = f"{words.get(str(found.get('verdict')), 'unknown')}{exact}"
            facts.append((f"Alignment of {name} and T1w", text))
    return facts


def _inline_pictures(
    sessions: Sequence[Session], scans: Sequence[ScanRun], quality: Sequence[Quality]
) -> tuple[tuple[Session, ...], tuple[ScanRun, ...], tuple[Quality, ...], dict[Path, str]]:
    """Read the figures; unreadable ones count as missing."""
    pictures: dict[Path, str] = {}

    def sound(items: Sequence[Reportlet], prefix: str) -> tuple[Reportlet, ...]:
        kept = []
        for item in items:
            svg = None
            if item.path is not None:
                svg = inline_svg(item.path, f"{prefix}{item.desc}-")
            if item.path is not None and svg is not None:
                pictures[item.path] = svg
            kept.append(item if svg is not None else replace(item, path=None))
        return tuple(kept)

    return (
        tuple(replace(s, reportlets=sound(s.reportlets, f"f{n}")) for n, s in enumerate(sessions)),
        tuple(
            replace(run, reportlets=sound(run.reportlets, f"b{n}")) for n, run in enumerate(scans)
        ),
        tuple(
            replace(image, reportlets=sound(image.reportlets, f"q{n}"))
            for n, image in enumerate(quality)
        ),
        pictures,
    )


def _show_pictures(
    items: Sequence[Reportlet], pictures: Mapping[Path, str]
) -> list[dict[str, str | None]]:
    return [
        {
            "title": item.title,
            "look_for": item.look_for,
            "svg": None if item.path is None else pictures[item.path],
        }
        for item in items
    ]


def _show_sessions(
    sessions: Sequence[Session], pictures: Mapping[Path, str]
) -> list[dict[str, Any]]:
    shown = []
    for n, (session, name) in enumerate(zip(sessions, session_names(sessions), strict=True)):
        items = _show_pictures(session.reportlets, pictures)
        shown.append(
            {
                "name": name,
                "anchor": f"session-{n + 1}",
                "pictures": items,
                "drawn": any(item["svg"] for item in items),
            }
        )
    return shown


def _show_scans(scans: Sequence[ScanRun], pictures: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Lay out the runs of each kind."""
    shown = []
    for modality in MODALITIES:
        runs = [
            {
                "name": run.name,
                "anchor": f"{modality.anchor}-{n}",
                "facts": run_facts(run),
                "cells": run_cells(run),
                "pictures": _show_pictures(run.reportlets, pictures),
            }
            for n, run in enumerate((r for r in scans if r.modality is modality), start=1)
        ]
        if runs:
            titles = [figure.title for figure in modality.figures]
            shown.append({"modality": modality, "titles": titles, "runs": runs})
    return shown


def format_value(value: Any) -> str:
    """Format a metric's value with four significant digits.

    Examples
    --------
    >>> format_value(0.7), format_value(256), format_value(None), format_value(12345.6)
    ('0.7000', '256', '\u2013', '12346')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NOTHING
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:#.4g}"


def _show_quality(metrics: Quality, pictures: Mapping[Path, str]) -> dict[str, Any]:
    """Lay out the pictures of an image, and its metrics in the order and groups of the table."""
    known = metric_table(metrics.modality)
    groups: dict[str, list[dict[str, str]]] = {}
    for name, metric in known.items():
        if name in metrics.values:
            row = _metric_row(name, metrics, metric)
            groups.setdefault(metric.group, []).append(row)
    others = [name for name in metrics.values if name not in known]
    if others:
        groups["Others"] = [_metric_row(name, metrics, None) for name in others]
    return {
        "name": metrics.name,
        "doubts": metrics.doubts,
        "pictures": [item for item in _show_pictures(metrics.reportlets, pictures) if item["svg"]],
        "groups": [
            {"name": name, "rows": rows, "folded": name in FOLDED} for name, rows in groups.items()
        ],
    }


def _metric_row(name: str, metrics: Quality, metric: Metric | None) -> dict[str, str]:
    value = metrics.values[name]
    row = {
        "name": name,
        "value": format_value(value),
        "title": metric.title if metric else "",
        "unit": metric.unit if metric else "",
        "meaning": metric.meaning if metric else "",
        "note": str(metrics.notes.get(name, "")),
        "better": _BETTER.get(metric.better, "") if metric else "",
        "odd": "",
    }
    if metric is not None and metric.typical is not None:
        low, high = metric.typical
        row["better"] = f"typically {low:g} to {high:g}"
        if isinstance(value, int | float) and not low <= value <= high:
            row["odd"] = "below typical" if value < low else "above typical"
    return row


def _show_failure(step: StepSummary) -> dict[str, str]:
    return {
        "sentence": failure_sentence(step),
        "place": StepName(step.step).place,
        "advice": advice(step.message, step.traceback),
        "crashfile": step.crashfile or "",
        "traceback": step.traceback or "",
    }


def _show_skipped(step: StepSummary) -> str:
    because = f", because “{StepName(step.because).plain}” failed" if step.because else ""
    return f"{StepName(step.step).plain} ({StepName(step.step).place}){because}"


def _show_problem(problem: dict[str, Any]) -> dict[str, Any]:
    severity = "error" if problem.get("severity") == "error" else "warning"
    return {
        "severity": severity,
        "subject": problem.get("subject"),
        "message": problem.get("message", ""),
        "path": problem.get("path"),
    }


def _step_sentence(run: RunSummary) -> str:
    total = sum(step.seconds or 0 for step in run.steps)
    peak = max((step.peak_gb or 0 for step in run.steps), default=0)
    cached = run.count("cached")
    text = f"{len(run.steps)} steps took {duration(total)} of wall time in total"
    text += f", each with a peak memory of at most {peak:.2f} GB." if peak else "."
    if cached:
        text += f" {cached} of them (pale) were reused from an earlier run."
    return text


def _step_row(step: StepSummary) -> list[tuple[str, str]]:
    """Make the cells of a row: text and sort key."""
    cells = [
        (text, text) for text in (StepName(step.step).plain, StepName(step.step).place, step.state)
    ]
    for value in (step.seconds, step.cpu_seconds, step.peak_gb, step.mem_gb):
        cells.append((NOTHING, "") if value is None else (f"{value:.2f}", f"{value:.6f}"))
    return [(str(text), str(key)) for text, key in cells]


def file_size(size: float) -> str:
    """Format a number of bytes.

    Examples
    --------
    >>> file_size(512), file_size(2_340_000)
    ('512 B', '2.3 MB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
