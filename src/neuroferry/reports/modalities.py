"""The kinds of runs that have a section in the reports, in order."""

from __future__ import annotations

from pathlib import Path

from neuroferry.reports.diffusion import DIFFUSION, JOINED
from neuroferry.reports.functional import FUNCTIONAL
from neuroferry.reports.scans import ScanRun, find_runs

MODALITIES = (FUNCTIONAL, DIFFUSION, JOINED)


def find_all_runs(out_dir: Path, subject: str) -> tuple[ScanRun, ...]:
    """Collect all runs of a participant, sorted by kind."""
    return tuple(run for kind in MODALITIES for run in find_runs(kind, out_dir, subject))
