"""Regular grids in millimetres, with exact, fast and reproducible interpolation.

Coordinates are RAS+ mm. Fields on coarse grids are upsampled by separable linear interpolation,
which defines every phantom quantity: the same numbers are written to disk as the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Grid:
    """Box of isotropic voxels along the template's axes.

    Attributes
    ----------
    low : ndarray of float64, shape (3,)
        Centre of voxel (0, 0, 0), in mm.
    spacing : float
        Voxel size in mm.
    shape : tuple of int
        Number of voxels along each axis.
    """

    low: NDArray[np.float64]
    spacing: float
    shape: tuple[int, int, int]

    @classmethod
    def covering(cls, low: ArrayLike, high: ArrayLike, spacing: float) -> Grid:
        """Make the smallest grid whose voxel centres reach from `low` to `high` (mm).

        Examples
        --------
        >>> Grid.covering((0, 0, 0), (10, 5, 4), 2).shape
        (6, 4, 3)
        """
        low = np.asarray(low, dtype=np.float64)
        counts = np.ceil((np.asarray(high, dtype=np.float64) - low) / spacing).astype(int) + 1
        return cls(low, float(spacing), (int(counts[0]), int(counts[1]), int(counts[2])))

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to RAS+ mm, shape (4, 4)."""
        affine = np.diag([self.spacing] * 3 + [1.0])
        affine[:3, 3] = self.low
        return affine

    def axes(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Voxel-centre coordinates in mm, three arrays that broadcast to the grid."""
        x, y, z = (
            (self.low[i] + self.spacing * np.arange(n)).astype(np.float32)
            for i, n in enumerate(self.shape)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def sample(
        self,
        volume: NDArray[np.float32],
        points: NDArray[np.float32],
        *,
        outside: float | None = 0.0,
    ) -> NDArray[np.float32]:
        """Interpolate `volume` linearly at `points`.

        Parameters
        ----------
        volume : ndarray of float32, shape `self.shape`
            Values at the voxel centres.
        points : ndarray of float32, shape (3, ...)
            RAS+ mm.
        outside : float or None
            Value beyond the grid; None repeats the border.

        Returns
        -------
        ndarray of float32, shape (...)
        """
        shift = self.low.reshape((3,) + (1,) * (points.ndim - 1))
        index = (points - shift.astype(np.float32)) / np.float32(self.spacing)
        mode = "nearest" if outside is None else "constant"
        values: NDArray[np.float32] = ndimage.map_coordinates(
            volume, index, output=np.float32, order=1, mode=mode, cval=outside or 0.0
        )
        return values


def lerp_axis(
    volume: NDArray[np.float32], index: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    """Interpolate linearly along one axis, with constant extrapolation.

    Parameters
    ----------
    volume : ndarray of float32
    index : ndarray of float64, shape (N,)
        Positions along `axis`, in voxels.
    axis : int

    Returns
    -------
    ndarray of float32
        `volume` with `axis` of length N.

    Examples
    --------
    >>> lerp_axis(np.array([0, 10, 20], np.float32), np.array([-1, 0.5, 1.0, 9.0]), 0).tolist()
    [0.0, 5.0, 10.0, 20.0]
    """
    length = volume.shape[axis]
    clipped = np.clip(index, 0, length - 1)
    low = np.minimum(clipped.astype(np.intp), max(length - 2, 0))
    high = np.minimum(low + 1, length - 1)
    shape = [1] * volume.ndim
    shape[axis] = -1
    weight = (clipped - low).astype(np.float32).reshape(shape)
    below = volume.take(low, axis)
    between: NDArray[np.float32] = below + (volume.take(high, axis) - below) * weight
    return between


def lerp_grid(
    volume: NDArray[np.float32], indices: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Interpolate linearly on the outer product of one index vector per axis."""
    # The axis that grows least goes first: less work for the others.
    for axis in sorted(range(len(indices)), key=lambda i: len(indices[i]) / volume.shape[i]):
        volume = lerp_axis(volume, indices[axis], axis)
    return volume


def resample_grid(volume: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    """Resample a volume to another grid by linear interpolation, constant beyond borders."""
    raised: NDArray[np.float32] = lerp_grid(
        volume,
        [
            (target.low[i] + target.spacing * np.arange(n) - source.low[i]) / source.spacing
            for i, n in enumerate(target.shape)
        ],
    )
    return raised


def smooth_noise(
    rng: np.random.Generator, shape: Sequence[int], sigma: float
) -> NDArray[np.float32]:
    """Draw a Gaussian random field: noise smoothed by `sigma` voxels, mean 0 and variance 1."""
    pad = int(np.ceil(2 * sigma))
    white = rng.standard_normal([n + 2 * pad for n in shape], dtype=np.float32)
    field = ndimage.gaussian_filter(white, sigma, mode="wrap")
    field = field[tuple(slice(pad, pad + n) for n in shape)]
    # The variance that the kernel leaves of white noise, so that the amplitude does not
    # depend on how large the box happens to be.
    line = np.zeros(8 * int(np.ceil(4 * sigma)) + 1, dtype=np.float64)
    line[line.size // 2] = 1.0
    kernel = ndimage.gaussian_filter1d(line, sigma)
    unit: NDArray[np.float32] = field / np.float32(np.sum(kernel**2) ** (len(shape) / 2))
    return unit
