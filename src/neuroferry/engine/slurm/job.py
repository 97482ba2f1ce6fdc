"""Execution of one subject's share of the graph in a SLURM job, within its allocation."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx

from neuroferry.engine.multiproc import MultiProcPlugin
from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunRecord
from neuroferry.engine.slurm.manifest import Group, Manifest, Member, Pack, read_manifest
from neuroferry.engine.slurm.units import ordered_nodes
from neuroferry.engine.worker import Outcome
from neuroferry.errors import (
    ExitCode,
    NeuroferryError,
    RunInterrupted,
    SchedulerError,
    StepsFailedError,
)
from neuroferry.trust import open_own

# a job that SLURM stops within this last share of its time limit has run out of time
_TIME_IS_UP = 0.9


class PackPlugin(MultiProcPlugin):
    """Plugin that runs a pack and notes whether a step ran out of memory.

    A step that ran alone is not retried in the same job: the steward plans a larger one.
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args)
        self.out_of_memory = False

    def _close(self, schedule: Any, index: int, outcome: Outcome) -> None:
        if len(schedule.tasks) == 1:
            outcome = replace(outcome, final=True)
        super()._close(schedule, index, outcome)

    def _close_failed(self, schedule: Any, index: int, outcome: Outcome) -> None:
        self.out_of_memory |= outcome.out_of_memory
        super()._close_failed(schedule, index, outcome)


def run_pack(
    run_dir: Path,
    number: int,
    pack_name: str,
    task: int,
    rebuild: Callable[[bytes], nx.DiGraph],
) -> int:
    """Run one pack for one subject.

    Parameters
    ----------
    run_dir : pathlib.Path
        Folder of the run.
    number : int
        Round of submission.
    pack_name : str
        The pack.
    task : int
        Which subject of the pack's group, from 1.
    rebuild : callable
        Returns the subject's flattened graph from its payload, for a run whose jobs build it
        from the settings.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    RunInterrupted
        When SLURM stopped the job.
    """
    started = time.monotonic()
    manifest = read_manifest(run_dir, number)
    group, pack = manifest.find(pack_name)
    if not 1 <= task <= len(group.members):
        raise SchedulerError(f"Pack {pack_name} has no task {task}.")
    member = group.members[task - 1]
    record = RunRecord(run_dir / "events.jsonl")
    about = {"pack": pack.name, "unit": member.name, "round": number, **_allocation()}
    record.write("job_started", subject=member.subject, **about)

    def end(code: int, cause: str | None, reason: str | None = None) -> int:
        record.write(
            "job_ended",
            subject=member.subject,
            exit_code=code,
            cause=cause,
            reason=reason,
            seconds=round(time.monotonic() - started, 3),
            **about,
        )
        return code

    try:
        graph, updatehash = _load_graph(run_dir, manifest, member, rebuild)
        plugin = PackPlugin({"record": record, "crash_dir": run_dir})
        part = _share(graph, group, pack, member)
        try:
            if len(part):
                plugin.run(part, config={}, updatehash=updatehash)
        except StepsFailedError:
            return end(int(ExitCode.STEP_FAILED), "memory" if plugin.out_of_memory else "step")
    except RunInterrupted as err:
        minutes = (time.monotonic() - started) / 60
        out_of_time = minutes >= _TIME_IS_UP * pack.minutes
        end(128 + err.signal_number, "time" if out_of_time else "interrupted")
        raise
    except MemoryError as err:
        return end(int(ExitCode.SOFTWARE), "memory", str(err))
    except (NeuroferryError, OSError) as err:
        end(int(getattr(err, "exit_code", ExitCode.IO)), "job", str(err))
        raise
    except Exception as err:
        end(int(ExitCode.SOFTWARE), "job", f"{type(err).__name__}: {err}")
        raise
    return end(int(ExitCode.OK), None)


def _allocation() -> dict[str, Any]:
    """Return the id of this job, as SLURM writes it."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return {"job": job, "host": node, "restarts": restarts}


def _load_graph(
    run_dir: Path, manifest: Manifest, member: Member, rebuild: Callable[[bytes], nx.DiGraph]
) -> tuple[nx.DiGraph, bool]:
    with open_own(run_dir / "slurm" / "payloads", "The file of payloads") as stream:
        stream.seek(member.offset)
        payload = stream.read(member.length)
    if manifest.source == "config":
        return rebuild(payload), False
    context = pickle.loads(payload)
    sys.path += [folder for folder in context["path"] if folder not in sys.path]
    return pickle.loads(context["graph"]), bool(context["updatehash"])


def _share(graph: nx.DiGraph, group: Group, pack: Pack, member: Member) -> nx.DiGraph:
    """Extract a pack from its subject's graph, without steps that can never run."""
    nodes = ordered_nodes(graph)
    names = member.step_names(group.steps)
    if [StepName.of(node).text for node in nodes] != names:
        raise SchedulerError(
            f"The graph of {member.name} is not the planned one: its data or the settings have "
            "changed since. Run the neuroferry command again to plan it again."
        )
    lost = set(member.lost)
    wanted = [nodes[i] for i in pack.steps if i not in lost]
    part: nx.DiGraph = graph.subgraph(wanted).copy()
    return part
