"""Estimates of memory, time and disk space, from earlier runs and the package's table."""

from __future__ import annotations

from pathlib import Path

from neuroferry.engine.estimate import Estimator, read_killed, read_table
from neuroferry.engine.record import read_history
from neuroferry.files import package_toml


def make_estimator(output_dir: Path) -> Estimator:
    """Make an estimator from the records below ``output_dir`` and the package's table."""
    return Estimator(
        read_history(output_dir),
        read_table(package_toml("steps.toml")),
        killed=read_killed(output_dir),
    )
