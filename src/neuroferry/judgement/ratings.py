"""Ratings of images by people: collected from files of pages into one table.

Two forms are read: that of our pages (`FORM`, many ratings a file), and that of NiReports' rating
widget (one rating a file), which MRIQC's reports have.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import parse_name
from neuroferry.bids.metadata import read_json
from neuroferry.bids.tables import MISSING, read_number, read_table
from neuroferry.errors import InputError
from neuroferry.files import write_json, write_lines

FORM = "neuroferry-ratings"
"""Key of the files that our pages export, whose value is the version of the form."""
RATINGS_FILE = "qc_ratings.tsv"
"""All ratings, in the output folder."""
RATING_WORDS = {1: "exclude", 2: "poor", 3: "acceptable", 4: "excellent"}
"""Meaning of the ratings; 1, 2 and 4 are NiReports' words."""
ARTIFACTS = {
    "head-motion": "Head motion",
    "eye-spillover": "Signal of the eyes along the phase-encoding axis",
    "noneye-spillover": "Signal of something else along the phase-encoding axis",
    "coil-failure": "Failure of a coil",
    "noise-global": "Noise everywhere",
    "noise-local": "Noise in places",
    "em-perturbation": "Electromagnetic interference",
    "wrap-around": "Wrap-around, or a wrongly placed field of view",
    "ghost-aliasing": "Aliasing ghosts",
    "ghost-other": "Other ghosts",
    "inu": "Intensity non-uniformity",
    "field-variation": "Intensity that varies over time",
    "processing": "Traces of processing, such as denoising or defacing",
    "uncategorized": "Something else",
}
"""Artefacts that can be reported: identifiers of NiReports, and what each is called here."""
UNKNOWN = "unknown"
"""Rater of files that do not say who rated."""
_COLUMNS = (
    "bids_name",
    "modality",
    "rater",
    "rating",
    "artifacts",
    "confidence",
    "time_sec",
    "rated_at",
    "comments",
    "dataset",
)


@dataclass(frozen=True)
class Rating:
    """What one person says of one image.

    Attributes
    ----------
    name : str
        Name of the image without extension, ``bids_name``.
    rating : float
        From 1, exclude, to 4, excellent.
    rater : str
        Who rated.
    artifacts : tuple of str
        Identifiers of `ARTIFACTS`, sorted.
    confidence : float or None
        From 0 to 4.
    time_sec : float or None
        Seconds that the rating took.
    rated_at : str
        Date and time, ISO 8601; empty if unknown.
    comments, dataset : str
        Free text; name of the dataset.
    """

    name: str
    rating: float
    rater: str = UNKNOWN
    artifacts: tuple[str, ...] = ()
    confidence: float | None = None
    time_sec: float | None = None
    rated_at: str = ""
    comments: str = ""
    dataset: str = ""

    @property
    def modality(self) -> str:
        """Suffix of the image."""
        return self.name.rpartition("_")[2]


@dataclass(frozen=True)
class Collected:
    """Ratings of files, and what was odd about these, as sentences."""

    ratings: tuple[Rating, ...]
    notes: tuple[str, ...]


def collect_ratings(
    sources: Sequence[Path], *, rater: str = UNKNOWN, before: Iterable[Rating] = ()
) -> Collected:
    """Read ratings from files and folders, and join them with those collected before.

    Parameters
    ----------
    sources : sequence of pathlib.Path
        JSON files, or folders with JSON files at any depth.
    rater : str
        Who rated, for files that do not say.
    before : iterable of Rating
        Ratings of earlier calls.

    Returns
    -------
    Collected
        One rating per rater and image: the latest. Notes name files that could not be used,
        repeated ratings, and those that a later one of the same rater replaces.

    Raises
    ------
    InputError
        If a source does not exist.
    """
    notes: list[str] = []
    found = [(rating, "an earlier collection") for rating in before]
    others: list[Path] = []
    for path in _files(sources):
        try:
            entries = _entries(path)
        except InputError as error:
            notes.append(f"{error}; its ratings are left out.")
            continue
        if entries is None:
            others.append(path)
        else:
            found += [(rating, path.name) for rating in _read_all(path, entries, rater, notes)]
    if others:
        notes.append(f"{len(others)} JSON files hold no ratings, such as {others[0]}.")
    latest: dict[tuple[str, str], tuple[Rating, str]] = {}
    repeated = 0
    for rating, source in found:
        key = (rating.name, rating.rater)
        known = latest.get(key)
        if known is None:
            latest[key] = (rating, source)
        elif known[0] == rating:
            repeated += source != "an earlier collection"
        else:
            newer = _is_newer(rating, known[0])
            kept, dropped = (source, known[1]) if newer else (known[1], source)
            advice = "; give --rater if these are different people" if key[1] == UNKNOWN else ""
            notes.append(
                f"{rating.name} is rated twice by {rating.rater}: the later rating, of {kept},"
                f" counts, not that of {dropped}{advice}."
            )
            latest[key] = (rating, source) if newer else known
    if repeated:
        notes.append(f"{repeated} ratings were there already, unchanged.")
    ratings = sorted((rating for rating, _ in latest.values()), key=lambda r: (r.name, r.rater))
    return Collected(tuple(ratings), tuple(notes))


def _is_newer(rating: Rating, known: Rating) -> bool:
    """Tell whether a rating was made later; without both times, the one read later counts."""
    one, other = _moment(rating.rated_at), _moment(known.rated_at)
    if one is None or other is None:
        return True
    return one >= other


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _files(sources: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += sorted(path for path in source.rglob("*.json") if path.is_file())
        elif source.exists():
            files.append(source)
        else:
            raise InputError(f"{source} does not exist; give files of ratings, or their folder.")
    return list(dict.fromkeys(files))


def _entries(path: Path) -> list[Any] | None:
    """Read the entries of a file in either form; None if it is something else."""
    content = read_json(path)
    if FORM not in content:
        return [content] if {"subject", "rating"} <= set(content) else None
    entries = content.get("ratings")
    if not isinstance(entries, list):
        raise InputError(f"{path} has no list of ratings; export them from the report again")
    dataset = content.get("dataset", "")
    return [{"dataset": dataset, **e} if isinstance(e, dict) else e for e in entries]


def _read_all(path: Path, entries: list[Any], rater: str, notes: list[str]) -> list[Rating]:
    ratings = []
    for n, entry in enumerate(entries, 1):
        try:
            ratings.append(_read_rating(entry, rater))
        except InputError as error:
            notes.append(f"{path}: rating {n} is left out: {error}.")
    return ratings


def _read_rating(entry: Any, rater: str) -> Rating:
    """Read one rating of either form; its values are numbers or texts of numbers."""
    if not isinstance(entry, dict):
        raise InputError("it is no object")
    name = _plain(entry.get("bids_name") or entry.get("subject"))
    name = name.rpartition("/")[2].replace("_desc-iqms", "").partition(".")[0]
    if not parse_name(name).entities.get("subject"):
        raise InputError(f"it does not say which image it is of, such as sub-01_T1w, but {name!r}")
    value = _number(entry.get("rating"))
    if value is None or not 1 <= value <= 4:
        raise InputError(f"the rating of {name} is {entry.get('rating')!r}, not between 1 and 4")
    listed = entry.get("artifacts") or []
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise InputError(f"the artefacts of {name} are no list of names")
    odd = sorted(set(listed) - set(ARTIFACTS))
    if odd:
        raise InputError(f"{name} has the artefact {odd[0]!r}; known are {', '.join(ARTIFACTS)}")
    return Rating(
        name=name,
        rating=value,
        rater=_plain(entry.get("rater")) or rater,
        artifacts=tuple(sorted(set(listed))),
        confidence=_number(entry.get("confidence")),
        time_sec=_number(entry.get("time_sec")),
        rated_at=_plain(entry.get("rated_at")),
        comments=_plain(entry.get("comments")),
        dataset=_plain(entry.get("dataset")),
    )


def _plain(value: object) -> str:
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    number = read_number(str(value)) if isinstance(value, str | int | float) else None
    return number if number is not None and abs(number) < float("inf") else None


def write_ratings(out_dir: Path, ratings: Sequence[Rating]) -> Path:
    """Write all ratings of an output folder as one table, with a sidecar that explains it."""
    rows = ["\t".join(_COLUMNS)]
    for one in ratings:
        cells = [
            one.name,
            one.modality,
            one.rater,
            f"{one.rating:g}",
            ",".join(one.artifacts),
            "" if one.confidence is None else f"{one.confidence:g}",
            "" if one.time_sec is None else f"{one.time_sec:.6g}",
            one.rated_at,
            one.comments,
            one.dataset,
        ]
        rows.append("\t".join(cell or "n/a" for cell in cells))
    path = out_dir / RATINGS_FILE
    write_lines(path, rows)
    write_json(path.with_suffix(".json"), _sidecar())
    return path


def _sidecar() -> dict[str, Any]:
    texts = {
        "bids_name": "Name of the image, without extension",
        "modality": "Suffix of the image",
        "rater": "Who rated",
        "artifacts": f"Artefacts that were seen: {', '.join(ARTIFACTS)} (names of NiReports)",
        "confidence": "How sure the rater is, from 0 (doubtful) to 4 (confident)",
        "rated_at": "Date and time of the rating, ISO 8601",
        "comments": "What else the rater says",
        "dataset": "Name of the dataset",
    }
    levels = {str(number): word for number, word in RATING_WORDS.items()}
    return {
        **{name: {"Description": text} for name, text in texts.items()},
        "rating": {"Description": "Quality of the image, from 1 to 4", "Levels": levels},
        "time_sec": {"Description": "Time that the rating took", "Units": "s"},
    }


def read_ratings(out_dir: Path) -> tuple[Rating, ...]:
    """Read the table of ratings of an output folder; empty if there is none.

    Raises
    ------
    InputError
        If it cannot be read, or is no table of ratings.
    """
    path = out_dir / RATINGS_FILE
    return read_rating_table(path) if path.exists() else ()


def read_rating_table(path: Path) -> tuple[Rating, ...]:
    """Read a table as `write_ratings` writes it; only name and rating are needed.

    Raises
    ------
    InputError
        If a column is missing, or a rating is not between 1 and 4.
    """
    table = read_table(path)
    missing = [name for name in ("bids_name", "rating") if name not in table.columns]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}, so it is no table of ratings.")
    ratings = []
    for number, cells in table.rows():
        row = {
            name: "" if cell in MISSING else cell
            for name, cell in zip(table.columns, cells, strict=True)
        }
        listed = [item for item in row.get("artifacts", "").split(",") if item]
        try:
            ratings.append(_read_rating({**row, "artifacts": listed}, UNKNOWN))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}.") from error
    return tuple(ratings)


def by_image(ratings: Iterable[Rating]) -> dict[str, tuple[Rating, ...]]:
    """Collect the ratings of each image."""
    grouped: dict[str, list[Rating]] = {}
    for rating in ratings:
        grouped.setdefault(rating.name, []).append(rating)
    return {name: tuple(found) for name, found in grouped.items()}


def median_rating(ratings: Sequence[Rating]) -> float | None:
    """Compute the median over raters; None without any."""
    return statistics.median(one.rating for one in ratings) if ratings else None


def of_rater(ratings: Iterable[Rating], rater: str) -> dict[str, Rating]:
    """Pick the ratings of one person, by image."""
    return {one.name: replace(one) for one in ratings if one.rater == rater}
