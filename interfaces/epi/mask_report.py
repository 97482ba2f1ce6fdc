"""Plausibility of the brain mask of an EPI: its volume, and whether the field of view cuts it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.image.images import Affine

LARGEST_ML = 1900.0
"""Largest plausible volume of a brain with its fluid; men have 1,500 ml, with a standard deviation
of 150. Masks that hold scalp, eyes or neck are larger."""
SMALLEST_ML = 700.0
"""Smallest plausible volume of a brain that is wholly in the field of view: infants of a year."""
CUT_AREA = 0.5
"""Area of the mask at an end of the field of view, relative to its largest section, from which the
brain counts as cut. A cut through the lower cerebellum stays below."""
_ENDS = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "lower", "S": "upper"}


def describe_mask(mask: NDArray[np.bool_], affine: Affine) -> dict[str, Any]:
    """Describe a brain mask for the report.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    dict
        ``VolumeML``; ``AreaAtEdge``, the largest area of the mask in an outermost plane of the
        field of view relative to its largest section along that axis; ``verdict``, ``good`` or
        ``look``; ``reasons``, as sentences.

    Examples
    --------
    >>> ball = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0) < 17
    >>> found = describe_mask(ball, np.diag([4.0, 4, 4, 1]))
    >>> found["VolumeML"], found["verdict"]
    (1323.0, 'good')
    >>> describe_mask(ball[:, :, :22], np.diag([4.0, 4, 4, 1]))["reasons"]
    ['The upper end of the field of view cuts the brain, at 99% of its largest section.']
    """
    volume = float(np.count_nonzero(mask)) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    area, end = _area_at_edge(mask, affine)
    cut = area >= CUT_AREA
    reasons = []
    if volume > LARGEST_ML:
        reasons.append(
            f"The mask holds {volume:.0f} ml, more than a brain does ({LARGEST_ML:.0f} ml): it may"
            " include scalp, eyes or neck."
        )
    elif volume < SMALLEST_ML and not cut:
        reasons.append(
            f"The mask holds {volume:.0f} ml, less than a brain does ({SMALLEST_ML:.0f} ml)."
        )
    if cut:
        reasons.append(
            f"The {end} end of the field of view cuts the brain, at {100 * area:.0f}% of its"
            " largest section."
        )
    return {
        "VolumeML": round(volume, 1),
        "AreaAtEdge": round(area, 3),
        "verdict": "look" if reasons else "good",
        "reasons": reasons,
    }


def _area_at_edge(mask: NDArray[np.bool_], affine: Affine) -> tuple[float, str]:
    """Find the end of the field of view where most of the mask is cut."""
    from nibabel.orientations import aff2axcodes

    worst, name = 0.0, ""
    for axis, code in enumerate(aff2axcodes(affine)):
        areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        largest = int(areas.max(initial=0))
        opposite = dict(zip("LRPAIS", "RLAPSI", strict=True))[str(code)]
        for area, end in ((areas[0], opposite), (areas[-1], str(code))):
            if largest and area / largest > worst:
                worst, name = float(area) / largest, _ENDS[end]
    return worst, name
