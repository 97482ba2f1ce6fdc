"""Suggestions and verdicts: what the rules, a model and people say of each scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroferry.bids.tables import MISSING, read_table
from neuroferry.errors import InputError
from neuroferry.files import write_json, write_lines
from neuroferry.judgement.ratings import Rating, by_image, median_rating
from neuroferry.judgement.rules import (
    LEVELS,
    Directions,
    Finding,
    Rules,
    apply_rules,
    short,
)
from neuroferry.judgement.tables import Scans

VERDICTS_FILE = "qc_verdicts.tsv"
"""Verdict on each scan, in the output folder."""
LIKELY = 0.5
"""Probability of the model from which a scan is to be looked at."""
_COLUMNS = (
    "bids_name",
    "modality",
    "verdict",
    "suggestion",
    "rating",
    "raters",
    "artifacts",
    "probability",
    "reasons",
)


@dataclass(frozen=True)
class Verdict:
    """What is to be done with one scan.

    Attributes
    ----------
    name, modality : str
        The scan.
    suggestion : {"accept", "look", "exclude"}
        What rules and model suggest.
    reasons : tuple of str
        Why, as clauses; and what people reported.
    findings : tuple of Finding
        What the rules found.
    rating : float or None
        Median of the ratings.
    raters : int
        How many people rated.
    artifacts : tuple of str
        What any of them reported.
    probability : float or None
        Of being excluded, by the model.
    final : {"accept", "look", "exclude"}
        By the ratings where there are any, or else the suggestion.
    """

    name: str
    modality: str
    suggestion: str
    reasons: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    rating: float | None = None
    raters: int = 0
    artifacts: tuple[str, ...] = ()
    probability: float | None = None
    final: str = "accept"


def judge_scans(
    scans: Scans,
    rules: Rules,
    directions: Directions,
    *,
    ratings: Sequence[Rating] = (),
    probabilities: Mapping[str, float] | None = None,
) -> tuple[Verdict, ...]:
    """Judge all scans of an output folder.

    Parameters
    ----------
    scans : Scans
        The scans; counts of volumes with motion as the rules want them
        (`neuroferry.judgement.rules.count_motion`).
    rules : Rules
        Limits, outliers, and what ratings mean.
    directions : mapping
        ``better`` of each metric, by modality.
    ratings : sequence of Rating
        Ratings by people, which overrule the suggestion.
    probabilities : mapping of str to float, optional
        Probability of being excluded, by name of the scan.

    Returns
    -------
    tuple of Verdict
        In the order of modalities and names.
    """
    rated = by_image(ratings)
    probabilities = probabilities or {}
    verdicts = []
    for modality, of in scans.of.items():
        found = apply_rules(of, rules, directions.get(modality, {}))
        for scan in of:
            verdicts.append(
                _judge(
                    scan.name,
                    modality,
                    found[scan.name],
                    rated.get(scan.name, ()),
                    probabilities.get(scan.name),
                    rules,
                )
            )
    return tuple(verdicts)


def _judge(
    name: str,
    modality: str,
    findings: tuple[Finding, ...],
    ratings: Sequence[Rating],
    probability: float | None,
    rules: Rules,
) -> Verdict:
    levels = [finding.level for finding in findings]
    reasons = [finding.reason for finding in findings]
    if probability is not None and probability >= LIKELY:
        levels.append("look")
        reasons.append(f"the model gives {short(probability, 2)} for its exclusion")
    suggestion = max(levels, key=LEVELS.index, default="accept")
    middle = median_rating(ratings)
    artifacts = tuple(sorted({artifact for one in ratings for artifact in one.artifacts}))
    final = suggestion
    if middle is not None:
        final = verdict_of_rating(middle, rules)
        people = "1 person" if len(ratings) == 1 else f"{len(ratings)} people"
        reasons.append(f"rated {short(middle)} by {people}")
    return Verdict(
        name,
        modality,
        suggestion,
        tuple(reasons),
        findings,
        middle,
        len(ratings),
        artifacts,
        probability,
        final,
    )


def verdict_of_rating(rating: float, rules: Rules) -> str:
    """Turn a median rating into a verdict.

    Examples
    --------
    >>> [verdict_of_rating(rating, Rules()) for rating in (1, 2, 3)]
    ['exclude', 'look', 'accept']
    """
    if rating < rules.exclude_below:
        return "exclude"
    return "accept" if rating >= rules.accept_from else "look"


def write_verdicts(out_dir: Path, verdicts: Iterable[Verdict]) -> Path:
    """Write the verdicts of an output folder as a table with a sidecar."""
    rows = ["\t".join(_COLUMNS)]
    for one in verdicts:
        cells = [
            one.name,
            one.modality,
            one.final,
            one.suggestion,
            "" if one.rating is None else short(one.rating),
            str(one.raters),
            ",".join(one.artifacts),
            "" if one.probability is None else f"{one.probability:.4f}",
            "; ".join(one.reasons),
        ]
        rows.append("\t".join(" ".join(cell.split()) or "n/a" for cell in cells))
    path = out_dir / VERDICTS_FILE
    write_lines(path, rows)
    write_json(path.with_suffix(".json"), _sidecar())
    return path


def _sidecar() -> dict[str, dict[str, object]]:
    levels = {
        "accept": "nothing speaks against its use",
        "look": "somebody should look at it first",
        "exclude": "not to be used",
    }
    texts = {
        "bids_name": "Name of the image, without extension",
        "modality": "Suffix of the image",
        "verdict": "By the median rating where people rated, or else the suggestion",
        "suggestion": "By limits, outliers and model",
        "rating": "Median rating over raters, from 1 (exclude) to 4 (excellent)",
        "raters": "Number of people who rated",
        "artifacts": "Artefacts that any of them reported (names of NiReports)",
        "probability": "Probability of exclusion by the model, if there is one",
        "reasons": "Reasons for the suggestion, and what people said, separated by semicolons",
    }
    sidecar: dict[str, dict[str, object]] = {
        name: {"Description": text} for name, text in texts.items()
    }
    sidecar["verdict"]["Levels"] = levels
    sidecar["suggestion"]["Levels"] = levels
    return sidecar


def excluded(out_dir: Path, modality: str | None = None) -> dict[str, tuple[str, ...]]:
    """Read which scans are not to be used, for models of the group.

    Parameters
    ----------
    out_dir : pathlib.Path
        Output folder with ``qc_verdicts.tsv``.
    modality : str, optional
        Only scans of this one.

    Returns
    -------
    dict
        Reasons of each excluded scan, by its name without extension (``"sub-01_T1w"``); empty if
        the folder holds no verdicts.

    Raises
    ------
    InputError
        If the table cannot be read, lacks a column, or holds a verdict that is none.

    Examples
    --------
    Leave the excluded runs out of a model::

        bad = excluded(Path("derivatives/neuroferry"), "bold")
        runs = [run for run in runs if run.name.removesuffix(".nii.gz") not in bad]
    """
    path = out_dir / VERDICTS_FILE
    if not path.exists():
        return {}
    table = read_table(path)
    needed = ("bids_name", "modality", "verdict", "reasons")
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]}; write it again with neuroferry qc OUT apply."
        )
    bad = {}
    for number, cells in table.rows():
        row = dict(zip(table.columns, cells, strict=True))
        if row["verdict"] not in LEVELS:
            raise InputError(
                f"{path}, line {number}: {row['verdict']!r} is no verdict; known are"
                f" {', '.join(LEVELS)}."
            )
        if row["verdict"] == "exclude" and modality in (None, row["modality"]):
            reasons = "" if row["reasons"] in MISSING else row["reasons"]
            bad[row["bids_name"]] = tuple(filter(None, reasons.split("; ")))
    return bad
