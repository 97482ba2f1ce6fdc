"""Agreement of the runs of a session on where the head is.

Runs of one session share the scanner's coordinates, and each is registered to the T1w image on
its own. If the head does not lie in the same place, it moved between the runs, or was positioned
again, or one of the registrations is wrong. The runs' own registrations cannot tell which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.bids.entities import parse_name
from neuroferry.reports.scans import ScanRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_MM = 3.0
"""Distance between two runs of a session from which both need review."""


def position_doubts(runs: Sequence[ScanRun]) -> list[str]:
    """Name runs whose head lies elsewhere than in the other runs of their session.

    Parameters
    ----------
    runs : sequence of ScanRun
        All runs of a participant.

    Returns
    -------
    list of str
        One sentence a run; with two runs in a session, one for both.
    """
    sessions: dict[str, list[tuple[ScanRun, NDArray[np.float64]]]] = {}
    for run in runs:
        place = _place(run)
        if place is not None:
            entities = parse_name(f"{run.stem}_{run.modality.suffix}").entities
            sessions.setdefault(entities.get("session", ""), []).append((run, place))
    return [doubt for members in sessions.values() for doubt in _compare(members)]


def _place(run: ScanRun) -> NDArray[np.float64] | None:
    """Read where the head lies, shape (4, 3), RAS+ mm; None if it is not known."""
    try:
        points = np.asarray(run.part("Coregistration").get("head_mm"), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    sound = points.shape == (4, 3) and bool(np.isfinite(points).all())
    return points if sound else None


def _compare(members: Sequence[tuple[ScanRun, NDArray[np.float64]]]) -> list[str]:
    """Compare the runs of one session with their middle, or two runs with each other."""
    why = (
        "the head moved between the runs or was positioned again, or an alignment with the T1w "
        "image is wrong."
    )
    if len(members) == 2:
        (one, first), (other, second) = members
        apart = _distance(first, second)
        if apart <= LARGEST_MM:
            return []
        return [f"The head lies {apart:.0f} mm apart in {one.name} and {other.name}: {why}"]
    middle: NDArray[np.float64] = np.median([place for _, place in members], axis=0)
    doubts = []
    for run, place in members:
        apart = _distance(place, middle)
        if apart > LARGEST_MM:
            doubts.append(
                f"The head of {run.name} lies {apart:.0f} mm from where most runs of its session "
                f"have it: {why}"
            )
    return doubts


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Compute the root mean square distance of the points, mm."""
    return float(np.sqrt(np.mean(np.sum((one - other) ** 2, axis=1))))
