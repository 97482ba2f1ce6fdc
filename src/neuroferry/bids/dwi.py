"""A participant's DWI runs, with checks of their files.

A DWI run is an image with one b-value and one direction per volume (``.bval``, ``.bvec``), both
found by the inheritance principle. Ambiguities are resolved in one place, `examine_dwi`, so that
the messages before processing match the processing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroferry.bids.entities import in_node_name
from neuroferry.bids.epi import settle_encoding
from neuroferry.bids.gradients import (
    B0_THRESHOLD,
    MIN_DIRECTIONS,
    Floats,
    Shell,
    check_bvals,
    determine_tensor,
    distinct_directions,
    find_shells,
    read_bvals,
    read_bvecs,
    settle_gradients,
    why_no_shells,
)
from neuroferry.bids.headers import SECONDS, ImageFacts, read_header
from neuroferry.bids.metadata import SidecarReader
from neuroferry.bids.model import OTHER_PARTS, Finding, Image, Problem, Subject, as_problem
from neuroferry.bids.timing import settle_slice_axis, settle_tr
from neuroferry.bids.volumes import all_the_same, judge_volumes
from neuroferry.errors import InputError

_ONLY_B0S = (
    "no volume is diffusion-weighted (b > {b:g} s/mm2), so there is nothing to process; the image"
    " is only used to correct the distortion of runs with the opposite phase encoding"
)


@dataclass(frozen=True)
class DwiRun:
    """One DWI run.

    Attributes
    ----------
    image : Image
        The file.
    bval, bvec : Path
        Its gradients, in FSL's format.
    shape : tuple of int
        Voxels of one volume along the stored axes.
    zooms : tuple of float
        Voxel size, mm.
    n_volumes : int
        Number of volumes that are used.
    bvals : tuple of float
        Theirs, s/mm2, checked (see `neuroferry.bids.gradients.settle_gradients`).
    shells : tuple of Shell
        Volumes with similar b-values, the b0 volumes first.
    n_directions : int
        Number of distinct directions; opposite ones count as one.
    fits_tensor : bool
        Whether the directions determine a tensor: at least six, and not in one plane.
    phase_encoding : str or None
        ``PhaseEncodingDirection``; None if the sidecar does not give the polarity.
    phase_axis : str or None
        ``i``, ``j`` or ``k``; known more often than the polarity.
    readout_time : float or None
        Total readout time, s.
    slice_axis : int
        Stored axis along which slices are stacked.
    no_shells : str
        Why the b-values form no shells; empty if they do.
    unusable_volumes : tuple of int
        Volumes of the file without a usable image, from 0: left out with their gradients.
    tr : float
        Repetition time, s; 0 if unknown.
    """

    image: Image
    bval: Path
    bvec: Path
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    n_volumes: int
    bvals: tuple[float, ...]
    shells: tuple[Shell, ...]
    n_directions: int
    fits_tensor: bool
    phase_encoding: str | None = None
    phase_axis: str | None = None
    readout_time: float | None = None
    slice_axis: int = 2
    no_shells: str = ""
    unusable_volumes: tuple[int, ...] = ()
    tr: float = 0.0

    @property
    def session(self) -> str | None:
        """The session's label, without ``ses-``."""
        return self.image.session

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return math.prod(self.shape)

    @property
    def entities(self) -> dict[str, str]:
        """The entities of the run."""
        return dict(self.image.entities)

    @property
    def label(self) -> str:
        """Name of the run in a graph: its entities other than participant and session.

        Examples
        --------
        >>> names = {"subject": "1", "acquisition": "b1k", "run": "2"}
        >>> image = Image(Path("x"), names, "dwi", "dwi")
        >>> DwiRun(image, Path(), Path(), (9, 9, 9), (2, 2, 2), 0, (), (), 0, False).label
        'acquisition_b1k_run_2'
        """
        return "_".join(
            f"{key}_{in_node_name(value)}"
            for key, value in self.entities.items()
            if key not in ("subject", "session")
        )


def dwi_images(subject: Subject) -> tuple[Image, ...]:
    """Select the diffusion-weighted images; phase and complex parts are skipped."""
    images = subject.select("dwi", "dwi")
    return tuple(run for run in images if run.entities.get("part") not in OTHER_PARTS)


class CheckedDwi(NamedTuple):
    """DWI runs of a participant, and their problems.

    Attributes
    ----------
    runs : list of DwiRun
        Those that can be processed, in the order of their names.
    problems : list of Problem
        Their problems, each about one run.
    unusable : set of Path
        Images that cannot be used. Images with only b0 volumes can: they correct the distortion
        of runs with the opposite phase encoding.
    """

    runs: list[DwiRun]
    problems: list[Problem]
    unusable: set[Path]


def check_dwi(subject: Subject, *, b0_threshold: float = B0_THRESHOLD) -> CheckedDwi:
    """Read and check a participant's DWI runs.

    Parameters
    ----------
    subject : Subject
        Participant whose images can be read.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    CheckedDwi
    """
    checked = CheckedDwi([], [], set())
    for image in dwi_images(subject):
        run, findings = examine_dwi(image, b0_threshold=b0_threshold)
        if run is not None:
            checked.runs.append(run)
        if any(finding.fatal for finding in findings):
            checked.unusable.add(image.path)
        checked.problems.extend(as_problem(image, finding) for finding in findings)
    return checked


def examine_dwi(
    run: Image, *, b0_threshold: float = B0_THRESHOLD
) -> tuple[DwiRun | None, list[Finding]]:
    """Determine the properties of a run from header, gradients and sidecar.

    Parameters
    ----------
    run : Image
        A diffusion-weighted image.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    DwiRun or None
        None if it cannot be processed.
    list of Finding
        Its problems, in plain sentences.
    """
    try:
        facts = read_header(run.path)
    except InputError as error:
        return None, [Finding(str(error), fatal=True)]
    if _is_b0s(run, b0_threshold):
        return None, [Finding(_ONLY_B0S.format(b=b0_threshold), fatal=False)]
    if len(facts.shape) < 4 or facts.shape[3] == 1:
        alone = (
            "the image has only one volume, but a DWI run has b0 and diffusion-weighted"
            " volumes; find the rest of the run, or give it the suffix sbref"
        )
        return None, [Finding(alone, fatal=True)]
    try:
        bval, bvec = (_find_beside(run, extension) for extension in (".bval", ".bvec"))
        written = read_bvals(bval)
        vectors, notes = read_bvecs(bvec)
        _check_counts((bval, written), facts.shape[3])
        _check_counts((bvec, vectors), facts.shape[3], "directions")
        bvals, unit, more = settle_gradients(written, vectors, b0_threshold)
    except InputError as error:
        return None, [Finding(str(error), fatal=True)]
    findings = [Finding(note, fatal=False) for note in (*notes, *more)]
    unusable, volume_findings = _settle_volumes(run, bvals, b0_threshold)
    findings += volume_findings
    if any(finding.fatal for finding in findings):
        return None, findings
    bvals, unit = np.delete(bvals, unusable), np.delete(unit, unusable, axis=0)
    shells = find_shells(bvals, b0_threshold)
    findings += _shell_findings(bvals, shells, b0_threshold)
    if {shell.is_b0 for shell in shells} != {True, False}:
        return None, findings
    findings += [Finding(note, fatal=False) for note in _direction_findings(unit)]
    no_shells = why_no_shells(bvals, b0_threshold)
    if no_shells:
        text = f"{no_shells}. Models that need shells, kurtosis and spherical deconvolution, are"
        findings.append(Finding(f"{text} left out", fatal=False))
    axis, text = settle_slice_axis(run.metadata, facts.volume_shape, facts.slice_axis)
    tr, about_tr = _settle_tr(run.metadata, facts)
    findings += [*about_tr, *([Finding(text, fatal=False)] if text else [])]
    encoding = settle_encoding(run)
    unknown = encoding.no_direction or encoding.no_readout_time
    if unknown:
        findings.append(Finding(f"distortion is not corrected: {unknown}", fatal=False))
    found = DwiRun(
        image=run,
        bval=bval,
        bvec=bvec,
        shape=facts.volume_shape,
        zooms=facts.voxel_size,
        n_volumes=len(bvals),
        bvals=tuple(float(b) for b in bvals),
        shells=shells,
        n_directions=len(distinct_directions(unit)),
        fits_tensor=determine_tensor(unit),
        phase_encoding=encoding.direction,
        phase_axis=encoding.axis,
        readout_time=encoding.readout_time,
        slice_axis=axis,
        no_shells=no_shells,
        unusable_volumes=unusable,
        tr=tr,
    )
    return found, findings


_LEFT_OUT = (
    "left out of the run together with its b-value and direction; look at the image, or convert it"
    " again"
)


def _settle_volumes(
    run: Image, bvals: Floats, b0_threshold: float
) -> tuple[tuple[int, ...], list[Finding]]:
    """Find the volumes that are left out, each compared with those of its shell."""
    if run.volumes is None:
        return (), []
    if all_the_same(run.volumes):
        text = "all volumes are the same to the last bit; convert the image again"
        return (), [Finding(text, fatal=True)]
    shells = find_shells(bvals, b0_threshold)
    judged = judge_volumes(run.volumes, [shell.volumes for shell in shells])
    findings = [Finding(text, fatal=False) for text in judged.sentences(_LEFT_OUT)]
    if len(judged.volumes) == len(bvals):
        findings.append(Finding("no volume holds a usable image; convert it again", fatal=True))
    return judged.volumes, findings


def _settle_tr(metadata: Mapping[str, Any], facts: ImageFacts) -> tuple[float, list[Finding]]:
    """Determine the repetition time, which a DWI run may lack; 0 if it does."""
    # Without a unit the header's value is what its software wrote for lack of another.
    header_tr = facts.tr if facts.units[1] in SECONDS else 0.0
    tr, findings = settle_tr(metadata, header_tr, facts.n_volumes)
    disagree = tr is not None and metadata.get("RepetitionTime") is not None
    return tr or 0.0, findings if disagree else []


def b0_volumes(image: Image, *, b0_threshold: float = B0_THRESHOLD) -> tuple[int, ...]:
    """Find the b0 volumes of an image, from its b-values alone.

    Parameters
    ----------
    image : Image
        A diffusion-weighted image, or a field map that has b-values.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    tuple of int
        From 0; may be empty.

    Raises
    ------
    InputError
        If there are no b-values, their number differs from that of the volumes, or they are
        invalid.
    """
    bval = _find_beside(image, ".bval")
    bvals = read_bvals(bval)
    _check_counts((bval, bvals), read_header(image.path).n_volumes)
    check_bvals(bvals)
    return tuple(int(index) for index in np.flatnonzero(bvals <= b0_threshold))


def has_bvals(image: Image) -> bool:
    """Check whether an image has b-values."""
    try:
        _find_beside(image, ".bval")
    except (InputError, OSError):
        return False
    return True


def _is_b0s(image: Image, b0_threshold: float) -> bool:
    """Check whether all volumes are b0 volumes, if the b-values can be read."""
    try:
        found = b0_volumes(image, b0_threshold=b0_threshold)
        return len(found) == read_header(image.path).n_volumes
    except InputError:
        return False


def _find_beside(image: Image, extension: str) -> Path:
    """Find the nearest file with an extension that applies to an image."""
    found = SidecarReader(image.root, extension).applicable(image.path)
    if not found:
        name = image.path.name.removesuffix(".gz").removesuffix(".nii")
        raise InputError(
            f"the {extension} file is missing; add {name}{extension}, or a file shared by several"
            " runs in a folder above"
        )
    return found[-1]


def _check_counts(table: tuple[Path, Floats], n_volumes: int, what: str = "b-values") -> None:
    path, values = table
    if len(values) != n_volumes:
        raise InputError(
            f"{path.name} has {len(values)} {what}, but the image has {n_volumes} volumes;"
            " find out which volumes are missing, or convert the images again"
        )


def _shell_findings(
    bvals: Floats, shells: tuple[Shell, ...], b0_threshold: float
) -> Iterator[Finding]:
    if not shells[0].is_b0:
        hint = ""
        if bvals.min() <= 200:
            hint = f", or use --b0-threshold {np.ceil(bvals.min()):g}"
        yield Finding(
            f"the run has no b0 volume: the smallest b-value is {bvals.min():g} s/mm2. Distortion"
            " correction, motion correction and coregistration need one, so the run is skipped;"
            f" append the b0 volumes to image, .bval and .bvec{hint}",
            fatal=True,
        )


def _direction_findings(unit: Floats) -> Iterator[str]:
    count = len(distinct_directions(unit))
    then = "the run is corrected, but no tensors, maps or streamlines can be computed from it"
    if count < MIN_DIRECTIONS:
        many = "1 direction" if count == 1 else f"{count} different directions"
        yield f"the run has {many}, but a tensor needs {MIN_DIRECTIONS}; {then}"
    elif not determine_tensor(unit):
        yield (
            f"its {count} directions lie in a plane or on a cone and do not determine a tensor;"
            f" {then}: check the .bvec file"
        )
