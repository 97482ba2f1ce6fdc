"""Estimates of memory, time and disk, from earlier runs and from the table of the package."""

from __future__ import annotations

from pathlib import Path

from neuroferry.engine.estimate import Estimator, read_killed, read_table
from neuroferry.engine.record import read_history
from neuroferry.files import package_toml


def make_estimator(output_dir: Path) -> Estimator:
    """Make an estimator from the records below ``output_dir`` and the table of the package."""
    return Estimator(
        read_history(output_dir),
        read_table(package_toml("steps.toml")),
        killed=read_killed(output_dir),
    )
