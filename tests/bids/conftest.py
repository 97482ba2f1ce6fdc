"""Small datasets and images on disk, valid until a test damages them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

AFFINE = np.array([[4.0, 0, 0, -40], [0, 4, 0, -44], [0, 0, 4, -48], [0, 0, 0, 1]])


def save(
    path: Path,
    data: np.ndarray | None = None,
    *,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
) -> Path:
    """Write an image with exactly the given sform and qform."""
    if data is None:
        data = np.random.default_rng(1).integers(0, 900, (20, 22, 24)).astype(np.int16)
    image = nb.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE if qform is None else qform, code=codes[1])
    image.set_sform(AFFINE if sform is None else sform, code=codes[0])
    image.to_filename(path)
    return path


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Write ``sub-01_T1w.nii.gz``, or another name; see `save` for the arguments."""

    def write(data: np.ndarray | None = None, name: str = "sub-01_T1w.nii.gz", **forms) -> Path:
        return save(tmp_path / name, data, **forms)

    return write


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[[Mapping[str, object]], Path]:
    """Write a dataset, given by path: JSON content, text, or None for an image."""

    def make(files: Mapping[str, object]) -> Path:
        root = tmp_path / "bids"
        root.mkdir()
        description = {"Name": "toy", "BIDSVersion": "1.10.0"}
        for name, content in {"dataset_description.json": description, **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                save(path)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return root

    return make
