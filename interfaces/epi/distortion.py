"""Geometry of echo-planar distortion: from a field in hertz to voxel shifts.

In an EPI, the signal of a spin at voxel ``x`` (undistorted) with an off-resonance of ``f``
hertz appears at ``x + s f T`` along the phase-encoding axis, in voxels: ``T`` is the BIDS
``TotalReadoutTime`` in seconds, ``s`` is +1 for ``PhaseEncodingDirection`` "j" and -1 for "j-"
(the axis of the stored array). Where the shift increases, signal is spread out; where it
decreases, signal piles up. The correction therefore multiplies intensity by
``1 + d(shift)/dx``.

References
----------
.. [1] Jezzard P, Balaban RS (1995). Correction for geometric distortion in echo planar
   images from B0 field variations. Magn Reson Med 34(1):65-73. doi:10.1002/mrm.1910340111
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.bids.epi import phase_encoding_axis

if TYPE_CHECKING:
    from neuroferry.interfaces.image.images import FloatArray

# Signal recovered from a steeper pile-up is noise: lower bound of the Jacobian.
LEAST_JACOBIAN = 0.1
MOST_JACOBIAN = 4.0


def shift_of(field_hz: FloatArray, direction: str, readout_time: float) -> FloatArray:
    """Convert a field to the shift of the signal along the phase-encoding axis, voxels.

    Parameters
    ----------
    field_hz : ndarray of float32, shape (I, J, K)
        Off-resonance in hertz, in undistorted space, on the EPI's grid.
    direction : str
        PhaseEncodingDirection of the EPI.
    readout_time : float
        TotalReadoutTime of the EPI, s.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        The signal of voxel ``x`` lies at ``x + shift`` in the EPI.

    Examples
    --------
    >>> shift_of(np.full((1, 1, 1), 100, np.float32), "j-", 0.03).round(3).tolist()
    [[[-3.0]]]
    """
    _, sign = phase_encoding_axis(direction)
    shift: FloatArray = (sign * readout_time * field_hz).astype(np.float32)
    return shift


def jacobian_of(shift: FloatArray, axis: int) -> FloatArray:
    """Compute the Jacobian of ``x + shift(x)`` along an axis, within bounds.

    Parameters
    ----------
    shift : ndarray of float32, shape (I, J, K)
        Voxels.
    axis : int
        Axis of the shift.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
    """
    slope = 1.0 + np.gradient(shift, axis=axis)
    bounded: FloatArray = np.clip(slope, LEAST_JACOBIAN, MOST_JACOBIAN).astype(np.float32)
    return bounded


def unwarp(
    data: FloatArray, shift: FloatArray, axis: int, *, jacobian: bool = True, order: int = 3
) -> FloatArray:
    """Correct the distortion of an EPI.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Distorted image.
    shift : ndarray of float32, shape (I, J, K)
        Displacement of each undistorted voxel's signal, voxels along `axis`.
    axis : int
        Phase-encoding axis.
    jacobian : bool
        Correct intensities by the Jacobian as well.
    order : int
        Spline order of the interpolation.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Non-negative where `data` is.
    """
    from scipy import ndimage

    index = np.indices(data.shape, dtype=np.float32)
    index[axis] += shift
    moved = ndimage.map_coordinates(
        data, index, order=order, mode="constant", cval=0.0, output=np.float32
    )
    if order > 1 and float(data.min()) >= 0:
        np.maximum(moved, 0, out=moved)
    if jacobian:
        moved *= jacobian_of(shift, axis)
    result: FloatArray = moved
    return result


def distort(data: FloatArray, shift: FloatArray, axis: int) -> FloatArray:
    """Distort an image like an EPI: the inverse of :func:`unwarp`.

    Signal is pushed forward: the signal of a voxel moves to ``x + shift`` and is shared
    between the two nearest voxels, so that the sum along each line is preserved.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Undistorted image.
    shift : ndarray of float32, shape (I, J, K)
        Voxels along `axis`.
    axis : int
        Phase-encoding axis.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Signal that leaves the field of view is lost.
    """
    from scipy import ndimage

    parts = 8
    lines = np.moveaxis(np.asarray(data, dtype=np.float64), axis, -1)
    moves = np.moveaxis(np.asarray(shift, dtype=np.float64), axis, -1)
    n = lines.shape[-1]
    fine = (np.arange(n * parts) + 0.5) / parts - 0.5
    grid = np.indices(lines.shape[:2], dtype=np.float64).reshape(2, -1)
    rows = grid.shape[1]
    flat_lines, flat_moves = lines.reshape(rows, n), moves.reshape(rows, n)
    where = [np.repeat(np.arange(rows), fine.size), np.tile(fine, rows)]
    signal = ndimage.map_coordinates(flat_lines, where, order=1, mode="nearest") / parts
    target = where[1] + ndimage.map_coordinates(flat_moves, where, order=1, mode="nearest")
    lower = np.floor(target).astype(np.int64)
    upper_share = target - lower
    total = np.zeros(rows * n)
    for index, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        inside = (index >= 0) & (index < n)
        total += np.bincount(
            where[0][inside] * n + index[inside], signal[inside] * share[inside], rows * n
        )
    return np.ascontiguousarray(np.moveaxis(total.reshape(lines.shape), -1, axis), np.float32)
