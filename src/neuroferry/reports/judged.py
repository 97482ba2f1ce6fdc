"""Judgement of an output folder: its tables and verdicts, and what the overview shows of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.errors import InputError
from neuroferry.judgement.metric_table import directions, metric_table
from neuroferry.judgement.model import probabilities_of
from neuroferry.judgement.motion import DEFAULT_THRESHOLD, count_motion, read_displacement
from neuroferry.judgement.ratings import Rating, read_ratings
from neuroferry.judgement.reference import REFERENCE_FILE
from neuroferry.judgement.rules import DIRECTED, Rules
from neuroferry.judgement.tables import (
    MODALITIES,
    Scan,
    Scans,
    column_names,
    group_table,
    metric_names,
    read_scans,
    write_group_table,
)
from neuroferry.judgement.thresholds import rules_of, rules_table
from neuroferry.judgement.verdicts import Verdict, judge_scans, write_verdicts
from neuroferry.reports.gather import read_if_sound

TITLES = {"T1w": "T1w images", "T2w": "T2w images", "bold": "BOLD runs", "dwi": "DWI runs"}
"""What the scans of each modality are called."""
_ANATOMICAL = (
    *("cjv", "cnr", "snr_total", "efc", "fber", "qi_1", "wm2max", "inu_range", "fwhm_avg"),
    *("icvs_gm", "icvs_wm", "tpm_overlap_gm"),
)
KEY_METRICS: Mapping[str, Sequence[str]] = {
    "T1w": _ANATOMICAL,
    "T2w": _ANATOMICAL,
    "bold": (
        *("fd_mean", "fd_perc", "dvars_std", "tsnr", "snr", "gcor", "gsr_x", "gsr_y", "aor"),
        *("aqi", "efc", "fber"),
    ),
    "dwi": (
        *("ndc", "fd_mean", "fd_perc", "snr_cc_shell0", "efc_shell01", "fber_shell01"),
        *("spikes_global", "bdiffs_median", "fa_degenerate", "sigma_cc"),
    ),
}
"""Metrics that have a plot at first."""
_NOT_OFFERED = ("subject", "run", "echo", "acq_time", "AcquisitionTime", "AcquisitionDateTime")
#: Displacements that the page can count volumes by, in mm.
FD_GRID = tuple(round(0.05 * n, 2) for n in range(1, 41))


@dataclass(frozen=True)
class Judged:
    """An output folder with the judgement of its scans.

    Attributes
    ----------
    scans : Scans
        As measured.
    rules : Rules
        What they were judged by.
    verdicts : tuple of Verdict
        Of each scan.
    ratings : tuple of Rating
        By people.
    notes : tuple of str
        What could not be used, as sentences.
    """

    scans: Scans
    rules: Rules
    verdicts: tuple[Verdict, ...]
    ratings: tuple[Rating, ...]
    notes: tuple[str, ...]


def judge_folder(
    out_dir: Path,
    *,
    bids_dir: Path | None = None,
    rules: Rules | None = None,
    scans: Scans | None = None,
) -> Judged:
    """Read the metrics of an output folder and judge them.

    Parameters
    ----------
    out_dir : pathlib.Path
        The folder, of neuroferry or MRIQC.
    bids_dir : pathlib.Path, optional
        The dataset, for ``participants.tsv`` and ``scans.tsv``.
    rules : Rules, optional
        Rules; by default those that were applied last. A file of the folder that cannot be used
        (rules, ratings, model) is named in the notes.
    scans : Scans, optional
        Its scans, if they were read before.
    """
    scans = read_scans(out_dir, bids_dir) if scans is None else scans
    notes = list(scans.notes)
    if rules is None:
        try:
            rules = rules_of(out_dir)
        except InputError as error:
            rules = Rules()
            notes.append(f"{error} The usual rules are applied.")
    ratings: tuple[Rating, ...] = ()
    probabilities: Mapping[str, float] = {}
    try:
        ratings = read_ratings(out_dir)
        probabilities = probabilities_of(out_dir, scans)
    except InputError as error:
        notes.append(str(error))
    verdicts = judge_scans(
        count_motion(scans, rules),
        rules,
        directions(),
        ratings=ratings,
        probabilities=probabilities,
    )
    return Judged(scans, rules, verdicts, ratings, tuple(notes))


def write_judgement(
    out_dir: Path, judged: Judged, extras: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> None:
    """Write the table of each modality, and the verdicts.

    Parameters
    ----------
    out_dir : pathlib.Path
        The output folder.
    judged : Judged
        Its judgement.
    extras : mapping
        Further columns, by modality and name of the scan.
    """
    counted = count_motion(judged.scans, judged.rules)
    for modality in MODALITIES:
        scans = counted.of.get(modality, ())
        if scans or extras.get(modality):
            write_group_table(
                group_table(out_dir, modality),
                scans,
                order=metric_table(modality),
                extras=_to_scans(scans, extras.get(modality, {}), modality),
            )
    if judged.verdicts:
        write_verdicts(out_dir, judged.verdicts)


def _to_scans(
    scans: Sequence[Scan], extras: Mapping[str, Mapping[str, str]], modality: str
) -> dict[str, Mapping[str, str]]:
    """Assign the values of processed runs, whose echoes are one, to the scans."""
    names = {scan.name for scan in scans}
    taken = set()
    found: dict[str, Mapping[str, str]] = {}
    for scan in scans:
        echo = parse_name(scan.name).entities.get("echo")
        whole = scan.name.replace(f"_echo-{echo}", "") if echo else scan.name
        for name in (scan.name, whole):
            if name in extras:
                found[scan.name] = extras[name]
                taken.add(name)
                break
    return found | {name: row for name, row in extras.items() if name not in {*taken, *names}}


def page_data(out_dir: Path, judged: Judged) -> dict[str, Any]:
    """Lay out all that the overview's script needs, to be embedded as JSON."""
    reference = read_if_sound(out_dir / REFERENCE_FILE)
    compared = reference.get("modalities")
    by_name = {verdict.name: verdict for verdict in judged.verdicts}
    return {
        "rules": rules_table(judged.rules),
        "modalities": [
            _modality(
                out_dir,
                modality,
                scans,
                by_name,
                compared.get(modality, {}) if isinstance(compared, dict) else {},
                judged.rules.fd_threshold,
            )
            for modality, scans in judged.scans.of.items()
        ],
        "source": str(reference.get("source", "")),
    }


def _modality(
    out_dir: Path,
    modality: str,
    scans: Sequence[Scan],
    verdicts: Mapping[str, Verdict],
    reference: Mapping[str, Any],
    fd_threshold: float | None,
) -> dict[str, Any]:
    table = metric_table(modality)
    names = metric_names(scans, table)
    key = [name for name in KEY_METRICS[modality] if name in names]
    directed = [name for name in names if name in table and table[name].better in DIRECTED]
    grid = sorted({*FD_GRID, fd_threshold or FD_GRID[0]})
    data: dict[str, Any] = {
        "modality": modality,
        "names": [scan.name for scan in scans],
        "links": [page_of(out_dir, scan) for scan in scans],
        "key": key if len(key) >= 4 else (directed or names)[:12],
        "metrics": {
            name: {
                "title": table[name].title if name in table else name,
                "unit": table[name].unit if name in table else "",
                "meaning": table[name].meaning if name in table else "",
                "better": table[name].better if name in table else "none",
                "values": [_number(scan.metrics.get(name)) for scan in scans],
            }
            for name in names
        },
        "order": list(table),
        "columns": _columns(scans),
        "ratings": [verdicts[scan.name].rating for scan in scans],
        "raters": [verdicts[scan.name].raters for scan in scans],
        "probabilities": [_number(verdicts[scan.name].probability) for scan in scans],
        "reference": reference.get("metrics", {}),
        "reference_n": reference.get("n", 0),
        "reference_match": reference.get("match", []),
    }
    motion = [read_displacement(scan) for scan in scans]
    if any(motion):
        data["motion"] = {
            "grid": grid,
            "usual": DEFAULT_THRESHOLD,
            "volumes": [len(values) + 1 if values else 0 for values in motion],
            "counts": [
                [sum(value > threshold for value in values) for threshold in grid]
                if values
                else []
                for values in motion
            ],
        }
    return data


def _columns(scans: Sequence[Scan]) -> dict[str, Any]:
    """Give the columns with few different values, as numbers of their levels."""
    columns = {}
    for name in column_names(scans):
        texts = [scan.columns.get(name, "") for scan in scans]
        levels = sorted(set(texts))
        if name not in _NOT_OFFERED and (1 < len(levels) <= 60 or name in ("protocol", "scanner")):
            place = {text: n for n, text in enumerate(levels)}
            columns[name] = {"levels": levels, "codes": [place[text] for text in texts]}
    return columns


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.9g}")


def page_of(out_dir: Path, scan: Scan) -> str:
    """Find the place in a report that shows a scan: ours, or MRIQC's; empty without report."""
    page = f"sub-{scan.columns.get('subject', '')}.html"
    if (out_dir / page).exists():
        return f"{page}#{scan.name}"
    return f"{scan.name}.html" if (out_dir / f"{scan.name}.html").exists() else ""


def as_script(data: Any) -> str:
    """Write data as JSON that can stand in a script element of a page."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
