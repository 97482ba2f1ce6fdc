"""Volumes with motion, counted again above another threshold from the time series of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neuroferry.bids.tables import read_number, read_table
from neuroferry.errors import InputError
from neuroferry.judgement.rules import Rules
from neuroferry.judgement.tables import Scan, Scans

DEFAULT_THRESHOLD = 0.2
"""MRIQC's threshold of framewise displacement, in mm."""


def read_displacement(scan: Scan) -> list[float]:
    """Read the framewise displacement of a run, in mm, without the first volume's.

    Returns
    -------
    list of float
        One value for each pair of volumes; empty without a table or such a column.
    """
    if scan.series is None:
        return []
    try:
        table = read_table(scan.series)
    except InputError:
        return []
    if "framewise_displacement" not in table.columns:
        return []
    values = [read_number(cell) for _, cell in table.column("framewise_displacement")]
    return [value for value in values if value is not None and math.isfinite(value)]


def with_displacement(scan: Scan, values: Sequence[float], threshold: float) -> Scan:
    """Count the volumes whose displacement passes a threshold, as MRIQC counts them.

    Parameters
    ----------
    scan : Scan
        The run.
    values : sequence of float
        Its framewise displacement in mm, of N - 1 pairs of N volumes.
    threshold : float
        In mm; MRIQC's default is 0.2.

    Returns
    -------
    Scan
        With ``fd_num``, the number of values above the threshold, and ``fd_perc``, its percentage
        of N; unchanged without values.

    Examples
    --------
    >>> scan = Scan("sub-01_bold", "bold", {"fd_num": 3.0}, {})
    >>> with_displacement(scan, [0.1, 0.3, 0.6], 0.5).metrics
    {'fd_num': 1.0, 'fd_perc': 25.0}
    """
    if not values:
        return scan
    count = sum(value > threshold for value in values)
    metrics = {**scan.metrics, "fd_num": float(count), "fd_perc": 100 * count / (len(values) + 1)}
    return Scan(scan.name, scan.modality, metrics, scan.columns, scan.series, scan.md5sum)


def count_motion(scans: Scans, rules: Rules) -> Scans:
    """Count volumes with motion again, above the threshold of the rules, from the time series."""
    if rules.fd_threshold is None:
        return scans
    threshold = rules.fd_threshold
    counted = {
        modality: tuple(with_displacement(scan, read_displacement(scan), threshold) for scan in of)
        for modality, of in scans.of.items()
    }
    return Scans(counted, scans.notes)
