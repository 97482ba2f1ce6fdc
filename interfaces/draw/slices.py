"""Choice, extent and orientation of image slices on a page.

Slices follow the voxel axes of the image in its closest RAS+ orientation and are shown in
the neurological convention: the left of the picture is the left of the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.bids.headers import reading_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Plane:
    """Orientation of the slices across one voxel axis of an RAS+ image.

    Attributes
    ----------
    name : str
        ``Axial``, ``Coronal`` or ``Sagittal``.
    axis : int
        Voxel axis normal to the slices.
    right, up : int
        Voxel axes that point right and up on the page.
    marks : tuple of str
        Labels of the left and the right edge.
    """

    name: str
    axis: int
    right: int
    up: int
    marks: tuple[str, str]


AXIAL = Plane("Axial", 2, 0, 1, ("L", "R"))
CORONAL = Plane("Coronal", 1, 0, 2, ("L", "R"))
SAGITTAL = Plane("Sagittal", 0, 1, 2, ("P", "A"))


@dataclass(frozen=True)
class Volume:
    """An image in its closest RAS+ orientation.

    Attributes
    ----------
    data : ndarray of float32 or int, shape (I, J, K)
        Values.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis, then of values per voxel if several."""
        return self.data.shape

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Voxel sizes in mm, shape (3,)."""
        sizes: NDArray[np.float64] = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return sizes


@dataclass(frozen=True)
class Box:
    """Visible part of the grid, first and last voxel along each axis."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """Slices of one plane: ``indices`` along its axis, ``columns`` of them side by side."""

    plane: Plane
    indices: tuple[int, ...]
    columns: int


def load_canonical(path: str | Path) -> Volume:
    """Read an image in its closest RAS+ orientation.

    Parameters
    ----------
    path : str or pathlib.Path
        A three-dimensional NIfTI file; a fourth dimension of length one is dropped.

    Returns
    -------
    Volume
        Values as float32 when the file holds fractions or scaling, integers otherwise.
    """
    import nibabel as nb

    with reading_image(path):
        image = nb.as_closest_canonical(nb.funcs.squeeze_image(nb.load(path)))
        data = np.asarray(image.dataobj)
    if data.dtype.kind == "f":
        data = np.nan_to_num(data.astype(np.float32, copy=False), posinf=0.0, neginf=0.0)
    return Volume(data, np.asarray(image.affine, dtype=np.float64))


def whole_box(shape: Sequence[int]) -> Box:
    """Make the box of the whole grid.

    Examples
    --------
    >>> whole_box((4, 5, 6))
    Box(low=(0, 0, 0), high=(3, 4, 5))
    """
    i, j, k = (int(n) - 1 for n in shape[:3])
    return Box((0, 0, 0), (i, j, k))


def box_around(mask: NDArray[Any], zooms: NDArray[np.float64], margin_mm: float = 12.0) -> Box:
    """Make the box around a mask with a margin of ``margin_mm``, within the grid.

    Parameters
    ----------
    mask : ndarray, shape (I, J, K)
        Non-zero inside. If it is empty, the box of the whole grid is returned.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes in mm.
    margin_mm : float
        Distance added on each side, in mm.

    Examples
    --------
    >>> mask = np.zeros((10, 10, 10)); mask[4:6, 5, 5] = 1
    >>> box_around(mask, np.ones(3), 2.0)
    Box(low=(2, 3, 3), high=(7, 7, 7))
    """
    inside = np.asarray(mask) != 0
    if not inside.any():
        return whole_box(inside.shape)
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(inside.any(axis=others))
        margin = round(margin_mm / float(zooms[axis]))
        low.append(max(int(where[0]) - margin, 0))
        high.append(min(int(where[-1]) + margin, inside.shape[axis] - 1))
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """Choose ``count`` indices evenly from ``first`` to ``last``, without repeats.

    Examples
    --------
    >>> spread(0, 10, 3)
    (0, 5, 10)
    >>> spread(3, 4, 5)
    (3, 4)
    """
    return tuple(int(i) for i in np.unique(np.linspace(first, last, count).round().astype(int)))


def rows_over(
    box: Box, counts: Sequence[tuple[Plane, int, int]], *, inset: float = 0.05
) -> list[Row]:
    """Spread slices over a box.

    Parameters
    ----------
    box : Box
        Visible part of the grid.
    counts : sequence of (Plane, int, int)
        For each plane the number of slices, and how many are placed side by side.
    inset : float
        Fraction of the box omitted at either end.
    """
    rows = []
    for plane, count, columns in counts:
        low, high = box.low[plane.axis], box.high[plane.axis]
        cut = inset * (high - low)
        rows.append(Row(plane, spread(round(low + cut), round(high - cut), count), columns))
    return rows


def cut(data: NDArray[Any], plane: Plane, index: int, box: Box) -> NDArray[Any]:
    """Cut one slice in page orientation: first row on top.

    Parameters
    ----------
    data : ndarray, shape (I, J, K)
        In RAS+ orientation.

    Returns
    -------
    ndarray, shape (rows, columns)

    Examples
    --------
    >>> data = np.arange(8).reshape(2, 2, 2)  # value = 4 x + 2 y + z
    >>> cut(data, AXIAL, 0, whole_box(data.shape)).tolist()  # anterior (y = 1) is on top
    [[2, 6], [0, 4]]
    """
    window = [slice(lo, hi + 1) for lo, hi in zip(box.low, box.high, strict=True)]
    picked: list[slice | int] = list(window)
    picked[plane.axis] = index
    plain = data[tuple(picked)]
    return np.swapaxes(plain, 0, 1)[::-1]
