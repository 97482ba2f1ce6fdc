"""``--dry-run``: reports decisions and resources of a run, and whether this machine suffices."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.app.archive import take_up
from neuroferry.app.estimates import make_estimator
from neuroferry.app.graph import build_graph, configure_nipype
from neuroferry.engine.durations import duration
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import StepName
from neuroferry.engine.plan import (
    DiskNeed,
    Plan,
    PlannedStep,
    PlanPlugin,
    disk_need,
    finished_step,
)
from neuroferry.engine.record import StepSummary, read_history
from neuroferry.errors import ExitCode
from neuroferry.files import package_toml
from neuroferry.selection.describe import describe_plan, plan_as_json, problem_as_json

if TYPE_CHECKING:
    from neuroferry.bids.model import Problem
    from neuroferry.config import Config
    from neuroferry.engine.resources import Resources
    from neuroferry.selection.participant import ParticipantPlan

_SOURCES = {
    "measured": "measured for this step",
    "like": "measured for similar steps",
    "table": "built-in table",
    "formula": "formula from the image header",
    "default": "default value",
}
_SHOWN = 5
_OF_THIS_MACHINE = (
    *("--plugin", "--use-plugin", "--dask-scheduler"),
    *("--mem", "--mem-gb", "--nprocs", "--nthreads"),
)


def dry_run(
    config: Config,
    plans: list[ParticipantPlan],
    problems: list[Problem],
    resources: Resources,
    command: str,
) -> int:
    """Print what a run does with each participant, and the resources it needs.

    Parameters
    ----------
    config : Config
        Its settings; with ``execution.json`` everything is printed as one JSON object.
    plans : list of ParticipantPlan
        Plan of each participant.
    problems : list of Problem
        All problems of the dataset and the participants.
    resources : Resources
        Resources that the run may use.
    command : str
        The command as typed.

    Returns
    -------
    int
        0 if the run fits, 75 if it does not, 65 if there is nothing to do, 1 if it fits but
        something would be skipped because of an error.
    """
    usable = [plan for plan in plans if plan.has_work]
    needs = plan_run(config, usable, resources, problems) if usable else None
    if config.execution.json:
        print(json.dumps(_as_json(plans, problems, needs), indent=2), flush=True)
    elif needs is not None:
        print("\n".join([*_decisions(plans), ""]))
        print(describe(needs, len(usable), on_cluster(command)), flush=True)
    if needs is None:
        return int(ExitCode.DATA)
    if needs.verdict == "does not fit":
        return int(ExitCode.TEMPORARY)
    broken = any(problem.severity == "error" for problem in problems)
    return int(ExitCode.STEP_FAILED if broken else ExitCode.OK)


def plan_run(
    config: Config, plans: list[ParticipantPlan], resources: Resources, problems: list[Problem]
) -> Plan:
    """Estimate the resources that a run needs; problems of the graph are added and printed."""
    finished = take_up(config, plans)
    left = [plan for plan in plans if plan.label not in finished]
    history = read_history(config.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        configure_nipype(config, Path(folder))
        known = len(problems)
        workflow = build_graph(config, left, resources.n_procs, problems)
        for problem in problems[known:]:
            print(f"ERROR: {problem.message}", file=sys.stderr, flush=True)
        plugin = PlanPlugin(
            {
                "n_procs": resources.n_procs,
                "memory_gb": resources.memory_gb,
                "estimator": make_estimator(config.output_dir),
            }
        )
        plugin.run(flatten(workflow), config={})
    plan = plugin.plan
    done = (finished_step(step, label) for label, steps in finished.items() for step in steps)
    return replace(plan, steps=(*plan.steps, *done), disks=_disks(config, plan, history))


def describe(plan: Plan, n_subjects: int, cluster: str) -> str:
    """Describe a plan in words.

    Parameters
    ----------
    plan : Plan
        The plan.
    n_subjects : int
        Participants in it.
    cluster : str
        The command that runs it on a cluster.
    """
    lines = [
        f"Plan for {n_subjects} participant(s) on this machine: {_processors(plan.n_procs)}, "
        f"{plan.memory_gb:.1f} GB of memory.",
        "",
        f"Steps          {len(plan.to_do)} to do, {len(plan.steps) - len(plan.to_do)} already "
        "done",
    ]
    if plan.largest is not None:
        lines.append(f"Largest step   {_size(plan.largest)}")
        lines.append(f"Time           {_time(plan)}")
    lines += [f"{name:14} {_disk(disk)}" for name, disk in zip(_NAMES, plan.disks, strict=True)]
    if plan.to_do:
        lines.append(f"Estimates      {_sources(plan)}")
    return "\n".join([*lines, "", *_verdict(plan, cluster)])


def _decisions(plans: list[ParticipantPlan]) -> list[str]:
    """Describe what is done with the first participants."""
    lines = [line for plan in plans[:_SHOWN] for line in describe_plan(plan)]
    if len(plans) > _SHOWN:
        lines.append(f"and {len(plans) - _SHOWN} more; --dry-run --json has all of them")
    return lines


def _as_json(
    plans: list[ParticipantPlan], problems: list[Problem], needs: Plan | None
) -> dict[str, Any]:
    """Combine the decisions and the resources of the run in one object."""
    told = {problem for plan in plans for problem in plan.problems}
    content: dict[str, Any] = {
        "version": __version__,
        "participants": [plan_as_json(plan) for plan in plans],
        "problems": [problem_as_json(p) for p in problems if p not in told],
        "run": None,
    }
    if needs is not None:
        largest = needs.largest
        content["run"] = {
            "verdict": needs.verdict,
            "n_procs": needs.n_procs,
            "memory_gb": needs.memory_gb,
            "steps_to_do": len(needs.to_do),
            "steps_done": len(needs.steps) - len(needs.to_do),
            "largest_step": largest and {"step": largest.step, "memory_gb": largest.mem_gb},
            "seconds": {str(n): round(seconds) for n, seconds in needs.seconds.items()},
            "disks": [
                {
                    "path": str(disk.path),
                    "needed_gb": round(disk.needed_gb, 3),
                    "needed_files": disk.needed_files,
                    "free_gb": round(disk.free_gb, 3),
                }
                for disk in needs.disks
            ],
        }
    return content


def on_cluster(command: str) -> str:
    """Turn a dry-run command on this machine into the one for a run on a cluster.

    Examples
    --------
    >>> on_cluster("neuroferry /bids /out participant --dry-run --mem 8GB --plugin=Linear")
    'neuroferry /bids /out participant --plugin SLURMGraph'
    """
    words = shlex.split(os.environ.get("NEUROFERRY_HOST_COMMAND") or command)
    kept: list[str] = []
    skip = False
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if skip:
            skip = False
        elif name in _OF_THIS_MACHINE:
            skip = "=" not in word
        elif name != "--dry-run":
            kept.append(word)
    return shlex.join([*kept, "--plugin", "SLURMGraph"])


_NAMES = ("Work folder", "Output folder")


def _size(step: PlannedStep) -> str:
    return f"{step.mem_gb:.1f} GB: {StepName(step.step).short} ({_SOURCES[step.mem_source]})"


def _processors(count: int) -> str:
    return "1 processor" if count == 1 else f"{count} processors"


def _time(plan: Plan) -> str:
    others = "; ".join(
        f"with {_processors(n)} {duration(seconds)}"
        for n, seconds in plan.seconds.items()
        if n != plan.n_procs
    )
    here = duration(plan.seconds[plan.n_procs])
    return f"about {here}, up to {plan.at_once} step(s) at once ({others})"


def _disk(disk: DiskNeed) -> str:
    free = f"{disk.free_gb:.0f} GB"
    if disk.free_files is not None:
        free += f" and {disk.free_files:,} files"
    return f"{disk.needed_gb:.2f} GB in {disk.needed_files:,} files; {free} free at {disk.path}"


def _sources(plan: Plan) -> str:
    memory = Counter(step.mem_source for step in plan.to_do)
    times = Counter(step.seconds_source for step in plan.to_do)
    parts = []
    for title, counts in (("memory", memory), ("time", times)):
        text = ", ".join(f"{_SOURCES[name]} ({count})" for name, count in counts.most_common())
        parts.append(f"{title}: {text}")
    return "; ".join(parts)


def _verdict(plan: Plan, cluster: str) -> list[str]:
    if not plan.to_do:
        return ["Verdict: everything is already done."]
    lines = [f"Verdict: {plan.verdict}."]
    if plan.verdict == "fits with fewer steps at once":
        lines.append(f"Memory limits it to {plan.at_once} step(s) at once; more would be faster.")
    for step in plan.too_large[:_SHOWN]:
        lines.append(
            f"  {StepName(step.step).short} needs {step.mem_gb:.1f} GB "
            f"({_SOURCES[step.mem_source]}); this run may use {plan.memory_gb:.1f} GB."
        )
    more = len(plan.too_large) - _SHOWN
    if more > 0:
        lines.append(f"  {more} more {'step is' if more == 1 else 'steps are'} too large.")
    if plan.too_large:
        # 10% of a machine's memory is left for everything else
        whole = math.ceil(round(plan.too_large[0].mem_gb / 0.9, 3))
        lines.append(f"  Use a machine with at least {whole} GB, or the cluster:")
        lines.append(f"    {cluster}")
    for disk in plan.disks:
        if not disk.fits:
            lines.append(
                f"  {disk.path} needs {disk.needed_gb:.2f} GB in {disk.needed_files:,} files; "
                f"{disk.free_gb:.2f} GB are free. Make room, or choose another folder."
            )
    return lines


def _disks(
    config: Config, plan: Plan, history: Mapping[str, StepSummary]
) -> tuple[DiskNeed, DiskNeed]:
    """Estimate the disk space that the work and the output folder need.

    A step's size in the work folder is estimated like its memory. Derivatives are a fraction of
    it, measured on existing participants or taken from the table.
    """
    table = package_toml("steps.toml")["output"]
    work_gb = sum(step.disk_gb for step in plan.to_do)
    subjects = {step.subject for step in plan.to_do if step.subject}
    part, files = table["of_work"], table["files_per_step"] * len(plan.to_do)
    measured = _measure_output(config.output_dir, history)
    if measured is not None:
        part, files = measured[0], measured[1] * len(subjects)
    return (
        disk_need(config.work_dir, work_gb, sum(step.files for step in plan.to_do)),
        disk_need(config.output_dir, work_gb * part, round(files)),
    )


def _measure_output(
    output_dir: Path, history: Mapping[str, StepSummary]
) -> tuple[float, float] | None:
    """Measure derivatives as a fraction of the work folder, and their number per participant."""
    work: dict[str, float] = defaultdict(float)
    for summary in history.values():
        if summary.subject and summary.disk_gb:
            work[summary.subject] += summary.disk_gb
    size, files, found = 0.0, 0, 0
    for label in work:
        paths = [p for p in (output_dir / f"sub-{label}").rglob("*") if p.is_file()]
        if paths and (output_dir / f"sub-{label}.html").exists():
            size += sum(path.stat().st_blocks * 512 for path in paths) / 1e9
            files += len(paths) + 1
            found += 1
        else:
            work[label] = 0
    if not found:
        return None
    return size / sum(work.values()), files / found
