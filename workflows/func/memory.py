"""Memory of each step of a BOLD run, from the header of its series.

Peak resident memory is ``BASE_GB`` (Python and the libraries of the step), plus a number of
bytes per voxel of one volume, plus arrays on grids of fixed size. No step holds a series, so
the number of volumes does not matter. The figures were measured (``benchmarks/func.py``) and
rounded up.
"""

from __future__ import annotations

import math

from neuroferry.bids.bold import BoldRun
from neuroferry.interfaces.func.reference import REFERENCE_VOLUMES
from neuroferry.selection.spaces import BoldSpace
from neuroferry.workflows.memory import (
    CHUNK_BYTES,
    CHUNK_POINTS,
    memory_gb,
    volume_voxels,
)

# Bytes held at once per voxel of one volume of the series, ...
REFERENCE_BYTES = 190
# (and of each volume that is averaged)
REFERENCE_VOLUME_BYTES = 7
MOTION_BYTES = 100
MASK_BYTES = 60
T2STAR_BYTES = 120
# ... and of the T1w image.
COREGISTER_BYTES = 20
T1W_MASK_BYTES = 9
T1W_GRID_BYTES = 9
# Slice timing keeps a ring of volumes; each thread a volume and its spline coefficients.
RING_BYTES = 44
THREAD_BYTES = 16
MOTION_THREAD_BYTES = 50
# Per voxel of the target: its source coordinates, and its value.
TARGET_BYTES = 60
# The transform to template space is a displacement field at 1 mm (0.1 GB), read in slabs, while a
# series is resampled, or a mask, with other arrays at their largest then.
FIELD_GB = 0.08
MASK_FIELD_GB = 0.14
# Reading the template, unless the run has read it already; resampling a mask, per voxel of the
# target and per point that is resampled at a time.
TEMPLATE_GB = 0.22
CARRY_BYTES = 10
CARRY_CHUNK_BYTES = 50
# Registration to the T1w image takes most on grids of its own, or else for the T1w image, its mask
# and its white matter, whole and one of them blurred (40 million voxels: 1.0 GB). The position
# that is found depends on the whole head, so that a part of it would be another registration.
COREGISTER_LEAST_GB = 0.37
COREGISTER_GB = 0.1
TEMPLATE_MM3 = 197.0 * 233.0 * 189.0


def target_voxels(run: BoldRun, space: BoldSpace, t1w_volume_mm3: float) -> float:
    """Count the voxels of the grid that a run is resampled onto."""
    if space.is_native:
        return volume_voxels(run.shape)
    if space.grid is not None:
        return space.grid.voxels
    if space.resolution is None:
        return t1w_volume_mm3 / math.prod(run.zooms)
    return TEMPLATE_MM3 / float(space.resolution**3)


def reference_gb(run: BoldRun) -> float:
    """Estimate the peak memory of averaging the reference of a run in GB."""
    held = REFERENCE_VOLUME_BYTES * min(run.n_volumes, REFERENCE_VOLUMES)
    return memory_gb(REFERENCE_BYTES + held, volume_voxels(run.shape))


def coregister_gb(t1w_voxels: int) -> float:
    """Estimate the peak memory of registering an EPI to the T1w image in GB.

    >>> coregister_gb(1_000_000), coregister_gb(20_000_000)
    (0.37, 0.65)
    """
    return max(COREGISTER_LEAST_GB, memory_gb(COREGISTER_BYTES, t1w_voxels, COREGISTER_GB))


def carry_mask_gb(target: float, *, with_field: bool) -> float:
    """Estimate the peak memory of resampling a mask onto a grid of some voxels in GB.

    >>> carry_mask_gb(1_000_000, with_field=False)
    0.21
    """
    fixed = CARRY_CHUNK_BYTES * min(target, CHUNK_POINTS) / 1e9
    return memory_gb(CARRY_BYTES, target, fixed + (MASK_FIELD_GB if with_field else 0.0))


def resample_gb(run: BoldRun, target: float, n_threads: int, *, with_field: bool) -> float:
    """Estimate the peak memory of resampling a run in GB."""
    per_voxel = len(run.echoes) * (THREAD_BYTES * (n_threads + 1))
    if run.slice_times:
        per_voxel += len(run.echoes) * RING_BYTES
    chunk = CHUNK_BYTES * n_threads * min(target, CHUNK_POINTS) / 1e9
    fixed = chunk + (FIELD_GB if with_field else 0.0)
    source = per_voxel * volume_voxels(run.shape) / 1e9
    return memory_gb(TARGET_BYTES, target, fixed + source)
