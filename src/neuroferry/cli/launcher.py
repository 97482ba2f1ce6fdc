"""Print the host launcher, the bash file that starts the image with the right folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from neuroferry.errors import ExitCode, InputError

_IN_IMAGE = Path("/usr/share/neuroferry/launcher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: it has none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the launcher.

    Raises
    ------
    InputError
        Outside the image and outside a checkout, where there is none to print.
    """
    in_checkout = Path(__file__).resolve().parents[3] / "containers" / "neuroferry"
    for path in (_IN_IMAGE, in_checkout):
        if path.is_file():
            sys.stdout.write(path.read_text(encoding="utf-8"))
            return int(ExitCode.OK)
    raise InputError(
        "The launcher is kept in the image: apptainer run neuroferry.sif launcher > neuroferry.",
        exit_code=ExitCode.NO_INPUT,
    )
