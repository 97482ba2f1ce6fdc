"""What is wrong with a series, by its headers: whose it is, what is missing, what is twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from neuroferry.intake.labels import patient_of
from neuroferry.intake.model import Fate, Series
from neuroferry.intake.volumes import Frame, Volumes

_FEWEST = 3  # volumes whose numbers tell the usual step between two
_GAP = 1.5  # times the usual step: between two slices or volumes, something is missing


@dataclass(frozen=True)
class Findings:
    """What the headers of a series say about its state.

    Attributes
    ----------
    volumes : Volumes
        Its volumes, without frames that are left out.
    left_out : frozenset of pathlib.Path
        Objects that are not converted: duplicates, and those of an incomplete last volume.
    warnings : tuple of str
        What is doubtful, as sentences.
    fate, reason : str
        Why it is not placed; an empty reason if it may be.
    """

    volumes: Volumes
    left_out: frozenset[Path] = frozenset()
    warnings: tuple[str, ...] = ()
    fate: Fate = "placed"
    reason: str = ""


def check_patient(series: Series) -> str:
    """Check that all objects are of one patient; a sentence if not.

    Parameters
    ----------
    series : Series
        Patient ID, name and birth date of all its objects are compared.
    """
    for what, found in (
        (
            "PatientID",
            {patient_of(one) for one in series.instances}
            if series.first.patient_id
            else {one.patient_id for one in series.instances},
        ),
        ("PatientName", {_plain(one.patient_name) for one in series.instances}),
        ("PatientBirthDate", {one.birth_date for one in series.instances}),
    ):
        if len(found) > 1:
            return (
                f"Its objects are of {len(found)} patients by {what}: they were mixed on their"
                " way; send the series of each patient again."
            )
    return ""


def check_objects(series: Series, volumes: Volumes) -> Findings:
    """Check that nothing of a series is missing or there twice.

    Parameters
    ----------
    series : Series
        The series.
    volumes : Volumes
        Its headers.

    Returns
    -------
    Findings
    """
    orientations = {frame.normal for frame in volumes.frames if frame.normal}
    if len(_apart(orientations)) > 1:
        return Findings(
            volumes,
            fate="set aside",
            reason=f"Its slices have {len(_apart(orientations))} orientations, as a localiser.",
        )
    if volumes.scrambled:
        return Findings(
            volumes,
            fate="unassigned",
            reason="dcm2niix would mix up its slices and volumes: several volumes in one enhanced"
            " object of Siemens, whose orientation is written once for all. Export it as the"
            " scanner does, or as classic DICOM.",
        )
    doubles, reason = _find_doubles(series, volumes)
    if reason:
        return Findings(volumes, fate="refused", reason=reason)
    warnings = []
    if doubles:
        warnings.append(f"{_count(len(doubles), 'object')} came twice; one of each was used.")
    kept = _without(volumes, doubles)
    partial, reason = _find_missing(kept)
    if reason:
        return Findings(kept, doubles, tuple(warnings), "refused", reason)
    if partial:
        if kept.count() < 1 or len(partial) == len(kept.frames):
            return Findings(kept, doubles, tuple(warnings), "refused", "No volume is complete.")
        warnings.append(
            f"The last volume has {len(partial)} of its slices only and was left out: the run was"
            " stopped, or images are missing."
        )
    kept = _without(kept, partial)
    reason = _missing_volumes(kept)
    if reason:
        return Findings(kept, doubles, tuple(warnings), "refused", reason)
    warnings += [*_missing_first(kept), *_check_planned(kept)]
    return Findings(kept, doubles | partial, tuple(warnings))


def _check_planned(volumes: Volumes) -> list[str]:
    planned, found = volumes.planned, volumes.count()
    if planned and 1 <= found < planned:
        return [
            f"{_count(found, 'volume')} of the {planned} that were planned: the run was stopped,"
            " or images are missing at its end."
        ]
    return []


def _find_doubles(series: Series, volumes: Volumes) -> tuple[frozenset[Path], str]:
    """Find objects that are there twice; a sentence if two of them contradict each other."""
    doubles: set[Path] = set()
    known: dict[str, Path] = {}
    for instance in series.instances:
        first = known.setdefault(instance.sop_uid, instance.path)
        if first != instance.path:
            if _pixels(first) != _pixels(instance.path):
                return frozenset(), "Two objects with the same UID have different pixels."
            doubles.add(instance.path)
    if volumes.enhanced:
        return frozenset(doubles), ""
    alike: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in volumes.frames:
        if frame.path not in doubles:
            key = (frame.part, frame.echo, frame.place, frame.acquired, frame.order, frame.b_value)
            alike[key].append(frame)
    for first_frame, *others in alike.values():
        for frame in others:
            if _pixels(first_frame.path) != _pixels(frame.path):
                return frozenset(), (
                    f"Two images claim to be number {frame.order[2]} of the series, at the same"
                    " place and time, and differ."
                )
            doubles.add(frame.path)
    return frozenset(doubles), ""


def _find_missing(volumes: Volumes) -> tuple[frozenset[Path], str]:
    """Find the slices of an incomplete last volume; a sentence if others are missing."""
    if volumes.whole:
        return frozenset(), ""
    partial: set[Path] = set()
    for places in volumes.stacks().values():
        steps = np.diff(sorted(place for place in places if place is not None))
        if len(steps) > 2:
            holes = np.flatnonzero(steps > _GAP * np.median(steps))
            if len(holes):
                return frozenset(), (
                    f"Slices are missing: between {_count(len(holes), 'pair')} of neighbours the"
                    f" distance is more than the usual {np.median(steps):.2f} mm."
                )
        counts = Counter(map(len, places.values()))
        if len(counts) == 1:
            continue
        most = max(counts)
        last = [frames[most - 1] for frames in places.values() if len(frames) == most]
        everything = [frame for frames in places.values() for frame in frames]
        if min(counts) < most - 1 or not _at_the_end(volumes, everything, most):
            lost = sum(most - len(frames) for frames in places.values())
            verb = "is" if lost == 1 else "are"
            return frozenset(), (
                f"{_count(lost, 'image')} of {most} volumes {verb} missing, and not only in the"
                " last one: send the series again."
            )
        if volumes.enhanced:
            return frozenset(), "The last volume within its enhanced object is incomplete."
        partial |= {frame.path for frame in last}
    return frozenset(partial), ""


def _at_the_end(volumes: Volumes, frames: list[Frame], most: int) -> bool:
    """Check that slices are missing in the last volume alone.

    Parameters
    ----------
    volumes : Volumes
        All frames of the series.
    frames : list of Frame
        Those of one part and echo.
    most : int
        Volumes of the places that have most.
    """
    for place in (0, 1):  # temporal position, acquisition number
        slices = Counter(frame.order[place] for frame in frames)
        if len(slices) == most:
            last = slices.pop(max(slices))
            return len(set(slices.values())) <= 1 and last <= min(slices.values(), default=last)
    numbers = {frame.order[2] for frame in volumes.frames}
    return max(numbers) - min(numbers) + 1 == len(volumes.frames)


def _missing_volumes(volumes: Volumes) -> str:
    """Find volumes missing between others; a sentence if there are any.

    Their numbers are skipped by all images, and the clock, where it runs, skips them as well.
    """
    used = {frame.order[2] for frame in volumes.frames}
    for places in volumes.stacks().values():
        numbers, clocks = _numbered_row(places)
        if not len(numbers):
            continue
        steps = np.diff(numbers)
        usual = Counter(steps.tolist()).most_common(1)[0][0]
        late = np.ones(len(steps), dtype=bool)
        if len(clocks) and np.median(np.diff(clocks)) > 0:
            late = np.diff(clocks) > _GAP * np.median(np.diff(clocks))
        lost = sum(
            len(skipped)
            for before, step in zip(numbers[:-1][late], steps[late], strict=True)
            if used.isdisjoint(skipped := range(before + usual, before + step, usual))
        )
        if lost:
            return (
                f"{_count(lost, 'volume')} within the series {'is' if lost == 1 else 'are'}"
                " missing, so its times would be wrong: send the series again."
            )
    return ""


def _missing_first(volumes: Volumes) -> list[str]:
    """Say that volumes may be missing before the first one, by its number."""
    for places in volumes.stacks().values():
        numbers, _ = _numbered_row(places)
        if len(numbers):
            usual = Counter(np.diff(numbers).tolist()).most_common(1)[0][0]
            first = min(frame.order[2] for frame in volumes.frames)
            lost = (first - 1) // usual
            return [
                f"Its first image is number {first}: {_count(lost, 'volume')} before it may be"
                " missing."
            ] * (lost > 0)
    return []


def _numbered_row(
    places: dict[float | None, list[Frame]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read numbers, ascending, and times (s) of the images at one place; empty if not known."""
    row = max(places.values(), key=lambda frames: len(frames))
    frames = sorted(row, key=lambda frame: frame.order[2])
    numbers = np.array([frame.order[2] for frame in frames], dtype=np.int64)
    if len(numbers) < _FEWEST or np.any(np.diff(numbers) < 1):
        return np.empty(0, dtype=np.int64), np.empty(0)
    known = [frame.acquired for frame in frames if frame.acquired]
    if len(known) < len(frames):
        return numbers, np.empty(0)
    return numbers, np.array([(clock - known[0]).total_seconds() for clock in known])


def _without(volumes: Volumes, paths: frozenset[Path]) -> Volumes:
    if not paths:
        return volumes
    return replace(
        volumes, frames=tuple(frame for frame in volumes.frames if frame.path not in paths)
    )


def _pixels(path: Path) -> bytes:
    header = pydicom.dcmread(path, force=True)
    return bytes(header.get("PixelData", b""))


def _apart(normals: set[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Keep one of several normals that are alike up to rounding."""
    found: list[tuple[float, ...]] = []
    for normal in sorted(normals):
        if all(abs(float(np.dot(normal, other))) < 0.99 for other in found):
            found.append(normal)
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("^", " ").split()).casefold()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
