"""The BIDS App call: from settings to derivatives, reports and an exit code."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.app.archive import record_finished, take_up, tidying
from neuroferry.app.dry_run import dry_run
from neuroferry.app.environment import prepare_environment
from neuroferry.app.finish import finish, run_group, write_reports_anew
from neuroferry.app.graph import build_run
from neuroferry.app.inputs import (
    check_bundles,
    check_folders,
    check_input,
    check_links,
    find_subjects,
)
from neuroferry.app.launch import Run, begin, end, image_digest, record_start, terminable
from neuroferry.app.progress import Progress
from neuroferry.app.slurm import plan_jobs
from neuroferry.config import Config
from neuroferry.engine.durations import duration
from neuroferry.engine.record import list_runs, read_history, read_run
from neuroferry.engine.resources import Resources, available_resources, parse_memory
from neuroferry.engine.slurm.queue import LEFT, close_if_gone
from neuroferry.errors import (
    ExitCode,
    NeuroferryError,
    StepsFailedError,
)

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem
    from neuroferry.selection.participant import ParticipantPlan

# processors of one step in a job, unless set by the user
_JOB_THREADS = 4


def run(config: Config, *, command: str = "neuroferry") -> int:
    """Run the BIDS App.

    Parameters
    ----------
    config : Config
        The settings.
    command : str
        The command as typed, for the record.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    NeuroferryError
        For anything that prevents the run from starting; each has its exit code.
    """
    check_folders(config)
    check_bundles(config)
    resources = _resources(config)
    config = _choose_plugin(config, resources)
    prepare_environment(config.execution.omp_nthreads or resources.n_procs)
    if config.execution.reports_only:
        return write_reports_anew(config)
    if config.level == "group":
        return run_group(config)
    if config.execution.dry_run:
        return _plan_participants(config, resources, command)
    with terminable():
        return _run_participants(config, resources, command)


def _resources(config: Config) -> Resources:
    limits = available_resources()
    memory = parse_memory(config.execution.mem) if config.execution.mem else None
    return Resources(
        config.execution.nprocs or limits.n_procs, memory or round(0.9 * limits.memory_gb, 2)
    )


def _choose_plugin(config: Config, resources: Resources) -> Config:
    """Resolve machine-dependent settings, so that they are stored with the run."""
    execution = config.execution
    if execution.plugin == "auto":
        name = "SLURMGraph" if shutil.which("sbatch") else "MultiProc"
        execution = dataclasses.replace(execution, plugin=name)
    if execution.plugin == "SLURMGraph" and execution.omp_nthreads is None:
        # jobs build the same graph on other machines
        threads = min(_JOB_THREADS, resources.n_procs)
        execution = dataclasses.replace(execution, omp_nthreads=threads)
    return dataclasses.replace(config, execution=execution)


def _run_participants(config: Config, resources: Resources, command: str) -> int:
    started = time.monotonic()
    _say(f"neuroferry {__version__}: reading {config.bids_dir}")
    subjects = find_subjects(config)
    with ExitStack() as stack:
        from neuroferry.engine.locks import hold

        labels = [subject.label for subject in subjects]
        _refuse_if_in_the_queue(config, labels)
        check_links(config, subjects)
        stack.enter_context(hold([config.work_dir, config.output_dir / "logs"], labels))
        job = begin(config, resources, command)
        try:
            _prepare_output(config)
            plans, problems = check_input(config, subjects, resources.n_procs)
            code = _run_graph(job, plans, problems)
        except BaseException as err:
            end(job, err)
            raise
        if read_run(job.folder).exit_code is None:
            return code
        _say(f"Done in {duration(time.monotonic() - started)}: {_verdict(job, code)}")
        return code


def _plan_participants(config: Config, resources: Resources, command: str) -> int:
    """Plan a run without running anything."""
    plans, problems = check_input(config, find_subjects(config), resources.n_procs)
    for problem in problems:
        _say(f"{problem.severity.upper()}: {problem.message}")
    return dry_run(config, plans, problems, resources, command)


def _refuse_if_in_the_queue(config: Config, labels: Iterable[str]) -> None:
    """Refuse participants that jobs of an earlier run are still processing."""
    wanted = set(labels)
    for folder in list_runs(config.output_dir):
        if not (folder / "slurm" / "jobs.tsv").exists():
            continue
        summary = read_run(folder)
        both = sorted(wanted & set(summary.subjects))
        if summary.exit_code is not None or not both:
            continue
        if close_if_gone(folder):
            _say(f"The run {folder.name} ended without closing its record. {LEFT}")
        elif read_run(folder).exit_code is None:
            raise NeuroferryError(
                f"Jobs of the run {folder.name} are processing {len(both)} of these participants "
                f"(sub-{both[0]}). See neuroferry status {config.output_dir}, and wait for them "
                f"or cancel them with neuroferry cancel {config.output_dir}.",
                exit_code=ExitCode.TEMPORARY,
            )


def _run_graph(job: Run, plans: list[ParticipantPlan], problems: list[Problem]) -> int:
    usable = [plan for plan in plans if plan.has_work]
    if job.config.execution.plugin == "SLURMGraph" and usable:
        return plan_jobs(job, plans, problems)
    finished = take_up(job.config, usable)
    to_run = [plan for plan in usable if plan.label not in finished]
    graph = None
    if to_run:
        graph = build_run(job.config, job.folder, to_run, job.resources.n_procs, problems)
    n_steps = sum(map(len, finished.values())) + (0 if graph is None else len(graph))
    history = read_history(job.config.output_dir)
    with Progress(n_steps, job.resources.n_procs, history) as progress:
        job.record.listeners.append(progress)
        record_start(job, plans, problems, n_steps)
        record_finished(job.record, job.folder, finished, history)
        code = int(ExitCode.OK)
        if graph is not None:
            with tidying(job.config, job.record, to_run, graph):
                code = _execute(job, graph, progress, history)
    if any(problem.severity == "error" for problem in problems):
        code = int(ExitCode.STEP_FAILED if usable else ExitCode.DATA)
    job.record.write("run_ended", exit_code=code, reason=None)
    finish(job.config, job.folder)
    return code


def _prepare_output(config: Config) -> None:
    """Make the output folder a derivatives dataset."""
    from neuroferry.bids.outputs import Container, prepare_dataset

    container: Container | None = None
    digest = image_digest()
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


def _execute(job: Run, graph: Any, progress: Progress, history: Any) -> int:
    from neuroferry.app.estimates import make_estimator
    from neuroferry.engine import DaskPlugin, LinearPlugin, MultiProcPlugin

    plugins = {"MultiProc": MultiProcPlugin, "Linear": LinearPlugin, "Dask": DaskPlugin}
    plugin = plugins[job.config.execution.plugin]
    log_file = None if job.config.execution.verbose > 1 else job.folder / "steps.log"
    arguments = {
        "n_procs": job.resources.n_procs,
        "memory_gb": job.resources.memory_gb,
        "record": job.record,
        "history": history,
        "estimator": make_estimator(job.config.output_dir),
        "scheduler": job.config.execution.dask_scheduler,
        "wait_seconds": 60.0 * job.config.execution.dask_wait_minutes,
        "stall_seconds": 60.0 * job.config.execution.stall_minutes,
        "crash_dir": job.folder,
        "log_file": log_file,
        "stop_on_first_crash": job.config.execution.stop_on_first_crash,
        "tick": progress.tick,
    }
    try:
        plugin(plugin_args=arguments).run(graph, config={})
    except StepsFailedError:
        return int(ExitCode.STEP_FAILED)
    return int(ExitCode.OK)


def _verdict(job: Run, code: int) -> str:
    summary = read_run(job.folder)
    failed = {step.subject for step in summary.failed}
    failed |= {p["subject"] for p in summary.problems if p["severity"] == "error"}
    if code == ExitCode.OK:
        return f"{len(summary.subjects)} participant(s), no errors."
    names = ", ".join(f"sub-{label}" for label in sorted(label for label in failed if label))
    if not names:
        return f"not everything was used (exit code {code}); see the problems above."
    return f"not everything succeeded (exit code {code}): {names}. See their reports."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
