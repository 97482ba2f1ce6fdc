"""Accuracy of a classifier on images that it has not seen: nested cross-validation.

Logistic regression on standardised metrics, its penalty chosen by an inner cross-validation.
People are left out, or whole sites. All that is learned, medians of missing values and scales too,
is learned without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError

PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the penalty to choose from."""
_FOLDS, _INNER_FOLDS, _RESAMPLES = 5, 4, 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval, from resampled participants."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Describe it as text."""
        return f"{self.value:.2f} (95 % CI {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Accuracy:
    """What a kind of model achieves on images that it has not seen.

    Attributes
    ----------
    scheme : str
        What was left out at a time: ``"participants"`` or ``"sites"``.
    auc : Estimate
        Area under the receiver operating characteristic; 0.5 by chance.
    balanced : Estimate
        Mean of the fractions of both classes that were recognised; 0.5 for the majority class.
    accuracy, majority : float
        Fraction of all images that was recognised, and the fraction of the larger class, which
        is reached by looking at nothing.
    """

    scheme: str
    auc: Estimate
    balanced: Estimate
    accuracy: float
    majority: float


def fit(values: Floats, bad: NDArray[np.bool_], people: NDArray[np.intp]) -> Any:
    """Fit the whole procedure: missing values, scales, and a penalty chosen inside.

    Parameters
    ----------
    values, bad, people
        As for `measure`.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Steps ``fill``, ``scale`` and ``logistic``.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = Pipeline(
        [
            ("fill", SimpleImputer(strategy="median", keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("logistic", LogisticRegression(class_weight="balanced", solver="newton-cholesky")),
        ]
    )
    folds = min(_INNER_FOLDS, int(bad.sum()), int((~bad).sum()))
    search = GridSearchCV(
        pipeline,
        {"logistic__C": list(PENALTIES)},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
        error_score=-1e9,
    )
    return search.fit(values, bad, groups=people).best_estimator_


def measure(
    values: Floats,
    bad: NDArray[np.bool_],
    people: NDArray[np.intp],
    sites: NDArray[np.intp] | None = None,
    seed: int = 0,
) -> Accuracy:
    """Measure what the procedure achieves on images that were left out.

    Parameters
    ----------
    values : ndarray, shape (n, m), float
        Metrics; NaN where undefined.
    bad : ndarray, shape (n,), bool
        Images to exclude.
    people : ndarray, shape (n,), int
        Participants: images of one are left out together.
    sites : ndarray, shape (n,), int, optional
        Sites, left out one at a time; otherwise a fifth of the participants is.
    seed : int
        Of folds and resampling.

    Returns
    -------
    Accuracy
        The penalty was chosen within the images that were not left out (nested cross-validation).
    """
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

    if sites is None:
        outer = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
        splits = list(outer.split(values, bad, people))
    else:
        splits = list(LeaveOneGroupOut().split(values, bad, sites))
    chance = np.full(len(bad), np.nan)
    for train, test in splits:
        if len(np.unique(bad[train])) < 2 or min(np.bincount(bad[train])) < 2:
            continue  # nothing can be learned without this site
        fitted = fit(values[train], bad[train], people[train])
        chance[test] = fitted.predict_proba(values[test])[:, 1]
    known = np.isfinite(chance)
    chance, bad, people = chance[known], bad[known], people[known]
    scheme = "participants" if sites is None else "sites"
    if len(np.unique(bad)) < 2:
        raise InputError(f"With {scheme} left out, no images of both kinds are left to predict.")
    scores = _resampled(chance, bad, people, seed)
    called = chance >= 0.5
    return Accuracy(
        scheme,
        Estimate(auc(chance, bad), *_interval(scores[:, 0])),
        Estimate(balanced_accuracy(called, bad), *_interval(scores[:, 1])),
        float((called == bad).mean()),
        float(max(bad.mean(), 1 - bad.mean())),
    )


def auc(scores: Floats, bad: NDArray[np.bool_]) -> float:
    """Compute the probability that a bad image has the higher score; ties count half.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    from scipy.stats import rankdata

    n = int(bad.sum())
    ranks = rankdata(scores)[bad].sum()
    return float((ranks - n * (n + 1) / 2) / (n * (len(bad) - n)))


def balanced_accuracy(called: NDArray[np.bool_], bad: NDArray[np.bool_]) -> float:
    """Average the fractions of bad and of good images that are recognised."""
    return float((called[bad].mean() + (~called[~bad]).mean()) / 2)


def _resampled(
    chance: Floats, bad: NDArray[np.bool_], people: NDArray[np.intp], seed: int
) -> Floats:
    """Compute both figures for resampled participants, shape (resamples, 2)."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(people == person) for person in np.unique(people)]
    scores = []
    for _ in range(_RESAMPLES):
        picked = np.concatenate([members[n] for n in rng.integers(0, len(members), len(members))])
        there = bad[picked]
        if 0 < there.sum() < len(there):
            called = chance[picked] >= 0.5
            scores.append((auc(chance[picked], there), balanced_accuracy(called, there)))
    return np.array(scores)


def _interval(scores: Floats) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
