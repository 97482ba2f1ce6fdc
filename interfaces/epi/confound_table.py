"""Columns of a confound table: computing, writing and reading them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_lines

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
FD_THRESHOLD = 0.5
DVARS_THRESHOLD = 1.5

Column = NDArray[np.float64]


def expand(name: str, values: Column) -> dict[str, Column]:
    """Expand a signal by its temporal derivative and the squares of both.

    Examples
    --------
    >>> for column, values in expand("csf", np.array([1.0, 3.0])).items():
    ...     print(column, values)
    csf [1. 3.]
    csf_derivative1 [nan  2.]
    csf_power2 [1. 9.]
    csf_derivative1_power2 [nan  4.]
    """
    change = np.concatenate([[math.nan], np.diff(values)])
    return {
        name: values,
        f"{name}_derivative1": change,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": change**2,
    }


def spikes(volumes: Sequence[int], n_volumes: int, prefix: str) -> dict[str, Column]:
    """Build one spike regressor for each given volume: 1 there, 0 elsewhere.

    Examples
    --------
    >>> spikes([2], 3, "motion_outlier")
    {'motion_outlier00': array([0., 0., 1.])}
    """
    columns = {}
    for number, volume in enumerate(volumes):
        columns[f"{prefix}{number:02d}"] = np.zeros(n_volumes)
        columns[f"{prefix}{number:02d}"][volume] = 1.0
    return columns


def motion_outliers(
    fd: Column,
    std_dvars: Column,
    n_dummy: int,
    fd_threshold: float,
    dvars_threshold: float,
    unusable: Collection[int] = (),
) -> list[int]:
    """Choose volumes above either threshold, except unusable ones and those before steady state.

    The latter have their own columns, and duplicate columns would make a design singular.
    DVARS of the first steady-state volume is ignored, because it measures the difference from
    a volume before the steady state.
    """
    changed = np.nan_to_num(std_dvars) > dvars_threshold
    changed[: n_dummy + 1] = False
    beyond = (np.nan_to_num(fd) > fd_threshold) | changed
    beyond[:n_dummy] = False
    beyond[list(unusable)] = False
    return [int(volume) for volume in np.flatnonzero(beyond)]


def write_table(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns as tab-separated values with eight digits, ``n/a`` for NaN."""
    rows = (
        "\t".join("n/a" if math.isnan(v) else f"{v:.8g}" for v in values)
        for values in zip(*columns.values(), strict=True)
    )
    write_lines(path, chain(["\t".join(columns)], rows))


def read_table(path: str | Path) -> dict[str, Column]:
    """Read columns of numbers from tab-separated values; ``n/a`` becomes NaN.

    Raises
    ------
    InputError
        If the file is empty, its rows differ in length, or a cell is not a number.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    if not lines:
        raise InputError(f"{path} is empty.")
    names = lines[0].split("\t")
    try:
        rows = [
            [math.nan if cell == "n/a" else float(cell) for cell in line.split("\t")]
            for line in lines[1:]
        ]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    except ValueError as error:
        raise InputError(f"{path} is not a table of numbers ({error}).") from error
    return {name: table[:, n].copy() for n, name in enumerate(names)}


def motion_parameters(
    table: Mapping[str, Column], n_volumes: int, name: str
) -> NDArray[np.float64]:
    """Select the six motion parameters of a table, shape (T, 6).

    Raises
    ------
    InputError
        If one is missing, is not finite, or has another length than the series.
    """
    missing = [column for column in MOTION if column not in table]
    if missing:
        raise InputError(f"{name} lacks the motion parameters {', '.join(missing)}.")
    parameters = np.column_stack([table[column] for column in MOTION])
    if len(parameters) != n_volumes:
        raise InputError(
            f"{name} has {len(parameters)} rows, but the series has {n_volumes} volumes; "
            "estimate the head motion of this series again."
        )
    if not np.isfinite(parameters).all():
        raise InputError(f"{name} contains motion parameters that are not numbers.")
    return parameters
