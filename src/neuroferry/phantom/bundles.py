"""Major fibre bundles, as tubes around centre curves in template space.

Each curve was placed in the white matter of MNI152NLin2009aSym along the course described by the
atlases below. A tube widens towards its ends, where its fibres fan out to the cortex; in between
a fibre keeps its relative position in the cross-section. Along each bundle anisotropy and mean
diffusivity vary smoothly, differently between bundles and between participants: these are the
true tract profiles.

References
----------
Catani M, Thiebaut de Schotten M (2008). A diffusion tensor imaging tractography atlas for
virtual in vivo dissections. Cortex 44, 1105-1132. doi:10.1016/j.cortex.2008.05.004

Wakana S, Caprihan A, Panzenboeck MM, et al. (2007). Reproducibility of quantitative
tractography methods applied to cerebral white matter. NeuroImage 36, 630-644.
doi:10.1016/j.neuroimage.2007.02.049
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NODES = 100  # of a profile
_STEP = 0.5  # mm between the points of a dense curve
_FAN = 0.3  # share of the length over which a tube widens at either end
_RIM = 0.15  # of the radius, on either side of it, over which membership fades
_GOLDEN = np.pi * (3 - np.sqrt(5))  # between fibres about the curve
_CAP = 2.0  # mm over which it fades at the ends

Point = tuple[float, float, float]


@dataclass(frozen=True)
class BundleField:
    """Membership, position and direction of a bundle at some points.

    Attributes
    ----------
    index : ndarray of intp, shape (N,)
        Indices of the points in the bundle.
    weight : ndarray of float32, shape (N,)
        0 to 1: membership.
    position : ndarray of float32, shape (N,)
        0 at the first end of the curve to 1 at the other.
    radius : ndarray of float32, shape (N,)
        Distance from the curve relative to that of the tube's wall.
    direction : ndarray of float64, shape (N, 3)
        Unit vectors along the fibres, template axes.
    """

    index: NDArray[np.intp]
    weight: NDArray[np.float32]
    position: NDArray[np.float32]
    radius: NDArray[np.float32]
    direction: NDArray[np.float64]


@dataclass(frozen=True)
class Bundle:
    """Geometry and diffusion properties of one bundle.

    Attributes
    ----------
    name : str
        Name as spelt by AFQ.
    waypoints : tuple of points
        The centre curve is a cubic spline through these, template RAS+ mm.
    radius : float
        Radius of the middle of the tube, mm.
    fan : tuple of two floats
        Radius at the first and at the other end, mm.
    fa, md : float
        Fractional anisotropy and mean diffusivity (mm2/s) of its fibres, before the course.
    dip : float
        Reduction of anisotropy at its lowest point (negative: increase).
    through_grey : bool
        Runs through the brainstem and between the basal ganglia, where the template's maps
        show grey matter or a sheet of white matter thinner than the bundle.
    """

    name: str
    waypoints: tuple[Point, ...]
    radius: float
    fan: tuple[float, float]
    fa: float
    md: float
    dip: float
    through_grey: bool = False

    @cached_property
    def _spline(self) -> tuple[CubicSpline, float]:
        points = np.array(self.waypoints)
        chords = np.linalg.norm(np.diff(points, axis=0), axis=1)
        rough = CubicSpline(np.concatenate([[0.0], np.cumsum(chords)]), points)
        fine = rough(np.linspace(0, rough.x[-1], 2000))
        way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
        return CubicSpline(way, fine), float(way[-1])

    @property
    def length(self) -> float:
        """Length of the centre curve, mm."""
        return self._spline[1]

    def curve(self, count: int = NODES) -> NDArray[np.float64]:
        """Sample equidistant points on the centre curve, shape (count, 3), RAS+ mm."""
        spline, length = self._spline
        points: NDArray[np.float64] = spline(np.linspace(0, length, count))
        return points

    def wall(self, way: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the radius of the tube (mm) at distances along the curve (mm)."""
        share = way / self.length
        ends = [np.clip(1 - share / _FAN, 0, 1), np.clip(1 - (1 - share) / _FAN, 0, 1)]
        grown = [end**2 * (3 - 2 * end) for end in ends]
        radius = np.full(np.shape(way), self.radius)
        for part, wide in zip(grown, self.fan, strict=True):
            radius += part * (wide - self.radius)
        return radius

    def fibres(self, count: int) -> NDArray[np.float64]:
        """Generate fibres evenly distributed over the cross-section, from end to end.

        Parameters
        ----------
        count : int
            Number of fibres.

        Returns
        -------
        ndarray of float64, shape (count, P, 3)
            Points about 1 mm apart along the centre curve, template RAS+ mm.
        """
        spline, length = self._spline
        way = np.linspace(0, length, round(length) + 1)
        line, tangent = spline(way), spline(way, 1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        # axes of the cross-section, transported along the curve without rotation about it
        up = np.empty_like(tangent)
        across = np.eye(3)[np.abs(tangent[0]).argmin()]
        for here, ahead in enumerate(tangent):
            across = across - ahead * (ahead @ across)
            across /= np.linalg.norm(across)
            up[here] = across
        side = np.cross(tangent, up)
        number = np.arange(count)
        radius = np.sqrt((number + 0.5) / count)[:, None, None]
        turn = (number * _GOLDEN)[:, None, None]
        offset = np.cos(turn) * up + np.sin(turn) * side
        spread: NDArray[np.float64] = line + radius * self.wall(way)[:, None] * offset
        return spread

    def field(self, points: NDArray[np.floating]) -> BundleField:
        """Evaluate the bundle at points (N, 3), template RAS+ mm.

        Fibres keep their relative position in the cross-section: where the radius r grows along
        the arc length s, a fibre at an offset v from the curve runs along ``t + v (dr/ds) / r``,
        with t the curve's tangent.
        """
        spline, length = self._spline
        dense = np.arange(0.0, length, _STEP)
        line, tangent = spline(dense), spline(dense, 1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        reach = max(self.radius, *self.fan) * (1 + _RIM)
        low, high = line.min(axis=0) - reach, line.max(axis=0) + reach
        near = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
        found, nearest = cKDTree(line).query(points[near], distance_upper_bound=reach + _STEP)
        near, nearest = near[np.isfinite(found)], nearest[np.isfinite(found)]
        offset = np.asarray(points[near], dtype=np.float64) - line[nearest]
        along = (offset * tangent[nearest]).sum(axis=1)
        offset -= along[:, None] * tangent[nearest]
        way = dense[nearest] + along
        inside = np.clip(way, 0, length)
        wall = self.wall(inside)
        slope = (self.wall(np.minimum(inside + 0.1, length)) - self.wall(inside - 0.1)) / 0.2
        radius = np.linalg.norm(offset, axis=1) / wall
        weight = np.clip((1 + _RIM - radius) / (2 * _RIM), 0, 1)
        weight *= np.clip(np.minimum(way, length - way) / _CAP + 1, 0, 1)
        direction = tangent[nearest] + offset * (slope / wall)[:, None]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        kept = weight > 0
        return BundleField(
            near[kept],
            weight[kept].astype(np.float32),
            (inside[kept] / length).astype(np.float32),
            radius[kept].astype(np.float32),
            direction[kept],
        )


@dataclass(frozen=True)
class Course:
    """Anisotropy and diffusivity along one participant's bundle.

    Attributes
    ----------
    fa, md : float
        Away from the changes; md in mm2/s.
    changes : tuple of (centre, width, of anisotropy, of diffusivity)
        Gaussian changes that are added, by position from 0 to 1; diffusivity as a fraction.
    """

    fa: float
    md: float
    changes: tuple[tuple[float, float, float, float], ...]

    def at(self, position: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Evaluate anisotropy and mean diffusivity (mm2/s) at positions from 0 to 1.

        Examples
        --------
        >>> fa, md = Course(0.7, 8e-4, ((0.5, 0.1, -0.2, 0.25),)).at([0.0, 0.5])
        >>> fa.round(3).tolist(), (1e3 * md).round(3).tolist()
        ([0.7, 0.5], [0.8, 1.0])
        """
        place = np.asarray(position, dtype=np.float64)
        fa, md = np.full(place.shape, self.fa), np.ones(place.shape)
        for centre, width, anisotropy, diffusivity in self.changes:
            bell = np.exp(-(((place - centre) / width) ** 2) / 2)
            fa += anisotropy * bell
            md += diffusivity * bell
        return fa, self.md * md


def draw_course(bundle: Bundle, rng: np.random.Generator) -> Course:
    """Draw the course of anisotropy and diffusivity along one participant's bundle.

    Parameters
    ----------
    bundle : Bundle
    rng : numpy.random.Generator
    """
    first = (
        float(rng.uniform(0.32, 0.48)),
        float(rng.uniform(0.09, 0.13)),
        -bundle.dip * float(rng.uniform(0.8, 1.2)),
        float(rng.uniform(0.05, 0.12)),
    )
    second = (
        float(rng.uniform(0.62, 0.78)),
        float(rng.uniform(0.06, 0.10)),
        float(rng.uniform(0.03, 0.07)) * float(np.sign(bundle.dip)),
        float(rng.uniform(-0.06, -0.02)),
    )
    fa, md = bundle.fa + float(rng.normal(0, 0.015)), bundle.md * float(rng.normal(1, 0.015))
    return Course(fa, md, (first, second))


def _mirrored(bundle: Bundle) -> Bundle:
    """Mirror a bundle to the right side."""
    waypoints = tuple((-x, y, z) for x, y, z in bundle.waypoints)
    return replace(bundle, name=bundle.name.replace("Left", "Right"), waypoints=waypoints)


def _across(half: tuple[Point, ...]) -> tuple[Point, ...]:
    """Mirror waypoints from the left end to the midline on to the right end."""
    return (*half, *((-x, y, z) for x, y, z in half[-2::-1]))


_LEFT = (
    Bundle(
        "Left Corticospinal",
        (
            (-3.7, -36.5, -56.3), (-4.8, -30.7, -47.4), (-5.8, -25.8, -38.9),
            (-7.6, -21.8, -31.8), (-10.3, -18.6, -26.6), (-13.4, -17.1, -21.7),
            (-16.4, -17.5, -15.6), (-19.7, -17.4, -7.4), (-22.7, -16.7, 2.2),
            (-24.2, -16.8, 12.5), (-24.7, -18.2, 23.0), (-25.1, -20.5, 33.4),
            (-27.4, -22.5, 43.9), (-32.4, -22.4, 53.6),
        ),
        radius=5.0, fan=(4.0, 9.0), fa=0.74, md=7.2e-4, dip=0.20, through_grey=True,
    ),
    Bundle(
        "Left Arcuate",
        (
            (-40.8, 10.2, 17.7), (-38.0, 1.3, 22.7), (-36.3, -8.2, 27.1),
            (-35.4, -18.3, 29.0), (-35.2, -28.3, 29.0), (-36.0, -37.4, 26.1),
            (-37.4, -44.2, 20.3), (-38.7, -47.6, 12.8), (-40.4, -48.3, 5.0),
            (-42.7, -44.9, -2.8), (-45.7, -37.6, -9.0), (-49.3, -28.9, -13.9),
        ),
        radius=5.5, fan=(8.0, 7.0), fa=0.66, md=7.4e-4, dip=-0.14,
    ),
    Bundle(
        "Left Cingulum Cingulate",
        (
            (-12.9, -49.2, 13.9), (-11.8, -45.3, 23.9), (-11.0, -37.2, 30.9),
            (-9.9, -27.4, 34.0), (-9.1, -17.6, 34.3), (-9.0, -8.2, 33.6), (-9.1, 0.8, 31.9),
            (-9.5, 10.5, 29.3), (-10.0, 20.5, 25.8), (-10.4, 28.5, 21.0), (-10.4, 34.2, 14.5),
            (-9.7, 37.3, 5.6),
        ),
        radius=4.0, fan=(4.5, 5.0), fa=0.68, md=7.6e-4, dip=0.16,
    ),
    Bundle(
        "Left IFOF",
        (
            (-27.8, -78.7, 7.5), (-32.7, -68.9, 5.9), (-36.6, -58.7, 4.4), (-39.1, -48.1, 2.4),
            (-39.8, -37.4, -0.5), (-40.1, -27.3, -4.9), (-38.4, -17.9, -10.4),
            (-34.8, -7.8, -12.7), (-33.1, 2.7, -10.6), (-29.9, 12.1, -6.5),
            (-26.4, 18.5, -1.0), (-22.9, 26.5, 1.8), (-22.5, 36.6, 3.1), (-21.2, 47.4, 3.8),
        ),
        radius=5.0, fan=(9.0, 8.0), fa=0.70, md=7.8e-4, dip=0.18, through_grey=True,
    ),
    Bundle(
        "Left ILF",
        (
            (-22.4, -86.4, -0.8), (-29.2, -77.3, -1.1), (-34.0, -67.3, -3.2),
            (-36.8, -56.3, -4.1), (-40.4, -45.8, -5.9), (-42.9, -35.6, -9.9),
            (-43.8, -25.4, -13.8), (-43.8, -15.7, -17.7), (-42.6, -6.7, -23.3),
            (-39.7, 1.8, -30.2),
        ),
        radius=5.5, fan=(8.0, 7.0), fa=0.60, md=7.9e-4, dip=-0.14,
    ),
    Bundle(
        "Left Uncinate",
        (
            (-39.4, 1.6, -31.5), (-38.4, -3.1, -22.0), (-34.7, 0.4, -13.3), (-29.6, 8.0, -10.1),
            (-24.5, 13.5, -9.2), (-23.1, 20.7, -11.2), (-19.8, 29.8, -10.2),
            (-18.0, 40.0, -9.3),
        ),
        radius=5.0, fan=(7.0, 7.0), fa=0.58, md=8.0e-4, dip=0.14, through_grey=True,
    ),
)  # fmt: skip

_COMMISSURES = (
    Bundle(
        "Callosum Forceps Major",
        _across((
            (-18.0, -90.2, 6.8), (-23.5, -80.7, 9.9), (-26.8, -70.5, 12.3), (-27.5, -60.3, 14.3),
            (-24.9, -52.3, 17.7), (-21.2, -48.2, 19.8), (-15.0, -47.5, 20.8),
            (-8.1, -42.6, 18.7), (0.0, -37.3, 14.5),
        )),
        radius=5.5, fan=(8.0, 8.0), fa=0.76, md=7.6e-4, dip=0.20,
    ),
    Bundle(
        "Callosum Forceps Minor",
        _across((
            (-18.2, 54.9, 0.9), (-18.9, 46.2, 4.8), (-15.4, 37.6, 7.0), (-8.7, 30.7, 7.4),
            (0.0, 26.6, 7.3),
        )),
        radius=5.5, fan=(9.0, 9.0), fa=0.62, md=7.7e-4, dip=-0.16,
    ),
    Bundle(
        "Callosum SupFrontal",
        _across((
            (-28.8, 18.8, 46.1), (-22.5, 16.5, 38.7), (-16.4, 13.9, 31.3), (-9.2, 11.4, 25.1),
            (0.0, 9.8, 21.7),
        )),
        radius=5.5, fan=(9.0, 9.0), fa=0.72, md=7.4e-4, dip=0.18,
    ),
    Bundle(
        "Callosum Motor",
        _across((
            (-34.0, -19.7, 58.0), (-28.9, -18.3, 49.6), (-23.5, -16.1, 41.5),
            (-16.9, -12.8, 34.9), (-9.0, -9.5, 29.7), (0.0, -7.8, 25.8),
        )),
        radius=5.5, fan=(8.0, 8.0), fa=0.62, md=7.5e-4, dip=-0.14,
    ),
    Bundle(
        "Callosum SupParietal",
        _across((
            (-25.7, -49.9, 56.3), (-23.3, -46.5, 47.0), (-20.8, -41.5, 38.4),
            (-16.3, -35.8, 31.4), (-9.4, -31.3, 25.4), (0.0, -29.4, 22.1),
        )),
        radius=5.5, fan=(8.0, 8.0), fa=0.70, md=7.6e-4, dip=0.16,
    ),
)  # fmt: skip

#: Every bundle; the position in this order is its label, from 1.
BUNDLES: tuple[Bundle, ...] = (
    *(side for left in _LEFT for side in (left, _mirrored(left))),
    *_COMMISSURES,
)
