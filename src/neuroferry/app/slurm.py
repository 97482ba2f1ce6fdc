"""From settings to SLURM jobs: plans them, and hands the host what it has to run."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry.app.alike import Alike, renamed, watch
from neuroferry.app.archive import record_finished, take_up
from neuroferry.app.estimates import make_estimator
from neuroferry.app.finish import finish
from neuroferry.app.graph import build_graph, configure_nipype, write_methods
from neuroferry.app.launch import Run, record_start
from neuroferry.config import Config
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import subject_of
from neuroferry.engine.record import read_history
from neuroferry.engine.slurm.plugin import SLURMGraphPlugin
from neuroferry.engine.slurm.scripts import in_image
from neuroferry.errors import ExitCode, SchedulerError

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem, Subject


def plan_jobs(
    job: Run, usable: list[Subject], subjects: list[Subject], problems: list[Problem]
) -> int:
    """Plan a run's jobs and see to it that they are submitted.

    Parameters
    ----------
    job : Run
        The run.
    usable : list of Subject
        Participants that have what it takes.
    subjects : list of Subject
        All participants of the run.
    problems : list of Problem
        What is wrong with the input.

    Returns
    -------
    int
        0 once the jobs are planned or submitted; the run's exit code when nothing is left to
        do.

    Raises
    ------
    SchedulerError
        When the submission was refused.
    """
    config = job.config
    configure_nipype(config, job.folder)
    history = read_history(config.output_dir)
    plugin = SLURMGraphPlugin(
        {
            **dataclasses.asdict(config.slurm),
            "run_dir": job.folder,
            "record": job.record,
            "history": history,
            "estimator": make_estimator(config.output_dir),
            "source": "config",
        }
    )
    finished = take_up(config, usable)
    left = [subject for subject in usable if subject.label not in finished]
    threads = job.resources.n_procs
    plan_subjects(plugin, config, left, lambda some: build_graph(config, some, threads))
    record_start(job, subjects, problems, plugin.n_steps + sum(map(len, finished.values())))
    record_finished(job.record, job.folder, finished, history)
    if plugin.write() is None:
        broken = any(problem.severity == "error" for problem in problems)
        code = int(ExitCode.STEP_FAILED if broken else ExitCode.OK)
        job.record.write("run_ended", exit_code=code, reason=None)
        finish(config, job.folder)
        return code
    _say(
        f"Planned {plugin.n_jobs} jobs for {len(usable)} participant(s), in {plugin.n_arrays} "
        f"job array(s) and one job that comes last."
    )
    _hand_over(plugin)
    return int(ExitCode.OK)


def plan_subjects(
    plugin: SLURMGraphPlugin,
    config: Config,
    subjects: Iterable[Subject],
    build: Callable[[list[Subject]], Any],
) -> None:
    """Plan each participant, and write the methods text of each into the run's folder.

    Of participants who are alike and of whom nothing was computed yet, only the first one's graph
    is built.

    Parameters
    ----------
    plugin : SLURMGraphPlugin
        Takes the plans.
    config : Config
        The settings.
    subjects : iterable of Subject
        Who.
    build : callable
        Gives the workflow of some participants.
    """
    alike = Alike()
    work = config.work_dir / "neuroferry_wf"
    begun = {path.name for path in work.iterdir()} if work.exists() else set()
    measured = {subject_of(step) for step in plugin.history}
    for subject in subjects:
        payload = pickle.dumps(subject)
        fresh = f"sub_{subject.label}_wf" not in begun and subject.label not in measured
        # what else they read of derivatives that were computed before, nobody knows
        fresh = fresh and not config.input.derivatives
        found = alike.find(subject) if fresh else None
        methods = plugin.run_dir / f"methods_sub-{subject.label}.md"
        if found is not None:
            other, (unit, text) = found
            plugin.add_like(unit, subject.label, payload)
            methods.write_text(renamed(text, other, subject.label), encoding="utf-8")
            continue
        watched, read = watch(subject)
        try:
            workflow = build([watched])
        except TypeError:  # what is built wants a plain dict
            fresh, workflow = False, build([subject])
        write_methods(plugin.run_dir, workflow, [subject])
        unit = plugin.add(flatten(workflow), payload)
        if fresh:
            alike.keep(subject, read, (unit, methods.read_text(encoding="utf-8")))


def _hand_over(plugin: SLURMGraphPlugin) -> None:
    """Submit, or tell who can."""
    script = plugin.submit_script
    assert script is not None
    note = os.environ.get("NEUROFERRY_HANDOVER")
    if note:
        Path(note).write_text(f"{script.parent.parent.name}\n", encoding="utf-8")
    elif not in_image(os.environ) and shutil.which("sbatch"):
        code = subprocess.run(["bash", str(script)], check=False).returncode
        if code:
            raise SchedulerError("The jobs could not be submitted; what SLURM said stands above.")
    else:
        _say("To submit them, run this on the host:")
        print(plugin.host_submit_command())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
