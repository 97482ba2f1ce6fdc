"""Diffusion gradients in world coordinates, and on disk.

Files hold directions along the voxel axes of the image, the first component negated if the
affine's determinant is positive (FSL's convention: FSL reads such an image with its first axis
reversed). In memory they are unit vectors in RAS+ world coordinates.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.gradients import (
    B0_THRESHOLD,
    MIN_DIRECTIONS,
    Shell,
    determine_tensor,
    distinct_directions,
    find_shells,
    read_bvals,
    read_bvecs,
    settle_gradients,
)
from neuroferry.errors import GeometryError, InputError
from neuroferry.files import write_text
from neuroferry.interfaces.image.images import Affine

__all__ = [
    "B0_THRESHOLD",
    "MIN_DIRECTIONS",
    "Gradients",
    "Shell",
    "determine_tensor",
    "distinct_directions",
    "find_shells",
    "fsl_to_world",
    "read_gradients",
    "world_to_fsl",
    "write_gradients",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gradients:
    """b-value and gradient direction of each volume of a run.

    Attributes
    ----------
    bvals : ndarray of float64, shape (N,)
        s/mm2.
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors, RAS+ world; zero for b0 volumes.
    b0_threshold : float
        Volumes up to this b-value are b0 volumes, s/mm2.
    """

    bvals: Floats
    bvecs: Floats
    b0_threshold: float = B0_THRESHOLD

    @property
    def b0s(self) -> NDArray[np.bool_]:
        """Mask of the b0 volumes, shape (N,)."""
        mask: NDArray[np.bool_] = self.bvals <= self.b0_threshold
        return mask

    @property
    def shells(self) -> tuple[Shell, ...]:
        """Volumes of about one b-value, the b0 volumes first."""
        return find_shells(self.bvals, self.b0_threshold)

    @property
    def n_directions(self) -> int:
        """Number of distinct directions; opposite ones count as one."""
        return len(distinct_directions(self.bvecs))

    def __len__(self) -> int:
        return len(self.bvals)


def image_axes(affine: Affine) -> Floats:
    """Find the world directions of the voxel axes in FSL's convention.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        Orthogonal; its columns are the axes, the first reversed where the determinant of
        `affine` is positive. For a sheared affine, the nearest orthogonal matrix.

    Raises
    ------
    GeometryError
        If the affine cannot be inverted.
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise GeometryError("the affine of the image cannot be inverted; repair its header")
    left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    axes: Floats = left @ right
    if np.linalg.det(matrix) > 0:
        axes[:, 0] = -axes[:, 0]
    return axes


def fsl_to_world(bvecs: Floats, affine: Affine) -> Floats:
    """Convert directions from a file to world coordinates.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        FSL's convention.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        RAS+ world.

    Examples
    --------
    >>> fsl_to_world(np.array([[1.0, 0, 0]]), np.diag([2.0, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    >>> fsl_to_world(np.array([[1.0, 0, 0]]), np.diag([-2.0, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    world: Floats = np.asarray(bvecs, dtype=np.float64) @ image_axes(affine).T
    return world + 0.0


def world_to_fsl(bvecs: Floats, affine: Affine) -> Floats:
    """Convert world directions to FSL's convention, the inverse of `fsl_to_world`."""
    written: Floats = np.asarray(bvecs, dtype=np.float64) @ image_axes(affine)
    return written + 0.0


def read_gradients(
    bval: str | os.PathLike[str],
    bvec: str | os.PathLike[str],
    affine: Affine,
    b0_threshold: float = B0_THRESHOLD,
) -> Gradients:
    """Read and normalise the gradients of a run.

    Parameters
    ----------
    bval, bvec : path
        Files in FSL's format.
    affine : ndarray of float64, shape (4, 4)
        Affine of their image, voxel indices to RAS+ mm.
    b0_threshold : float
        Volumes up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    Gradients
        Normalised by `neuroferry.bids.gradients.settle_gradients`.

    Raises
    ------
    InputError
        If a file cannot be read, or the two do not match.
    """
    values = read_bvals(Path(bval))
    vectors, _ = read_bvecs(Path(bvec))
    try:
        settled, unit, _ = settle_gradients(values, vectors, b0_threshold)
    except InputError as error:
        raise InputError(f"{Path(bval)} and {Path(bvec).name}: {error}") from error
    return Gradients(settled, fsl_to_world(unit, affine), b0_threshold)


def write_gradients(
    gradients: Gradients,
    affine: Affine,
    bval: str | os.PathLike[str],
    bvec: str | os.PathLike[str],
) -> tuple[Path, Path]:
    """Write gradients in FSL's format; each file appears whole or not at all.

    Parameters
    ----------
    gradients : Gradients
        Gradients to write.
    affine : ndarray of float64, shape (4, 4)
        Affine of their image, voxel indices to RAS+ mm.
    bval, bvec : path
        Output files.

    Returns
    -------
    Path, Path
        The two files.
    """
    values = " ".join(_number(value) for value in gradients.bvals)
    rows = world_to_fsl(gradients.bvecs, affine).T
    vectors = "\n".join(" ".join(_number(value) for value in row) for row in rows)
    bval, bvec = Path(bval), Path(bvec)
    write_text(bval, f"{values}\n")
    write_text(bvec, f"{vectors}\n")
    return bval, bvec


def _number(value: float) -> str:
    return f"{round(float(value), 8) + 0.0:.10g}"
