"""Planning of a run's SLURM jobs, and their submission by the host."""

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

from neuroferry.app.alike import Alike, renamed
from neuroferry.app.archive import record_finished, take_up
from neuroferry.app.estimates import make_estimator
from neuroferry.app.finish import finish
from neuroferry.app.graph import build_graph, configure_nipype, write_methods
from neuroferry.app.launch import Run, record_start
from neuroferry.config import Config
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import StepName, subject_wf
from neuroferry.engine.record import read_history
from neuroferry.engine.slurm.plugin import SLURMGraphPlugin
from neuroferry.engine.slurm.scripts import in_image
from neuroferry.errors import ExitCode, SchedulerError
from neuroferry.files import write_text

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem
    from neuroferry.selection.participant import ParticipantPlan


def plan_jobs(job: Run, plans: list[ParticipantPlan], problems: list[Problem]) -> int:
    """Plan a run's jobs and have them submitted.

    Parameters
    ----------
    job : Run
        The run.
    plans : list of ParticipantPlan
        All participants of the run.
    problems : list of Problem
        Problems of the input.

    Returns
    -------
    int
        0 if the jobs are planned or submitted; the run's exit code if nothing is left to do.

    Raises
    ------
    SchedulerError
        If the submission was refused.
    """
    config = job.config
    usable = [plan for plan in plans if plan.has_work]
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
    left = [plan for plan in usable if plan.label not in finished]
    threads = job.resources.n_procs
    plan_subjects(plugin, config, left, lambda some: build_graph(config, some, threads, problems))
    record_start(job, plans, problems, plugin.n_steps + sum(map(len, finished.values())))
    record_finished(job.record, job.folder, finished, history)
    if plugin.write() is None:
        broken = any(problem.severity == "error" for problem in problems)
        code = int(ExitCode.STEP_FAILED if broken else ExitCode.OK)
        job.record.write("run_ended", exit_code=code, reason=None)
        finish(config, job.folder)
        return code
    _say(
        f"Planned {plugin.n_jobs} jobs for {len(usable)} participant(s), in {plugin.n_arrays} "
        f"job array(s) and one final job."
    )
    _hand_over(plugin)
    return int(ExitCode.OK)


def plan_subjects(
    plugin: SLURMGraphPlugin,
    config: Config,
    plans: Iterable[ParticipantPlan],
    build: Callable[[list[ParticipantPlan]], Any],
) -> None:
    """Plan each participant's jobs, and write each methods text to the run's folder.

    For unprocessed participants with equal plans, only the first one's graph is built.

    Parameters
    ----------
    plugin : SLURMGraphPlugin
        Receives the plans.
    config : Config
        The settings.
    plans : iterable of ParticipantPlan
        Plan of each participant.
    build : callable
        Builds the workflow of some participants; an empty one if there is a problem.
    """
    alike: Alike[tuple[Any, str]] = Alike()
    work = config.work_dir / "neuroferry_wf"
    begun = {path.name for path in work.iterdir()} if work.exists() else set()
    measured = {StepName(step).subject for step in plugin.history}
    for plan in plans:
        payload = pickle.dumps(plan)
        fresh = subject_wf(plan.label) not in begun and plan.label not in measured
        found = alike.find(plan) if fresh else None
        methods = plugin.run_dir / f"methods_sub-{plan.label}.md"
        if found is not None:
            other, (unit, text) = found
            plugin.add_like(unit, plan.label, payload)
            write_text(methods, renamed(text, other, plan.label), flush=False)
            continue
        workflow = build([plan])
        if not workflow.list_node_names():  # with a problem
            continue
        write_methods(plugin.run_dir, workflow, [plan])
        unit = plugin.add(flatten(workflow), payload)
        if fresh:
            alike.keep(plan, (unit, methods.read_text(encoding="utf-8")))


def _hand_over(plugin: SLURMGraphPlugin) -> None:
    """Submit the jobs, or say how to submit them."""
    script = plugin.submit_script
    assert script is not None
    note = os.environ.get("NEUROFERRY_HANDOVER")
    if note:
        Path(note).write_text(f"{script.parent.parent.name}\n", encoding="utf-8")
    elif not in_image(os.environ) and shutil.which("sbatch"):
        code = subprocess.run(["bash", str(script)], check=False).returncode
        if code:
            raise SchedulerError("The jobs could not be submitted; see SLURM's message above.")
    else:
        _say("To submit them, run this on the host:")
        print(plugin.host_submit_command())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
