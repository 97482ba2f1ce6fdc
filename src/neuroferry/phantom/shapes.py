"""Signed distances (mm, negative inside) of the solids that make up a head.

Each function takes three coordinate arrays that broadcast together, so that a solid is
evaluated only in the box that holds it.

References
----------
Hart JC (1996). Sphere tracing: a geometric method for the antialiased ray tracing of
implicit surfaces. The Visual Computer 12, 527-545. doi:10.1007/s003710050084
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Axes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    Distance = Callable[[Axes], NDArray[np.float32]]
    Point = tuple[float, float, float]


class Solid:
    """Signed distance, and the box (mm) outside which it need not be evaluated."""

    def __init__(self, distance: Distance, low: Point, high: Point) -> None:
        self.distance = distance
        self.low = np.asarray(low, dtype=np.float64)
        self.high = np.asarray(high, dtype=np.float64)

    def scaled(self, factor: float, anchor: Point) -> Solid:
        """Shrink or grow the solid about a fixed point."""
        a = np.asarray(anchor, dtype=np.float64)

        def distance(axes: Axes) -> NDArray[np.float32]:
            x, y, z = (
                ((axis - np.float32(c)) / np.float32(factor) + np.float32(c)).astype(np.float32)
                for axis, c in zip(axes, a, strict=True)
            )
            return self.distance((x, y, z)) * np.float32(factor)

        low, high = a + (self.low - a) * factor, a + (self.high - a) * factor
        return Solid(distance, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def ellipsoid(centre: Point, radii: Point, *, pitch: float = 0.0) -> Solid:
    """Make an ellipsoid, rotated by `pitch` degrees about the left-right axis.

    The distance is exact to first order at the surface.

    Examples
    --------
    >>> ball = ellipsoid((0, 0, 0), (2, 2, 2))
    >>> [float(ball.distance((np.float32(r), np.float32(0), np.float32(0)))) for r in (2, 5)]
    [0.0, 3.0]
    """
    c, s = np.float32(np.cos(np.radians(pitch))), np.float32(np.sin(np.radians(pitch)))
    cx, cy, cz = (np.float32(v) for v in centre)
    rx, ry, rz = (np.float32(v) for v in radii)
    tiny, smallest = np.float32(1e-6), np.float32(min(radii))

    def distance(axes: Axes) -> NDArray[np.float32]:
        x, y, z = axes[0] - cx, axes[1] - cy, axes[2] - cz
        y, z = c * y + s * z, c * z - s * y
        k0 = np.sqrt((x / rx) ** 2 + (y / ry) ** 2 + (z / rz) ** 2)
        k1 = np.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2 + (z / rz**2) ** 2)
        # At the centre both vanish; their ratio stays between the radii.
        k0, k1 = np.maximum(k0, tiny * smallest), np.maximum(k1, tiny)
        result: NDArray[np.float32] = k0 * (k0 - 1) / k1
        return result

    reach = max(radii[1], radii[2]) if pitch else 0.0
    extent = (radii[0], max(radii[1], reach), max(radii[2], reach))
    return Solid(distance, _add(centre, extent, -1.0), _add(centre, extent, 1.0))


def capsule(start: Point, end: Point, radius: float, end_radius: float | None = None) -> Solid:
    """Make a rod with round ends from `start` to `end` whose radius changes linearly.

    Examples
    --------
    >>> rod = capsule((0, 0, 0), (0, 0, 10), 1)
    >>> float(rod.distance((np.float32(3), np.float32(0), np.float32(5))))
    2.0
    """
    a, b = np.asarray(start, dtype=np.float32), np.asarray(end, dtype=np.float32)
    axis = b - a
    length2 = np.float32(max(float(axis @ axis), 1e-6))
    r0, r1 = np.float32(radius), np.float32(radius if end_radius is None else end_radius)

    def distance(axes: Axes) -> NDArray[np.float32]:
        x, y, z = axes[0] - a[0], axes[1] - a[1], axes[2] - a[2]
        t = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) / length2, 0, 1)
        square = (x - t * axis[0]) ** 2 + (y - t * axis[1]) ** 2 + (z - t * axis[2]) ** 2
        result: NDArray[np.float32] = np.sqrt(square) - (r0 + t * (r1 - r0))
        return result

    r = float(max(r0, r1))
    low = (min(start[0], end[0]) - r, min(start[1], end[1]) - r, min(start[2], end[2]) - r)
    high = (max(start[0], end[0]) + r, max(start[1], end[1]) + r, max(start[2], end[2]) + r)
    return Solid(distance, low, high)


def smooth_union(
    a: NDArray[np.float32], b: NDArray[np.float32], width: float
) -> NDArray[np.float32]:
    """Join two signed distances with a rounded transition of `width` mm."""
    w = np.float32(width)
    blend = np.maximum(w - np.abs(a - b), 0) / w
    result: NDArray[np.float32] = np.minimum(a, b) - blend**2 * w * np.float32(0.25)
    return result


def coverage(distance: NDArray[np.float32], voxel: float) -> NDArray[np.float32]:
    """Compute the fraction of a voxel of size `voxel` mm that lies inside a surface.

    Exact for a plane that faces the voxel: partial volume without supersampling.

    Examples
    --------
    >>> coverage(np.array([-2, -0.25, 0, 3], np.float32), 1.0).tolist()
    [1.0, 0.75, 0.5, 0.0]
    """
    result: NDArray[np.float32] = np.clip(np.float32(0.5) - distance / np.float32(voxel), 0, 1)
    return result


def _add(point: Point, extent: Point, sign: float) -> Point:
    return (
        point[0] + sign * extent[0],
        point[1] + sign * extent[1],
        point[2] + sign * extent[2],
    )
