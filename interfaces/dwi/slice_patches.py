"""Replacement slices, inserted when a series is read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import whole_file
from neuroferry.interfaces.image.images import FloatArray


@dataclass(frozen=True)
class Patches:
    """Replacement slices of some volumes.

    Attributes
    ----------
    replaced : ndarray of bool, shape (T, K)
        Mask of the replaced slices of the series.
    slices : ndarray of float32, shape (R, I, J)
        Replacements, volume by volume, and in each from the first slice to the last.
    axis : int
        Stored axis along which slices are stacked.

    Examples
    --------
    >>> new = np.full((2, 2), 5, dtype=np.float32)
    >>> patches = Patches.of({(1, 2): new}, (3, 4), (2, 2))
    >>> data = np.ones((2, 2, 4), dtype=np.float32)
    >>> patches.apply(1, data)[0, 0].tolist()
    [1.0, 1.0, 5.0, 1.0]
    >>> patches.apply(0, np.zeros((2, 2, 4), dtype=np.float32)).any()
    np.False_
    """

    replaced: NDArray[np.bool_]
    slices: NDArray[np.float32]
    axis: int = 2

    @classmethod
    def of(
        cls,
        found: Mapping[tuple[int, int], FloatArray],
        shape: tuple[int, int],
        plane: tuple[int, ...],
        axis: int = 2,
    ) -> Patches:
        """Collect slices keyed by volume and slice index.

        Parameters
        ----------
        found : mapping of (int, int) to ndarray of float32, shape (I, J)
            Slices keyed by volume and slice index.
        shape : tuple of int
            Volumes and slices of the series.
        plane : tuple of int
            Voxels of a slice.
        axis : int
            Slice axis.
        """
        replaced = np.zeros(shape, dtype=bool)
        for name in found:
            replaced[name] = True
        slices = np.zeros((len(found), *plane), dtype=np.float32)
        for number, name in enumerate(sorted(found)):
            slices[number] = found[name]
        return cls(replaced, slices, axis)

    def apply(self, volume: int, data: FloatArray) -> FloatArray:
        """Insert the slices of a volume, shape (I, J, K), in place."""
        first = int(np.count_nonzero(self.replaced[:volume]))
        stack = slices_last(data, self.axis)
        for number, k in enumerate(np.flatnonzero(self.replaced[volume]), start=first):
            stack[..., k] = self.slices[number]
        return data

    def fit(self, shape: tuple[int, int, int, int]) -> bool:
        """Check whether they belong to a series of a shape."""
        count = shape[3], shape[self.axis]
        return self.replaced.shape == count and self.slices.shape[1:] == plane_of(shape, self.axis)


def slices_last(data: FloatArray, axis: int) -> FloatArray:
    """View a volume, shape (I, J, K), with its slices along the last axis."""
    return np.moveaxis(data, axis, -1)


def plane_of(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Give the voxels of one slice.

    >>> plane_of((2, 3, 4, 100), 1)
    (2, 4)
    """
    return tuple(n for number, n in enumerate(shape[:3]) if number != axis)


def write_patches(patches: Patches, path: Path) -> Path:
    """Write slices; the same slices give the same bytes."""
    with whole_file(path) as beside, beside.open("xb") as stream:
        np.savez(stream, replaced=patches.replaced, slices=patches.slices, axis=patches.axis)
    return path


def read_patches(path: str | Path) -> Patches:
    """Read a file of :func:`write_patches`.

    Raises
    ------
    InputError
        If the file is of another kind, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return Patches(held["replaced"], held["slices"], int(held["axis"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{Path(path).name} does not hold replacement slices ({error})."
        ) from error
