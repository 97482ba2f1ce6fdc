"""A model of the site's own ratings, honest about what it can do.

Logistic regression on metrics, measured on images that it has not seen (`accuracy`). A model that
does not beat chance is not kept. The model is JSON: numbers, no code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.metadata import read_json
from neuroferry.errors import ExitCode, InputError
from neuroferry.files import write_json
from neuroferry.judgement.accuracy import Accuracy, Floats, fit, measure
from neuroferry.judgement.ratings import Rating, by_image, median_rating
from neuroferry.judgement.rules import DIRECTED, Rules
from neuroferry.judgement.tables import Scan, Scans

MODEL_FILE = "qc_model.json"
"""The model, in the output folder."""
FEWEST_EACH = 10
"""Images rated "exclude", and images rated better, at least."""
FEWEST = 40
"""Rated images, at least."""
FEWEST_SITES = 3
"""Sites, at least, to leave one out at a time."""
MOST_MISSING = 0.2
"""Largest fraction of images that may lack a metric that is used."""


@dataclass(frozen=True)
class Model:
    """A logistic regression, as numbers.

    Attributes
    ----------
    modality : str
        Its scans.
    features : tuple of str
        Metrics.
    fill, mean, scale, weights : tuple of float
        Of each metric: what stands for a missing value, what is subtracted, what then divides, and
        the weight.
    intercept : float
        Added to the weighted sum.
    n, n_bad : int
        Images that it was learned from, and those of them to be excluded.
    accuracies : tuple of Accuracy
        Measured on images that were left out.
    """

    modality: str
    features: tuple[str, ...]
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    n: int
    n_bad: int
    accuracies: tuple[Accuracy, ...]

    @property
    def useful(self) -> bool:
        """Whether it is better than chance in every scheme."""
        return all(found.auc.low > 0.5 for found in self.accuracies)


def learn(
    scans: Scans,
    ratings: Sequence[Rating],
    *,
    modality: str,
    directions: Mapping[str, str],
    rules: Rules,
    site_column: str = "",
) -> Model:
    """Learn which scans of a modality people exclude.

    Parameters
    ----------
    scans : Scans
        The scans with their metrics.
    ratings : sequence of Rating
        Ratings by people; an image counts as excluded if the median is below
        ``rules.exclude_below``.
    modality : str
        The modality.
    directions : mapping of str to str
        ``better`` of each metric; those without direction (sizes, counts) are not used, as they
        tell scanners apart rather than good from bad.
    rules : Rules
        What ratings mean.
    site_column : str
        Column that names the site; empty: none.

    Returns
    -------
    Model
        Learned from all rated scans, with what the same procedure achieves on those left out.

    Raises
    ------
    InputError
        If there are too few ratings, sites or metrics; the message gives the bound.
    """
    rated, bad = _rated(scans.of.get(modality, ()), ratings, rules)
    n_bad = int(bad.sum())
    if n_bad < FEWEST_EACH or len(rated) - n_bad < FEWEST_EACH or len(rated) < FEWEST:
        raise InputError(
            f"{len(rated)} {modality} images are rated, {n_bad} of them below"
            f" {rules.exclude_below:g}: too few to learn from. It takes {FEWEST}, with"
            f" {FEWEST_EACH} to exclude and {FEWEST_EACH} others."
        )
    features = [
        name
        for name, better in directions.items()
        if better in DIRECTED
        and sum(name not in scan.metrics for scan in rated) <= MOST_MISSING * len(rated)
    ]
    if not features:
        raise InputError(f"The rated {modality} images have no metric in common to learn from.")
    values = metric_array(rated, features)
    people = _codes([scan.columns.get("subject", scan.name) for scan in rated])
    accuracies = [measure(values, bad, people)]
    if site_column:
        accuracies.append(measure(values, bad, people, _sites(rated, site_column)))
    final = fit(values, bad, people)
    fill, scaler, logistic = (final.steps[n][1] for n in range(3))
    return Model(
        modality,
        tuple(features),
        tuple(map(float, fill.statistics_)),
        tuple(map(float, scaler.mean_)),
        tuple(map(float, scaler.scale_)),
        tuple(map(float, logistic.coef_[0])),
        float(logistic.intercept_[0]),
        len(rated),
        n_bad,
        tuple(accuracies),
    )


def _rated(
    scans: Sequence[Scan], ratings: Sequence[Rating], rules: Rules
) -> tuple[list[Scan], NDArray[np.bool_]]:
    """Pick the scans that people rated, and tell which of them are to be excluded."""
    medians = {name: median_rating(found) for name, found in by_image(ratings).items()}
    rated = [scan for scan in scans if medians.get(scan.name) is not None]
    return rated, np.array([(medians[s.name] or 0) < rules.exclude_below for s in rated], bool)


def _sites(rated: Sequence[Scan], column: str) -> NDArray[np.intp]:
    """Number the sites; each image must have one, and there must be enough of them."""
    sites = [scan.columns.get(column, "") for scan in rated]
    named = sorted({*sites} - {""})
    if len(named) < FEWEST_SITES or "" in sites:
        raise InputError(
            f"The column {column} names {len(named)} sites ({', '.join(named[:5])}) and"
            f" {sites.count('')} images without one; to leave sites out it takes"
            f" {FEWEST_SITES}, and one for each image."
        )
    return _codes(sites)


def metric_array(scans: Sequence[Scan], features: Sequence[str]) -> Floats:
    """Give metrics as an array, scans by metrics; NaN where one is undefined."""
    rows = [[scan.metrics.get(name, math.nan) for name in features] for scan in scans]
    return np.array(rows, float).reshape(len(scans), len(features))


def _codes(names: Sequence[str]) -> NDArray[np.intp]:
    return np.unique(np.array(names), return_inverse=True)[1]


def describe(model: Model) -> list[str]:
    """Describe in words what a model achieves."""
    lines = [
        f"{model.n} {model.modality} images, {model.n_bad} of them to exclude;"
        f" {len(model.features)} metrics."
    ]
    for found in model.accuracies:
        lines.append(
            f"With {found.scheme} left out: AUC {found.auc}, balanced accuracy {found.balanced};"
            f" chance, and always the same answer, give 0.50. Of all images {found.accuracy:.0%}"
            f" are recognised; the larger class alone is {found.majority:.0%}."
        )
    return lines


def keep_model(out_dir: Path, model: Model) -> Path:
    """Write a model that is better than chance.

    Raises
    ------
    InputError
        If it is not; nothing is written.
    """
    if not model.useful:
        raise InputError(
            " ".join(describe(model)) + " That is not better than chance (the interval of the AUC"
            " reaches 0.5), so no model was written. More ratings may help."
        )
    path = out_dir / MODEL_FILE
    write_json(
        path,
        {
            "modality": model.modality,
            "features": list(model.features),
            "fill": list(model.fill),
            "mean": list(model.mean),
            "scale": list(model.scale),
            "weights": list(model.weights),
            "intercept": model.intercept,
            "n": model.n,
            "n_bad": model.n_bad,
            "accuracy": describe(model)[1:],
        },
    )
    return path


def probabilities_of(out_dir: Path, scans: Scans) -> dict[str, float]:
    """Apply the model of an output folder to its scans; empty if there is none.

    Returns
    -------
    dict of str to float
        Probability of exclusion by name of the scan, as if half of all were to be excluded.
        Scans that lack more than a fifth of the metrics have none.

    Raises
    ------
    InputError
        If the file is no model.
    """
    path = out_dir / MODEL_FILE
    if not path.exists():
        return {}
    content = read_json(path)
    features = content.get("features")
    columns = [content.get(key) for key in ("fill", "mean", "scale", "weights")]
    if not isinstance(features, list) or not all(
        isinstance(column, list)
        and len(column) == len(features)
        and all(isinstance(value, int | float) for value in column)
        for column in columns
    ):
        raise InputError(
            f"{path} is no model of this version; learn it again with neuroferry qc OUT classify.",
            exit_code=ExitCode.DATA,
        )
    fill, mean, scale, weights = (np.array(column, float) for column in columns)
    intercept = float(content.get("intercept", 0.0))
    chances = {}
    for scan in scans.of.get(str(content.get("modality")), ()):
        values = metric_array([scan], features)[0]
        missing = ~np.isfinite(values)
        if missing.sum() <= MOST_MISSING * len(features):
            z = (np.where(missing, fill, values) - mean) / scale
            chances[scan.name] = float(1 / (1 + np.exp(-(z @ weights + intercept))))
    return chances
