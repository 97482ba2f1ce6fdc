"""The errors that neuroferry raises, and the exit codes that they end in.

Every message says what is wrong, in which file, and what to do about it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the BIDS execution specification (draft) and of ``sysexits.h``.

    Attributes
    ----------
    meaning : str
        When the program, or the launcher, ends with it.
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """Make a code with its meaning."""
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
    TEMPORARY = 75, "try again later: not enough memory or disk now, another run, a scheduler"
    NO_PERMISSION = 77, "a file of another user or that others can write; or an unsigned image"
    INTERRUPTED = 130, "interrupted by Ctrl-C (143: by SIGTERM)"


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
