"""Memory of each anatomical step, from the number of voxels.

Peak resident memory is that of Python and the libraries of the step, plus a number of bytes
per voxel of the image, plus arrays on grids of fixed size. The figures were measured on images
of 0.3 to 40 million voxels (``benchmarks/estimates.py``) and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Python with NumPy and nibabel alone; with SciPy, DIPY and the template.
LEAN_GB = 0.2
BASE_GB = 0.35
# Bytes held at once per voxel of the T1w image.
LOAD_BYTES = 8
AVERAGE_BYTES_PER_RUN = 30
BRAIN_BYTES = 12
BIAS_BYTES = 24
NORMALISE_BYTES = 8
SEGMENT_BYTES = 45
RESAMPLE_BYTES = 16
CARRY_BYTES = 30
# The search and SyN at 2 mm; SyN at 1 mm; a displacement field and tissue maps at 1 mm; what
# is carried, at 1 mm.
BRAIN_GB = 0.2
SYN_GB = 1.25
FIELD_GB = 0.4
STD_GB = 0.55
# Voxels of the template at 1 mm, which these were measured with.
TEMPLATE_VOXELS = 197 * 233 * 189


def n_voxels(shapes: Sequence[Sequence[int]]) -> int:
    """Count the voxels of the largest image.

    >>> n_voxels([(2, 3, 4), (3, 3, 3)])
    27
    """
    return max(math.prod(int(n) for n in shape[:3]) for shape in shapes)


def memory_gb(
    bytes_per_voxel: float, voxels: int, fixed_gb: float = 0.0, *, base_gb: float = BASE_GB
) -> float:
    """Estimate the peak memory of a step in GB.

    >>> memory_gb(24, 10_000_000, 1.6)
    2.19
    """
    return round(base_gb + bytes_per_voxel * voxels / 1e9 + fixed_gb, 3)


def average_gb(voxels: int, runs: int) -> float:
    """Estimate the peak memory of averaging the T1w images of a session in GB.

    >>> average_gb(10_000_000, 1)
    0.28
    >>> average_gb(10_000_000, 2)
    0.88
    """
    averaging = AVERAGE_BYTES_PER_RUN * runs if runs > 1 else 0
    return memory_gb(LOAD_BYTES + averaging, voxels, base_gb=LEAN_GB)


def syn_gb(voxels: int, *, sloppy: bool = False) -> float:
    """Estimate the peak memory of SyN on the grid of another template in GB.

    The memory for the T1w image comes on top. SyN runs in a box around the brain, so air costs
    little; the template, its mask and the two displacement fields are held on the whole grid.

    >>> syn_gb(TEMPLATE_VOXELS)
    1.35
    >>> syn_gb(2 * TEMPLATE_VOXELS)
    2.7
    """
    return round((0.4 if sloppy else SYN_GB + 0.1) * max(1.0, voxels / TEMPLATE_VOXELS), 3)
