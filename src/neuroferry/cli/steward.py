"""Find how a run's jobs ended, and plan those that must run again; called by job scripts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from neuroferry.config import make_config
from neuroferry.errors import ExitCode
from neuroferry.files import read_toml
from neuroferry.trust import refuse_foreign_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--round", type=int, metavar="N", help="which submission (default: the latest)"
    )
    parser.add_argument("--close", metavar="REASON", help="run nothing again, for this reason")
    parser.add_argument("--exit-code", type=int, metavar="N", help="exit code of the run")


def run(arguments: argparse.Namespace) -> int:
    """Settle a round of jobs.

    Returns
    -------
    int
        0 while more has to run; the run's exit code once its record is closed.
    """
    from neuroferry.engine.slurm.steward import Steward

    run_dir = arguments.run.absolute()
    refuse_foreign_run(run_dir)
    steward = Steward(run_dir, arguments.round)
    if arguments.close is None:
        if steward.exit_code is not None:
            print("The record of this run is closed already.", file=sys.stderr)
            return steward.exit_code
        again = steward.settle()
        if again is not None:
            print(f"Jobs that have to run again: {again}", file=sys.stderr)
            return int(ExitCode.OK)
    code = steward.close(arguments.close, arguments.exit_code)
    if (run_dir / "config.toml").exists():
        from neuroferry.app.environment import prepare_environment
        from neuroferry.app.finish import finish

        prepare_environment(1)
        finish(make_config(read_toml(run_dir / "config.toml")), run_dir)
    return code
