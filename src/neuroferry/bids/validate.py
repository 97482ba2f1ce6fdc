"""Checks of a dataset before anything is computed, with problems in plain sentences."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroferry.bids.headers import read_header
from neuroferry.bids.images import check_image, survey_image
from neuroferry.bids.metadata import read_json, shown
from neuroferry.bids.model import Image, Problem, Subject
from neuroferry.bids.tables import read_table
from neuroferry.bids.volumes import VolumeFacts
from neuroferry.errors import ExitCode, InputError

__all__ = ["check_image", "check_sidecar", "check_subjects", "validate_dataset"]

_VALIDATOR = "bids-validator-deno"
#: Issues of the validator that `check_image` reports in more detail, for the images in use.
_LEFT_TO_CHECK_IMAGE = {
    "EMPTY_FILE",
    "NIFTI_HEADER_UNREADABLE",
    "T1W_FILE_WITH_TOO_MANY_DIMENSIONS",
}
#: Issues that only arise because the validator sees some of the participants.
_BY_SELECTION = {"PARTICIPANT_ID_MISMATCH"}
#: Validator's code to the problem and what to do; other codes keep the validator's words.
_PLAIN: dict[str, tuple[str, str]] = {
    "NOT_INCLUDED": (
        "the name is not a valid BIDS name",
        "rename the file, or list it in .bidsignore",
    ),
    "REPETITION_TIME_MISMATCH": (
        "the repetition times in the sidecar and in the image's header differ",
        "find out which is right and correct the other",
    ),
    "SIDECAR_KEY_REQUIRED": ("the sidecar lacks {sub}, which BIDS requires", "add it"),
    "JSON_INVALID": ("the file is not valid JSON", "correct it"),
    "JSON_SCHEMA_VALIDATION_ERROR": (
        "a value in the JSON file is not allowed by BIDS",
        "correct it",
    ),
    "STIMULUS_FILE_MISSING": (
        "a stimulus file named in the events does not exist",
        "add it below stimuli/, or correct the events",
    ),
    "TSV_VALUE_INCORRECT_TYPE": (
        "a value in the column {sub} is not of the type that BIDS requires",
        "correct the table",
    ),
    "EMPTY_FILE": ("the file is empty", "copy it again"),
    "NIFTI_HEADER_UNREADABLE": ("the image's header cannot be read", "copy or convert it again"),
    "TOTAL_READOUT_TIME_MUST_DEFINE": (
        "neither TotalReadoutTime nor EffectiveEchoSpacing is given",
        "add one of them to the sidecar",
    ),
    "DATATYPE_MISMATCH": ("the file is in the wrong folder for its type", "move it"),
    "SIDECAR_WITHOUT_DATAFILE": ("the sidecar belongs to no image", "rename or remove it"),
}


def validate_dataset(
    bids_dir: str | Path,
    subjects: Sequence[Subject],
    *,
    use_validator: bool = True,
    time_limit: float = 60.0,
) -> list[Problem]:
    """Check the dataset as a whole and, with the BIDS validator, the requested participants.

    Errors of the validator are warnings here: real datasets have some, mostly in files that
    the run does not use. `check_subjects` finds unusable images.

    Parameters
    ----------
    bids_dir : path
        Root of the dataset.
    subjects : sequence of Subject
        The requested participants; files of others are not checked.
    use_validator : bool
        Run ``bids-validator-deno`` if it is installed.
    time_limit : float
        Seconds after which the validator is stopped.

    Returns
    -------
    list of Problem
        Warnings, one per rule and participant.

    Raises
    ------
    InputError
        With exit code 16, if ``dataset_description.json`` is missing or not a JSON object.
    """
    root = Path(os.path.abspath(bids_dir))  # noqa: PTH100  (resolve() would follow links)
    problems = [*_check_description(root), *_check_participants(root, subjects)]
    if use_validator and (program := _find_validator()) is not None:
        problems += _run_validator(program, root, subjects, time_limit)
    return problems


def check_subjects(
    subjects: Sequence[Subject],
    *,
    suffixes: Collection[str] = ("T1w",),
    n_procs: int = 1,
) -> list[Subject]:
    """Check each image that a run will use, and remove unusable ones.

    Problems across images (echoes, gradients, field maps) are found when the participant is
    planned.

    Parameters
    ----------
    subjects : sequence of Subject
        From `neuroferry.bids.index.index_subjects`.
    suffixes : collection of str
        Suffixes of the images that the requested workflows read.
    n_procs : int
        Threads; most time is spent in decompression, which releases the interpreter's lock.

    Returns
    -------
    list of Subject
        The same participants, without images that have errors, with all problems; series with
        the facts about their volumes.
    """

    def check(run: Image) -> tuple[list[Problem], VolumeFacts | None]:
        series = run.datatype in ("func", "dwi", "perf") and run.suffix != "sbref"
        ndim = 4 if series or run.datatype == "fmap" else 3
        problems, volumes = survey_image(run.path, ndim=ndim)
        return [*problems, *check_sidecar(run)], volumes

    runs = [run for subject in subjects for run in subject.images if run.suffix in suffixes]
    with ThreadPoolExecutor(max_workers=max(1, n_procs)) as pool:
        try:
            found = dict(zip((run.path for run in runs), pool.map(check, runs), strict=True))
        except BaseException:  # such as Ctrl-C, which should not wait for the others
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [_without_unusable(subject, found) for subject in subjects]


def _without_unusable(
    subject: Subject, found: Mapping[Path, tuple[list[Problem], VolumeFacts | None]]
) -> Subject:
    nothing: tuple[list[Problem], VolumeFacts | None] = [], None
    problems = [
        (run, problem) for run in subject.images for problem in found.get(run.path, nothing)[0]
    ]
    unusable = {run.path for run, problem in problems if problem.severity == "error"}
    return replace(
        subject,
        images=tuple(
            replace(run, volumes=found.get(run.path, nothing)[1])
            for run in subject.images
            if run.path not in unusable
        ),
        problems=subject.problems + tuple(problem for _, problem in problems),
    )


def check_sidecar(run: Image) -> list[Problem]:
    """Check that an image has metadata, and that it is consistent.

    Returns
    -------
    list of Problem
        Warnings: missing sidecar, times in milliseconds instead of seconds, image said to be
        skull-stripped, slice thickness much larger than the voxels.
    """
    subject = run.entities.get("subject")

    def warn(message: str) -> Problem:
        return Problem(f"{run.path}: {message}", "warning", run.path, subject)

    if not run.metadata:
        text = "there are no metadata, as the sidecar JSON file is missing, empty or unreadable"
        return [warn(f"{text}; add it so that they can be checked")]
    problems = []
    for key, longest in (("EchoTime", 1.0), ("RepetitionTime", 100.0), ("InversionTime", 100.0)):
        value = run.metadata.get(key)
        if isinstance(value, int | float) and value > longest:
            problems.append(
                warn(
                    f"the sidecar has {key} = {value:g} s, which is probably in milliseconds;"
                    " write it in seconds"
                )
            )
    if run.datatype == "anat" and run.metadata.get("SkullStripped") is True:
        problems.append(
            warn(
                "the sidecar says that the skull was removed, but brain extraction expects a whole"
                " head; look at the brain mask"
            )
        )
    thickness = run.metadata.get("SliceThickness")
    zooms = _voxel_size(run.path)
    # Interpolated slices are half as thick as the acquired ones, never a third.
    if zooms and isinstance(thickness, int | float) and thickness > 2.5 * max(zooms):
        problems.append(
            warn(
                f"the sidecar has SliceThickness = {thickness:g} mm, but the largest side of a"
                f" voxel is {max(zooms):.3g} mm; check whether sidecar and image belong together"
            )
        )
    return problems


def _voxel_size(path: Path) -> tuple[float, ...]:
    """Read the voxel size in mm; empty for an image that `check_image` rejects."""
    try:
        return read_header(path).zooms[:3]
    except InputError:
        return ()


def _check_description(root: Path) -> Iterator[Problem]:
    path = root / "dataset_description.json"
    if not os.path.lexists(path):
        raise InputError(
            f"{root} has no dataset_description.json and is not a BIDS dataset; give the dataset's"
            ' root, or write the file: {"Name": "...", "BIDSVersion": "1.10.0"}',
            exit_code=ExitCode.INVALID_BIDS,
        )
    try:
        description = read_json(path)
    except InputError as error:
        raise InputError(str(error), exit_code=ExitCode.INVALID_BIDS) from error
    for key in ("Name", "BIDSVersion"):
        said = description.get(key)
        if said is None:
            yield Problem(f"{path} lacks {key}, which BIDS requires; add it", "warning", path)
        elif not isinstance(said, str):
            text = f"{path}: {key} is {shown(said)}, but must be text; write it in quotation marks"
            yield Problem(text, "warning", path)
    if description.get("DatasetType") == "derivative":
        yield Problem(
            f"{path} says that these are derivatives, but the workflows expect raw data from the"
            " scanner",
            "warning",
            path,
        )


def _check_participants(root: Path, subjects: Sequence[Subject]) -> Iterator[Problem]:
    """Check ``participants.tsv``, whose columns go into the tables of the overview."""
    path = root / "participants.tsv"
    if not os.path.lexists(path):
        return
    try:
        table = read_table(path)
    except InputError as error:
        yield Problem(f"{error}; its columns are left out of the overview", "warning", path)
        return
    notes = list(table.notes)
    if "participant_id" not in table.columns:
        notes.append("it has no column participant_id, so nothing in it is used")
    else:
        listed = Counter(cell.removeprefix("sub-") for _, cell in table.column("participant_id"))
        twice = [s.label for s in subjects if listed[s.label] > 1]
        if twice:
            names = ", ".join(f"sub-{label}" for label in twice)
            notes.append(f"{names} has more than one line; the first is used")
    for note in notes:
        yield Problem(f"{path}: {note}", "warning", path)


def _find_validator() -> str | None:
    beside = Path(sys.executable).parent / _VALIDATOR
    return str(beside) if beside.exists() else shutil.which(_VALIDATOR)


def _run_validator(
    program: str, root: Path, subjects: Sequence[Subject], time_limit: float
) -> list[Problem]:
    def failed(why: str) -> list[Problem]:
        message = f"The BIDS validator {why}; the dataset was not checked against its rules"
        return [Problem(message, "warning", root)]

    with tempfile.TemporaryDirectory(prefix="neuroferry-") as folder:
        view = Path(folder) / "dataset"
        report = Path(folder) / "report.json"
        try:
            _link_subset(root, view, [subject.label for subject in subjects])
            done = subprocess.run(
                [program, "--ignoreWarnings", "--format", "json", "-o", str(report), str(view)],
                capture_output=True,
                timeout=time_limit,
                check=False,
                env={**os.environ, "NO_COLOR": "1"},
            )
        except subprocess.TimeoutExpired:
            return failed(f"did not end within {time_limit:g} s and was stopped")
        except OSError as error:
            return failed(f"failed ({error})")
        try:
            issues = json.loads(report.read_text(encoding="utf-8"))["issues"]
            return list(_translate(issues, root, subjects))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            words = done.stderr.decode(errors="replace").split()
            return failed(f"failed ({' '.join(words[-30:]) or 'no error message'})")


def _link_subset(root: Path, view: Path, labels: list[str]) -> None:
    """Make a folder of links to the dataset's own files and to some participants.

    The validator reads everything it is given: 12 s for 1,000 participants, 0.4 s for one.
    """
    view.mkdir()
    others = {"derivatives", "sourcedata", "code"}
    wanted = {f"sub-{label}" for label in labels}
    for entry in root.iterdir():
        is_other = entry.name.startswith("sub-") and entry.name not in wanted
        if not is_other and entry.name not in others:
            (view / entry.name).symlink_to(entry)


def _translate(
    report: dict[str, Any], root: Path, subjects: Sequence[Subject]
) -> Iterator[Problem]:
    """Turn the validator's issues into one problem per rule and participant."""
    in_use = {run.path for subject in subjects for run in subject.images}
    groups: dict[tuple[str, str, str | None], list[Path]] = {}
    for issue in report["issues"]:
        code, path = issue["code"], root / issue.get("location", "").lstrip("/")
        seen_elsewhere = code in _LEFT_TO_CHECK_IMAGE and path in in_use
        if issue.get("severity") != "error" or code in _BY_SELECTION or seen_elsewhere:
            continue
        first = path.relative_to(root).parts[:1]
        subject = first[0][4:] if first and first[0].startswith("sub-") else None
        paths = groups.setdefault((code, issue.get("subCode", ""), subject), [])
        if path not in paths:
            paths.append(path)
    for (code, sub, subject), paths in sorted(groups.items(), key=lambda group: str(group[0])):
        if code in _PLAIN:
            what, cure = _PLAIN[code]
        else:
            words = " ".join(report.get("codeMessages", {}).get(code, code).split())
            what, cure = words.split(". ")[0].rstrip("."), "see the BIDS specification"
        shown = ", ".join(str(path.relative_to(root)) for path in sorted(paths)[:3])
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        message = f"{shown}{more}: {what.format(sub=sub)}; {cure} (BIDS validator: {code})"
        yield Problem(message, "warning", paths[0], subject)
