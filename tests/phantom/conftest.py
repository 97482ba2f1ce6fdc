"""Small datasets for the phantom's tests, each written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from neuroferry.phantom import (
    BoldOptions,
    DwiOptions,
    PhantomSubject,
    write_phantom_dataset,
)
from neuroferry.phantom.subject import SubjectAnatomy, draw_subject, grow_subject

if TYPE_CHECKING:
    from pathlib import Path


class Dataset(NamedTuple):
    root: Path
    subjects: list[PhantomSubject]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Dataset:
    """Write three subjects (the second a child, the third defaced) at 3 mm."""
    root = tmp_path_factory.mktemp("phantom") / "bids"
    return Dataset(root, write_phantom_dataset(root, subjects=3, resolution=3.0, seed=11))


@pytest.fixture(scope="session")
def functional(tmp_path_factory) -> Dataset:
    """Write the first of the three subjects again, with a small multi-echo run and field maps."""
    root = tmp_path_factory.mktemp("functional") / "bids"
    options = BoldOptions(
        8,
        resolution=6.0,
        echo_times=(0.013, 0.03, 0.047),
        fieldmaps=("phasediff", "direct", "epi"),
    )
    subjects = write_phantom_dataset(root, subjects=1, resolution=3.0, seed=11, bold=options)
    return Dataset(root, subjects)


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory) -> Dataset:
    """Write the first of the three subjects again, with a small diffusion scan of two shells."""
    root = tmp_path_factory.mktemp("diffusion") / "bids"
    options = DwiOptions(7, bvals=(1000.0, 2000.0), n_b0=2, resolution=6.0)
    subjects = write_phantom_dataset(root, subjects=1, resolution=3.0, seed=11, dwi=options)
    return Dataset(root, subjects)


@pytest.fixture(scope="session")
def anatomy() -> SubjectAnatomy:
    """Make the first subject's head."""
    return grow_subject(draw_subject(0, seed=11, label="01"))
