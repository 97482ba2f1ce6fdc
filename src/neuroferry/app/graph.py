"""From settings and participants to a Nipype graph that survives being moved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry.config import Config, make_config
from neuroferry.engine.flatten import flatten
from neuroferry.files import read_toml
from neuroferry.selection.participant import chosen_workflows

if TYPE_CHECKING:
    from neuroferry.bids.model import Subject


def build_graph(config: Config, subjects: list[Subject], n_procs: int) -> Any:
    """Build the workflow of some participants."""
    from neuroferry.config import Settings
    from neuroferry.workflows.base import init_neuroferry_wf

    settings = Settings(
        bids_dir=config.bids_dir,
        out_dir=config.output_dir,
        workflows=chosen_workflows(config),
        output_spaces=config.workflow.output_spaces,
        templateflow_home=config.input.templateflow_home,
        derivatives=config.input.derivatives,
        average_t1w=config.workflow.average_t1w,
        sloppy=config.workflow.sloppy,
        ignore=config.workflow.ignore,
        dummy_scans=config.workflow.dummy_scans,
        slice_time_ref=config.workflow.slice_time_ref,
        fd_spike_threshold=config.workflow.fd_spike_threshold,
        dvars_spike_threshold=config.workflow.dvars_spike_threshold,
        b0_threshold=config.workflow.b0_threshold,
        fix_gradients=config.workflow.fix_gradients,
        streamlines=config.workflow.streamlines,
        bundles=config.workflow.bundles,
        profile_extent=config.workflow.profile_extent,
        omp_nthreads=config.execution.omp_nthreads or n_procs,
        seed=config.workflow.random_seed,
    )
    workflow = init_neuroferry_wf(subjects=subjects, settings=settings)
    workflow.base_dir = str(config.work_dir)
    return workflow


def build_run(config: Config, folder: Path, subjects: list[Subject], n_procs: int) -> Any:
    """Build the flattened graph of a run, and write its methods text into the run's folder."""
    configure_nipype(config, folder)
    workflow = build_graph(config, subjects, n_procs)
    write_methods(folder, workflow, subjects)
    if config.execution.write_graph:
        _draw(workflow, folder / "graph.dot")
    return flatten(workflow)


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def flat_graph(run_dir: Path, subject: Subject) -> Any:
    """Build one participant's graph again, as it was planned.

    Parameters
    ----------
    run_dir : pathlib.Path
        Folder of the run, with its settings.
    subject : Subject
        As found when the run was planned.
    """
    config = make_config(read_toml(run_dir / "config.toml"), source=str(run_dir / "config.toml"))
    configure_nipype(config, run_dir, into_file=False)
    threads = config.execution.omp_nthreads
    assert threads is not None
    return flatten(build_graph(config, [subject], threads))
