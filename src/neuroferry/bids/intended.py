"""Files that ``IntendedFor`` names: BIDS URIs and relative paths, resolved."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from neuroferry.bids.model import Image

#: Names of this dataset in BIDS URIs: ``bids::`` is the dataset itself, ``raw`` its usual link.
_THIS_DATASET = ("", "raw")


def texts_of(metadata: Mapping[str, Any], key: str) -> list[str]:
    """List the values of a field that may be a string or a list of strings.

    >>> texts_of({"IntendedFor": "func/a.nii.gz"}, "IntendedFor")
    ['func/a.nii.gz']
    >>> texts_of({}, "IntendedFor")
    []
    """
    value = metadata.get(key)
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def is_intended(fieldmap: Image, run: Image) -> bool:
    """Check whether the ``IntendedFor`` of an image names a run.

    Parameters
    ----------
    fieldmap : Image
        Image with its sidecar.
    run : Image
        The run, of any session of the participant.

    Returns
    -------
    bool
        Names are compared below the dataset's root, without ``.nii`` or ``.nii.gz``.
    """
    wanted = _stem(run.place)
    return any(
        wanted in map(_stem, _meanings(text, fieldmap))
        for text in texts_of(fieldmap.metadata, "IntendedFor")
    )


def lost_targets(fieldmap: Image) -> list[str]:
    """List what the ``IntendedFor`` of an image names although this dataset does not have it."""
    return [
        text
        for text in texts_of(fieldmap.metadata, "IntendedFor")
        if not any((fieldmap.root / path).exists() for path in _meanings(text, fieldmap))
    ]


def _meanings(text: str, fieldmap: Image) -> Iterator[str]:
    """Yield the paths below the root that a text may mean.

    BIDS paths begin below the participant. Paths that begin at the root, at the session, beside
    the field map or outside the dataset are common, and mean one file as well: its name has the
    same labels.
    """
    if text.startswith("bids:"):
        dataset, _, path = text.removeprefix("bids:").partition(":")
        if dataset in _THIS_DATASET:
            yield posixpath.normpath(path.lstrip("/"))
        return
    path = text.replace("\\", "/")
    subject = f"sub-{fieldmap.entities.get('subject')}"
    if path.startswith("/") and f"/{subject}/" in path[1:]:
        path = subject + "/" + path.rpartition(f"/{subject}/")[2]
    path = path.lstrip("/")
    folder = posixpath.dirname(fieldmap.place)
    starts = [subject, "", posixpath.dirname(folder), folder]
    for start in dict.fromkeys(starts):
        yield posixpath.normpath(posixpath.join(start, path))


def _stem(path: str) -> str:
    return path.removesuffix(".gz").removesuffix(".nii")
