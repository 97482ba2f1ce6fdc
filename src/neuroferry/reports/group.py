"""The overview of all participants: status, quality of all scans, drift, BOLD and DWI runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.engine.record import RunSummary, list_runs
from neuroferry.judgement.drift import RULES, follow
from neuroferry.judgement.metric_table import directions, metric_table
from neuroferry.judgement.tables import group_table
from neuroferry.reports.charts import NOTHING, OUTLIER_Z
from neuroferry.reports.drift_chart import show_drift
from neuroferry.reports.gather import find_sessions, raw_root
from neuroferry.reports.judged import (
    TITLES,
    Judged,
    as_script,
    judge_folder,
    page_data,
    write_judgement,
)
from neuroferry.reports.modalities import MODALITIES, find_all_runs
from neuroferry.reports.quality import find_quality
from neuroferry.reports.render import write_page
from neuroferry.reports.runs import RunBySubject, read_run_once
from neuroferry.reports.scans import Modality, ScanRun, find_runs, run_cells, run_values
from neuroferry.reports.subject import format_value
from neuroferry.reports.tracts import gather_tracts, show_tracts
from neuroferry.reports.verdict import Verdict, judge

TABLE_METRICS = ("cjv", "cnr", "snr_total", "efc", "wm2max", "fwhm_avg")
"""Metrics that have a column."""
FEWEST = 6
"""With fewer runs than this, no tract profile is marked as an outlier."""


@dataclass(frozen=True)
class Row:
    """One image, or one participant without images."""

    subject: str
    image: str
    verdict: Verdict
    confidence: float | None
    values: dict[str, float]


def write_group_report(
    out_dir: Path, run_dir: Path | None, *, judged: Judged | None = None
) -> Path:
    """Write the overview, ``<out_dir>/index.html``, and its tables.

    Metrics and values of processed runs are written to ``group_T1w.tsv``, ``group_T2w.tsv``,
    ``group_bold.tsv`` and ``group_dwi.tsv``, verdicts to ``qc_verdicts.tsv``, tract profiles to
    ``tractometry/nodes.csv``. Nothing is measured: after other rules, it is written in seconds.

    Each participant is judged by the latest run that included them.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    run_dir : pathlib.Path or None
        The folder of the current run; its version and container image are shown. None: a folder
        without runs, such as one of MRIQC, of which only the metrics are shown.
    judged : Judged, optional
        Judgement of its scans; by default by the rules that were applied last.

    Returns
    -------
    pathlib.Path
        The page.
    """
    out_dir = Path(out_dir)
    current = read_run_once(Path(run_dir)) if run_dir is not None else None
    latest = _latest_runs(out_dir, current)
    rows: list[Row] = []
    for subject in sorted(latest):
        rows += _rows_of(out_dir, subject, latest[subject].of_subject(subject))
    if judged is None:
        judged = judge_folder(out_dir, bids_dir=raw_root(out_dir))
    odd = {
        (verdict.name, finding.metric)
        for verdict in judged.verdicts
        for finding in verdict.findings
    }
    levels = [_worst(rows, subject) for subject in sorted(latest)]
    extras: dict[str, dict[str, dict[str, str]]] = {"T1w": _extras(rows)}
    modalities = []
    for modality in MODALITIES:
        if modality.in_overview:
            shown = _show_scans(out_dir, modality, sorted(latest), rows)
            extras[modality.suffix] = shown["values"]
            if shown["rows"]:
                modalities.append(shown)
    write_judgement(out_dir, judged, extras)
    followed = follow(
        judged.scans,
        directions(),
        baseline=judged.rules.baseline,
        column=judged.rules.scanner_column,
    )
    values = {
        "run": current.run if current else None,
        "n_subjects": len(latest),
        "counts": {level: levels.count(level) for level in ("good", "look", "failed")},
        "columns": [(name, metric_table()[name].title) for name in TABLE_METRICS],
        "rows": [_show_row(out_dir, row, odd) for row in rows],
        "tracts": _tracts(out_dir, sorted(latest)),
        "modalities": modalities,
        "few": FEWEST,
        "z": OUTLIER_Z,
        "quality": [(name, TITLES[name]) for name in judged.scans.of],
        "quality_data": as_script(page_data(out_dir, judged)),
        "quality_notes": judged.notes,
        "tables": [name for name in TITLES if group_table(out_dir, name).exists()],
        "drift": show_drift(followed),
        "drift_rules": RULES,
        "dataset_problems": [
            p for p in (current.run.problems if current else ()) if p.get("subject") is None
        ],
    }
    return write_page("group.html", out_dir / "index.html", values)


def _latest_runs(out_dir: Path, current: RunBySubject | None) -> dict[str, RunBySubject]:
    """Find the latest run that included each participant."""
    latest: dict[str, RunBySubject] = {}
    for past in [read_run_once(folder) for folder in list_runs(out_dir)]:
        latest.update(dict.fromkeys(past.run.subjects, past))
    if current is not None:
        latest.update(dict.fromkeys(current.run.subjects, current))
    return latest


def _extras(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Give the columns of T1w images that are no metrics."""
    return {
        row.image: {
            "status": row.verdict.level,
            "brain_mask_confidence": "n/a" if row.confidence is None else repr(row.confidence),
        }
        for row in rows
    }


def _rows_of(out_dir: Path, subject: str, run: RunSummary) -> list[Row]:
    """Make a row per measured image, at least one for the participant."""
    sessions = find_sessions(out_dir, subject)
    folder = out_dir / f"sub-{subject}"
    quality = find_quality(out_dir, subject)
    made = ("T1w", *(modality.suffix for modality in MODALITIES))
    any_output = bool(quality) or any(
        any(folder.rglob(f"*_desc-preproc_{image}.nii.gz")) for image in made
    )
    scans = find_all_runs(out_dir, subject)
    verdict = judge(run, sessions, scans, quality, any_output=any_output)
    brains = {session.label: session.brain.get("confidence") for session in sessions}
    rows = []
    for image in (image for image in quality if image.modality == "T1w"):
        confidence = brains.get(parse_name(Path(f"{image.name}.json")).entities.get("session"))
        sure = float(confidence) if isinstance(confidence, int | float) else None
        values = {
            name: float(value)
            for name, value in image.values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        rows.append(Row(subject, image.name, verdict, sure, values))
    return rows or [Row(subject, f"sub-{subject}", verdict, None, {})]


def _worst(rows: Sequence[Row], subject: str) -> str:
    return next(row.verdict.level for row in rows if row.subject == subject)


def _page_of(out_dir: Path, subject: str) -> str:
    """Find the link to a participant's report; empty if there is none."""
    name = f"sub-{subject}.html"
    return name if (out_dir / name).exists() else ""


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
    """Lay out the runs of one kind, if any, with the values of their table."""
    scans = {subject: find_runs(modality, out_dir, subject) for subject in subjects}
    return {
        "modality": modality,
        "titles": [figure.title for figure in modality.figures],
        "values": {
            f"{run.stem}_{modality.suffix}": run_values(run)
            for runs in scans.values()
            for run in runs
        },
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
