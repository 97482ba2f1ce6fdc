"""pybids' index of a whole dataset, kept in a folder for every program that reads it.

neuroferry reads names itself (`neuroferry.bids.naming`): pybids takes participant, session and
datatype from the whole path, folders above the dataset included.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from neuroferry.errors import ExitCode, InputError

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

_DATABASE = "layout_index.sqlite"


def keep_database(root: Path, folder: Path, labels: Sequence[str], images: Iterable[str]) -> None:
    """Make pybids' index in a folder, unless it already matches the images there are.

    Parameters
    ----------
    root : path
        Root of the dataset; all of it is indexed.
    folder : path
        Folder of the index; created if it does not exist.
    labels : sequence of str
        Participants whose images are compared with an existing index.
    images : iterable of str
        Their images, by path below the root.

    Raises
    ------
    InputError
        With exit code 73, if the index cannot be written.
    """
    known = _known_images(root, folder, labels)
    if known is not None and known == {f"{root}/{image}" for image in images}:
        return
    beside = folder / f".{uuid4().hex}"
    try:
        beside.mkdir(parents=True)
        _make_layout(root).save(str(beside))
        (beside / _DATABASE).replace(folder / _DATABASE)
        beside.rmdir()
    except (OSError, sqlite3.Error, UnicodeError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise InputError(
            f"The database folder {folder} cannot be written: {error}; choose another"
            " --bids-database-dir",
            exit_code=ExitCode.CANNOT_CREATE,
        ) from error


def _make_layout(root: Path) -> BIDSLayout:
    """Index the ``sub-`` folders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids.layout import BIDSLayout, BIDSLayoutIndexer

        elsewhere = re.compile(r"^/(?!sub-)")
        indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[elsewhere])
        return BIDSLayout(str(root), validate=False, indexer=indexer)


def _known_images(root: Path, folder: Path, labels: Sequence[str]) -> set[str] | None:
    """List the images of participants in the index; None if there is none of this dataset."""
    if not (folder / _DATABASE).exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids.layout import BIDSLayout
        from sqlalchemy.exc import SQLAlchemyError

        try:
            layout = BIDSLayout(str(root), validate=False, database_path=str(folder))
            if Path(layout.root) != root:
                return None
            paths = layout.get(extension=[".nii", ".nii.gz"], return_type="file")
        except SQLAlchemyError:
            return None
    asked = tuple(f"{root}/sub-{label}/" for label in labels)
    return {path for path in paths if path.startswith(asked)}
