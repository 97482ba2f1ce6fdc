"""Diffusion gradient tables: directions by electrostatic repulsion, order, FSL's format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SEED = 20  # the table belongs to the scanner, not to the person
_STEPS = 400


@dataclass(frozen=True)
class GradientTable:
    """Gradients played out by the scanner, one row per volume.

    Attributes
    ----------
    bvals : ndarray of float64, shape (T,)
        s/mm2.
    bvecs : ndarray of float64, shape (T, 3)
        Unit vectors, scanner axes (RAS+); zero where b is 0.
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]


def spread_directions(count: int, seed: int) -> NDArray[np.float64]:
    """Distribute axes over the sphere by electrostatic repulsion of their end points.

    Parameters
    ----------
    count : int
    seed : int
        The same seed gives the same directions.

    Returns
    -------
    ndarray of float64, shape (count, 3)
        Unit vectors, their signs at random.

    References
    ----------
    Jones DK, Horsfield MA, Simmons A (1999). Optimal strategies for measuring diffusion in
    anisotropic systems by magnetic resonance imaging. Magnetic Resonance in Medicine 42,
    515-525.

    Examples
    --------
    >>> axes = spread_directions(3, seed=0)
    >>> float(np.abs(axes @ axes.T - np.eye(3)).max()) < 0.01
    True
    """
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for step in 0.3 * 0.98 ** np.arange(_STEPS):
        force = np.zeros_like(axes)
        for sign in (-1.0, 1.0):
            away = axes[:, None, :] + sign * axes[None, :, :]
            distance = np.linalg.norm(away, axis=-1)
            np.fill_diagonal(distance, np.inf)
            force += (away / distance[..., None] ** 3).sum(axis=1)
        force -= (force * axes).sum(axis=1, keepdims=True) * axes
        largest = np.linalg.norm(force, axis=1).max()
        if largest > 0:
            axes = axes + (step / np.sqrt(count) / largest) * force
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    signed: NDArray[np.float64] = axes * rng.choice([-1.0, 1.0], size=(count, 1))
    return signed


def draw_table(directions: int, bvals: Sequence[float], n_b0: int) -> GradientTable:
    """Order a series: shells interleaved, b0 volumes spread evenly, the first volume a b0.

    Parameters
    ----------
    directions : int
        Directions per shell; every shell has its own.
    bvals : sequence of float
        s/mm2.
    n_b0 : int

    Examples
    --------
    >>> draw_table(6, (1000.0,), 2).bvals.astype(int).tolist()
    [0, 1000, 1000, 1000, 0, 1000, 1000, 1000]
    """
    vectors = np.concatenate(
        [spread_directions(directions, _SEED + shell) for shell in range(len(bvals))]
    )
    values = np.repeat(np.asarray(bvals, dtype=np.float64), directions)
    order = np.random.default_rng(_SEED).permutation(len(values))
    total = len(values) + n_b0
    weighted = np.ones(total, dtype=bool)
    weighted[np.arange(n_b0) * total // n_b0] = False
    table = GradientTable(np.zeros(total), np.zeros((total, 3)))
    table.bvals[weighted], table.bvecs[weighted] = values[order], vectors[order]
    return table


def in_head(bvecs: NDArray[np.float64], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate gradients into the frame of the head: rotated by R it sees ``R^T g``.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (T, 3)
        Scanner axes.
    motion : ndarray of float64, shape (T, 4, 4)
        Rigid: points of the reference to points of each volume.

    Returns
    -------
    ndarray of float64, shape (T, 3)
        Gradients in the frame of the reference head.

    References
    ----------
    Leemans A, Jones DK (2009). The B-matrix must be rotated when correcting for subject
    motion in DTI data. Magnetic Resonance in Medicine 61, 1336-1349.
    doi:10.1002/mrm.21890
    """
    seen: NDArray[np.float64] = np.einsum("tji,tj->ti", motion[:, :3, :3], bvecs)
    return seen


def to_fsl(bvecs: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Express world vectors (T, 3) along an image's voxel axes, as ``.bvec`` files do.

    The first component is negated where the affine's determinant is positive.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along: NDArray[np.float64] = bvecs @ axes
    if np.linalg.det(axes) > 0:
        along[:, 0] *= -1
    return along


def bval_text(bvals: NDArray[np.float64]) -> str:
    """Format the content of a ``.bval`` file."""
    return " ".join(f"{b:g}" for b in bvals) + "\n"


def bvec_text(bvecs: NDArray[np.float64], affine: NDArray[np.float64]) -> str:
    """Format the content of a ``.bvec`` file."""
    rows = np.round(to_fsl(bvecs, affine), 8).T + 0.0
    return "".join(" ".join(f"{value:.8g}" for value in row) + "\n" for row in rows)
