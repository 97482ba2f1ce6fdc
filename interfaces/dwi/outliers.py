"""Detection of signal dropout in slices of DWI volumes, caused by head motion.

Each slice is compared with its prediction, in the volume's own position: the signal summed over
all its voxels, so that noise hardly matters. The effects common to a slice or a volume (distance
from the coil, scanner drift) are removed; the remainder, in robust standard deviations,
identifies the outliers.

A slice with dropout also biases the predictions made from it, so that other volumes seem too
bright. With ``l`` the logarithm of the signal loss of the volumes in one slice position and ``P``
the combination that predicts each volume from the others, the observed deviation is ``(I - P)
l``; outlier slices are fitted one after the other in these terms, the most explanatory first.

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
# A slice that lost less than this share of its signal is not an outlier, whatever the noise.
LEAST_LOSS = 0.05
LEAST_LOSS_LOG = math.log(1 - LEAST_LOSS)
LEAST_SIGNAL = 0.02
# A volume lost most of its slices if it is that much darker than the others, and that share of
# its slices at least are brighter than its usual one.
BRIGHT_SHARE = 0.85
MOST_LOST = -math.log(1 - 0.2)
MIN_SLICE_VOXELS = 60
MIN_VOLUMES = 5
# Degrees of freedom that choosing and fitting a loss takes from the noise estimate.
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
        Predicted volume, in the frame of the reference.
    mask : ndarray of bool, shape (I, J, K)
        Head, in that frame.
    data : ndarray of float32, shape (I, J, K)
        Volume as acquired.
    affine : ndarray of float64, shape (4, 4)
        Affine of both.
    matrix : ndarray of float64, shape (4, 4)
        Points of the reference to points of the volume, RAS+ mm.
    slice_axis : int
        Slice axis.

    Returns
    -------
    difference : ndarray of float64, shape (S,)
        Logarithm of the signal of each slice relative to its prediction; NaN if it contains
        little of the head.
    count : ndarray of int64, shape (S,)
        Number of voxels compared.
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
    """Signal of the slices of some volumes, relative to its prediction.

    Attributes
    ----------
    deviations : ndarray of float64, shape (N, S)
        Signal relative to the prediction, in standard deviations; NaN if unknown.
    odd : ndarray of bool, shape (N, S)
        Slices with signal dropout.
    losses : ndarray of float64, shape (N, S)
        Logarithm of the remaining signal fraction of these, zero elsewhere.
    """

    deviations: Floats
    odd: NDArray[np.bool_]
    losses: Floats


def judge_slices(
    differences: Floats, counts: NDArray[np.int64], combination: Floats, undone: Floats
) -> Slices:
    """Detect the slices of a shell with signal dropout.

    Parameters
    ----------
    differences : ndarray of float64, shape (N, S)
        From :func:`slice_losses`.
    counts : ndarray of int64, shape (N, S)
        Number of voxels compared.
    combination : ndarray of float64, shape (N, N)
        Weights that predict each volume from the others.
    undone : ndarray of float64, shape (N, S)
        Losses already corrected in the volumes behind the predictions.

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
    """Fit the losses that explain the deviations, adding one volume per slice position at a time.

    Returns
    -------
    losses, rest, spread : ndarray of float64, shape (N, S)
        Logarithms of the losses, residuals, and typical size of the residuals.
    """
    n, root = len(seen), np.sqrt(np.maximum(counts, 1))
    losses = np.zeros(seen.shape)
    for _ in range(1 + n // 4):
        rest = seen - patterns @ losses
        for _ in range(2):
            rest -= _levels(rest, mostly)
            rest -= _median(rest, axis=0)
        pooled = MAD_TO_SIGMA * float(np.nanmedian(np.abs(rest * root)))
        # Loss of each volume if it alone had lost signal.
        again = rest + patterns @ losses
        fresh = _next_losses(np.nan_to_num(again), losses, patterns, pooled / root)
        if (fresh == (losses != 0)).all():
            break
        losses = _fit_losses(np.nan_to_num(again), fresh, patterns)
    return losses, rest, _spread(rest, pooled / root)


def _spread(rest: Floats, least: Floats) -> Floats:
    """Estimate the typical residual: over all slices, or larger at positions with more."""
    own = MAD_TO_SIGMA * _median(np.abs(rest), axis=0)
    spread: Floats = np.maximum(np.maximum(least, own), 1e-6)
    return spread


def _next_losses(
    seen: Floats, losses: Floats, patterns: Floats, least: Floats
) -> NDArray[np.bool_]:
    """Add to each slice position the volume that explains most of the residual there.

    Its significance follows from the residual after it, because a loss shows in all volumes whose
    prediction it biases, which is not their noise. With few volumes, the one chosen for fitting
    best leaves less than the noise.
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
    """Find another volume with dropout in most slices, so that its median slice is affected.

    It is darker than the others overall, except in some slices. Among several, it is the one in
    which these slices stand out most.
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
    """Measure the brightness of each volume, of its median or brighter slices, shape (N, 1)."""
    middle = _median(rest, axis=1)
    for number in np.flatnonzero(mostly):
        row = rest[number]
        edge = (middle[number] + np.nanquantile(row, BRIGHT_SHARE)) / 2
        middle[number] = np.nanmedian(row[row > edge])
    return middle


def _median(values: Floats, axis: int) -> Floats:
    """Compute the median without unknown values; zero if all are unknown."""
    known = np.isfinite(values).any(axis=axis, keepdims=True)
    middle: Floats = np.nanmedian(np.where(known, values, 0.0), axis=axis, keepdims=True)
    return middle


def write_outliers(path: Path, deviations: Floats, odd: NDArray[np.bool_]) -> Path:
    """Write one row per volume: the deviation of each slice, then the outliers."""
    names = (f"slice{number:03d}" for number in range(deviations.shape[1]))
    lines = ["\t".join([*names, "outliers"])]
    for row, marks in zip(deviations, odd, strict=True):
        cells = ["n/a" if math.isnan(v) else f"{v:.4f}" for v in row]
        which = ",".join(str(number) for number in np.flatnonzero(marks)) or "n/a"
        lines.append("\t".join([*cells, which]))
    write_lines(path, lines)
    return path


def read_outliers(path: str | Path) -> tuple[Floats, NDArray[np.bool_]]:
    """Read a table of :func:`write_outliers`.

    Returns
    -------
    deviations : ndarray of float64, shape (N, S)
    odd : ndarray of bool, shape (N, S)

    Raises
    ------
    InputError
        If the file is not such a table.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].endswith("outliers"):
        raise InputError(f"{Path(path).name} is not a table of slices.")
    rows = [line.split("\t") for line in lines[1:]]
    n_slices = len(lines[0].split("\t")) - 1
    deviations, odd = np.empty((len(rows), n_slices)), np.zeros((len(rows), n_slices), dtype=bool)
    try:
        for number, row in enumerate(rows):
            deviations[number] = [math.nan if c == "n/a" else float(c) for c in row[:-1]]
            odd[number, [int(c) for c in row[-1].split(",") if c != "n/a"]] = True
    except (ValueError, IndexError) as error:
        raise InputError(f"{Path(path).name} is not a table of slices ({error}).") from error
    return deviations, odd
