"""Timing of the volumes and slices of a run, from its sidecar and header.

BOLD and DWI runs follow the same rules. What is settled here is carried to every step and every
output; no step reads it from a header again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from neuroferry.bids.metadata import shown
from neuroferry.bids.model import Finding

#: Repetition times closer than this (s) are the same, written with fewer digits.
_SAME_TR = 2e-3
_LONGEST_TR = 100.0
#: No scanner acquires a volume in less, s: a shorter time of a header is in another unit.
_SHORTEST_TR = 0.02
_AXES = "ijk"
_DIRECTIONS = ("i", "i-", "j", "j-", "k", "k-")


def settle_tr(
    metadata: Mapping[str, Any],
    header_tr: float,
    n_volumes: int,
    last_onset: float | None = None,
) -> tuple[float | None, list[Finding]]:
    """Determine the repetition time from sidecar and header.

    Parameters
    ----------
    metadata : mapping
        Sidecar.
    header_tr : float
        That of the header, s; 0 if it has none.
    n_volumes : int
        Volumes of the run.
    last_onset : float, optional
        Onset of the last event, s; helps to see which of two repetition times is right.

    Returns
    -------
    float or None
        In s. That of the sidecar, if both exist: BIDS gives it precedence, analyses read it,
        and people correct it; converters derive that of the header from fields that scanners
        fill in differently.
    list of Finding
        Empty if they agree.

    Examples
    --------
    >>> settle_tr({"RepetitionTime": 2.0}, 2.0, 100)
    (2.0, [])
    >>> settle_tr({}, 2.0, 100)[0]
    2.0
    """
    said = metadata.get("RepetitionTime")
    if said is None and metadata.get("VolumeTiming") is not None:
        text = (
            "the sidecar has VolumeTiming instead of RepetitionTime; unevenly spaced volumes are"
            " not supported"
        )
        return None, [Finding(text, fatal=True)]
    known = not isinstance(said, bool) and isinstance(said, int | float) and 0 < said < math.inf
    here = float(said) if known and isinstance(said, int | float) else 0.0
    here = here / 1000 if here > _LONGEST_TR else here
    there = header_tr / 1000 if header_tr > _LONGEST_TR else header_tr
    there = there if _SHORTEST_TR <= there < math.inf else 0.0
    lack = "the sidecar has no RepetitionTime"
    if said is not None and not here:
        lack = f"RepetitionTime in the sidecar is {shown(said)}, not a positive number"
    if not here and not there:
        nowhere = "neither the sidecar nor the header has the repetition time"
        text = nowhere if said is None else f"{lack}, and the header has none"
        return None, [
            Finding(f"{text}; add RepetitionTime (in seconds) to the sidecar", fatal=True)
        ]
    if not here:
        text = f"{lack}; that of the header, {there:.6g} s, is used. Add it to the sidecar"
        return there, [Finding(text, fatal=False)]
    if not there or abs(here - there) <= _SAME_TR:
        return here, []
    text = (
        f"RepetitionTime is {here:.6g} s in the sidecar and {there:.6g} s in the header. The"
        " sidecar is used, as BIDS requires, because converters derive the header's value from"
        " fields that scanners fill in differently. The run lasts"
        f" {here * n_volumes:.0f} s by the sidecar, {there * n_volumes:.0f} s by the header"
    )
    if last_onset is not None:
        text += f"; its last event begins at {last_onset:.0f} s"
    return here, [Finding(f"{text}. Correct the one that is wrong", fatal=False)]


def settle_echo_time(metadata: Mapping[str, Any]) -> float | None:
    """Read the echo time of a sidecar in s; values above one are milliseconds.

    >>> settle_echo_time({"EchoTime": 0.03}), settle_echo_time({"EchoTime": 30})
    (0.03, 0.03)
    """
    value = metadata.get("EchoTime")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return float(value) / 1000 if value > 1 else float(value)


def settle_slice_axis(
    metadata: Mapping[str, Any], shape: tuple[int, int, int], header_axis: int | None = None
) -> tuple[int, str]:
    """Determine the stored axis along which slices are stacked.

    Parameters
    ----------
    metadata : mapping
        Sidecar.
    shape : tuple of int
        Voxels of one volume.
    header_axis : int, optional
        That of the header (``dim_info``).

    Returns
    -------
    int
        That of ``SliceEncodingDirection``, or else the third. The header's counts if the sidecar
        does not name one, and has as many slice times as there are voxels along that axis, but not
        along the third: software that reorders an image often updates one of the two only.
    str
        What to check; empty if nothing disagrees.

    Examples
    --------
    >>> settle_slice_axis({"SliceEncodingDirection": "j-"}, (64, 30, 64))
    (1, '')
    >>> settle_slice_axis({}, (64, 64, 30))
    (2, '')
    """
    said, times = metadata.get("SliceEncodingDirection"), metadata.get("SliceTiming")
    axis = _AXES.index(said[0]) if said in _DIRECTIONS else 2
    if header_axis is None or header_axis == axis:
        return axis, ""
    there = _AXES[header_axis]
    if said in _DIRECTIONS:
        text = (
            f"slices are stacked along {said[0]} by the sidecar (SliceEncodingDirection) and"
            f" along {there} by the header (dim_info). The sidecar is used; correct the one that"
            " is wrong"
        )
        return axis, text
    text = (
        f"slices are stacked along {there} by the header (dim_info), and the sidecar has no"
        " SliceEncodingDirection; "
    )
    if isinstance(times, list) and shape[header_axis] == len(times) != shape[axis]:
        return header_axis, f"{text}SliceTiming agrees with the header. Add it to the sidecar"
    return axis, f"{text}the third axis, k, is used. Add it to the sidecar"


def settle_slice_times(
    metadata: Mapping[str, Any], n_slices: int, tr: float
) -> tuple[tuple[float, ...], str]:
    """Determine the acquisition time of each slice.

    Parameters
    ----------
    metadata : mapping
        Sidecar.
    n_slices : int
        Slices of one volume, see `settle_slice_axis`.
    tr : float
        Repetition time, s.

    Returns
    -------
    tuple of float
        Times in s in the stored order of the slices; empty if unknown.
    str
        Why they cannot be used; empty if they can.

    Examples
    --------
    >>> settle_slice_times({"SliceTiming": [0, 1], "SliceEncodingDirection": "k-"}, 2, 2)
    ((1.0, 0.0), '')
    """
    then = "slice-timing correction is skipped"
    direction = metadata.get("SliceEncodingDirection", "k")
    said = metadata.get("SliceTiming")
    if said is None:
        return (), f"the sidecar has no SliceTiming; {then}"
    if direction not in _DIRECTIONS:
        return (), f"SliceEncodingDirection {shown(direction)} is not an axis of the image; {then}"
    if not isinstance(said, list) or not all(_is_time(time) for time in said):
        return (), f"SliceTiming is not a list of non-negative times; {then}"
    times = tuple(float(time) for time in said)
    if len(times) != n_slices:
        text = f"SliceTiming has {len(times)} times, the image {n_slices} slices; {then}"
        return (), f"{text}: correct the sidecar"
    if max(times) >= tr:
        text = f"SliceTiming goes up to {max(times):g} s, beyond the repetition time of {tr:g} s"
        if max(times) / 1000 < tr and max(times) > 10:
            text += ", so it is probably in milliseconds; write it in seconds"
        return (), f"{text}; {then}"
    if max(times) == min(times):
        return (), ""  # all slices at once: there is nothing to correct
    return times[::-1] if direction.endswith("-") else times, ""


def _is_time(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf
