"""Rigid registration of an EPI to another image of the same head by mutual information.

The receive field of an EPI may vary fivefold over the brain. Mutual information takes it for
contrast, and its optimum may then lie a centimetre away from the true position. Therefore the
brightness of both images is evened out first.

References
----------
.. [1] Wells WM et al. (1996). Multi-modal volume registration by maximization of mutual
   information. Medical Image Analysis 1(1):35-51. doi:10.1016/S1361-8415(01)80004-9
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.errors import InputError
from neuroferry.interfaces.image.affine import (
    RIGID,
    MovingImage,
    SamplePoints,
    compose,
    moving_image,
    mutual_information,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    Affine,
    Volume,
    inverse,
    resample_isotropic,
    resample_to,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Spacing of the sample points, and resolution to which the T1w image is blurred.
COARSE_MM, FINE_MM = 8.0, 3.0
COARSE_BLUR_MM = 6.0
ANATOMY_ZOOM_MM = 2.0
# Starts: pitch, roll and yaw in degrees, and shifts along the body in mm.
TURNS = ((0, 0, 0), (15, 0, 0), (-15, 0, 0), (0, 10, 0), (0, -10, 0), (0, 0, 12), (0, 0, -12))
LIFTS_MM = (0.0, -40.0, -20.0, 20.0, 40.0)
STARTS_REFINED = 4
# Another start must beat the position of the header by this factor.
HEADER_BONUS = 1.05
# Width of the neighbourhood whose mean brightness becomes one, standard deviation; wide against
# the cortex, narrow against the receive field of one coil.
EVEN_MM = 18.0
# Head is brighter than this fraction of its neighbourhood.
EVEN_HEAD = 0.4
BRIGHTEST = 4.0


def even_out(image: Volume) -> Volume:
    """Divide an image of the head by the mean brightness around each voxel.

    Parameters
    ----------
    image : Volume
        Image in any contrast.

    Returns
    -------
    Volume
        About 1000 in the head, at most 4000.
    """
    from scipy import ndimage

    sigma = EVEN_MM / image.zooms
    head = foreground(image.data)
    flat = image.data
    # The threshold of the whole image misses the head where it is dark: look again.
    for _ in range(2):
        weights = head.astype(np.float32)
        near = ndimage.gaussian_filter(weights, sigma, mode="constant")
        level = ndimage.gaussian_filter(image.data * weights, sigma, mode="constant")
        level /= np.maximum(near, 1e-3)
        flat = image.data / np.maximum(level, 1e-3 * float(level.max()) or 1.0)
        head = ndimage.binary_opening(flat > EVEN_HEAD)
    return image.with_data((1000 * np.clip(flat, 0, BRIGHTEST)).astype(np.float32))


def rms_distance(one: Affine, other: Affine, points: NDArray[np.float64]) -> float:
    """Compute the root mean square distance between points under two transforms, mm.

    Parameters
    ----------
    one, other : ndarray of float64, shape (4, 4)
        Points to points, RAS+ mm.
    points : ndarray of float64, shape (3, N)
        RAS+ mm.

    Returns
    -------
    float
    """
    difference = one - other
    moved = difference[:3, :3] @ points + difference[:3, 3:]
    return float(np.sqrt(np.mean(np.sum(moved**2, axis=0))))


def mask_points(mask: NDArray[np.bool_], affine: Affine, count: int = 4000) -> NDArray[np.float64]:
    """Sample about `count` voxels of a mask: world coordinates, shape (3, N), RAS+ mm."""
    index = np.argwhere(mask).T.astype(np.float64)
    index = index[:, :: max(1, index.shape[1] // count)]
    points: NDArray[np.float64] = affine[:3, :3] @ index + affine[:3, 3:]
    return points


def align_heads(
    epi: Volume, t1w: Volume, t1w_mask: NDArray[np.bool_], *, sloppy: bool = False, seed: int = 1
) -> tuple[Affine, float]:
    """Register an EPI rigidly to the T1w image by mutual information.

    The sample points of the metric belong to the EPI, whose field of view may cover only part
    of the head; the T1w image is sampled there. The search starts from the position of the
    headers and from the centres of mass, each rotated and shifted along the body.

    Parameters
    ----------
    epi, t1w : Volume
        Images of one participant.
    t1w_mask : ndarray of bool, shape (I, J, K)
        Brain of the T1w image.
    sloppy : bool
        Skip the finest level.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    score : float
        Mutual information, nats.
    """
    anatomy = resample_isotropic(t1w, ANATOMY_ZOOM_MM)
    # Against the extracted brain there is one broad optimum; against the head there are many.
    brain = t1w.with_data(np.where(t1w_mask, t1w.data, 0).astype(np.float32))
    head, around = _head_of(epi)
    points = sample_points(epi, around, COARSE_MM, seed=seed, blur=COARSE_BLUR_MM)
    image = moving_image(resample_isotropic(brain, ANATOMY_ZOOM_MM), COARSE_BLUR_MM)
    matrix, _ = _best_start(points, image, _starts(points, epi, head, t1w, t1w_mask))
    return _refine(epi, anatomy, _as_volume(t1w, t1w_mask), matrix, sloppy=sloppy, seed=seed)


def refine_heads(
    epi: Volume,
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
    matrix: Affine,
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> tuple[Affine, float]:
    """Refine the registration of an EPI from a nearby start.

    Parameters
    ----------
    epi, t1w : Volume
        Images of one participant.
    t1w_mask : ndarray of bool, shape (I, J, K)
        Brain of the T1w image.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    sloppy : bool
        Skip the finest level.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    score : float
        Mutual information, nats.
    """
    anatomy = resample_isotropic(t1w, ANATOMY_ZOOM_MM)
    return _refine(epi, anatomy, _as_volume(t1w, t1w_mask), matrix, sloppy=sloppy, seed=seed)


def _as_volume(t1w: Volume, mask: NDArray[np.bool_]) -> Volume:
    return Volume(mask.astype(np.float32), t1w.affine)


def _head_of(epi: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the head of an EPI, and the head with some air around it."""
    from scipy import ndimage

    head = foreground(epi.data)
    steps = max(1, round(8.0 / float(epi.zooms.mean())))
    return head, ndimage.binary_dilation(head, iterations=steps)


def _refine(
    epi: Volume, anatomy: Volume, mask: Volume, matrix: Affine, *, sloppy: bool, seed: int
) -> tuple[Affine, float]:
    """Refine by mutual information near the brain, at 4 and then 2 mm."""
    _, around = _head_of(epi)
    score = 0.0
    for zoom in (4.0,) if sloppy else (4.0, 2.0):
        near = near_brain(epi, mask, matrix, 6.0)
        points = sample_points(epi, near & around, max(FINE_MM, zoom), seed=seed, blur=zoom)
        image = moving_image(anatomy, zoom)
        matrix, score = refine(
            points, image, matrix, dof=RIGID, step=zoom / 20, tolerance=1e-6, max_iterations=10
        )
    return matrix, score


def _starts(
    points: SamplePoints,
    epi: Volume,
    head: NDArray[np.bool_],
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
) -> list[Affine]:
    """List the starting transforms, EPI points to T1w points; that of the headers first."""
    middle = mask_points(head, epi.affine).mean(axis=1)
    brain = mask_points(t1w_mask, t1w.affine).mean(axis=1)
    shifts = (np.zeros(3), brain - middle)
    starts = []
    for shift, lift, turn in itertools.product(shifts, LIFTS_MM, TURNS):
        parameters = np.array([shift[0], shift[1], shift[2] + lift, *np.radians(turn)])
        starts.append(compose(parameters, points.centre))
    return starts


def _best_start(
    points: SamplePoints, image: MovingImage, starts: Sequence[Affine]
) -> tuple[Affine, float]:
    """Refine the most likely starts coarsely, always including the first (the headers)."""
    few = points.thin(3000)
    scores = [mutual_information(few, image, start) for start in starts]
    order = [0, *(int(n) for n in np.argsort(scores)[::-1] if n)][:STARTS_REFINED]
    found = [
        refine(few, image, starts[n], dof=RIGID, tolerance=1e-4, max_iterations=6) for n in order
    ]
    best = max(range(len(found)), key=lambda n: found[n][1])
    if found[best][1] < HEADER_BONUS * found[0][1]:
        best = 0
    return found[best]


def near_brain(epi: Volume, mask: Volume, matrix: Affine, margin_mm: float) -> NDArray[np.bool_]:
    """Find the voxels of an EPI within a margin of the T1w brain.

    Parameters
    ----------
    epi : Volume
        EPI of the head.
    mask : Volume
        Brain of the T1w image, 0 to 1.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    margin_mm : float
        Margin in mm.

    Returns
    -------
    ndarray of bool
        On the EPI's grid.

    Raises
    ------
    InputError
        If there is none.
    """
    from scipy import ndimage

    placed = Volume(mask.data, inverse(matrix) @ mask.affine)
    carried = resample_to(placed, epi.shape, epi.affine).data > 0.5
    if not carried.any():
        raise InputError(
            "The image and the T1w image do not overlap in space; check that they belong to the"
            " same participant."
        )
    distance = ndimage.distance_transform_edt(~carried, sampling=epi.zooms)
    near: NDArray[np.bool_] = distance <= margin_mm
    return near


def match_at(
    epi: Volume,
    other: Volume,
    mask: NDArray[np.bool_],
    matrix: Affine,
    *,
    distances: Sequence[float] = (),
    seed: int = 1,
) -> list[float]:
    """Compute the mutual information of two images of a head in one position, and around it.

    Parameters
    ----------
    epi, other : Volume
        Images of one head.
    mask : ndarray of bool, shape (I, J, K)
        Brain of the other image.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to points of the other image, RAS+ mm.
    distances : sequence of float
        How far to move, and to turn at 50 mm from the centre, mm.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    list of float
        At the position, nats; then for each distance the mean over twelve moves and turns.
    """
    _, around = _head_of(epi)
    near = near_brain(epi, _as_volume(other, mask), matrix, 6.0)
    points = sample_points(epi, near & around, 4.0, seed=seed)
    image = moving_image(resample_isotropic(other, ANATOMY_ZOOM_MM), 4.0)
    found = [mutual_information(points, image, matrix)]
    for distance in distances:
        ways = np.eye(RIGID) * distance
        ways[3:] /= 50.0
        values = [
            mutual_information(points, image, matrix @ compose(way, points.centre))
            for way in (*ways, *-ways)
        ]
        found.append(float(np.mean(values)))
    return found
