"""Geometry of echo-planar distortion: from a field in hertz to shifts, and back.

In an EPI a spin at voxel ``x`` (undistorted) whose field is off by ``f`` hertz gives its
signal at ``x + s f T`` along the phase-encoding axis, in voxels: ``T`` is BIDS'
``TotalReadoutTime`` in seconds, ``s`` is +1 for ``PhaseEncodingDirection`` "j" and -1 for "j-"
(the axis is that of the stored array). Where the shift grows signal is spread out, where it
shrinks it piles up: intensity is multiplied by ``1 + d(shift)/dx`` when it is undone.

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

# Signal pulled out of a pile this steep is noise: the Jacobian is kept above it.
LEAST_JACOBIAN = 0.1
MOST_JACOBIAN = 4.0


def shift_of(field_hz: FloatArray, direction: str, readout_time: float) -> FloatArray:
    """Turn a field into the shift of the signal along the phase-encoding axis, voxels.

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
    """How much the map ``x + shift(x)`` stretches along an axis, kept in bounds.

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
    """Undo the distortion of an EPI.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K)
        Distorted image.
    shift : ndarray of float32, shape (I, J, K)
        Where each undistorted voxel's signal lies, voxels along `axis`.
    axis : int
        Phase-encoding axis.
    jacobian : bool
        Undo the piling up of signal too.
    order : int
        Spline order of the interpolation.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Not negative where `data` is not.
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
    """Distort an image as an EPI would: the opposite of :func:`unwarp`.

    Signal is moved, not read: every voxel's signal goes to ``x + shift`` and is shared
    between the two voxels next to it, so that its sum along each line stays.

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
