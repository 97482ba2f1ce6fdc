"""How much memory each step of a DWI run takes, from the header of its series.

Peak resident memory is ``BASE_GB`` (Python and the libraries of the step), plus the bytes
that the step holds for each voxel of the whole series, plus what it holds besides.
"""

from __future__ import annotations

from neuroferry.bids.dwi import DwiRun

BASE_GB = 0.25
# Bytes held at once for each voxel of each volume.
DENOISE_BYTES = 10
UNRING_BYTES = 10
RICIAN_BYTES = 9
ORIENTATION_BYTES = 6
EDDY_BYTES = 12
BIAS_BYTES = 5
TENSOR_BYTES = 6
KURTOSIS_BYTES = 8
CSD_BYTES = 8
# Bytes for each voxel of a volume, for each thread.
RESAMPLE_BYTES = 120
PICTURE_BYTES = 60
PROFILE_BYTES = 24
# Beside the image.
EDDY_GB = 0.2
BIAS_GB = 0.3
TRACK_GB = 0.3
SEGMENT_GB = 0.8
T1W_BYTES = 12


def series_gb(bytes_per_value: float, run: DwiRun, fixed_gb: float = 0.0) -> float:
    """Memory of a step in GB, from what it holds of each value of a series."""
    return round(BASE_GB + bytes_per_value * run.n_voxels * run.n_volumes / 1e9 + fixed_gb, 3)


def volume_gb(bytes_per_voxel: float, run: DwiRun, fixed_gb: float = 0.0) -> float:
    """Memory of a step in GB, from what it holds of each voxel of one volume."""
    return round(BASE_GB + bytes_per_voxel * run.n_voxels / 1e9 + fixed_gb, 3)
