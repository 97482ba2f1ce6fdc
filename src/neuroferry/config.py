"""Settings of a run, as values that can be printed, written and read back.

Defaults come first, then a TOML file, then command-line flags; each overrides the one before.
The settings of a run are written beside its record and suffice to repeat it:
``neuroferry --config <out>/logs/<run>/config.toml``.

Each field describes its setting completely (:mod:`neuroferry.setting`). After a change,
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
    "group": "rewrite the overview and the table of quality metrics",
}
_WORKFLOWS = {
    "anat": "T1w images, and T2w images in their space",
    "func": "BOLD runs",
    "dwi": "DWI runs",
    "qc": "image quality metrics of all of these",
}
WORKFLOWS = tuple(_WORKFLOWS)
MODALITIES = {
    "T1w": "T1-weighted images",
    "T2w": "T2-weighted images",
    "bold": "BOLD runs",
    "dwi": "DWI runs",
}
PACKINGS = {
    "node": "one job per step",
    "chain": "chains of steps, and small steps with the steps that they depend on",
    "subject": "all steps of a participant",
}
PROFILE_EXTENTS = {
    "waypoints": "from the first waypoint to the last",
    "whole": "along whole streamlines",
}
FINISHED_WORK = {"keep": "", "pack": "archive in one file", "remove": ""}
PLUGINS = {
    "MultiProc": "processes on this machine",
    "Linear": "one step at a time, for debugging",
    "Dask": "a Dask cluster",
    "SLURMGraph": "SLURM jobs",
    "auto": "SLURMGraph if sbatch is available, otherwise MultiProc",
}

# Sections of ``--help`` for settings of one modality.
BOLD, DWI = "BOLD runs", "DWI runs"


@dataclass(frozen=True)
class IgnorableStep:
    """A step that can be skipped.

    Attributes
    ----------
    modalities : tuple of str
        Modalities that have the step: the texts ``"T2w"``, ``"BOLD"``, ``"DWI"``.
    leaves_out : str
        Processing that is skipped.
    """

    modalities: tuple[str, ...]
    leaves_out: str


IGNORABLE = {
    "t2w": IgnorableStep(("T2w",), "alignment with the T1w image"),
    "fieldmaps": IgnorableStep(("BOLD", "DWI"), "susceptibility distortion correction"),
    "slicetiming": IgnorableStep(("BOLD",), "slice-timing correction"),
    "sbref": IgnorableStep(("BOLD",), "single-band references"),
    "fmap-jacobian": IgnorableStep(
        ("BOLD", "DWI"), "Jacobian intensity modulation in distortion correction"
    ),
    "denoising": IgnorableStep(("DWI",), "denoising, and with it noise-floor correction"),
    "unringing": IgnorableStep(("DWI",), "removal of Gibbs ringing"),
    "rician": IgnorableStep(("DWI",), "correction of the Rician noise floor"),
    "eddy": IgnorableStep(("DWI",), "eddy-current correction (head motion is still corrected)"),
    "slice-replacement": IgnorableStep(("DWI",), "replacement of slices with signal dropout"),
    "b0-bias": IgnorableStep(("DWI",), "bias field correction"),
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
        help="use only this echo of multi-echo BOLD runs, counted from 1",
        metavar="N",
        minimum=1,
        unset="combine all echoes",
        example=2,
    )
    bids_filter_file: Path | None = setting(
        None,
        help="JSON file with filters for each kind of image, as in fMRIPrep",
        metavar="JSON",
        example="filters.json",
    )
    bids_database_dir: Path | None = setting(
        None,
        help="folder to keep pybids' index of the dataset in, for other programs; it is made"
        " again when images of the participants have changed",
        metavar="DIR",
        example="/scratch/index",
    )
    derivatives: dict[str, Path] = setting(
        {},
        help="precomputed derivative datasets, by name; results found there are not computed"
        " again",
        flags=("-d", "--derivatives"),
        metavar="NAME=PATH",
        example={"mine": "/data/derivatives/mine"},
    )
    templateflow_home: Path | None = setting(
        None,
        help="your TemplateFlow folder, for --output-spaces",
        metavar="DIR",
        unset="the environment variable TEMPLATEFLOW_HOME",
        example="/data/templateflow",
    )
    skip_bids_validation: bool = setting(False, help="do not run the BIDS validator")


@dataclass(frozen=True)
class WorkflowConfig:
    """Settings of the processing."""

    SECTION: ClassVar[str] = "processing"

    workflows: tuple[str, ...] = setting(
        (),
        help="workflows to run; each also runs the parts of the others that it needs",
        metavar="NAME",
        choices=_WORKFLOWS,
        unset="all that the data allow",
    )
    modalities: tuple[str, ...] = setting(
        (),
        help="kinds of images whose quality is measured",
        flags=("-m", "--modalities"),
        metavar="NAME",
        choices=MODALITIES,
        unset="all",
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
        help="steps to skip",
        metavar="STEP",
        choices={
            name: f"{' and '.join(step.modalities)}: {step.leaves_out}"
            for name, step in IGNORABLE.items()
        },
        unset="none",
    )
    dummy_scans: int | None = setting(
        None,
        help="non-steady-state volumes at the start of a run",
        section=BOLD,
        metavar="N",
        minimum=0,
        unset="detected from the global signal",
        example=0,
    )
    slice_time_ref: float = setting(
        0.5,
        help="reference time of slice-timing correction, from the first slice (0) to the last (1)",
        section=BOLD,
        metavar="N",
        minimum=0,
        maximum=1,
    )
    fd_spike_threshold: float = setting(
        0.5,
        help="framewise displacement (mm) above which a volume is marked as an outlier",
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
        help="highest b-value (s/mm2) of a b0 volume",
        section=DWI,
        metavar="B",
        minimum=0,
    )
    fix_gradients: bool = setting(
        False,
        help="correct gradients with flipped or swapped axes; by default they are only reported",
        section=DWI,
    )
    streamlines: int = setting(
        1000,
        help="maximum number of streamlines per bundle; 0: no tractography",
        section=DWI,
        metavar="N",
        minimum=0,
    )
    bundles: Path | None = setting(
        None,
        help="TOML file with your own bundle definitions (docs/bundles.rst)",
        section=DWI,
        metavar="TOML",
        unset="the built-in definitions",
        example="bundles.toml",
    )
    profile_extent: str = setting(
        "waypoints",
        help="extent of tract profiles",
        section=DWI,
        metavar="EXTENT",
        choices=PROFILE_EXTENTS,
    )
    write_doubtful: bool = setting(
        False,
        help="write series into the spaces of T1w image and templates even if their registration"
        " to the T1w image failed its check",
    )
    sloppy: bool = setting(False, help="fast, low-quality processing, for tests")
    random_seed: int = setting(1, help="seed for all random numbers", metavar="N", minimum=1)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Requested workflows, or all of them by default."""
        return self.workflows or WORKFLOWS

    @property
    def measured(self) -> tuple[str, ...]:
        """Suffixes of the images whose quality is measured; none without ``qc``."""
        if "qc" not in self.chosen:
            return ()
        return tuple(m for m in MODALITIES if not self.modalities or m in self.modalities)


@dataclass(frozen=True)
class ExecutionConfig:
    """Settings of the execution."""

    SECTION: ClassVar[str] = "execution"

    work_dir: Path | None = setting(
        None,
        help="folder for intermediate results; steps finished there are not run again",
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
        help="maximum number of processors",
        flags=("--nprocs", "--nthreads"),
        metavar="N",
        minimum=1,
        unset="all available to the process",
        example=4,
    )
    omp_nthreads: int | None = setting(
        None,
        help="maximum number of processors per step",
        metavar="N",
        minimum=1,
        unset="as --nprocs",
        example=2,
    )
    mem: str | None = setting(
        None,
        help="maximum memory, with its unit, such as 8GB or 8000MB",
        flags=("--mem", "--mem-gb"),
        metavar="AMOUNT",
        unset="90% of the memory available to the process",
        example="8GB",
    )
    stop_on_first_crash: bool = setting(False, help="start no further steps once one has failed")
    finished_work: str = setting(
        "keep",
        help="what to do with a participant's intermediate results after the last step; those of"
        " failed participants are kept",
        metavar="ACTION",
        choices=FINISHED_WORK,
        shortcuts={"--clean-workdir": "remove"},
    )
    write_graph: bool = setting(False, help="write the workflow graph to the log folder")
    reports_only: bool = setting(False, help="only rewrite the reports of the latest run")
    dry_run: bool = setting(
        False,
        help="report the decisions for each participant, the resources needed and whether this"
        " machine has them; run nothing",
    )
    json: bool = setting(False, help="with --dry-run: print the plan as JSON")
    dask_scheduler: str | None = setting(
        None,
        help="address or scheduler file of a running Dask scheduler, for --plugin Dask",
        metavar="ADDRESS|FILE",
        unset="a cluster on this machine",
        example="tcp://node1:8786",
    )
    dask_wait_minutes: float = setting(
        2.0,
        help="minutes to wait for the first worker of the Dask scheduler, as when workers wait in"
        " a queue; 0: without end",
        metavar="N",
        minimum=0,
    )
    stall_minutes: float = setting(
        60.0,
        help="minutes without processor time after which a step counts as failed; 0: never",
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
        help="node features, as for sbatch",
        flags=("--slurm-constraint",),
        metavar="NAME",
        unset="left to the site",
    )
    extra: tuple[str, ...] = setting(
        (),
        help="additional options for sbatch, one each, such as --slurm-extra=--reservation=mine",
        flags=("--slurm-extra",),
        metavar="OPTION",
        action="append",
    )
    prolog: tuple[str, ...] = setting(
        (),
        help="shell lines to run at the start of each job, such as 'module load apptainer'",
        flags=("--slurm-prolog",),
        metavar="LINE",
        action="append",
    )
    packing: str = setting(
        "chain",
        help="steps that share a job",
        flags=("--slurm-packing",),
        metavar="NAME",
        choices=PACKINGS,
    )
    small_gb: float = setting(
        0.5,
        help="maximum memory (GB) of a small step, which also uses one processor and takes at most"
        " small_minutes",
        flags=(),
        minimum=0,
    )
    small_minutes: float = setting(
        10.0,
        help="maximum expected minutes of a small step, and of all small steps that share a job",
        flags=(),
        minimum=0,
    )
    default_minutes: int = setting(
        60,
        help="expected minutes of a step that is not small and has never been measured",
        flags=(),
        minimum=0,
    )
    mem_margin: float = setting(
        0.2,
        help="memory requested beyond the estimate, as a fraction of it (0.2: a fifth more)",
        flags=(),
        minimum=0,
    )
    mem_overhead_gb: float = setting(
        0.6,
        help="memory (GB) requested for each job in addition to its largest step",
        flags=(),
        minimum=0,
    )
    time_margin: float = setting(
        1.0,
        help="time requested beyond the estimate, as a fraction of it (1: twice the estimate)",
        flags=(),
        minimum=0,
    )
    retries: int = setting(
        2,
        help="how often a job that ran out of memory or time, or whose node failed, is run again"
        " with twice as much, and how often a job that SLURM could not start is released",
        flags=(),
        minimum=0,
    )
    watch_minutes: int = setting(
        30,
        help="minutes between checks for jobs that SLURM could not start; 0: never",
        flags=(),
        minimum=0,
    )
    max_mem: str = setting(
        "",
        help="maximum memory to request, with its unit, such as 180GB",
        flags=("--slurm-max-mem",),
        metavar="AMOUNT",
        unset="no limit",
    )
    max_minutes: int = setting(
        0,
        help="maximum minutes to request, such as the limit of the partition; 0: no limit",
        flags=("--slurm-max-minutes",),
        metavar="N",
        minimum=0,
    )
    no_mem: bool = setting(
        False,
        help="request no memory, for sites that refuse --mem",
        flags=("--slurm-no-mem",),
    )
    gpu_gres: str = setting(
        "gpu",
        help="generic resource to request for steps that use a graphics processor, such as"
        " gpu:a100",
        flags=("--slurm-gpu-gres",),
        metavar="NAME",
    )
    tasks_at_once: int = setting(
        0,
        help="maximum number of tasks of a job array that run at the same time; 0: no limit",
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
    """All settings of a run."""

    bids_dir: Path = required(help="BIDS dataset", metavar="BIDS_DIR", example="/data/bids")
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
        """Folder for intermediate results."""
        if self.execution.work_dir is not None:
            return self.execution.work_dir
        return self.output_dir.parent / f"{self.output_dir.name}-work"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; later ones override earlier ones.

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
        Nested like the TOML file.
    source : str
        Their source, for messages.

    Raises
    ------
    UsageError
        For an unknown key (the message names the nearest), a value of the wrong type or out
        of range, a missing folder argument, and settings that contradict each other.
    """
    config = read_values(Config, values, source)
    if config.execution.json and not config.execution.dry_run:
        raise UsageError("--json prints the plan of a dry run as JSON: add --dry-run.")
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
    """Format a ``Config`` as TOML that ``read_toml`` and ``make_config`` can read back."""
    import tomli_w

    return tomli_w.dumps(_plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
