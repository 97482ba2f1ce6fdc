"""The BIDS App call: from settings to derivatives, reports and an exit code."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.cli.environment import prepare_environment
from neuroferry.cli.progress import Progress, duration
from neuroferry.config import DEFAULT_WORKFLOWS, Config, write_config
from neuroferry.engine.record import RunRecord, list_runs, read_history, read_run
from neuroferry.engine.resources import Resources, available_resources, parse_memory
from neuroferry.errors import (
    ExitCode,
    InputError,
    NeuroferryError,
    RunInterrupted,
    StepsFailedError,
    UsageError,
)

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem, Subject

# processors of one step in a job, unless the settings say it
_JOB_THREADS = 4


@dataclass(frozen=True)
class Run:
    """One run under way: its settings, its folder, its record, what it may use."""

    config: Config
    folder: Path
    record: RunRecord
    resources: Resources
    command: str


def run(config: Config, *, command: str = "neuroferry") -> int:
    """Run the BIDS App.

    Parameters
    ----------
    config : Config
        The settings.
    command : str
        What was typed, for the record.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    NeuroferryError
        For anything that keeps the run from starting; each has its exit code.
    """
    _check_folders(config)
    resources = _resources(config)
    config = _choose_plugin(config, resources)
    prepare_environment(config.execution.omp_nthreads or resources.n_procs)
    if config.execution.reports_only:
        return _write_reports_anew(config)
    if config.level == "group":
        return _run_group(config)
    if config.execution.dry_run:
        return _plan_participants(config, resources, command)
    return _run_participants(config, resources, command)


def _check_folders(config: Config) -> None:
    """Refuse folders that are missing, nested in the wrong way, or cannot be written."""
    bids_dir, output_dir = config.bids_dir.resolve(), config.output_dir.resolve()
    if not config.bids_dir.exists():
        raise InputError(
            f"The BIDS folder {config.bids_dir} does not exist.", exit_code=ExitCode.NO_INPUT
        )
    if not config.bids_dir.is_dir():
        raise InputError(
            f"{config.bids_dir} is a file. Give the folder of the BIDS dataset.",
            exit_code=ExitCode.NO_INPUT,
        )
    for name, folder in (("output", output_dir), ("work", config.work_dir.resolve())):
        inside = folder == bids_dir or bids_dir in folder.parents
        if inside and not (name == "output" and bids_dir / "derivatives" in folder.parents):
            raise UsageError(
                f"The {name} folder {folder} lies inside the input dataset, which must stay as "
                f"it is. Choose another, such as {bids_dir / 'derivatives' / 'neuroferry'} for "
                "the output."
            )
    if config.execution.dry_run:
        return
    needs_work = config.level == "participant" and not config.execution.reports_only
    for folder in (config.output_dir, config.work_dir) if needs_work else (config.output_dir,):
        _make_writable(folder)


def _make_writable(folder: Path) -> None:
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise InputError(
            f"The folder {folder} cannot be written ({err.strerror}). Choose another or mend its "
            "permissions.",
            exit_code=ExitCode.CANNOT_CREATE,
        ) from err


def _resources(config: Config) -> Resources:
    limits = available_resources()
    memory = parse_memory(config.execution.mem) if config.execution.mem else None
    return Resources(
        config.execution.nprocs or limits.n_procs, memory or round(0.9 * limits.memory_gb, 2)
    )


def _choose_plugin(config: Config, resources: Resources) -> Config:
    """Settle what depends on the machine, so that the settings of the run hold it."""
    execution = config.execution
    if execution.plugin == "auto":
        name = "SLURMGraph" if shutil.which("sbatch") else "MultiProc"
        execution = dataclasses.replace(execution, plugin=name)
    if execution.plugin == "SLURMGraph" and execution.omp_nthreads is None:
        # jobs build the same graph on other machines than this one
        threads = min(_JOB_THREADS, resources.n_procs)
        execution = dataclasses.replace(execution, omp_nthreads=threads)
    return dataclasses.replace(config, execution=execution)


def _run_participants(config: Config, resources: Resources, command: str) -> int:
    started = time.monotonic()
    _say(f"neuroferry {__version__}: reading {config.bids_dir}")
    subjects = _find_subjects(config)
    with ExitStack() as stack:
        from neuroferry.engine.locks import hold

        labels = [subject.label for subject in subjects]
        _refuse_if_in_the_queue(config, labels)
        stack.enter_context(hold([config.work_dir, config.output_dir / "logs"], labels))
        job = _begin(config, resources, command)
        try:
            _prepare_output(config)
            subjects, problems = _check_input(config, subjects, resources.n_procs)
            code = _run_graph(job, subjects, problems)
        except BaseException as err:
            _end(job, err)
            raise
        if read_run(job.folder).exit_code is None:
            return code
        _say(f"Done in {duration(time.monotonic() - started)}: {_verdict(job, code)}")
        return code


def _plan_participants(config: Config, resources: Resources, command: str) -> int:
    """Say what a run would take, and run nothing."""
    from neuroferry.cli.dry_run import dry_run

    subjects, problems = _check_input(config, _find_subjects(config), resources.n_procs)
    for problem in problems:
        _say(f"{problem.severity.upper()}: {problem.message}")
    usable = [subject for subject in subjects if subject.select("anat", "T1w")]
    if not usable:
        return int(ExitCode.DATA)
    return dry_run(config, usable, resources, command)


def _refuse_if_in_the_queue(config: Config, labels: Iterable[str]) -> None:
    """Refuse participants that jobs of an earlier run are at work on."""
    wanted = set(labels)
    for folder in list_runs(config.output_dir):
        if not (folder / "slurm" / "jobs.tsv").exists():
            continue
        summary = read_run(folder)
        both = sorted(wanted & set(summary.subjects))
        if summary.exit_code is None and both:
            raise NeuroferryError(
                f"Jobs of the run {folder.name} are at work on {len(both)} of these participants "
                f"(sub-{both[0]}). See neuroferry status {config.output_dir}, and wait for them "
                f"or end them with neuroferry cancel {config.output_dir}.",
                exit_code=ExitCode.TEMPORARY,
            )


def _begin(config: Config, resources: Resources, command: str) -> Run:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = config.output_dir / "logs" / f"{stamp}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(write_config(config), encoding="utf-8")
    if os.environ.get("NEUROFERRY_REENTER"):
        # for the launcher, which binds the same folders when the run goes on
        words = base64.b64decode(os.environ["NEUROFERRY_REENTER"])
        (folder / "enter").write_bytes(words.strip() + b"\n")
    if os.environ.get("NEUROFERRY_LAUNCH"):
        # for the launcher, which moves the run to another machine
        text = f"{os.environ['NEUROFERRY_LAUNCH']}\n"
        (folder / "launch").write_text(text, encoding="utf-8")
    return Run(config, folder, RunRecord(folder / "events.jsonl"), resources, command)


def _end(job: Run, err: BaseException) -> None:
    """Close the record of a run that did not come to its end."""
    code = int(ExitCode.SOFTWARE)
    if isinstance(err, RunInterrupted):
        code = 128 + err.signal_number
    elif isinstance(err, NeuroferryError):
        code = int(err.exit_code)
    elif isinstance(err, OSError):
        code = int(ExitCode.IO)
    with suppress(OSError):  # the disk that is full may be what ended the run
        job.record.write("run_ended", exit_code=code, reason=str(err) or type(err).__name__)


def _find_subjects(config: Config) -> list[Subject]:
    from neuroferry.bids.index import index_subjects

    return index_subjects(
        config.bids_dir,
        participant_labels=config.input.participant_label,
        session_labels=config.input.session_label,
        bids_filters=_read_filters(config.input.bids_filter_file),
        database_dir=config.input.bids_database_dir,
    )


def _read_filters(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        filters = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise InputError(
            f"The filter file {path} cannot be read ({err.strerror}).",
            exit_code=ExitCode.NO_INPUT,
        ) from err
    except ValueError as err:
        raise InputError(f"The filter file {path} is not valid JSON: {err}.") from err
    if not isinstance(filters, dict):
        raise InputError(f'The filter file {path} must hold one object, such as {{"t1w": {{}}}}.')
    return filters


def _check_input(
    config: Config, subjects: list[Subject], n_procs: int
) -> tuple[list[Subject], list[Problem]]:
    """Look at the dataset and at every image that will be used.

    Returns
    -------
    list of Subject
        Participants with what is usable of their images.
    list of Problem
        What is wrong with the dataset and with each of them.
    """
    from neuroferry.bids.model import Problem
    from neuroferry.bids.validate import check_subjects, validate_dataset

    problems = validate_dataset(
        config.bids_dir, subjects, use_validator=not config.input.skip_bids_validation
    )
    older = _other_version(config)
    if older is not None:
        text = (
            f"The work folder {config.work_dir} was filled by neuroferry {older}, and this is "
            f"{__version__}: steps that it finished are used as they are. Give another --work-dir "
            "to compute everything anew."
        )
        problems.append(Problem(text, "warning", config.work_dir, None))
    checked = check_subjects(subjects, n_procs=n_procs)
    for subject in checked:
        problems += subject.problems
        if not subject.select("anat", "T1w"):
            text = f"sub-{subject.label} has no T1w image that can be used, so nothing was run."
            problems.append(Problem(text, "error", None, subject.label))
    return checked, problems


def _other_version(config: Config) -> str | None:
    """Note this version in the work folder; give the one noted there before, if it is another."""
    note = config.work_dir / ".neuroferry-version"
    before = note.read_text(encoding="utf-8").strip() if note.exists() else __version__
    if not config.execution.dry_run:
        note.write_text(f"{__version__}\n", encoding="utf-8")
    return None if before == __version__ else before


def _run_graph(job: Run, subjects: list[Subject], problems: list[Problem]) -> int:
    usable = [subject for subject in subjects if subject.select("anat", "T1w")]
    broken = [problem for problem in problems if problem.severity == "error"]
    unusable_dataset = any(problem.subject is None for problem in broken)
    if job.config.execution.plugin == "SLURMGraph" and usable and not unusable_dataset:
        from neuroferry.cli.submit import plan_jobs

        return plan_jobs(job, usable, subjects, problems)
    workflow = _build(job, usable) if usable and not unusable_dataset else None
    n_steps = _count_steps(workflow)
    history = read_history(job.config.output_dir)
    with Progress(n_steps, job.resources.n_procs, history) as progress:
        job.record.listeners.append(progress)
        record_start(job, subjects, problems, n_steps)
        code = int(ExitCode.OK)
        if workflow is not None:
            code = _execute(job, workflow, progress, history)
    if unusable_dataset:
        code = int(ExitCode.INVALID_BIDS)
    elif broken:
        code = int(ExitCode.STEP_FAILED if usable else ExitCode.DATA)
    job.record.write("run_ended", exit_code=code, reason=None)
    finish(job.config, job.folder)
    return code


def finish(config: Config, folder: Path) -> None:
    """Do what comes after a run's last step: its reports, and room on the disk."""
    _write_reports(config, folder, read_run(folder).subjects)
    if config.execution.clean_workdir:
        _clean(config, folder)


def record_start(job: Run, subjects: list[Subject], problems: list[Problem], n_steps: int) -> None:
    """Write the first lines of a run's record."""
    job.record.write(
        "run_started",
        run_id=job.folder.name,
        version=__version__,
        image=_image_digest(),
        command=job.command,
        subjects=[subject.label for subject in subjects],
        steps=n_steps,
        host=socket.gethostname(),
        n_procs=job.resources.n_procs,
        memory_gb=job.resources.memory_gb,
        plugin=job.config.execution.plugin,
        seed=job.config.workflow.random_seed,
    )
    for problem in problems:
        job.record.write(
            "problem",
            subject=problem.subject,
            severity=problem.severity,
            message=problem.message,
            path=None if problem.path is None else str(problem.path),
        )


def _image_digest() -> str | None:
    """SHA-256 of the image, where the launcher passed it in."""
    return os.environ.get("NEUROFERRY_IMAGE_DIGEST") or None


def _prepare_output(config: Config) -> None:
    """Make the output folder a derivatives dataset."""
    from neuroferry.bids.outputs import Container, prepare_dataset

    container: Container | None = None
    digest = _image_digest()
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        container = {"Type": "apptainer", "Tag": f"neuroferry:{__version__}"}
        if digest:
            container["Digest"] = digest
    prepare_dataset(
        config.output_dir,
        bids_dir=config.bids_dir,
        version=__version__,
        container=container,
        derivatives=config.input.derivatives,
    )


def build_graph(config: Config, subjects: list[Subject], n_procs: int) -> Any:
    """Build the workflow of some participants."""
    from neuroferry.workflows.base import Settings, init_neuroferry_wf

    settings = Settings(
        bids_dir=config.bids_dir,
        out_dir=config.output_dir,
        workflows=config.workflow.workflows or DEFAULT_WORKFLOWS,
        output_spaces=config.workflow.output_spaces,
        derivatives=config.input.derivatives,
        average_t1w=config.workflow.average_t1w,
        sloppy=config.workflow.sloppy,
        omp_nthreads=config.execution.omp_nthreads or n_procs,
        seed=config.workflow.random_seed,
    )
    workflow = init_neuroferry_wf(subjects=subjects, settings=settings)
    workflow.base_dir = str(config.work_dir)
    return workflow


def _build(job: Run, subjects: list[Subject]) -> Any:
    """Build the graph and write its methods text."""
    configure_nipype(job.config, job.folder)
    workflow = build_graph(job.config, subjects, job.resources.n_procs)
    write_methods(job.folder, workflow, subjects)
    if job.config.execution.write_graph:
        _draw(workflow, job.folder / "graph.dot")
    return workflow


def _draw(workflow: Any, path: Path) -> None:
    """Write the graph as text, and as a picture where Graphviz is there."""
    try:
        workflow.write_graph(
            dotfilename=str(path), graph2use="colored", format="svg", simple_form=True
        )
    except OSError:
        if not path.exists():
            raise
        _say(f"Graph: {path}. Install Graphviz (the command dot) to have it drawn as well.")
        return
    _say(f"Graph: {path.with_suffix('.svg')}")


def write_methods(folder: Path, workflow: Any, subjects: list[Subject]) -> None:
    """Write each participant's methods text into the run's folder."""
    for subject in subjects:
        part = workflow.get_node(f"sub_{subject.label}_wf")
        if part is not None:
            (folder / f"methods_sub-{subject.label}.md").write_text(
                part.visit_desc(), encoding="utf-8"
            )


def configure_nipype(config: Config, folder: Path, *, into_file: bool = True) -> None:
    """Set Nipype up so that a work folder survives being moved.

    Its log goes into the run's folder, or to standard error where many write at once.
    """
    import logging

    from nipype import config as nipype_config

    nipype_config.update_config(
        {
            "execution": {
                "hash_method": "content",
                "use_relative_paths": "false",
                "remove_node_directories": "false",
                "remove_unnecessary_outputs": "false",
                "crashfile_format": "txt",
                "crashdump_dir": str(folder),
                "stop_on_first_crash": str(config.execution.stop_on_first_crash).lower(),
                "check_version": "false",
                "create_report": "false",
                "poll_sleep_duration": "0.01",
            }
        }
    )
    verbose = config.execution.verbose
    for name in ("workflow", "interface", "utils"):
        logger = logging.getLogger(f"nipype.{name}")
        logger.handlers.clear()
        logger.setLevel(logging.DEBUG if verbose > 2 else logging.INFO)
        handler: logging.Handler = logging.StreamHandler()
        if into_file:
            handler = logging.FileHandler(folder / "steps.log", mode="a", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _count_steps(workflow: Any) -> int:
    if workflow is None:
        return 0
    from copy import deepcopy

    from nipype.pipeline.engine.utils import generate_expanded_graph

    return len(generate_expanded_graph(deepcopy(workflow)._create_flat_graph()).nodes())


def _execute(job: Run, workflow: Any, progress: Progress, history: Any) -> int:
    from neuroferry.cli.dry_run import make_estimator
    from neuroferry.engine import DaskPlugin, LinearPlugin, MultiProcPlugin

    plugins = {"MultiProc": MultiProcPlugin, "Linear": LinearPlugin, "Dask": DaskPlugin}
    plugin = plugins[job.config.execution.plugin]
    log_file = None if job.config.execution.verbose > 1 else job.folder / "steps.log"
    try:
        workflow.run(
            plugin=plugin(
                plugin_args={
                    "n_procs": job.resources.n_procs,
                    "memory_gb": job.resources.memory_gb,
                    "record": job.record,
                    "history": history,
                    "estimator": make_estimator(job.config.output_dir),
                    "scheduler": job.config.execution.dask_scheduler,
                    "stall_seconds": 60.0 * job.config.execution.stall_minutes,
                    "crash_dir": job.folder,
                    "log_file": log_file,
                    "stop_on_first_crash": job.config.execution.stop_on_first_crash,
                    "tick": progress.tick,
                }
            )
        )
    except StepsFailedError:
        return int(ExitCode.STEP_FAILED)
    return int(ExitCode.OK)


def _write_reports(config: Config, run_dir: Path, labels: Iterable[str]) -> None:
    from neuroferry.reports import write_group_report, write_subject_report

    for label in labels:
        page = write_subject_report(config.output_dir, run_dir, label)
        _say(f"Report: {page}")
    _say(f"Overview: {write_group_report(config.output_dir, run_dir)}")


def _write_reports_anew(config: Config) -> int:
    """Write the reports of the latest run of each participant, from what it left."""
    wanted = set(config.input.participant_label)
    latest: dict[str, Path] = {}
    for folder in list_runs(config.output_dir):
        for label in read_run(folder).subjects:
            if not wanted or label in wanted:
                latest[label] = folder
    missing = sorted(wanted - set(latest))
    if missing or not latest:
        raise InputError(
            f"{config.output_dir} holds no run of {', '.join(missing) or 'any participant'}. "
            "Run neuroferry without --reports-only first.",
            exit_code=ExitCode.NO_INPUT,
        )
    for label, folder in latest.items():
        _write_reports(config, folder, [label])
    return int(ExitCode.OK)


def _run_group(config: Config) -> int:
    from neuroferry.reports import write_group_report

    runs = list_runs(config.output_dir)
    if not runs:
        raise InputError(
            f"{config.output_dir} holds no participant yet. Run the level 'participant' first.",
            exit_code=ExitCode.NO_INPUT,
        )
    _say(f"Overview: {write_group_report(config.output_dir, runs[-1])}")
    return int(ExitCode.OK)


def _clean(config: Config, folder: Path) -> None:
    """Remove the work folders of the participants none of whose steps failed."""
    summary = read_run(folder)
    failed = {step.subject for step in summary.steps if step.state in ("failed", "skipped")}
    for label in summary.subjects:
        if label not in failed:
            shutil.rmtree(
                config.work_dir / "neuroferry_wf" / f"sub_{label}_wf", ignore_errors=True
            )


def _verdict(job: Run, code: int) -> str:
    summary = read_run(job.folder)
    failed = {step.subject for step in summary.failed}
    failed |= {p["subject"] for p in summary.problems if p["severity"] == "error"}
    if code == ExitCode.OK:
        return f"{len(summary.subjects)} participant(s), no error."
    names = ", ".join(f"sub-{label}" for label in sorted(label for label in failed if label))
    return f"not everything went well (exit code {code}): {names}. See the report of each."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
