"""Off-resonance field caused by air in and around the head, which distorts EPI.

Air acts as magnetic dipoles: the field is computed from the phantom's own sinuses, ear canals and
outline, then shimmed over the brain as on a scanner. It is smooth except for hot spots above the
sinuses and the ear canals, as in a real head. It moves with the head (its dependence on the
head's orientation in the magnet is ignored).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

from neuroferry.phantom.head import TISSUES
from neuroferry.phantom.render import render_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroferry.phantom.deform import HeadWarp
    from neuroferry.phantom.subject import SubjectAnatomy

GAMMA_HZ = 42.577e6  # per tesla
TESLA = 3.0
AIR_PPM = 9.4  # susceptibility of air less that of tissue
_SPACING = 4.0  # mm
_NODES = 64
_SMOOTH = 1.25  # nodes: what susceptibility alone would make infinitely sharp
_REACH = 14.0  # mm around the brain within which the field is that of the head


@dataclass(frozen=True)
class FieldModel:
    """Off-resonance in Hz, a cubic spline over nodes fixed to the head.

    Attributes
    ----------
    nodes : ndarray of float32, shape (I, J, K)
        Values at the nodes, Hz.
    affine : ndarray of float64, shape (4, 4)
        Node indices to the upright head's frame, mm.
    """

    nodes: NDArray[np.float32]
    affine: NDArray[np.float64]

    @cached_property
    def coefficients(self) -> NDArray[np.float32]:
        """Coefficients of the spline."""
        raised: NDArray[np.float32] = ndimage.spline_filter(
            self.nodes, order=3, mode="nearest", output=np.float32
        )
        return raised

    def sample(
        self, to_head: NDArray[np.float64], index: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Evaluate the field at points of an image.

        Parameters
        ----------
        to_head : ndarray of float64, shape (4, 4)
            Voxel indices of the image to the upright head's frame.
        index : ndarray of float32, shape (3, ...)
            Voxel indices.

        Returns
        -------
        ndarray of float32
            Hz.
        """
        nodes = move_index(np.linalg.inv(self.affine) @ to_head, index)
        values: NDArray[np.float32] = ndimage.map_coordinates(
            self.coefficients, nodes, order=3, mode="nearest", prefilter=False, output=np.float32
        )
        return values


def move_index(matrix: NDArray[np.float64], index: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a (4, 4) matrix to (3, ...) indices, reproducibly across machines."""
    m = matrix.astype(np.float32)
    moved = np.empty_like(index)
    for row in range(3):
        moved[row] = m[row, 0] * index[0] + m[row, 1] * index[1] + m[row, 2] * index[2] + m[row, 3]
    return moved


def susceptibility_field(
    anatomy: SubjectAnatomy,
    warp: HeadWarp,
    pose: NDArray[np.float64],
    *,
    largest: float,
    steepest: float,
) -> FieldModel:
    """Compute the field of a head, shimmed over its brain.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    warp : HeadWarp
        Placed in the scanner.
    pose : ndarray of float64, shape (4, 4)
        Upright head to scanner, with which `warp` was placed.
    largest : float
        Hz; 99.9 % of the brain has a smaller absolute field.
    steepest : float
        Largest gradient in or near the brain, Hz/mm.

    References
    ----------
    Marques JP, Bowtell R (2005). Application of a Fourier-based method for rapid
    calculation of field inhomogeneity due to spatial variation of magnetic susceptibility.
    Concepts in Magnetic Resonance B 25, 65-78. doi:10.1002/cmr.b.20034
    """
    middle = warp.to_subject(np.array([[0.0, -12.0, -25.0]]))[0]
    affine = np.diag([_SPACING] * 3 + [1.0])
    affine[:3, 3] = middle - _SPACING * (_NODES - 1) / 2
    shape = (_NODES,) * 3
    to_template = warp.field_on(affine, shape, spacing=_SPACING)
    contrast = {**dict.fromkeys(TISSUES, 1.0), "air": 0.0}
    none = np.zeros((3, *shape), dtype=np.float32)
    tissue, _ = render_head(anatomy, contrast, affine, to_template, none, defaced=False)
    # Tissues are painted with some texture, which is not air.
    tissue = np.clip(tissue * np.float32(1.25), 0, 1)
    air = (1 - tissue).astype(np.float32)
    field = _dipoles(air) * np.float32(AIR_PPM * 1e-6 * GAMMA_HZ * TESLA)
    nodes = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1) * _SPACING + affine[:3, 3]
    inside = _brain(anatomy, warp, nodes)
    field = _extended(_shim(field, inside), inside, tissue > 0.5)
    field = _scaled(field, inside, largest=largest, steepest=steepest)
    return FieldModel(field, np.linalg.inv(pose) @ affine)


def _dipoles(air: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the z field of magnetised air, in units of its susceptibility, with zero padding."""
    size = [2 * n for n in air.shape]
    # Outside the box is air, too: use it as the baseline.
    spectrum = fft.rfftn(air - 1, size)
    kx, ky, kz = (np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), np.fft.rfftfreq(size[2]))
    square = kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz[None, None, :] ** 2
    square[0, 0, 0] = 1.0
    kernel = 1 / 3 - kz[None, None, :] ** 2 / square
    kernel[0, 0, 0] = 0.0
    field = fft.irfftn(spectrum * kernel, size)[tuple(slice(n) for n in air.shape)]
    return np.asarray(field, dtype=np.float32)


def _brain(
    anatomy: SubjectAnatomy, warp: HeadWarp, points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    brain = anatomy.brain
    where = np.moveaxis(warp.to_template(points), -1, 0).astype(np.float32)
    inside: NDArray[np.bool_] = brain.grid.sample(brain.tissues.sum(axis=0), where) > 0.5
    return inside


def _shim(field: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Subtract the best-fitting second-order polynomial over the brain."""
    axes = [np.linspace(-1, 1, n) for n in field.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    terms = np.stack(
        [np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y]
    )
    weights, *_ = np.linalg.lstsq(terms[:, inside].T, field[inside], rcond=None)
    for weight, term in zip(weights, terms, strict=True):
        field = field - (weight * term).astype(np.float32)
    return field.astype(np.float32)


def _extended(
    field: NDArray[np.float32], inside: NDArray[np.bool_], tissue: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Keep the field in and near the brain, fading smoothly beyond.

    In the air around the head, which gives no signal, the field is huge and irrelevant.
    """
    away = ndimage.distance_transform_edt(~inside) * _SPACING
    kept = tissue & (away < _REACH)
    beyond, nearest = ndimage.distance_transform_edt(~kept, return_indices=True)
    held = field[tuple(nearest)]
    smooth = ndimage.gaussian_filter(held, _SMOOTH)
    for sigma, start in ((2.5, 1.0), (5.0, 3.0)):  # nodes
        share = np.clip((beyond - start) / 3, 0, 1).astype(np.float32)
        smooth += share * (ndimage.gaussian_filter(held, sigma) - smooth)
    smooth *= np.clip((14 - beyond) / 10, 0, 1).astype(np.float32)
    return np.asarray(smooth, dtype=np.float32)


def _scaled(
    field: NDArray[np.float32], inside: NDArray[np.bool_], *, largest: float, steepest: float
) -> NDArray[np.float32]:
    """Scale to the requested strength, smoothed where it would be too steep."""
    near = ndimage.binary_dilation(inside, iterations=2)
    both = [near[1:] & near[:-1], near[:, 1:] & near[:, :-1], near[:, :, 1:] & near[:, :, :-1]]
    for _ in range(40):
        field = field * np.float32(largest / np.percentile(np.abs(field[inside]), 99.9))
        steps = [np.abs(np.diff(field, axis=axis))[both[axis]].max() for axis in range(3)]
        if max(steps) <= steepest * _SPACING:
            break
        field = ndimage.gaussian_filter(field, 0.5)
    bound = np.float32(2.5 * largest)
    return np.asarray(bound * np.tanh(field / bound), dtype=np.float32)
