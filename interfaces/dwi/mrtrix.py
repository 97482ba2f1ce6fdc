"""Single entry point to the programs of MRtrix3: finding, running, explaining failures.

They run without the configuration files of the user and the machine, which could change what they
compute, with an explicit number of threads, and with their scratch files in the folder of the
step. A failing program raises an error with its last lines of output.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neuroferry.errors import ToolError

#: Lines of what a program said that are passed on.
_LAST_LINES = 5


def find_program(name: str, *, instead: str = "") -> str:
    """Find a program of MRtrix3.

    Parameters
    ----------
    name : str
        Such as ``mrdegibbs``.
    instead : str
        Alternative without it, as the end of a sentence.

    Returns
    -------
    str
        Its path.

    Raises
    ------
    ToolError
        If it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise ToolError(
            f"{name} was not found. It belongs to MRtrix3, which the container image includes; "
            f"elsewhere install it (Debian and Ubuntu: package mrtrix3){instead}."
        )
    return path


def mrtrix_version() -> str:
    """Read the version of MRtrix3, such as ``3.0.3``.

    Raises
    ------
    ToolError
        If it is not installed.
    """
    done = subprocess.run(
        [find_program("mrinfo"), "-version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"mrinfo\s+(\d[\w.]*)", done.stdout)
    return found.group(1) if found else "unknown"


def run_mrtrix(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: str | os.PathLike[str],
    n_threads: int = 1,
    seed: int | None = None,
    instead: str = "",
) -> str:
    """Run a program of MRtrix3 and wait for it.

    Parameters
    ----------
    command : sequence of str or path
        Program and arguments, paths absolute; ``-quiet``, ``-force`` and ``-nthreads`` are added.
    folder : path
        Working folder.
    n_threads : int
        Threads; 1 means one thread in total.
    seed : int, optional
        Seed of its random numbers. Programs that draw any are reproducible on one thread only.
    instead : str
        Alternative if it is not installed, as the end of a sentence.

    Returns
    -------
    str
        Its standard output.

    Raises
    ------
    ToolError
        If it is not installed, fails or is killed.
    """
    name, *arguments = (os.fspath(part) for part in command)
    program = find_program(name, instead=instead)
    threads = ["-nthreads", str(n_threads if n_threads > 1 else 0)]
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as scratch:
        done = subprocess.run(
            [program, *arguments, "-quiet", "-force", *threads],
            cwd=folder,
            env=_environment(scratch, seed),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        raise ToolError(_explain(name, done.returncode, done.stderr))
    return done.stdout


def _environment(scratch: str, seed: int | None) -> dict[str, str]:
    """Make an environment without the user's choices, with an empty configuration file."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MRTRIX_")}
    empty = Path(scratch) / "mrtrix.conf"
    empty.touch()
    chosen = {"MRTRIX_CONFIGFILE": str(empty), "HOME": scratch}
    if seed is not None:
        chosen["MRTRIX_RNG_SEED"] = str(seed)
    return {**kept, **chosen}


def _explain(name: str, code: int, said: str) -> str:
    if code < 0:
        text = f"{name} was killed ({signal.Signals(-code).name})"
        if -code == signal.SIGKILL:
            text += (
                ", which happens when memory runs out: provide more memory, or run fewer steps "
                "at once"
            )
        return f"{text}."
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = " / ".join(lines[-_LAST_LINES:]) or "without a message"
    return f"{name} failed (exit code {code}): {words}"
