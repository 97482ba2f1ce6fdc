"""Print the script of a job array with one job per participant, each using MultiProc."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from pathlib import Path

from neuroferry.cli.parser import add_setting
from neuroferry.config import SlurmConfig, make_slurm_config
from neuroferry.engine.resources import parse_memory
from neuroferry.engine.slurm.scripts import header, host_command
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.setting import COMMAND_LINE, Entry, entries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bids_dir", metavar="BIDS_DIR", type=Path, help="BIDS dataset")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="folder for the derivatives")
    parser.add_argument("-w", "--work-dir", metavar="DIR", help="folder for intermediate results")
    parser.add_argument(
        "--participant-label", nargs="+", metavar="LABEL", help="participants (default: all)"
    )
    parser.add_argument(
        "--mem", default="8GB", metavar="AMOUNT", help="memory of each job (default: 8GB)"
    )
    parser.add_argument(
        "--nprocs", type=int, default=4, metavar="N", help="processors of each job (default: 4)"
    )
    parser.add_argument(
        "--hours", type=float, default=12.0, metavar="H", help="hours for each job (default: 12)"
    )
    for entry in _settings():
        add_setting(parser, entry)
    parser.add_argument(
        "--options",
        default="",
        metavar="TEXT",
        help="additional options of neuroferry, quoted: --options='--sloppy --random-seed 2'",
    )


def _settings() -> list[Entry]:
    """List the SLURM settings that a plain job script uses."""
    names = ("account", "partition", "qos", "constraint", "prolog")
    return [entry for entry in entries(SlurmConfig, "slurm.") if entry.name in names]


def run(arguments: argparse.Namespace) -> int:
    """Print the script.

    Raises
    ------
    UsageError
        If a job would have no processor or no time.
    InputError
        If the dataset contains no participant.
    """
    for flag, value in (("--nprocs", arguments.nprocs), ("--hours", arguments.hours)):
        if not 0 < value < math.inf:
            raise UsageError(f"{flag} must be a positive number, not {value:g}.")
    labels = [label.removeprefix("sub-") for label in arguments.participant_label or ()]
    labels = labels or sorted(
        path.name.removeprefix("sub-")
        for path in arguments.bids_dir.glob("sub-*")
        if path.is_dir()
    )
    if not labels:
        raise InputError(
            f"{arguments.bids_dir} contains no participant folder (sub-...).",
            exit_code=ExitCode.NOTHING_MATCHED,
        )
    given = {entry.name: getattr(arguments, entry.key) for entry in _settings()}
    settings = make_slurm_config(
        {name: value for name, value in given.items() if value is not None}, source=COMMAND_LINE
    )
    mem_mb = round(parse_memory(arguments.mem) * 1e9 / 2**20)
    lines = header("subjects", settings, mem_mb, arguments.nprocs, round(arguments.hours * 60))
    lines.insert(1, f"#SBATCH --array=1-{len(labels)}")
    words = [str(arguments.bids_dir), arguments.output_dir, "participant"]
    if arguments.work_dir:
        words += ["-w", arguments.work_dir]
    words += [*shlex.split(arguments.options), "--plugin", "MultiProc"]
    lines += [
        *settings.prolog,
        f"labels=({shlex.join(labels)})",
        f"enter=({host_command(os.environ, sys.executable)})",
        f'exec "${{enter[@]}}" {shlex.join(words)} '
        '--participant-label "${labels[SLURM_ARRAY_TASK_ID - 1]}"',
    ]
    print("\n".join(lines))
    return int(ExitCode.OK)
