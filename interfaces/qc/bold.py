"""Quality metrics of a BOLD series, named as in MRIQC: the values, their table, and why some lack.

A metric that is undefined for a series is null, with the reason beside it; no placeholder value is
written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuroferry.interfaces.qc.bold_time import MIN_OUTLIER_VOLUMES, Column
from neuroferry.interfaces.qc.regions import NAN

FD_THRESHOLD = 0.2
"""Framewise displacement above which a volume counts, mm."""
FD_RADIUS = 50.0
"""Radius of the sphere on which rotations are measured, mm."""

BRAIN_METRICS = ("aor", "dvars_", "fber", "fwhm_", "gcor", "gsr_", "snr", "summary_", "tsnr")
"""Name prefixes of the metrics that need a brain mask."""
MOTION_METRICS = ("fd_",)
CHANGE_METRICS = ("aqi", "dvars_", "fd_", "gcor", "tsnr")
"""Name prefixes of the metrics that need at least two volumes."""

ABOUT_COLUMNS: dict[str, dict[str, str]] = {
    **{
        f"trans_{axis}": {
            "LongName": f"Translation along {axis}",
            "Description": "Estimated head position, in the convention of FSL",
            "Units": "mm",
        }
        for axis in "xyz"
    },
    **{
        f"rot_{axis}": {
            "LongName": f"Rotation around {axis}",
            "Description": "Estimated head position, in the convention of FSL",
            "Units": "rad",
        }
        for axis in "xyz"
    },
    "dvars_std": {
        "LongName": "Standardised DVARS",
        "Description": "DVARS divided by the value expected of noise (Nichols 2013)",
    },
    "dvars_nstd": {
        "LongName": "DVARS",
        "Description": "Root mean square change from the last measured volume over the voxels of "
        "the brain, whose median is scaled to 1000 (Power et al. 2012)",
    },
    "dvars_vstd": {
        "LongName": "Voxelwise standardised DVARS",
        "Description": "As DVARS, each voxel divided by the standard deviation that is expected "
        "of its changes (Nichols 2013)",
    },
    "framewise_displacement": {
        "LongName": "Framewise displacement",
        "Description": "Sum of the absolute changes of the six motion parameters, rotations as "
        "arcs on a sphere of 50 mm (Power et al. 2012)",
        "Units": "mm",
    },
    "aqi": {
        "LongName": "AFNI's quality index",
        "Description": "One minus the rank correlation with the median volume, as 3dTqual",
    },
    "aor": {
        "LongName": "AFNI's outlier ratio",
        "Description": "Fraction of the voxels of the brain that are outliers in their time "
        "series, as 3dToutcount",
    },
    "global_signal": {
        "LongName": "Global signal",
        "Description": "Mean of the brain",
        "Units": "arbitrary",
    },
}
"""Columns of the table of a series. Those before ``global_signal`` are MRIQC's."""


@dataclass(frozen=True)
class Given:
    """What is known about a series apart from its images.

    Attributes
    ----------
    tr : float
        Repetition time, s.
    n_volumes : int
        Number of volumes.
    n_dummy : int
        Volumes at the start before steady state: not measured.
    unusable : frozenset of int
        Volumes without an image: not measured.
    problems : mapping of str to str
        Why there is no ``motion`` or no ``brain``, in a sentence.
    """

    tr: float
    n_volumes: int
    n_dummy: int = 0
    unusable: frozenset[int] = frozenset()
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> list[int]:
        """The volumes that are measured."""
        kept = [t for t in range(self.n_volumes) if t not in self.unusable]
        return [t for t in kept if t >= self.n_dummy] or kept

    def spread(self, values: Column) -> Column:
        """Give every volume a row: ``nan`` where it is not measured."""
        column = np.full(self.n_volumes, NAN)
        column[self.measured] = values
        return column


def displacement_metrics(fd: Column, threshold: float = FD_THRESHOLD) -> dict[str, float]:
    """Summarise framewise displacement.

    Parameters
    ----------
    fd : ndarray of float64, shape (T,)
        Of the measured volumes, mm; the first is ``nan``.
    threshold : float
        mm.

    Returns
    -------
    dict of str to float
        ``fd_mean``, and number and percentage (of all volumes) above the threshold.

    Examples
    --------
    >>> displacement_metrics(np.array([np.nan, 0.1, 0.3, 0.1, 0.3]))
    {'fd_mean': 0.2, 'fd_num': 2, 'fd_perc': 40.0}
    """
    known = fd[np.isfinite(fd)]
    if not known.size:
        return {"fd_mean": NAN, "fd_num": NAN, "fd_perc": NAN}
    above = int(np.count_nonzero(known > threshold))
    return {
        "fd_mean": float(known.mean()),
        "fd_num": above,
        "fd_perc": 100.0 * above / fd.size,
    }


def mean_of(values: Column) -> float:
    """Average the volumes that have a value; ``nan`` if none has.

    Examples
    --------
    >>> mean_of(np.array([np.nan, 1.0, 3.0]))
    2.0
    """
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else NAN


def explain_undefined(values: Mapping[str, float], given: Given) -> dict[str, str]:
    """Explain in a sentence why each ``nan`` metric is undefined.

    Parameters
    ----------
    values : mapping of str to float
        Metrics.
    given : Given
        About the series.

    Returns
    -------
    dict of str to str
        For the metrics that are not finite.
    """
    count = len(given.measured)
    reasons = {}
    for metric, value in values.items():
        if math.isfinite(value):
            continue
        if metric.startswith(MOTION_METRICS) and "motion" in given.problems:
            reasons[metric] = f"Head motion could not be estimated. {given.problems['motion']}"
        elif metric.startswith(BRAIN_METRICS) and "brain" in given.problems:
            reasons[metric] = f"No brain mask. {given.problems['brain']}"
        elif count < 2 and metric.startswith(CHANGE_METRICS):
            reasons[metric] = f"The series has {count} volume at steady state; two are needed."
        elif count < MIN_OUTLIER_VOLUMES and metric == "aor":
            reasons[metric] = (
                f"The series has {count} volumes at steady state; outliers need "
                f"{MIN_OUTLIER_VOLUMES}."
            )
        elif metric == "fber":
            reasons[metric] = "The background is empty: it was set to zero around the head."
        elif metric.startswith("gsr_"):
            reasons[metric] = "The brain fills the field of view: there is no ghost beside it."
        elif metric.startswith("fwhm_"):
            reasons[metric] = "The mean image is rougher than white noise, or too thin."
        else:
            reasons[metric] = "The image does not vary in the region of this metric."
    return reasons


def about_columns(tr: float) -> dict[str, Any]:
    """Describe the table of a series, whose rows are a repetition time (s) apart.

    Examples
    --------
    >>> about_columns(2.5)["SamplingFrequency"]
    0.4
    """
    return {"SamplingFrequency": round(1 / tr, 9), "StartTime": 0.0, **ABOUT_COLUMNS}
