"""Diffusion gradients: b-values and directions, read from files and checked.

``.bval`` holds one b-value per volume (s/mm2), ``.bvec`` one direction per volume along the
voxel axes of the image (FSL's convention). Ambiguities are resolved in one place,
`settle_gradients`, so that the messages before processing match the processing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.tables import read_number
from neuroferry.errors import InputError
from neuroferry.files import read_input

#: Volumes up to this b-value count as b0, s/mm2.
B0_THRESHOLD = 50.0
#: Number of directions that a diffusion tensor needs.
MIN_DIRECTIONS = 6
#: b-values farther apart than this belong to different shells, s/mm2.
_SHELL_GAP = 100.0
#: Deviation of lengths from one that is due to rounding.
_UNIT_TOLERANCE = 0.01
#: Directions closer than this are the same, degrees.
_SAME_DIRECTION = 1.0
#: Smallest singular value of a tensor's design matrix relative to the largest; 0.6 for evenly
#: spread directions.
_SMALLEST_RATIO = 0.01
#: If even the largest b-value is below, the unit is not s/mm2.
_SMALLEST_B = 20.0

Floats = NDArray[np.float64]


class Shell(NamedTuple):
    """Volumes with similar b-values.

    Attributes
    ----------
    b : float
        Mean b-value, s/mm2, rounded to an integer; 0 for the b0 volumes.
    volumes : tuple of int
        Their indices, from 0.
    """

    b: float
    volumes: tuple[int, ...]

    @property
    def is_b0(self) -> bool:
        """Whether these are the b0 volumes."""
        return self.b == 0


def read_bvals(path: str | Path) -> Floats:
    """Read the b-values of a run, in one row or one column.

    Parameters
    ----------
    path : path
        ``.bval`` file.

    Returns
    -------
    ndarray of float64, shape (N,)
        s/mm2.

    Raises
    ------
    InputError
        If the file cannot be read, is not numeric, or is a table.
    """
    rows = _read_rows(Path(path))
    if len(rows) > 1 and any(len(row) != 1 for row in rows):
        raise InputError(
            f"{path} has {len(rows)} rows; a .bval file has one row of b-values: correct it"
        )
    return np.array([value for row in rows for value in row])


def read_bvecs(path: str | Path) -> tuple[Floats, list[str]]:
    """Read the directions of a run; three columns instead of three rows are transposed.

    Parameters
    ----------
    path : path
        ``.bvec`` file.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        As written: along voxel axes, not normalised.
    list of str
        Irregularities, in plain sentences.

    Raises
    ------
    InputError
        If the file cannot be read, is not numeric, or does not have three rows of equal length.
    """
    rows = _read_rows(Path(path))
    lengths = {len(row) for row in rows}
    if len(rows) == 3 and len(lengths) == 1:
        return np.array(rows).T, []
    if lengths == {3}:
        text = (
            f"{Path(path).name} has three columns instead of the three rows of FSL's format; it is"
            " read transposed: correct the file"
        )
        return np.array(rows), [text]
    shown = ", ".join(str(len(row)) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise InputError(
        f"{path} has {len(rows)} rows of {shown} numbers; a .bvec file has three rows with one"
        " number per volume: convert the images again"
    )


def _read_rows(path: Path) -> list[list[float]]:
    text = read_input(path).decode("utf-8-sig", errors="replace")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        row = [read_number(word) for word in line.replace(",", " ").split()]
        if None in row:
            raise InputError(
                f"{path} has a value that is not a number in line {number}; convert the images"
                " again"
            )
        if row:
            rows.append([value for value in row if value is not None])
    if not rows:
        raise InputError(f"{path} is empty; convert the images again")
    return rows


def settle_gradients(
    bvals: Floats, bvecs: Floats, b0_threshold: float = B0_THRESHOLD
) -> tuple[Floats, Floats, list[str]]:
    """Normalise directions and interpret b-values.

    Parameters
    ----------
    bvals : ndarray of float64, shape (N,)
        s/mm2, as written.
    bvecs : ndarray of float64, shape (M, 3)
        Directions, as written, in any axes.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    bvals : ndarray of float64, shape (N,)
        s/mm2.
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero for b0 volumes.
    list of str
        Changes, in plain sentences.

    Raises
    ------
    InputError
        If the numbers of b-values and directions differ, a required value is missing, or the
        b-values are in another unit.

    Notes
    -----
    Some scanners that accept one b-value per run produce others by shortening the gradient:
    all b-values in the file are the same, the longest direction has length 1, others are
    shorter, and the true b-value is the written one times the squared length. It is computed
    if all of that holds. Otherwise lengths carry no information and the directions are
    normalised: b-values that already differ need no second scaling.

    Examples
    --------
    >>> b, g, _ = settle_gradients(np.array([0.0, 2000, 2000]), np.diag([0, 1.0, 0.5**0.5]))
    >>> b.round(6).tolist(), g[2].tolist()
    ([0.0, 2000.0, 1000.0], [0.0, 0.0, 1.0])
    """
    if len(bvals) != len(bvecs):
        raise InputError(
            f"there are {len(bvals)} b-values and {len(bvecs)} directions, but each volume needs"
            " one of each: convert the images again"
        )
    check_bvals(bvals)
    weighted = bvals > b0_threshold
    if not np.isfinite(bvecs[weighted]).all():
        where = _volumes(weighted & ~np.isfinite(bvecs).all(axis=1))
        raise InputError(
            f"the direction of {where} is not a number; correct the .bvec file, or remove the"
            " volumes from the run"
        )
    lengths = np.where(weighted, np.linalg.norm(np.nan_to_num(bvecs), axis=1), 0.0)
    if (weighted & (lengths < 1e-3)).any():
        where = _volumes(weighted & (lengths < 1e-3))
        raise InputError(
            f"{where} is diffusion-weighted but has no direction, like the mean images that some"
            " scanners append to a run; remove it from image, .bval and .bvec"
        )
    unit = np.zeros((len(bvals), 3))
    unit[weighted] = bvecs[weighted] / lengths[weighted, None]
    settled, notes = _settle_lengths(bvals.astype(np.float64), lengths, weighted)
    unit[settled <= b0_threshold] = 0.0
    return settled, unit + 0.0, notes


def check_bvals(bvals: Floats) -> None:
    """Check that b-values are complete, and in s/mm2.

    Parameters
    ----------
    bvals : ndarray of float64, shape (N,)
        As written.

    Raises
    ------
    InputError
        If one is missing or negative, or all look like ms/um2.
    """
    if not np.isfinite(bvals).all() or (bvals < 0).any():
        where = _volumes(~np.isfinite(bvals) | (bvals < 0))
        raise InputError(f"the b-value of {where} is missing or negative; correct the .bval file")
    if 0 < bvals.max() < _SMALLEST_B and len(np.unique(bvals)) > 1:
        raise InputError(
            f"the largest b-value is {bvals.max():g}, which looks like ms/um2; write b-values in"
            f" s/mm2 ({1000 * bvals.max():g})"
        )


def _settle_lengths(
    bvals: Floats, lengths: Floats, weighted: NDArray[np.bool_]
) -> tuple[Floats, list[str]]:
    used = lengths[weighted]
    if not used.size or np.abs(used - 1).max() <= _UNIT_TOLERANCE:
        return bvals, []
    spread = f"the directions have lengths from {used.min():.3g} to {used.max():.3g}, not 1"
    one_shell = np.ptp(bvals[weighted]) <= _SHELL_GAP
    if one_shell and abs(used.max() - 1) <= _UNIT_TOLERANCE:
        text = (
            f"{spread}: scanners encode several b-values in this way, so each is taken as"
            f" {bvals[weighted].max():g} s/mm2 times the squared length; check the .bval file"
        )
        return np.where(weighted, bvals * lengths**2, bvals), [text]
    return bvals, [f"{spread}; they are normalised, and the b-values used as written"]


def _volumes(chosen: NDArray[np.bool_]) -> str:
    indices = np.flatnonzero(chosen)
    shown = ", ".join(str(index) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
    return f"volume {shown} (counted from 0)" if len(indices) == 1 else f"volumes {shown}"


def find_shells(
    bvals: Floats | Sequence[float], b0_threshold: float = B0_THRESHOLD
) -> tuple[Shell, ...]:
    """Group volumes with similar b-values into shells.

    Parameters
    ----------
    bvals : array of float64, shape (N,)
        s/mm2.
    b0_threshold : float
        Volumes up to this b-value form a shell of b = 0.

    Returns
    -------
    tuple of Shell
        Sorted by b-value, so b0 volumes come first. A new shell begins where two neighbouring
        b-values are more than 100 s/mm2 apart.

    Examples
    --------
    >>> find_shells([0, 995, 2000, 5, 1005])
    (Shell(b=0.0, volumes=(0, 3)), Shell(b=1000.0, volumes=(1, 4)), Shell(b=2000.0, volumes=(2,)))
    """
    values = np.asarray(bvals, dtype=np.float64)
    shells = []
    b0 = np.flatnonzero(values <= b0_threshold)
    if b0.size:
        shells.append(Shell(0.0, tuple(int(index) for index in b0)))
    order = np.argsort(values, kind="stable")[b0.size :]
    breaks = np.flatnonzero(np.diff(values[order]) > _SHELL_GAP) + 1
    for group in np.split(order, breaks):
        if group.size:
            mean = float(np.round(values[group].mean()))
            shells.append(Shell(mean, tuple(sorted(int(index) for index in group))))
    return tuple(shells)


def distinct_directions(bvecs: Floats) -> Floats:
    """Keep one of all directions that are the same or opposite, within 1 degree.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero vectors are skipped.

    Returns
    -------
    ndarray of float64, shape (M, 3)
        In the order of their first appearance.

    Examples
    --------
    >>> len(distinct_directions(np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1.0, 0]])))
    2
    """
    least = np.cos(np.deg2rad(_SAME_DIRECTION))
    kept: list[Floats] = []
    for vector in bvecs[np.linalg.norm(bvecs, axis=1) > 0.5]:
        if not kept or np.abs(np.array(kept) @ vector).max() < least:
            kept.append(vector)
    return np.array(kept).reshape(-1, 3)


def determine_tensor(bvecs: Floats) -> bool:
    """Check whether directions determine a diffusion tensor.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero vectors are skipped.

    Returns
    -------
    bool
        False for fewer than six distinct directions, and for directions in a plane or on a
        cone, which leave some of the tensor's six elements undetermined.

    Examples
    --------
    >>> turn = np.linspace(0, np.pi, 12, endpoint=False)
    >>> determine_tensor(np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1))
    False
    """
    x, y, z = distinct_directions(bvecs).T
    if x.size < MIN_DIRECTIONS:
        return False
    root = np.sqrt(2.0)
    design = np.stack([x * x, y * y, z * z, root * x * y, root * x * z, root * y * z], axis=1)
    values = np.linalg.svd(design, compute_uv=False)
    return bool(values[-1] > _SMALLEST_RATIO * values[0])
