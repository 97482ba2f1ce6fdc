"""Plugin that plans a Nipype graph as SLURM jobs and writes scripts for the host's ``sbatch``.

Nothing runs here and no SLURM program is called: the plugin works inside an image without SLURM.
Each job re-enters the same image (or starts the same Python) and runs its share of the graph with
the same code as on a laptop.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import secrets
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from neuroferry.config import SlurmConfig, make_slurm_config
from neuroferry.engine.estimate import Estimator
from neuroferry.engine.guards import guard_nipype
from neuroferry.engine.names import StepName, in_subject
from neuroferry.engine.record import RunRecord, StepSummary, found_done, read_run
from neuroferry.engine.slurm.manifest import Grouping, Manifest, write_manifest
from neuroferry.engine.slurm.pack import StepPlan
from neuroferry.engine.slurm.queue import close_if_gone
from neuroferry.engine.slurm.scripts import host_command, host_path, write_scripts
from neuroferry.engine.slurm.units import Unit, plan_unit, split_graph
from neuroferry.errors import ExitCode, NeuroferryError
from neuroferry.trust import make_own_folder, write_own


class SLURMGraphPlugin:
    """Plugin that turns a graph into job scripts.

    Parameters
    ----------
    plugin_args : dict, optional
        ``run_dir`` : path
            Folder of the run; by default ``logs/<time>`` in the workflow's ``base_dir``.
        ``record`` : RunRecord
            Where jobs write; by default ``events.jsonl`` in ``run_dir``.
        ``history`` : mapping of str to StepSummary
            Measurements of the same steps, used to record those that are found done.
        ``estimator`` : Estimator
            Estimates the memory and time to request; by default one made from ``history``.
        ``source`` : str
            ``graphs`` (default): the graph is pickled for the jobs. ``config``: they build
            it from the run's settings and the payload given to :meth:`add`.
        ``environ`` : mapping
            The environment, by default that of the process.
        Everything else
            A setting of :class:`neuroferry.config.SlurmConfig`, such as ``partition``.

    Attributes
    ----------
    submit_script : pathlib.Path or None
        Script to run on the host; ``None`` before planning, and if nothing is left to do.
    n_steps, n_jobs, n_arrays : int
        Number of all steps, of jobs for the remaining ones, and of their calls of ``sbatch``.

    Examples
    --------
    >>> plugin = SLURMGraphPlugin(plugin_args={"partition": "short", "packing": "node"})
    >>> plugin.settings.partition
    'short'
    """

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        guard_nipype()
        self.plugin_args = dict(plugin_args or {})
        known = {item.name for item in dataclasses.fields(SlurmConfig)}
        own = {"run_dir", "record", "history", "estimator", "source", "environ"}
        values = {k: v for k, v in self.plugin_args.items() if k in known or k not in own}
        self.settings = make_slurm_config(values, source="plugin_args")
        self._run_dir: Path | None = self.plugin_args.get("run_dir")
        self._record: RunRecord | None = self.plugin_args.get("record")
        self._source: str = self.plugin_args.get("source") or "graphs"
        self._environ: Mapping[str, str] = self.plugin_args.get("environ") or os.environ
        self.history: Mapping[str, StepSummary] = self.plugin_args.get("history") or {}
        self._estimator = self.plugin_args.get("estimator") or Estimator(self.history)
        self._grouping = Grouping(self.settings)
        self._payloads: IO[bytes] | None = None
        self._units = 0
        self._names: list[str] = []
        self._base = ""
        self._done: list[tuple[str | None, StepPlan]] = []
        self.n_steps = 0
        self.submit_script: Path | None = None
        self.n_jobs = 0
        self.n_arrays = 0

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return self._choose_run_dir(None)

    def run(self, graph: Any, config: Mapping[str, Any], updatehash: bool = False) -> None:
        """Plan a flattened graph and write its scripts; called by ``Workflow.run``."""
        base = next((node.base_dir for node in graph.nodes() if node.base_dir), None)
        run_dir = self._choose_run_dir(base)
        self._base = f"{Path(base or Path.cwd()).absolute()}/"
        for node in graph.nodes():
            node.use_plugin = ("Linear", {})
        parts = split_graph(graph)
        make_own_folder(run_dir)
        if self._record is None:
            self._record = RunRecord(run_dir / "events.jsonl")
            self._start_record(run_dir, parts)
        context = {"path": [str(Path(p).absolute()) for p in sys.path], "updatehash": updatehash}
        for part in parts:
            self.add(part, pickle.dumps({**context, "graph": pickle.dumps(part)}))
        self._refuse_if_at_work(run_dir, base)
        self.write()

    def _refuse_if_at_work(self, run_dir: Path, base: str | None) -> None:
        """Refuse a workflow that the jobs of an earlier run process in the same folder.

        Raises
        ------
        NeuroferryError
            With exit code 75.
        """
        assert self._record is not None
        logs = {run_dir.parent, Path(base or Path.cwd()).absolute() / "logs"}
        for folder in sorted(
            path.parents[1] for log in logs for path in log.glob("*/slurm/units")
        ):
            both = sorted(set(self._names) & set(read_units(folder)))
            if folder == run_dir or not both or not (folder / "slurm" / "submitted-0").exists():
                continue
            if read_run(folder).exit_code is not None or close_if_gone(folder):
                continue
            message = (
                f"Jobs of the run {folder} process {both[0].partition(chr(9))[0]} of this "
                f"workflow in the same folder. Wait for them, or cancel them with bash "
                f"{host_path(folder / 'slurm' / 'cancel.sh', self._environ)}."
            )
            self._record.write("run_ended", exit_code=int(ExitCode.TEMPORARY), reason=message)
            raise NeuroferryError(message, exit_code=ExitCode.TEMPORARY)

    def add(self, graph: Any, payload: bytes) -> Unit:
        """Add one subject's flattened graph; only what planning needs is kept.

        Parameters
        ----------
        graph : networkx.DiGraph
            Flattened and expanded graph of one subject.
        payload : bytes
            Data from which its jobs restore the graph.

        Returns
        -------
        Unit
            The subject's plan, without the payload.
        """
        self._units += 1
        unit = plan_unit(graph, self._units, self.settings, self._estimator, payload)
        self._take_in(unit)
        return dataclasses.replace(unit, payload=b"")

    def add_like(self, unit: Unit, subject: str, payload: bytes) -> None:
        """Add an unprocessed subject whose graph matches an already planned one.

        Parameters
        ----------
        unit : Unit
            Plan of the other subject.
        subject : str
            Label of the subject.
        payload : bytes
            As for :meth:`add`.
        """
        self._units += 1
        steps = tuple(
            dataclasses.replace(step, name=in_subject(step.generic, subject))
            for step in unit.steps
        )
        self._take_in(Unit(f"sub-{subject}", subject, steps, frozenset(), payload))

    def _take_in(self, unit: Unit) -> None:
        self.n_steps += len(unit.steps)
        self._names.append(f"{unit.name}\t{self._base}{unit.steps[0].name.partition('.')[0]}")
        self._done += [(unit.subject, unit.steps[i]) for i in sorted(unit.done)]
        stream = self._open_payloads()
        if self._grouping.add(unit, stream.tell(), keep_names=unit.subject is None):
            stream.write(unit.payload)

    def write(self) -> Path | None:
        """Write manifest and scripts after all subjects have been added.

        Returns
        -------
        pathlib.Path or None
            The script to run on the host; ``None`` when every step is done already.
        """
        run_dir = self._choose_run_dir(None)
        self._open_payloads().close()
        for subject, step in self._done:
            self._write_done(subject, step)
        groups = self._grouping.groups()
        if not groups:
            if self._source == "graphs" and self._record is not None:
                self._record.write("run_ended", exit_code=0, reason=None)
            return None
        manifest = Manifest(
            0,
            str(run_dir),
            self._source,
            self.settings,
            groups,
            token=secrets.token_hex(4),
            done=len(self._done),
        )
        self.n_arrays = sum(len(group.packs) for group in groups)
        self.n_jobs = sum(len(group.packs) * len(group.members) for group in groups)
        write_manifest(manifest, run_dir)
        write_own(run_dir / "slurm" / "units", "".join(f"{name}\n" for name in self._names))
        enter = host_command(self._environ, sys.executable)
        self.submit_script = write_scripts(manifest, run_dir, enter)
        return self.submit_script

    def host_submit_command(self) -> str:
        """Return the command to run on the host."""
        assert self.submit_script is not None
        return shlex.join(["bash", host_path(self.submit_script, self._environ)])

    def _choose_run_dir(self, base: str | None) -> Path:
        if self._run_dir is None:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%fZ")
            self._run_dir = Path(base or Path.cwd()) / "logs" / stamp
        self._run_dir = Path(self._run_dir).absolute()
        return self._run_dir

    def _open_payloads(self) -> IO[bytes]:
        if self._payloads is None:
            path = self._choose_run_dir(None) / "slurm" / "payloads"
            make_own_folder(path.parent.parent)
            make_own_folder(path.parent)
            write_own(path, b"")  # its permissions; only its owner may write what is unpickled
            self._payloads = path.open("r+b")
        return self._payloads

    def _start_record(self, run_dir: Path, parts: list[Any]) -> None:
        assert self._record is not None
        names = {StepName(node.fullname).subject for part in parts for node in part.nodes()}
        self._record.write(
            "run_started",
            run_id=run_dir.name,
            version=None,
            image=None,
            command=None,
            subjects=sorted(name for name in names if name),
            steps=sum(len(part) for part in parts),
            host=os.uname().nodename,
            plugin="SLURMGraph",
        )

    def _write_done(self, subject: str | None, step: StepPlan) -> None:
        if self._record is None:
            return
        known = self.history.get(step.name)
        now = {"kind": step.kind, "mem_gb": step.mem_gb, "n_procs": step.n_procs}
        self._record.write_done(found_done(step.name, known, subject=subject, **now))


def read_units(run_dir: Path) -> list[str]:
    """List the units of a run, each with its workflow."""
    try:
        return (run_dir / "slurm" / "units").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
