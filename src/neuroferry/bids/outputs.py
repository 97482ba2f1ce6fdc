"""Names and writing of derivatives: each file appears whole or not at all, with the same bytes.

No file holds a date, host or process number, so that a run on another machine writes the same
bytes. An existing file with the right content is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from neuroferry.bids.entities import build_name
from neuroferry.bids.metadata import read_json
from neuroferry.errors import ExitCode, InputError
from neuroferry.files import read_input, write_json, write_text

BIDS_VERSION = "1.10.0"
PIPELINE = "neuroferry"
#: The name of the input dataset in the sidecars' ``Sources``.
RAW_DATASET = "raw"
#: Files written next to the derivatives that are not part of BIDS (yet).
BIDSIGNORE = (
    "*.html",
    "logs/",
    "figures",  # not "figures/": the validator would not know the folder
    "*_xfm.h5",
    "*_xfm.txt",
    "*_xfm.json",
    "*_desc-iqms_*",
    "*_boldref.*",
    "*_desc-confounds_timeseries.*",
    "*_desc-preproc_fieldmap.*",
    "*_dwiref.*",
    "*_dwimap.*",
    "*_tractogram.*",
    "*_tractometry.*",
    "group_*.tsv",
    "qc_*",
    "tractometry/",
)
README = """\
Derivatives written by neuroferry, in the layout of BIDS Derivatives.

sub-<label>.html is the report on a participant: look at its figures before using the results.
dataset_description.json names the software version and container image; logs/ holds the record
of each run and the settings to repeat it. Sidecars name the sources of each file
("bids:raw:" is the input dataset, "bids::" this one).
"""
#: Labels of the tissue segmentation: index, name, abbreviation, colour.
TISSUE_LABELS = (
    (0, "Background", "BG", "#000000"),
    (1, "Grey Matter", "GM", "#7f7f7f"),
    (2, "White Matter", "WM", "#ffffff"),
    (3, "Cerebrospinal Fluid", "CSF", "#2f6fbf"),
)


class Container(TypedDict, total=False):
    """Container image of a run, for ``GeneratedBy``."""

    Type: str
    Tag: str
    URI: str
    Digest: str


def derivative_path(
    out_dir: str | Path,
    entities: Mapping[str, str],
    *,
    suffix: str,
    extension: str,
    datatype: str,
) -> Path:
    """Build the path of a derivative: subject, session and datatype folders, BIDS name.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives dataset.
    entities : mapping of str to str
        Long entity names to values; ``subject`` is needed.
    suffix, extension, datatype : str
        ``"T1w"``, ``".nii.gz"``, ``"anat"``.

    Raises
    ------
    ValueError
        If an entity is unknown, its value not allowed, or the subject missing.

    Examples
    --------
    >>> names = {"subject": "01", "description": "preproc", "session": "a", "space": "T1w"}
    >>> str(derivative_path("out", names, suffix="T1w", extension=".json", datatype="anat"))
    'out/sub-01/ses-a/anat/sub-01_ses-a_space-T1w_desc-preproc_T1w.json'
    """
    if "subject" not in entities:
        raise ValueError("a derivative needs a subject")
    folder = Path(out_dir) / f"sub-{entities['subject']}"
    if "session" in entities:
        folder /= f"ses-{entities['session']}"
    return folder / datatype / build_name(entities, suffix, extension)


def bids_uri(path: str | Path, root: str | Path, dataset: str = "") -> str:
    """Build the BIDS URI of a file; an empty dataset is the one that cites it.

    Examples
    --------
    >>> bids_uri("/bids/sub-01/anat/sub-01_T1w.nii.gz", "/bids", "raw")
    'bids:raw:sub-01/anat/sub-01_T1w.nii.gz'
    """
    return f"bids:{dataset}:{Path(path).relative_to(root).as_posix()}"


def prepare_dataset(
    out_dir: str | Path,
    *,
    bids_dir: str | Path,
    version: str,
    container: Container | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> None:
    """Make the output folder a derivatives dataset: description, README, labels, .bidsignore.

    See `write_dataset_description` for the parameters and errors.
    """
    out_dir = Path(out_dir)
    write_dataset_description(
        out_dir,
        bids_dir=bids_dir,
        version=version,
        container=container,
        derivatives=derivatives,
    )
    ignored = out_dir / ".bidsignore"
    theirs = _lines_of(ignored)
    lines = [*theirs, *(line for line in BIDSIGNORE if line not in theirs)]
    write_text(ignored, "".join(f"{line}\n" for line in lines))
    if not any(out_dir.glob("README*")):
        write_text(out_dir / "README", README)
    rows = (("index", "name", "abbreviation", "color"), *TISSUE_LABELS)
    table = "".join("\t".join(str(cell) for cell in row) + "\n" for row in rows)
    write_text(out_dir / "dseg.tsv", table)


def write_dataset_description(
    out_dir: str | Path,
    *,
    bids_dir: str | Path,
    version: str,
    container: Container | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> Path:
    """Write ``dataset_description.json`` of the derivatives.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives; created if it does not exist.
    bids_dir : path
        The input dataset, as seen by the run (``/bids`` inside the container).
    version : str
        Version of neuroferry.
    container : Container, optional
        Type, tag and digest of the container image of the run.
    derivatives : mapping of str to pathlib.Path, optional
        Datasets of precomputed results, by the names that sidecars cite them by. Those of
        earlier runs are kept, since sidecars of those runs cite them.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        With exit code 73, if the folder holds a dataset that neuroferry did not write.
    NeuroferryError
        If the file cannot be written.
    """
    path = Path(out_dir) / "dataset_description.json"
    _check_ours(path)
    root = _absolute(bids_dir)
    links = _links(path) | {name: _absolute(d).as_uri() for name, d in (derivatives or {}).items()}
    links[RAW_DATASET] = root.as_uri()
    source_path = root / "dataset_description.json"
    source = read_json(source_path) if os.path.lexists(source_path) else {}
    generated: dict[str, Any] = {"Name": PIPELINE, "Version": version}
    if container is not None:
        generated["Container"] = dict(container)
    dataset: dict[str, Any] = {"URL": root.as_uri()}
    if isinstance(source.get("DatasetDOI"), str):
        dataset["DOI"] = source["DatasetDOI"]
    description: dict[str, Any] = {
        "Name": f"{PIPELINE}: derivatives of {source.get('Name') or 'a BIDS dataset'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
        "SourceDatasets": [
            dataset,
            *({"URL": url} for name, url in sorted(links.items()) if name != RAW_DATASET),
        ],
        "DatasetLinks": links,
        "HowToAcknowledge": (
            "Please cite the software named in the methods section of each participant's report."
        ),
    }
    if isinstance(source.get("License"), str):
        description["License"] = source["License"]
    write_json(path, description)
    return path


def _lines_of(path: Path) -> list[str]:
    """Read the lines of a file that may be missing; bytes that are not UTF-8 are replaced."""
    if not os.path.lexists(path):
        return []
    return read_input(path).decode("utf-8-sig", "replace").splitlines()


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow links)


def _links(path: Path) -> dict[str, str]:
    """Read the names of other datasets in a description, if it is valid."""
    try:
        links = read_json(path).get("DatasetLinks") if path.exists() else None
    except InputError:
        return {}  # a broken description is written again
    return {str(k): str(v) for k, v in links.items()} if isinstance(links, dict) else {}


def _check_ours(path: Path) -> None:
    if not path.exists():
        return
    try:
        makers = read_json(path).get("GeneratedBy")
    except InputError:
        return  # a broken description is written again
    names = (
        [m.get("Name") for m in makers if isinstance(m, dict)] if isinstance(makers, list) else []
    )
    if PIPELINE not in names:
        by = f"{' and '.join(map(str, names))} wrote" if names else "is not a derivative"
        raise InputError(
            f"{path.parent} contains a dataset that {by}; choose another output folder",
            exit_code=ExitCode.CANNOT_CREATE,
        )
