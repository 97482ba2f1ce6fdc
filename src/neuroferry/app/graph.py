"""Construction of relocatable Nipype graphs from settings and participants."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from neuroferry.config import Config, make_config
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import subject_wf
from neuroferry.files import read_toml, write_text
from neuroferry.selection.participant import ParticipantPlan


def build_graph(config: Config, plans: list[ParticipantPlan], n_procs: int) -> Any:
    """Build the workflow of some participants."""
    from neuroferry.workflows.base import BuildSettings, init_neuroferry_wf

    settings = BuildSettings(
        config.bids_dir,
        config.output_dir,
        config.workflow,
        omp_nthreads=config.execution.omp_nthreads or n_procs,
    )
    workflow = init_neuroferry_wf(plans=plans, settings=settings)
    workflow.base_dir = str(config.work_dir)
    return workflow


def build_run(config: Config, folder: Path, plans: list[ParticipantPlan], n_procs: int) -> Any:
    """Build the flattened graph of a run, and write its methods text to the run's folder."""
    configure_nipype(config, folder)
    workflow = build_graph(config, plans, n_procs)
    write_methods(folder, workflow, plans)
    if config.execution.write_graph:
        _draw(workflow, folder / "graph.dot")
    return flatten(workflow)


def _draw(workflow: Any, path: Path) -> None:
    """Write the graph as text, and as a picture if Graphviz is installed."""
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


def write_methods(folder: Path, workflow: Any, plans: list[ParticipantPlan]) -> None:
    """Write each participant's methods text to the run's folder."""
    for plan in plans:
        part = workflow.get_node(subject_wf(plan.label))
        if part is not None:
            write_text(folder / f"methods_sub-{plan.label}.md", part.visit_desc(), flush=False)


def configure_nipype(config: Config, folder: Path, *, into_file: bool = True) -> None:
    """Configure Nipype so that work folders can be moved.

    Its log goes to the run's folder, or to standard error where many processes write at once.
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
                # a configuration file reads a percent sign as the start of a reference
                "crashdump_dir": str(folder).replace("%", "%%"),
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def flat_graph(run_dir: Path, plan: ParticipantPlan) -> Any:
    """Build one participant's graph again, as planned.

    Parameters
    ----------
    run_dir : pathlib.Path
        Folder of the run, with its settings.
    plan : ParticipantPlan
        As decided when the run was planned.
    """
    config = make_config(read_toml(run_dir / "config.toml"), source=str(run_dir / "config.toml"))
    configure_nipype(config, run_dir, into_file=False)
    threads = config.execution.omp_nthreads
    assert threads is not None
    return flatten(build_graph(config, [plan], threads))
