"""Slices of diffusion-weighted volumes that lost signal, as the head moved during their turn.

A slice is compared with what its volume was predicted to be, where the volume shows it: the
signal of all its voxels together, so that noise hardly counts. What a slice or a volume
always has (its distance from the coil, the drift of the scanner) is taken off; the rest, in
robust standard deviations, tells the odd ones.

A slice without its signal also spoils the predictions that are made of it: others seem too
bright then. With ``l`` the logarithm of what the volumes lost in one slice and ``P`` the
combination that predicts each from the others, what is seen is ``(I - P) l``; the odd slices
are looked for one after the other in these terms, the one that explains most first.

References
----------
.. [1] Andersson JLR et al. (2016). Incorporating outlier detection and replacement into a
   non-parametric framework for movement and distortion correction of diffusion MR images.
   NeuroImage 141:556-572. doi:10.1016/j.neuroimage.2016.06.058
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_lines
from neuroferry.interfaces.epi.realign import MAD_TO_SIGMA
from neuroferry.interfaces.image.images import Affine, FloatArray, inverse

OUTLIER_SIGMAS = 4.0
# A slice that lost less than this share of its signal is none, however quiet the others are.
LEAST_LOSS = 0.05
LEAST_LOSS_LOG = math.log(1 - LEAST_LOSS)
LEAST_SIGNAL = 0.02
# A volume lost most of its slices if it is that much darker than the others, and that share of
# its slices at least are brighter than its usual one.
BRIGHT_SHARE = 0.85
MOST_LOST = -math.log(1 - 0.2)
MIN_SLICE_VOXELS = 60
MIN_VOLUMES = 5
# What choosing and fitting a loss takes of the volumes that tell the noise.
SPENT_VOLUMES = 4

Floats = NDArray[np.float64]


def slice_losses(
    prediction: FloatArray,
    mask: NDArray[np.bool_],
    data: FloatArray,
    affine: Affine,
    matrix: Affine,
    slice_axis: int = 2,
) -> tuple[Floats, NDArray[np.int64]]:
    """Compare each slice of a volume with its prediction.

    Parameters
    ----------
    prediction : ndarray of float32, shape (I, J, K)
        What the volume should look like, in the frame of the reference.
    mask : ndarray of bool, shape (I, J, K)
        Head, in that frame.
    data : ndarray of float32, shape (I, J, K)
        Volume as measured.
    affine : ndarray of float64, shape (4, 4)
        Of both.
    matrix : ndarray of float64, shape (4, 4)
        Points of the reference to points of the volume, RAS+ mm.
    slice_axis : int
        Axis along which slices were taken.

    Returns
    -------
    difference : ndarray of float64, shape (S,)
        Logarithm of the signal of each slice relative to its prediction; NaN where it shows
        little of the head.
    count : ndarray of int64, shape (S,)
        Voxels that were compared.
    """
    from scipy import ndimage

    n_slices = data.shape[slice_axis]
    full = inverse(affine) @ inverse(matrix) @ affine
    placed = ndimage.affine_transform(
        prediction, full[:3, :3], full[:3, 3], order=1, output=np.float32
    )
    inside = ndimage.affine_transform(
        mask.astype(np.float32), full[:3, :3], full[:3, 3], order=1, output=np.float32
    )
    seen = inside > 0.99
    other = tuple(axis for axis in range(3) if axis != slice_axis)
    count = np.count_nonzero(seen, axis=other)
    shown = np.where(seen, placed, 0).sum(axis=other, dtype=np.float64)
    measured = np.where(seen, data, 0).sum(axis=other, dtype=np.float64)
    difference = np.full(n_slices, np.nan)
    known = (count >= MIN_SLICE_VOXELS) & (shown > 0)
    difference[known] = np.log(np.maximum(measured[known] / shown[known], LEAST_SIGNAL))
    return difference, count


@dataclass(frozen=True)
class Slices:
    """What is known of the slices of some volumes.

    Attributes
    ----------
    deviations : ndarray of float64, shape (N, S)
        Signal relative to what was predicted, in standard deviations; NaN if unknown.
    odd : ndarray of bool, shape (N, S)
        Slices that lost signal.
    losses : ndarray of float64, shape (N, S)
        Logarithm of what is left of the signal of these, zero elsewhere.
    """

    deviations: Floats
    odd: NDArray[np.bool_]
    losses: Floats


def judge_slices(
    differences: Floats, counts: NDArray[np.int64], combination: Floats, undone: Floats
) -> Slices:
    """Find the slices of a shell that lost signal.

    Parameters
    ----------
    differences : ndarray of float64, shape (N, S)
        From :func:`slice_losses`.
    counts : ndarray of int64, shape (N, S)
        Voxels that were compared.
    combination : ndarray of float64, shape (N, N)
        How the volumes make up the predictions.
    undone : ndarray of float64, shape (N, S)
        Losses that were undone in the volumes that made up the predictions.

    Returns
    -------
    Slices
    """
    n = len(differences)
    if n < MIN_VOLUMES or not np.isfinite(differences).any():
        unknown = np.full(differences.shape, np.nan)
        return Slices(unknown, np.zeros(unknown.shape, bool), np.zeros(unknown.shape))
    seen = differences - combination @ undone
    patterns = np.eye(n) - combination
    mostly = np.zeros(n, dtype=bool)
    for _ in range(1 + n // 4):
        losses, rest, spread = _explain(seen, counts, patterns, mostly)
        another = _mostly_lost(seen, rest, patterns @ losses, mostly)
        if another is None:
            break
        mostly[another] = True
    odd = losses < LEAST_LOSS_LOG
    losses = np.where(odd, losses, 0.0)
    return Slices((rest + losses) / spread, odd, losses)


def _explain(
    seen: Floats, counts: NDArray[np.int64], patterns: Floats, mostly: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Find the losses that explain what is seen, one volume a slice position after the other.

    Returns
    -------
    losses, rest, spread : ndarray of float64, shape (N, S)
        Logarithms; what they leave; and its usual size.
    """
    n, root = len(seen), np.sqrt(np.maximum(counts, 1))
    losses = np.zeros(seen.shape)
    for _ in range(1 + n // 4):
        rest = seen - patterns @ losses
        for _ in range(2):
            rest -= _levels(rest, mostly)
            rest -= _median(rest, axis=0)
        pooled = MAD_TO_SIGMA * float(np.nanmedian(np.abs(rest * root)))
        # What each volume alone would have lost, if it were the one that did.
        again = rest + patterns @ losses
        fresh = _next_losses(np.nan_to_num(again), losses, patterns, pooled / root)
        if (fresh == (losses != 0)).all():
            break
        losses = _fit_losses(np.nan_to_num(again), fresh, patterns)
    return losses, rest, _spread(rest, pooled / root)


def _spread(rest: Floats, least: Floats) -> Floats:
    """Usual size of what is not explained: of all slices, or more where a position has more."""
    own = MAD_TO_SIGMA * _median(np.abs(rest), axis=0)
    spread: Floats = np.maximum(np.maximum(least, own), 1e-6)
    return spread


def _next_losses(
    seen: Floats, losses: Floats, patterns: Floats, least: Floats
) -> NDArray[np.bool_]:
    """Add to each slice position the volume that explains most of what is left there.

    How certain it is follows from what is left after it, as a loss is seen in all the volumes
    that it spoils the prediction of, which is not their noise. Of few volumes, the one that was
    chosen for fitting best leaves less than the noise.
    """
    rest = seen - patterns @ losses
    power = np.square(patterns).sum(axis=0)[:, None]
    alone = patterns.T @ rest / power
    chosen: NDArray[np.bool_] = losses != 0
    gain = np.where((alone < LEAST_LOSS_LOG) & ~chosen, np.square(alone) * power, 0.0)
    best = gain.argmax(axis=0)
    columns = np.arange(seen.shape[1])
    after = rest - patterns[:, best] * alone[best, columns]
    after = after - _median(after, axis=0)
    few = len(seen) / (len(seen) - SPENT_VOLUMES)
    spread = few * _spread(after, least)[best, columns]
    certain = -alone[best, columns] * np.sqrt(power[best, 0]) > OUTLIER_SIGMAS * spread
    certain &= gain[best, columns] > 0
    chosen[best[certain], columns[certain]] = True
    return chosen


def _fit_losses(seen: Floats, chosen: NDArray[np.bool_], patterns: Floats) -> Floats:
    """Fit the losses of the chosen volumes at each slice position, shape (N, S)."""
    losses = np.zeros(seen.shape)
    for column in np.flatnonzero(chosen.any(axis=0)):
        which = np.flatnonzero(chosen[:, column])
        losses[which, column] = np.linalg.lstsq(patterns[:, which], seen[:, column], rcond=None)[0]
    return np.minimum(losses, 0.0)


def _mostly_lost(
    seen: Floats, rest: Floats, explained: Floats, mostly: NDArray[np.bool_]
) -> int | None:
    """Find another volume that lost most of its slices, so that its usual slice is a lost one.

    It is darker than the others as a whole, and some of its slices are not. Where there are
    several it is the one in which these stand out most.
    """
    levels = _median(seen - explained - _median(seen - explained, axis=0), axis=1)[:, 0]
    usual = MAD_TO_SIGMA * float(np.median(np.abs(levels - np.median(levels))))
    dark = np.median(levels) - levels > max(MOST_LOST, OUTLIER_SIGMAS * usual)
    apart = np.full(len(rest), -np.inf)
    for number in np.flatnonzero(dark & ~mostly):
        row = rest[number]
        apart[number] = np.nanquantile(row, BRIGHT_SHARE) - np.nanmedian(row)
    worst = int(apart.argmax())
    return worst if apart[worst] > MOST_LOST else None


def _levels(rest: Floats, mostly: NDArray[np.bool_]) -> Floats:
    """Brightness of each volume, shape (N, 1): of its usual slice, or of its brighter part."""
    middle = _median(rest, axis=1)
    for number in np.flatnonzero(mostly):
        row = rest[number]
        edge = (middle[number] + np.nanquantile(row, BRIGHT_SHARE)) / 2
        middle[number] = np.nanmedian(row[row > edge])
    return middle


def _median(values: Floats, axis: int) -> Floats:
    """Median without what is unknown; zero where all is."""
    known = np.isfinite(values).any(axis=axis, keepdims=True)
    middle: Floats = np.nanmedian(np.where(known, values, 0.0), axis=axis, keepdims=True)
    return middle


def write_outliers(path: Path, deviations: Floats, odd: NDArray[np.bool_]) -> Path:
    """Write a row for each volume: deviation of each slice, then the outliers among them."""
    names = (f"slice{number:03d}" for number in range(deviations.shape[1]))
    lines = ["\t".join([*names, "outliers"])]
    for row, marks in zip(deviations, odd, strict=True):
        cells = ["n/a" if math.isnan(v) else f"{v:.4f}" for v in row]
        which = ",".join(str(number) for number in np.flatnonzero(marks)) or "n/a"
        lines.append("\t".join([*cells, which]))
    write_lines(path, lines)
    return path


def read_outliers(path: str | Path) -> tuple[Floats, NDArray[np.bool_]]:
    """Read what :func:`write_outliers` wrote.

    Returns
    -------
    deviations : ndarray of float64, shape (N, S)
    odd : ndarray of bool, shape (N, S)

    Raises
    ------
    InputError
        If the file is another table.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].endswith("outliers"):
        raise InputError(f"{Path(path).name} is no table of slices.")
    rows = [line.split("\t") for line in lines[1:]]
    n_slices = len(lines[0].split("\t")) - 1
    deviations, odd = np.empty((len(rows), n_slices)), np.zeros((len(rows), n_slices), dtype=bool)
    try:
        for number, row in enumerate(rows):
            deviations[number] = [math.nan if c == "n/a" else float(c) for c in row[:-1]]
            odd[number, [int(c) for c in row[-1].split(",") if c != "n/a"]] = True
    except (ValueError, IndexError) as error:
        raise InputError(f"{Path(path).name} is no table of slices ({error}).") from error
    return deviations, odd
