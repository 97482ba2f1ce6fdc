"""How the grid of one image fits onto that of another: stored otherwise, shifted, resampled.

Images of one acquisition share a grid. Converters and later tools store them with other axes,
round their position, or change their resolution; these differences have one meaning. Any other
does not, and is refused.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroferry.bids.headers import Grid, Gridded, grid_difference, same_grid
from neuroferry.errors import GeometryError

#: Largest distance of corners, in voxels, that is an error of rounding: values are not moved.
ROUNDING_VOXELS = 0.25
#: Relative difference below which voxel sizes are the same.
SAME_SIZE = 0.01
#: Smallest part of each axis that an image of another resolution has to cover.
COVERED = 0.9
#: Sine of the largest angle between the axes of two EPIs whose phase encoding is compared: their
#: distortions then differ in direction by less than 6 degrees.
LARGEST_TILT = 0.1

#: ``same``: voxel by voxel, in another order of storage if need be; ``resampled``: interpolated.
Fit = Literal["same", "resampled"]


def fit_onto(image: Gridded, reference: Gridded) -> Fit:
    """Determine how an image is brought onto the grid of another one of the same acquisition.

    Parameters
    ----------
    image, reference : image
        Anything with ``shape`` and ``affine``.

    Returns
    -------
    {"same", "resampled"}
        ``same`` if the grids agree to a quarter of a voxel in any order of storage;
        ``resampled`` if voxel sizes or numbers of voxels differ, but not the directions of the
        axes, and the field of view of the reference is covered.

    Raises
    ------
    GeometryError
        With a clause, if the difference has no single meaning.

    Examples
    --------
    >>> grid = Grid((9, 9, 9), np.diag([2.0, 2, 2, 1]))
    >>> fit_onto(Grid((9, 9, 9), np.array([[-2.0, 0, 0, 16], [0, 2, 0, 0], [0, 0, 2, 0]
    ...                                    , [0, 0, 0, 1]])), grid)
    'same'
    >>> fit_onto(Grid((5, 5, 5), np.diag([4.0, 4, 4, 1])), grid)
    'resampled'
    """
    ordered = reordered(image, reference)
    sizes, own = (_sizes(grid.affine) for grid in (reference, ordered))
    if ordered.shape == reference.shape[:3] and np.allclose(sizes, own, rtol=SAME_SIZE):
        if same_grid(ordered, reference, tolerance_mm=ROUNDING_VOXELS * float(sizes.min())):
            return "same"
        raise GeometryError(grid_difference(ordered, reference))
    if tilt_of(ordered.affine, reference.affine) > LARGEST_TILT:
        raise GeometryError("their axes are tilted against each other")
    low, high = _extent(ordered, reference)
    ends = np.array(reference.shape[:3])
    covered = (np.minimum(high, ends - 0.5) - np.maximum(low, -0.5)) / ends
    if covered.min() < COVERED:
        share = max(0, round(100 * float(covered.min())))
        raise GeometryError(f"one covers only {share} % of the other along an axis")
    return "resampled"


def reordered(image: Gridded, reference: Gridded) -> Grid:
    """Compute the grid of an image with its axes flipped and permuted like those of another."""
    import nibabel as nb

    turn = orientation(image.affine, reference.affine)
    shape = tuple(int(image.shape[axis]) for axis in np.argsort(turn[:, 0]))
    affine = np.asarray(image.affine, dtype=float)
    return Grid(shape, affine @ nb.orientations.inv_ornt_aff(turn, image.shape[:3]))


def orientation(affine: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Compute which axis of the reference each axis runs along, and in which direction.

    Parameters
    ----------
    affine, reference : array_like of float, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (3, 2)
        Axis of the reference, and 1 or -1; as nibabel's functions of orientations take it.

    Raises
    ------
    GeometryError
        With a clause, if an affine is not invertible.
    """
    import nibabel as nb

    first, second = (np.asarray(matrix, dtype=float) for matrix in (affine, reference))
    for matrix in (first, second):
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise GeometryError("the orientation in the header is not valid")
    # Axes of unit length: voxel sizes must not matter.
    turned = np.eye(4)
    turned[:3, :3] = _directions(second).T @ _directions(first)
    found: NDArray[np.float64] = nb.orientations.io_orientation(turned)
    return found


def tilt_of(affine: ArrayLike, reference: ArrayLike) -> float:
    """Compute the sine of the largest angle between two grids' axes, in any order of storage."""
    first, second = (_directions(np.asarray(m, dtype=float)) for m in (affine, reference))
    turn = orientation(affine, reference)
    axes = turn[:, 0].astype(int)
    cosines = np.einsum("ij,ij->j", first, second[:, axes] * turn[:, 1])
    return float(np.sqrt(np.clip(1 - cosines.min() ** 2, 0, None)))


def direction_along(direction: str, affine: ArrayLike, reference: ArrayLike) -> str:
    """Express a phase-encoding direction of one image in the axes of another.

    Parameters
    ----------
    direction : str
        ``"i"``, ``"j"`` or ``"k"``, with ``-`` for the negative direction, of stored axes.
    affine, reference : array_like of float, shape (4, 4)
        Of the image and of the other, voxel indices to RAS+ mm.

    Examples
    --------
    >>> direction_along("j-", np.diag([2.0, -2, 2, 1]), np.diag([3.0, 3, 3, 1]))
    'j'
    """
    axis, way = orientation(affine, reference)["ijk".index(direction[0])]
    forwards = (way > 0) != direction.endswith("-")
    return "ijk"[int(axis)] + ("" if forwards else "-")


def _sizes(affine: ArrayLike) -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return sizes


def _directions(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    directions: NDArray[np.float64] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return directions


def _extent(image: Gridded, reference: Gridded) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the field of view of an image in voxels of a reference with parallel axes."""
    to_index = np.linalg.inv(np.asarray(reference.affine, dtype=float)) @ np.asarray(
        image.affine, dtype=float
    )
    corners = np.array([[-0.5] * 3, np.array(image.shape[:3]) - 0.5]).T
    ends = np.diag(np.diag(to_index)[:3]) @ corners + to_index[:3, 3:]
    return ends.min(axis=1), ends.max(axis=1)
