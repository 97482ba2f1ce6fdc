"""The arguments of the BIDS App, and how they become a ``Config``."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from neuroferry.config import (
    IGNORABLE,
    LEVELS,
    PACKINGS,
    PLUGINS,
    WORKFLOWS,
    Config,
    make_config,
    merge,
)
from neuroferry.errors import UsageError
from neuroferry.files import read_toml

_INPUT = {
    "participant_label",
    "session_label",
    "task_id",
    "echo_idx",
    "bids_filter_file",
    "bids_database_dir",
    "derivatives",
    "templateflow_home",
    "skip_bids_validation",
}
_WORKFLOW = {
    "workflows",
    "output_spaces",
    "average_t1w",
    "ignore",
    "dummy_scans",
    "slice_time_ref",
    "fd_spike_threshold",
    "dvars_spike_threshold",
    "b0_threshold",
    "fix_gradients",
    "streamlines",
    "bundles",
    "profile_extent",
    "sloppy",
    "random_seed",
}
_TOP = {"bids_dir", "output_dir", "level"}
_PATHS = (
    *("bids_dir", "output_dir", "work_dir"),
    *("bids_filter_file", "bids_database_dir", "templateflow_home", "bundles"),
)

EPILOG = """\
commands (instead of BIDS_DIR):
  demo OUT          make a small example dataset and run everything on it
  phantom OUT       write digital brains with a known truth as a BIDS dataset
  launcher          print the host launcher, one bash file
  status OUT        how the latest run fares, on a laptop or a cluster alike
  resubmit OUT      run again what failed, with the same settings
  cancel OUT        take a run's jobs out of the queue
  move, fetch       take a run to another machine, its results home (the launcher's own)
  dask-worker FILE  offer this machine to runs with --plugin Dask
  sbatch-script     print a job script: one job a participant, without any planning
Each has its own --help.

exit codes:
  0 all went well; 1 a step or a participant failed; 16 not a BIDS dataset; 17 unknown level;
  18 nothing matched; 64 wrong arguments; 65 unusable data; 66 input missing; 73 output cannot
  be created; 74 disk or file error; 75 try again later; 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """Ends as ``sysexits.h`` says, with one line that says what to do."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message[0].upper()}{message[1:]}. See neuroferry --help.")


def normalise(argv: Sequence[str]) -> list[str]:
    """Spell long options with hyphens, however they were typed.

    Examples
    --------
    >>> normalise(["--participant_label", "a_b", "--work_dir=x_y"])
    ['--participant-label', 'a_b', '--work-dir=x_y']
    """
    return [re.sub(r"^--[A-Za-z][\w-]*", lambda m: m[0].replace("_", "-"), text) for text in argv]


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the BIDS App; only what was given ends in the namespace."""
    parser = _Parser(
        prog="neuroferry",
        description="BIDS-aware Nipype workflows: the same command on a laptop and on a cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", nargs="?", metavar="BIDS_DIR", help="dataset to read")
    parser.add_argument("output_dir", nargs="?", metavar="OUTPUT_DIR", help="derivatives go here")
    parser.add_argument(
        "level", nargs="?", metavar="{" + ",".join(LEVELS) + "}", help="level of the analysis"
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    _add_input(parser.add_argument_group("what is read"))
    _add_workflow(parser.add_argument_group("what is computed"))
    _add_execution(parser.add_argument_group("how it runs"))
    _add_slurm(parser.add_argument_group("how it is submitted (--plugin SLURMGraph)"))
    return parser


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--participant-label",
        nargs="+",
        metavar="LABEL",
        help="participants, with or without 'sub-' (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session-id",
        nargs="+",
        metavar="LABEL",
        help="sessions, with or without 'ses-' (default: all)",
    )
    group.add_argument(
        "-t",
        "--task-id",
        nargs="+",
        metavar="LABEL",
        help="tasks of the BOLD runs, with or without 'task-' (default: all)",
    )
    group.add_argument(
        "--echo-idx", type=int, metavar="N", help="of runs with several echoes, this one alone"
    )
    group.add_argument("--bids-filter-file", metavar="JSON", help="narrow the search for files")
    group.add_argument("--bids-database-dir", metavar="DIR", help="keep the pybids index here")
    group.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        metavar="NAME=PATH",
        help="precomputed results that replace their part of the graph",
    )
    group.add_argument(
        "--templateflow-home",
        metavar="DIR",
        help="your templates of TemplateFlow, for --output-spaces (default: the variable"
        " TEMPLATEFLOW_HOME)",
    )
    group.add_argument(
        "--skip-bids-validation", action="store_true", help="do not run the BIDS validator"
    )


def _add_workflow(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workflows",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(WORKFLOWS)} (default: all that the data allow)",
    )
    group.add_argument(
        "--output-spaces",
        nargs="+",
        metavar="SPACE",
        help="MNI152NLin2009aSym[:res-N], T1w, bold, or a template of your folder of TemplateFlow,"
        " such as MNI152NLin2009cAsym:res-2 (default: MNI152NLin2009aSym); of DWI runs T1w alone"
        " counts, beside their own",
    )
    group.add_argument(
        "--no-average-t1w",
        dest="average_t1w",
        action="store_false",
        help="use the first T1w of a session instead of the average of all",
    )
    _add_func(group)
    _add_dwi(group)
    group.add_argument("--sloppy", action="store_true", help="fast and of low quality, for tests")
    group.add_argument(
        "--random-seed", type=int, metavar="N", help="seed of all random numbers (default: 1)"
    )


def _add_func(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ignore",
        nargs="+",
        metavar="STEP",
        help=f"BOLD and DWI: leave out, of {', '.join(IGNORABLE)}",
    )
    group.add_argument(
        "--dummy-scans",
        type=int,
        metavar="N",
        help="BOLD: volumes before the steady state (default: found)",
    )
    group.add_argument(
        "--slice-time-ref",
        type=float,
        metavar="N",
        help="BOLD: moment that slices are shifted to, 0 to 1 (default: 0.5, the middle)",
    )
    group.add_argument(
        "--fd-spike-threshold",
        type=float,
        metavar="MM",
        help="BOLD: framewise displacement above which a volume is marked (default: 0.5)",
    )
    group.add_argument(
        "--dvars-spike-threshold",
        type=float,
        metavar="N",
        help="BOLD: standardised DVARS above which a volume is marked (default: 1.5)",
    )


def _add_dwi(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--b0-threshold",
        type=float,
        metavar="B",
        help="DWI: b-value up to which a volume counts as b0, s/mm2 (default: 50)",
    )
    group.add_argument(
        "--fix-gradients",
        action="store_true",
        help="DWI: correct gradients whose axes are flipped or exchanged (default: only say it)",
    )
    group.add_argument(
        "--streamlines",
        type=int,
        metavar="N",
        help="DWI: streamlines of each bundle, at most (default: 1000; 0: no tractography)",
    )
    group.add_argument(
        "--bundles",
        metavar="TOML",
        help="DWI: your own definitions of bundles (default: the program's; docs/bundles.rst)",
    )
    group.add_argument(
        "--profile-extent",
        metavar="EXTENT",
        help="DWI: profiles along bundles run between their first and last way-point (waypoints,"
        " the default) or over whole streamlines (whole)",
    )


def _add_execution(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config", metavar="TOML", help="settings; flags go over them")
    group.add_argument(
        "-w",
        "--work-dir",
        metavar="DIR",
        help="intermediate results (default: OUTPUT_DIR-work)",
    )
    group.add_argument(
        "--plugin", "--use-plugin", metavar="NAME", help=f"{', '.join(PLUGINS)} (default: first)"
    )
    group.add_argument(
        "--nprocs", "--nthreads", type=int, metavar="N", help="processors (default: all allowed)"
    )
    group.add_argument("--omp-nthreads", type=int, metavar="N", help="processors for one step")
    group.add_argument(
        "--mem", "--mem-gb", metavar="AMOUNT", help="memory with its unit, such as 8GB or 8000MB"
    )
    group.add_argument(
        "--stop-on-first-crash", action="store_true", help="start nothing more after a failure"
    )
    group.add_argument(
        "--finished-work",
        metavar="WAY",
        help="intermediate results of a participant whose last step is done: keep (the default),"
        " pack into one file, or remove; what failed stays",
    )
    group.add_argument(
        "--clean-workdir",
        dest="finished_work",
        action="store_const",
        const="remove",
        help="the same as --finished-work remove",
    )
    group.add_argument(
        "--write-graph", action="store_true", help="draw the graph into the log folder"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the run will take and whether this machine can do it; run nothing",
    )
    group.add_argument(
        "--dask-scheduler",
        metavar="ADDRESS|FILE",
        help="with --plugin Dask: a scheduler that is there (default: one on this machine)",
    )
    group.add_argument(
        "--stall-minutes",
        type=float,
        metavar="N",
        help="a step that used no processor time for so long has failed (default: 60; 0: never)",
    )
    group.add_argument(
        "--reports-only", action="store_true", help="write the reports of the last run anew"
    )
    group.add_argument(
        "-v", dest="verbose", action="count", help="say more; -vv for every step's output"
    )


def _add_slurm(group: argparse._ArgumentGroup) -> None:
    for name in ("account", "partition", "qos", "constraint"):
        group.add_argument(f"--slurm-{name}", metavar="NAME", help="as for sbatch")
    group.add_argument(
        "--slurm-extra", action="append", metavar="OPTION", help="one more option for sbatch"
    )
    group.add_argument(
        "--slurm-prolog", action="append", metavar="LINE", help="a line that each job starts with"
    )
    group.add_argument(
        "--slurm-packing",
        metavar="WAY",
        help=f"what shares a job: {', '.join(PACKINGS)} (default: chain)",
    )


def parse_config(argv: Sequence[str]) -> Config:
    """Turn arguments into settings.

    Raises
    ------
    UsageError
        For arguments that are unknown, missing or contradict each other.
    """
    argv = normalise(argv)
    for option in ("--use-syn-sdc", "--force-syn"):
        if any(text.partition("=")[0] == option for text in argv):
            raise UsageError(
                f"{option} is not there: every way to correct distortion without a field map that "
                "was tried took too little of it off, or added to it (docs/functional.rst has the "
                f"figures). Leave {option} away; the runs are processed without that correction."
            )
    values = vars(build_parser().parse_args(argv))
    path = values.pop("config", None)
    settings = merge(
        slurm_defaults(), _templateflow_home(os.environ), read_toml(Path(path)) if path else {}
    )
    flags = _nest(values)
    if path:
        folders = {"bids_dir": ".", "output_dir": "."}
        make_config(merge(folders, settings), source=f"The settings file {path}")
    return make_config(merge(settings, flags), source="The command line")


def _templateflow_home(environment: Mapping[str, str]) -> dict[str, Any]:
    """Take the user's folder of templates from the environment, as settings.

    Examples
    --------
    >>> _templateflow_home({"TEMPLATEFLOW_HOME": "/"})
    {'input': {'templateflow_home': '/'}}
    >>> _templateflow_home({"TEMPLATEFLOW_HOME": "/tmp/cache/templateflow",
    ...                     "NEUROFERRY_CACHE": "/tmp/cache"})
    {}
    """
    home = environment.get("TEMPLATEFLOW_HOME", "")
    # the image gives libraries a folder of its own there
    own = Path(environment.get("NEUROFERRY_CACHE", "/")) / "templateflow"
    if not home or Path(home) == own or not Path(home).is_dir():
        return {}
    return {"input": {"templateflow_home": str(Path(home).absolute())}}


def slurm_defaults() -> dict[str, Any]:
    """Read the section ``[slurm]`` that comes with the program."""
    text = resources.files("neuroferry.configs").joinpath("slurm.toml").read_text("utf-8")
    return tomllib.loads(text)


def _nest(values: dict[str, Any]) -> dict[str, Any]:
    """Sort flags into the sections of the settings, and tidy their values."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if key in _PATHS:
            value = str(Path(value).expanduser().absolute())
        elif key == "participant_label":
            value = [_without(label, "sub-") for label in value]
        elif key == "session_label":
            value = [_without(label, "ses-") for label in value]
        elif key == "task_id":
            value = [_without(label, "task-") for label in value]
        elif key == "derivatives":
            value = dict(_named_path(text) for text in value)
        if key in _TOP:
            nested[key] = value
        elif key.startswith("slurm_"):
            nested.setdefault("slurm", {})[key.removeprefix("slurm_")] = value
        else:
            section = "input" if key in _INPUT else "workflow" if key in _WORKFLOW else "execution"
            nested.setdefault(section, {})[key] = value
    return nested


def _without(label: str, prefix: str) -> str:
    return label.removeprefix(prefix)


def _named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UsageError(f"--derivatives takes NAME=PATH, such as anat=/data/x, not '{text}'.")
    return name, str(Path(path).expanduser().absolute())
