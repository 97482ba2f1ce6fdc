"""The settings of a run, as values that can be printed, written and read again.

They come from the defaults, then a TOML file, then the flags of the command line, each over
the one before. What a run was started with is written beside its record, and is enough to
run it again: ``neuroferry --config <out>/logs/<run>/config.toml``.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroferry.errors import ExitCode, UsageError

LEVELS = ("participant", "group")
WORKFLOWS = ("anat", "func", "dwi", "qc")
IGNORABLE = (
    *("fieldmaps", "slicetiming", "sbref", "fmap-jacobian"),
    *("denoising", "unringing", "rician", "eddy", "slice-replacement", "b0-bias"),
    "dwi-joining",
)
PACKINGS = ("node", "chain", "subject")
PROFILE_EXTENTS = ("waypoints", "whole")
FINISHED_WORK = ("keep", "pack", "remove")
PLUGINS = ("MultiProc", "Linear", "Dask", "SLURMGraph", "auto")


@dataclass(frozen=True)
class InputConfig:
    """What is read.

    Attributes
    ----------
    participant_label, session_label : tuple of str
        Labels without ``sub-`` and ``ses-``; empty means all.
    task_id : tuple of str
        Tasks of the BOLD runs, without ``task-``; empty means all.
    echo_idx : int or None
        Of runs with several echoes, use this one alone.
    bids_filter_file : pathlib.Path or None
        JSON file that narrows the search, as for fMRIPrep.
    bids_database_dir : pathlib.Path or None
        Folder of a stored pybids index.
    derivatives : dict of str to pathlib.Path
        Precomputed derivative datasets by name.
    templateflow_home : pathlib.Path or None
        Folder with templates of TemplateFlow, ``tpl-<name>`` each.
    skip_bids_validation : bool
        Do not run the BIDS validator.
    """

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    task_id: tuple[str, ...] = ()
    echo_idx: int | None = None
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: dict[str, Path] = field(default_factory=dict)
    templateflow_home: Path | None = None
    skip_bids_validation: bool = False


@dataclass(frozen=True)
class WorkflowConfig:
    """What is computed.

    Attributes
    ----------
    workflows : tuple of str
        Of ``anat``, ``func``, ``dwi`` and ``qc``; empty means all that the data allow.
    output_spaces : tuple of str
        Template spaces, such as ``MNI152NLin2009aSym:res-2`` or those of the folder
        ``templateflow_home``; ``T1w``, ``bold``.
    average_t1w : bool
        Average the T1w images of a session; otherwise the first is used.
    ignore : tuple of str
        Steps to leave out: ``fieldmaps``, ``fmap-jacobian`` of BOLD and diffusion runs;
        ``slicetiming`` and ``sbref`` of BOLD runs; ``denoising``, ``unringing``, ``rician``,
        ``eddy``, ``slice-replacement``, ``b0-bias``, ``dwi-joining`` of diffusion runs.
    dummy_scans : int or None
        Volumes at the start that are not in a steady state; found where it is None.
    slice_time_ref : float
        Moment that slices are shifted to, 0 to 1 of their times.
    fd_spike_threshold, dvars_spike_threshold : float
        Framewise displacement in mm, standardised DVARS, above which a volume is marked.
    b0_threshold : float
        Volumes of diffusion runs up to this b-value count as not weighted, s/mm2.
    fix_gradients : bool
        Correct gradients whose axes are flipped or exchanged; otherwise it is only said.
    streamlines : int
        Streamlines of each bundle of a diffusion run, at most; 0 for no tractography.
    bundles : pathlib.Path or None
        TOML file that defines the bundles of diffusion runs; the program's own otherwise.
    profile_extent : str
        What profiles along bundles run over: ``waypoints``, from the first way-point to the
        last, or ``whole`` streamlines.
    sloppy : bool
        Fast and of low quality, for tests.
    random_seed : int
        Seed of everything that draws random numbers; at least 1.
    """

    workflows: tuple[str, ...] = ()
    output_spaces: tuple[str, ...] = ("MNI152NLin2009aSym",)
    average_t1w: bool = True
    ignore: tuple[str, ...] = ()
    dummy_scans: int | None = None
    slice_time_ref: float = 0.5
    fd_spike_threshold: float = 0.5
    dvars_spike_threshold: float = 1.5
    b0_threshold: float = 50.0
    fix_gradients: bool = False
    streamlines: int = 1000
    bundles: Path | None = None
    profile_extent: str = "waypoints"
    sloppy: bool = False
    random_seed: int = 1

    @property
    def chosen(self) -> tuple[str, ...]:
        """Workflows that participants are taken through: those asked for, or all."""
        return self.workflows or WORKFLOWS


@dataclass(frozen=True)
class ExecutionConfig:
    """Where and with what it runs.

    Attributes
    ----------
    work_dir : pathlib.Path or None
        Intermediate results; by default ``<output folder>-work``.
    plugin : str
        ``MultiProc``, ``Linear`` or ``SLURMGraph``; ``auto`` is ``SLURMGraph`` where there is
        ``sbatch``, and ``MultiProc`` elsewhere.
    nprocs, omp_nthreads : int or None
        Processors in all, and for one step; by default what this process may use.
    mem : str or None
        Memory with its unit, such as ``8GB``; by default 90% of what may be used.
    stop_on_first_crash : bool
        Start nothing more once a step has failed.
    finished_work : str
        What becomes of a participant's intermediate results when the last step is done:
        ``keep``; ``pack`` into one file; ``remove``. Those of failed participants stay.
    write_graph : bool
        Draw the graph into the log folder.
    reports_only : bool
        Only write the reports of an earlier run anew.
    dry_run : bool
        Only say what the run would take.
    json : bool
        With `dry_run`: say it as one JSON object.
    dask_scheduler : str or None
        For the plugin ``Dask``: address of a scheduler or the file that it wrote; by default
        a cluster on this machine.
    stall_minutes : float
        A step that used no processor time for so long has failed; 0: wait for ever.
    verbose : int
        How often ``-v`` was given.
    """

    work_dir: Path | None = None
    plugin: str = "MultiProc"
    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem: str | None = None
    stop_on_first_crash: bool = False
    finished_work: str = "keep"
    write_graph: bool = False
    reports_only: bool = False
    dry_run: bool = False
    json: bool = False
    dask_scheduler: str | None = None
    stall_minutes: float = 60.0
    verbose: int = 0


@dataclass(frozen=True)
class SlurmConfig:
    """How a run becomes SLURM jobs.

    Attributes
    ----------
    account, partition, qos, constraint : str
        As for ``sbatch``; empty leaves them to the site.
    extra : tuple of str
        More ``sbatch`` options, such as ``--reservation=mine``.
    prolog : tuple of str
        Lines of shell that each job starts with, such as ``module load apptainer``.
    packing : str
        ``node``, ``chain`` or ``subject``: what shares a job.
    small_gb, small_minutes : float
        A step of one processor within these is small, and so are small steps that share a
        job, together.
    default_minutes : int
        Expected time of a step that is not small and was never measured.
    mem_margin, time_margin : float
        What is asked for above the estimate: 0.2 is a fifth more.
    mem_overhead_gb : float
        Memory of each job beside its largest step.
    retries : int
        How often a job that ran out of memory or time, or whose node died, is run again, and
        how often one that SLURM could not start is let go.
    watch_minutes : int
        How often a job looks for those that SLURM could not start; 0: never.
    max_mem : str
        The most memory to ask for, with its unit; empty: whatever it takes.
    max_minutes : int
        The longest time to ask for; 0: whatever it takes.
    tasks_at_once : int
        The most tasks of one job array that run at the same time; 0: no limit.
    max_array_size, max_submitted : int
        The site's limits on array indices and on jobs in the queue; 0: ask ``scontrol``.
    """

    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    extra: tuple[str, ...] = ()
    prolog: tuple[str, ...] = ()
    packing: str = "chain"
    small_gb: float = 0.5
    small_minutes: float = 10.0
    default_minutes: int = 60
    mem_margin: float = 0.2
    mem_overhead_gb: float = 0.6
    time_margin: float = 1.0
    retries: int = 2
    watch_minutes: int = 30
    max_mem: str = ""
    max_minutes: int = 0
    tasks_at_once: int = 0
    max_array_size: int = 0
    max_submitted: int = 0


@dataclass(frozen=True)
class Config:
    """Everything that a run is started with."""

    bids_dir: Path
    output_dir: Path
    level: str = "participant"
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


def make_config(values: Mapping[str, Any], *, source: str = "the settings") -> Config:
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
        of range, and a missing folder argument.
    """
    config: Config = _build(Config, values, source, "")
    _check(config)
    return config


def make_slurm_config(values: Mapping[str, Any], *, source: str = "the settings") -> SlurmConfig:
    """Check settings for SLURM and make them a ``SlurmConfig``.

    Raises
    ------
    UsageError
        As for :func:`make_config`.
    """
    config: SlurmConfig = _build(SlurmConfig, values, source, "slurm.")
    _check_slurm(config)
    return config


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


def _build(kind: Any, values: Mapping[str, Any], source: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise UsageError(
                f"{source} has the unknown key '{prefix}{key}'; "
                f"the nearest is '{prefix}{near[0]}'."
            )
    missing = [
        item.name
        for item in dataclasses.fields(kind)
        if item.name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(
            f"Missing: {', '.join(missing)}. Give: neuroferry BIDS_DIR OUTPUT_DIR participant"
        )
    return kind(
        **{
            key: _convert(hints[key], value, source, f"{prefix}{key}")
            for key, value in values.items()
        }
    )


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    """Convert one TOML value to the type of its field."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{source}: '{key}' must be a table.")
        return _build(hint, value, source, f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, source, key)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(arguments[0], item, source, key) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(arguments[1], v, source, key) for k, v in value.items()}
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise UsageError(f"{source}: '{key}' must be of type {wanted}, not {value!r}.")


def _check(config: Config) -> None:
    if config.level not in LEVELS:
        raise UsageError(
            f"'{config.level}' is no level of analysis. Choose one of: {', '.join(LEVELS)}.",
            exit_code=ExitCode.UNKNOWN_LEVEL,
        )
    for name in config.workflow.workflows:
        if name not in WORKFLOWS:
            raise UsageError(
                f"'{name}' is no workflow of neuroferry. Choose among: {', '.join(WORKFLOWS)}."
            )
    _check_func(config)
    _check_dwi(config.workflow)
    if config.execution.plugin not in PLUGINS:
        raise UsageError(
            f"'{config.execution.plugin}' is no plugin of neuroferry. "
            f"Choose among: {', '.join(PLUGINS)}."
        )
    if config.execution.finished_work not in FINISHED_WORK:
        raise UsageError(
            f"'{config.execution.finished_work}' is nothing that can be done with finished work. "
            f"Choose among: {', '.join(FINISHED_WORK)}."
        )
    for name in ("nprocs", "omp_nthreads"):
        number = getattr(config.execution, name)
        if number is not None and number < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {number}.")
    if config.execution.stall_minutes < 0:
        raise UsageError("stall_minutes must not be negative (0: wait for ever).")
    if config.workflow.random_seed < 1:
        raise UsageError("--random-seed must be at least 1 (ANTs takes 0 for 'no seed').")
    _check_slurm(config.slurm)


def _check_func(config: Config) -> None:
    """Check the settings of the functional workflow."""
    workflow = config.workflow
    for name in workflow.ignore:
        if name not in IGNORABLE:
            raise UsageError(
                f"--ignore cannot leave out '{name}'. Choose among: {', '.join(IGNORABLE)}."
            )
    if workflow.dummy_scans is not None and workflow.dummy_scans < 0:
        raise UsageError("--dummy-scans must not be negative.")
    if not 0 <= workflow.slice_time_ref <= 1:
        raise UsageError("--slice-time-ref must be between 0 (first slice) and 1 (last slice).")
    for name in ("fd_spike_threshold", "dvars_spike_threshold"):
        if getattr(workflow, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0.")
    if config.input.echo_idx is not None and config.input.echo_idx < 1:
        raise UsageError("--echo-idx must be at least 1, as echoes are counted in BIDS.")


def _check_dwi(workflow: WorkflowConfig) -> None:
    """Check the settings of the diffusion workflow."""
    if workflow.b0_threshold < 0:
        raise UsageError("--b0-threshold must not be negative.")
    if workflow.streamlines < 0:
        raise UsageError("--streamlines must not be negative (0: no tractography).")
    if workflow.profile_extent not in PROFILE_EXTENTS:
        raise UsageError(
            f"--profile-extent cannot be '{workflow.profile_extent}'. "
            f"Choose one of: {', '.join(PROFILE_EXTENTS)}."
        )


def _check_slurm(config: SlurmConfig) -> None:
    if config.packing not in PACKINGS:
        raise UsageError(
            f"'{config.packing}' is no way to pack steps into jobs. "
            f"Choose among: {', '.join(PACKINGS)}."
        )
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, (int, float)) and value < 0:
            raise UsageError(f"slurm.{item.name} must not be negative, but is {value}.")
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and "\n" in text for text in texts):
            raise UsageError(f"slurm.{item.name} must be one line of text.")
