"""Placement of a field map on an EPI of the same session, and how far it can be trusted.

The two are registered by mutual information from several starts, among them the position of the
headers. No tissue boundary confirms the result, because the contrast of a field map's magnitude is
not known. Instead, the result has to be sharper than a few millimetres away, and what is found
from the headers has to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.epi.confidence import Level
from neuroferry.interfaces.epi.heads import (
    align_heads,
    even_out,
    mask_points,
    match_at,
    refine_heads,
    rms_distance,
)
from neuroferry.interfaces.image.images import Affine, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Calibrated on phantoms (benchmarks/coregistration.py): placements within 2 mm had 0.18 or more
# (4 mm away) and 0.34 or more (8 mm away), others 0.11 and 0.2 at most.
SHARP_4_MM, SHARP_8_MM = 0.14, 0.28
SAME_MM = 3.0
FAR_MM = 10.0


@dataclass(frozen=True)
class Placement:
    """Position of a field map relative to an EPI.

    Attributes
    ----------
    matrix : ndarray of float64, shape (4, 4)
        EPI points to field map points, RAS+ mm.
    sharpness : tuple of float
        Relative loss of mutual information when the field map is moved or turned by 4 and 8 mm.
    starts_differ_mm : float
        Root mean square distance over the brain to what is found from the headers alone.
    moved_mm : float
        The same to the position in the headers.
    """

    matrix: Affine
    sharpness: tuple[float, float]
    starts_differ_mm: float
    moved_mm: float

    @property
    def verdict(self) -> Level:
        """Whether the placement can be trusted."""
        return "look" if self.reasons else "good"

    @property
    def reasons(self) -> list[str]:
        """Reasons for a verdict other than good, as sentences."""
        found = []
        if self.sharpness[0] < SHARP_4_MM or self.sharpness[1] < SHARP_8_MM:
            found.append("The field map fits the image hardly better than a few millimetres away.")
        if self.starts_differ_mm > SAME_MM:
            found.append(
                f"From the position in the headers, another one is found"
                f" {self.starts_differ_mm:.0f} mm away."
            )
        if self.moved_mm > FAR_MM:
            found.append(f"It is {self.moved_mm:.0f} mm away from the position in the headers.")
        return found


def find_place(
    epi: Volume,
    magnitude: Volume,
    mask: NDArray[np.bool_],
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> Affine:
    """Register an EPI to the magnitude image of a field map.

    Parameters
    ----------
    epi : Volume
        The EPI, distorted or not.
    magnitude : Volume
        Undistorted image of the field map.
    mask : ndarray of bool, shape (I, J, K)
        Its brain.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        EPI points to field map points, RAS+ mm.
    """
    even, other = even_out(epi), even_out(magnitude)
    matrix, _ = align_heads(even, other, mask, sloppy=sloppy, seed=seed)
    return matrix


def refine_place(
    epi: Volume,
    magnitude: Volume,
    mask: NDArray[np.bool_],
    matrix: Affine,
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> Affine:
    """Refine a placement; parameters as for :func:`find_place`."""
    refined, _ = refine_heads(
        even_out(epi), even_out(magnitude), mask, matrix, sloppy=sloppy, seed=seed
    )
    return refined


def check_place(
    epi: Volume,
    magnitude: Volume,
    mask: NDArray[np.bool_],
    matrix: Affine,
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> Placement:
    """Compare a placement with the one found from the headers, and take the better one.

    Parameters
    ----------
    epi : Volume
        The EPI, unwarped with the field map in that place.
    magnitude, mask, sloppy, seed
        As for :func:`find_place`.
    matrix : ndarray of float64, shape (4, 4)
        The placement, EPI points to field map points, RAS+ mm.

    Returns
    -------
    Placement
    """
    even, other = even_out(epi), even_out(magnitude)
    # The middle of the field map's brain, seen from the EPI.
    brain = mask_points(mask, magnitude.affine)
    back = np.linalg.inv(matrix)
    points = back[:3, :3] @ brain + back[:3, 3:]
    from_header, _ = refine_heads(even, other, mask, np.eye(4), sloppy=True, seed=seed)
    apart = rms_distance(matrix, from_header, points)
    if apart > SAME_MM:
        here, there = (
            match_at(even, other, mask, place, seed=seed)[0] for place in (matrix, from_header)
        )
        if there > here:
            matrix, _ = refine_heads(even, other, mask, from_header, sloppy=sloppy, seed=seed)
    best, *away = match_at(even, other, mask, matrix, distances=(4.0, 8.0), seed=seed)
    loss = [1.0 - value / max(best, 1e-9) for value in away]
    return Placement(matrix, (loss[0], loss[1]), apart, rms_distance(matrix, np.eye(4), points))
