"""How well a brain and a template fit each other after their registration."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neuroferry.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Voxels of a warped brain that are darker than this fraction of its maximum are outside.
DARKEST = 0.02

GOOD_CORRELATION, LEAST_CORRELATION = 0.78, 0.5
GOOD_OVERLAP, LEAST_OVERLAP = 0.9, 0.7
SMALLEST_RATIO, LARGEST_RATIO = 0.45, 1.35
MOST_FOLDED = 100

Level = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class TemplateFit:
    """Fit of a warped brain to the template.

    Attributes
    ----------
    correlation : float
        Of intensities, inside the template's brain.
    overlap : float
        Dice overlap of the two brains.
    smallest_jacobian, largest_jacobian : float
        1st and 99th percentile of the local volume change, without the affine part.
    volume_ratio : float
        Volume of this brain over that of the template, by the affine part.
    folded : int
        Voxels of the template's brain where either displacement folds.
    verdict : {"good", "look", "bad"}
    reasons : list of str
        Reasons for a verdict other than good, as sentences.
    """

    correlation: float
    overlap: float
    smallest_jacobian: float
    largest_jacobian: float
    volume_ratio: float
    folded: int
    verdict: Level
    reasons: list[str]


def judge_fit(
    warped: NDArray[np.float32],
    static: NDArray[np.float32],
    inside: NDArray[np.bool_],
    jacobian: NDArray[np.floating],
    *,
    volume_ratio: float,
    folded: int,
) -> TemplateFit:
    """Judge the registration of a brain to a template.

    Parameters
    ----------
    warped : ndarray of float32, shape (I, J, K)
        The brain on the template's grid, zero outside, maximum one.
    static : ndarray of float32, shape (I, J, K)
        The template's brain.
    inside : ndarray of bool, shape (I, J, K)
        Its mask.
    jacobian : ndarray of float, shape (N,)
        Local volume change in the template's brain, without the affine part.
    volume_ratio : float
        Volume change of the affine part.
    folded : int
        Voxels where either displacement folds.

    Returns
    -------
    TemplateFit
    """
    flat = float(warped[inside].std()) == 0.0
    correlation = 0.0 if flat else float(np.corrcoef(warped[inside], static[inside])[0, 1])
    there = warped > DARKEST
    overlap = 2.0 * float((there & inside).sum()) / max(float(there.sum() + inside.sum()), 1.0)
    low, high = (float(value) for value in np.percentile(jacobian, (1, 99)))
    level, reasons = _judge(correlation, overlap, volume_ratio, folded)
    return TemplateFit(correlation, overlap, low, high, volume_ratio, folded, level, reasons)


def _judge(
    correlation: float, overlap: float, volume_ratio: float, folded: int
) -> tuple[Level, list[str]]:
    """Compare figures with those of sound registrations."""
    reasons = []
    bad = False
    if correlation < GOOD_CORRELATION:
        bad |= correlation < LEAST_CORRELATION
        reasons.append(
            f"The brain and the template are alike only to a correlation of {correlation:.2f}."
        )
    if overlap < GOOD_OVERLAP:
        bad |= overlap < LEAST_OVERLAP
        reasons.append(f"Only {100 * overlap:.0f} % of the brain and the template overlap.")
    if not SMALLEST_RATIO < volume_ratio < LARGEST_RATIO:
        reasons.append(
            f"The brain has {volume_ratio:.2f} times the volume of the template's: the brain mask"
            " may be wrong."
        )
    if folded > MOST_FOLDED:
        reasons.append(f"The transform folds space in {folded} voxels.")
    return ("bad" if bad else "look" if reasons else "good"), reasons


def write_fit(fit: TemplateFit, path: Path) -> Path:
    """Write a fit as JSON, numbers to four decimals."""
    content = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in asdict(fit).items()
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
