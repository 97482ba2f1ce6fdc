"""Sharp brain tissues in template space, with individual folding for each subject.

The template's tissue maps are averages over people: soft, with most sulci blurred. They are
sharpened to the tissues of an individual, with sulci opened where the average T1w shows a valley,
and further sulci and gyral white matter drawn at random for each subject, so that no deformation
of the template reproduces a subject exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuroferry.phantom.grids import Grid, resample_grid, smooth_noise
from neuroferry.templates import load_template

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN = 6  # mm between the brain mask and the border of the brain box
_MEANS = (0.65, 0.87, 0.25)  # GM, WM, CSF in the template's T1w
_WIDTHS = (0.07, 0.06, 0.12)  # their spread
_SHARPNESS = 2.5  # exponent that turns averaged into individual tissue
_TEXTURE = 0.015  # how much brightness varies within a tissue, as a fraction of white matter
_THICKNESS = 3.6  # mm: deeper cortex than this is two banks of a sulcus
_VALLEY = 12.0  # what a dip of the template's T1w adds to the log-odds of CSF, per unit


@dataclass(frozen=True)
class BrainTemplate:
    """Common starting point of every phantom brain; arrays are on `grid`, 1 mm.

    Attributes
    ----------
    grid : Grid
    mask : ndarray of bool
        The template's brain mask.
    logits : ndarray of float32, shape (3, I, J, K)
        Log-odds of GM, WM, CSF, sharpened.
    detail : ndarray of float32
        T1w brightness (fraction of white matter) not explained by tissue class:
        pallidum, thalamus, densely myelinated cortex.
    cortex : ndarray of float32
        Where folds may be drawn: 1 over the cerebrum, 0 in cerebellum and brainstem.
    coarse : Grid
        2 mm grid of the next two arrays.
    depth : ndarray of float32
        Depth below the brain's hull, mm.
    hull_points : ndarray of float32, shape (3, ...)
        Nearest point on the hull, RAS+ mm.
    ventricles : ndarray of float32
        Smooth membership of the ventricles, on `coarse`.
    """

    grid: Grid
    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    detail: NDArray[np.float32]
    cortex: NDArray[np.float32]
    coarse: Grid
    depth: NDArray[np.float32]
    hull_points: NDArray[np.float32]
    ventricles: NDArray[np.float32]


@dataclass(frozen=True)
class Brain:
    """One subject's brain in template space, before deformation.

    Attributes
    ----------
    grid : Grid
    tissues : ndarray of float32, shape (3, I, J, K)
        Fractions of GM, WM, CSF; their sum is the template's brain mask.
    detail : ndarray of float32
        T1w brightness beyond what the tissues explain, as a fraction of white matter.
    """

    grid: Grid
    tissues: NDArray[np.float32]
    detail: NDArray[np.float32]


def hull_of(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Close `mask` with a ball of `radius` voxels (by distance transforms, for any radius)."""
    pad = int(np.ceil(radius)) + 1
    padded = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed: NDArray[np.bool_] = ndimage.distance_transform_edt(grown) > radius
    closed |= padded
    return closed[pad:-pad, pad:-pad, pad:-pad]


@lru_cache(maxsize=1)
def brain_template() -> BrainTemplate:
    """Sharpen the template once for all subjects of the process (about 0.2 GB)."""
    template = load_template(1)
    found = ndimage.find_objects(template.brain_mask.astype(np.uint8))[0]
    low = np.array([axis.start for axis in found]) - _MARGIN
    high = np.array([axis.stop for axis in found]) + _MARGIN

    def cut(volume: NDArray[np.generic]) -> NDArray[np.float32]:
        inner = tuple(
            slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, volume.shape, strict=True)
        )
        pads = [
            (max(-a, 0), max(b - n, 0)) for a, b, n in zip(low, high, volume.shape, strict=True)
        ]
        return np.pad(np.asarray(volume[inner], dtype=np.float32), pads)

    mask = cut(template.brain_mask) > 0.5
    t1w = cut(template.t1w)
    shape = (int(mask.shape[0]), int(mask.shape[1]), int(mask.shape[2]))
    grid = Grid(template.affine[:3, 3] + low, 1.0, shape)
    cortex = _cerebrum(grid)
    logits, detail = _sharpen([cut(tpm) for tpm in template.tpms], t1w, mask, cortex)
    coarse, depth, hull_points = _hull_depth(mask, grid)
    _thin_cortex(logits, cortex, resample_grid(depth, coarse, grid))
    ventricles = resample_grid(_ventricles(logits, mask, grid), grid, coarse)
    for array in (mask, logits, detail, cortex, depth, hull_points, ventricles):
        array.setflags(write=False)
    return BrainTemplate(
        grid, mask, logits, detail, cortex, coarse, depth, hull_points, ventricles
    )


def _cerebrum(grid: Grid) -> NDArray[np.float32]:
    """Compute a soft membership of the cerebrum: above the tentorium, without the brainstem."""
    x, y, z = grid.axes()
    above_tentorium = z - (-4 + np.minimum(y + 45, 0) * np.float32(0.45))
    behind = -24 - y
    cerebellum = np.minimum(behind, -above_tentorium)
    stem = np.minimum(26 - np.abs(x), np.minimum(4 - z, 2 - y))
    outside = np.maximum(cerebellum, stem)
    cerebrum: NDArray[np.float32] = np.clip(0.5 - outside / 6, 0, 1).astype(np.float32)
    return cerebrum


def _sharpen(
    tpms: list[NDArray[np.float32]],
    t1w: NDArray[np.float32],
    mask: NDArray[np.bool_],
    cortex: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logits = np.empty((3, *mask.shape), dtype=np.float32)
    expected = np.zeros_like(t1w)
    for k, (tpm, mean, width) in enumerate(zip(tpms, _MEANS, _WIDTHS, strict=True)):
        residual = t1w - np.float32(mean)
        if k == 1:
            residual = np.minimum(residual, 0)
        elif k == 2:
            residual = np.maximum(residual, 0)
        logits[k] = _SHARPNESS * (
            np.log(tpm + np.float32(0.02)) - residual**2 / np.float32(2 * width**2)
        )
        expected += tpm * np.float32(mean)
    inside = mask.astype(np.float32)
    local = ndimage.gaussian_filter(t1w, 4.0) / np.maximum(
        ndimage.gaussian_filter(inside, 4.0), np.float32(0.05)
    )
    logits[2] += _VALLEY * _SHARPNESS * cortex * np.maximum(local - t1w - np.float32(0.03), 0)
    detail = np.clip(t1w - expected, -0.12, 0.12) * inside / np.float32(_MEANS[1])
    return logits, ndimage.gaussian_filter(detail, 1.0) * inside


def _thin_cortex(
    logits: NDArray[np.float32], cortex: NDArray[np.float32], depth: NDArray[np.float32]
) -> None:
    """Open a sulcus in the middle of cortex that averaging made implausibly thick.

    Excludes the crowns, where the brain mask ends, and the deep grey matter.
    """
    white = (logits[1] > logits[0]) & (logits[1] > logits[2])
    from_white = ndimage.distance_transform_edt(~white).astype(np.float32)
    from_white = ndimage.gaussian_filter(from_white, 0.7)
    excess = np.clip((from_white - np.float32(_THICKNESS)) / np.float32(0.7), 0, 2)
    within = np.clip((depth - 2) / 2, 0, 1) * np.clip((24 - depth) / 4, 0, 1)
    logits[2] += 5 * excess * within * cortex


def _hull_depth(
    mask: NDArray[np.bool_], grid: Grid
) -> tuple[Grid, NDArray[np.float32], NDArray[np.float32]]:
    every = mask[::2, ::2, ::2]
    shape = (int(every.shape[0]), int(every.shape[1]), int(every.shape[2]))
    coarse = Grid(grid.low, 2.0, shape)
    hull = hull_of(every, 5.0)
    depth, nearest = ndimage.distance_transform_edt(hull, return_indices=True)
    points = nearest.astype(np.float32) * 2 + grid.low.astype(np.float32)[:, None, None, None]
    return coarse, (2 * depth).astype(np.float32), points


def _ventricles(
    logits: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid
) -> NDArray[np.float32]:
    x, y, z = grid.axes()
    near = (np.abs(x) < 45) & (y > -62) & (y < 45) & (z > -22) & (z < 34)
    fluid = mask & near & (logits[2] > logits[0]) & (logits[2] > logits[1])
    labels, _ = ndimage.label(ndimage.binary_opening(fluid))
    seeds = [np.round(np.array(p) - grid.low).astype(int) for p in ((-9, 5, 18), (9, 5, 18))]
    wanted = {int(labels[tuple(slice(v - 2, v + 3) for v in seed)].max()) for seed in seeds} - {0}
    lateral = np.isin(labels, sorted(wanted)).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(lateral, 3.0), dtype=np.float32)


def grow_brain(rng: np.random.Generator, *, fold_depth: float) -> Brain:
    """Add one subject's folds to the template's sharpened tissues.

    Parameters
    ----------
    rng : numpy.random.Generator
    fold_depth : float
        Depth of the deepest added sulci in mm; 0 adds none.

    Returns
    -------
    Brain
    """
    base = brain_template()
    logits = base.logits.copy()
    if fold_depth > 0:
        _add_folds(logits, base, rng, fold_depth)
    logits -= logits.max(axis=0)
    tissues = np.exp(logits, out=logits)
    tissues /= tissues.sum(axis=0)
    tissues *= base.mask
    texture = smooth_noise(rng, base.coarse.shape, 1.0).clip(-3, 3) * np.float32(_TEXTURE)
    detail = base.detail + resample_grid(texture, base.coarse, base.grid) * (1 - tissues[2])
    return Brain(base.grid, tissues, detail)


def _add_folds(
    logits: NDArray[np.float32],
    base: BrainTemplate,
    rng: np.random.Generator,
    fold_depth: float,
) -> None:
    """Open sulci along the zero set of a random field that is constant along the depth."""
    lattice = Grid(base.grid.low - 8, 4.0, _ceil_shape(base.grid, 4.0, 16.0))
    field = smooth_noise(rng, lattice.shape, 2.2) - smooth_noise(rng, lattice.shape, 4.0)
    reach = smooth_noise(rng, lattice.shape, 3.0)
    on_hull = [lattice.sample(part, base.hull_points, outside=None) for part in (field, reach)]
    # The nearest hull point jumps from voxel to voxel: smooth the staircase away.
    fold, extent = (ndimage.gaussian_filter(part, 0.8) for part in on_hull)
    slope = np.sqrt(sum(g**2 for g in np.gradient(fold, 2.0))) + np.float32(0.02)
    away = np.abs(fold) / slope  # distance from the sulcal sheet, mm
    floor = fold_depth * np.clip(0.55 + 0.45 * extent, 0, 1)  # how deep the sulcus goes here
    below = base.depth - floor  # positive under the fundus
    beyond = np.sqrt(np.maximum(away, 0) ** 2 + np.maximum(below, 0) ** 2)
    open_here = (floor > 3).astype(np.float32)
    sheet, crown, strength = (
        resample_grid(part.astype(np.float32), base.coarse, base.grid)
        for part in (beyond, away, open_here)
    )
    depth = resample_grid(base.depth, base.coarse, base.grid)
    weight = strength * base.cortex
    # Partial volume of a fluid sheet 1.6 mm wide, lined by 2.6 mm of cortex.
    fluid = np.clip((np.float32(0.8) - sheet) / np.float32(0.5), -4, 2)
    cortex = np.clip((np.float32(3.2) - sheet) / np.float32(0.5), -4, 4)
    logits[2] += 3 * weight * np.maximum(fluid, 0) * 3
    logits[0] += 3 * weight * np.maximum(cortex, 0)
    blade = np.clip((crown - np.float32(4.0)) / 3, 0, 1) * np.clip((depth - 3.5) / 2, 0, 1)
    logits[1] += 4 * base.cortex * blade * (depth < 14)


def _ceil_shape(grid: Grid, spacing: float, extra: float) -> tuple[int, int, int]:
    counts = [int(np.ceil((n * grid.spacing + extra) / spacing)) + 1 for n in grid.shape]
    return counts[0], counts[1], counts[2]
