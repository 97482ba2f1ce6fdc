"""How an echo-planar image was read out, as far as its sidecar tells; nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import nibabel as nb
import numpy as np

from neuroferry.bids.model import Run
from neuroferry.errors import InputError


def epi_encoding(run: Run) -> tuple[str, float, list[str]]:
    """Read how an EPI was encoded.

    Parameters
    ----------
    run : Run
        An EPI with its sidecar.

    Returns
    -------
    direction : str
        PhaseEncodingDirection.
    readout : float
        TotalReadoutTime in s.
    notes : list of str
        What is worth a warning.

    Raises
    ------
    InputError
        If either is missing or impossible.
    """
    direction = run.metadata.get("PhaseEncodingDirection")
    if not isinstance(direction, str):
        axis = run.metadata.get("PhaseEncodingAxis")
        known = f" (it has PhaseEncodingAxis {axis!r}, which leaves the sign open)" if axis else ""
        raise InputError(
            f"the sidecar of {run.path.name} has no PhaseEncodingDirection{known}; the polarity"
            " is never guessed, add it to the sidecar"
        )
    try:
        axis_index, _ = phase_encoding_axis(direction)
    except InputError as error:
        raise InputError(str(error).rstrip(".")) from error
    readout, notes = _readout_time(run, axis_index)
    if readout is None:
        raise InputError(
            f"the sidecar of {run.path.name} has neither TotalReadoutTime nor"
            " EffectiveEchoSpacing; add one"
        )
    return direction, readout, notes


def _readout_time(run: Run, axis: int) -> tuple[float | None, list[str]]:
    """TotalReadoutTime, or what stands for it; BIDS: echo spacing x (encoding steps - 1)."""
    total = seconds(run.metadata.get("TotalReadoutTime"))
    if total is not None:
        return total, []
    spacing = seconds(run.metadata.get("EffectiveEchoSpacing"))
    if spacing is not None:
        steps = run.metadata.get("ReconMatrixPE")
        if not isinstance(steps, int):
            image: Any = nb.load(run.path)
            steps = int(image.shape[axis])
        return spacing * (steps - 1), []
    estimated = seconds(run.metadata.get("EstimatedTotalReadoutTime"))
    if estimated is not None:
        return estimated, [
            f"{run.path.name} has only an estimate of its readout time"
            f" (EstimatedTotalReadoutTime, {estimated:g} s); the size of its distortion rests on"
            " that."
        ]
    return None, []


def seconds(value: Any) -> float | None:
    """Take a time in seconds, if it is one an EPI can have."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    return None


def opposite_of(direction: str) -> str:
    """Give the opposite phase-encoding direction.

    >>> opposite_of("j"), opposite_of("i-")
    ('j-', 'i')
    """
    return direction[0] if direction.endswith("-") else f"{direction[0]}-"


def encoded(
    runs: Iterable[Run], reasons: list[str]
) -> Iterator[tuple[Run, str, float, list[str]]]:
    """EPI field maps whose encoding is known; why others are not goes to `reasons`."""
    for run in runs:
        try:
            way, readout, notes = epi_encoding(run)
        except InputError as error:
            reasons.append(str(error))
        else:
            yield run, way.rstrip("+"), readout, notes


_AXES = {"i": 0, "j": 1, "k": 2}


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
    axis = _AXES.get(direction[:1])
    if axis is None or direction[1:] not in ("", "-", "+"):
        raise InputError(
            f"PhaseEncodingDirection is {direction!r}; it must be i, j or k, with a minus for the"
            " negative direction."
        )
    return axis, -1 if direction.endswith("-") else 1


_DIRECTIONS = ("i", "i-", "j", "j-", "k", "k-")


def settle_phase_encoding(metadata: Mapping[str, Any]) -> tuple[str | None, str | None, str]:
    """Give direction, axis and what is to be said of them."""
    then = "distortion is not corrected, as the polarity is never guessed: add it to the sidecar"
    direction = metadata.get("PhaseEncodingDirection")
    if direction in _DIRECTIONS:
        return direction, direction[0], ""
    if direction is not None:
        return None, None, f"PhaseEncodingDirection is '{direction}', no axis of the image; {then}"
    axis = metadata.get("PhaseEncodingAxis")
    if axis in ("i", "j", "k"):
        text = (
            f"the sidecar gives PhaseEncodingAxis '{axis}' but no PhaseEncodingDirection; {then}"
        )
        return None, axis, text
    return None, None, f"the sidecar gives no PhaseEncodingDirection; {then}"


def settle_readout_time(
    metadata: Mapping[str, Any], axis: str | None, shape: tuple[int, int, int]
) -> float | None:
    """Total readout time in s: as given, from the echo spacing, or as estimated."""
    total = _positive(metadata.get("TotalReadoutTime"))
    spacing = _positive(metadata.get("EffectiveEchoSpacing"))
    if total is None and spacing is not None and axis is not None:
        steps = metadata.get("ReconMatrixPE")
        count = steps if isinstance(steps, int) else shape["ijk".index(axis)]
        total = spacing * (count - 1)
    return total if total is not None else _positive(metadata.get("EstimatedTotalReadoutTime"))


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < np.inf else None
