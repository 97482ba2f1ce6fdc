"""Cancel a run's jobs and close its record."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from neuroferry.cli.status import find_run
from neuroferry.engine.record import read_run
from neuroferry.engine.slurm.scripts import host_path
from neuroferry.errors import ExitCode, InputError
from neuroferry.trust import refuse_foreign, refuse_foreign_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of the run")
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the latest)")


def run(arguments: argparse.Namespace) -> int:
    """Cancel a run, or print the command that does it on the host.

    Raises
    ------
    InputError
        If the run has ended, or has no jobs.
    """
    folder = find_run(arguments.out.absolute(), arguments.run)
    script = folder / "slurm" / "cancel.sh"
    if not script.exists():
        raise InputError(f"The run {folder.name} has no jobs: stop it where it was started.")
    if read_run(folder).exit_code is not None:
        raise InputError(f"The run {folder.name} has already ended.")
    return run_on_host(script, "To cancel the run")


def run_on_host(script: Path, purpose: str) -> int:
    """Run a script that needs SLURM, or print the command for a host with SLURM."""
    if shutil.which("scancel"):
        refuse_foreign_run(script.parent.parent)
        refuse_foreign(script, "The script")
        return subprocess.run(["bash", str(script)], check=False).returncode
    print(f"{purpose}, run this on the host:", file=sys.stderr)
    print(shlex.join(["bash", host_path(script, os.environ)]))
    return int(ExitCode.OK)
