"""Head motion during a scan, and its parameters in FSL's convention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuroferry.phantom.deform import compose_affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

MOTION_COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_DRIFT_MM, _DRIFT_DEG = 0.5, 0.5  # spread of the slow drift at the end of 5 minutes
_BREATH_MM, _BREATH_DEG = 0.02, 0.02
_RADIUS = 50.0  # mm: converts rotation to distance, for framewise displacement


def rigid(
    rotation: ArrayLike, translation: ArrayLike, centre: ArrayLike = (0, 0, 0)
) -> NDArray[np.float64]:
    """Compose a rotation about `centre` and a translation; shape (4, 4).

    Parameters
    ----------
    rotation : array_like, shape (3,)
        Degrees about x, then y, then z.
    translation, centre : array_like, shape (3,)
        RAS+ mm.

    Examples
    --------
    >>> rigid((0, 0, 90), (0, 0, 1), centre=(1, 0, 0))[:3, 3].round(6).tolist()
    [1.0, -1.0, 1.0]
    """
    matrix = np.eye(4)
    degrees = np.asarray(rotation, dtype=np.float64).tolist()
    matrix[:3, :3] = compose_affine((1, 1, 1), (0, 0, 0), degrees)
    middle = np.asarray(centre, dtype=np.float64)
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + np.asarray(translation, dtype=np.float64)
    return matrix


def draw_motion(
    rng: np.random.Generator,
    n_volumes: int,
    *,
    tr: float,
    drift: float = 1.0,
    jerk: float = 3.0,
) -> NDArray[np.float64]:
    """Draw the position of the head in each volume.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_volumes : int
    tr : float
        Seconds between volumes.
    drift : float
        Scales slow drift and the small oscillation of breathing; 0 switches both off.
    jerk : float
        Size of the largest jerk, mm and degrees; 0 switches jerks off. There is one for each 20
        volumes, none among the first five: the first at full size, the others at 30 to 100 % of
        it. Half of them last for a volume or two, the others persist at a small part of their
        size.

    Returns
    -------
    ndarray of float64, shape (T, 6)
        Shifts (mm) and turns (degrees) along and about x, y, z; RAS+.
    """
    # Always drawn, so that switching one effect off does not change the other.
    steps = rng.normal(size=(n_volumes, 6))
    phases = rng.uniform(0, 2 * np.pi, 6)
    n_jerks = n_volumes // 20
    sizes = rng.uniform(0.3, 1.0, n_jerks)
    sizes[:1] = 1.0
    directions = rng.normal(size=(n_jerks, 2, 3))
    starts = rng.permutation(np.arange(5, max(n_volumes - 2, 5)))[:n_jerks]

    minutes = np.arange(n_volumes) * tr / 60
    walk = ndimage.gaussian_filter1d(np.cumsum(steps, axis=0), 10 / tr, axis=0, mode="nearest")
    walk *= np.sqrt(tr / 300)
    spread = np.repeat([_DRIFT_MM, _DRIFT_DEG], 3)
    breath = np.sin(2 * np.pi * 60 * 0.27 * minutes[:, None] + phases)
    position = drift * (walk * spread + breath * np.repeat([_BREATH_MM, _BREATH_DEG], 3))
    for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        # The norms of shift and rotation do not exceed `jerk`.
        way = directions[number] / np.linalg.norm(directions[number], axis=1, keepdims=True)
        move = jerk * size * way.ravel()
        if number % 2 == 0:
            position[start : start + 1 + number // 2 % 2] += move
        else:
            position[start] += move
            position[start + 1 :] += 0.3 * move
    return np.asarray(position, dtype=np.float64)


def motion_matrices(
    position: NDArray[np.float64], reference: int, centre: ArrayLike
) -> NDArray[np.float64]:
    """Convert positions to maps from points of the reference volume to points of each volume.

    Parameters
    ----------
    position : ndarray of float64, shape (T, 6)
        From :func:`draw_motion`.
    reference : int
        Volume whose matrix is the identity.
    centre : array_like, shape (3,)
        Centre of rotation of the head in the reference volume, RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (T, 4, 4)
        RAS+ mm.
    """
    placed = np.stack([rigid(row[3:], row[:3], centre) for row in position])
    matrices: NDArray[np.float64] = placed @ np.linalg.inv(placed[reference])
    return matrices


def motion_parameters(
    matrices: NDArray[np.float64],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    centre: ArrayLike,
) -> NDArray[np.float64]:
    """Express motion as in fMRIPrep's confounds, which is the convention of FSL's MCFLIRT.

    The parameters are those of the map from each volume to the reference, in FSL's
    coordinates: voxel indices times voxel size, the first axis reversed where the affine
    has a positive determinant. The rotation is ``Rx Ry Rz``, each with the sine above the
    diagonal positive; the translation is the displacement of the reference's centre of mass.

    Parameters
    ----------
    matrices : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    affine : ndarray of float64, shape (4, 4)
        Of the series.
    shape : sequence of 3 ints
        Of one volume.
    centre : array_like, shape (3,)
        Centre of mass of the reference, voxel indices.

    Returns
    -------
    ndarray of float64, shape (T, 6)
        Columns of `MOTION_COLUMNS`: mm and radians.

    References
    ----------
    Jenkinson M, Bannister P, Brady M, Smith S (2002). Improved optimization for the robust
    and accurate linear registration and motion correction of brain images. NeuroImage 17,
    825-841. doi:10.1006/nimg.2002.1132
    """
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    size = np.asarray(shape[:3], dtype=np.float64)
    scaled = np.diag([*zooms, 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        scaled[0, 0], scaled[0, 3] = -zooms[0], (size[0] - 1) * zooms[0]
    to_fsl = scaled @ np.linalg.inv(affine)
    back = to_fsl @ np.linalg.inv(matrices) @ np.linalg.inv(to_fsl)
    middle = (scaled @ [*np.asarray(centre, dtype=np.float64), 1.0])[:3]
    turn = back[:, :3, :3]
    rotation = np.stack(
        [
            np.arctan2(turn[:, 1, 2], turn[:, 2, 2]),
            np.arctan2(-turn[:, 0, 2], np.hypot(turn[:, 0, 0], turn[:, 0, 1])),
            np.arctan2(turn[:, 0, 1], turn[:, 0, 0]),
        ],
        axis=1,
    )
    translation = turn @ middle + back[:, :3, 3] - middle
    return np.concatenate([translation, rotation], axis=1)


def framewise_displacement(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute framewise displacement, rotations on a sphere of 50 mm; the first is NaN.

    Parameters
    ----------
    parameters : ndarray of float64, shape (T, 6)
        mm and radians.

    Returns
    -------
    ndarray of float64, shape (T,)
        mm.

    References
    ----------
    Power JD, Barnes KA, Snyder AZ, Schlaggar BL, Petersen SE (2012). Spurious but
    systematic correlations in functional connectivity MRI networks arise from subject
    motion. NeuroImage 59, 2142-2154. doi:10.1016/j.neuroimage.2011.10.018
    """
    steps = np.abs(np.diff(parameters, axis=0)) * np.array([1.0, 1.0, 1.0, *[_RADIUS] * 3])
    return np.concatenate([[np.nan], steps.sum(axis=1)])
