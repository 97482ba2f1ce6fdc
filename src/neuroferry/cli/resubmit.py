"""Run failed and skipped steps again, with the settings of an earlier run."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuroferry.cli.status import find_run
from neuroferry.config import make_config
from neuroferry.errors import InputError
from neuroferry.files import read_toml
from neuroferry.trust import refuse_foreign_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of the run")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the latest)")


def run(arguments: argparse.Namespace) -> int:
    """Start a run with the settings of another; finished steps are not run again.

    Raises
    ------
    InputError
        If the earlier run left no settings.
    NeuroferryError
        With exit code 77 if it belongs to someone else.
    """
    from neuroferry.app.run import run as run_app

    folder = find_run(arguments.out.absolute(), arguments.run)
    settings = folder / "config.toml"
    if not settings.exists():
        raise InputError(
            f"The run {folder.name} was started from Python and left no settings: run its "
            "workflow again; finished steps are not run again."
        )
    refuse_foreign_run(folder)
    config = make_config(read_toml(settings), source=str(settings))
    return run_app(config, command=f"neuroferry resubmit {arguments.out}")
