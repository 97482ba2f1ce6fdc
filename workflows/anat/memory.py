"""Memory of each anatomical step, from the number of voxels.

Peak resident memory is that of Python and the libraries of the step, plus a number of bytes
per voxel of the image, plus arrays on grids of fixed size. The figures were measured on images
of 0.3 to 40 million voxels (``benchmarks/estimates.py``) and rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Python with NumPy and nibabel alone; with SciPy; with DIPY and the template; and with what a step
# holds whatever the image: N4's coarse grid, the template's priors, regions of quality metrics.
LOAD_GB = 0.125
AVERAGE_GB = 0.175
LEAN_GB = 0.2
BASE_GB = 0.35
BIAS_GB = 0.265
SLOPPY_BIAS_GB = 0.14
SEGMENT_GB = 0.28
METRICS_GB = 0.5
# Bytes held at once per voxel of the T1w image.
LOAD_BYTES = 13
AVERAGE_BYTES_PER_RUN = 30
BRAIN_BYTES = 22
BIAS_BYTES = 20
NORMALISE_BYTES = 21
SEGMENT_BYTES = 63
SLOPPY_SEGMENT_BYTES = 48
METRICS_BYTES = 41
RESAMPLE_BYTES = 15
TISSUE_BYTES = 24
CARRY_BYTES = 30
# Per voxel of a T2w image, and of the T1w image, while the former is registered, and resampled.
REGISTER_T2W_BYTES, REGISTER_T1W_BYTES = 50, 20
PLACE_T2W_BYTES, PLACE_T1W_BYTES = 24, 12
T2W_PICTURE_BYTES = 14
# The search and SyN at 2 mm; SyN at 1 mm; a displacement field and tissue maps at 1 mm; what
# is carried, at 1 mm.
BRAIN_GB = 0.04
SLOPPY_BRAIN_GB = -0.11
SYN_GB = 1.05
SLOPPY_SYN_GB = -0.16
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
    0.255
    >>> average_gb(10_000_000, 2)
    0.905
    """
    if runs == 1:
        return memory_gb(LOAD_BYTES, voxels, base_gb=LOAD_GB)
    return memory_gb(LOAD_BYTES + AVERAGE_BYTES_PER_RUN * runs, voxels, base_gb=AVERAGE_GB)


def register_t2w_gb(t2w_voxels: int, t1w_voxels: int) -> float:
    """Estimate the peak memory of registering a T2w image to the T1w image in GB.

    >>> register_t2w_gb(10_000_000, 10_000_000)
    1.05
    """
    held = REGISTER_T1W_BYTES * t1w_voxels / 1e9
    return memory_gb(REGISTER_T2W_BYTES, t2w_voxels, held)


def place_t2w_gb(t2w_voxels: int, t1w_voxels: int) -> float:
    """Estimate the peak memory of resampling a T2w image onto the T1w image in GB.

    >>> place_t2w_gb(10_000_000, 10_000_000)
    0.625
    """
    held = PLACE_T1W_BYTES * t1w_voxels / 1e9
    return memory_gb(PLACE_T2W_BYTES, t2w_voxels, held, base_gb=BIAS_GB)


def t2w_picture_gb(t1w_voxels: int) -> float:
    """Estimate the peak memory of drawing a T2w image on the T1w image in GB.

    >>> t2w_picture_gb(10_000_000)
    0.34
    """
    return memory_gb(T2W_PICTURE_BYTES, t1w_voxels, base_gb=LEAN_GB)


def syn_gb(voxels: int, *, sloppy: bool = False) -> float:
    """Estimate the peak memory of SyN on the grid of another template in GB.

    The memory for the T1w image comes on top. SyN runs in a box around the brain, so air costs
    little; the template, its mask and the two displacement fields are held on the whole grid.

    >>> syn_gb(TEMPLATE_VOXELS)
    1.35
    >>> syn_gb(2 * TEMPLATE_VOXELS)
    2.7
    """
    return round((0.4 if sloppy else SYN_GB + 0.3) * max(1.0, voxels / TEMPLATE_VOXELS), 3)
