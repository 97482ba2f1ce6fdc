"""Participants of the phantom dataset: their drawn parameters and anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.anatomy import Brain, brain_template, grow_brain
from neuroferry.phantom.deform import HeadWarp, compose_affine, random_velocity
from neuroferry.phantom.grids import Grid, resample_grid
from neuroferry.phantom.head import HeadModel, HeadShape
from neuroferry.phantom.score import jacobian_determinant

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Random streams: one for each purpose, so that adding one does not change the others.
STREAM_PERSON, STREAM_BRAIN, STREAM_HEAD, STREAM_WARP, STREAM_SCAN = range(5)
STREAM_BOLD, STREAM_FMAP, STREAM_DWI, STREAM_BUNDLES, STREAM_T2W = 5, 6, 7, 8, 9

# Brain volume within the template's kind of mask (ml), adult mean and spread.
_ADULT_ML = {"M": 1580.0, "F": 1430.0}
_SPREAD_ML = 100.0
_AVERAGE_ML = 1505.0
_TEMPLATE_ML = 1883.0
# Smoothing and amplitude (mm) of individual deformations: shape of the whole head; then,
# within the skull, lobes and gyri.
_HEAD_SCALES = ((45.0, 3.5),)
_BRAIN_SCALES = ((16.0, 2.8), (8.0, 1.7))
_FADE = 9.0  # mm over which the latter fade out towards the skull
_WARP_GRID = ((-112.0, -158.0, -218.0), (112.0, 134.0, 112.0), 4.0)


@dataclass(frozen=True)
class SubjectParameters:
    """Drawn parameters of one phantom participant.

    Attributes
    ----------
    label : str
        Without ``sub-``.
    index, seed : int
        Source of the random numbers.
    age : float
        Years.
    sex : str
        ``M`` or ``F``.
    size : float
        Brain volume relative to the average adult of the phantom population.
    scales, shears : tuple of 3 floats
        Of the template, left-right, posterior-anterior, inferior-superior; multiplied by a common
        factor so that the deformed brain has the volume of `size`.
    ventricles : float
        Outward displacement of the walls of the lateral ventricles, mm.
    fold_depth : float
        Depth of the deepest individual sulci, mm.
    head : HeadShape
    """

    label: str
    index: int
    seed: int
    age: float
    sex: str
    size: float
    scales: tuple[float, float, float]
    shears: tuple[float, float, float]
    ventricles: float
    fold_depth: float
    head: HeadShape

    @property
    def child(self) -> bool:
        """Younger than 13."""
        return self.age < 13

    def stream(self, purpose: int, *more: int) -> np.random.Generator:
        """Make the random generator for one purpose of this subject."""
        return np.random.default_rng([self.seed, self.index, purpose, *more])


@dataclass(frozen=True)
class SubjectAnatomy:
    """Head of a subject, from which all kinds of images are rendered.

    Attributes
    ----------
    parameters : SubjectParameters
    brain : Brain
        Tissues in template space.
    head : HeadModel
        Surrounding tissues, in template space.
    warp : HeadWarp
        From the subject, head upright at the scanner's centre, to the template.
    """

    parameters: SubjectParameters
    brain: Brain
    head: HeadModel
    warp: HeadWarp


def draw_subject(index: int, *, seed: int, label: str) -> SubjectParameters:
    """Draw a participant; every third is a child.

    Parameters
    ----------
    index : int
        Position in the dataset, from 0; the second, fifth, eighth … are children.
    seed : int
        Seed of the dataset.
    label : str
        Without ``sub-``.
    """
    rng = np.random.default_rng([seed, index, STREAM_PERSON])
    child = index % 3 == 1
    sex = "M" if rng.random() < 0.5 else "F"
    age = float(rng.uniform(5, 12) if child else rng.uniform(19, 78))
    adult = float(np.clip(rng.normal(_ADULT_ML[sex], _SPREAD_ML), 1250, 1800))
    volume = adult * float(0.85 + 0.07 * (age - 5) / 7) if child else adult
    shape = rng.normal(0, [0.022, 0.028, 0.022])
    shape -= shape.mean()
    linear = (volume / _TEMPLATE_ML) ** (1 / 3)
    aging = max(age - 30, 0) / 45
    head = HeadShape(
        subarachnoid=float(rng.uniform(1.2, 2.0) if child else 1.8 + 1.6 * aging),
        skull=float(rng.uniform(3.8, 5.0) if child else rng.uniform(5.5, 8.0)),
        scalp=float(rng.uniform(4.5, 6.0) if child else rng.uniform(5.5, 8.0)),
        fat=float(rng.uniform(0.45, 0.65)),
        diploe=float(rng.uniform(0.25, 0.4) if child else rng.uniform(0.4, 0.55)),
        face=float(rng.uniform(0.8, 0.88) if child else rng.uniform(0.95, 1.05)),
        neck=float(rng.uniform(40, 45) if child else rng.uniform(49, 58)),
    )
    return SubjectParameters(
        label=label,
        index=index,
        seed=seed,
        age=round(age, 1),
        sex=sex,
        size=volume / _AVERAGE_ML,
        scales=_triple(linear * np.exp(shape)),
        shears=_triple(rng.normal(0, 0.012, 3)),
        ventricles=float(rng.uniform(-1.2, 0.6) if child else rng.uniform(-1.0, 1.5) + 2 * aging),
        fold_depth=float(rng.uniform(10, 16)),
        head=head,
    )


def grow_subject(parameters: SubjectParameters) -> SubjectAnatomy:
    """Make the anatomy that `parameters` describe (about 3 s of one processor)."""
    brain = grow_brain(parameters.stream(STREAM_BRAIN), fold_depth=parameters.fold_depth)
    head = HeadModel(parameters.head, parameters.stream(STREAM_HEAD))
    grid = Grid.covering(*_WARP_GRID)
    rng = parameters.stream(STREAM_WARP)
    velocity = random_velocity(rng, grid, _HEAD_SCALES)
    inside = np.clip(0.25 - resample_grid(head.cranium, head.grid, grid) / _FADE, 0, 1)
    velocity += inside.astype(np.float32) * random_velocity(rng, grid, _BRAIN_SCALES)
    velocity += parameters.ventricles * _ventricle_velocity(grid)
    affine = np.eye(4)
    affine[:3, :3] = compose_affine(parameters.scales, parameters.shears, (0, 0, 0))
    warp = HeadWarp.from_velocity(affine, grid, velocity)
    # The flow itself changes the brain volume: restore the drawn volume.
    affine[:3, :3] *= (parameters.size * _AVERAGE_ML / _volume_ml(warp)) ** (1 / 3)
    return SubjectAnatomy(parameters, brain, head, warp.placed(affine))


def _volume_ml(warp: HeadWarp) -> float:
    """Compute the volume of the template's brain mask after the warp to the subject."""
    base = brain_template()
    share = resample_grid(base.mask.astype(np.float32), base.grid, warp.grid)
    growth = jacobian_determinant(np.moveaxis(warp.backward, 0, -1), warp.grid.affine)
    voxel_ml = warp.grid.spacing**3 / 1000
    return float((share * growth).sum() * voxel_ml * np.linalg.det(warp.affine[:3, :3]))


def _ventricle_velocity(grid: Grid) -> NDArray[np.float32]:
    """Compute a velocity whose flow opens the ventricles by about 1 mm, shape (3, I, J, K)."""
    base = brain_template()
    slopes = np.stack(np.gradient(base.ventricles, base.coarse.spacing)).astype(np.float32)
    slopes /= np.sqrt((slopes**2).sum(axis=0)).max()
    slopes[:, [0, -1]] = slopes[:, :, [0, -1]] = slopes[:, :, :, [0, -1]] = 0
    return np.stack([resample_grid(part, base.coarse, grid) for part in slopes])


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
