"""A participant's BOLD images, grouped into runs, with checks of their headers and sidecars.

The echoes of a BOLD run are one run here. Where header and sidecar disagree, `examine_run`
decides, in one place, so that the messages before processing match the processing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from neuroferry.bids.entities import build_name, common_entities
from neuroferry.bids.headers import ImageFacts, read_header
from neuroferry.bids.metadata import shown
from neuroferry.bids.model import OTHER_PARTS, Finding, Image, Problem, Subject, as_problem
from neuroferry.bids.sbref import settle_sbref
from neuroferry.bids.tables import Table, read_number, read_table
from neuroferry.errors import InputError

MIN_VOLUMES = 5
#: Repetition times closer than this (s) are the same, written with fewer digits.
_SAME_TR = 2e-3
_LONGEST_TR = 100.0
_AXES = {"i": 0, "j": 1, "k": 2}
_EVENT_COLUMNS = ("onset", "duration")


@dataclass(frozen=True)
class BoldRun:
    """One BOLD run, with one or more echoes.

    Attributes
    ----------
    echoes : tuple of Image
        The images, the shortest echo first.
    shape : tuple of int
        Voxels of one volume along the stored axes.
    zooms : tuple of float
        Voxel size, mm.
    n_volumes : int
        Number of volumes.
    tr : float
        Time from one volume to the next, s.
    slice_times : tuple of float
        Acquisition time of each slice, s, in the stored order; empty if unknown.
    slice_axis : int
        Stored axis along which slices are stacked.
    echo_times : tuple of float
        Echo times, s; empty for one echo.
    sbref : Path or None
        Single-band reference on the grid of the run.
    task_name : str
        ``TaskName`` of the sidecar, or else the task label; empty without either.
    """

    echoes: tuple[Image, ...]
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    n_volumes: int
    tr: float
    slice_times: tuple[float, ...] = ()
    slice_axis: int = 2
    echo_times: tuple[float, ...] = ()
    sbref: Path | None = None
    task_name: str = ""

    @property
    def reference(self) -> Image:
        """The shortest echo, from which motion and distortion are estimated."""
        return self.echoes[0]

    @property
    def session(self) -> str | None:
        """The session's label, without ``ses-``."""
        return self.reference.session

    @property
    def entities(self) -> dict[str, str]:
        """The entities of the run, without ``echo``."""
        return run_entities(self.echoes)

    @property
    def label(self) -> str:
        """Name of the run in a graph: its entities other than participant and session."""
        return "_".join(
            f"{key}_{value.replace('+', 'plus')}"
            for key, value in self.entities.items()
            if key not in ("subject", "session")
        )


def group_echoes(runs: Iterable[Image]) -> list[tuple[Image, ...]]:
    """Group the echoes of each BOLD run; phase and complex parts are skipped.

    Examples
    --------
    >>> runs = [
    ...     Image(Path(f"e{n}"), {"task": "rest", "echo": str(n)}, "bold", "func") for n in (2, 1)
    ... ]
    >>> [[run.path.name for run in echoes] for echoes in group_echoes(runs)]
    [['e1', 'e2']]
    """
    groups: dict[tuple[tuple[str, str], ...], list[Image]] = {}
    for run in runs:
        if run.suffix != "bold" or run.entities.get("part") in OTHER_PARTS:
            continue
        key = tuple(sorted((k, v) for k, v in run.entities.items() if k != "echo"))
        groups.setdefault(key, []).append(run)
    return [tuple(sorted(group, key=_echo_order)) for group in groups.values()]


def run_entities(echoes: Sequence[Image]) -> dict[str, str]:
    """Find the entities that the echoes of a run share."""
    return {k: v for k, v in common_entities([e.entities for e in echoes]).items() if k != "echo"}


def _echo_order(run: Image) -> tuple[float, int]:
    time = run.metadata.get("EchoTime")
    index = run.entities.get("echo", "0")
    seconds = float(time) if isinstance(time, int | float) else math.inf
    return seconds, int(index) if index.isdigit() else 0


class CheckedBold(NamedTuple):
    """BOLD runs of a participant, and their problems.

    Attributes
    ----------
    runs : list of BoldRun
        Those that can be processed, in the order of their names.
    problems : list of Problem
        Their problems, each about one run.
    unusable : set of Path
        Images that cannot be used.
    """

    runs: list[BoldRun]
    problems: list[Problem]
    unusable: set[Path]


def check_bold(subject: Subject, *, ignore: Collection[str] = ()) -> CheckedBold:
    """Read and check a participant's BOLD runs.

    Parameters
    ----------
    subject : Subject
        Participant whose images can be read.
    ignore : collection of str
        ``slicetiming`` ignores the slice times, ``sbref`` single-band references.

    Returns
    -------
    CheckedBold
    """
    groups = group_echoes(subject.select("func", "bold"))
    most = max((len(echoes) for echoes in groups), default=0)
    axes: dict[tuple[Image, ...], str] = {}
    checked = CheckedBold([], [], set())
    for echoes in groups:
        run, findings = examine_run(echoes, subject.select("func", "sbref"), ignore=ignore)
        findings += [Finding(text, fatal=False) for text in _missing_echoes(echoes, most)]
        if run is None:
            checked.unusable.update(echo.path for echo in echoes)
        else:
            checked.runs.append(run)
            axes[echoes] = read_header(run.reference.path).axes
            findings += [Finding(text, fatal=False) for text in _event_findings(run)]
        checked.problems.extend(as_problem(echoes[0], finding) for finding in findings)
    checked.problems.extend(_odd_orientations(axes))
    return checked


def examine_run(
    echoes: Sequence[Image], references: Sequence[Image] = (), *, ignore: Collection[str] = ()
) -> tuple[BoldRun | None, list[Finding]]:
    """Determine the properties of a run from headers and sidecars.

    Parameters
    ----------
    echoes : sequence of Image
        The images of one run, the shortest echo first.
    references : sequence of Image
        Single-band references of the participant.
    ignore : collection of str
        As for `check_bold`.

    Returns
    -------
    BoldRun or None
        None if it cannot be processed.
    list of Finding
        Its problems, in plain sentences.
    """
    try:
        facts = [read_header(echo.path) for echo in echoes]
    except InputError as error:
        return None, [Finding(str(error), fatal=True)]
    findings = [*_shape_findings(facts), *_echo_findings(echoes)]
    if any(finding.fatal for finding in findings):
        return None, findings
    first, metadata = facts[0], echoes[0].metadata
    n_volumes = first.shape[3]
    tr, tr_findings = settle_tr(metadata, first.tr, n_volumes, _last_onset(echoes))
    findings += tr_findings
    if tr is None:
        return None, findings
    times, axis, text = settle_slice_times(metadata, first.volume_shape, tr)
    if "slicetiming" in ignore:
        times = ()
    elif text:
        findings.append(Finding(text, fatal=False))
    sbref, text = (None, "") if "sbref" in ignore else settle_sbref(echoes, references)
    if text:
        findings.append(Finding(text, fatal=False))
    run = BoldRun(
        tuple(echoes),
        first.volume_shape,
        first.voxel_size,
        n_volumes,
        tr,
        times,
        axis,
        tuple(_echo_time(echo) or 0.0 for echo in echoes) if len(echoes) > 1 else (),
        sbref,
        str(metadata.get("TaskName") or echoes[0].entities.get("task") or ""),
    )
    return run, findings


def _shape_findings(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    shape = facts[0].shape
    if len(shape) < 4 or shape[3] == 1:
        yield Finding(
            "the image has only one volume and is not a time series; find the rest of the run, or"
            " give it the suffix sbref",
            fatal=True,
        )
    elif shape[3] < MIN_VOLUMES:
        yield Finding(
            f"the run has {shape[3]} volumes; at least {MIN_VOLUMES} are needed for processing",
            fatal=True,
        )
    others = {fact.shape for fact in facts[1:]} - {shape}
    if others:
        sizes = " and ".join(" x ".join(str(n) for n in other) for other in sorted(others))
        yield Finding(
            f"the echoes of the run differ in size ({' x '.join(str(n) for n in shape)} and"
            f" {sizes}); convert the run again",
            fatal=True,
        )


def _echo_time(run: Image) -> float | None:
    """Read the echo time in s; values above one second are milliseconds."""
    value = run.metadata.get("EchoTime")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return float(value) / 1000 if value > 1 else float(value)


def _echo_findings(echoes: Sequence[Image]) -> Iterator[Finding]:
    if len(echoes) < 2:
        return
    times = [_echo_time(echo) for echo in echoes]
    without = [echo.path.name for echo, time in zip(echoes, times, strict=True) if time is None]
    if without:
        yield Finding(
            f"the sidecar of {' and '.join(without)} has no EchoTime, which is needed to combine"
            " the echoes; add it, or choose one echo with --echo-idx",
            fatal=True,
        )
    elif len(set(times)) < len(times):
        yield Finding(
            f"the echoes of the run have the same EchoTime ({times[0]:g} s); correct the sidecars,"
            " or choose one echo with --echo-idx",
            fatal=True,
        )


def _missing_echoes(echoes: Sequence[Image], most: int) -> Iterator[str]:
    """Report missing echoes, by their numbers or by comparison with the other runs."""
    there = sorted(int(e.entities.get("echo", "0")) for e in echoes if _has_number(e))
    if not there or (len(there) == 1 and most == 1):
        return
    missing = [n for n in range(1, max(*there, most) + 1) if n not in there]
    if not missing:
        return
    names = ", ".join(f"echo-{n}" for n in missing)
    have = ", ".join(f"echo-{n}" for n in there)
    then = (
        "the available echoes are combined"
        if len(there) > 1
        else "it is processed as a run of one echo"
    )
    yield f"{names} of the run is missing (available: {have}); {then}"


def _has_number(run: Image) -> bool:
    return run.entities.get("echo", "").isdigit()


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
    there = there if math.isfinite(there) and there > 0 else 0.0
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


def settle_slice_times(
    metadata: Mapping[str, Any], shape: tuple[int, int, int], tr: float
) -> tuple[tuple[float, ...], int, str]:
    """Determine the acquisition time of each slice.

    Parameters
    ----------
    metadata : mapping
        Sidecar.
    shape : tuple of int
        Voxels of one volume.
    tr : float
        Repetition time, s.

    Returns
    -------
    tuple of float
        Times in s in the stored order of the slices; empty if unknown.
    int
        Slice axis.
    str
        Why they cannot be used; empty if they can.

    Examples
    --------
    >>> settle_slice_times({"SliceTiming": [0, 1], "SliceEncodingDirection": "k-"}, (9, 9, 2), 2)
    ((1.0, 0.0), 2, '')
    """
    then = "slice-timing correction is skipped"
    direction = str(metadata.get("SliceEncodingDirection", "k"))
    axis = _AXES.get(direction[:1], 2)
    said = metadata.get("SliceTiming")
    if said is None:
        return (), axis, f"the sidecar has no SliceTiming; {then}"
    if direction not in ("i", "i-", "j", "j-", "k", "k-"):
        return (
            (),
            axis,
            f"SliceEncodingDirection {shown(direction)} is not an axis of the image; {then}",
        )
    if not isinstance(said, list) or not all(_is_time(time) for time in said):
        return (), axis, f"SliceTiming is not a list of non-negative times; {then}"
    times = tuple(float(time) for time in said)
    if len(times) != shape[axis]:
        text = f"SliceTiming has {len(times)} times, the image {shape[axis]} slices; {then}"
        return (), axis, f"{text}: correct the sidecar"
    if max(times) >= tr:
        text = f"SliceTiming goes up to {max(times):g} s, beyond the repetition time of {tr:g} s"
        if max(times) / 1000 < tr and max(times) > 10:
            text += ", so it is probably in milliseconds; write it in seconds"
        return (), axis, f"{text}; {then}"
    if max(times) == min(times):
        return (), axis, ""  # all slices at once: there is nothing to correct
    return times[::-1] if direction.endswith("-") else times, axis, ""


def _is_time(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf


def events_file(echoes: Sequence[Image]) -> Path | None:
    """Find the events file of a run, next to its images."""
    name = build_name(run_entities(echoes), "events", ".tsv")
    path = echoes[0].path.with_name(name)
    return path if os.path.lexists(path) else None


def _onsets(table: Table) -> Iterator[tuple[int, float | None]]:
    """Yield line number and onset (s) of each event; None where it is not a number."""
    for line, cell in table.column("onset"):
        yield line, read_number(cell)


def _last_onset(echoes: Sequence[Image]) -> float | None:
    path = events_file(echoes)
    try:
        table = None if path is None else read_table(path)
    except InputError:
        return None  # reported with the other findings about its events
    if table is None or "onset" not in table.columns:
        return None
    times = (time for _, time in _onsets(table) if time is not None and math.isfinite(time))
    return max(times, default=None)


def _event_findings(run: BoldRun) -> Iterator[str]:
    path = events_file(run.echoes)
    if path is None:
        return
    then = "The run is processed, but analyses cannot read its events"
    try:
        table = read_table(path)
    except InputError as error:
        yield f"{error}. {then}"
        return
    yield from (f"its events file {path.name}: {note}" for note in table.notes)
    missing = [name for name in _EVENT_COLUMNS if name not in table.columns]
    if missing:
        yield (
            f"its events file {path.name} has the columns {', '.join(table.columns) or 'none'},"
            f" but not {' and '.join(missing)}, which BIDS requires. {then}"
        )
        return
    count = late = wrong = 0
    for line, time in _onsets(table):
        count += 1
        if time is None:
            wrong = wrong or line
        elif time > run.n_volumes * run.tr:
            late += 1
    if not count:
        yield f"its events file {path.name} contains no events"
    elif wrong:
        yield (
            f"its events file {path.name} has an onset that is not a number in line {wrong};"
            " correct it before an analysis"
        )
    if late:
        yield (
            f"{late} of {count} events in {path.name} begin after the end of the run"
            f" ({run.n_volumes * run.tr:.0f} s); check the repetition time, and whether image"
            " and events belong together"
        )


def _odd_orientations(axes: Mapping[tuple[Image, ...], str]) -> Iterator[Problem]:
    """Warn about runs stored in a different orientation from most."""
    if len(set(axes.values())) < 2:
        return
    stored = list(axes.values())
    usual = max(sorted(set(stored)), key=stored.count)
    for echoes, found in axes.items():
        if found != usual:
            text = (
                f"the image is stored in {found} orientation, the other runs in {usual}; it is"
                " processed in its own orientation. Check that PhaseEncodingDirection and"
                " SliceTiming apply to this run: a sidecar that several runs share cannot be"
                " right for both orientations"
            )
            yield as_problem(echoes[0], Finding(text, fatal=False))
