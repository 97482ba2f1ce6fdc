"""Update the files generated from the settings: launcher, settings files, documentation.

``python -m neuroferry.cli.options`` lists the files of a checkout that are out of date;
``--write`` writes them. Each setting is described once, at its field in
:mod:`neuroferry.config`, each exit code in :mod:`neuroferry.errors`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neuroferry.cli.main import COMMANDS, command_parser
from neuroferry.cli.parser import CONFIG_HELP, VERSION_HELP, build_parser, default_text
from neuroferry.config import Config
from neuroferry.errors import ExitCode
from neuroferry.setting import Entry, entries, range_text

ROOT = Path(__file__).resolve().parents[3]
BEGIN = "# --- made by python -m neuroferry.cli.options --write ---"
END = "# --- end ---"
_MADE = "Made from src/neuroferry/{} by python -m neuroferry.cli.options --write"
_INTERNAL = {"job", "steward"}

_LAPTOP = """\
# Settings for a laptop or a workstation: neuroferry --config laptop.toml BIDS OUT participant
# These are the defaults. Every key is optional, those of slurm.toml may be added; flags override
# the file. An unknown key is an error."""
_SLURM = """\
# Settings of SLURM jobs, for a file given with --config; flags such as --slurm-partition override
# it. These are the defaults, and every key is optional."""

_OPTIONS = """\
=======
Options
=======

.. {made}

::

    neuroferry BIDS_DIR OUTPUT_DIR {{participant,group}} [options]

Options are spelt with hyphens or underscores. The key is the name of the setting in a file given
with ``--config``: ``workflow.ignore`` is the key ``ignore`` of the table ``[workflow]``. Flags
override the file, and the file overrides the defaults. ``configs/laptop.toml`` and
``configs/slurm.toml`` hold every setting with its default. See ``docs/functional.rst`` and
``docs/diffusion.rst`` for the workflows, ``docs/planning.rst`` for dry runs and
``docs/cluster.rst`` for SLURM."""
_EXIT_CODES = """\
==========
Exit codes
==========

.. {made}

Codes up to 18 are those of the BIDS execution specification (draft), codes from 64 those of
``sysexits.h``. A run ended by a signal other than Ctrl-C exits with 128 plus the signal number."""


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Generate the files of a checkout that repeat the settings.

    Parameters
    ----------
    root : pathlib.Path
        The checkout.

    Returns
    -------
    dict of pathlib.Path to str
        Their text.
    """
    launcher = root / "containers" / "neuroferry"
    return {
        launcher: with_lists(launcher.read_text(encoding="utf-8")),
        root / "configs" / "laptop.toml": settings_file(
            _LAPTOP, [entry for entry in entries(Config) if not entry.key.startswith("slurm.")]
        ),
        root / "configs" / "slurm.toml": settings_file(
            _SLURM, [entry for entry in entries(Config) if entry.key.startswith("slurm.")]
        ),
        root / "docs" / "options.rst": options_page(),
        root / "docs" / "exit_codes.rst": exit_codes_page(),
    }


# --- the launcher ---


def value_options() -> tuple[list[str], list[str]]:
    """List the options of the BIDS App and of its commands, with one value and with more."""
    one: dict[str, None] = {}  # in order, each once
    more: dict[str, None] = {}
    parsers = [build_parser(), *(parser for _, parser in _command_parsers())]
    for action in (action for parser in parsers for action in parser._actions):
        if action.option_strings and action.nargs is None:
            one |= dict.fromkeys(action.option_strings)
        elif action.option_strings and action.nargs in ("+", "*"):
            more |= dict.fromkeys(action.option_strings)
    return list(one), list(more)


def with_lists(launcher: str) -> str:
    """Insert the lists of options into the text of the launcher, between their two marks."""
    lines = [BEGIN]
    for name, options in zip(("TAKES_ONE", "TAKES_MORE"), value_options(), strict=True):
        # each line begins with the blank that separates the words
        wrapped = _wrap(" ".join(options), " ", 110)
        lines.append(f"readonly {name}='\n{wrapped} '")
    lines.append(END)
    before, _, rest = launcher.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + "\n".join(lines) + after


def _command_parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for name in COMMANDS:
        if name not in _INTERNAL:
            yield name, command_parser(name)[1]


# --- settings files ---


def settings_file(heading: str, settings: Sequence[Entry]) -> str:
    """Write a settings file with every setting, its meaning and its default."""
    lines = [heading, f"# {_MADE.format('config.py')}"]
    tables: dict[str, list[Entry]] = {}
    for entry in settings:
        tables.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    for table, members in tables.items():
        lines += ["", f"[{table}]"] if table else []
        for section, entries_ in _by_section(members):
            if section != members[0].section:
                lines += ["", f"# - {section} -"]
            for entry in entries_:
                lines += ["", *_toml_lines(entry)]
    return "\n".join(lines) + "\n"


def _toml_lines(entry: Entry) -> Iterator[str]:
    text = _meaning(entry)
    if _is_unset(entry) and default_text(entry):
        text += f" Default: {default_text(entry)}."
    yield _wrap(text, "# ", 98)
    for name, meaning in entry.about.get("choices", {}).items():
        yield f"#   {json.dumps(name)}{f': {meaning}' if meaning else ''}"
    if _is_unset(entry) and not isinstance(entry.default, (tuple, str)):
        yield f"# {entry.name} = {_toml(entry.about.get('example'))}"
    else:
        yield f"{entry.name} = {_toml(entry.default)}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)  # the same as TOML for text, numbers, truth values and lists


# --- documentation ---


def options_page() -> str:
    """Write the documentation page with all options."""
    settings = [entry for entry in entries(Config) if not entry.positional]
    parts = [_OPTIONS.format(made=_MADE.format("config.py")), *_heading("Arguments", "=")]
    rows = [
        (_literal(entry.about["metavar"]), _literal(entry.key), _default(entry), _rst(entry))
        for entry in entries(Config)
        if entry.positional
    ]
    rows.append((_literal("--config TOML"), "", "none", _sentence(CONFIG_HELP)))
    rows.append((_literal("--version"), "", "", _sentence(VERSION_HELP)))
    rows.append((_literal("-h, --help"), "", "", "Print all options and exit."))
    parts.append(_table(("Argument", "Key", "Default", "Meaning"), (30, 20, 15, 35), rows))
    for section, members in _by_section(settings):
        parts += _heading(section[0].upper() + section[1:], "=")
        rows = [
            (_flags(entry) or "file only", _literal(entry.key), _default(entry), _rst(entry))
            for entry in members
        ]
        parts.append(_table(("Option", "Key", "Default", "Meaning"), (30, 20, 15, 35), rows))
    parts += _heading("Commands", "=")
    parts.append("A command takes the place of ``BIDS_DIR``: ``neuroferry phantom OUT``.")
    for name, parser in _command_parsers():
        parts += _heading(name, "-")
        parts.append(_markup(parser.description or ""))
        arguments = [
            (_usage(action), _markup((action.help or "").replace("%%", "%")))
            for action in parser._actions
            if action.dest != "help"
        ]
        if arguments:
            parts.append(_table(("Argument", "Meaning"), (40, 60), arguments))
    return "\n\n".join(parts) + "\n"


def exit_codes_page() -> str:
    """Write the documentation page with the exit codes."""
    rows = [(str(int(code)), _literal(code.name), _sentence(code.meaning)) for code in ExitCode]
    table = _table(("Code", "Name", "Meaning"), (10, 25, 65), rows)
    return f"{_EXIT_CODES.format(made=_MADE.format('errors.py'))}\n\n{table}\n"


def _heading(text: str, mark: str) -> list[str]:
    return [f"{text}\n{mark * len(text)}"]


def _table(titles: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1"]
    lines += [f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (titles, *rows):
        for column, cell in enumerate(row):
            mark = "   * -" if column == 0 else "     -"
            lines.append(mark + textwrap.indent(cell, " " * 7)[len(mark) :])
    return "\n".join(lines)


def _flags(entry: Entry) -> str:
    names = [_literal(flag) for flag in (*entry.flags, *entry.about.get("shortcuts", {}))]
    if entry.about.get("metavar") and entry.flags:
        dots = " ..." if entry.shape != "one" and "action" not in entry.about else ""
        names[0] = _literal(f"{entry.flags[0]} {entry.about['metavar']}{dots}")
    return ", ".join(names)


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return _literal(str(action.metavar or action.dest))
    value = action.metavar or "|".join(map(str, action.choices or ()))
    names = list(map(_literal, action.option_strings))
    if action.nargs != 0:
        names[0] = _literal(f"{action.option_strings[0]} {value}{' ...' if action.nargs else ''}")
    return ", ".join(names)


def _rst(entry: Entry) -> str:
    text = _markup(_meaning(entry))
    for flag, value in entry.about.get("shortcuts", {}).items():
        text += f" {_literal(flag)} is the same as {_literal(f'{entry.flag} {value}')}."
    choices = entry.about.get("choices", {})
    for name, meaning in choices.items():
        text += "\n" if name != next(iter(choices)) else "\n\n"
        text += f"* {_literal(name)}{f': {meaning}' if meaning else ''}"
    return text


def _default(entry: Entry) -> str:
    if entry.default is dataclasses.MISSING:
        return ""
    if _is_unset(entry):
        return _markup(default_text(entry)) or "none"
    return _literal(default_text(entry) or _toml(entry.default))


def _meaning(entry: Entry) -> str:
    allowed = range_text(entry.about)
    if allowed == "at least 0":  # goes without saying
        allowed = ""
    return _sentence(entry.about["help"]) + (f" {_sentence(allowed)}" if allowed else "")


def _is_unset(entry: Entry) -> bool:
    return entry.default in (None, (), {}, "") or entry.default is dataclasses.MISSING


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _literal(text: str) -> str:
    return f"``{text}``" if text else ""


def _markup(text: str) -> str:
    """Mark options and file names in a plain text as literals."""
    option = r"--?[a-z][\w-]*(?:=(?:'[^']*'|[\w=-]+))?"
    words = rf"(?<![\w-])({option}|docs/\w+\.rst|[A-Z]+_[A-Z]+(?:-\w+)?)"
    return re.sub(words, r"``\1``", text.replace("``", ""))


def _by_section(settings: Iterable[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    sections: dict[str, list[Entry]] = {}
    for entry in settings:
        sections.setdefault(entry.section, []).append(entry)
    yield from sections.items()


def _wrap(text: str, start: str, width: int) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=start,
        subsequent_indent=start,
        break_on_hyphens=False,
        break_long_words=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """List the files that are out of date, or write them.

    Returns
    -------
    int
        1 if some are out of date and were not written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m neuroferry.cli.options", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="write the files")
    write = parser.parse_args(argv).write
    code = ExitCode.OK
    for path, text in generated().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if write:
            path.write_text(text, encoding="utf-8")  # in place: the launcher stays executable
        else:
            code = ExitCode.STEP_FAILED
        print(f"{path.relative_to(ROOT)} {'written' if write else 'is out of date'}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
