"""Verdicts and ratings in the dataset itself: documented columns of its ``scans.tsv``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from neuroferry.bids.entities import parse_name
from neuroferry.bids.metadata import read_json
from neuroferry.bids.tables import Table, read_table
from neuroferry.errors import InputError
from neuroferry.files import write_json, write_text
from neuroferry.judgement.rules import short
from neuroferry.judgement.tables import MODALITIES
from neuroferry.judgement.verdicts import Verdict

COLUMNS = {
    "qc_verdict": {
        "Description": "Whether the image is to be used: by the median rating where people rated,"
        " or else by limits, outliers and model of its quality metrics",
        "Levels": {
            "accept": "nothing speaks against its use",
            "look": "somebody should look at it first",
            "exclude": "not to be used",
        },
    },
    "qc_rating": {"Description": "Median rating of its quality, 1 (exclude) to 4 (excellent)"},
    "qc_raters": {"Description": "Number of people who rated it"},
    "qc_artifacts": {
        "Description": "Artefacts that any of them reported, by the names of NiReports, separated"
        " by commas"
    },
}
"""Columns that are written, and what ``scans.json`` says of them."""


def write_scans_columns(
    bids_dir: Path, verdicts: Iterable[Verdict]
) -> tuple[list[Path], list[str]]:
    """Write verdicts into the ``scans.tsv`` of each session, and describe them in ``scans.json``.

    Other columns, other rows and the order of both stay as they are. An image that has no row gets
    one; a missing table is made. Verdicts on images that the dataset does not hold are left out.

    Parameters
    ----------
    bids_dir : pathlib.Path
        The dataset.
    verdicts : iterable of Verdict
        Verdicts on its images.

    Returns
    -------
    written : list of pathlib.Path
        Tables and the description.
    notes : list of str
        Images that are not in the dataset, as sentences.

    Raises
    ------
    InputError
        If a table is not one of BIDS (nothing is written then), or ``scans.json`` is broken.
    """
    if not (bids_dir / "dataset_description.json").is_file():
        raise InputError(f"{bids_dir} is not a BIDS dataset: it has no dataset_description.json.")
    cells: dict[Path, dict[str, Mapping[str, str]]] = {}
    notes = []
    for verdict in verdicts:
        image = _image_of(bids_dir, verdict)
        if image is None:
            notes.append(f"{verdict.name} is not in {bids_dir}; its verdict is not written there.")
            continue
        table = _table_of(image)
        name = image.relative_to(table.parent).as_posix()
        cells.setdefault(table, {})[name] = _cells(verdict)
    # all are made before any is written
    texts = {path: _with_columns(path, rows) for path, rows in sorted(cells.items())}
    described = bids_dir / "scans.json"
    about = read_json(described) if described.exists() else {}
    for path, text in texts.items():
        write_text(path, text)
    written = list(texts)
    if texts:
        write_json(described, {**about, **COLUMNS})
        written.append(described)
    return written, notes


def _image_of(bids_dir: Path, verdict: Verdict) -> Path | None:
    entities = parse_name(verdict.name).entities
    folder = bids_dir / f"sub-{entities.get('subject', '')}"
    if "session" in entities:
        folder = folder / f"ses-{entities['session']}"
    stem = folder / MODALITIES.get(verdict.modality, "anat") / verdict.name
    found = [path for end in (".nii.gz", ".nii") if (path := Path(f"{stem}{end}")).is_file()]
    return found[0] if found else None


def _table_of(image: Path) -> Path:
    entities = parse_name(image).entities
    stem = f"sub-{entities['subject']}"
    if "session" in entities:
        stem += f"_ses-{entities['session']}"
    return image.parents[1] / f"{stem}_scans.tsv"


def _cells(verdict: Verdict) -> dict[str, str]:
    return {
        "qc_verdict": verdict.final,
        "qc_rating": "n/a" if verdict.rating is None else short(verdict.rating),
        "qc_raters": str(verdict.raters),
        "qc_artifacts": ",".join(verdict.artifacts) or "n/a",
    }


def _with_columns(path: Path, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Give the text of a table with our columns filled in."""
    table = read_table(path) if path.exists() else Table(("filename",), "filename\n")
    if "filename" not in table.columns or table.notes:
        odd = "; ".join(table.notes) or "it has no column filename"
        raise InputError(f"{path} cannot be extended: {odd}. Correct it; nothing was written.")
    columns = [*table.columns, *(name for name in COLUMNS if name not in table.columns)]
    place = columns.index("filename")
    end = "\r\n" if "\r\n" in table.text else "\n"
    lines = ["\t".join(columns)]
    seen = set()
    for _, found in table.rows():
        cells = [*found, *["n/a"] * (len(columns) - len(found))]
        new = rows.get(cells[place])
        if new is not None:
            seen.add(cells[place])
            for name, text in new.items():
                cells[columns.index(name)] = text
        lines.append("\t".join(cells))
    for name in sorted(set(rows) - seen):
        lines.append("\t".join({"filename": name, **rows[name]}.get(c, "n/a") for c in columns))
    return "".join(f"{line}{end}" for line in lines)
