"""Use of the order of the volumes: the head moves little from one to the next.

Images alone leave two ambiguities. Eddy currents shift the whole image along the phase-encoding
axis, just as motion does; but their shift follows the gradient, which jumps from volume to
volume, whereas motion does not. And b0 and weighted volumes differ in contrast, so that
registration between them is off by some tenths of a millimetre up to one; but a volume acquired
right before or after a b0 volume shows the head in the same position, up to the motion in
between. Both are judged by the motion from one weighted volume to the next, which is known well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.epi.realign import rigid_step, tukey
from neuroferry.interfaces.image.images import Affine, inverse

MAD_TO_SIGMA = 1.4826
ROUNDS = 10
RIDGE = 1e-2
MIN_STEPS = 7
# Volumes farther apart than this are not compared.
MOST_APART = 4
# Typical error of registering images of two contrasts: mm, and radians.
CONTRAST_ERROR = np.array([0.6, 0.6, 0.6, 0.0045, 0.0045, 0.0045])
# Beyond this many standard deviations the head has moved in between.
MOVED = 2.5
# Smallest error assumed for a step: mm, and radians.
LEAST_ERROR = np.array([0.03, 0.03, 0.03, 3e-4, 3e-4, 3e-4])
# Variance of a median, in units of that of a mean; and what a single pair, which no median
# protects from a jerk, is worth less.
MEDIAN_VARIANCE = np.pi / 2
ALONE = 3.0

Floats = NDArray[np.float64]


def caused_shifts(shifts: Floats, bvecs: Floats, volumes: Sequence[int]) -> Floats:
    """Separate eddy-current shifts from head motion.

    Parameters
    ----------
    shifts : ndarray of float64, shape (N,)
        Shifts of the volumes of one shell along the phase-encoding axis, mm.
    bvecs : ndarray of float64, shape (N, 3)
        Their directions.
    volumes : sequence of int
        Their indices in the series, ascending.

    Returns
    -------
    ndarray of float64, shape (N,)
        A linear function of the direction, fitted robustly to the steps from each volume to the
        next; zero if there are too few steps.

    Examples
    --------
    >>> directions = np.random.default_rng(0).normal(size=(20, 3))
    >>> drift = np.linspace(0, 1, 20)
    >>> found = caused_shifts(directions @ [1.0, -2, 0.5] + drift, directions, range(20))
    >>> bool(np.abs(found - directions @ [1.0, -2, 0.5]).max() < 0.2)
    True
    """
    pairs = [n for n, (a, b) in enumerate(pairwise(volumes)) if b - a == 1]
    if len(pairs) < MIN_STEPS:
        return np.zeros(len(shifts))
    design = np.diff(bvecs, axis=0)[pairs]
    steps = np.diff(shifts)[pairs]
    weights = np.ones(len(steps))
    solution: Floats = np.zeros(3)
    for _ in range(ROUNDS):
        weighted = design * weights[:, None]
        normal = weighted.T @ design + RIDGE * np.eye(3)
        solution = np.asarray(np.linalg.solve(normal, weighted.T @ steps), dtype=np.float64)
        rest = np.abs(steps - design @ solution)
        sigma = MAD_TO_SIGMA * float(np.median(rest))
        weights = np.maximum(tukey(rest / max(sigma, 1e-6)), 1e-3)
    caused: Floats = bvecs @ solution
    return caused


def parameters_of(matrix: Affine, centre: Floats) -> Floats:
    """Compute the shift at a centre (mm) and rotation vector (radians) of a rigid motion."""
    from scipy.spatial.transform import Rotation

    shift = matrix[:3, :3] @ centre + matrix[:3, 3] - centre
    turn = Rotation.from_matrix(matrix[:3, :3]).as_rotvec()
    return np.concatenate([shift, turn])


def offset_in_time(
    rigid: Floats, b0s: Sequence[int], volumes: Sequence[int], centre: Floats
) -> Affine:
    """Estimate the offset of a shell from the b0 volumes acquired next to its volumes.

    Parameters
    ----------
    rigid : ndarray of float64, shape (T, 4, 4)
        Motion of each volume of the series, as estimated so far.
    b0s, volumes : sequence of int
        Indices in the series of the b0 volumes and of the shell's volumes, ascending.
    centre : ndarray of float64, shape (3,)
        Centre of the head, RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Matrix to multiply the motion of each of the shell's volumes with from the right: the
        median over neighbours, shrunk towards the identity by their relative precision; the
        identity if the head moved in between.
    """
    none: Affine = np.eye(4)
    steps = [
        parameters_of(inverse(rigid[b]) @ rigid[a], centre) / np.sqrt(b - a)
        for a, b in pairwise(volumes)
        if b - a <= MOST_APART
    ]
    pairs = [(b0, near) for b0 in b0s for near in _beside(b0, volumes)]
    if len(steps) < MIN_STEPS or not pairs:
        return none
    sigma = np.maximum(MAD_TO_SIGMA * np.median(np.abs(steps), axis=0), LEAST_ERROR)
    said = [parameters_of(inverse(rigid[near]) @ rigid[b0], centre) for b0, near in pairs]
    apart = float(np.mean([abs(b0 - near) for b0, near in pairs]))
    middle = np.median(said, axis=0)
    variance = MEDIAN_VARIANCE * sigma**2 * apart / len(pairs) * (1 + ALONE / len(pairs) ** 2)
    of_contrast = CONTRAST_ERROR**2
    if np.any(np.abs(middle) > MOVED * np.sqrt(variance + of_contrast)):
        return none
    return rigid_step(middle * of_contrast / (variance + of_contrast), centre)


def _beside(b0: int, volumes: Sequence[int]) -> list[int]:
    """Find the nearest volumes before and after a b0, if close enough."""
    before = max((v for v in volumes if v < b0), default=None)
    after = min((v for v in volumes if v > b0), default=None)
    return [v for v in (before, after) if v is not None and abs(v - b0) <= MOST_APART]
