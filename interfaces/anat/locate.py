"""Location of the template's brain in a head: mutual information from many starts.

The metric uses only points inside the template's undilated brain mask, so that scalp and neck
have no influence; a wider mask lets the template grow into the scalp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.affine import (
    AFFINE,
    SIMILARITY,
    MovingImage,
    SamplePoints,
    compose,
    moving_image,
    mutual_information,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import Affine, Volume, resample_isotropic
from neuroferry.templates import Template

SEARCH_ZOOM = 4.0
SEARCH_POINTS = 6000
SLAB_MM = 100.0
MIN_TOP_AREA_MM2 = 1500.0
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SearchRange:
    """Starting transforms of a search.

    Attributes
    ----------
    depths : tuple of float
        Distance of the middle of the brain below the top of the head, mm.
    pitches, rolls, yaws : tuple of float
        Rotations about the left-right, anterior-posterior and superior-inferior axes, degrees.
    forwards : tuple of float
        Distance of the middle of the brain anterior to the middle of the head, mm.
    log_scales : tuple of float
        Logarithm of the ratio of brain size to template size.
    any_orientation : bool
        Try all 24 axis orders and directions, in case the header is wrong.
    refined : int
        Number of best starts to refine.
    """

    depths: tuple[float, ...] = (62.0, 68.0, 75.0, 82.0)
    pitches: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    rolls: tuple[float, ...] = (0.0,)
    yaws: tuple[float, ...] = (0.0,)
    forwards: tuple[float, ...] = (-20.0, 0.0, 20.0)
    log_scales: tuple[float, ...] = (-0.15, -0.08, -0.03, 0.02)
    any_orientation: bool = False
    refined: int = 5


FIRST_SEARCH = SearchRange()
SECOND_SEARCH = SearchRange(
    depths=(40.0, 50.0, 60.0, 70.0, 80.0, 92.0),
    pitches=(-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0),
    rolls=(-25.0, 0.0, 25.0),
    forwards=(-30.0, -15.0, 0.0, 15.0, 30.0),
    log_scales=(-0.2, -0.1, -0.03, 0.04),
    refined=12,
)
THIRD_SEARCH = SearchRange(
    depths=(62.0, 75.0, 88.0),
    pitches=(-25.0, 0.0, 25.0),
    forwards=(-20.0, 0.0, 20.0),
    log_scales=(-0.12, -0.03),
    any_orientation=True,
    refined=12,
)


@dataclass(frozen=True)
class Location:
    """Location of the template's brain in a head.

    Attributes
    ----------
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points, RAS+ mm.
    score : float
        Mutual information of the best start, nats.
    agreement_mm : float
        Median distance, over the template's brain, between the best refined start and the
        second and third best.
    starts : int
        Number of starts tried.
    turned : bool
        Whether the best start has another axis order than the header.
    """

    matrix: Affine
    score: float
    agreement_mm: float
    starts: int
    turned: bool


def axis_turns() -> list[Affine]:
    """List all 24 proper rotations that map axes to axes, the identity first."""
    turns = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), order] = signs
            if np.linalg.det(turn) > 0:
                turns.append(turn)
    return turns


def head_points(volume: Volume) -> Vector:
    """Find the head (the largest connected foreground) and return its world coordinates.

    Parameters
    ----------
    volume : Volume
        Head at about 4 mm.

    Returns
    -------
    ndarray of float64, shape (3, N)
        RAS+ mm.

    Raises
    ------
    InputError
        If no head is found.
    """
    from scipy import ndimage

    inside = foreground(volume.data)
    labels, count = ndimage.label(ndimage.binary_opening(inside))
    if count == 0:
        raise InputError("No head was found in this T1w image; check the image.")
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    index = np.argwhere(labels == largest).T
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3:]


def head_frame(points: Vector, zoom: float) -> tuple[float, Vector]:
    """Find the top of a head, and the middle of its uppermost 100 mm.

    Parameters
    ----------
    points : ndarray of float64, shape (3, N)
        Voxels of the head, third axis superior, mm.
    zoom : float
        Their spacing, mm.

    Returns
    -------
    top : float
        Height at which the cross-section of the head reaches 15 cm², mm.
    middle : ndarray of float64, shape (2,)
        Centre of mass left to right, centre of the extent back to front, mm.
    """
    height = points[2]
    slices = np.floor((height - height.min()) / zoom).astype(int)
    area = np.bincount(slices) * zoom**2
    wide = np.flatnonzero(area > min(MIN_TOP_AREA_MM2, 0.3 * float(area.max())))
    top = float(height.min() + (wide[-1] + 0.5) * zoom)
    slab = points[:, height > top - SLAB_MM]
    return top, np.array([slab[0].mean(), (slab[1].min() + slab[1].max()) / 2])


def starts(points: Vector, centre: Vector, zoom: float, ranges: SearchRange) -> Iterator[Affine]:
    """Yield the starting transforms of a search, template points to head points."""
    turns = axis_turns() if ranges.any_orientation else axis_turns()[:1]
    for turn in turns:
        top, middle = head_frame(turn @ points, zoom)
        back = np.eye(4)
        back[:3, :3] = turn.T
        angles = product(ranges.pitches, ranges.rolls, ranges.yaws)
        for (pitch, roll, yaw), depth, forward, scale in product(
            angles, ranges.depths, ranges.forwards, ranges.log_scales
        ):
            target = np.array([middle[0], middle[1] + forward, top - depth])
            turned = np.deg2rad([pitch, roll, yaw])
            yield back @ compose(np.concatenate([target - centre, turned, [scale]]), centre)


def locate_brain(head: Volume, template: Template, ranges: SearchRange, seed: int) -> Location:
    """Locate the template's brain in a head.

    Parameters
    ----------
    head : Volume
        Head, roughly bias-corrected, at 4 mm or finer.
    template : Template
        Template at 2 mm.
    ranges : SearchRange
        Starting transforms.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    Location

    Raises
    ------
    InputError
        If no head is found.
    """
    coarse = resample_isotropic(head, SEARCH_ZOOM)
    points = head_points(coarse)
    fixed = Volume(template.t1w, template.affine)
    samples = sample_points(fixed, template.brain_mask, SEARCH_ZOOM, seed=seed)
    few = samples.thin(SEARCH_POINTS)
    image = moving_image(coarse, SEARCH_ZOOM)
    tried = [
        (mutual_information(few, image, start), number, start)
        for number, start in enumerate(starts(points, samples.centre, SEARCH_ZOOM, ranges))
    ]
    per_turn = len(tried) // (24 if ranges.any_orientation else 1)
    best = sorted(tried, key=lambda item: (-item[0], item[1]))[: ranges.refined]
    refined = sorted(
        ((*_refine_start(few, image, start), number) for _, number, start in best),
        key=lambda item: (-item[1], item[2]),
    )
    winner, _, number = refined[0]
    rivals = [float(np.median(_distance(winner, other, few))) for other, _, _ in refined[1:3]]
    finest = moving_image(head, SEARCH_ZOOM)
    matrix, score = refine(samples, finest, winner, dof=AFFINE, tolerance=1e-4, step=0.3)
    return Location(matrix, score, max(rivals, default=0.0), len(tried), number >= per_turn)


def _refine_start(few: SamplePoints, image: MovingImage, start: Affine) -> tuple[Affine, float]:
    """Refine one start, first as a similarity, then as an affine transform."""
    matrix, _ = refine(few, image, start, dof=SIMILARITY, tolerance=1e-3)
    return refine(few, image, matrix, dof=AFFINE, tolerance=1e-3)


def _distance(one: Affine, other: Affine, points: SamplePoints) -> Vector:
    """Compute the distance between the sample points under two transforms, mm, shape (N,)."""
    apart = one - other
    return np.asarray(
        np.linalg.norm(apart[:3, :3] @ points.world + apart[:3, 3:], axis=0), dtype=np.float64
    )
