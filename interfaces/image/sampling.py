"""Mapping of target voxels to a series, and sampling of its volumes there.

The transforms through template, anatomy, reference and distortion do not depend on time;
they are applied once and kept as a :class:`StaticMap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.epi import check_readout_time, phase_encoding_axis
from neuroferry.errors import GeometryError
from neuroferry.interfaces.image.images import Affine, FloatArray, inverse
from neuroferry.interfaces.image.transforms import Transform, map_points

CHUNK_POINTS = 1_000_000
MARGIN_VOXELS = 1.0
# The Jacobian is limited to this range.
JACOBIAN_RANGE = (0.1, 5.0)


@dataclass(frozen=True)
class Distortion:
    """Distortion of a series along its phase-encoding axis.

    Attributes
    ----------
    shift : ndarray of float32, shape (I, J, K)
        Displacement in voxels along the axis, from the undistorted position of a voxel's
        signal to its distorted one; on the grid of the series, in undistorted space.
    axis : int
        Phase-encoding axis of the stored image.
    jacobian : bool
        Scale intensities by the Jacobian.
    """

    shift: FloatArray
    axis: int
    jacobian: bool = True


@dataclass(frozen=True)
class StaticMap:
    """Mapping of the voxels of a target grid to a series, except for motion.

    Attributes
    ----------
    shape : tuple of int
        Shape of the target.
    affine : ndarray of float64, shape (4, 4)
        Its affine.
    voxels : ndarray of int64, shape (V,)
        Flat indices of the target voxels that can have a value.
    index : ndarray of float32, shape (3, V)
        Voxel coordinates on the grid of the series, before motion and distortion.
    shift : ndarray of float32, shape (V,) or None
        Displacement along the phase-encoding axis, added after motion, voxels.
    axis : int
        Phase-encoding axis.
    jacobian : ndarray of float32, shape (V,) or None
        Intensity factors.
    """

    shape: tuple[int, int, int]
    affine: Affine
    voxels: NDArray[np.int64]
    index: NDArray[np.float32]
    shift: NDArray[np.float32] | None = None
    axis: int = 1
    jacobian: NDArray[np.float32] | None = None

    def carry(self, data: FloatArray) -> NDArray[np.float32]:
        """Sample a smooth map, on the grid of the series, at the voxels; shape (V,)."""
        return sample_linear(data, self.index)

    def fill(self, values: NDArray[np.float32]) -> FloatArray:
        """Fill a volume of the target grid with values, zero elsewhere."""
        volume = np.zeros(self.shape, dtype=np.float32)
        volume.reshape(-1)[self.voxels] = values
        return volume


def distortion_from_field(
    fieldmap: FloatArray, direction: str, readout_time: float, *, jacobian: bool = True
) -> Distortion:
    """Convert a field map to voxel shifts.

    Parameters
    ----------
    fieldmap : ndarray of float32, shape (I, J, K)
        Off-resonance in Hz on the grid of the series, in undistorted space.
    direction : str
        ``PhaseEncodingDirection`` of the series. With ``j`` a positive offset moves the
        signal to higher indices.
    readout_time : float
        ``TotalReadoutTime``, s.
    jacobian : bool
        Scale intensities by the Jacobian.

    Returns
    -------
    Distortion
    """
    check_readout_time(readout_time)
    axis, sign = phase_encoding_axis(direction)
    return Distortion(fieldmap * np.float32(sign * readout_time), axis, jacobian)


def sample_linear(data: FloatArray, index: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate linearly, with the edge value beyond the edge."""
    from scipy import ndimage

    values: NDArray[np.float32] = ndimage.map_coordinates(
        data, index, order=1, mode="nearest", output=np.float32
    )
    return values


def static_map(
    grid: tuple[tuple[int, int, int], Affine],
    target: tuple[tuple[int, int, int], Affine],
    transforms: Sequence[Transform] = (),
    *,
    distortion: Distortion | None = None,
    margin: float = MARGIN_VOXELS,
) -> StaticMap:
    """Map the voxels of a target to the grid of the series.

    Parameters
    ----------
    grid : tuple
        Shape and affine of the series.
    target : tuple
        Shape and affine of the target.
    transforms : sequence of Transform
        In the order in which they act on the target's points.
    distortion : Distortion, optional
        Distortion of the series.
    margin : float
        Target voxels farther than this (in voxels of the series) outside the field of view
        stay zero.

    Returns
    -------
    StaticMap
    """
    shape, affine = target
    to_voxels = inverse(grid[1])
    limits = np.array(grid[0], dtype=float)[:, None] - 1.0 + margin
    kept_voxels, kept_index = [], []
    step = max(1, CHUNK_POINTS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop = min(shape[0], start + step)
        index = np.indices((stop - start, shape[1], shape[2]), dtype=np.float64).reshape(3, -1)
        index[0] += start
        points = map_points(affine[:3, :3] @ index + affine[:3, 3:], transforms)
        found = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
        inside = np.flatnonzero(((found >= -margin) & (found <= limits)).all(axis=0))
        kept_voxels.append(inside + start * shape[1] * shape[2])
        kept_index.append(found[:, inside].astype(np.float32))
    voxels, where = np.concatenate(kept_voxels), np.concatenate(kept_index, axis=1)
    if voxels.size == 0:
        raise GeometryError(
            "The series and the target grid do not overlap; check the transforms and the headers."
        )
    if distortion is None:
        return StaticMap(shape, affine, voxels, where)
    factor = None
    if distortion.jacobian:
        stretch = 1.0 + np.gradient(distortion.shift, axis=distortion.axis)
        factor = np.clip(sample_linear(stretch.astype(np.float32), where), *JACOBIAN_RANGE)
    return StaticMap(
        shape,
        affine,
        voxels,
        where,
        sample_linear(distortion.shift, where),
        distortion.axis,
        factor,
    )


def resample_volume(
    data: FloatArray, where: StaticMap, motion: Affine | None = None
) -> NDArray[np.float32]:
    """Resample one volume at the voxels of a target.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Volume of the series.
    where : StaticMap
        From :func:`static_map`.
    motion : ndarray of float64, shape (4, 4), optional
        Voxels of the reference to voxels of this volume.

    Returns
    -------
    ndarray of float32, shape (V,)
        Zero outside the field of view of the volume.
    """
    from scipy import ndimage

    coefficients = ndimage.spline_filter(data, order=3, output=np.float32, mode="mirror")
    out = np.empty(where.voxels.size, dtype=np.float32)
    top = np.array(data.shape, dtype=float)[:, None] - 1.0
    for start in range(0, out.size, CHUNK_POINTS):
        part = slice(start, start + CHUNK_POINTS)
        index = where.index[:, part].astype(np.float64)
        if motion is not None:
            index = motion[:3, :3] @ index + motion[:3, 3:]
        if where.shift is not None:
            index[where.axis] += where.shift[part]
        # Outer voxels extend half a voxel beyond their centres.
        np.clip(index, 0.0, top, out=index, where=(index > -0.5) & (index < top + 0.5))
        ndimage.map_coordinates(
            coefficients,
            index,
            output=out[part],
            order=3,
            mode="constant",
            cval=0.0,
            prefilter=False,
        )
    if where.jacobian is not None:
        out *= where.jacobian
    return out
