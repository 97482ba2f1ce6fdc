"""The overview of all participants: status, metrics, outliers, BOLD and DWI runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.engine.record import RunSummary, list_runs
from neuroferry.files import write_text
from neuroferry.judgement.metric_table import metric_table
from neuroferry.reports.charts import NOTHING, OUTLIER_Z, Point, robust_z, strip_plot
from neuroferry.reports.gather import Session, find_sessions, raw_root
from neuroferry.reports.modalities import MODALITIES, find_all_runs
from neuroferry.reports.render import write_page
from neuroferry.reports.runs import RunBySubject, read_run_once
from neuroferry.reports.scans import Modality, ScanRun, find_runs, run_cells, write_run_table
from neuroferry.reports.subject import format_value
from neuroferry.reports.tracts import gather_tracts, show_tracts
from neuroferry.reports.verdict import Verdict, judge

KEY_METRICS = (
    "cjv",
    "cnr",
    "snr_total",
    "efc",
    "fber",
    "qi_1",
    "wm2max",
    "inu_range",
    "fwhm_avg",
    "icvs_gm",
    "icvs_wm",
    "tpm_overlap_gm",
)
"""Metrics that have a plot."""
TABLE_METRICS = ("cjv", "cnr", "snr_total", "efc", "wm2max", "fwhm_avg")
"""Metrics that have a column."""
FEWEST = 6
"""With fewer images than this, none is marked as an outlier."""


@dataclass(frozen=True)
class Row:
    """One image, or one participant without images."""

    subject: str
    image: str
    verdict: Verdict
    confidence: float | None
    values: dict[str, float]


def write_group_report(out_dir: Path, run_dir: Path) -> Path:
    """Write the overview, ``<out_dir>/index.html``, and its tables.

    The metrics of T1w images are written to ``group_T1w.tsv``, the values of BOLD and DWI runs, if
    any, to ``group_bold.tsv`` and ``group_dwi.tsv``, tract profiles to ``tractometry/nodes.csv``.

    Each participant is judged by the latest run that included them.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    run_dir : pathlib.Path
        The folder of the current run; its version and container image are shown.

    Returns
    -------
    pathlib.Path
        The page.
    """
    out_dir, run_dir = Path(out_dir), Path(run_dir)
    latest: dict[str, RunBySubject] = {}
    current = read_run_once(run_dir)
    for folder in list_runs(out_dir):
        past = read_run_once(folder)
        latest.update(dict.fromkeys(past.run.subjects, past))
    latest.update(dict.fromkeys(current.run.subjects, current))
    rows: list[Row] = []
    for subject in sorted(latest):
        rows += _rows_of(out_dir, subject, latest[subject].of_subject(subject))
    _write_table(out_dir / "group_T1w.tsv", rows)
    odd = _outliers(rows)
    levels = [_worst(rows, subject) for subject in sorted(latest)]
    values = {
        "run": current.run,
        "n_subjects": len(latest),
        "counts": {level: levels.count(level) for level in ("good", "look", "failed")},
        "columns": [(name, metric_table()[name].title) for name in TABLE_METRICS],
        "rows": [_show_row(out_dir, row, odd) for row in rows],
        "plots": _plots(out_dir, rows),
        "tracts": _tracts(out_dir, sorted(latest)),
        "modalities": [
            shown
            for modality in MODALITIES
            if modality.in_overview
            and (shown := _show_scans(out_dir, modality, sorted(latest), rows))["rows"]
        ],
        "few": FEWEST,
        "z": OUTLIER_Z,
        "dataset_problems": [p for p in current.run.problems if p.get("subject") is None],
    }
    return write_page("group.html", out_dir / "index.html", values)


def _rows_of(out_dir: Path, subject: str, run: RunSummary) -> list[Row]:
    """Make a row per measured image, at least one for the participant."""
    sessions = find_sessions(out_dir, subject)
    folder = out_dir / f"sub-{subject}"
    made = ("T1w", *(modality.suffix for modality in MODALITIES))
    any_output = any(any(folder.rglob(f"*_desc-preproc_{image}.nii.gz")) for image in made)
    verdict = judge(run, sessions, find_all_runs(out_dir, subject), any_output=any_output)
    rows = [row for session in sessions for row in _rows_of_session(subject, session, verdict)]
    return rows or [Row(subject, f"sub-{subject}", verdict, None, {})]


def _rows_of_session(subject: str, session: Session, verdict: Verdict) -> list[Row]:
    confidence = session.brain.get("confidence")
    sure = float(confidence) if isinstance(confidence, int | float) else None
    rows = []
    for metrics in session.metrics:
        values = {
            name: float(value)
            for name, value in metrics.values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        rows.append(Row(subject, metrics.name, verdict, sure, values))
    return rows


def _worst(rows: Sequence[Row], subject: str) -> str:
    return next(row.verdict.level for row in rows if row.subject == subject)


def _page_of(out_dir: Path, subject: str) -> str:
    """Find the link to a participant's report; empty if there is none."""
    name = f"sub-{subject}.html"
    return name if (out_dir / name).exists() else ""


def _outliers(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Find the (image, metric) pairs that are outliers."""
    odd = set()
    for name in KEY_METRICS:
        having = [row for row in rows if name in row.values]
        if len(having) < FEWEST:
            continue
        scores = robust_z([row.values[name] for row in having])
        odd |= {
            (row.image, name) for row, z in zip(having, scores, strict=True) if abs(z) > OUTLIER_Z
        }
    return odd


def _show_row(out_dir: Path, row: Row, odd: set[tuple[str, str]]) -> dict[str, Any]:
    far = sorted(name for image, name in odd if image == row.image)
    return {
        "href": _page_of(out_dir, row.subject),
        "image": row.image,
        "level": row.verdict.level,
        "headline": row.verdict.headline,
        "why": " ".join(row.verdict.reasons),
        "confidence": NOTHING if row.confidence is None else f"{row.confidence:.2f}",
        "confidence_key": "" if row.confidence is None else f"{row.confidence:.6f}",
        "far": ", ".join(far),
        "cells": [
            {
                "text": format_value(row.values.get(name)),
                "key": repr(row.values[name]) if name in row.values else "",
                "odd": (row.image, name) in odd,
            }
            for name in TABLE_METRICS
        ],
    }


def _show_scans(
    out_dir: Path, modality: Modality, subjects: Sequence[str], rows: Sequence[Row]
) -> dict[str, Any]:
    """Lay out the runs of one kind, if any, and write their table."""
    scans = {subject: find_runs(modality, out_dir, subject) for subject in subjects}
    found = [run for runs in scans.values() for run in runs]
    table = f"group_{modality.suffix}.tsv"
    if found:
        write_run_table(out_dir / table, modality, found)
    return {
        "modality": modality,
        "table": table,
        "titles": [figure.title for figure in modality.figures],
        "rows": [
            {**row, "level": _worst(rows, subject)}
            for subject, runs in scans.items()
            for row in _run_rows(out_dir, modality, subject, runs)
        ],
    }


def _run_rows(
    out_dir: Path, modality: Modality, subject: str, runs: Sequence[ScanRun]
) -> list[dict[str, Any]]:
    page = _page_of(out_dir, subject)
    return [
        {
            "name": run.stem,
            "href": page and f"{page}#{modality.anchor}-{n}",
            "cells": run_cells(run),
        }
        for n, run in enumerate(runs, start=1)
    ]


def _tracts(out_dir: Path, subjects: Sequence[str]) -> list[dict[str, Any]]:
    """Lay out the tract profiles, if any, and write their tables."""
    root = raw_root(out_dir)
    scans = gather_tracts(out_dir, subjects, root and root / "participants.tsv")
    pages = {subject: _page_of(out_dir, subject) for subject in subjects}
    return show_tracts(scans, pages, FEWEST)


def _plots(out_dir: Path, rows: Sequence[Row]) -> list[dict[str, str]]:
    plots = []
    for name in KEY_METRICS:
        metric = metric_table()[name]
        points = [
            Point(_page_of(out_dir, row.subject), row.image, row.values[name])
            for row in rows
            if name in row.values
        ]
        if points:
            better = {"higher": "Higher is better.", "lower": "Lower is better."}
            plots.append(
                {
                    "name": name,
                    "title": metric.title,
                    "better": better.get(metric.better, ""),
                    "svg": strip_plot(name, points, few=FEWEST),
                }
            )
    return plots


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write every metric of every image as a tab-separated table."""
    names = [name for name in metric_table() if any(name in row.values for row in rows)]
    lines = ["\t".join(["bids_name", "status", "brain_mask_confidence", *names])]
    for row in rows:
        sure = "n/a" if row.confidence is None else repr(row.confidence)
        cells = [repr(row.values[name]) if name in row.values else "n/a" for name in names]
        lines.append("\t".join([row.image, row.verdict.level, sure, *cells]))
    write_text(path, "\n".join(lines) + "\n")
