"""Finished participants: detected by their receipts, their work folders archived."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.app.graph import flat_graph
from neuroferry.config import Config, make_config
from neuroferry.engine.done import all_done
from neuroferry.engine.finished import Part, PutAway, bring_back, finished_steps, put_away
from neuroferry.engine.names import StepName, subject_wf
from neuroferry.engine.record import RunRecord, StepSummary, found_done, list_runs
from neuroferry.errors import NeuroferryError
from neuroferry.files import read_toml

if TYPE_CHECKING:
    from neuroferry.selection.participant import ParticipantPlan


def part_of(config: Config, plan: ParticipantPlan) -> Part:
    """Describe a participant's share of a run, with a digest of all that results depend on."""
    depends_on = {
        "version": __version__,
        "workflow": dataclasses.asdict(config.workflow),
        "derivatives": config.input.derivatives,
        "output": config.output_dir,
        "plan": plan.digest,
    }
    text = json.dumps(depends_on, sort_keys=True, default=str)
    return Part(
        folder=config.work_dir / "neuroferry_wf" / subject_wf(plan.label),
        outputs=config.output_dir / f"sub-{plan.label}",
        inputs=tuple(path.absolute() for path in (*plan.inputs, *_settings_files(config))),
        key=hashlib.sha256(text.encode()).hexdigest(),
    )


def _settings_files(config: Config) -> tuple[Path, ...]:
    """List the files that settings name and that results depend on."""
    bundles = config.workflow.bundles
    return () if bundles is None else (bundles,)


def take_up(config: Config, plans: Iterable[ParticipantPlan]) -> dict[str, tuple[str, ...]]:
    """Find the finished participants, and restore the work folders of all others.

    Returns
    -------
    dict of str to tuple of str
        Steps of each finished participant, by label.
    """
    finished = {}
    for plan in plans:
        part = part_of(config, plan)
        steps = finished_steps(part)
        if steps is not None:
            finished[plan.label] = steps
        elif not config.execution.dry_run:
            bring_back(part)
    return finished


def record_finished(
    record: RunRecord,
    run_dir: Path,
    finished: Mapping[str, Iterable[str]],
    history: Mapping[str, StepSummary],
) -> None:
    """Record the steps of finished participants, and copy their methods texts."""
    if not finished:
        return
    earlier = list_runs(run_dir.parent.parent)[::-1]
    for label, steps in finished.items():
        for step in steps:
            known = history.get(step)
            record.write_done(found_done(step, known, subject=label))
        name = f"methods_sub-{label}.md"
        source = next((folder / name for folder in earlier if (folder / name).exists()), None)
        if source is not None and source.parent != run_dir:
            shutil.copyfile(source, run_dir / name)


@contextmanager
def tidying(
    config: Config, record: RunRecord, plans: Iterable[ParticipantPlan], graph: Any
) -> Iterator[None]:
    """Archive the work folders of finished participants while a graph runs."""
    how = config.execution.finished_work
    if how == "keep" or graph is None:
        yield
        return
    steps = defaultdict(list)
    for node in graph.nodes():
        name = StepName.of(node)
        if name.subject is not None:
            steps[name.subject].append(name.text)
    parts = {plan.label: part_of(config, plan) for plan in plans}

    def complain(label: str, why: str) -> None:
        text = f"The work folder of sub-{label} is kept: {why}"
        record.write("problem", subject=label, severity="warning", message=text, path=None)

    with PutAway(how, parts, steps, complain) as listener:
        record.listeners.append(listener)
        yield


def put_away_if_complete(run_dir: Path, plan: ParticipantPlan) -> None:
    """Archive a participant's work folder after the last of its jobs."""
    config = make_config(read_toml(run_dir / "config.toml"), source=str(run_dir / "config.toml"))
    how = config.execution.finished_work
    if how == "keep":
        return
    graph = flat_graph(run_dir, plan)
    if not all_done(graph):
        return
    try:
        put_away(part_of(config, plan), how, [StepName.of(node).text for node in graph.nodes()])
    except (NeuroferryError, OSError) as err:
        print(f"The work folder of sub-{plan.label} is kept: {err}")
