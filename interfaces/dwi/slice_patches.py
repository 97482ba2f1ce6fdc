"""Slices that take the place of others when a series is read."""

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
    """Slices of some volumes.

    Attributes
    ----------
    replaced : ndarray of bool, shape (T, K)
        Which slices of the series are replaced.
    slices : ndarray of float32, shape (R, I, J)
        What by, volume after volume, and in each from the first slice to the last.

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

    @classmethod
    def of(
        cls,
        found: Mapping[tuple[int, int], FloatArray],
        shape: tuple[int, int],
        plane: tuple[int, int],
    ) -> Patches:
        """Gather slices that are named by volume and number.

        Parameters
        ----------
        found : mapping of (int, int) to ndarray of float32, shape (I, J)
            By volume and slice.
        shape : tuple of int
            Volumes and slices of the series.
        plane : tuple of int
            Voxels of a slice.
        """
        replaced = np.zeros(shape, dtype=bool)
        for name in found:
            replaced[name] = True
        slices = np.zeros((len(found), *plane), dtype=np.float32)
        for number, name in enumerate(sorted(found)):
            slices[number] = found[name]
        return cls(replaced, slices)

    def apply(self, volume: int, data: FloatArray) -> FloatArray:
        """Put the slices of a volume, shape (I, J, K), in their place; it is changed."""
        first = int(np.count_nonzero(self.replaced[:volume]))
        for number, k in enumerate(np.flatnonzero(self.replaced[volume]), start=first):
            data[..., k] = self.slices[number]
        return data


def write_patches(patches: Patches, path: Path) -> Path:
    """Write slices; the same ones give the same bytes."""
    with whole_file(path) as beside, beside.open("xb") as stream:
        np.savez(stream, replaced=patches.replaced, slices=patches.slices)
    return path


def read_patches(path: str | Path) -> Patches:
    """Read what :func:`write_patches` wrote.

    Raises
    ------
    InputError
        If the file is another one, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return Patches(held["replaced"], held["slices"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{Path(path).name} holds no slices ({error}).") from error
