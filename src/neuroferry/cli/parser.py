"""Arguments of the BIDS App, generated from the settings, and their conversion to a ``Config``.

``--help`` is printed before anything is imported that only a run needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroferry.config import Config, make_config, merge
from neuroferry.errors import ExitCode, UsageError
from neuroferry.setting import COMMAND_LINE, Entry, entries, read_values

COMMANDS = """\
commands (instead of BIDS_DIR):
  demo OUT          create a small example dataset and process it completely
  phantom OUT       write a BIDS dataset of digital heads with known ground truth
  launcher          print the launcher, a bash file for the host
  licences          list all packages, their licences, and whether commercial use is allowed
  qc OUT VERB       judge scans: thresholds, ratings, verdicts, drift
  status OUT        show the state of the latest run, on a laptop or a cluster
  resubmit OUT      run failed and skipped steps again, with the same settings
  cancel OUT        cancel a run's jobs
  move, fetch       move a run to another machine, fetch its results (launcher only)
  dask-worker FILE  offer this machine to runs with --plugin Dask
  sbatch-script     print a job script: one job per participant, without planning
Each has its own --help.
"""

# flags that are not settings
CONFIG_HELP = "settings file; flags override it"
VERSION_HELP = "print the version and exit"


class _Parser(argparse.ArgumentParser):
    """Parser whose errors follow ``sysexits.h``, with one line that says what to do."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message[0].upper()}{message[1:]}. See neuroferry --help.")


def normalise(argv: Sequence[str]) -> list[str]:
    """Spell long options with hyphens, whether typed with hyphens or underscores.

    Examples
    --------
    >>> normalise(["--participant_label", "a_b", "--work_dir=x_y"])
    ['--participant-label', 'a_b', '--work-dir=x_y']
    """
    return [re.sub(r"^--[A-Za-z][\w-]*", lambda m: m[0].replace("_", "-"), text) for text in argv]


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the BIDS App.

    The namespace holds only the given values, by the keys of the settings files:
    ``workflow.ignore``.
    """
    codes = "\n".join(f"  {code:<4} {code.meaning}" for code in ExitCode)
    parser = _Parser(
        prog="neuroferry",
        description="BIDS-aware Nipype workflows: the same command on a laptop and on a cluster.",
        epilog=f"{COMMANDS}\nexit codes:\n{codes}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help=VERSION_HELP)
    parser.add_argument("--config", metavar="TOML", help=CONFIG_HELP)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for entry in entries(Config):
        if entry.positional:
            add_setting(parser, entry)
        elif entry.flags:
            if entry.section not in groups:
                groups[entry.section] = parser.add_argument_group(entry.section)
            add_setting(groups[entry.section], entry)
    return parser


def add_setting(group: argparse._ActionsContainer, entry: Entry) -> None:
    """Add the arguments of a setting to a parser or a group of one.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Receives the arguments; values are stored under the key of the setting.
    entry : neuroferry.setting.Entry
        The setting.
    """
    about = entry.about
    options: dict[str, Any] = {"help": help_text(entry).replace("%", "%%")}
    if entry.kind is bool:
        options["action"] = "store_false" if entry.default is True else "store_true"
    elif about.get("action") == "count":
        options["action"] = "count"
    else:
        options["metavar"] = about.get("metavar")
        if entry.kind in (int, float):
            options["type"] = entry.kind
        if about.get("action"):
            options["action"] = about["action"]
        elif entry.positional:
            options["nargs"] = "?"
        elif entry.shape != "one":
            options["nargs"] = "+"
    if entry.positional:
        group.add_argument(entry.key, **options)
        return
    group.add_argument(*entry.flags, dest=entry.key, **options)
    for flag, value in about.get("shortcuts", {}).items():
        group.add_argument(
            flag,
            dest=entry.key,
            action="store_const",
            const=value,
            help=f"the same as {entry.flag} {value}",
        )


def help_text(entry: Entry) -> str:
    """Describe a setting: its meaning, its values and its default.

    Examples
    --------
    >>> help_text(next(e for e in entries(Config) if e.key == "workflow.streamlines"))
    'maximum number of streamlines per bundle; 0: no tractography (default: 1000)'
    """
    text = entry.about["help"]
    if entry.kind is bool:
        return f"do not {text}" if entry.default is True else text
    choices = entry.about.get("choices", {})
    if choices and not entry.positional:
        named = (f"{name} ({meaning})" if meaning else name for name, meaning in choices.items())
        text += f": {', '.join(named)}"
    default = default_text(entry)
    return f"{text} (default: {default})" if default else text


def default_text(entry: Entry) -> str:
    """Describe the default of a setting in words; empty if it is obvious."""
    default = entry.default
    if "unset" in entry.about:
        return entry.about["unset"]
    if default is dataclasses.MISSING or default is None or isinstance(default, bool):
        return ""
    if entry.about.get("action") or isinstance(default, dict):
        return ""
    if isinstance(default, tuple):
        return " ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def parse_config(argv: Sequence[str]) -> Config:
    """Convert arguments to settings.

    Raises
    ------
    UsageError
        For arguments that are unknown, missing or contradict each other.
    """
    argv = normalise(argv)
    for option in ("--use-syn-sdc", "--force-syn"):
        if any(text.partition("=")[0] == option for text in argv):
            raise UsageError(
                f"{option} is not supported: none of the fieldmap-less methods we tested reduced "
                f"distortion reliably (docs/functional.rst). Remove the option; runs without a "
                "field map are processed without distortion correction."
            )
    values = vars(build_parser().parse_args(argv))
    from neuroferry.files import read_toml

    path = values.pop("config", None)
    settings = merge(_templateflow_home(os.environ), read_toml(Path(path)) if path else {})
    if path:
        folders = {"bids_dir": ".", "output_dir": "."}
        read_values(Config, merge(folders, settings), f"The settings file {path}")
    return make_config(merge(settings, _nest(values)), source=COMMAND_LINE)


def _templateflow_home(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the user's TemplateFlow folder from the environment, as settings.

    Examples
    --------
    >>> _templateflow_home({"TEMPLATEFLOW_HOME": "/"})
    {'input': {'templateflow_home': '/'}}
    >>> _templateflow_home({"TEMPLATEFLOW_HOME": "/tmp/cache/templateflow",
    ...                     "NEUROFERRY_CACHE": "/tmp/cache"})
    {}
    """
    home = environment.get("TEMPLATEFLOW_HOME", "")
    # in the image, libraries have their own folder there
    own = Path(environment.get("NEUROFERRY_CACHE", "/")) / "templateflow"
    if not home or Path(home) == own or not Path(home).is_dir():
        return {}
    return {"input": {"templateflow_home": str(Path(home).absolute())}}


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sort flags into the tables of a settings file, with absolute paths."""
    known = {entry.key: entry for entry in entries(Config)}
    nested: dict[str, Any] = {}
    for key, value in values.items():
        entry = known[key]
        if entry.shape == "table":
            value = dict(_named_path(text, entry) for text in value)
        elif entry.kind is Path:
            value = _absolute(value)
        table, _, name = key.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[name] = value
    return nested


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as err:
        user = path.partition("/")[0]
        raise UsageError(f"{path} cannot be resolved: there is no user {user}.") from err


def _named_path(text: str, entry: Entry) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UsageError(f"{entry.flag} takes NAME=PATH, such as anat=/data/x, not '{text}'.")
    return name, _absolute(path)
