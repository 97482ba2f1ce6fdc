"""Volumes of a series, from the headers of its objects: where and when each slice was taken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from neuroferry.intake.headers import (
    image_type_of,
    moment,
    open_header,
    planned_volumes,
    text_of,
    whole_of,
)
from neuroferry.intake.model import Series

#: b values of vendors: group, private creator, element; Siemens, GE, UIH.
_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x0065, "Image Private Header", 0x09),
)
_SLICE_TIMES = (0x0019, "SIEMENS MR HEADER", 0x29)
_READ = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "Manufacturer", "SeriesDescription"),
    *("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "TriggerTime"),
    *("TemporalPositionIdentifier", "NumberOfTemporalPositions", "ImagePositionPatient"),
    *("ImageOrientationPatient", "EchoNumbers", "EchoTime", "InstanceNumber"),
    *("AcquisitionNumber", "RepetitionTime", "MRAcquisitionType", "DiffusionBValue"),
    *("ComplexImageComponent", "NumberOfFrames", "Rows", "Columns"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_PRIVATE = tuple(
    tag
    for group, element in (
        *((group, element) for group, _, element in (*_B_VALUES, _SLICE_TIMES)),
        *((0x0029, 0x20), (0x0021, 0x19)),  # Siemens' protocol
    )
    for tag in (Tag(group, 0x10), Tag(group, 0x11), Tag(group, 0x1000 + element))
)
#: Word of ImageType that says which part of a complex image a frame is.
_PARTS = {"P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "R": "real", "REAL": "real"} | {
    "I": "imag",
    "IMAGINARY": "imag",
}
#: Objects that hold a whole volume each, by a word of ImageType: Siemens, UIH.
_WHOLE = ("MOSAIC", "VFRAME")


@dataclass(frozen=True)
class Frame:
    """One slice, or one mosaic, as its header describes it.

    Attributes
    ----------
    path : pathlib.Path
        Its file.
    part : str
        ``"mag"``, ``"phase"``, ``"real"`` or ``"imag"``.
    echo : float
        Echo time, ms; else the number of the echo; 0 if neither is known.
    place : float or None
        Position along the normal of the slices, mm; None if unknown or if the object holds a
        whole volume.
    normal : tuple of float or None
        Normal of the slice, rounded.
    acquired : datetime.datetime or None
        Time of its acquisition.
    order : tuple of int
        Temporal position, acquisition number, instance number, number of the frame.
    b_value : float or None
        s/mm².
    """

    path: Path
    part: str
    echo: float
    place: float | None
    normal: tuple[float, ...] | None
    acquired: datetime | None
    order: tuple[int, ...]
    b_value: float | None
    slice_times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Volumes:
    """What the headers of a series say about its volumes.

    Attributes
    ----------
    frames : tuple of Frame
        All frames, in the order of acquisition numbers.
    whole : bool
        Whether each object holds a whole volume (mosaic).
    enhanced : bool
        Whether the objects are enhanced ones of several frames.
    repetition_time : float or None
        RepetitionTime of the header, s.
    planar : bool or None
        Whether slices were excited one by one ("2D"); None if not said.
    planned : int or None
        Volumes that the protocol planned, if it says so.
    scrambled : bool
        Whether dcm2niix would take slices for volumes: several volumes in one enhanced object of
        Siemens whose orientation is said once for all frames, as converters to enhanced write it.
    """

    frames: tuple[Frame, ...]
    whole: bool
    enhanced: bool
    repetition_time: float | None
    planar: bool | None
    planned: int | None
    scrambled: bool = False

    def stacks(self) -> dict[tuple[str, float], dict[float | None, list[Frame]]]:
        """Group frames by part and echo, then by place; in order of time within."""
        found: dict[tuple[str, float], dict[float | None, list[Frame]]]
        found = defaultdict(lambda: defaultdict(list))
        for frame in self.frames:
            found[frame.part, frame.echo][frame.place].append(frame)
        return {key: dict(places) for key, places in found.items()}

    def count(self) -> int:
        """Tell the number of volumes: what most places have, of the fullest part and echo."""
        return max(
            (
                Counter(map(len, places.values())).most_common(1)[0][0]
                for places in self.stacks().values()
            ),
            default=0,
        )

    def times(self) -> np.ndarray:
        """Tell when each volume of the first echo was taken, in seconds after the first.

        The same slice of each volume is compared: the place that was taken first.

        Returns
        -------
        numpy.ndarray of float64, shape (V,)
            Empty if any time is unknown.
        """
        stacks = self.stacks()
        if not stacks:
            return np.empty(0)
        places = stacks[min(stacks)]
        full = max(map(len, places.values()))
        clocks = [
            [frame.acquired for frame in frames]
            for frames in places.values()
            if len(frames) == full
        ]
        known = [[clock for clock in row if clock is not None] for row in clocks]
        if any(len(row) != full for row in known) or not known:
            return np.empty(0)
        first = min(known)
        return np.array([(clock - first[0]).total_seconds() for clock in first])


def read_volumes(series: Series) -> Volumes:
    """Read the headers of all objects of a series.

    Raises
    ------
    InputError
        If a file cannot be read any more.
    """
    frames: list[Frame] = []
    planned = repetition = planar = None
    shared_orientation = False
    words: tuple[str, ...] = ()
    for instance in series.instances:
        with open_header(instance.path, specific_tags=[*_READ, *_PRIVATE]) as header:
            frames += _frames(instance.path, header)
            if instance is series.first:
                words = image_type_of(header)
                repetition, planar = _timing(header)
                siemens = "SIEMENS" in text_of(header, "Manufacturer").upper()
                shared_orientation = siemens and any(
                    "PlaneOrientationSequence" in group
                    for group in header.get("SharedFunctionalGroupsSequence") or ()
                )
                planned = (
                    planned_volumes(header, words)
                    if siemens
                    else whole_of(header, "NumberOfTemporalPositions")
                )
    frames.sort(key=lambda frame: frame.order)
    found = Volumes(
        tuple(frames),
        whole=any(word in words for word in _WHOLE),
        enhanced=series.first.n_frames > 1,
        repetition_time=repetition,
        planar=planar,
        planned=planned,
    )
    scrambled = shared_orientation and found.enhanced and found.count() > 1
    return replace(found, scrambled=scrambled)


def part_of(words: Sequence[str]) -> str:
    """Tell which part of a complex image ImageType names.

    >>> part_of(("ORIGINAL", "PRIMARY", "P", "ND")), part_of(("ORIGINAL", "PRIMARY", "M"))
    ('phase', 'mag')
    """
    return next((_PARTS[word] for word in words[2:] if word in _PARTS), "mag")


def _timing(header: Dataset) -> tuple[float | None, bool | None]:
    milliseconds = _number(header.get("RepetitionTime"))
    kind = text_of(header, "MRAcquisitionType")
    for group in header.get("SharedFunctionalGroupsSequence") or ():
        for timing in group.get("MRTimingAndRelatedParametersSequence") or ():
            milliseconds = milliseconds or _number(timing.get("RepetitionTime"))
    return (milliseconds / 1000 if milliseconds else None), (kind == "2D" if kind else None)


def _frames(path: Path, header: Dataset) -> list[Frame]:
    words = image_type_of(header)
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame:
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        number = whole_of(header, "InstanceNumber") or 0
        return [
            _enhanced(path, words, group, shared, (number, place))
            for place, group in enumerate(per_frame)
        ]
    clock = moment(text_of(header, "AcquisitionDate"), text_of(header, "AcquisitionTime"))
    if clock is None:
        whole = text_of(header, "AcquisitionDateTime")
        clock = moment(whole[:8], whole[8:])
    component = text_of(header, "ComplexImageComponent")
    order = [
        whole_of(header, name) or 0
        for name in ("TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber")
    ]
    place, normal = _place(
        header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    )
    if any(word in words for word in _WHOLE):
        place = None
    times = _private(header, *_SLICE_TIMES)
    return [
        Frame(
            path,
            _PARTS.get(component, part_of(words)),
            _number(header.get("EchoTime")) or float(whole_of(header, "EchoNumbers") or 0),
            place,
            normal,
            clock,
            (*order, 0),
            _b_value(header),
            tuple(float(value) / 1000 for value in times) if _is_list(times) else (),
        )
    ]


def _enhanced(
    path: Path, words: tuple[str, ...], group: Dataset, shared: Dataset, order: tuple[int, int]
) -> Frame:
    def first(name: str) -> Dataset:
        found: Dataset = (group.get(name) or shared.get(name) or [Dataset()])[0]
        return found

    content = first("FrameContentSequence")
    kinds = text_of(first("MRImageFrameTypeSequence"), "FrameType").split("\\")
    component = text_of(first("MRImageFrameTypeSequence"), "ComplexImageComponent")
    place, normal = _place(
        first("PlanePositionSequence").get("ImagePositionPatient"),
        first("PlaneOrientationSequence").get("ImageOrientationPatient"),
    )
    diffusion = first("MRDiffusionSequence")
    clock = text_of(content, "FrameAcquisitionDateTime")
    return Frame(
        path,
        _PARTS.get(component, part_of(kinds if len(kinds) > 2 else words)),
        _number(first("MREchoSequence").get("EffectiveEchoTime")) or 0.0,
        place,
        normal,
        moment(clock[:8], clock[8:]),
        (
            whole_of(content, "TemporalPositionIndex") or 0,
            whole_of(content, "FrameAcquisitionNumber") or 0,
            *order,
        ),
        _number(diffusion.get("DiffusionBValue")),
    )


def _place(position: Any, orientation: Any) -> tuple[float | None, tuple[float, ...] | None]:
    try:
        axes = np.array([float(value) for value in orientation]).reshape(2, 3)
        normal = np.cross(axes[0], axes[1])
        rounded = tuple(float(value) + 0.0 for value in np.round(normal, 2))
        where = float(np.array([float(value) for value in position]) @ normal)
    except (TypeError, ValueError):
        return None, None
    return round(where, 2), rounded


def _b_value(header: Dataset) -> float | None:
    standard = _number(header.get("DiffusionBValue"))
    if standard is not None:
        return standard
    for group, creator, element in _B_VALUES:
        value = _private(header, group, creator, element)
        if value is not None:
            number = _number(value[0] if _is_list(value) else value)
            # GE adds 1e9 and more to it
            return number % 100000 if number is not None else None
    return None


def _private(header: Dataset, group: int, creator: str, element: int) -> Any:
    try:
        return header.private_block(group, creator)[element].value
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
