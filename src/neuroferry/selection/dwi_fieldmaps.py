"""Susceptibility distortion correction of DWI runs: by field maps, or another run's b0 volumes.

Field maps by ``B0FieldSource``, ``IntendedFor`` or from the folder ``fmap/`` take precedence.
Without them, two runs of a session with opposite phase encoding are each other's field map.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from neuroferry.bids.dwi import DwiRun, dwi_images
from neuroferry.bids.epi import epi_encoding, opposite_of
from neuroferry.bids.gradients import B0_THRESHOLD
from neuroferry.bids.grids import direction_along, reordered
from neuroferry.bids.headers import read_header
from neuroferry.bids.intended import is_intended, texts_of
from neuroferry.bids.model import Image, Subject
from neuroferry.bids.timing import settle_echo_time
from neuroferry.errors import InputError
from neuroferry.selection.epi_fieldmaps import Epi, check_tilt, examine_epi, pair_plan
from neuroferry.selection.fieldmap_plan import FieldmapPlan, without_fieldmap
from neuroferry.selection.fieldmaps import find_fieldmap

FMAP_ID = "autob0s"
# Relative difference below which voxel sizes, readout times and echo times are the same.
SAME = 0.01
# Entities that may differ between two runs of one kind.
_OF_THE_RUN = ("direction", "run")


class _Other(NamedTuple):
    """A usable run with the opposite phase encoding, and its rank."""

    epi: Epi
    intended: bool
    rank: tuple[bool, int, int, str]


def choose_dwi_fieldmap(
    subject: Subject,
    run: DwiRun,
    *,
    ignore: Collection[str] = (),
    b0_threshold: float = B0_THRESHOLD,
) -> FieldmapPlan:
    """Choose the susceptibility distortion correction of a DWI run.

    Parameters
    ----------
    subject : Subject
        Its images.
    run : DwiRun
        The run.
    ignore : collection of str
        With "fieldmaps" nothing is used, not even other runs.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    FieldmapPlan
        With the first available of: field maps named by ``B0FieldSource``; those assigned by
        ``IntendedFor``; the only set in ``fmap/`` that names no run; the b0 volumes of another
        run of the session.
    """
    if "fieldmaps" in ignore:
        return FieldmapPlan(origin="option")
    found = find_fieldmap(subject, (run.image,), b0_threshold=b0_threshold)
    if isinstance(found, FieldmapPlan):
        return found
    if texts_of(run.image.metadata, "B0FieldSource"):
        return without_fieldmap(run.image, found.reasons)
    other = _from_other_run(subject, run, b0_threshold)
    if isinstance(other, FieldmapPlan):
        instead = [
            f"{run.image.path.name}: {reason}. The b0 volumes of {_names(other)} are used instead."
            for reason in found.reasons
            if found.meant
        ]
        return replace(other, warnings=(*instead, *other.warnings))
    return without_fieldmap(run.image, ["; ".join([*found.reasons, *other])])


def _names(plan: FieldmapPlan) -> str:
    return " and ".join(path.rsplit("/", 1)[-1] for path in plan.epi)


def _from_other_run(
    subject: Subject, run: DwiRun, b0_threshold: float
) -> FieldmapPlan | list[str]:
    """Plan a correction with the b0 volumes of another run, or explain why there is none."""
    images = [image for image in dwi_images(subject) if image.session == run.session]
    others = [image for image in images if image.path != run.image.path]
    if not others:
        return []
    try:
        direction, readout, notes = epi_encoding(run.image)
    except InputError as error:
        return [str(error)]
    reasons: list[str] = []
    usable: list[_Other] = []
    for image in others:
        try:
            found = _examine(run, image, b0_threshold)
        except InputError as error:
            reasons.append(str(error))
        else:
            usable += [found] if found else []
    if not usable:
        return reasons or [_none_opposite(run.image, others, direction)]
    best = min(usable, key=lambda other: other.rank)
    return replace(
        pair_plan([best.epi], notes),
        origin="IntendedFor" if best.intended else "inferred",
        fmap_id=FMAP_ID,
        phase_encoding=direction,
        readout_time=readout,
    )


def _none_opposite(run: Image, others: Sequence[Image], direction: str) -> str:
    """Explain that no run has the opposite phase encoding, though a name may suggest it."""
    text = (
        "no other DWI run of its session has the opposite phase encoding, "
        f"{opposite_of(direction)}"
    )
    label = run.entities.get("direction")
    for other in others:
        along = _along(other, run)
        written = str(other.metadata.get("PhaseEncodingDirection")).rstrip("+")
        if written == opposite_of(direction) and along == direction:
            return (
                f"{text}: {other.path.name} has {written}, but its axes are stored in other"
                f" directions, and along those of this run it is {along}"
            )
        named = other.entities.get("direction")
        same = str(other.metadata.get("PhaseEncodingDirection")).rstrip("+") == direction
        if label and named and same and named != label:
            return (
                f"{text}; the names have dir-{label} and dir-{named}, but PhaseEncodingDirection"
                f" is {direction} in both sidecars: correct the one that is wrong"
            )
    return text


def _examine(run: DwiRun, other: Image, b0_threshold: float) -> _Other | None:
    """Examine whether another run is usable; None if its direction is not the opposite.

    Raises
    ------
    InputError
        If it is the opposite, but something is missing or contradicts its use.
    """
    _, readout, notes = epi_encoding(other)
    direction, own_readout, _ = epi_encoding(run.image)
    if _along(other, run.image) != opposite_of(direction):
        return None
    name = other.path.name
    intended = is_intended(other, run.image)
    if not intended and _is_for_others(other, run.image):
        raise InputError(
            f"{name} has the opposite phase encoding, but its IntendedFor or B0FieldIdentifier"
            " assigns it to other runs"
        )
    _check_grid(run, other)
    if not math.isclose(readout, own_readout, rel_tol=SAME):
        raise InputError(
            f"{name} has the opposite phase encoding, but its readout takes {readout:g} s and that"
            f" of this run {own_readout:g} s; correct the sidecars, or use B0FieldIdentifier"
            " and B0FieldSource to say that they belong together"
        )
    if _is_normalised(other) != _is_normalised(run.image):
        names = (name, run.image.path.name)
        normalised, plain = names if _is_normalised(other) else names[::-1]
        raise InputError(
            f"{name} has the opposite phase encoding, but the scanner normalised the intensity of"
            f" {normalised} (NORM in ImageType) and not that of {plain}, which would be mistaken"
            " for distortion"
        )
    times = [settle_echo_time(image.metadata) for image in (run.image, other)]
    if times[0] and times[1] and not math.isclose(times[0], times[1], rel_tol=SAME):
        notes = [
            *notes,
            f"{run.image.path.name} and {name} differ in EchoTime ({times[0]:g} and"
            f" {times[1]:g} s), and so in contrast; check their distortion correction.",
        ]
    check_tilt(other, run.image)
    epi = examine_epi(other, run.image, b0_threshold)._replace(notes=tuple(notes))
    return _Other(epi, intended, _rank(run.image, other, intended=intended))


def _along(image: Image, run: Image) -> str:
    """Express the phase encoding of an image in the axes of a run; empty if it is unknown."""
    try:
        direction, _, _ = epi_encoding(image)
    except InputError:
        return ""
    return direction_along(direction, read_header(image.path).affine, read_header(run.path).affine)


def _is_normalised(run: Image) -> bool:
    """Check whether the scanner normalised the intensity, as noted by Siemens."""
    kinds = run.metadata.get("ImageType")
    return isinstance(kinds, list) and "NORM" in kinds


def _is_for_others(other: Image, run: Image) -> bool:
    """Check whether a run is assigned as a field map, but not to this one."""
    identifiers = texts_of(other.metadata, "B0FieldIdentifier")
    if identifiers:
        return not set(identifiers) & set(texts_of(run.metadata, "B0FieldIdentifier"))
    return bool(texts_of(other.metadata, "IntendedFor"))


def _check_grid(run: DwiRun, other: Image) -> None:
    """Check that a run has the same voxels, and so the same distortion."""
    own = read_header(run.image.path)
    grid = reordered(read_header(other.path), own)
    found = [
        (image.shape[:3], np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0))
        for image in (grid, own)
    ]
    if found[0][0] != found[1][0] or not np.allclose(found[0][1], found[1][1], rtol=SAME):
        sizes = (
            f"{' x '.join(map(str, shape))} voxels of"
            f" {' x '.join(f'{size:.3g}' for size in voxel)} mm"
            for shape, voxel in found
        )
        raise InputError(
            f"{other.path.name} has the opposite phase encoding, but a different matrix"
            f" ({' and '.join(sizes)})"
        )


def _rank(run: Image, other: Image, *, intended: bool) -> tuple[bool, int, int, str]:
    """Rank a usable run: the assigned one first, then those of the same kind and number."""
    keys = (set(run.entities) | set(other.entities)) - set(_OF_THE_RUN)
    differing = sum(run.entities.get(key) != other.entities.get(key) for key in keys)
    numbers = [image.entities.get("run", "0") for image in (run, other)]
    apart = abs(int(numbers[0]) - int(numbers[1])) if all(n.isdigit() for n in numbers) else 0
    return not intended, differing, apart, other.path.name
