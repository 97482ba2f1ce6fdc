"""Run one job's share of a run planned for SLURM; called by job scripts."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

from neuroferry.trust import refuse_foreign_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--pack", required=True, metavar="NAME", help="which steps")
    parser.add_argument(
        "--task", type=int, default=1, metavar="N", help="which subject of the pack's group"
    )
    parser.add_argument(
        "--round", type=int, default=0, metavar="N", help="which submission of the run"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the job.

    Returns
    -------
    int
        The exit code.
    """
    from neuroferry.app.archive import put_away_if_complete
    from neuroferry.app.environment import prepare_environment
    from neuroferry.engine.resources import available_resources
    from neuroferry.engine.slurm.job import run_pack

    prepare_environment(available_resources(os.environ).n_procs)
    run_dir = arguments.run.absolute()
    refuse_foreign_run(run_dir)

    payloads: list[bytes] = []

    def rebuild(payload: bytes) -> Any:
        from neuroferry.app.graph import flat_graph

        payloads.append(payload)
        return flat_graph(run_dir, pickle.loads(payload))

    code = run_pack(run_dir, arguments.round, arguments.pack, arguments.task, rebuild)
    if code == 0 and payloads:
        put_away_if_complete(run_dir, pickle.loads(payloads[0]))
    return code
