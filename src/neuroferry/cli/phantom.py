"""``neuroferry phantom``: write a BIDS dataset of digital heads with a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from neuroferry.phantom import BoldOptions, PhantomSubject

_EFFECTS = (
    "motion",
    "noise",
    "activation",
    "physiology",
    "slicetiming",
    "transient",
    "distortion",
    "dropout",
    "bias",
)


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

    _add_bold_arguments(parser.add_argument_group("functional scans"))


def _add_bold_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bold", type=int, metavar="N", help="add BOLD runs of N volumes (default: none)"
    )
    group.add_argument(
        "--bold-resolution", type=float, default=3.0, metavar="MM", help="(default: 3)"
    )
    group.add_argument(
        "--bold-tr", type=float, default=2.0, metavar="S", help="repetition time (default: 2)"
    )
    group.add_argument(
        "--bold-runs", type=int, default=1, metavar="N", help="runs a session (default: 1)"
    )
    group.add_argument(
        "--bold-echo-times",
        type=float,
        nargs="+",
        default=[30.0],
        metavar="MS",
        help="more than one makes the runs multi-echo (default: 30)",
    )
    group.add_argument(
        "--bold-snr",
        type=float,
        default=50.0,
        metavar="SNR",
        help="grey matter over the noise (default: 50)",
    )
    group.add_argument(
        "--bold-direction",
        choices=("AP", "PA", "LR", "RL"),
        default="AP",
        help="phase encoding, from ... to (default: AP)",
    )
    group.add_argument(
        "--bold-coverage",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the brain's height within the slices (default: 1)",
    )
    group.add_argument(
        "--bold-fieldmaps",
        nargs="*",
        choices=("phasediff", "phases", "direct", "epi"),
        default=["phasediff", "epi"],
        help="field maps of each session (default: phasediff epi)",
    )
    group.add_argument(
        "--bold-without",
        nargs="+",
        choices=_EFFECTS,
        default=[],
        metavar="EFFECT",
        help=f"effects to leave out: {', '.join(_EFFECTS)}",
    )


def bold_options(arguments: argparse.Namespace) -> BoldOptions | None:
    """Functional scans that the arguments ask for; None where they ask for none."""
    from neuroferry.phantom import BoldOptions

    if arguments.bold is None:
        return None
    off: dict[str, dict[str, Any]] = {
        "motion": {"drift": 0.0, "jerk": 0.0},
        "noise": {"snr": 0.0},
        "slicetiming": {"slice_timing": False},
        "transient": {"transient": False},
        "dropout": {"dropout": False},
    }
    chosen: dict[str, Any] = {
        "resolution": arguments.bold_resolution,
        "tr": arguments.bold_tr,
        "runs": arguments.bold_runs,
        "echo_times": tuple(te / 1000 for te in arguments.bold_echo_times),
        "snr": arguments.bold_snr,
        "direction": arguments.bold_direction,
        "coverage": arguments.bold_coverage,
        "fieldmaps": tuple(arguments.bold_fieldmaps),
    }
    for effect in arguments.bold_without:
        chosen |= off.get(effect, {effect: 0.0})
    return BoldOptions(arguments.bold, **chosen)


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
        bold=bold_options(arguments),
        overwrite=arguments.overwrite,
        progress=report,
    )
    print(f"Wrote {arguments.out}; its truth is in {arguments.out / 'derivatives' / 'truth'}")
    return ExitCode.OK
