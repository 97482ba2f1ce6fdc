"""Execution of one subject's share of the graph in a SLURM job, within its allocation."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx

from neuroferry.engine.done import find_done
from neuroferry.engine.multiproc import MultiProcPlugin
from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunRecord, latest_states
from neuroferry.engine.slurm.claims import Claims, StepsBusyError
from neuroferry.engine.slurm.manifest import (
    Group,
    Manifest,
    Member,
    Pack,
    more_memory,
    read_manifest,
)
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
# how long a job waits for another one that still runs one of its steps
_PATIENCE_SECONDS = 600.0


class PackPlugin(MultiProcPlugin):
    """Plugin that runs a pack and notes whether a step ran out of memory.

    A step that ran alone is not retried in the same job: the steward plans a larger one.
    ``next_memory`` of its arguments is what that one will have (MiB), or ``None``.
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

    def _advise(self, task: Any) -> str:
        """Say what the steward does about it."""
        text = f"{self.memory_gb:.1f} GB of this job are not enough even for this step alone."
        following = self.plugin_args.get("next_memory")
        if following is not None:
            return f"{text} The last job of this round runs it again with {following} MiB."
        return (
            f"{text} It is not run again, as that is the most that was allowed (max_mem and "
            "retries in the section [slurm] of the settings): allow more and run the same "
            "neuroferry command again."
        )


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

    more = more_memory(pack, manifest.settings)
    plugin = PackPlugin({"record": record, "crash_dir": run_dir, "next_memory": more})
    try:
        graph, updatehash = _load_graph(run_dir, manifest, member, rebuild)
        part = _share(graph, group, pack, member)
        missing = missing_before(graph, part, record.path)
        if missing:
            why = f"It was started although {missing[0]}, which it depends on, is not done."
            return end(int(ExitCode.TEMPORARY), "early", why)
        with ExitStack() as stack:
            for folder, steps in _by_folder(part).items():
                stack.enter_context(Claims(folder, steps, _PATIENCE_SECONDS))
            if len(part):
                plugin.run(part, config={}, updatehash=updatehash)
    except StepsFailedError:
        return end(int(ExitCode.STEP_FAILED), "memory" if plugin.out_of_memory else "step")
    except StepsBusyError:
        why = "Another job still runs its steps, perhaps on a node that does not answer."
        return end(int(ExitCode.TEMPORARY), "busy", why)
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


def missing_before(graph: nx.DiGraph, part: nx.DiGraph, record: Path) -> list[str]:
    """List the steps that a part of a graph depends on and that are not done.

    The queue starts jobs in their order, but forgets how jobs ended that others wait for.
    """
    needed = {
        StepName.of(before).text: before
        for node in part
        for before in graph.predecessors(node)
        if before not in part
    }
    state = latest_states(record, needed)
    unknown = [name for name in needed if name not in state]
    if unknown:
        # too far back in the record: compare the hashes of everything before
        ancestors = set().union(*(nx.ancestors(graph, needed[name]) for name in unknown))
        earlier = graph.subgraph(ancestors | {needed[name] for name in unknown})
        done = find_done(earlier)
        state.update((name, "done" if needed[name] in done else "open") for name in unknown)
    return sorted(name for name in needed if state[name] != "done")


def _by_folder(part: nx.DiGraph) -> dict[Path, list[str]]:
    """Sort the names of steps by their work folder."""
    found: dict[Path, list[str]] = {}
    for node in part:
        found.setdefault(Path(node.base_dir).absolute(), []).append(StepName.of(node).text)
    return dict(sorted(found.items()))


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
