"""Errors of neuroferry and their exit codes.

Every message says what is wrong, in which file, and what to do about it.
"""

from __future__ import annotations

from enum import IntEnum
from signal import Signals


class ExitCode(IntEnum):
    """Exit codes of the BIDS execution specification (draft) and of ``sysexits.h``.

    Attributes
    ----------
    meaning : str
        When the program or the launcher exits with it.
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Create a code with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "success"
    STEP_FAILED = 1, "a step or a participant failed; the reports say which and why"
    INVALID_BIDS = 16, "not a BIDS dataset"
    UNKNOWN_LEVEL = 17, "unknown level of analysis"
    NOTHING_MATCHED = 18, "no participant, session or file matched"
    USAGE = 64, "wrong arguments or settings"
    DATA = 65, "unusable data, such as an error in every participant"
    NO_INPUT = 66, "an input does not exist or cannot be read"
    UNAVAILABLE = 69, "the launcher: a program is not installed, or a machine cannot be reached"
    SOFTWARE = 70, "a defect of neuroferry, or a tool that failed"
    CANNOT_CREATE = 73, "an output cannot be created"
    IO = 74, "disk or file error, such as a full disk"
    TEMPORARY = (
        75,
        "not possible now (memory, disk, another run, a scheduler): try again later",
    )
    NO_PERMISSION = 77, "a file that another user owns or can write to, or an unsigned image"
    INTERRUPTED = 130, "interrupted by Ctrl-C (143: by SIGTERM)"


class NeuroferryError(Exception):
    """Base class of all errors that neuroferry explains; the program ends with ``exit_code``."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init__(self, message: str, *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class InputError(NeuroferryError):
    """A missing, unreadable or contradictory input."""

    exit_code = ExitCode.DATA


class GeometryError(InputError):
    """An image with unusable dimensions, affine or orientation."""


class UsageError(NeuroferryError):
    """Invalid or contradictory arguments or settings."""

    exit_code = ExitCode.USAGE


class ResourceError(NeuroferryError):
    """Too little memory, too few processors or a full disk."""

    exit_code = ExitCode.TEMPORARY


class SchedulerError(NeuroferryError):
    """Work that a scheduler refused or lost."""

    exit_code = ExitCode.TEMPORARY


class ToolError(NeuroferryError):
    """A failed external program or library."""

    exit_code = ExitCode.SOFTWARE


class StepsFailedError(NeuroferryError, RuntimeError):
    """A finished run with failed steps; a ``RuntimeError`` as Nipype's own plugins raise."""

    exit_code = ExitCode.STEP_FAILED


class RunInterrupted(NeuroferryError):  # noqa: N818 - an interruption is not an error
    """A run stopped by Ctrl-C or by the system, through the signal ``signal_number``."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Terminated(BaseException):
    """A signal that ends the program at once, past every ``except Exception`` on its way.

    Raised by the handlers of `neuroferry.app.launch.terminable` and of the engine where nothing
    needs to be put in order first.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"Stopped by {Signals(signal_number).name}.")
        self.signal_number = signal_number
