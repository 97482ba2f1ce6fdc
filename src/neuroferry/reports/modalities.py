"""The kinds of scan that have a section on the pages, in its order."""

from __future__ import annotations

from pathlib import Path

from neuroferry.reports.diffusion import DIFFUSION, JOINED
from neuroferry.reports.functional import FUNCTIONAL
from neuroferry.reports.scans import ScanRun, find_runs

MODALITIES = (FUNCTIONAL, DIFFUSION, JOINED)


def find_all_runs(out_dir: Path, subject: str) -> tuple[ScanRun, ...]:
    """Collect every scan of a participant, kind after kind."""
    return tuple(run for kind in MODALITIES for run in find_runs(kind, out_dir, subject))
