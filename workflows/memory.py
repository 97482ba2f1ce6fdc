"""Peak memory of steps, from the size of the images that they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

BASE_GB = 0.15

# Of each point, while a series is resampled.
CHUNK_BYTES = 80
# Points that one thread resamples at a time.
CHUNK_POINTS = 1_000_000


def volume_voxels(shape: Sequence[int]) -> int:
    """Count the voxels of one volume.

    >>> volume_voxels((2, 3, 4, 100))
    24
    """
    return math.prod(int(n) for n in shape[:3])


def memory_gb(bytes_per_voxel: float, voxels: float, fixed_gb: float = 0.0) -> float:
    """Estimate the peak memory of a step in GB.

    >>> memory_gb(400, 1_000_000)
    0.55
    """
    return round(BASE_GB + bytes_per_voxel * voxels / 1e9 + fixed_gb, 3)
