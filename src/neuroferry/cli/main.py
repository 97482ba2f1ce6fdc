"""Entry point: finds the command, runs it, turns errors into exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, TextIO, cast

from neuroferry import __version__
from neuroferry.errors import ExitCode, NeuroferryError, RunInterrupted, Terminated, UsageError
from neuroferry.host import HostWords

if TYPE_CHECKING:
    import argparse

COMMANDS = (
    "demo",
    "phantom",
    "launcher",
    "licences",
    "dask-worker",
    "intake",
    "qc",
    "status",
    "resubmit",
    "cancel",
    "sbatch-script",
    "job",
    "steward",
)

# they need the host's ssh and folders
HOST_COMMANDS = ("move", "fetch")


def main(argv: Sequence[str] | None = None) -> int:
    """Run neuroferry.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        The exit code, see :class:`neuroferry.errors.ExitCode`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with contextlib.redirect_stderr(cast(TextIO, HostWords(sys.stderr))):
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except RunInterrupted as err:
        print(f"neuroferry: {err}", file=sys.stderr)
        return 128 + err.signal_number
    except NeuroferryError as err:
        print(f"neuroferry: {err}", file=sys.stderr)
        return int(err.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        return 128 + int(signal.SIGPIPE)
    except OSError as err:
        where = f" ({err.filename})" if err.filename else ""
        print(
            f"neuroferry: {err.strerror or err}{where}. Check the disk's free space, the quota "
            "and the permissions, then run the same command again: finished steps are kept.",
            file=sys.stderr,
        )
        return int(ExitCode.IO)
    except Terminated as err:
        print(f"neuroferry: {err} Finished steps are kept.", file=sys.stderr, flush=True)
        # threads that still check images would be waited for
        os._exit(128 + err.signal_number)
    except KeyboardInterrupt:
        print("neuroferry: Interrupted.", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except Exception as err:
        import traceback

        traceback.print_exc()
        print(
            f"neuroferry: This is a bug in neuroferry, not a problem of your data ({err}). Please "
            "report it with the lines above; finished steps are kept.",
            file=sys.stderr,
        )
        return int(ExitCode.SOFTWARE)


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return _run_command(arguments[0], arguments[1:])
    if arguments and arguments[0] in HOST_COMMANDS:
        raise UsageError(
            f"neuroferry {arguments[0]} copies between machines, so it needs the launcher on the "
            "host. To get it from the image: apptainer run neuroferry.sif launcher >neuroferry."
        )
    from neuroferry.cli.parser import build_parser, parse_config

    if not arguments:
        build_parser().print_usage(sys.stderr)
        raise UsageError("Usage: neuroferry BIDS_DIR OUTPUT_DIR participant (or --help).")
    if "--version" in arguments:
        print(f"neuroferry {__version__}")
        return int(ExitCode.OK)
    config = parse_config(arguments)
    from neuroferry.app.run import run

    return run(config, command=" ".join(["neuroferry", *arguments]))


def command_parser(name: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """Return the module of a command and the parser of its arguments."""
    import argparse

    module = importlib.import_module(f"neuroferry.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"neuroferry {name}", description=(module.__doc__ or "").strip().splitlines()[0]
    )
    module.add_arguments(parser)
    return module, parser


def _run_command(name: str, arguments: list[str]) -> int:
    from neuroferry.cli.parser import normalise

    module, parser = command_parser(name)
    try:
        # options may stand before the last of several files
        parsed = parser.parse_intermixed_args(normalise(arguments))
    except SystemExit as err:
        return int(ExitCode.USAGE) if err.code else int(ExitCode.OK)
    return int(module.run(parsed))
