"""Precomputed estimates for a BOLD run, by neuroferry or fMRIPrep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.entities import parse_name
from neuroferry.bids.headers import grid_difference, read_header
from neuroferry.bids.outputs import bids_uri
from neuroferry.bids.precomputed import check_dataset
from neuroferry.errors import InputError
from neuroferry.files import read_input

Part = TypeVar("Part")

#: Entities that describe a file, and not the run that it belongs to.
_OF_THE_FILE = ("description", "from", "to", "mode", "part", "echo")
#: Part of a transform, by its from, to and desc entities.
_XFMS = {
    "orig boldref hmc": "motion_xfms",
    "boldref T1w coreg": "boldref2anat_xfm",
    "T1w boldref coreg": "anat2boldref_xfm",
}


def find_bold(
    datasets: Mapping[str, Path], run: BoldRun
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Find precomputed estimates for a BOLD run.

    The parts belong together: motion, mask and coregistration are those of one reference. So they
    come from the first dataset that has a reference of the run.

    Parameters
    ----------
    datasets : mapping of str to pathlib.Path
        Derivative datasets by name.
    run : BoldRun
        The run; the files must have exactly its entities.

    Returns
    -------
    dict of str to str
        Files: ``bold_ref``, ``motion_xfms``, ``boldref2anat_xfm``, ``anat2boldref_xfm``,
        ``bold_mask``.
    dict of str to list of str
        The BIDS URIs that sidecars cite them by.

    Raises
    ------
    InputError
        If a dataset is missing, has two files for one part, or has parts of another run.
    """
    for name, root in datasets.items():
        check_dataset(name, root)
        files = _sort(root, run)
        if "bold_ref" not in files:
            continue
        if "boldref2anat_xfm" not in files:
            files.pop("anat2boldref_xfm", None)
        _check(files, run)
        found = {part: str(path) for part, path in files.items()}
        return found, {part: [bids_uri(path, root, name)] for part, path in files.items()}
    return {}, {}


def without_position(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Remove the transforms to and from the T1w image, where that is another image now.

    >>> without_position({"bold_ref": "a", "boldref2anat_xfm": "b", "anat2boldref_xfm": "c"})
    {'bold_ref': 'a'}
    """
    return {part: value for part, value in parts.items() if "anat" not in part}


def _sort(root: Path, run: BoldRun) -> dict[str, Path]:
    """Sort the files of the run in a dataset by part."""
    folder = root / f"sub-{run.entities['subject']}"
    if run.session is not None:
        folder = folder / f"ses-{run.session}"
    wanted = {key: value for key, value in run.entities.items() if key not in _OF_THE_FILE}
    files: dict[str, Path] = {}
    for path in sorted((folder / "func").glob(f"sub-{run.entities['subject']}*")):
        part = _part(path, wanted)
        if part is None:
            continue
        if part in files:
            raise InputError(
                f"{root} has two files for the {part} of one run: {files[part]} and {path}. "
                "Keep only the one to be used."
            )
        files[part] = path
    return files


def _part(path: Path, wanted: Mapping[str, str]) -> str | None:
    entities, suffix, extension = parse_name(path)
    if {key: value for key, value in entities.items() if key not in _OF_THE_FILE} != wanted:
        return None
    description = entities.get("description")
    if suffix == "xfm" and extension == ".txt" and entities.get("mode") == "image":
        way = " ".join(entities.get(key, "") for key in ("from", "to", "description"))
        return _XFMS.get(way)
    if extension not in (".nii", ".nii.gz"):
        return None
    return {("boldref", "hmc"): "bold_ref", ("mask", "brain"): "bold_mask"}.get(
        (suffix, description or "")
    )


def _check(files: Mapping[str, Path], run: BoldRun) -> None:
    """Check that parts can belong to the run."""
    for part in ("bold_ref", "bold_mask"):
        if part not in files:
            continue
        difference = grid_difference(read_header(files[part]), read_header(run.reference.path))
        if difference:
            raise _of_another_run(files[part], run, f"it is on a different grid ({difference})")
    if "motion_xfms" in files:
        path = files["motion_xfms"]
        text = read_input(path).decode("utf-8", "replace")
        count = sum(line.startswith("Parameters:") for line in text.splitlines())
        if count != run.n_volumes:
            why = f"it has {count} transforms, but the run has {run.n_volumes} volumes"
            raise _of_another_run(files["motion_xfms"], run, why)


def _of_another_run(path: Path, run: BoldRun, why: str) -> InputError:
    return InputError(
        f"{path} does not belong to {run.reference.path}: {why}. Use derivatives of this "
        "run, or none."
    )
