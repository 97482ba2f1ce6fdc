"""Memory of each step of a DWI run, from the header of its series.

Peak resident memory is ``BASE_GB`` (Python and the libraries of the step), plus a number of
bytes per value of the series or per voxel of one volume, plus what the step holds besides. The
figures were measured and rounded up.
"""

from __future__ import annotations

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi.models import order_for
from neuroferry.workflows.memory import CHUNK_BYTES, CHUNK_POINTS

BASE_GB = 0.15
# Bytes held at once per value of the series.
DENOISE_BYTES = 4.5
UNRING_BYTES = 8
ORIENTATION_BYTES = 3
EDDY_BYTES = 3
REPLACE_BYTES = 2
# Bytes per voxel of one volume, ...
RICIAN_BYTES = 60
BIAS_BYTES = 60
JOIN_BYTES = 40
REFERENCE_BYTES = 4
TENSOR_BYTES = 35
KURTOSIS_BYTES = 50
PICTURE_BYTES = 20
MODEL_PICTURE_BYTES = 60
PROFILE_BYTES = 40
RESAMPLE_BYTES = 75
REPLACE_VOXEL_BYTES = 60
# (onto another grid: of the source, and of the target)
SOURCE_BYTES = 20
TARGET_BYTES = 60
# ... and of the T1w image.
T1W_BYTES = 12
# Per thread: bytes per voxel, and GB.
EDDY_THREAD_BYTES = 55
REPLACE_THREAD_BYTES = 100
DENOISE_THREAD_GB = 0.03
# (at most; per value of a small series)
DENOISE_THREAD_BYTES = 4
TENSOR_GB = 0.01
KURTOSIS_GB = 0.025
TRACK_GB = 0.025
# (per value of the image that is tracked: the series, or the fibre orientations)
TRACK_BYTES = 5.5
TRACK_FOD_BYTES = 4
# The transform to template space, a displacement field at 1 mm, that bundles are found with.
FIELD_GB = 0.1
# Besides the image, and per streamline requested, over all bundles.
SEGMENT_GB = 0.06
STREAMLINE_GB = 0.0000122
# Plots and their fonts; mosaics of slices.
CHART_GB = 0.1
PICTURE_GB = 0.05
# Libraries that only the estimation of eddy currents loads.
EDDY_GB = 0.08


def series_gb(bytes_per_value: float, run: DwiRun, fixed_gb: float = 0.0) -> float:
    """Estimate the peak memory of a step in GB, from its bytes per value of a series."""
    return volume_gb(bytes_per_value * run.n_volumes, run, fixed_gb)


def volume_gb(bytes_per_voxel: float, run: DwiRun, fixed_gb: float = 0.0) -> float:
    """Estimate the peak memory of a step in GB, from its bytes per voxel of one volume."""
    return grid_gb(bytes_per_voxel, run.n_voxels, fixed_gb)


def grid_gb(bytes_per_voxel: float, voxels: float, fixed_gb: float = 0.0) -> float:
    """Estimate the peak memory of a step in GB, from its bytes per voxel of the output grid.

    >>> grid_gb(100, 1_000_000)
    0.25
    """
    return round(BASE_GB + bytes_per_voxel * voxels / 1e9 + fixed_gb, 3)


def denoise_gb(run: DwiRun, n_threads: int) -> float:
    """Estimate the peak memory of denoising in GB."""
    thread = min(DENOISE_THREAD_GB, DENOISE_THREAD_BYTES * run.n_volumes * run.n_voxels / 1e9)
    return series_gb(DENOISE_BYTES, run, thread * n_threads)


def eddy_gb(run: DwiRun, n_threads: int) -> float:
    """Estimate the peak memory of estimating head motion and eddy currents in GB."""
    threads = EDDY_THREAD_BYTES * n_threads * run.n_voxels / 1e9
    return series_gb(EDDY_BYTES, run, EDDY_GB + threads)


def replace_gb(run: DwiRun, n_threads: int) -> float:
    """Estimate the peak memory of replacing slices in GB, however many there are."""
    per_voxel = REPLACE_VOXEL_BYTES + REPLACE_THREAD_BYTES * n_threads
    return series_gb(REPLACE_BYTES, run, per_voxel * run.n_voxels / 1e9)


def resample_t1w_gb(run: DwiRun, voxels: float, n_threads: int) -> float:
    """Estimate the peak memory of resampling a run into the space of the T1w image in GB."""
    source = SOURCE_BYTES * (n_threads + 1) * run.n_voxels
    chunk = CHUNK_BYTES * n_threads * min(voxels, CHUNK_POINTS)
    return grid_gb(TARGET_BYTES, voxels, (source + chunk) / 1e9)


def track_gb(run: DwiRun, n_threads: int, *, with_fod: bool) -> float:
    """Estimate the peak memory of tracking in GB: each thread is a process with all data."""
    held = TRACK_FOD_BYTES * _coefficients(run) if with_fod else TRACK_BYTES * run.n_volumes
    return volume_gb(held * n_threads, run, FIELD_GB + TRACK_GB * n_threads)


def _coefficients(run: DwiRun) -> int:
    """Count the spherical harmonics of the fibre orientations of a run."""
    order = order_for(run.n_directions)
    return (order + 1) * (order + 2) // 2


def csd_gb(run: DwiRun) -> float:
    """Estimate the peak memory of CSD in GB: of Python or ``dwi2fod``, whichever takes more."""
    coefficients = _coefficients(run) + 2
    return volume_gb(max(80 + 4 * coefficients, 7 * (run.n_volumes + coefficients)), run)


def segment_bundles_gb(run: DwiRun, streamlines: int) -> float:
    """Estimate the peak memory of sorting streamlines into bundles in GB.

    Parameters
    ----------
    run : DwiRun
        Run, for its grid.
    streamlines : int
        Streamlines requested, over all bundles.
    """
    return volume_gb(0, run, FIELD_GB + SEGMENT_GB + STREAMLINE_GB * streamlines)
