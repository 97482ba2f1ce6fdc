"""One small dataset, written once, that the phantom's tests read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from neuroferry.phantom import PhantomSubject, write_phantom_dataset

if TYPE_CHECKING:
    from pathlib import Path


class Dataset(NamedTuple):
    root: Path
    subjects: list[PhantomSubject]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Dataset:
    """Three subjects (the second a child, the third defaced) at 3 mm."""
    root = tmp_path_factory.mktemp("phantom") / "bids"
    return Dataset(root, write_phantom_dataset(root, subjects=3, resolution=3.0, seed=11))
