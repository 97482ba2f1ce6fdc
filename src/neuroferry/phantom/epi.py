"""Echo-planar scanner for phantom heads, one volume at a time.

A voxel of the distorted image at y holds the signal of the point p of the scanner with
``p + shift(p) = y`` along the phase-encoding axis, divided by ``1 + d shift / d p``. The
shift in voxels is the field in Hz times the total readout time, positive along the axis
for a phase-encoding direction without a minus. The head is a cubic spline through an image
twice as fine as the voxels, blurred by the point spread; it moves as a rigid body, and the
field moves with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import ndimage

from neuroferry.phantom.fieldmodel import FieldModel, move_index
from neuroferry.phantom.render import render_head, tissue_shares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from neuroferry.phantom.deform import HeadWarp
    from neuroferry.phantom.effects import Effect
    from neuroferry.phantom.subject import SubjectAnatomy

_PAD = 4  # voxels rendered beyond the field of view: the head moves
_BLUR = 0.8493  # fine voxels: full width at half maximum of one voxel
_TAPS = 8  # fine voxels read on either side of a voxel's centre
_REACH = 18.0  # mm beyond the skin that signal may reach, moved and distorted
_FIELD_SPACING = 4.0  # mm between the nodes of the deformation


class EpiOptions(Protocol):
    """Options common to all echo-planar scans."""

    @property
    def resolution(self) -> float:
        """Voxel size, mm."""

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio; 0 omits the noise."""

    @property
    def distortion(self) -> float:
        """Largest shift in the brain, mm."""

    @property
    def dropout(self) -> bool:
        """Signal dropout of gradient echoes where the field changes across a slice."""

    @property
    def bias(self) -> float:
        """Standard deviation of the logarithm of the coil sensitivity."""

    @property
    def direction(self) -> str:
        """Phase-encoding direction, from ... to."""

    @property
    def fieldmaps(self) -> tuple[str, ...]:
        """Kinds of field maps."""

    @property
    def coverage(self) -> float:
        """Share of the brain's height within the slices."""


@dataclass(frozen=True)
class EpiGrid:
    """Grid and readout of an echo-planar image.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    shape : tuple of int
    direction : str
        PhaseEncodingDirection of BIDS, such as ``j-``.
    readout : float
        Total readout time, s.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    direction: str
    readout: float

    @property
    def axis(self) -> int:
        """Voxel axis of the phase encoding."""
        return "ijk".index(self.direction[0])

    @property
    def sign(self) -> float:
        """1 or -1."""
        return -1.0 if self.direction.endswith("-") else 1.0

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Voxel sizes, mm."""
        sizes: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes

    def reversed(self) -> EpiGrid:
        """Return the same grid with the opposite readout."""
        other = self.direction[0] if self.direction.endswith("-") else f"{self.direction}-"
        return EpiGrid(self.affine, self.shape, other, self.readout)


class EpiHead:
    """Head in one position, ready to be scanned on a grid.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    warp : HeadWarp
        Placed in the scanner.
    pose : ndarray of float64, shape (4, 4)
        Upright head to scanner, with which `warp` was placed.
    grid : EpiGrid
    field : FieldModel or None
        None means no distortion.
    """

    def __init__(
        self,
        anatomy: SubjectAnatomy,
        warp: HeadWarp,
        pose: NDArray[np.float64],
        grid: EpiGrid,
        field: FieldModel | None,
        *,
        defaced: bool = False,
    ) -> None:
        self.anatomy, self.warp, self.pose, self.grid = anatomy, warp, pose, grid
        self.field, self._defaced = field, defaced
        halves = np.diag([0.5, 0.5, 0.5, 1.0])
        halves[:3, 3] = -0.25 - _PAD
        self.fine_affine = grid.affine @ halves
        self.fine_shape = tuple(2 * (n + 2 * _PAD) for n in grid.shape)
        #: Place in the template, tabulated along the grid's axes.
        self.to_template = warp.field_on(self.fine_affine, self.fine_shape, spacing=_FIELD_SPACING)
        #: Shares of GM, WM, CSF on the fine grid, shape (3, ...).
        self.fine_tissues = tissue_shares(
            anatomy, self.fine_affine, self.fine_shape, self.to_template
        )
        #: Shares of GM, WM, CSF in the grid's voxels, shape (3, I, J, K).
        self.tissues = np.stack([self.coarse(part) for part in self.fine_tissues])
        index = np.moveaxis(np.indices(grid.shape, dtype=np.float64), 0, -1)
        world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        #: Place of each voxel in the template, mm, shape (3, I, J, K).
        self.places = np.moveaxis(warp.to_template(world), -1, 0).astype(np.float32)

    def coarse(self, fine: NDArray[np.float32]) -> NDArray[np.float32]:
        """Average the eight fine voxels in each voxel of the grid."""
        inner = fine[tuple(slice(2 * _PAD, n - 2 * _PAD) for n in fine.shape)]
        a, b, c = self.grid.shape
        mean: NDArray[np.float32] = inner.reshape(a, 2, b, 2, c, 2).mean(
            axis=(1, 3, 5), dtype=np.float32
        )
        return mean

    def field_on_grid(self) -> NDArray[np.float32]:
        """Sample the field in Hz at the grid's voxels, in undistorted space."""
        if self.field is None:
            return np.zeros(self.grid.shape, dtype=np.float32)
        index = np.indices(self.grid.shape, dtype=np.float32)
        return self.field.sample(np.linalg.inv(self.pose) @ self.grid.affine, index)

    def dephasing(self, echo_time: float, slice_axis: int) -> NDArray[np.float32]:
        """Compute the signal left at `echo_time` (s) after through-slice dephasing, fine grid.

        References
        ----------
        Frahm J, Merboldt KD, Hänicke W (1988). Direct FLASH MR imaging of magnetic field
        inhomogeneities by gradient compensation. Magnetic Resonance in Medicine 6,
        474-480. doi:10.1002/mrm.1910060412
        """
        if self.field is None:
            return np.ones(self.fine_shape, dtype=np.float32)
        across = 2 * np.gradient(self._fine_field, axis=slice_axis)  # Hz from slice to slice
        left: NDArray[np.float32] = np.abs(np.sinc(across * np.float32(echo_time)))
        return left.astype(np.float32)

    @cached_property
    def _fine_field(self) -> NDArray[np.float32]:
        if self.field is None:
            return np.zeros(self.fine_shape, dtype=np.float32)
        index = np.indices(self.fine_shape, dtype=np.float32)
        return self.field.sample(np.linalg.inv(self.pose) @ self.fine_affine, index)

    def image(
        self, contrast: Mapping[str, float], weight: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Compute spline coefficients of the fine, blurred image in a contrast.

        Parameters
        ----------
        contrast : mapping of tissue name to brightness
        weight : ndarray of float32, optional
            Multiplies the image, on the fine grid.
        """
        image = self.paint(contrast)
        if weight is not None:
            image *= weight
        return self.blurred(image)

    def paint(self, contrast: Mapping[str, float], *, texture: bool = True) -> NDArray[np.float32]:
        """Paint the fine image in a contrast; `texture` adds brightness within tissues."""
        image, _ = render_head(
            self.anatomy,
            contrast,
            self.fine_affine,
            self.to_template,
            self.fine_tissues,
            defaced=self._defaced,
            texture=texture,
        )
        return image

    @staticmethod
    def blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute spline coefficients of a fine image, blurred by the point spread."""
        soft = ndimage.gaussian_filter(image, _BLUR, truncate=5)
        return np.asarray(ndimage.spline_filter(soft, order=3, mode="mirror", output=np.float32))

    def at_rest(
        self, image: NDArray[np.float32], low: Sequence[int], high: Sequence[int]
    ) -> NDArray[np.float32]:
        """Scan a fine image with the head at rest, in a box of the grid's voxels.

        The same as :func:`render_volume` on :meth:`blurred`, undistorted and without a coil
        (to 1e-4), in a tenth of the time.

        Parameters
        ----------
        image : ndarray of float32
            On the fine grid, not blurred.
        low, high : sequence of 3 ints
            First voxel along each axis, and one past the last.

        Returns
        -------
        ndarray of float32, shape `high` less `low`
        """
        inner = tuple(
            slice(2 * (a + _PAD) - _TAPS + 1, 2 * (b - 1 + _PAD) + _TAPS + 1)
            for a, b in zip(low, high, strict=True)
        )
        part = image[inner]
        for axis in range(3):
            lines = np.moveaxis(part, axis, 0)
            count = 2 * (high[axis] - low[axis]) - 1
            read = np.zeros_like(lines[:count:2])
            for tap, weight in enumerate(_reading()):
                read += np.float32(weight) * lines[tap : tap + count : 2]
            part = np.moveaxis(read, 0, axis)
        return np.ascontiguousarray(part, dtype=np.float32)

    def signal_voxels(self) -> NDArray[np.float32]:
        """Find the indices (3, N) of voxels that the moved and distorted head may reach."""
        skin = self.anatomy.head.skin(defaced=False)
        near = self.anatomy.head.grid.sample(skin, self.places, outside=100.0) < _REACH
        return np.stack(np.nonzero(near)).astype(np.float32)


@lru_cache(maxsize=1)
def _reading() -> tuple[float, ...]:
    """Compute the weights of the fine voxels around a voxel's centre, along one axis."""
    line = np.zeros(65)
    line[32] = 1.0
    soft = ndimage.spline_filter1d(ndimage.gaussian_filter1d(line, _BLUR, truncate=5), order=3)
    places = 32 + 0.5 - np.arange(1 - _TAPS, _TAPS + 1)
    weights = ndimage.map_coordinates(soft, places[None], order=3, prefilter=False)
    return tuple((weights / weights.sum()).tolist())


@dataclass(frozen=True)
class Origin:
    """Origin of the signal of some voxels of one volume.

    Attributes
    ----------
    voxels : ndarray of intp, shape (3, N)
    points : ndarray of float32, shape (3, N)
        Undistorted position in the scanner, voxel indices.
    jacobian : ndarray of float32, shape (N,)
        ``1 + d shift / d p``.
    """

    voxels: NDArray[np.intp]
    points: NDArray[np.float32]
    jacobian: NDArray[np.float32]


def undistorted(voxels: NDArray[np.float32]) -> Origin:
    """Make the origin of voxels (3, N) without distortion."""
    return Origin(voxels.astype(np.intp), voxels, np.ones(voxels.shape[1], dtype=np.float32))


def trace(
    head: EpiHead,
    grid: EpiGrid,
    motion: NDArray[np.float64],
    voxels: NDArray[np.float32],
    eddy: NDArray[np.float64] | None = None,
    start: Origin | None = None,
) -> Origin:
    """Find the origin of the signal of each voxel.

    Parameters
    ----------
    head : EpiHead
    grid : EpiGrid
        Grid of the head, or the one with opposite readout.
    motion : ndarray of float64, shape (4, 4)
        Points of the head at rest to points of this volume, RAS+ mm.
    voxels : ndarray of float32, shape (3, N)
    eddy : ndarray of float64, shape (4, 4), optional
        Eddy-current transform of scanner points, along the phase encoding, RAS+ mm; adds to the
        shift of the field.
    start : Origin, optional
        Origin of the same voxels in a similar volume: saves a third of the time.
    """
    field = head.field
    if field is None and eddy is None:
        return undistorted(voxels)
    to_head = np.linalg.inv(head.pose) @ np.linalg.inv(motion) @ grid.affine
    strength = np.float32(grid.sign * grid.readout)
    axis, points = grid.axis, voxels.copy()
    pull = np.zeros(4, dtype=np.float32)
    if eddy is not None:
        moves = np.linalg.inv(grid.affine) @ eddy @ grid.affine - np.eye(4)
        pull = moves[axis].astype(np.float32)

    def shifts(offset: float) -> NDArray[np.float32]:
        moved = points.copy()
        moved[axis] += np.float32(offset)
        total: NDArray[np.float32] = (
            pull[0] * moved[0] + pull[1] * moved[1] + pull[2] * moved[2] + pull[3]
        )
        if field is not None:
            total += strength * field.sample(to_head, moved)
        return total

    if start is not None:
        points[axis] = start.points[axis]
        points[axis] -= (points[axis] + shifts(0.0) - voxels[axis]) / start.jacobian
        for _ in range(2):
            above, below = shifts(0.25), shifts(-0.25)
            jacobian = 1 + 2 * (above - below)
            points[axis] -= (points[axis] + (above + below) / 2 - voxels[axis]) / jacobian
        return Origin(start.voxels, points, jacobian)
    for _ in range(2):  # Newton's method, with the slope updated at every other step
        above, below = shifts(0.25), shifts(-0.25)
        slope = 2 * (above - below)
        points[axis] -= (points[axis] + (above + below) / 2 - voxels[axis]) / (1 + slope)
        points[axis] -= (points[axis] + shifts(0.0) - voxels[axis]) / (1 + slope)
    return Origin(voxels.astype(np.intp), points, 1 + 2 * (shifts(0.25) - shifts(-0.25)))


def render_volume(
    head: EpiHead,
    image: NDArray[np.float32],
    origin: Origin,
    motion: NDArray[np.float64],
    *,
    changes: Sequence[tuple[Effect, NDArray[np.float64], float]] = (),
    slice_axis: int = 2,
    coil: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Scan one volume, without noise.

    Parameters
    ----------
    head : EpiHead
    image : ndarray of float32
        From :meth:`EpiHead.image`.
    origin : Origin
    motion : ndarray of float64, shape (4, 4)
        As for :func:`trace`.
    changes : sequence of (Effect, values, factor)
        Effect, its course at each slice, and a scale factor.
    slice_axis : int
    coil : ndarray of float32, shape (I, J, K), optional
        Sensitivity, fixed to the scanner.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
    """
    grid = head.grid
    to_fine = np.linalg.inv(head.fine_affine) @ np.linalg.inv(motion) @ grid.affine
    values = ndimage.map_coordinates(
        image,
        move_index(to_fine, origin.points),
        order=3,
        mode="constant",
        prefilter=False,
        output=np.float32,
    )
    values /= origin.jacobian
    if changes:
        back = np.linalg.inv(grid.affine) @ np.linalg.inv(motion) @ grid.affine
        still = move_index(back, origin.points)
        slices = origin.voxels[slice_axis]
        total = np.ones_like(values)
        for effect, course, factor in changes:
            weight = ndimage.map_coordinates(
                effect.weights, still, order=1, mode="nearest", output=np.float32
            )
            total += weight * (course[slices] * factor).astype(np.float32)
        values *= total
    if coil is not None:
        values *= ndimage.map_coordinates(
            coil, origin.points, order=1, mode="nearest", output=np.float32
        )
    volume = np.zeros(grid.shape, dtype=np.float32)
    volume[tuple(origin.voxels)] = np.maximum(values, 0)
    return volume


def add_noise(
    volume: NDArray[np.float32], sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add complex noise of standard deviation `sigma` per channel and take the magnitude."""
    if sigma == 0:
        return volume
    real = volume + np.float32(sigma) * rng.standard_normal(volume.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(volume.shape, dtype=np.float32)
    magnitude: NDArray[np.float32] = np.hypot(real, imaginary)
    return magnitude
