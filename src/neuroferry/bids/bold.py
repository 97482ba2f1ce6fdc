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
from typing import NamedTuple

from neuroferry.bids.echoes import echo_findings, missing_echoes
from neuroferry.bids.entities import build_name, common_entities, in_node_name
from neuroferry.bids.headers import ImageFacts, read_header
from neuroferry.bids.model import OTHER_PARTS, Finding, Image, Problem, Subject, as_problem
from neuroferry.bids.sbref import settle_sbref, without_run
from neuroferry.bids.tables import Table, read_number, read_table
from neuroferry.bids.timing import (
    settle_echo_time,
    settle_slice_axis,
    settle_slice_times,
    settle_tr,
)
from neuroferry.bids.volumes import all_the_same, judge_volumes
from neuroferry.errors import InputError

MIN_VOLUMES = 5
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
    unusable_volumes : tuple of int
        Volumes without a usable image in one of the echoes, from 0.
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
    unusable_volumes: tuple[int, ...] = ()

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
            f"{key}_{in_node_name(value)}"
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
    time = settle_echo_time(run.metadata)
    index = run.entities.get("echo", "0")
    return math.inf if time is None else time, int(index) if index.isdigit() else 0


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
    groups, stray = _without_stray(group_echoes(subject.select("func", "bold")))
    most = max((len(echoes) for echoes in groups), default=0)
    axes: dict[tuple[Image, ...], str] = {}
    checked = CheckedBold([], stray, {problem.path for problem in stray if problem.path})
    for echoes in groups:
        run, findings = examine_run(echoes, subject.select("func", "sbref"), ignore=ignore)
        findings += [Finding(text, fatal=False) for text in missing_echoes(echoes, most)]
        if run is None:
            checked.unusable.update(echo.path for echo in echoes)
        else:
            checked.runs.append(run)
            axes[echoes] = read_header(run.reference.path).axes
            findings += [Finding(text, fatal=False) for text in _event_findings(run)]
        checked.problems.extend(as_problem(echoes[0], finding) for finding in findings)
    checked.problems.extend(_odd_orientations(axes))
    if "sbref" not in ignore:
        text = "no BOLD run that can be used has its name, so it is not used"
        lone = without_run(groups, subject.select("func", "sbref"))
        checked.problems.extend(as_problem(image, Finding(text, fatal=False)) for image in lone)
    return checked


def _without_stray(
    groups: Iterable[tuple[Image, ...]],
) -> tuple[list[tuple[Image, ...]], list[Problem]]:
    """Remove images without ``echo`` from runs with echoes: combined ones, most likely."""
    kept, problems = [], []
    for echoes in groups:
        numbered = tuple(image for image in echoes if "echo" in image.entities)
        stray = [image for image in echoes if "echo" not in image.entities] if numbered else []
        kept.append(numbered or echoes)
        text = (
            "the image has no echo- in its name, but there are echoes of the same run"
            f" ({', '.join(image.path.name for image in numbered)}), so it is left out. If it was"
            " combined from them, give it a rec- label of its own"
        )
        problems += [as_problem(image, Finding(text, fatal=True)) for image in stray]
    return kept, problems


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
    unusable, volume_findings = _settle_volumes(echoes)
    findings = [
        *_shape_findings(facts),
        *echo_findings(echoes, facts),
        *volume_findings,
    ]
    if any(finding.fatal for finding in findings):
        return None, findings
    first, metadata = facts[0], echoes[0].metadata
    n_volumes = first.shape[3]
    tr, tr_findings = settle_tr(metadata, first.tr, n_volumes, _last_onset(echoes))
    findings += tr_findings
    if tr is None:
        return None, findings
    axis, text = settle_slice_axis(metadata, first.volume_shape, first.slice_axis)
    findings += [Finding(text, fatal=False)] if text else []
    times, text = settle_slice_times(metadata, first.shape[axis], tr)
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
        _echo_times(echoes),
        sbref,
        str(metadata.get("TaskName") or echoes[0].entities.get("task") or ""),
        unusable,
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


_MARKED = (
    "they are kept out of every average and estimate, written as zeros and marked as outliers in"
    " the confounds; look at the image, or convert it again"
)


def _settle_volumes(echoes: Sequence[Image]) -> tuple[tuple[int, ...], list[Finding]]:
    """Find the volumes without a usable image in one of the echoes."""
    found: set[int] = set()
    findings = []
    for echo in echoes:
        if echo.volumes is None:
            continue
        if all_the_same(echo.volumes):
            text = (
                f"all volumes of {echo.path.name} are the same to the last bit, so it is no time"
                " series; convert the image again"
            )
            findings.append(Finding(text, fatal=True))
            continue
        judged = judge_volumes(echo.volumes)
        where = f" of {echo.path.name}" if len(echoes) > 1 else ""
        findings += [Finding(f"{text}{where}", False) for text in judged.sentences(_MARKED)]
        found |= set(judged.volumes)
        left = len(echo.volumes.spread) - len(found)
        if found and left < MIN_VOLUMES:
            text = f"{left} usable volumes are left; at least {MIN_VOLUMES} are needed"
            findings.append(Finding(text, fatal=True))
    return tuple(sorted(found)), findings


def _echo_times(echoes: Sequence[Image]) -> tuple[float, ...]:
    """Read the echo times in s, which are needed of several echoes only."""
    return tuple(settle_echo_time(e.metadata) or 0.0 for e in echoes) if len(echoes) > 1 else ()


def events_file(echoes: Sequence[Image]) -> Path | None:
    """Find the events file of a run, next to its images."""
    name = build_name(run_entities(echoes), "events", ".tsv")
    path = echoes[0].path.with_name(name)
    return path if os.path.lexists(path) else None


def _onsets(table: Table) -> Iterator[tuple[int, float | None]]:
    """Yield line number and onset (s) of each event; None where it is not a number."""
    for line, cell in table.column("onset"):
        time = read_number(cell)
        yield line, time if time is not None and math.isfinite(time) else None


def _last_onset(echoes: Sequence[Image]) -> float | None:
    path = events_file(echoes)
    try:
        table = None if path is None else read_table(path)
    except InputError:
        return None  # reported with the other findings about its events
    if table is None or "onset" not in table.columns:
        return None
    times = (time for _, time in _onsets(table) if time is not None)
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
