"""Repetition time and slice times of a converted series, against the clock of its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuroferry.intake.volumes import Frame, Volumes

_FEWEST = 4  # volumes whose times tell a repetition time
_CLOSE = 0.005  # part of the repetition time within which two are the same
_MOMENT = 0.0125  # s: two slice times are the same; dcm2niix keeps clocks in single precision


def settle_repetition_time(
    content: Mapping[str, Any], volumes: Volumes, n_volumes: int
) -> tuple[float | None, str]:
    """Settle the time from volume to volume of a series.

    The clock of the images is believed where it is steady. Where it is not, it is no evidence, and
    the header's RepetitionTime counts before one that the converter derived from it.

    Parameters
    ----------
    content : mapping
        The sidecar, as the converter wrote it.
    volumes : Volumes
        The headers of the series.
    n_volumes : int
        Volumes of the converted image.

    Returns
    -------
    seconds : float or None
        The repetition time; None if nothing tells it.
    sentence : str
        What was wrong; empty if nothing was.
    """
    written = _positive(content.get("RepetitionTime"))
    if n_volumes < 2:
        return written, ""
    header = volumes.repetition_time
    clock, tolerance = _by_clock(volumes.times(), n_volumes)
    if clock is not None:
        if written is not None and abs(written - clock) <= tolerance:
            if not volumes.planar or header is None or abs(header - clock) <= tolerance:
                return written, ""
            return written, (
                f"RepetitionTime is {written:g} s by the times of its {n_volumes} volumes; the"
                f" header says {header:g} s, which was not used."
            )
        agrees = header is not None and abs(header - clock) <= tolerance
        found = header if agrees and header is not None else round(clock, 4)
        wrote = "none" if written is None else f"{written:g} s"
        return found, (
            f"RepetitionTime is {found:g} s by the times of its {n_volumes} volumes; the converter"
            f" wrote {wrote}, which was replaced."
        )
    if header is None:
        return written, "" if written else (
            "Neither the headers nor the times of its volumes tell the RepetitionTime: add it to"
            " the sidecar."
        )
    if written is None:
        return header, f"RepetitionTime is {header:g} s by the header; the converter wrote none."
    if volumes.planar and abs(written - header) > _CLOSE * header and (0.5 < written / header < 2):
        return header, (
            f"RepetitionTime is {header:g} s by the header; the converter derived {written:g} s"
            " from times that are not steady, which was replaced. Check it against the protocol."
        )
    return written, ""


def settle_slice_times(
    content: Mapping[str, Any], volumes: Volumes, repetition_time: float | None
) -> tuple[list[float] | None, str]:
    """Settle the slice times of a series.

    The converter takes them from the first volume, which may hold those of its single-band
    reference (Siemens XA30, classic export).

    Parameters
    ----------
    content : mapping
        The sidecar, as the converter wrote it.
    volumes : Volumes
        The headers of the series.
    repetition_time : float or None
        The settled repetition time, s.

    Returns
    -------
    times : list of float or None
        Seconds, in the order of the image's slices; None for no slice times.
    sentence : str
        What was wrong; empty if nothing was.
    """
    given = content.get("SliceTiming")
    if not isinstance(given, list) or not given:
        return None, ""
    written = np.array(given, dtype=float)
    each = _each_volume(volumes, len(written))
    later = each[1:]
    if len(later) and _spread(later) <= _MOMENT:
        usual = np.median(later, axis=0)
        if np.max(np.abs(usual - each[0])) > _MOMENT and _order_of(written, usual) is None:
            order = _order_of(written, each[0])
            if order is not None:
                return [round(float(time), 5) for time in usual[order]], (
                    "The slice times of the first volume, which the converter wrote, are not"
                    " those of the others, and were replaced by these."
                )
            return None, (
                "The slice times that the converter wrote are not those of all volumes, and were"
                " left out."
            )
    if repetition_time and float(written.max()) >= repetition_time + 1e-3:
        return None, (
            f"The last slice time ({written.max():g} s) lies after the end of the volume"
            f" ({repetition_time:g} s), so slice times were left out; Siemens XA writes those of"
            " the single-band reference if it exports classic DICOM: export enhanced."
        )
    bands = _positive(content.get("MultibandAccelerationFactor")) or 1
    distinct = len(np.unique(np.round(written / 0.002)))
    if bands > 1 and distinct > np.ceil(len(written) / bands):
        return None, (
            f"{distinct} slice times cannot be those of {len(written)} slices of which"
            f" {bands:g} are taken at once, so slice times were left out."
        )
    return [float(time) for time in given], ""


def _by_clock(times: np.ndarray, n_volumes: int) -> tuple[float | None, float]:
    """Tell the repetition time by the clock, and how exact it is; None if it is not steady."""
    if len(times) != n_volumes or n_volumes < _FEWEST:
        return None, 0.0
    step = float(times[-1] - times[0]) / (n_volumes - 1)
    whole = bool(np.all(times == np.round(times)))
    coarse = 1.0 if whole else 0.01  # what one reading of the clock may be off
    if step <= 0.05:
        return None, 0.0
    off = np.abs(times - times[0] - step * np.arange(n_volumes))
    if off.max() >= max(coarse, 0.02 * step):
        return None, 0.0
    return step, max(_CLOSE * step, coarse / (n_volumes - 1))


def _each_volume(volumes: Volumes, n_slices: int) -> np.ndarray:
    """Read the slice times of each volume from the headers, shape (V, K), places ascending."""
    stacks = volumes.stacks()
    if not stacks:
        return np.empty((0, n_slices))
    places = stacks[min(stacks)]
    if volumes.whole:
        rows = [frame.slice_times for frames in places.values() for frame in frames]
        if any(len(row) != n_slices for row in rows):
            return np.empty((0, n_slices))
        return np.array(rows)
    if len(places) != n_slices or None in places:
        return np.empty((0, n_slices))
    table = _clocks([places[place] for place in sorted(places, key=lambda place: place or 0.0)])
    if table is None or np.ptp(table[0]) == 0:
        return np.empty((0, n_slices))
    return np.array(table - table.min(axis=1, keepdims=True))


def _clocks(rows: Sequence[Sequence[Frame]]) -> np.ndarray | None:
    """Arrange times of acquisition by volume and slice, in seconds; None if any is unknown."""
    by_volume: dict[int, list[float]] = defaultdict(list)
    first = rows[0][0].acquired
    if first is None or len({len(row) for row in rows}) > 1:
        return None
    for row in rows:
        for number, frame in enumerate(row):
            if frame.acquired is None:
                return None
            by_volume[number].append((frame.acquired - first).total_seconds())
    return np.array([by_volume[number] for number in sorted(by_volume)])


def _order_of(written: np.ndarray, first: np.ndarray) -> slice | None:
    """Tell in which order the converter wrote the first volume's times."""
    for order in (slice(None), slice(None, None, -1)):
        if np.max(np.abs(written - first[order])) <= _MOMENT:
            return order
    return None


def _spread(later: np.ndarray) -> float:
    return float(np.max(np.abs(later - np.median(later, axis=0))))


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None
