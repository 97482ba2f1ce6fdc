"""Confidence in a brain mask: a score, a verdict, and reasons as sentences."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neuroferry.files import write_text
from neuroferry.interfaces.anat.locate import Location

# Mutual information of the winning start (nats, 4 mm, 32 classes): 0.39 to 0.55 where the head
# was found, below 0.25 where it was misplaced.
SCORE_RANGE = (0.20, 0.38)
AGREEMENT_MM = (4.0, 15.0)
VOLUME_ML = (650.0, 900.0, 1900.0, 2300.0)
GOOD_CONFIDENCE = 0.5
TURNED_CONFIDENCE = 0.4


@dataclass(frozen=True)
class BrainScore:
    """Quality of a brain mask.

    Attributes
    ----------
    confidence : float
        0 to 1: the lowest rating of mutual information, agreement and volume.
    verdict : str
        ``good``, or ``look``: the mask should be checked visually.
    mutual_information : float or None
        Of head and template inside the template's brain, nats; None for a precomputed mask.
    agreement_mm : float or None
        Distance between the best and the next best refined starts.
    volume_ml : float
        Volume of the mask.
    starts_tried : int
        Number of starts over all searches.
    skull_stripped : bool
        Whether the image is skull-stripped.
    reasons : tuple of str
        Reasons for the verdict, as sentences.
    """

    confidence: float
    verdict: str
    mutual_information: float | None
    agreement_mm: float | None
    volume_ml: float
    starts_tried: int
    skull_stripped: bool
    reasons: tuple[str, ...]


def rate(value: float, bad: float, good: float) -> float:
    """Rate a value linearly: 0 at `bad`, 1 at `good`, clipped.

    >>> rate(3.0, 2.0, 4.0), rate(9.0, 10.0, 5.0), rate(1.0, 2.0, 4.0)
    (0.5, 0.2, 0.0)
    """
    return float(np.clip((value - bad) / (good - bad), 0.0, 1.0))


def assess(location: Location, volume_ml: float, starts: int, *, stripped: bool) -> BrainScore:
    """Derive a confidence and a verdict with reasons from a location and a volume.

    Parameters
    ----------
    location : Location
        Best location of the search.
    volume_ml : float
        Volume of the mask.
    starts : int
        Number of starts over all searches.
    stripped : bool
        Whether the image is skull-stripped.

    Returns
    -------
    BrainScore
    """
    ratings = {
        "The head resembles the registered template brain only weakly "
        f"(mutual information {location.score:.2f}).": rate(location.score, *SCORE_RANGE),
        "The best starts of the search converged to different positions "
        f"({location.agreement_mm:.0f} mm apart).": rate(
            location.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]
        ),
        _volume_reason(volume_ml): rate_volume(volume_ml),
    }
    confidence = min(ratings.values())
    reasons = [reason for reason, rating in ratings.items() if rating < 1.0]
    if location.turned:
        confidence = min(confidence, TURNED_CONFIDENCE)
        reasons.append("The orientation of the head contradicts the header; check left and right.")
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    if stripped:
        reasons.append("The image is already skull-stripped; its own edge was kept.")
    return BrainScore(
        round(confidence, 4),
        verdict,
        round(location.score, 4),
        round(location.agreement_mm, 2),
        round(volume_ml, 1),
        starts,
        stripped,
        tuple(reasons),
    )


def rate_location(location: Location) -> float:
    """Rate the location by mutual information and agreement of the starts: 0 to 1."""
    return min(
        rate(location.score, *SCORE_RANGE),
        rate(location.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]),
    )


def assess_given(volume_ml: float) -> BrainScore:
    """Rate a precomputed mask by its volume alone."""
    confidence = rate_volume(volume_ml)
    reasons = ["The mask is precomputed."]
    if confidence < 1.0:
        reasons.append(_volume_reason(volume_ml))
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    return BrainScore(
        round(confidence, 4), verdict, None, None, round(volume_ml, 1), 0, False, tuple(reasons)
    )


def rate_volume(volume_ml: float) -> float:
    """Rate the plausibility of a brain volume, children included: 0 to 1.

    >>> rate_volume(1400.0), rate_volume(3000.0)
    (1.0, 0.0)
    """
    smallest, small, large, largest = VOLUME_ML
    return min(rate(volume_ml, smallest, small), rate(volume_ml, largest, large))


def _volume_reason(volume_ml: float) -> str:
    """Describe an unusual volume."""
    return f"The volume of the mask, {volume_ml:.0f} ml, is unusual for a brain."


def write_score(score: BrainScore, path: Path) -> Path:
    """Write a score as JSON."""
    write_text(path, json.dumps(asdict(score), indent=2) + "\n")
    return path
