"""``neuroferry phantom``: write a BIDS dataset of digital heads with known ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from neuroferry.phantom import BoldOptions, DwiOptions, PhantomSubject

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
_DWI_EFFECTS = ("motion", "eddy", "distortion", "dropped", "noise", "bias")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write a valid BIDS dataset of digital heads whose tissues, masks, bias field and "
        "deformation are known; the ground truth is written to OUT/derivatives/truth. The heads "
        "are derived from the template that workflows register to, so accuracy measured on them "
        "is optimistic."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the new dataset")
    parser.add_argument(
        "--subjects", type=int, default=4, metavar="N", help="subjects (default: 4)"
    )
    parser.add_argument(
        "--resolution", type=float, default=1.0, metavar="MM", help="voxel size (default: 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of random numbers (default: 0)"
    )
    parser.add_argument(
        "--sessions", type=int, default=0, metavar="N", help="sessions per subject (default: none)"
    )
    parser.add_argument(
        "--runs", type=int, default=1, metavar="N", help="T1w images per session (default: 1)"
    )
    parser.add_argument("--t2w", action="store_true", help="add a T2w image to each session")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing phantom")

    _add_dicom_arguments(parser.add_argument_group("DICOM"))
    _add_bold_arguments(parser.add_argument_group("BOLD runs"))
    _add_dwi_arguments(parser.add_argument_group("DWI runs"))


def _add_dicom_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dicom",
        choices=("classic", "mosaic", "enhanced"),
        metavar="FORM",
        help="also write all scans as a scanner exports them, to OUT/sourcedata: classic, mosaic "
        "or enhanced (default: none)",
    )
    group.add_argument(
        "--dicom-vendor",
        choices=("siemens", "ge", "philips"),
        default="siemens",
        help="whose scanner exports them (default: siemens)",
    )


def _add_bold_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bold", type=int, metavar="N", help="add BOLD runs of N volumes (default: none)"
    )
    group.add_argument(
        "--bold-resolution", type=float, default=3.0, metavar="MM", help="voxel size (default: 3)"
    )
    group.add_argument(
        "--bold-tr", type=float, default=2.0, metavar="S", help="repetition time (default: 2)"
    )
    group.add_argument(
        "--bold-runs", type=int, default=1, metavar="N", help="runs per session (default: 1)"
    )
    group.add_argument(
        "--bold-echo-times",
        type=float,
        nargs="+",
        default=[30.0],
        metavar="MS",
        help="echo times; more than one for multi-echo runs (default: 30)",
    )
    group.add_argument(
        "--bold-snr",
        type=float,
        default=50.0,
        metavar="SNR",
        help="signal-to-noise ratio of grey matter (default: 50)",
    )
    group.add_argument(
        "--bold-direction",
        choices=("AP", "PA", "LR", "RL"),
        default="AP",
        help="phase-encoding direction (default: AP)",
    )
    group.add_argument(
        "--bold-coverage",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="fraction of the brain's height covered by slices (default: 1)",
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
        help=f"effects to omit: {', '.join(_EFFECTS)}",
    )


def _add_dwi_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dwi",
        type=int,
        metavar="DIRECTIONS",
        help="add DWI runs with this number of directions per shell (default: none)",
    )
    group.add_argument(
        "--dwi-resolution", type=float, default=2.0, metavar="MM", help="voxel size (default: 2)"
    )
    group.add_argument(
        "--dwi-bvals",
        type=float,
        nargs="+",
        default=[1000.0],
        metavar="B",
        help="b-value of each shell in s/mm2 (default: 1000)",
    )
    group.add_argument(
        "--dwi-b0", type=int, default=4, metavar="N", help="b0 volumes (default: 4)"
    )
    group.add_argument(
        "--dwi-snr",
        type=float,
        default=30.0,
        metavar="SNR",
        help="signal-to-noise ratio of white matter in b0 volumes (default: 30)",
    )
    group.add_argument(
        "--dwi-direction",
        nargs="+",
        choices=("AP", "PA", "LR", "RL"),
        default=["AP"],
        help="phase-encoding direction of each run (default: AP)",
    )
    group.add_argument(
        "--dwi-fieldmaps",
        nargs="*",
        choices=("phasediff", "phases", "direct", "epi"),
        default=["epi"],
        help="field maps of each session (default: epi)",
    )
    group.add_argument(
        "--dwi-without",
        nargs="+",
        choices=_DWI_EFFECTS,
        default=[],
        metavar="EFFECT",
        help=f"effects to omit: {', '.join(_DWI_EFFECTS)}",
    )


def dwi_options(arguments: argparse.Namespace) -> DwiOptions | None:
    """Return the requested DWI runs; None if none are requested."""
    from neuroferry.phantom import DwiOptions

    if arguments.dwi is None:
        return None
    off = {"motion": {"drift": 0.0, "jerk": 0.0}, "noise": {"snr": 0.0}}
    chosen: dict[str, Any] = {
        "bvals": tuple(arguments.dwi_bvals),
        "n_b0": arguments.dwi_b0,
        "resolution": arguments.dwi_resolution,
        "snr": arguments.dwi_snr,
        "direction": arguments.dwi_direction[0],
        "more_runs": tuple(arguments.dwi_direction[1:]),
        "fieldmaps": tuple(arguments.dwi_fieldmaps),
    }
    for effect in arguments.dwi_without:
        chosen |= off.get(effect, {effect: 0.0})
    return DwiOptions(arguments.dwi, **chosen)


def bold_options(arguments: argparse.Namespace) -> BoldOptions | None:
    """Return the requested BOLD runs; None if none are requested."""
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
    """Write the dataset, and return the exit code."""
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
        t2w=arguments.t2w,
        bold=bold_options(arguments),
        dwi=dwi_options(arguments),
        overwrite=arguments.overwrite,
        progress=report,
    )
    if arguments.dicom is not None:
        from neuroferry.phantom.dicom import write_dicom

        source = arguments.out / "sourcedata"
        folders = write_dicom(
            arguments.out, source, form=arguments.dicom, vendor=arguments.dicom_vendor
        )
        print(f"{len(folders)} series of DICOM in {source}")
    print(f"Wrote {arguments.out}; ground truth in {arguments.out / 'derivatives' / 'truth'}")
    return ExitCode.OK
