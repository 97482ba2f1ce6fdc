"""Offer this machine, or this task of a SLURM allocation, to runs with ``--plugin Dask``.

In an allocation, ``srun neuroferry dask-worker FILE`` starts one worker on each node; the
first task also starts the scheduler, which writes FILE. Processors and memory are those of
the allocation. Workers end with the job, on Ctrl-C and on SIGTERM.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from neuroferry.app.environment import prepare_environment
from neuroferry.engine.resources import available_resources, parse_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "scheduler_file", metavar="FILE", help="file with the address of the scheduler"
    )
    parser.add_argument(
        "--nprocs", type=int, metavar="N", help="processors to offer (default: all available)"
    )
    parser.add_argument(
        "--mem",
        metavar="AMOUNT",
        help="memory to offer, such as 8GB (default: 90%% of what is available)",
    )
    parser.add_argument(
        "--no-scheduler", action="store_true", help="start a worker only, no scheduler"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from neuroferry.engine.dask.plugin import offer

    limits = available_resources()
    n_procs = arguments.nprocs or limits.n_procs
    memory = parse_memory(arguments.mem) if arguments.mem else round(0.9 * limits.memory_gb, 2)
    prepare_environment(n_procs)
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    offer(
        Path(arguments.scheduler_file).absolute(),
        n_procs=n_procs,
        memory_gb=memory,
        with_scheduler=first and not arguments.no_scheduler,
    )
    return 0
