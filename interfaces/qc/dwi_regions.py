"""White matter and corpus callosum of a DWI run, found by anisotropy and its direction.

The rules are MRIQC's: closing and opening of fractional anisotropy, a threshold, the largest
region; then voxels of this region in its middle whose colour is red.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WM_FA = 0.35
"""Fractional anisotropy above which a voxel is white matter."""
LEAST_RGB = (0.4, 0.008, 0.008)
MOST_RGB = (1.1, 0.25, 0.25)
"""Range of the colours of the corpus callosum: red, green, blue."""
MARGIN = 5
"""The corpus callosum keeps a fifth of the box around white matter away from its faces."""


def white_matter(fa: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find white matter.

    Parameters
    ----------
    fa : ndarray of float32, shape (I, J, K)
        Fractional anisotropy; zero outside the brain.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
        The largest connected region above 0.35 after greyscale closing and opening; empty if
        there is none.
    """
    from skimage.measure import label

    labels = label(np.round(_smoothed(fa), 4) > WM_FA)
    sizes = np.bincount(labels.ravel())
    if sizes.size < 2:
        return np.zeros(fa.shape, dtype=bool)
    found: NDArray[np.bool_] = labels == 1 + int(sizes[1:].argmax())
    return found


def corpus_callosum(color_fa: NDArray[np.float32], white: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the corpus callosum.

    Parameters
    ----------
    color_fa : ndarray of float32, shape (I, J, K, 3)
        Absolute components of the first eigenvector along x, y, z (RAS+) times fractional
        anisotropy.
    white : ndarray of bool, shape (I, J, K)
        From :func:`white_matter`.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
        Red voxels in the middle of white matter, closed and opened.
    """
    from scipy import ndimage

    if not white.any():
        return white.copy()
    inside = white.copy()
    for axis in range(3):
        there = np.flatnonzero(white.any(axis=tuple(n for n in range(3) if n != axis)))
        low, high = int(there[0]), int(there[-1]) + 1
        margin = (high - low) // MARGIN
        rest: list[slice] = [slice(None)] * 3
        rest[axis] = slice(0, low + margin)
        inside[tuple(rest)] = False
        rest[axis] = slice(high - margin, None)
        inside[tuple(rest)] = False
    for channel, (least, most) in enumerate(zip(LEAST_RGB, MOST_RGB, strict=True)):
        values = _smoothed(np.round(color_fa[..., channel], 4))
        inside &= (values >= least) & (values <= most)
    structure = _structure()
    closed = ndimage.binary_closing(inside, structure)
    opened: NDArray[np.bool_] = ndimage.binary_opening(closed, structure)
    return opened


def _structure() -> NDArray[np.bool_]:
    """Return a voxel and the 18 that share a face or an edge with it."""
    from scipy import ndimage

    structure: NDArray[np.bool_] = ndimage.generate_binary_structure(3, 2)
    return structure


def _smoothed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Close, then open in greyscale, over the 18 nearest voxels."""
    from scipy import ndimage

    result = np.zeros_like(values)
    there = np.nonzero(values)
    if not there[0].size:
        return result
    # Beyond two voxels of zeros nothing changes.
    box = tuple(slice(max(int(n.min()) - 2, 0), int(n.max()) + 3) for n in there)
    structure = _structure()
    closed = ndimage.grey_closing(values[box], footprint=structure)
    result[box] = ndimage.grey_opening(closed, footprint=structure)
    return result
