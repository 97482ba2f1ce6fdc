"""Metadata of a setting, and how its values are read and checked.

Each setting is described in one place, the field of a dataclass: type and default are those of
the field, and :func:`setting` adds help, flags, choices and range. The command line, the checks,
the settings files and the documentation are generated from these.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Required, TypedDict, TypeVar, Unpack, cast

from neuroferry.errors import ExitCode, UsageError

COMMAND_LINE = "The command line"

T = TypeVar("T")

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


class About(TypedDict, total=False):
    """Metadata of a setting's field.

    Attributes
    ----------
    help : str
        Meaning in a few words of plain English, in lower case and without a full stop.
    flags : tuple of str
        Spellings on the command line; by default the field's name with hyphens, after ``no-``
        where the default is True. Empty for a setting that is set in files only.
    metavar : str
        Name of the value in the help.
    section : str
        Heading in the help; by default that of the dataclass.
    choices : mapping of str to str
        Allowed values, each with its meaning or an empty text.
    minimum, maximum, above : float
        Range; the first two are inclusive, the last is exclusive.
    unset : str
        Meaning of the default where this is None or empty, such as ``all``.
    example : object
        Example value for settings files, where the default is None or empty.
    prefix : str
        Optional prefix of a label, which is removed, such as ``sub-``.
    action : str
        ``append``: the flag is repeated, with one value each; ``count``: the value is the number
        of times that the flag is given.
    shortcuts : mapping of str to object
        Additional flags without a value, each standing for a value.
    exit_code : ExitCode
        Exit code for an invalid value.
    """

    help: Required[str]
    flags: tuple[str, ...]
    metavar: str
    section: str
    choices: Mapping[str, str]
    minimum: float
    maximum: float
    above: float
    unset: str
    example: object
    prefix: str
    action: Literal["append", "count"]
    shortcuts: Mapping[str, object]
    exit_code: ExitCode


def setting(default: T, **about: Unpack[About]) -> T:
    """Create the dataclass field of a setting.

    Parameters
    ----------
    default : object
        The default.
    **about
        See :class:`About`.
    """
    if isinstance(default, dict):
        return cast(T, field(default_factory=default.copy, metadata=about))
    return field(default=default, metadata=about)


def required(**about: Unpack[About]) -> Any:
    """Create the dataclass field of a setting without a default."""
    return field(metadata=about)


@dataclass(frozen=True)
class Entry:
    """A setting as the command line, files and documentation see it.

    Attributes
    ----------
    key : str
        Name in a settings file, with its table: ``workflow.ignore``.
    kind : type
        Type of one value: bool, int, float, str or pathlib.Path.
    shape : str
        ``one`` value, a ``list`` or a ``table`` of them.
    optional : bool
        Whether the value may be None.
    default : object
        The default; ``dataclasses.MISSING`` where there is none.
    about : About
        Metadata of the field.
    section : str
        Heading in the help.
    """

    key: str
    kind: type
    shape: Literal["one", "list", "table"]
    optional: bool
    default: Any
    about: About
    section: str

    @property
    def name(self) -> str:
        """Name of the field."""
        return self.key.rpartition(".")[2]

    @property
    def positional(self) -> bool:
        """Whether it is a positional argument."""
        return "." not in self.key

    @property
    def flags(self) -> tuple[str, ...]:
        """Spellings on the command line."""
        no = "no-" if self.default is True else ""
        own = () if self.positional else (f"--{no}{self.name.replace('_', '-')}",)
        return self.about.get("flags", own)

    @property
    def flag(self) -> str:
        """Long spelling; empty if there is none."""
        return next((flag for flag in self.flags if flag.startswith("--")), "")

    def read(self, value: object, source: str) -> Any:
        """Convert and check one value of a settings file or of the command line.

        Raises
        ------
        UsageError
            When it has the wrong type, is not one of the choices or is out of range.
        """
        if value is None and self.optional:
            return None
        if self.shape == "list" and isinstance(value, (list, tuple)):
            return tuple(self._one(item, source) for item in value)
        if self.shape == "table" and isinstance(value, Mapping):
            return {str(name): self._one(item, source) for name, item in value.items()}
        if self.shape == "one":
            return self._one(value, source)
        raise self._wrong(source, f"{self._called(source)} must be a {self.shape}, not {value!r}.")

    def _one(self, value: object, source: str) -> Any:
        if self.kind is float and type(value) is int:
            value = float(value)
        elif self.kind is Path and isinstance(value, str):
            value = Path(value)
        if not isinstance(value, self.kind) or type(value) is bool is not self.kind:
            each = "hold " if self.shape != "one" else "be "
            text = f"must {each}{_KINDS[self.kind]}, not {value!r}."
            raise self._wrong(source, f"{self._called(source)} {text}")
        if isinstance(value, str):
            value = value.removeprefix(self.about.get("prefix", ""))
        self._check(value, source)
        return value

    def _check(self, value: object, source: str) -> None:
        """Check one value against the choices and the range."""
        name, choices = self._called(source), self.about.get("choices", {})
        if isinstance(value, str) and choices and value not in choices:
            among = f"Choose one of: {', '.join(choices)}."
            raise self._wrong(source, f"unknown value '{value}' for {name}. {among}")
        if isinstance(value, str) and "\n" in value:
            raise self._wrong(source, f"{name} must be one line of text.")
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(source, f"{name} must be a finite number, not {value}.")
        if isinstance(value, (int, float)) and not self._in_range(value):
            raise self._wrong(source, f"{name} must be {range_text(self.about)}, not {value:g}.")

    def _in_range(self, value: float) -> bool:
        low, high = self.about.get("minimum", -math.inf), self.about.get("maximum", math.inf)
        return low <= value <= high and value > self.about.get("above", -math.inf)

    def _called(self, source: str) -> str:
        """Name the setting as it was given."""
        return self.flag if source == COMMAND_LINE and self.flag else f"'{self.key}'"

    def _wrong(self, source: str, text: str) -> UsageError:
        text = text[0].upper() + text[1:] if source == COMMAND_LINE else f"{source}: {text}"
        return UsageError(text, exit_code=self.about.get("exit_code"))


def range_text(about: About) -> str:
    """Describe the range of a setting's values; empty if there is none.

    Examples
    --------
    >>> range_text({"help": "", "minimum": 0, "maximum": 1}), range_text({"help": "", "above": 0})
    ('between 0 and 1', 'above 0')
    """
    if "minimum" in about and "maximum" in about:
        return f"between {about['minimum']:g} and {about['maximum']:g}"
    if "minimum" in about:
        return f"at least {about['minimum']:g}"
    if "maximum" in about:
        return f"at most {about['maximum']:g}"
    return f"above {about['above']:g}" if "above" in about else ""


@functools.cache
def entries(kind: Any, prefix: str = "") -> tuple[Entry, ...]:
    """List the settings of a dataclass and of the dataclasses nested in it.

    Parameters
    ----------
    kind : type
        The dataclass.
    prefix : str
        Its table in a settings file, with a trailing dot; empty for the whole file.
    """
    found: list[Entry] = []
    section = getattr(kind, "SECTION", "")
    hints: dict[str, Any] = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint, key = hints[item.name], f"{prefix}{item.name}"
        if dataclasses.is_dataclass(hint):
            found += entries(cast(Any, hint), f"{key}.")
        else:
            found.append(_entry(item, hint, key, section))
    return tuple(found)


def _entry(item: dataclasses.Field[Any], hint: Any, key: str, section: str) -> Entry:
    about = cast(About, dict(item.metadata))
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    factory = item.default_factory
    return Entry(
        key,
        arguments[-1] if origin is dict else arguments[0] if origin is tuple else hint,
        "table" if origin is dict else "list" if origin is tuple else "one",
        optional,
        item.default if factory is dataclasses.MISSING else factory(),
        about,
        about.get("section", section),
    )


def read_values(kind: type[T], values: Mapping[str, Any], source: str, prefix: str = "") -> T:
    """Build a dataclass of settings from nested values, converting and checking each.

    Parameters
    ----------
    kind : type
        The dataclass.
    values : mapping
        As in a settings file.
    source : str
        Their source, for messages.
    prefix : str
        As for :func:`entries`.

    Raises
    ------
    UsageError
        For an unknown key (the message names the nearest), a missing one, and a value of the
        wrong type or out of range.
    """
    items = {item.name: item for item in dataclasses.fields(cast(Any, kind))}
    known = {entry.key: entry for entry in entries(cast(Any, kind), prefix)}
    for key in values:
        if key not in items:
            import difflib

            (near,) = difflib.get_close_matches(key, items, 1, 0.0)
            raise UsageError(
                f"{source}: unknown key '{prefix}{key}'; the nearest is '{prefix}{near}'."
            )
    missing = [
        entry.name
        for entry in known.values()
        if entry.default is dataclasses.MISSING and entry.name not in values
    ]
    if missing:
        raise UsageError(
            f"Missing: {', '.join(missing)}. Usage: neuroferry BIDS_DIR OUTPUT_DIR participant"
        )
    made: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in known:
            made[name] = known[key].read(value, source)
        elif isinstance(value, Mapping):
            table = typing.get_type_hints(kind)[name]
            made[name] = read_values(table, value, source, f"{key}.")
        else:
            raise UsageError(f"{source}: '{key}' must be a table, not {value!r}.")
    return kind(**made)
