"""How much memory each anatomical step takes, from the number of voxels.

Peak resident memory is ``BASE_GB`` (Python and the libraries of the step), plus the
bytes that the step holds for each voxel of the image, plus what it holds on grids of fixed
size. The figures are measured (``benchmarks/anat.py``) and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BASE_GB = 0.35
# Bytes held at once for each voxel of the T1w image.
AVERAGE_BYTES = 24
AVERAGE_BYTES_PER_RUN = 8
BRAIN_BYTES = 20
BIAS_BYTES = 32
NORMALISE_BYTES = 24
SEGMENT_BYTES = 72
RESAMPLE_BYTES = 16
CARRY_BYTES = 40
# The search and SyN at 2 mm; SyN at 1 mm, and a pair of displacement fields at 1 mm.
BRAIN_GB = 0.45
SYN_GB = 1.6
FIELD_GB = 0.5


def n_voxels(shapes: Sequence[Sequence[int]]) -> int:
    """Voxels of the largest image.

    >>> n_voxels([(2, 3, 4), (3, 3, 3)])
    27
    """
    return max(math.prod(int(n) for n in shape[:3]) for shape in shapes)


def memory_gb(bytes_per_voxel: float, voxels: int, fixed_gb: float = 0.0) -> float:
    """Memory of a step in GB.

    >>> memory_gb(24, 10_000_000, 1.6)
    2.19
    """
    return round(BASE_GB + bytes_per_voxel * voxels / 1e9 + fixed_gb, 3)
