"""Reports and overview after the last step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from neuroferry.config import Config
from neuroferry.engine.record import list_runs, read_run
from neuroferry.errors import ExitCode, InputError


def finish(config: Config, folder: Path) -> None:
    """Write the reports after a run's last step."""
    _write_reports(config, dict.fromkeys(read_run(folder).subjects, folder), folder)


def _write_reports(config: Config, runs: Mapping[str, Path], latest: Path) -> None:
    """Write the report of each participant from their run, then the overview, once."""
    from neuroferry.reports import write_group_report, write_subject_report

    for label, run_dir in runs.items():
        page = write_subject_report(config.output_dir, run_dir, label)
        _say(f"Report: {page}")
    _say(f"Overview: {write_group_report(config.output_dir, latest)}")


def write_reports_anew(config: Config) -> int:
    """Write the reports of each participant again, from the files of the latest run."""
    wanted = set(config.input.participant_label)
    latest: dict[str, Path] = {}
    for folder in list_runs(config.output_dir):
        for label in read_run(folder).subjects:
            if not wanted or label in wanted:
                latest[label] = folder
    missing = sorted(wanted - set(latest))
    if missing or not latest:
        raise InputError(
            f"{config.output_dir} contains no run of {', '.join(missing) or 'any participant'}. "
            "Run neuroferry without --reports-only first.",
            exit_code=ExitCode.NO_INPUT,
        )
    _write_reports(config, latest, max(latest.values(), key=lambda folder: folder.name))
    return int(ExitCode.OK)


def run_group(config: Config) -> int:
    """Write the overview of all participants in the output folder."""
    from neuroferry.reports import write_group_report

    runs = list_runs(config.output_dir)
    if not runs:
        raise InputError(
            f"{config.output_dir} contains no participant yet. Run the level 'participant' first.",
            exit_code=ExitCode.NO_INPUT,
        )
    _say(f"Overview: {write_group_report(config.output_dir, runs[-1])}")
    return int(ExitCode.OK)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
