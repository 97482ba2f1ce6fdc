"""How much memory each step of a BOLD run takes, from the header of its series.

Peak resident memory is ``BASE_GB`` (Python and the libraries of the step), plus the bytes
that the step holds for each voxel of one volume, plus what it holds for each value of the
part of the series that it keeps. The figures are measured (``benchmarks/func.py``) and
rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BASE_GB = 0.35
# Bytes held at once for each voxel of one volume.
REFERENCE_BYTES = 400
MOTION_BYTES = 400
COREGISTER_BYTES = 60
MASK_BYTES = 60
RESAMPLE_BYTES = 120
T2STAR_BYTES = 120
# A displacement field at 1 mm, and its reading.
FIELD_GB = 0.3


def volume_voxels(shape: Sequence[int]) -> int:
    """Voxels of one volume.

    >>> volume_voxels((2, 3, 4, 100))
    24
    """
    return math.prod(int(n) for n in shape[:3])


def memory_gb(bytes_per_voxel: float, voxels: int, fixed_gb: float = 0.0) -> float:
    """Memory of a step in GB.

    >>> memory_gb(400, 1_000_000)
    0.75
    """
    return round(BASE_GB + bytes_per_voxel * voxels / 1e9 + fixed_gb, 3)
