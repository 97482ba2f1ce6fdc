"""What the header of an image says: size, voxels, orientation, repetition time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]

# Directions of two grids differ when an axis turns by more than this, as a sine.
SAME_AXES = 0.02


def same_axes(one: Affine, other: Affine) -> bool:
    """Whether the axes of two grids run the same way.

    >>> same_axes(np.diag([2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1]))
    True
    >>> same_axes(np.diag([2.0, 2, 2, 1]), np.diag([-2.0, 2, 2, 1]))
    False
    """
    first, second = (
        matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (one, other)
    )
    return bool(np.abs(first - second).max() < SAME_AXES)


_TIME_UNITS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}


@dataclass
class ImageFacts:
    """What the header of one image says."""

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    tr: float
    axes: str = field(default="")


def read_header(path: Path) -> ImageFacts:
    """Read shape, voxel size, repetition time and orientation; an unreadable file has none."""
    import nibabel as nb

    try:
        image: Any = nb.load(path)
        header = image.header
        shape = tuple(int(n) for n in image.shape)
        zooms = tuple(float(zoom) for zoom in header.get_zooms())
        units = header.get_xyzt_units()[1]
        axes = "".join(nb.orientations.aff2axcodes(image.affine))
    except (OSError, EOFError, ValueError, KeyError, nb.filebasedimages.ImageFileError):
        return ImageFacts((), (), 0.0)
    tr = zooms[3] * _TIME_UNITS.get(units, 1.0) if len(zooms) > 3 else 0.0
    return ImageFacts(shape, zooms, tr, axes)


def image_grid(path: Path) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Read the number of voxels along each axis, and their size in mm, from a header."""
    import nibabel as nb

    header = nb.nifti1.load(path).header
    i, j, k = header.get_data_shape()[:3]
    x, y, z = header.get_zooms()[:3]
    return (int(i), int(j), int(k)), (float(x), float(y), float(z))


def image_shape(path: Path) -> tuple[int, int, int]:
    """Read the number of voxels along each axis from an image's header."""
    import nibabel as nb

    first, second, third = nb.nifti1.load(path).shape[:3]
    return int(first), int(second), int(third)
