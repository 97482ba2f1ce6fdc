"""Volumes of a series that hold no usable image, found while the file is read for its check.

A scan that was stopped, a receiver that failed, or a conversion that lost frames leaves volumes
that are empty, incomplete, or of another scale. Averages and regressions over time take them for
data.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: A volume has no head, or another scale, if the standard deviation over its voxels differs from
#: that of the other volumes by more than this factor. Contrast before the steady state is at most
#: about twice that after it, and motion changes it by some percent.
SCALE = 5.0
#: Volumes of about the same contrast that are needed to compare one with the others.
MIN_ALIKE = 3
#: Fraction of lost slices from which a volume counts as incomplete.
MANY_SLICES = 0.1


@dataclass(frozen=True)
class VolumeFacts:
    """What reading a series tells about each of its T volumes.

    Attributes
    ----------
    spread : tuple of float
        Standard deviation over the voxels of each volume, in stored units; 0 if all are equal.
    lost : tuple of float
        Fraction of the slices that are uniform in this volume, but not in most volumes.
    repeats : tuple of int
        Volumes that equal the volume before them to the last bit, other than uniform ones.
    """

    spread: tuple[float, ...]
    lost: tuple[float, ...]
    repeats: tuple[int, ...] = ()


class VolumeScan:
    """Accumulator of the facts of a series from blocks of its voxels in stored order.

    Parameters
    ----------
    shape : sequence of int
        Of the image, at least four-dimensional.

    Examples
    --------
    >>> scan = VolumeScan((2, 2, 1, 3))
    >>> scan.add(np.array([0, 8, 0, 8, 5]))
    >>> scan.add(np.array([5, 5, 5, 0, 8, 0, 8]))
    >>> scan.facts().spread
    (4.0, 0.0, 4.0)
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._slice = int(np.prod(shape[:2]))
        self._n_slices = int(shape[2])
        self._pending: NDArray[np.generic] | None = None
        self._moments: list[NDArray[np.float64]] = []
        self._uniform: list[NDArray[np.bool_]] = []
        self._checks: list[int] = []

    def add(self, values: NDArray[np.generic]) -> None:
        """Take the next values, any number of them."""
        if self._pending is not None:
            values = np.concatenate([self._pending, values])
        whole = len(values) // self._slice * self._slice
        self._pending = values[whole:].copy() if whole < len(values) else None
        rows = values[:whole].reshape(-1, self._slice)
        if not len(rows):
            return
        exact = rows.astype(np.float64)
        squares = np.einsum("sv,sv->s", exact, exact)
        self._moments.append(np.stack([exact.sum(axis=1), squares], axis=1))
        self._uniform.append((rows == rows[:, :1]).all(axis=1))
        self._checks += [zlib.crc32(row.tobytes()) for row in rows]

    def facts(self) -> VolumeFacts:
        """Summarise the whole volumes that were added."""
        n_volumes = len(self._checks) // self._n_slices
        if not n_volumes:
            return VolumeFacts((), ())
        size = n_volumes, self._n_slices
        used = n_volumes * self._n_slices
        moments = np.concatenate(self._moments)[:used].reshape(*size, 2).sum(axis=1)
        uniform = np.concatenate(self._uniform)[:used].reshape(size)
        mean, power = (moments / (self._slice * self._n_slices)).T
        spread = np.sqrt(np.maximum(power - mean**2, 0.0))
        # rounding leaves a remainder where all values are equal
        spread[spread <= 1e-7 * np.abs(mean)] = 0.0
        shown = uniform.mean(axis=0) < 0.5
        lost = uniform[:, shown].mean(axis=1) if shown.any() else np.zeros(n_volumes)
        checks = np.array(self._checks[:used], dtype=np.int64).reshape(size)
        same = np.flatnonzero((checks[1:] == checks[:-1]).all(axis=1) & (spread[1:] > 0)) + 1
        return VolumeFacts(_floats(spread), _floats(lost), tuple(int(t) for t in same))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


@dataclass(frozen=True)
class Unusable:
    """Volumes of a series without a usable image.

    Attributes
    ----------
    why : mapping of int to str
        Reason for each volume: ``empty``, ``without a head``, ``of another scale``,
        ``incomplete``.
    repeats : tuple of int
        Usable volumes that are copies of the volume before them.
    """

    why: Mapping[int, str] = field(default_factory=dict)
    repeats: tuple[int, ...] = ()

    @property
    def volumes(self) -> tuple[int, ...]:
        """The volumes, from 0, in order."""
        return tuple(sorted(self.why))

    def sentences(self, then: str) -> list[str]:
        """Describe the volumes; `then` is what happens with them."""
        found = []
        for reason in dict.fromkeys(self.why.values()):
            chosen = [t for t in self.volumes if self.why[t] == reason]
            verb = "is" if len(chosen) == 1 else "are"
            found.append(f"{name_volumes(chosen)} {verb} {reason}; {then}")
        if self.repeats:
            verb = "is a copy" if len(self.repeats) == 1 else "are copies"
            found.append(
                f"{name_volumes(self.repeats)} {verb} of the volume before to the last bit, which"
                " no scanner measures; convert the image again"
            )
        return found


def judge_volumes(facts: VolumeFacts, alike: Iterable[Sequence[int]] | None = None) -> Unusable:
    """Find the volumes of a series that hold no usable image.

    Parameters
    ----------
    facts : VolumeFacts
        Of the series.
    alike : iterable of sequence of int, optional
        Groups of volumes of about the same contrast, such as the shells of a DWI run; by default
        all volumes are alike.

    Returns
    -------
    Unusable

    Examples
    --------
    >>> facts = VolumeFacts((90.0, 100.0, 0.0, 11.0, 1e5, 95.0), (0.0,) * 6)
    >>> judge_volumes(facts).why
    {2: 'empty', 3: 'without a head', 4: 'of another scale'}
    """
    spread = np.array(facts.spread)
    why = {int(t): "empty" for t in np.flatnonzero(spread == 0)}
    groups = [range(spread.size)] if alike is None else [list(group) for group in alike]
    for group in groups:
        shown = [t for t in group if spread[t] > 0]
        if len(shown) < MIN_ALIKE:
            continue
        usual = float(np.median(spread[shown]))
        why |= {t: "without a head" for t in shown if spread[t] < usual / SCALE}
        why |= {t: "of another scale" for t in shown if spread[t] > usual * SCALE}
    lost = np.array(facts.lost)
    for t in np.flatnonzero(lost > MANY_SLICES):
        why.setdefault(int(t), "incomplete, with uniform slices")
    return Unusable(dict(sorted(why.items())), tuple(t for t in facts.repeats if t not in why))


def all_the_same(facts: VolumeFacts) -> bool:
    """Check whether all volumes that are not empty are copies of one."""
    shown = [t for t, value in enumerate(facts.spread) if value > 0]
    return len(shown) > 1 and set(shown[1:]) <= set(facts.repeats)


def name_volumes(volumes: Sequence[int], most: int = 8) -> str:
    """Name volumes by their numbers from 0, neighbours as a range.

    >>> name_volumes([34, 35, 36, 39]), name_volumes([3])
    ('volumes 34-36, 39 (counted from 0)', 'volume 3 (counted from 0)')
    """
    spans: list[list[int]] = []
    for volume in sorted(volumes):
        if spans and volume == spans[-1][1] + 1:
            spans[-1][1] = volume
        else:
            spans.append([volume, volume])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    word = "volume" if len(volumes) == 1 else "volumes"
    return f"{word} {', '.join(texts[:most])}{more} (counted from 0)"
