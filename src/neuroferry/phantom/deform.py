"""Deformation of the template to an individual head: size, shape, smooth warping.

The map from the subject to the template is an affine transform followed by the flow of a
stationary velocity field, so it is invertible and never folds. The velocity is a sum of
Gaussian random fields at several scales (lobes, gyri) and of a field that opens or closes
the ventricles.

References
----------
Arsigny V, Commowick O, Pennec X, Ayache N (2006). A log-Euclidean framework for statistics
on diffeomorphisms. MICCAI 2006, 924-931. doi:10.1007/11866565_113
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.grids import Grid, lerp_grid, smooth_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_STEPS = 6  # squarings: velocities of up to 20 mm start from a third of a millimetre


@dataclass(frozen=True)
class DisplacementField:
    """Dense map ``x -> x + u(x)`` on a grid that may be oblique.

    Attributes
    ----------
    data : ndarray of float32, shape (I, J, K, 3)
        Displacements u in RAS+ mm at the nodes; linear in between, constant beyond the border.
    affine : ndarray of float64, shape (4, 4)
        Node indices to RAS+ mm.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points, shape (..., 3), RAS+ mm."""
        inverse = np.linalg.inv(self.affine)
        index = np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
        grid = Grid(np.zeros(3), 1.0, _shape3(self.data))
        moved = np.array(points, dtype=np.float64)
        for axis in range(3):
            component = np.ascontiguousarray(self.data[..., axis])
            moved[..., axis] += grid.sample(component, index, outside=None)
        return moved


def compose_affine(
    scales: Sequence[float], shears: Sequence[float], rotation: Sequence[float]
) -> NDArray[np.float64]:
    """Compose rotation x shear x scale, shape (3, 3).

    Parameters
    ----------
    scales : sequence of 3 floats
        Along left-right, posterior-anterior, inferior-superior.
    shears : sequence of 3 floats
        The elements above the diagonal (xy, xz, yz).
    rotation : sequence of 3 floats
        Degrees about x, then y, then z.

    Examples
    --------
    >>> m = compose_affine((1, 2, 3), (0, 0, 0), (90, 0, 0))
    >>> np.round(m @ [0, 1, 0], 6).tolist()
    [0.0, 0.0, 2.0]
    """
    rx, ry, rz = np.radians(np.asarray(rotation, dtype=np.float64))
    about_x = [[1, 0, 0], [0, np.cos(rx), -np.sin(rx)], [0, np.sin(rx), np.cos(rx)]]
    about_y = [[np.cos(ry), 0, np.sin(ry)], [0, 1, 0], [-np.sin(ry), 0, np.cos(ry)]]
    about_z = [[np.cos(rz), -np.sin(rz), 0], [np.sin(rz), np.cos(rz), 0], [0, 0, 1]]
    shear = np.array([[1, shears[0], shears[1]], [0, 1, shears[2]], [0, 0, 1]], dtype=float)
    turn: NDArray[np.float64] = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    matrix: NDArray[np.float64] = turn @ shear @ np.diag(np.asarray(scales, dtype=np.float64))
    return matrix


def random_velocity(
    rng: np.random.Generator, grid: Grid, scales: Sequence[tuple[float, float]]
) -> NDArray[np.float32]:
    """Draw a smooth velocity field.

    Parameters
    ----------
    rng : numpy.random.Generator
    grid : Grid
    scales : sequence of (sigma, amplitude)
        Gaussian width of the smoothing kernel and root mean square of each component, mm.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
        mm.
    """
    velocity = np.zeros((3, *grid.shape), dtype=np.float32)
    for sigma, amplitude in scales:
        for axis in range(3):
            noise = smooth_noise(rng, grid.shape, sigma / grid.spacing)
            velocity[axis] += np.float32(amplitude) * noise
    return velocity


def integrate(velocity: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Integrate a stationary velocity field over unit time, by scaling and squaring.

    Parameters
    ----------
    velocity : ndarray of float32, shape (3, I, J, K)
        mm, on `grid`.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
        Displacement in mm: ``exp(velocity)(x) - x``.
    """
    nodes = np.stack(np.broadcast_arrays(*grid.axes()))
    flow = (velocity / np.float32(2**_STEPS)).astype(np.float32)
    for _ in range(_STEPS):
        points = nodes + flow
        flow = flow + np.stack([grid.sample(part, points, outside=None) for part in flow])
    return flow


@dataclass(frozen=True)
class HeadWarp:
    """Map from a subject's scanner space to the template, and its inverse.

    ``template = z + forward(z)`` with ``z = inverse(affine) @ subject``.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Template to subject: size, shape and position in the scanner, RAS+ mm.
    grid : Grid
        Grid of the two displacements (template space).
    forward, backward : ndarray of float32, shape (3, I, J, K)
        Flow of the velocity and of its opposite, mm.
    """

    affine: NDArray[np.float64]
    grid: Grid
    forward: NDArray[np.float32]
    backward: NDArray[np.float32]

    @classmethod
    def from_velocity(
        cls, affine: NDArray[np.float64], grid: Grid, velocity: NDArray[np.float32]
    ) -> HeadWarp:
        """Integrate `velocity` (3, I, J, K) in both directions."""
        return cls(affine, grid, integrate(velocity, grid), integrate(-velocity, grid))

    def placed(self, affine: NDArray[np.float64]) -> HeadWarp:
        """Move the same head: `affine` replaces the present one."""
        return HeadWarp(affine, self.grid, self.forward, self.backward)

    def to_template(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map subject points, shape (..., 3), to the template, RAS+ mm."""
        inverse = np.linalg.inv(self.affine)
        z = points @ inverse[:3, :3].T + inverse[:3, 3]
        moved: NDArray[np.float64] = z + self._move(self.forward, z)
        return moved

    def to_subject(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map template points, shape (..., 3), to the subject, RAS+ mm."""
        z = points + self._move(self.backward, points)
        placed: NDArray[np.float64] = z @ self.affine[:3, :3].T + self.affine[:3, 3]
        return placed

    def _move(self, flow: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
        index = np.moveaxis(points, -1, 0).astype(np.float32)
        parts = [self.grid.sample(part, index, outside=None) for part in flow]
        moved: NDArray[np.float64] = np.stack(parts, axis=-1).astype(np.float64)
        return moved

    def field_on(
        self, affine: NDArray[np.float64], shape: Sequence[int], *, spacing: float
    ) -> DisplacementField:
        """Tabulate the subject-to-template map along the axes of a subject image.

        Parameters
        ----------
        affine, shape
            The image: voxel to RAS+ mm, number of voxels.
        spacing : float
            Distance between nodes in mm. The nodes reach beyond the image on every side.
        """
        zooms = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / zooms
        counts = np.ceil(np.asarray(shape) * zooms / spacing).astype(int) + 3
        field_affine = np.eye(4)
        field_affine[:3, :3] = axes * spacing
        # One node's margin, counted from the outer face of the first voxel.
        corner = affine[:3, :3] @ np.full(3, -0.5) + affine[:3, 3]
        field_affine[:3, 3] = corner - axes @ np.full(3, spacing)
        nodes = np.moveaxis(np.indices(counts, dtype=np.float64), 0, -1)
        world = nodes @ field_affine[:3, :3].T + field_affine[:3, 3]
        data = (self.to_template(world) - world).astype(np.float32)
        return DisplacementField(data, field_affine)


def inverse_field(warp: HeadWarp, forward: DisplacementField, grid: Grid) -> DisplacementField:
    """Tabulate the template-to-subject map at the nodes of a template grid.

    Parameters
    ----------
    warp : HeadWarp
        Provides the initial guess.
    forward : DisplacementField
        Subject to template; at every node the result inverts this field, not the warp it was
        tabulated from.
    grid : Grid
    """
    targets = np.stack(np.broadcast_arrays(*grid.axes()), axis=-1).astype(np.float64)
    points = _solve(forward, targets.reshape(-1, 3), warp.to_subject(targets).reshape(-1, 3))
    displacement = (points.reshape(targets.shape) - targets).astype(np.float32)
    return DisplacementField(displacement, grid.affine)


def _solve(
    forward: DisplacementField, targets: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve ``forward(x) = target`` by Newton's method, independently for each point (N, 3)."""
    step = 0.25  # mm
    misses = targets - forward.apply(points)
    for _ in range(15):
        open_ = np.flatnonzero(np.linalg.norm(misses, axis=1) > 1e-3)
        if not open_.size:
            break
        x, miss = points[open_], misses[open_]
        ahead = np.stack([forward.apply(x + d) for d in step * np.eye(3)], axis=-1)
        slopes = (ahead - (targets[open_] - miss)[..., None]) / step
        trial = x + np.linalg.solve(slopes, miss[..., None])[..., 0]
        left = targets[open_] - forward.apply(trial)
        # The field is piecewise linear: where a full step overshoots, half a step does not.
        worse = np.linalg.norm(left, axis=1) > np.linalg.norm(miss, axis=1)
        trial[worse] = (x[worse] + trial[worse]) / 2
        left[worse] = targets[open_][worse] - forward.apply(trial[worse])
        points[open_], misses[open_] = trial, left
    return points


def upsample_field(
    field: DisplacementField,
    image_affine: NDArray[np.float64],
    indices: Sequence[NDArray[np.float64]],
) -> NDArray[np.float32]:
    """Evaluate ``x + u(x)`` on a block of an image with the same axes as the field.

    Parameters
    ----------
    field : DisplacementField
        From :meth:`HeadWarp.field_on` for this image.
    image_affine : ndarray of float64, shape (4, 4)
    indices : three ndarrays of float64
        Voxel indices (fractions allowed) along each axis; the block is their outer product.

    Returns
    -------
    ndarray of float32, shape (3, len_i, len_j, len_k)
        Mapped coordinates, RAS+ mm.
    """
    to_node = np.linalg.inv(field.affine) @ image_affine
    node_indices = [to_node[i, i] * indices[i] + to_node[i, 3] for i in range(3)]
    block = np.empty((3, *(len(index) for index in indices)), dtype=np.float32)
    i, j, k = indices
    for axis in range(3):
        row = image_affine[axis]
        world = (
            (row[0] * i + row[3])[:, None, None]
            + (row[1] * j)[None, :, None]
            + (row[2] * k)[None, None, :]
        )
        moved = lerp_grid(np.ascontiguousarray(field.data[..., axis]), node_indices)
        block[axis] = world + moved
    return block


def _shape3(data: NDArray[np.float32]) -> tuple[int, int, int]:
    return int(data.shape[0]), int(data.shape[1]), int(data.shape[2])
