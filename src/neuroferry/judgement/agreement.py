"""Agreement of raters beyond chance: Cohen's kappa."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from neuroferry.files import write_json, write_lines
from neuroferry.judgement.ratings import ARTIFACTS, RATING_WORDS, Rating, of_rater

AGREEMENT_FILE = "qc_agreement.tsv"
"""Agreement of each pair of raters, in the output folder."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two raters on one thing.

    Attributes
    ----------
    raters : tuple of str
        The two.
    what : str
        ``"rating"``, ``"rating, weighted"``, or an artefact.
    n : int
        Images that both rated.
    observed : float
        Fraction of them on which they agree.
    kappa : float
        Cohen's kappa (1960, doi:10.1177/001316446002000104); weighted by squared differences for
        ``"rating, weighted"`` (1968, doi:10.1037/h0026256). NaN if both say the same of all.
    """

    raters: tuple[str, str]
    what: str
    n: int
    observed: float
    kappa: float


def agreements(ratings: Sequence[Rating]) -> list[Agreement]:
    """Compare each pair of raters on the images that both rated.

    Ratings are rounded to whole numbers. Of artefacts, those that any of the two reported are
    compared.
    """
    found = []
    raters = sorted({one.rater for one in ratings})
    for pair in combinations(raters, 2):
        one, other = (of_rater(ratings, rater) for rater in pair)
        names = sorted(set(one) & set(other))
        if not names:
            continue
        first, second = ([_whole(by[name].rating) for name in names] for by in (one, other))
        labels = list(RATING_WORDS)
        found.append(_compare(pair, "rating", first, second, labels))
        found.append(_compare(pair, "rating, weighted", first, second, labels, "quadratic"))
        for artifact in ARTIFACTS:
            saw = [[int(artifact in by[name].artifacts) for name in names] for by in (one, other)]
            if any(saw[0]) or any(saw[1]):
                found.append(_compare(pair, artifact, saw[0], saw[1], [0, 1]))
    return found


def _whole(rating: float) -> int:
    """Round a rating, halves up."""
    return math.floor(rating + 0.5)


def _compare(
    raters: tuple[str, str],
    what: str,
    first: Sequence[int],
    second: Sequence[int],
    labels: Sequence[int],
    weights: str | None = None,
) -> Agreement:
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    return Agreement(raters, what, len(first), observed, kappa(first, second, labels, weights))


def kappa(
    first: Sequence[int], second: Sequence[int], labels: Sequence[int], weights: str | None = None
) -> float:
    """Compute Cohen's kappa.

    Parameters
    ----------
    first, second : sequence of int
        What two raters say of the same images.
    labels : sequence of int
        All that can be said, in order.
    weights : {None, "linear", "quadratic"}
        How disagreement counts by distance.

    Returns
    -------
    float
        1 for perfect agreement, 0 for that of chance; NaN where chance alone agrees perfectly.
    """
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) < 2:
        return math.nan  # a division by zero
    return float(cohen_kappa_score(first, second, labels=list(labels), weights=weights))


def write_agreement(out_dir: Path, found: Sequence[Agreement]) -> Path:
    """Write the agreement of all pairs of raters as a table with a sidecar."""
    rows = ["\t".join(["rater_1", "rater_2", "what", "n", "observed", "kappa"])]
    for one in found:
        score = "n/a" if math.isnan(one.kappa) else f"{one.kappa:.4g}"
        rows.append("\t".join([*one.raters, one.what, str(one.n), f"{one.observed:.4g}", score]))
    path = out_dir / AGREEMENT_FILE
    write_lines(path, rows)
    texts = {
        "rater_1": "One rater",
        "rater_2": "The other",
        "what": "What is compared: the rating (1 to 4), or whether an artefact was seen",
        "n": "Images that both rated",
        "observed": "Fraction of the images on which both agree",
        "kappa": "Cohen's kappa, weighted by squared differences where this is said; n/a if both"
        " say the same of all images",
    }
    write_json(path.with_suffix(".json"), {k: {"Description": v} for k, v in texts.items()})
    return path
