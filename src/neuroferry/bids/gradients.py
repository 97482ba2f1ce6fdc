"""Diffusion gradients as files hold them: b-values and directions, read and settled.

``.bval`` holds one b-value a volume (s/mm2), ``.bvec`` one direction a volume in the axes of
the image's voxels (FSL's convention). What is unclear in them is settled in one place,
`settle_gradients`, so that what is said before a run is what the run does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError

#: Volumes up to this b-value count as not diffusion-weighted, s/mm2.
B0_THRESHOLD = 50.0
#: Directions that a diffusion tensor takes.
MIN_DIRECTIONS = 6
#: b-values farther apart than this belong to different shells, s/mm2.
_SHELL_GAP = 100.0
#: Lengths of directions that are one but for the digits they were written with.
_UNIT_TOLERANCE = 0.01
#: Directions nearer than this are one direction, degrees.
_SAME_DIRECTION = 1.0
#: Smallest singular value of a tensor's design beside the largest; 0.6 where directions are
#: spread evenly.
_SMALLEST_RATIO = 0.01
#: Where even the largest b-value is below, the unit is not s/mm2.
_SMALLEST_B = 20.0

Floats = NDArray[np.float64]


class Shell(NamedTuple):
    """Volumes of about one b-value.

    Attributes
    ----------
    b : float
        Mean b-value, s/mm2, to the nearest whole number; 0 for the volumes that count as b0.
    volumes : tuple of int
        Their indices, from 0.
    """

    b: float
    volumes: tuple[int, ...]

    @property
    def is_b0(self) -> bool:
        """Whether these are the volumes that are not diffusion-weighted."""
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
        If the file cannot be read, holds other than numbers, or a table.
    """
    rows = _read_rows(Path(path))
    if len(rows) > 1 and any(len(row) != 1 for row in rows):
        raise InputError(
            f"{path} has {len(rows)} rows; a .bval file has one row of b-values: correct it"
        )
    return np.array([value for row in rows for value in row])


def read_bvecs(path: str | Path) -> tuple[Floats, list[str]]:
    """Read the directions of a run; three columns instead of three rows are turned.

    Parameters
    ----------
    path : path
        ``.bvec`` file.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        As they are written: voxel axes, not normalised.
    list of str
        What is odd, in plain sentences.

    Raises
    ------
    InputError
        If the file cannot be read, holds other than numbers, or no three rows of one length.
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
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; make the file readable"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise InputError(
                f"line {number} of {path} contains more than numbers; convert the images again"
            ) from error
        if row:
            rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty; convert the images again")
    return rows


def settle_gradients(
    bvals: Floats, bvecs: Floats, b0_threshold: float = B0_THRESHOLD
) -> tuple[Floats, Floats, list[str]]:
    """Give directions unit length and b-values their meaning.

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
        Unit vectors; zero for volumes that are not diffusion-weighted.
    list of str
        What was changed, in plain sentences.

    Raises
    ------
    InputError
        If the numbers differ, a value is missing where it is needed, or the b-values are in
        another unit.

    Notes
    -----
    Some scanners that take one b-value a run make others by shortening the gradient: all
    b-values are the same in the file, the longest direction has length 1, others are
    shorter, and the true b-value is the written one times the squared length. It is
    computed where all of that holds. Otherwise lengths mean nothing, and only the
    directions are kept: b-values that already differ need no second scaling.

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
    """Check that b-values are there, and in s/mm2.

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
    """Gather volumes of about one b-value.

    Parameters
    ----------
    bvals : array of float64, shape (N,)
        s/mm2.
    b0_threshold : float
        Volumes up to this b-value form a shell of b = 0.

    Returns
    -------
    tuple of Shell
        The smallest b-value first, so the b0 volumes come first where there are some. A new
        shell begins where two neighbouring b-values are more than 100 s/mm2 apart.

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
    """Keep one of the directions that are alike or opposite, within 1 degree.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero vectors are left out.

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
    """Tell whether directions are enough, and spread enough, for a diffusion tensor.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors; zero vectors are left out.

    Returns
    -------
    bool
        False for fewer than six distinct directions, and for directions in a plane or on a
        cone, which leave some of the tensor's six elements unknown.

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
