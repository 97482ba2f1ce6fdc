"""Rendering of a head on a voxel grid: tissue fractions, and brightness in a given contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.deform import upsample_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from neuroferry.phantom.deform import DisplacementField
    from neuroferry.phantom.subject import SubjectAnatomy

_BLOCK_VOXELS = 700_000  # voxels rendered at a time: bounds the memory


def tissue_shares(
    anatomy: SubjectAnatomy,
    affine: NDArray[np.float64],
    shape: Sequence[int],
    to_template: DisplacementField,
) -> NDArray[np.float32]:
    """Compute the fractions of GM, WM and CSF in each voxel.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    shape : sequence of 3 ints
    to_template : DisplacementField
        Image to template, from :meth:`HeadWarp.field_on` for this image.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
    """
    resolution = _resolution(affine)
    brain = anatomy.brain
    near = brain.tissues.sum(axis=0) > 0
    tissues = np.zeros((3, *shape), dtype=np.float32)
    offsets = _offsets(resolution)
    for block, index in _blocks(shape):
        points = upsample_field(to_template, affine, index)
        wanted = _touching(brain.grid.low, near, points, resolution)
        if not wanted.any():
            continue
        share = np.zeros((3, int(wanted.sum())), dtype=np.float32)
        for offset in offsets:
            shifted = [i + o for i, o in zip(index, offset, strict=True)]
            inside = upsample_field(to_template, affine, shifted)[:, wanted]
            for k in range(3):
                share[k] += brain.grid.sample(brain.tissues[k], inside)
        share /= np.float32(len(offsets))
        for k in range(3):
            tissues[(k, *block)][wanted] = share[k]
    return tissues


def render_head(
    anatomy: SubjectAnatomy,
    contrast: Mapping[str, float],
    affine: NDArray[np.float64],
    to_template: DisplacementField,
    tissues: NDArray[np.float32],
    *,
    defaced: bool,
    texture: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Render a head in one contrast, without noise.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    contrast : mapping of tissue name to brightness
    affine, to_template
        As for :func:`tissue_shares`.
    tissues : ndarray of float32, shape (3, I, J, K)
        From :func:`tissue_shares` for this grid.
    defaced : bool
        Omit the face.
    texture : bool
        Add brightness of the brain that its tissues do not explain.

    Returns
    -------
    image : ndarray of float32, shape (I, J, K)
        In units of `contrast`.
    head_mask : ndarray of bool
        Inside the skin.
    """
    shape = tissues.shape[1:]
    spacing = 1.0 if _resolution(affine) < 1.5 else 2.0
    reach = to_template.data.reshape(-1, 3) + _nodes(to_template)
    canvas_grid, canvas = anatomy.head.paint(
        contrast, spacing, low=reach.min(axis=0), high=reach.max(axis=0), defaced=defaced
    )
    image = np.zeros(shape, dtype=np.float32)
    head_mask = np.zeros(shape, dtype=bool)
    skin = anatomy.head.skin(defaced=defaced)
    brain = anatomy.brain
    near = brain.tissues.sum(axis=0) > 0
    values = np.array([contrast[name] for name in ("gm", "wm", "csf")], dtype=np.float32)
    for block, index in _blocks(shape):
        points = upsample_field(to_template, affine, index)
        part = canvas_grid.sample(canvas, points)
        head_mask[block] = anatomy.head.grid.sample(skin, points, outside=10.0) < 0
        wanted = _touching(brain.grid.low, near, points, _resolution(affine))
        if wanted.any():
            share = np.stack([tissue[block][wanted] for tissue in tissues])
            covered = share.sum(axis=0)
            part[wanted] = part[wanted] * (1 - covered) + values @ share
            if texture:
                part[wanted] += covered * brain.grid.sample(brain.detail, points[:, wanted])
        image[block] = part
    return np.maximum(image, 0), head_mask


def _resolution(affine: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).max())


def _offsets(resolution: float) -> list[tuple[float, float, float]]:
    """Choose sampling positions within a voxel, at most 1 mm and half a voxel apart."""
    n = max(2, int(np.ceil(resolution - 1e-6)))
    line = (np.arange(n) + 0.5) / n - 0.5
    return [(float(a), float(b), float(c)) for a in line for b in line for c in line]


def _touching(
    low: NDArray[np.float64],
    near: NDArray[np.bool_],
    points: NDArray[np.float32],
    resolution: float,
) -> NDArray[np.bool_]:
    """Find voxels whose corners may reach the brain, from a look-up on a coarse grid."""
    step = 4
    pads = [(0, -n % step) for n in near.shape]
    blocks = np.pad(near, pads)
    a, b, c = (n // step for n in blocks.shape)
    some = blocks.reshape(a, step, b, step, c, step).any(axis=(1, 3, 5))
    reach = int(np.ceil(resolution * 1.2 / step))
    some = np.pad(some, reach + 1)
    grown = np.zeros_like(some)
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            for k in range(-reach, reach + 1):
                grown |= np.roll(some, (i, j, k), axis=(0, 1, 2))
    index = [
        np.clip(np.floor((points[axis] - low[axis]) / step) + reach + 1, 0, n - 1).astype(np.intp)
        for axis, n in enumerate(grown.shape)
    ]
    wanted: NDArray[np.bool_] = grown[index[0], index[1], index[2]]
    return wanted


def _blocks(
    shape: Sequence[int],
) -> Iterator[tuple[tuple[slice, slice, slice], list[NDArray[np.float64]]]]:
    """Yield slabs of the first axis: slices, and the voxel indices along each axis."""
    thick = max(1, _BLOCK_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thick):
        block = (
            slice(start, min(start + thick, shape[0])),
            slice(0, shape[1]),
            slice(0, shape[2]),
        )
        yield block, [np.arange(b.start, b.stop, dtype=np.float64) for b in block]


def _nodes(displacement: DisplacementField) -> NDArray[np.float64]:
    counts = displacement.data.shape[:3]
    index = np.moveaxis(np.indices(counts, dtype=np.float64), 0, -1).reshape(-1, 3)
    affine = displacement.affine
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3], dtype=np.float64)
