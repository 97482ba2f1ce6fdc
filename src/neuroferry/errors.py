"""The errors that neuroferry raises, and the exit codes that they end in.

Every message says what is wrong, in which file, and what to do about it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the BIDS execution specification (draft) and of ``sysexits.h``."""

    OK = 0
    STEP_FAILED = 1
    INVALID_BIDS = 16
    UNKNOWN_LEVEL = 17
    NOTHING_MATCHED = 18
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    SOFTWARE = 70
    CANNOT_CREATE = 73
    IO = 74
    TEMPORARY = 75
    INTERRUPTED = 130


class NeuroferryError(Exception):
    """Anything that neuroferry can explain; ``exit_code`` is what the program ends with."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init__(self, message: str, *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class InputError(NeuroferryError):
    """An input that is missing, unreadable or contradicts itself."""

    exit_code = ExitCode.DATA


class GeometryError(InputError):
    """An image whose dimensions, affine or orientation cannot be used."""


class UsageError(NeuroferryError):
    """Arguments or settings that do not make sense together."""

    exit_code = ExitCode.USAGE


class ResourceError(NeuroferryError):
    """Memory, processors or disk that are not there."""

    exit_code = ExitCode.TEMPORARY


class SchedulerError(NeuroferryError):
    """A scheduler that refused or lost work."""

    exit_code = ExitCode.TEMPORARY


class ToolError(NeuroferryError):
    """An external program or library that failed."""

    exit_code = ExitCode.SOFTWARE


class StepsFailedError(NeuroferryError):
    """A run that came to its end with steps that failed."""

    exit_code = ExitCode.STEP_FAILED


class RunInterrupted(NeuroferryError):  # noqa: N818 - an interruption is no error
    """A run that was stopped by Ctrl-C or by the system; ``signal_number`` says by what."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
