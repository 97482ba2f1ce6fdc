"""Estimates of memory, time and disk, from earlier runs and from the table of the package."""

from __future__ import annotations

import tomllib
from importlib import resources as package_files
from pathlib import Path
from typing import Any

from neuroferry.engine.estimate import Estimator, read_killed, read_table
from neuroferry.engine.record import read_history


def make_estimator(output_dir: Path) -> Estimator:
    """Make an estimator from the records below ``output_dir`` and the table of the package."""
    return Estimator(
        read_history(output_dir), read_table(steps_table()), killed=read_killed(output_dir)
    )


def steps_table() -> dict[str, Any]:
    """Read the table of measured steps that comes with the package."""
    text = package_files.files("neuroferry.configs").joinpath("steps.toml").read_text("utf-8")
    return tomllib.loads(text)
