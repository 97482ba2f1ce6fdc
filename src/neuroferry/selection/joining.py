"""Choice of the DWI runs of a session that are joined."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuroferry.bids.dwi import DwiRun
from neuroferry.bids.entities import ENTITIES
from neuroferry.bids.gradients import (
    B0_THRESHOLD,
    determine_tensor,
    distinct_directions,
    find_shells,
    read_bvals,
    read_bvecs,
    settle_gradients,
    why_no_shells,
)
from neuroferry.bids.headers import read_header, same_axes
from neuroferry.bids.timing import settle_echo_time

# Relative difference up to which voxel sizes and times are the same.
SAME = 0.01
# Runs of one scheme differ in these: others stand for another reconstruction or contrast.
_MAY_DIFFER = ("subject", "session", "acquisition", "direction", "run")


@dataclass(frozen=True)
class Joined:
    """Runs that are joined.

    Attributes
    ----------
    runs : tuple of DwiRun
        In the order of their names.
    run : DwiRun
        The joined run, on the common grid; its image and files are those of the first.
    """

    runs: tuple[DwiRun, ...]
    run: DwiRun


def plan_joined(
    runs: Sequence[DwiRun], corrected: Collection[Path], *, b0_threshold: float = B0_THRESHOLD
) -> tuple[list[Joined], list[str]]:
    """Choose which DWI runs of a participant are joined.

    Nothing is guessed: runs are joined if they are of one session, their names differ in ``acq``,
    ``dir`` or ``run`` alone, they have the same voxels, echo time and repetition time, and their
    distortion is corrected in both, or the same in both. What is joined needs a name of its own.

    Parameters
    ----------
    runs : sequence of DwiRun
        Runs of one participant.
    corrected : collection of path
        Images of the runs whose distortion is corrected with a field map.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    list of Joined
        Each of at least two runs.
    list of str
        Why other runs of a session are not joined, in plain sentences.
    """
    groups: list[list[DwiRun]] = []
    reasons: list[str] = []
    for run in runs:
        why = []
        for group in groups:
            if group[0].session != run.session:
                continue
            reason = _difference(group[0], run, corrected)
            if not reason:
                group.append(run)
                break
            why.append(
                f"{run.image.path.name} is not joined with {group[0].image.path.name}: {reason}"
            )
        else:
            groups.append([run])
            reasons += why
    found: list[Joined] = []
    taken = [run.entities for run in runs]
    for group in groups:
        if len(group) < 2:
            continue
        joined = _join(group, b0_threshold)
        if joined.run.entities in taken:
            names = " and ".join(run.image.path.name for run in group)
            reasons.append(
                f"{names} are not joined: other results have the name of the joined run"
            )
            continue
        taken.append(joined.run.entities)
        found.append(joined)
    return found, reasons


def _difference(first: DwiRun, other: DwiRun, corrected: Collection[Path]) -> str:
    """Explain why two runs are not joined; empty if they are."""
    unlike = [
        key
        for entity, key in ENTITIES.items()
        if entity not in _MAY_DIFFER and first.entities.get(entity) != other.entities.get(entity)
    ]
    if unlike:
        return f"they differ in {' and '.join(unlike)}, so they are no parts of one scheme"
    one, two = (read_header(run.image.path) for run in (first, other))
    if not np.allclose(first.zooms, other.zooms, rtol=SAME / 10):
        return "their voxel sizes differ"
    if not same_axes(one.affine, two.affine):
        return "their voxel axes point in different directions"
    for key, times in (
        ("EchoTime", [settle_echo_time(run.image.metadata) for run in (first, other)]),
        ("RepetitionTime", [run.tr or None for run in (first, other)]),
    ):
        if None in times and (key == "EchoTime" or times[0] is not times[1]):
            return f"{key} is missing in a sidecar, and contrast depends on it"
        if times[0] and times[1] and abs(times[0] - times[1]) > SAME * times[0]:
            return f"they differ in {key} ({times[0]:g} and {times[1]:g} s), and so in contrast"
    unwarped = [run.image.path in corrected for run in (first, other)]
    if all(unwarped):
        return ""
    if any(unwarped):
        return "distortion is corrected in only one of them"
    if first.phase_encoding is None or first.phase_encoding != other.phase_encoding:
        return "their distortion is not corrected, and not known to be the same"
    readouts = first.readout_time, other.readout_time
    if readouts[0] and readouts[1] and abs(readouts[0] - readouts[1]) > SAME * readouts[0]:
        return "their distortion is not corrected, and their readout times differ"
    return ""


def _join(runs: Sequence[DwiRun], b0_threshold: float) -> Joined:
    """Describe several runs as one."""
    first = runs[0]
    shared = {
        key: value
        for key, value in first.entities.items()
        if all(run.entities.get(key) == value for run in runs)
    }
    rec = shared.get("reconstruction", "")
    bvals, directions = [], []
    for run in runs:
        vectors, _ = read_bvecs(run.bvec)
        values, unit, _ = settle_gradients(read_bvals(run.bval), vectors, b0_threshold)
        bvals.append(np.delete(values, run.unusable_volumes))
        directions.append(np.delete(unit, run.unusable_volumes, axis=0))
    values, unit = np.concatenate(bvals), np.concatenate(directions)
    together = replace(
        first,
        image=replace(first.image, entities={**shared, "reconstruction": f"{rec}joined"}),
        n_volumes=len(values),
        bvals=tuple(float(b) for b in values),
        shells=find_shells(values, b0_threshold),
        n_directions=len(distinct_directions(unit)),
        fits_tensor=determine_tensor(unit),
        no_shells=why_no_shells(values, b0_threshold),
        unusable_volumes=(),
    )
    return Joined(tuple(runs), together)
