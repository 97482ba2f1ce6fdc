"""Work of ``neuroferry qc``: verdicts, ratings, a model and drift of an output folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from neuroferry.engine.record import list_runs
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.judgement.agreement import agreements, write_agreement
from neuroferry.judgement.drift import follow, undated, write_drift
from neuroferry.judgement.metric_table import directions
from neuroferry.judgement.model import describe, keep_model, learn
from neuroferry.judgement.ratings import (
    UNKNOWN,
    collect_ratings,
    read_rating_table,
    read_ratings,
    write_ratings,
)
from neuroferry.judgement.reference import keep_reference, summarise_reference
from neuroferry.judgement.rules import FEWEST_BASELINE, LEVELS, without_company
from neuroferry.judgement.scans_tsv import write_scans_columns
from neuroferry.judgement.tables import MODALITIES, Scans, read_scans
from neuroferry.judgement.thresholds import (
    RULES_FILE,
    read_baseline,
    read_rules,
    rules_of,
    write_rules,
)
from neuroferry.judgement.verdicts import VERDICTS_FILE
from neuroferry.reports.gather import raw_root
from neuroferry.reports.group import write_group_report
from neuroferry.reports.judged import Judged, judge_folder


def apply_thresholds(
    out_dir: Path,
    dataset: Path | None = None,
    *,
    thresholds: Path | None = None,
    fd_threshold: float | None = None,
    reference: Path | None = None,
    match: Sequence[str] = (),
) -> list[str]:
    """Judge all scans again and write tables, verdicts and overview; nothing is measured.

    Parameters
    ----------
    out_dir : pathlib.Path
        Output folder of neuroferry or MRIQC.
    dataset : pathlib.Path, optional
        The BIDS dataset, for columns of its tables.
    thresholds : pathlib.Path, optional
        File of thresholds; it is kept in the folder, and applied from now on.
    fd_threshold : float, optional
        Threshold of displacement in mm; overrides that of the file, and is kept, too.
    reference : pathlib.Path, optional
        Records of MRIQC's Web API to compare with; their distributions are kept.
    match : sequence of str
        Fields that the records have in common with the scans.

    Returns
    -------
    list of str
        What was done, one line each.
    """
    if match and reference is None:
        raise UsageError("--match needs --reference.")
    if fd_threshold is not None and not fd_threshold > 0:
        raise UsageError("--fd-threshold is a displacement in mm above 0.")
    scans = _scans(out_dir, dataset)
    rules = read_rules(thresholds) if thresholds else rules_of(out_dir)
    if fd_threshold is not None:
        rules = replace(rules, fd_threshold=fd_threshold)
    unknown = sorted(
        {
            f"{limit.metric} ({limit.modality})"
            for limit in rules.limits
            if not any(limit.metric in s.metrics for s in scans.of.get(limit.modality, ()))
        }
    )
    if reference is not None:
        keep_reference(out_dir, summarise_reference(reference, scans, match), reference.name)
    if thresholds is not None or fd_threshold is not None:
        write_rules(out_dir / RULES_FILE, rules)
    lines = [f"Limits of metrics that no scan has: {', '.join(unknown)}."] if unknown else []
    wanted = {*rules.outliers.by, *(limit.column for limit in rules.limits if limit.column)}
    strange = sorted(wanted - {"protocol"} - {name for scan in scans for name in scan.columns})
    if strange:
        lines.append(f"Columns that no scan has: {', '.join(strange)}.")
    return [*lines, *_write(out_dir, scans)[1]]


def _scans(out_dir: Path, dataset: Path | None) -> Scans:
    """Read the scans of a folder, which must have some."""
    if not out_dir.is_dir():
        raise InputError(
            f"{out_dir} is not a folder. Give the output folder of a run.",
            exit_code=ExitCode.NO_INPUT,
        )
    if dataset is not None and not dataset.is_dir():
        raise InputError(f"{dataset} is not a folder.", exit_code=ExitCode.NO_INPUT)
    scans = read_scans(out_dir, dataset or raw_root(out_dir))
    if not scans.of:
        raise InputError(
            f"{out_dir} holds no quality metrics. Run neuroferry with --workflows qc first.",
            exit_code=ExitCode.NO_INPUT,
        )
    return scans


def _write(out_dir: Path, scans: Scans) -> tuple[Judged, list[str]]:
    """Judge, write tables, verdicts and overview, and say what the verdicts are."""
    runs = list_runs(out_dir)
    judged = judge_folder(out_dir, scans=scans)
    page = write_group_report(out_dir, runs[-1] if runs else None, judged=judged)
    lines = list(judged.notes)
    for modality in scans.of:
        found = Counter(v.final for v in judged.verdicts if v.modality == modality)
        line = f"{modality}: " + ", ".join(f"{found[level]} {level}" for level in LEVELS)
        alone = without_company(scans.of[modality], judged.rules.outliers)
        if alone:
            line += (
                f"; {alone} have fewer than {judged.rules.outliers.fewest} scans alike, so that"
                " limits alone judge them"
            )
        lines.append(line)
    return judged, [*lines, f"Verdicts: {out_dir / VERDICTS_FILE}", f"Overview: {page}"]


def collect(
    out_dir: Path,
    dataset: Path | None,
    sources: Sequence[Path],
    rater: str | None = None,
    scans_dir: Path | None = None,
) -> list[str]:
    """Collect ratings into the output folder, compare raters, and write the verdicts again.

    Parameters
    ----------
    out_dir : pathlib.Path
        Output folder of neuroferry or MRIQC.
    dataset : pathlib.Path, optional
        The BIDS dataset, for columns of its tables.
    sources : sequence of pathlib.Path
        Files of ratings, or folders of such.
    rater : str, optional
        Who rated, for files that do not say.
    scans_dir : pathlib.Path, optional
        BIDS dataset whose ``scans.tsv`` get the verdicts.

    Returns
    -------
    list of str
        What was done and what could not be used, one line each.

    Raises
    ------
    InputError
        If there is no rating at all.
    """
    scans = _scans(out_dir, dataset)
    if not sources and scans_dir is None:
        raise UsageError("Give files of ratings, or folders that hold them.")
    collected = collect_ratings(sources, rater=rater or UNKNOWN, before=read_ratings(out_dir))
    if sources and not collected.ratings:
        raise InputError(
            "No rating was found. " + " ".join(collected.notes), exit_code=ExitCode.DATA
        )
    lines = list(collected.notes)
    known = {scan.name for scan in scans}
    strange = sorted({one.name for one in collected.ratings} - known)
    if strange:
        lines.append(
            f"{len(strange)} rated images have no metrics in {out_dir}: {', '.join(strange[:5])}."
        )
    if collected.ratings:
        path = write_ratings(out_dir, collected.ratings)
        raters = sorted({one.rater for one in collected.ratings})
        lines.append(f"{len(collected.ratings)} ratings of {', '.join(raters)}: {path}")
    found = agreements(collected.ratings)
    if found:
        for one in found:
            if one.what == "rating, weighted":
                lines.append(
                    f"{one.raters[0]} and {one.raters[1]}: weighted kappa {one.kappa:.2f} on"
                    f" {one.n} images."
                )
        lines.append(f"Agreement: {write_agreement(out_dir, found)}")
    judged, said = _write(out_dir, scans)
    lines += said
    if scans_dir is not None:
        written, notes = write_scans_columns(scans_dir, judged.verdicts)
        lines += [*notes, f"Written: {len(written)} files in {scans_dir}"]
    return lines


def learn_model(
    out_dir: Path,
    dataset: Path | None = None,
    *,
    ratings: Path | None = None,
    modality: str = "T1w",
    site_column: str = "",
) -> list[str]:
    """Learn which scans people exclude, and write the verdicts again if that works.

    Parameters
    ----------
    out_dir : pathlib.Path
        Output folder of neuroferry or MRIQC.
    dataset : pathlib.Path, optional
        The BIDS dataset, for columns of its tables.
    ratings : pathlib.Path, optional
        Table of ratings; by default that of the folder.
    modality : str
        Scans to learn from.
    site_column : str
        Column of sites; empty: none.

    Returns
    -------
    list of str
        What the model achieves on scans that it has not seen.

    Raises
    ------
    InputError
        If there are too few ratings, or the model is not better than chance.
    """
    if modality not in MODALITIES:
        raise UsageError(f"--modality is one of {', '.join(MODALITIES)}, not {modality}.")
    scans = _scans(out_dir, dataset)
    table = read_rating_table(ratings) if ratings else read_ratings(out_dir)
    model = learn(
        scans,
        table,
        modality=modality,
        directions=directions()[modality],
        rules=rules_of(out_dir),
        site_column=site_column,
    )
    path = keep_model(out_dir, model)
    return [*describe(model), f"Model: {path}", *_write(out_dir, scans)[1]]


def follow_scanners(
    out_dir: Path,
    dataset: Path | None = None,
    baseline: str | None = None,
    column: str | None = None,
) -> list[str]:
    """Compare the scans of each scanner with its first ones, and write the signs of change.

    Parameters
    ----------
    out_dir : pathlib.Path
        Output folder of neuroferry or MRIQC.
    dataset : pathlib.Path, optional
        The BIDS dataset: ``acq_time`` of its ``scans.tsv``.
    baseline : str, optional
        Number of scans, or the day that the baseline ends. This and `column` stay for later pages.
    column : str, optional
        Column that names the scanner.

    Returns
    -------
    list of str
        One line for each series with signs, and what could not be followed.
    """
    scans = _scans(out_dir, dataset)
    rules = rules_of(out_dir)
    try:
        wanted = rules.baseline if baseline is None else read_baseline(baseline)
    except InputError as error:
        raise UsageError(f"--baseline: {error}") from error
    rules = replace(rules, baseline=wanted, scanner_column=column or rules.scanner_column)
    followed = follow(scans, directions(), baseline=rules.baseline, column=rules.scanner_column)
    if baseline is not None or column is not None:
        write_rules(out_dir / RULES_FILE, rules)
    lines = []
    without = undated(scans)
    if without:
        lines.append(
            f"{without} scans have no date (acq_time in scans.tsv, or AcquisitionDateTime); they"
            " are left out."
        )
    drawn = [series for series in followed if series.chart]
    if not drawn:
        lines.append(
            f"No scanner and protocol has more scans than its baseline, which takes"
            f" {FEWEST_BASELINE} at least; see --baseline."
        )
    for series in drawn:
        alarms = series.chart.alarms if series.chart else ()
        if alarms:
            first = alarms[0]
            lines.append(
                f"{series.modality}, {series.scanner or 'scanner unknown'}, {series.protocol}:"
                f" {series.metric}: {len(alarms)} signs, the first on"
                f" {series.times[first.place].date()} ({first.rule})"
            )
    total = sum(len(series.chart.alarms) for series in drawn if series.chart)
    lines.append(f"{len(drawn)} series, {total} signs: {write_drift(out_dir, followed)}")
    return [*lines, _write(out_dir, scans)[1][-1]]
