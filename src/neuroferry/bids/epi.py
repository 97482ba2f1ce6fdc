"""Phase encoding of echo-planar images, from their sidecars; nothing is guessed.

BOLD and DWI runs, single-band references and EPI field maps follow the same rules:
`settle_encoding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroferry.bids.headers import image_shape
from neuroferry.bids.model import Image
from neuroferry.errors import InputError

#: Largest ratio of the readout time to that computed from the echo spacing, or the reverse; beyond
#: it, one is of another scan or in another unit. Smaller ratios are different conventions: with
#: partial Fourier some converters count the acquired lines (6/8 of all, at least 5/8, a factor of
#: 1.6), others those of the image. The echo spacing is the effective one, which includes parallel
#: imaging; if only one of the two includes it, the ratio is the acceleration factor, 2 or more.
CONTRADICTION = 1.7
#: Bounds, s, of the time from one line to the next and of a whole readout: a line takes 0.1 to
#: 2 ms, parallel imaging divides that by 2 to 8. Values beyond are in another unit.
_BOUNDS = {"TotalReadoutTime": (1e-3, 1.0), "EffectiveEchoSpacing": (1e-5, 1e-2)}
#: Relative difference below which readout times are the same.
SAME_READOUT = 0.01

_AXES = {"i": 0, "j": 1, "k": 2}


@dataclass(frozen=True)
class PhaseEncoding:
    """Phase encoding of one EPI.

    Attributes
    ----------
    direction : str or None
        BIDS ``PhaseEncodingDirection`` without ``+``, such as ``"j-"``; None if the sidecar does
        not give the polarity.
    axis : str or None
        ``"i"``, ``"j"`` or ``"k"``; known more often than the polarity.
    readout_time : float or None
        Total readout time, s.
    no_direction, no_readout_time : str
        Why they are None and what to do, as a clause; empty otherwise.
    notes : tuple of str
        Sentences to show as warnings.
    """

    direction: str | None
    axis: str | None
    readout_time: float | None
    no_direction: str = ""
    no_readout_time: str = ""
    notes: tuple[str, ...] = ()


def settle_encoding(run: Image) -> PhaseEncoding:
    """Determine the phase encoding of an EPI from its sidecar and number of voxels.

    Parameters
    ----------
    run : Image
        An EPI with its sidecar.

    Returns
    -------
    PhaseEncoding
        The readout time is ``TotalReadoutTime``, or ``EffectiveEchoSpacing`` x
        (``ReconMatrixPE`` - 1), or ``EstimatedTotalReadoutTime``. If the first two exist and
        differ by a factor of more than `CONTRADICTION`, neither is used.
    """
    direction, axis, no_direction = _settle_direction(run)
    readout, no_readout, notes = _settle_readout(run, axis)
    return PhaseEncoding(direction, axis, readout, no_direction, no_readout, notes)


def epi_encoding(run: Image) -> tuple[str, float, list[str]]:
    """Read the phase encoding of an EPI used for distortion correction.

    Parameters
    ----------
    run : Image
        An EPI with its sidecar.

    Returns
    -------
    direction : str
        PhaseEncodingDirection.
    readout : float
        TotalReadoutTime in s.
    notes : list of str
        Sentences to show as warnings.

    Raises
    ------
    InputError
        If either is missing or impossible.
    """
    found = settle_encoding(run)
    if found.direction is None:
        raise InputError(found.no_direction)
    if found.readout_time is None:
        raise InputError(found.no_readout_time)
    return found.direction, found.readout_time, list(found.notes)


def _settle_direction(run: Image) -> tuple[str | None, str | None, str]:
    """Determine direction, axis, and why the direction is unknown."""
    sidecar = f"the sidecar of {run.path.name}"
    then = "the polarity is never guessed; add it to the sidecar"
    direction = run.metadata.get("PhaseEncodingDirection")
    if direction is not None:
        try:
            phase_encoding_axis(direction)
        except InputError as error:
            return None, None, f"in {sidecar} {str(error).rstrip('.')}"
        return direction.removesuffix("+"), direction[0], ""
    axis = run.metadata.get("PhaseEncodingAxis")
    if axis in _AXES:
        text = (
            f"{sidecar} has PhaseEncodingAxis {axis!r} but no PhaseEncodingDirection, so the sign"
            f" is unknown; {then}"
        )
        return None, axis, text
    return None, None, f"{sidecar} has no PhaseEncodingDirection; {then}"


def _settle_readout(run: Image, axis: str | None) -> tuple[float | None, str, tuple[str, ...]]:
    """Determine the readout time in s, why it is unknown, and notes."""
    metadata, name = run.metadata, run.path.name
    impossible = [
        _no_time(name, key, metadata[key], bounds)
        for key, bounds in _BOUNDS.items()
        if metadata.get(key) is not None and not _within(metadata[key], bounds)
    ]
    total = _time(metadata, "TotalReadoutTime")
    spaced = _spaced_time(run, axis)
    if total is not None and spaced is not None:
        spacing, steps = spaced
        product = spacing * (steps - 1)
        if not 1 / CONTRADICTION <= total / product <= CONTRADICTION:
            text = (
                f"the sidecar of {name} contradicts itself: TotalReadoutTime is {total:g} s, and"
                f" EffectiveEchoSpacing x (lines - 1) is {spacing:g} x {steps - 1} ="
                f" {product:.3g} s; neither is used. Correct the one that is wrong"
            )
            return None, text, ()
    if total is not None:
        return total, "", tuple(f"{text}. TotalReadoutTime is used." for text in impossible)
    if spaced is not None:
        notes = (f"{text}. EffectiveEchoSpacing is used." for text in impossible)
        return spaced[0] * (spaced[1] - 1), "", tuple(notes)
    if impossible:
        return None, impossible[0], ()
    estimated = seconds(metadata.get("EstimatedTotalReadoutTime"))
    if estimated is not None:
        note = (
            f"the readout time of {name} is only an estimate (EstimatedTotalReadoutTime,"
            f" {estimated:g} s), and so is the size of its distortion."
        )
        return estimated, "", (note,)
    text = f"the sidecar of {name} has neither TotalReadoutTime nor EffectiveEchoSpacing; add one"
    if "WaterFatShift" in metadata:
        text += " (WaterFatShift alone does not give it: scanners count lines in two ways)"
    return None, text, ()


def _spaced_time(run: Image, axis: str | None) -> tuple[float, int] | None:
    """Read the effective echo spacing in s and the number of lines, if both are known."""
    spacing = _time(run.metadata, "EffectiveEchoSpacing")
    steps = run.metadata.get("ReconMatrixPE")
    if spacing is None:
        return None
    if not isinstance(steps, int) or isinstance(steps, bool):
        if axis is None:
            return None
        steps = image_shape(run.path)[_AXES[axis]]
    return (spacing, steps) if steps > 1 else None


def _time(metadata: Mapping[str, Any], key: str) -> float | None:
    """Read a time in s, if it is possible."""
    value = metadata.get(key)
    return float(value) if value is not None and _within(value, _BOUNDS[key]) else None


def _within(value: object, bounds: tuple[float, float]) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bounds[0] <= value < bounds[1]  # type: ignore[operator]


def _no_time(name: str, key: str, said: object, bounds: tuple[float, float]) -> str:
    """Explain that a time is impossible, and in which unit it probably is."""
    hint = ""
    if isinstance(said, int | float):
        for unit, factor in (("milliseconds", 1e-3), ("microseconds", 1e-6)):
            if not hint and said >= bounds[1] and _within(factor * said, bounds):
                hint = f"; it is probably in {unit}"
    return (
        f"the sidecar of {name} has {key} = {said!r}, which is not a time between {bounds[0]:g}"
        f" and {bounds[1]:g} s{hint}: correct it, in seconds"
    )


def seconds(value: Any) -> float | None:
    """Return a time in seconds, if it is plausible for an EPI.

    >>> seconds(0.05), seconds(50), seconds("0.05"), seconds(True)
    (0.05, None, None, None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    return None


def check_readout_time(readout_time: float) -> None:
    """Check that a total readout time (s) is plausible for an EPI.

    Raises
    ------
    InputError
        If it does not lie between 0 and 1 s.
    """
    if seconds(readout_time) is None:
        raise InputError(
            f"TotalReadoutTime is {readout_time:g} s; it must lie between 0 and 1 s. Correct the"
            " sidecar."
        )


def opposite_of(direction: str) -> str:
    """Return the opposite phase-encoding direction.

    >>> opposite_of("j"), opposite_of("i-")
    ('j-', 'i')
    """
    return direction[0] if direction.endswith("-") else f"{direction[0]}-"


def phase_encoding_axis(direction: str) -> tuple[int, int]:
    """Read a BIDS ``PhaseEncodingDirection``.

    Parameters
    ----------
    direction : str
        "i", "j" or "k", with "-" for the negative polarity.

    Returns
    -------
    axis : int
        Axis of the stored array.
    sign : int
        +1 or -1.

    Raises
    ------
    InputError
        If it is anything else.

    Examples
    --------
    >>> phase_encoding_axis("j-")
    (1, -1)
    """
    axis = _AXES.get(direction[:1]) if isinstance(direction, str) else None
    if axis is None or direction[1:] not in ("", "-", "+"):
        raise InputError(
            f"PhaseEncodingDirection is {direction!r}; it must be i, j or k, with a minus for the"
            " negative direction."
        )
    return axis, -1 if direction.endswith("-") else 1


def encoding_difference(one: Image, other: Image) -> str:
    """Describe how the encoding of two EPIs differs, so that their distortions differ.

    Parameters
    ----------
    one, other : Image
        EPIs with their sidecars.

    Returns
    -------
    str
        Such as "a different PhaseEncodingDirection (j) from the run (j-)"; empty where they agree,
        or where one of them is unknown.
    """
    first, second = settle_encoding(one), settle_encoding(other)
    ways = first.direction, second.direction
    if None not in ways and ways[0] != ways[1]:
        return f"a different PhaseEncodingDirection ({ways[0]}) from the run ({ways[1]})"
    if first.axis and second.axis and first.axis != second.axis:
        return f"a different phase-encoding axis ({first.axis}) from the run ({second.axis})"
    times = first.readout_time, second.readout_time
    if times[0] and times[1] and abs(times[0] - times[1]) > SAME_READOUT * times[1]:
        return f"a different TotalReadoutTime ({times[0]:g} s) from the run ({times[1]:g} s)"
    return ""
