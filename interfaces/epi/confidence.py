"""Confidence in a boundary-based registration, from what the images themselves show.

Two questions have to be answered. Is this the right valley of the cost, or one of the many
shallow ones elsewhere? There the cost is high, and rises little a few millimetres away. And how
well do the edges fix the position within the valley? The cost is an average over the surface,
so that its minimum has a standard error, like any M-estimate: from its curvature, and from how
much patches of the surface disagree on where the minimum lies. Patches disagree because of noise,
and because of distortion, which is not rigid.

References
----------
.. [1] Huber PJ (1967). The behavior of maximum likelihood estimates under nonstandard
   conditions. Proc Fifth Berkeley Symp Math Stat Prob 1:221-233.
.. [2] Liang KY, Zeger SL (1986). Longitudinal data analysis using generalized linear models.
   Biometrika 73(1):13-22. doi:10.1093/biomet/73.1.13
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neuroferry.interfaces.epi.boundary import (
    Boundary,
    boundary_contrast,
    edge_gains,
)
from neuroferry.interfaces.image.affine import RIGID, compose
from neuroferry.interfaces.image.images import Affine, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rotations are expressed as the way of a point this far from the centre.
RADIUS_MM = 50.0
# Patches of the surface are taken as independent of each other.
PATCH_MM = 15.0
CURVATURE_STEP_MM = 1.0
AWAY_MM = 4.0
# Calibrated on phantoms (benchmarks/coregistration.py): the right valley, however noisy or
# distorted the image, had costs up to 0.64 and rose by 0.15 or more; wrong valleys, and other
# heads, had costs from 0.6 and rose by 0.1 at most: the rise tells them apart.
CONVINCING_COST, CONVINCING_RISE = 0.7, 0.12
GOOD_COST, GOOD_RISE = 0.55, 0.15
GOOD_EDGES = 0.6
GOOD_ERROR_MM = 0.75
GOOD_COVERAGE = 0.3
FAR_FROM_HEADER_MM = 25.0
# Where no edges are found, mutual information and the headers confirm each other within this.
CONFIRMED_BY_HEADER_MM = 5.0

Level = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Evidence:
    """What the EPI shows at the white-matter surface.

    Attributes
    ----------
    cost : float
        Boundary cost, 0 (best) to 2, of the pairs inside the field of view.
    edges : float
        Fraction of these pairs with the expected contrast.
    seen : float
        Fraction of pairs inside the field of view.
    rise : float
        Mean increase of the cost when the EPI is moved or turned by 4 mm.
    error_mm : float
        Expected root mean square error of the position over the brain, mm; infinite where the
        cost has no minimum.
    """

    cost: float
    edges: float
    seen: float
    rise: float
    error_mm: float


def gather_evidence(
    boundary: Boundary, epi: Volume, matrix: Affine, points: NDArray[np.float64]
) -> Evidence:
    """Examine a registration.

    Parameters
    ----------
    boundary : Boundary
        Pairs of points in T1w space.
    epi : Volume
        Image of even brightness, grey matter brighter than white matter.
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm.
    points : ndarray of float64, shape (3, N)
        Points of the brain in T1w space, RAS+ mm.

    Returns
    -------
    Evidence
    """
    centre = points.mean(axis=1)
    contrast = boundary_contrast(boundary, epi, matrix)
    known = np.isfinite(contrast)
    if not known.any():
        return Evidence(1.0, 0.0, 0.0, 0.0, float("inf"))
    part = boundary.part(known)
    away = [_gains_at(part, epi, matrix, way, centre).mean() for way in _ways(AWAY_MM)]
    here = float(edge_gains(contrast[known], part.slope).mean())
    return Evidence(
        cost=1.0 - here,
        edges=float(np.mean(contrast[known] > 0)),
        seen=float(known.mean()),
        rise=here - float(np.mean(away)),
        error_mm=_expected_error(part, epi, matrix, points),
    )


def _ways(step: float) -> NDArray[np.float64]:
    """List moves and turns forth and back, mm, shape (12, 6)."""
    unit = np.eye(RIGID) * step
    return np.vstack([unit, -unit])


def _gains_at(
    part: Boundary,
    epi: Volume,
    matrix: Affine,
    way: NDArray[np.float64],
    centre: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute the gain of each pair after a move and a turn, both in mm."""
    scale = np.array([1.0, 1.0, 1.0, *[1.0 / RADIUS_MM] * 3])
    moved = matrix @ compose(way * scale, centre)
    return edge_gains(boundary_contrast(part, epi, moved), part.slope)


def _expected_error(
    part: Boundary, epi: Volume, matrix: Affine, points: NDArray[np.float64]
) -> float:
    """Compute the standard error of the minimum over the brain, mm: a sandwich estimate."""
    centre, step = points.mean(axis=1), CURVATURE_STEP_MM
    unit = np.eye(RIGID) * step

    def gains(way: NDArray[np.float64]) -> NDArray[np.float64]:
        return _gains_at(part, epi, matrix, way, centre)

    here = float(gains(np.zeros(RIGID)).mean())
    forth, back = ([gains(sign * way) for way in unit] for sign in (1.0, -1.0))
    both = [float(a.mean() + b.mean()) for a, b in zip(forth, back, strict=True)]
    curvature = np.diag([2 * here - total for total in both]) / step**2
    for j in range(RIGID):
        for k in range(j):
            way = unit[j] + unit[k]
            crossed = float(gains(way).mean() + gains(-way).mean())
            curvature[j, k] = (both[j] + both[k] - crossed - 2 * here) / (2 * step**2)
            curvature[k, j] = curvature[j, k]
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        return float("inf")
    slopes = np.stack([(a - b) / (2 * step) for a, b in zip(forth, back, strict=True)], axis=1)
    slopes -= slopes.mean(axis=0)
    patches = _patches(part)
    sums = np.stack([np.bincount(patches, column) for column in slopes.T], axis=1) / len(slopes)
    bread = np.linalg.inv(curvature)
    covariance = bread @ (sums.T @ sums) @ bread
    moves = _moves_of(points, centre)
    return float(np.sqrt(np.einsum("nij,jk,nik->n", moves, covariance, moves).mean()))


def _patches(part: Boundary) -> NDArray[np.intp]:
    """Number the cubes of `PATCH_MM` that the pairs lie in."""
    cubes = np.floor(part.inner / PATCH_MM).astype(int)
    _, numbers = np.unique(cubes, axis=1, return_inverse=True)
    flat: NDArray[np.intp] = np.asarray(numbers, dtype=np.intp).ravel()
    return flat


def _moves_of(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute how points move with each parameter, shape (N, 3, 6)."""
    offsets = (points - centre[:, None]).T
    moves = np.zeros((len(offsets), 3, RIGID))
    moves[:, :, :3] = np.eye(3)
    for axis in range(3):
        moves[:, :, 3 + axis] = np.cross(np.eye(3)[axis], offsets) / RADIUS_MM
    return moves


def is_convincing(evidence: Evidence) -> bool:
    """Tell whether the edges of the EPI were found at all."""
    return (
        evidence.cost < CONVINCING_COST
        and evidence.rise > CONVINCING_RISE
        and bool(np.isfinite(evidence.error_mm))
    )


def judge(
    evidence: Evidence | None, *, from_header_mm: float, coverage: float
) -> tuple[Level, list[str]]:
    """Judge a registration to the T1w image.

    Parameters
    ----------
    evidence : Evidence or None
        What the white-matter surface shows; None without one.
    from_header_mm : float
        Root mean square displacement from the position of the headers.
    coverage : float
        Fraction of the brain in the field of view.

    Returns
    -------
    level : {"good", "look", "bad"}
        Bad: the surface was not found, so that the result is that of mutual information, and
        the headers do not confirm it either.
    reasons : list of str
    """
    level: Level = "good"
    reasons = []
    if evidence is None:
        reasons.append("There was no white-matter map, so only mutual information was used.")
    elif not is_convincing(evidence):
        level = "good" if from_header_mm <= CONFIRMED_BY_HEADER_MM else "bad"
        reasons.append(
            "The white-matter surface was not found in the image, so only mutual information was"
            " used"
            + (
                "; the position in the headers confirms its result."
                if level == "good"
                else f", and its result is {from_header_mm:.0f} mm away from the position in the"
                " headers."
            )
        )
    else:
        reasons += _doubts(evidence)
    if from_header_mm > FAR_FROM_HEADER_MM and level == "good":
        reasons.append(
            f"The result is {from_header_mm:.0f} mm away from the position in the headers."
        )
    if coverage < GOOD_COVERAGE:
        reasons.append(f"The field of view covers only {100 * coverage:.0f} % of the brain.")
    return ("look" if reasons and level == "good" else level), reasons


def _doubts(evidence: Evidence) -> list[str]:
    """List what the surface leaves open."""
    reasons = []
    if evidence.edges < GOOD_EDGES:
        reasons.append(
            f"Only {100 * evidence.edges:.0f} % of the white-matter surface is visible as an edge."
        )
    if evidence.cost > GOOD_COST or evidence.rise < GOOD_RISE:
        reasons.append(
            "The white-matter surface fits the edges of the image hardly better than "
            "a few millimetres away."
        )
    if evidence.error_mm > GOOD_ERROR_MM:
        reasons.append(f"The edges fix the position only to about {evidence.error_mm:.1f} mm.")
    return reasons
