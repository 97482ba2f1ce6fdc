"""Print the launcher, a bash file for the host that starts the image with the right folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from neuroferry.errors import ExitCode, InputError

_IN_IMAGE = Path("/usr/share/neuroferry/launcher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print the launcher.

    Raises
    ------
    InputError
        Outside the image and outside a checkout, which hold the launcher.
    """
    in_checkout = Path(__file__).resolve().parents[3] / "containers" / "neuroferry"
    for path in (_IN_IMAGE, in_checkout):
        if path.is_file():
            sys.stdout.write(path.read_text(encoding="utf-8"))
            return int(ExitCode.OK)
    raise InputError(
        "The launcher is in the image: apptainer run neuroferry.sif launcher > neuroferry.",
        exit_code=ExitCode.NO_INPUT,
    )
