"""Precomputed derivatives that can replace parts of the anatomical workflow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from neuroferry.bids.entities import parse_name
from neuroferry.bids.outputs import RAW_DATASET, bids_uri
from neuroferry.errors import ExitCode, InputError

TISSUES = ("GM", "WM", "CSF")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Precomputed(TypedDict, total=False):
    """Files that replace a branch of the anatomical workflow.

    ``brain_mask``: binary mask; ``dseg`` with ``tpms`` (GM, WM, CSF): segmentation; both on
    the grid of the T1w image, in any orientation. ``anat2std_xfm`` with
    ``std2anat_xfm``: ITK transforms.
    """

    brain_mask: str
    dseg: str
    tpms: list[str]
    anat2std_xfm: str
    std2anat_xfm: str


class Anatomy(Precomputed, total=False):
    """A complete anatomy that other workflows can use as it is."""

    t1w_preproc: str
    #: Transforms from the T1w image to other templates, by their spaces.
    other_xfms: dict[str, str]


def find_precomputed(
    datasets: Mapping[str, Path], subject: str, session: str | None, template: str
) -> Precomputed:
    """Find precomputed derivatives of one participant and session.

    Parameters
    ----------
    datasets : mapping of str to pathlib.Path
        Derivative datasets by name; the first that has a part provides it.
    subject, session : str, str or None
        Labels without ``sub-`` and ``ses-``.
    template : str
        Space that the transforms must lead to.

    Returns
    -------
    Precomputed
        Files that were found; a segmentation only with its three tissues, a transform only
        with its inverse.

    Raises
    ------
    InputError
        If a dataset does not exist (exit code 66), has a name that sidecars cannot cite, or
        has two files for one part.
    """
    found: Precomputed = {}
    for files in _each_dataset(datasets, subject, session, template):
        if "brain_mask" in files:
            found.setdefault("brain_mask", files["brain_mask"])
        if {"dseg", *TISSUES} <= set(files) and "dseg" not in found:
            found["dseg"] = files["dseg"]
            found["tpms"] = [files[tissue] for tissue in TISSUES]
        if {"anat2std_xfm", "std2anat_xfm"} <= set(files) and "anat2std_xfm" not in found:
            found["anat2std_xfm"] = files["anat2std_xfm"]
            found["std2anat_xfm"] = files["std2anat_xfm"]
    return found


def find_anatomy(
    datasets: Mapping[str, Path],
    subject: str,
    session: str | None,
    template: str,
    others: Sequence[str] = (),
) -> Anatomy | None:
    """Find a complete precomputed anatomy of one participant and session.

    Parameters
    ----------
    datasets, subject, session, template
        As for `find_precomputed`.
    others : sequence of str
        Spaces of other templates to which there must be transforms.

    Returns
    -------
    Anatomy or None
        Preprocessed T1w image, brain mask, segmentation and transforms of the first dataset
        that has them all: parts of several datasets need not share a grid.

    Raises
    ------
    InputError
        As for `find_precomputed`.
    """
    single = ("t1w_preproc", "brain_mask", "dseg", "anat2std_xfm", "std2anat_xfm")
    ways = [[*_each_dataset(datasets, subject, session, space)] for space in (template, *others)]
    for files, *elsewhere in zip(*ways, strict=True):
        if {*single, *TISSUES} <= set(files) and all("anat2std_xfm" in way for way in elsewhere):
            found = Anatomy(
                t1w_preproc=files["t1w_preproc"],
                brain_mask=files["brain_mask"],
                dseg=files["dseg"],
                tpms=[files[tissue] for tissue in TISSUES],
                anat2std_xfm=files["anat2std_xfm"],
                std2anat_xfm=files["std2anat_xfm"],
            )
            if others:
                paths = (way["anat2std_xfm"] for way in elsewhere)
                found["other_xfms"] = dict(zip(others, paths, strict=True))
            return found
    return None


def _each_dataset(
    datasets: Mapping[str, Path], subject: str, session: str | None, template: str
) -> Iterator[dict[str, str]]:
    """Yield the parts in each dataset, after checking its name and folder."""
    for name, root in datasets.items():
        check_dataset(name, root)
        yield _sort(root, subject, session, template)


def check_dataset(name: str, root: Path) -> None:
    """Check that derivatives exist and have a name that sidecars can cite.

    Raises
    ------
    InputError
        With exit code 64 or 66.
    """
    if name == RAW_DATASET or not _NAME.fullmatch(name):
        raise InputError(
            f"Derivatives cannot be named '{name}': use letters, digits, '.', '-' and '_', "
            f"but not '{RAW_DATASET}', which is the input.",
            exit_code=ExitCode.USAGE,
        )
    if not root.is_dir():
        raise InputError(
            f"The derivatives '{name}' do not exist: {root} is not a folder.",
            exit_code=ExitCode.NO_INPUT,
        )


def cite_precomputed(
    found: Precomputed, datasets: Mapping[str, Path], subject: str
) -> dict[str, list[str]]:
    """Cite precomputed files by their datasets, for sidecars' ``Sources``.

    Parameters
    ----------
    found : Precomputed
        Result of `find_precomputed`.
    datasets : mapping of str to pathlib.Path
        The datasets that were searched.
    subject : str
        Label of the participant.

    Returns
    -------
    dict of str to list of str
        BIDS URIs for each part.

    Examples
    --------
    >>> found = Precomputed(brain_mask="/d/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    >>> cite_precomputed(found, {"mine": Path("/d")}, "01")
    {'brain_mask': ['bids:mine:sub-01/anat/sub-01_desc-brain_mask.nii.gz']}
    """

    def cite(path: str) -> str:
        for name, root in datasets.items():
            if Path(path).is_relative_to(root / f"sub-{subject}"):
                return bids_uri(path, root, name)
        raise ValueError(f"{path} is in none of the datasets")

    return {
        part: [cite(path) for path in ([files] if isinstance(files, str) else files)]
        for part, files in cast("Mapping[str, str | list[str]]", found).items()
    }


def _sort(root: Path, subject: str, session: str | None, template: str) -> dict[str, str]:
    """Sort the files of one dataset by part."""
    files: dict[str, str] = {}
    for path in _candidates(root, subject, session):
        part = _part(path, template)
        if part is None:
            continue
        if part in files:
            raise InputError(
                f"{root} has two files for the {part} of sub-{subject}: {files[part]} and {path}. "
                "Keep only the one to be used.",
                path=path,
            )
        files[part] = str(path)
    return files


def _candidates(root: Path, subject: str, session: str | None) -> Iterator[Path]:
    folder = root / f"sub-{subject}"
    if session is not None:
        folder = folder / f"ses-{session}"
    yield from sorted((folder / "anat").glob(f"sub-{subject}*"))


def _part(path: Path, template: str) -> str | None:
    entities, suffix, extension = parse_name(path)
    if suffix == "xfm" and entities.get("mode") == "image" and extension in (".h5", ".txt"):
        way = (entities.get("from", ""), entities.get("to", ""))
        return {("T1w", template): "anat2std_xfm", (template, "T1w"): "std2anat_xfm"}.get(way)
    if "space" in entities or extension not in (".nii", ".nii.gz"):
        return None
    description = entities.get("description")
    if suffix == "T1w" and description == "preproc":
        return "t1w_preproc"
    if suffix == "mask" and description == "brain":
        return "brain_mask"
    if description is None and "atlas" not in entities:
        if suffix == "dseg":
            return "dseg"
        if suffix == "probseg" and entities.get("label") in TISSUES:
            return entities["label"]
    return None
