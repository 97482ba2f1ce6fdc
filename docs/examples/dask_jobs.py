"""Run neuroferry on workers that are jobs of a batch system, as many as there is work for.

    pip install dask-jobqueue 'distributed==<version of the image>'
    python dask_jobs.py sge --cores 8 --memory-gb 32 --jobs 20 --worker-python "$WORKER" \
        -- ./neuroferry BIDS_DIR OUTPUT_DIR participant

``WORKER`` is what starts Python in a job, see docs/schedulers.rst. Jobs are submitted when steps
wait, and end when nothing is left for them. Everything after ``--`` is the run's command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import dask_jobqueue

SYSTEMS = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=sorted(SYSTEMS))
    parser.add_argument("--cores", type=int, default=8, help="processors of a job")
    parser.add_argument("--memory-gb", type=float, default=32, help="memory of a job")
    parser.add_argument("--jobs", type=int, default=10, help="most jobs at the same time")
    parser.add_argument("--walltime", default="24:00:00")
    parser.add_argument("--queue")
    parser.add_argument("--directive", action="append", default=[], help="line of the job script")
    parser.add_argument("--resource-spec", help="resources in the batch system's own words")
    parser.add_argument("--interface", help="network interface between the machines, as eth0")
    parser.add_argument("--logs", default="dask-logs", help="folder for the jobs' output")
    parser.add_argument("--worker-python", default=sys.executable)
    parser.add_argument("command", nargs="+", help="the run's command, after --")
    return parser.parse_args()


def make_cluster(arguments: argparse.Namespace) -> Any:
    """Describe a job; none is submitted yet."""
    options: dict[str, Any] = {
        "cores": arguments.cores,
        # one worker a job; it divides the job's processors and memory among steps itself
        "processes": 1,
        "nanny": False,
        "memory": f"{arguments.memory_gb} GB",
        "python": arguments.worker_python,
        "job_extra_directives": arguments.directive,
        "log_directory": arguments.logs,
        "interface": arguments.interface,
        "worker_extra_args": [
            "--resources",
            f"processors={arguments.cores},memory_gb={0.9 * arguments.memory_gb:g}",
        ],
    }
    if arguments.system != "htcondor":
        options |= {"walltime": arguments.walltime, "queue": arguments.queue}
    if arguments.resource_spec is not None:
        options["resource_spec"] = arguments.resource_spec
    cluster = getattr(dask_jobqueue, SYSTEMS[arguments.system])(**options)
    cluster.adapt(maximum_jobs=arguments.jobs)
    return cluster


def main() -> int:
    """Run the command, with the address of the scheduler."""
    arguments = read_arguments()
    with make_cluster(arguments) as cluster:
        scheduler = ["--plugin", "Dask", "--dask-scheduler", cluster.scheduler_address]
        return subprocess.run(
            [*arguments.command, *scheduler, "--dask-wait-minutes", "0"]
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
