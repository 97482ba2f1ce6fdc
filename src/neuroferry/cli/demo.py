"""Create a small example dataset and process it completely."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from neuroferry.config import make_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the example")
    parser.add_argument("--subjects", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument(
        "--resolution", type=float, default=1.5, metavar="MM", help="voxel size; default: 1.5"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default: 1")
    parser.add_argument("--sloppy", action="store_true", help="fast, low-quality processing")
    parser.add_argument("--nprocs", type=int, metavar="N", help="processors (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Write phantoms and run the BIDS App on them.

    Returns
    -------
    int
        The exit code of the run.
    """
    from neuroferry.app.run import run as run_app
    from neuroferry.phantom import write_phantom_dataset

    out = arguments.out.absolute()
    dataset = out / "bids"
    if not (dataset / "dataset_description.json").exists():
        print(f"Creating {arguments.subjects} digital heads in {dataset}", file=sys.stderr)
        write_phantom_dataset(
            dataset,
            subjects=arguments.subjects,
            resolution=arguments.resolution,
            seed=arguments.seed,
        )
    config = make_config(
        {
            "bids_dir": dataset,
            "output_dir": out / "derivatives",
            "workflow": {"sloppy": arguments.sloppy},
            "execution": {"work_dir": out / "work", "nprocs": arguments.nprocs},
        }
    )
    code = run_app(config, command="neuroferry demo")
    # Inside the image, OUT has another name than on the host, where the browser runs.
    seen = Path(os.environ.get("NEUROFERRY_HOST_OUT", out))
    print(f"Open {seen / 'derivatives' / 'index.html'} in a browser.", file=sys.stderr)
    return code
