"""Digital heads that several tests share."""

import shutil
from pathlib import Path

import pytest

from neuroferry.phantom import write_phantom_dataset


@pytest.fixture(scope="session")
def phantom_bids(tmp_path_factory):
    """Two small phantom participants as a BIDS dataset; read-only by agreement."""
    root = tmp_path_factory.mktemp("phantom") / "bids"
    write_phantom_dataset(root, subjects=2, resolution=3.0, seed=3)
    return root


@pytest.fixture
def bids_copy(phantom_bids, tmp_path):
    """A copy of the phantom dataset that a test may spoil."""
    return Path(shutil.copytree(phantom_bids, tmp_path / "bids"))
