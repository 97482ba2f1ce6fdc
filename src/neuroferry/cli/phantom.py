"""``neuroferry phantom``: write a BIDS dataset of digital heads with a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from neuroferry.phantom import PhantomSubject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write a valid BIDS dataset of digital heads whose tissues, masks, bias field and "
        "deformation are known; the truth goes to OUT/derivatives/truth. The heads descend "
        "from the template that workflows register to, so figures measured on them are "
        "optimistic."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new dataset")
    parser.add_argument("--subjects", type=int, default=4, metavar="N", help="people (default: 4)")
    parser.add_argument(
        "--resolution", type=float, default=1.0, metavar="MM", help="voxel size (default: 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default: 0)"
    )
    parser.add_argument(
        "--sessions", type=int, default=0, metavar="N", help="sessions a subject (default: none)"
    )
    parser.add_argument(
        "--runs", type=int, default=1, metavar="N", help="T1w scans a session (default: 1)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a phantom that is there already"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the dataset; returns the exit code."""
    from neuroferry.errors import ExitCode
    from neuroferry.phantom import write_phantom_dataset

    def report(subject: PhantomSubject) -> None:
        person = subject.parameters
        kind = "child" if person.child else "adult"
        print(f"sub-{subject.label}: {kind}, {person.age:g} years, {person.sex}", flush=True)

    write_phantom_dataset(
        arguments.out,
        subjects=arguments.subjects,
        resolution=arguments.resolution,
        seed=arguments.seed,
        sessions=arguments.sessions,
        runs=arguments.runs,
        overwrite=arguments.overwrite,
        progress=report,
    )
    print(f"Wrote {arguments.out}; its truth is in {arguments.out / 'derivatives' / 'truth'}")
    return ExitCode.OK
