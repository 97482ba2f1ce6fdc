"""Units of phase images and of fields: read, never guessed from the range of values alone.

Scanners and converters store one cycle of phase as 2 pi, 360, 2000 pi, 4096, 8192 or other
numbers. A field that is narrow in a masked image fills a small part of its cycle, so the range of
its values says nothing about the unit. Three things do, in this order:

1. ``Units`` of the sidecar;
2. the scale of the stored integers: twelve bits from -pi to pi are stored as 0 to 4095 with an
   intercept of -2048 slopes, whatever the slope;
3. neighbours at opposite ends of the range. Where phase passes pi it continues at -pi, and in air,
   where it is noise, it does so everywhere; a field without wraps has no such neighbours.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.headers import reading_image
from neuroferry.bids.model import Image
from neuroferry.errors import InputError

TWO_PI = 2 * np.pi
#: Hz per tesla: the gyromagnetic ratio of the proton over 2 pi (CODATA 2018).
_HZ_PER_TESLA = 42.577478518e6
FIELD_UNITS = {"hz": 1.0, "rad/s": 1 / TWO_PI, "t": _HZ_PER_TESLA, "tesla": _HZ_PER_TESLA}
#: Largest off-resonance in a head, Hz; beyond, the unit of a field is another one.
HIGHEST_HZ = 2000.0

#: One cycle in each unit of phase.
_CYCLES = {
    **dict.fromkeys(("rad", "rads", "radian", "radians"), TWO_PI),
    **dict.fromkeys(("mrad", "mrads", "milliradian", "milliradians"), 1000 * TWO_PI),
    **dict.fromkeys(("deg", "degree", "degrees", "°"), 360.0),
    **dict.fromkeys(("cycle", "cycles", "turn", "turns"), 1.0),
}
#: ``Units`` that say nothing; BIDS has ``arbitrary`` for integers of the scanner.
_NO_UNITS = ("", "arbitrary", "a.u.", "au", "arb. unit", "n/a", "none", "unknown")
#: Ranges of values that hold one cycle, and the values of -pi and pi. Angles are zero at 0; of
#: integers without a sign, the middle is.
_RANGES = (
    *(((-turn / 2, turn / 2), (-turn / 2, turn / 2)) for turn in (TWO_PI, 360.0, 1000 * TWO_PI)),
    *(((0.0, turn), (-turn / 2, turn / 2)) for turn in (TWO_PI, 360.0, 1000 * TWO_PI)),
    *(((-n / 2, n / 2), (-n / 2, n / 2)) for n in (1.0, 2.0, 1000.0, 4096.0, 8192.0, 16384.0)),
    *(((0.0, n), (0.0, n)) for n in (4096.0, 8192.0, 16384.0)),
)
#: Largest distance of the ends of the values from those of a range, as a fraction of it.
_AT_THE_END = 0.01
#: Outer part of the range at each end, and how many pairs of neighbours must join its ends.
_OUTER = 0.1
_FEWEST_PAIRS = 20
#: A single value of more voxels than this fraction is no phase but what a mask left.
_BACKGROUND = 0.02
#: Bits of a stored phase, and largest distance of its zero from the middle, in stored integers.
_BITS = (12, 13, 14)
_OFF_MIDDLE = 1.0
#: Largest distance of the head's mean phase difference from zero, rad: scanners shim the field.
_NEAR_ZERO = np.pi / 3
#: Largest absolute phase, rad, of an unwrapped image: 16 cycles.
_LARGEST_RAD = 100.0


class PhaseRange(NamedTuple):
    """Stored values of -pi and pi; values beyond them are further cycles."""

    low: float
    high: float


class _Values(NamedTuple):
    """Values of a phase image, as scaled by its header."""

    data: NDArray[np.float64]
    stored: NDArray[Any] | None
    slope: float
    intercept: float


def settle_phases(
    images: tuple[Image, ...],
    echo_times: tuple[float, float],
    magnitude: NDArray[Any] | None = None,
) -> tuple[PhaseRange, ...]:
    """Determine the scale of the phase images of one field map.

    Parameters
    ----------
    images : tuple of Image
        A phase difference, or the phases of two echoes.
    echo_times : tuple of float
        Of the two echoes, s.
    magnitude : ndarray, optional
        On the grid of the images; tells where a difference from 0 to 2 pi has its zero.

    Returns
    -------
    tuple of PhaseRange
        One for each image. Two phases of one acquisition have one scale: where only one of them
        shows it, it is that of both.

    Raises
    ------
    InputError
        With a clause, if a scale is unknown or contradicts the values.
    """
    found: list[PhaseRange | None] = []
    for image in images:
        found.append(_settle(image, echo_times, magnitude, difference=len(images) == 1))
    known = [scale for scale in found if scale is not None]
    if not known:
        names = " and ".join(image.path.name for image in images)
        raise InputError(
            f"the unit of {names} is unknown: the sidecar has no Units, the header no scale of the"
            " stored integers, and no neighbouring values meet at the ends of one cycle, as noise"
            " and wraps make them. Convert the image again, without a mask; or write radians, with"
            ' "Units": "rad" in the sidecar'
        )
    if any(not np.allclose(scale, known[0], rtol=_AT_THE_END) for scale in known):
        raise InputError(
            f"{images[0].path.name} and {images[1].path.name} have phase in different units;"
            " convert them again, in the same way"
        )
    return tuple(scale or known[0] for scale in found)


def _settle(
    image: Image,
    echo_times: tuple[float, float],
    magnitude: NDArray[Any] | None,
    *,
    difference: bool,
) -> PhaseRange | None:
    """Determine the scale of one image; None if nothing shows it."""
    values = _read(image.path)
    units = image.metadata.get("Units")
    text = units.strip().lower() if isinstance(units, str) else ""
    if text in _CYCLES:
        return _said(image, values, _CYCLES[text])
    if text in FIELD_UNITS and difference:
        # Some scanners store the phase difference as the field that it stands for.
        hz = float(np.percentile(np.abs(values.data), 95)) * FIELD_UNITS[text]
        cycle_hz = 1 / (echo_times[1] - echo_times[0])
        if hz > max(HIGHEST_HZ, cycle_hz):
            raise InputError(_unlikely(image, values.data))
        half = cycle_hz / FIELD_UNITS[text] / 2
        return PhaseRange(-half, half)
    if text not in _NO_UNITS:
        raise InputError(
            f"the sidecar of {image.path.name} has Units {units!r}, which is no unit of phase;"
            " write rad or arbitrary"
        )
    scale = _of_integers(values) or _of_ends(values.data)
    unsigned = scale is not None and scale.low < 0 <= values.data.min()
    if scale is None or not (unsigned and difference):
        return scale
    return _at_zero(image, values.data, scale, magnitude)


def _at_zero(
    image: Image, data: NDArray[np.float64], scale: PhaseRange, magnitude: NDArray[Any] | None
) -> PhaseRange:
    """Find whether an angle from 0 to one cycle is zero at its beginning or in its middle.

    Software shifts phase from -pi...pi to 0...2 pi by adding pi to all values, or 2 pi to the
    negative ones.
    """
    cycle = scale.high - scale.low
    if magnitude is not None and magnitude.shape == data.shape:
        head = np.exp(1j * TWO_PI / cycle * data[magnitude > magnitude.mean()])
        off = abs(float(np.angle(head.mean())))
        if off <= _NEAR_ZERO:
            return scale
        if off >= np.pi - _NEAR_ZERO:
            return PhaseRange(0.0, cycle)
    raise InputError(
        f"{image.path.name} has phase from 0 to {cycle:.6g}, and it is unknown whether a"
        " difference of zero is stored as 0 or as half of it; write radians from -pi to pi, with"
        ' "Units": "rad" in the sidecar'
    )


def _said(image: Image, values: _Values, cycle: float) -> PhaseRange:
    """Check that the values may have the unit that the sidecar says."""
    largest = float(np.abs(values.data).max()) / cycle * TWO_PI
    fraction = np.unique(values.data[:: max(1, values.data.shape[0] // 16)])
    whole = cycle < 10 and fraction.size > 3 and bool(np.all(fraction == np.round(fraction)))
    if largest > _LARGEST_RAD or whole:
        raise InputError(_unlikely(image, values.data, whole=whole))
    return PhaseRange(-cycle / 2, cycle / 2)


def _unlikely(image: Image, data: NDArray[np.float64], *, whole: bool = False) -> str:
    """Explain that values cannot have the unit that the sidecar says."""
    numbers = "whole numbers " if whole else ""
    return (
        f"the sidecar of {image.path.name} has Units {image.metadata['Units']!r}, but its values"
        f" are {numbers}from {data.min():g} to {data.max():g}; correct Units"
    )


def _read(path: str | os.PathLike[str]) -> _Values:
    """Read values and stored integers (None if the file holds others) of a phase image."""
    import nibabel as nb

    with reading_image(path):
        image: Any = nb.load(path)
        stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    data = np.squeeze(stored).astype(np.float64) * slope + intercept
    return _Values(data, stored if stored.dtype.kind in "iu" else None, slope, intercept)


def _of_integers(values: _Values) -> PhaseRange | None:
    """Determine the scale from that of the stored integers: N of them, zero in the middle."""
    stored, slope, intercept = values.stored, values.slope, values.intercept
    if stored is None or not slope > 0 or not intercept:
        return None
    limits = np.iinfo(stored.dtype)
    lowest, highest = int(stored.min()), int(stored.max())
    if lowest <= limits.min + (limits.min < 0) and highest >= limits.max - 1:
        return None  # scaled to fill the type, by whoever saved it last
    for bits in _BITS:
        count = 2**bits
        middle = -intercept / slope
        if abs(middle - count / 2) <= _OFF_MIDDLE and lowest >= 0 and highest < count:
            return PhaseRange(intercept, -intercept)
    return None


def _of_ends(data: NDArray[np.float64]) -> PhaseRange | None:
    """Determine the scale from neighbours that join the two ends of a known range."""
    measured = _measured(data)
    if not measured.any():
        return None
    values = data[measured]
    low, high = float(values.min()), float(values.max())
    fitting = [
        scale
        for (first, last), scale in _RANGES
        if abs(low - first) <= _AT_THE_END * (last - first)
        and abs(high - last) <= _AT_THE_END * (last - first)
    ]
    if len(fitting) != 1 or _pairs(data, measured, low, high) < _FEWEST_PAIRS:
        return None
    return PhaseRange(*fitting[0])


def _measured(data: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Select the voxels that no mask has set to one value."""
    values, counts = np.unique(data, return_counts=True)
    most = int(counts.argmax())
    # Of few different values, each has many voxels.
    usual = max(_BACKGROUND * data.size, 4 * float(np.median(counts)))
    return np.ones(data.shape, bool) if counts[most] <= usual else data != values[most]


def _pairs(data: NDArray[np.float64], measured: NDArray[np.bool_], low: float, high: float) -> int:
    """Count the pairs of neighbours of which one lies at each end of the range."""
    outer = _OUTER * (high - low)
    bottom = measured & (data <= low + outer)
    top = measured & (data >= high - outer)
    count = 0
    for axis in range(data.ndim):
        before = [slice(None)] * data.ndim
        after = [slice(None)] * data.ndim
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        first, second = tuple(before), tuple(after)
        count += int((bottom[first] & top[second]).sum() + (top[first] & bottom[second]).sum())
    return count


def field_factor(units: object, name: str) -> float:
    """Return the factor to hertz of a field's unit.

    Parameters
    ----------
    units : object
        ``Units`` of the sidecar.
    name : str
        What to call the file in the message.

    Raises
    ------
    InputError
        With a clause, if it is none of Hz, rad/s and T.

    Examples
    --------
    >>> field_factor("Hz", "a.nii.gz")
    1.0
    """
    factor = FIELD_UNITS.get(units.strip().lower()) if isinstance(units, str) else None
    if factor is None:
        raise InputError(
            f"the sidecar of {name} must give Units, Hz, rad/s or T (it has {units!r})"
        )
    return factor


def check_field(hz: NDArray[Any], magnitude: NDArray[Any], name: str) -> None:
    """Check that a field is plausible where there is signal.

    Parameters
    ----------
    hz, magnitude : ndarray, same shape
        Field in Hz, and its magnitude image.
    name : str
        What to call the field in the message.

    Raises
    ------
    InputError
        With a clause, if the 95th percentile of its absolute values exceeds `HIGHEST_HZ`.
    """
    head = magnitude > magnitude.mean()
    extreme = float(np.percentile(np.abs(hz[head]), 95)) if head.any() else 0.0
    if extreme > HIGHEST_HZ:
        raise InputError(
            f"{name} reaches {extreme:.0f} Hz in the head, which is implausible; check its Units"
        )
