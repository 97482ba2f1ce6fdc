"""How far to trust a brain mask: a confidence, a verdict, and reasons in plain words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neuroferry.files import write_text
from neuroferry.interfaces.anat.locate import Location

# Mutual information of the winning start (nats, 4 mm, 32 classes): heads found score
# 0.39 to 0.55, misplaced ones stay below 0.25.
SCORE_RANGE = (0.20, 0.38)
AGREEMENT_MM = (4.0, 15.0)
VOLUME_ML = (650.0, 900.0, 1900.0, 2300.0)
GOOD_CONFIDENCE = 0.5
TURNED_CONFIDENCE = 0.4


@dataclass(frozen=True)
class BrainScore:
    """What a brain mask is worth.

    Attributes
    ----------
    confidence : float
        0 to 1: the lowest of the ratings of score, agreement and volume.
    verdict : str
        ``good``, or ``look``: a person should look at this mask.
    mutual_information : float or None
        Of head and template in the template's brain, nats; None for a mask from elsewhere.
    agreement_mm : float or None
        Distance between the winner and the next best refined starts.
    volume_ml : float
        Volume of the mask.
    starts_tried : int
        Over all searches.
    skull_stripped : bool
        The image held no head, only a brain.
    reasons : tuple of str
        Why the verdict is what it is, in plain words.
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
    """Linear rating: 0 at `bad`, 1 at `good`, clipped.

    >>> rate(3.0, 2.0, 4.0), rate(9.0, 10.0, 5.0), rate(1.0, 2.0, 4.0)
    (0.5, 0.2, 0.0)
    """
    return float(np.clip((value - bad) / (good - bad), 0.0, 1.0))


def assess(location: Location, volume_ml: float, starts: int, *, stripped: bool) -> BrainScore:
    """Turn a location and a volume into a confidence and a verdict with reasons.

    Parameters
    ----------
    location : Location
        Winner of the search.
    volume_ml : float
        Volume of the mask.
    starts : int
        Starts tried over all searches.
    stripped : bool
        Whether the image held a brain only.

    Returns
    -------
    BrainScore
    """
    ratings = {
        "The head resembles the template's brain little where it was placed "
        f"(mutual information {location.score:.2f}).": rate(location.score, *SCORE_RANGE),
        "The best starts of the search ended in different places "
        f"({location.agreement_mm:.0f} mm apart).": rate(
            location.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]
        ),
        _volume_reason(volume_ml): rate_volume(volume_ml),
    }
    confidence = min(ratings.values())
    reasons = [reason for reason, rating in ratings.items() if rating < 1.0]
    if location.turned:
        confidence = min(confidence, TURNED_CONFIDENCE)
        reasons.append(
            "The head lies along other axes than the header says; check left and right."
        )
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    if stripped:
        reasons.append("The image is skull-stripped already; its own edge was kept.")
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
    """Rate where the brain was placed, by resemblance and by agreement of the starts: 0 to 1."""
    return min(
        rate(location.score, *SCORE_RANGE),
        rate(location.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]),
    )


def assess_given(volume_ml: float) -> BrainScore:
    """Rate a mask that was computed elsewhere, by its volume alone."""
    confidence = rate_volume(volume_ml)
    reasons = ["The mask was computed elsewhere."]
    if confidence < 1.0:
        reasons.append(_volume_reason(volume_ml))
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    return BrainScore(
        round(confidence, 4), verdict, None, None, round(volume_ml, 1), 0, False, tuple(reasons)
    )


def rate_volume(volume_ml: float) -> float:
    """Plausibility of a brain's volume, children included: 0 to 1.

    >>> rate_volume(1400.0), rate_volume(3000.0)
    (1.0, 0.0)
    """
    smallest, small, large, largest = VOLUME_ML
    return min(rate(volume_ml, smallest, small), rate(volume_ml, largest, large))


def _volume_reason(volume_ml: float) -> str:
    """Say that a volume is unusual."""
    return f"The mask holds {volume_ml:.0f} ml, which is unusual for a brain."


def write_score(score: BrainScore, path: Path) -> Path:
    """Write a score as JSON."""
    write_text(path, json.dumps(asdict(score), indent=2) + "\n")
    return path
