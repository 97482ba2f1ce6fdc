"""The settings of a run, as values that can be printed, written and read again.

They come from the defaults, then a TOML file, then the flags of the command line, each over
the one before. The settings that a run was started with are written beside its record, and
are enough to run it again: ``neuroferry --config <out>/logs/<run>/config.toml``.

Each field says all that is known of its setting (:mod:`neuroferry.setting`). After a change,
``python -m neuroferry.cli.options --write`` brings the launcher, the settings files and the
documentation up to date.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from neuroferry.errors import ExitCode, UsageError
from neuroferry.setting import read_values, required, setting

LEVELS = {
    "participant": "process the participants",
    "group": "write the overview and the table of quality metrics again",
}
_WORKFLOWS = {
    "anat": "T1w images",
    "func": "BOLD runs",
    "dwi": "DWI runs",
    "qc": "image quality metrics",
}
WORKFLOWS = tuple(_WORKFLOWS)
PACKINGS = {
    "node": "each step a job of its own",
    "chain": "chains of steps, and small steps with what they depend on",
    "subject": "all steps of a participant",
}
PROFILE_EXTENTS = {
    "waypoints": "from the first way-point to the last",
    "whole": "along whole streamlines",
}
FINISHED_WORK = {"keep": "", "pack": "into one file", "remove": ""}
PLUGINS = {
    "MultiProc": "processes on this machine",
    "Linear": "one step after the other, for debugging",
    "Dask": "a Dask cluster",
    "SLURMGraph": "SLURM jobs",
    "auto": "SLURMGraph where there is sbatch, MultiProc elsewhere",
}

BOLD, DWI = "BOLD runs", "DWI runs"


@dataclass(frozen=True)
class IgnorableStep:
    """A step that can be left out.

    Attributes
    ----------
    modalities : tuple of str
        ``BOLD``, ``DWI``: runs that have the step.
    leaves_out : str
        The processing that is left out.
    """

    modalities: tuple[str, ...]
    leaves_out: str


IGNORABLE = {
    "fieldmaps": IgnorableStep(("BOLD", "DWI"), "correction of susceptibility distortion"),
    "slicetiming": IgnorableStep(("BOLD",), "slice timing correction"),
    "sbref": IgnorableStep(("BOLD",), "single-band references"),
    "fmap-jacobian": IgnorableStep(
        ("BOLD", "DWI"), "scaling of intensities by the distortion's Jacobian"
    ),
    "denoising": IgnorableStep(("DWI",), "denoising, and the noise floor with it"),
    "unringing": IgnorableStep(("DWI",), "removal of Gibbs ringing"),
    "rician": IgnorableStep(("DWI",), "correction of the Rician noise floor"),
    "eddy": IgnorableStep(("DWI",), "correction of eddy currents; that of head motion stays"),
    "slice-replacement": IgnorableStep(("DWI",), "replacement of slices with signal dropout"),
    "b0-bias": IgnorableStep(("DWI",), "correction of the bias field"),
    "dwi-joining": IgnorableStep(("DWI",), "joining of a session's runs in T1w space"),
}


@dataclass(frozen=True)
class InputConfig:
    """Settings of the input."""

    SECTION: ClassVar[str] = "input"

    participant_label: tuple[str, ...] = setting(
        (),
        help="participants, with or without 'sub-'",
        metavar="LABEL",
        prefix="sub-",
        unset="all",
    )
    session_label: tuple[str, ...] = setting(
        (),
        help="sessions, with or without 'ses-'",
        flags=("--session-label", "--session-id"),
        metavar="LABEL",
        prefix="ses-",
        unset="all",
    )
    task_id: tuple[str, ...] = setting(
        (),
        help="tasks of the BOLD runs, with or without 'task-'",
        flags=("-t", "--task-id"),
        metavar="LABEL",
        prefix="task-",
        unset="all",
    )
    echo_idx: int | None = setting(
        None,
        help="of multi-echo BOLD runs, use this echo alone, counted from 1",
        metavar="N",
        minimum=1,
        unset="combine all echoes",
        example=2,
    )
    bids_filter_file: Path | None = setting(
        None,
        help="JSON file that narrows the search for each kind of image, as in fMRIPrep",
        metavar="JSON",
        example="filters.json",
    )
    bids_database_dir: Path | None = setting(
        None, help="folder to keep the pybids index in", metavar="DIR", example="/scratch/index"
    )
    derivatives: dict[str, Path] = setting(
        {},
        help="precomputed derivative datasets by name; the steps whose results they hold are not"
        " computed",
        flags=("-d", "--derivatives"),
        metavar="NAME=PATH",
        example={"mine": "/data/derivatives/mine"},
    )
    templateflow_home: Path | None = setting(
        None,
        help="folder with your templates of TemplateFlow, for --output-spaces",
        metavar="DIR",
        unset="the variable TEMPLATEFLOW_HOME",
        example="/data/templateflow",
    )
    skip_bids_validation: bool = setting(False, help="do not run the BIDS validator")


@dataclass(frozen=True)
class WorkflowConfig:
    """Settings of the processing."""

    SECTION: ClassVar[str] = "processing"

    workflows: tuple[str, ...] = setting(
        (),
        help="workflows to run; each computes what it needs of the others",
        metavar="NAME",
        choices=_WORKFLOWS,
        unset="all that the data allow",
    )
    output_spaces: tuple[str, ...] = setting(
        ("MNI152NLin2009aSym",),
        help="spaces to resample to: MNI152NLin2009aSym[:res-N], T1w, bold, or a template of your"
        " TemplateFlow folder, such as MNI152NLin2009cAsym:res-2 (DWI: only T1w is used, in"
        " addition to native space)",
        metavar="SPACE",
    )
    average_t1w: bool = setting(
        True, help="average the T1w images of a session (without averaging, the first is used)"
    )
    ignore: tuple[str, ...] = setting(
        (),
        help="steps to leave out",
        metavar="STEP",
        choices={
            name: f"{' and '.join(step.modalities)}: {step.leaves_out}"
            for name, step in IGNORABLE.items()
        },
        unset="none",
    )
    dummy_scans: int | None = setting(
        None,
        help="volumes before the steady state",
        section=BOLD,
        metavar="N",
        minimum=0,
        unset="found from the global signal",
        example=0,
    )
    slice_time_ref: float = setting(
        0.5,
        help="moment that slices are shifted to, as a fraction of the time from the first slice"
        " (0) to the last (1)",
        section=BOLD,
        metavar="N",
        minimum=0,
        maximum=1,
    )
    fd_spike_threshold: float = setting(
        0.5,
        help="framewise displacement in mm above which a volume is marked as an outlier",
        section=BOLD,
        metavar="MM",
        above=0,
    )
    dvars_spike_threshold: float = setting(
        1.5,
        help="standardised DVARS above which a volume is marked as an outlier",
        section=BOLD,
        metavar="N",
        above=0,
    )
    b0_threshold: float = setting(
        50.0,
        help="highest b-value, in s/mm2, of a volume that counts as b0",
        section=DWI,
        metavar="B",
        minimum=0,
    )
    fix_gradients: bool = setting(
        False,
        help="correct gradients whose axes are flipped or exchanged; by default they are only"
        " reported",
        section=DWI,
    )
    streamlines: int = setting(
        1000,
        help="streamlines of each bundle, at most; 0: no tractography",
        section=DWI,
        metavar="N",
        minimum=0,
    )
    bundles: Path | None = setting(
        None,
        help="TOML file with your own definitions of bundles (docs/bundles.rst)",
        section=DWI,
        metavar="TOML",
        unset="those of neuroferry",
        example="bundles.toml",
    )
    profile_extent: str = setting(
        "waypoints",
        help="extent of the profiles along bundles",
        section=DWI,
        metavar="EXTENT",
        choices=PROFILE_EXTENTS,
    )
    sloppy: bool = setting(False, help="fast processing of low quality, for tests")
    random_seed: int = setting(1, help="seed of all random numbers", metavar="N", minimum=1)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Workflows that participants are taken through: those asked for, or all."""
        return self.workflows or WORKFLOWS


@dataclass(frozen=True)
class ExecutionConfig:
    """Settings of the execution."""

    SECTION: ClassVar[str] = "execution"

    work_dir: Path | None = setting(
        None,
        help="folder of the intermediate results; with the same folder finished steps are not run"
        " again",
        flags=("-w", "--work-dir"),
        metavar="DIR",
        unset="OUTPUT_DIR-work",
        example="/scratch/work",
    )
    plugin: str = setting(
        "MultiProc",
        help="where and how the steps run",
        flags=("--plugin", "--use-plugin"),
        metavar="NAME",
        choices=PLUGINS,
    )
    nprocs: int | None = setting(
        None,
        help="processors in all, at most",
        flags=("--nprocs", "--nthreads"),
        metavar="N",
        minimum=1,
        unset="all that the process may use",
        example=4,
    )
    omp_nthreads: int | None = setting(
        None,
        help="processors of one step, at most",
        metavar="N",
        minimum=1,
        unset="as many as in all",
        example=2,
    )
    mem: str | None = setting(
        None,
        help="memory in all, at most, with its unit, such as 8GB or 8000MB",
        flags=("--mem", "--mem-gb"),
        metavar="AMOUNT",
        unset="90% of what the process may use",
        example="8GB",
    )
    stop_on_first_crash: bool = setting(False, help="start nothing more once a step has failed")
    finished_work: str = setting(
        "keep",
        help="treatment of a participant's intermediate results once the last step is done; those"
        " of failed participants stay",
        metavar="WAY",
        choices=FINISHED_WORK,
        shortcuts={"--clean-workdir": "remove"},
    )
    write_graph: bool = setting(False, help="draw the graph into the log folder")
    reports_only: bool = setting(False, help="only write the reports of the last run again")
    dry_run: bool = setting(
        False, help="report what the run will take and whether this machine can do it; run nothing"
    )
    json: bool = setting(False, help="with --dry-run: print the plan as JSON")
    dask_scheduler: str | None = setting(
        None,
        help="with --plugin Dask: address of a running scheduler, or the file that it wrote",
        metavar="ADDRESS|FILE",
        unset="a cluster on this machine",
        example="tcp://node1:8786",
    )
    stall_minutes: float = setting(
        60.0,
        help="a step that used no processor time for so long has failed; 0: never",
        metavar="N",
        minimum=0,
    )
    verbose: int = setting(
        0,
        help="print more; -vv prints every step's output",
        flags=("-v",),
        action="count",
        minimum=0,
    )


@dataclass(frozen=True)
class SlurmConfig:
    """Settings of SLURM jobs."""

    SECTION: ClassVar[str] = "SLURM jobs (--plugin SLURMGraph)"

    account: str = setting(
        "",
        help="account, as for sbatch",
        flags=("--slurm-account",),
        metavar="NAME",
        unset="left to the site",
    )
    partition: str = setting(
        "",
        help="partition, as for sbatch",
        flags=("--slurm-partition",),
        metavar="NAME",
        unset="left to the site",
    )
    qos: str = setting(
        "",
        help="quality of service, as for sbatch",
        flags=("--slurm-qos",),
        metavar="NAME",
        unset="left to the site",
    )
    constraint: str = setting(
        "",
        help="features of the nodes, as for sbatch",
        flags=("--slurm-constraint",),
        metavar="NAME",
        unset="left to the site",
    )
    extra: tuple[str, ...] = setting(
        (),
        help="more options for sbatch, such as --reservation=mine",
        flags=("--slurm-extra",),
        metavar="OPTION",
        action="append",
    )
    prolog: tuple[str, ...] = setting(
        (),
        help="lines of shell that each job starts with, such as 'module load apptainer'",
        flags=("--slurm-prolog",),
        metavar="LINE",
        action="append",
    )
    packing: str = setting(
        "chain",
        help="steps that share a job",
        flags=("--slurm-packing",),
        metavar="WAY",
        choices=PACKINGS,
    )
    small_gb: float = setting(
        0.5,
        help="most memory, in GB, of a small step; it also uses one processor and ends within"
        " small_minutes",
        flags=(),
        minimum=0,
    )
    small_minutes: float = setting(
        10.0,
        help="longest expected time of a small step, and of the small steps that share a job,"
        " together",
        flags=(),
        minimum=0,
    )
    default_minutes: int = setting(
        60,
        help="expected time of a step that is not small and was never measured",
        flags=(),
        minimum=0,
    )
    mem_margin: float = setting(
        0.2, help="memory to ask for above the estimate; 0.2: a fifth more", flags=(), minimum=0
    )
    mem_overhead_gb: float = setting(
        0.6, help="memory of each job beside its largest step, in GB", flags=(), minimum=0
    )
    time_margin: float = setting(
        1.0, help="time to ask for above the estimate; 1: as much again", flags=(), minimum=0
    )
    retries: int = setting(
        2,
        help="how often a job that ran out of memory or time, or whose node died, is run again,"
        " with twice as much, and how often one that SLURM could not start is released",
        flags=(),
        minimum=0,
    )
    watch_minutes: int = setting(
        30,
        help="how often a small job looks for jobs that SLURM could not start; 0: never",
        flags=(),
        minimum=0,
    )
    max_mem: str = setting(
        "", help="most memory to ask for, with its unit, such as 180GB", flags=(), unset="no limit"
    )
    max_minutes: int = setting(0, help="longest time to ask for; 0: no limit", flags=(), minimum=0)
    tasks_at_once: int = setting(
        0,
        help="most tasks of one job array that run at the same time; 0: no limit",
        flags=(),
        minimum=0,
    )
    max_array_size: int = setting(
        0, help="the site's limit on array indices; 0: ask scontrol", flags=(), minimum=0
    )
    max_submitted: int = setting(
        0, help="the site's limit on jobs in the queue; 0: ask scontrol", flags=(), minimum=0
    )


@dataclass(frozen=True)
class Config:
    """All settings that a run is started with."""

    bids_dir: Path = required(help="dataset to read", metavar="BIDS_DIR", example="/data/bids")
    output_dir: Path = required(
        help="folder for the derivatives", metavar="OUTPUT_DIR", example="/data/derivatives"
    )
    level: str = setting(
        "participant",
        help="level of the analysis",
        metavar="{" + ",".join(LEVELS) + "}",
        choices=LEVELS,
        exit_code=ExitCode.UNKNOWN_LEVEL,
    )
    input: InputConfig = field(default_factory=InputConfig)
    workflow: WorkflowConfig = field(default_factory=WorkflowConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    @property
    def work_dir(self) -> Path:
        """Folder of the intermediate results."""
        if self.execution.work_dir is not None:
            return self.execution.work_dir
        return self.output_dir.parent / f"{self.output_dir.name}-work"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested settings over each other, the last on top.

    Examples
    --------
    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                merged[key] = merge(merged[key], value)
            else:
                merged[key] = value
    return merged


def make_config(values: Mapping[str, Any], *, source: str = "The settings") -> Config:
    """Check settings and make them a ``Config``.

    Parameters
    ----------
    values : mapping
        Nested as the TOML file is.
    source : str
        Where they come from, for messages.

    Raises
    ------
    UsageError
        For an unknown key (the message names the nearest), a value of the wrong type or out
        of range, a missing folder argument, and settings that contradict each other.
    """
    config = read_values(Config, values, source)
    if config.execution.json and not config.execution.dry_run:
        raise UsageError("--json prints the plan of a dry run as JSON: give --dry-run as well.")
    return config


def make_slurm_config(values: Mapping[str, Any], *, source: str = "The settings") -> SlurmConfig:
    """Check settings for SLURM and make them a ``SlurmConfig``.

    Raises
    ------
    UsageError
        As for :func:`make_config`.
    """
    return read_values(SlurmConfig, values, source, "slurm.")


def write_config(config: Config) -> str:
    """Give a ``Config`` as TOML that ``read_toml`` and ``make_config`` read again."""
    import tomli_w

    return tomli_w.dumps(_plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
