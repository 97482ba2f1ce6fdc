"""Estimates of what a step needs, from its declaration and from earlier runs of similar steps.

A step declares its memory (``Node.mem_gb``), which the workflow builders compute from the
image header with the formula in their documentation. That figure also carries the size of
the image, so what was measured on one image is scaled to another by the ratio r of the two
declared figures; of memory only what exceeds an empty process. A step that processes a series
volume by volume also declares their number (``node.volumes``): its time and disk are scaled by
the ratio of the numbers of volumes as well, its memory is not.

Sources, the best first:

``measured``
    the same step has finished before: its peak plus 10%;
``like``
    steps of the same kind (the same step of other participants, sessions or items) have
    finished: the largest of their scaled peaks plus 15%, the median of their scaled times;
``table``
    a table of measured runs that comes with the program: scaled, plus 15%;
``formula``
    what the step declares;
``default``
    nothing is known: 0.25 GB (Nipype's own default) and 10 s.

The peak at which a step was killed counts as a lower bound, plus 50%.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuroferry.engine.names import StepName
from neuroferry.engine.record import StepSummary, kind_of_event, list_runs, read_events

Source = Literal["measured", "like", "table", "formula", "default"]

DEFAULT_GB = 0.25
DEFAULT_SECONDS = 10.0
_MARGINS: dict[Source, float] = {"measured": 1.10, "like": 1.15, "table": 1.15}
_KILLED_MARGIN = 1.5
# an empty Python process that has loaded Nipype: the least of any step, whatever its images
_EMPTY_GB = 0.12


@dataclass(frozen=True)
class Estimate:
    """Expected resources of a step.

    Attributes
    ----------
    mem_gb : float
        Memory, GB.
    seconds : float
        Wall-clock time.
    disk_gb : float
        Size of its folder, GB.
    files : int
        Files in its folder.
    mem_source, seconds_source : str
        Sources of the two estimates, see the module.
    """

    mem_gb: float
    seconds: float
    disk_gb: float
    files: int
    mem_source: Source
    seconds_source: Source


class Estimator:
    """Estimator of the resources of steps, which learns from finished ones.

    Parameters
    ----------
    history : mapping of str to StepSummary
        Latest measurement of each step, by its full name.
    table : mapping of str to StepSummary
        Measurements by kind of step, see :mod:`neuroferry.engine.names`.
    killed : iterable of StepSummary
        Steps that ran out of memory, with the peak at which they did.

    Examples
    --------
    >>> estimator = Estimator()
    >>> estimator.estimate("w.sub_01_wf.register", 2.0).mem_source
    'formula'
    >>> estimator.learn(StepSummary("w.sub_01_wf.register", "01", "done", seconds=60.0,
    ...                             peak_gb=3.0, declared_gb=2.0))
    >>> estimate = estimator.estimate("w.sub_02_wf.register", 4.0)
    >>> round(estimate.mem_gb, 2), estimate.mem_source, estimate.seconds
    (6.97, 'like', 120.0)
    >>> estimator.learn(StepSummary("w.sub_01_wf.move", "01", "done", seconds=10.0, volumes=150))
    >>> estimator.estimate("w.sub_02_wf.move", 0.25, 1500).seconds
    100.0
    """

    def __init__(
        self,
        history: Mapping[str, StepSummary] | None = None,
        table: Mapping[str, StepSummary] | None = None,
        killed: Iterable[StepSummary] = (),
    ) -> None:
        self._steps: dict[str, StepSummary] = {}
        self._kinds: dict[str, dict[str, StepSummary]] = defaultdict(dict)
        self._killed: dict[str, dict[str, StepSummary]] = defaultdict(dict)
        self._table = dict(table or {})
        for summary in killed:
            self.learn_killed(summary)
        for summary in (history or {}).values():
            self.learn(summary)

    def learn(self, summary: StepSummary) -> None:
        """Learn from a finished step."""
        self._steps[summary.step] = summary
        self._kinds[summary.kind][summary.step] = summary
        self._killed[summary.kind].pop(summary.step, None)

    def learn_killed(self, summary: StepSummary) -> None:
        """Learn from a step that ran out of memory at ``summary.peak_gb``."""
        self._killed[summary.kind][summary.step] = summary

    def estimate(
        self, step: str, declared_gb: float, volumes: int | None = None, *, kind: str = ""
    ) -> Estimate:
        """Estimate the resources of a step.

        Parameters
        ----------
        step : str
            Its full name.
        declared_gb : float
            Memory that its node declares (``Node.mem_gb``), GB.
        volumes : int, optional
            Number of volumes that it processes.
        kind : str, optional
            Kind of step, by default derived from its name.
        """
        kinds = (kind, StepName(step).kind)  # the latter in records of earlier versions
        known, source = self._like(step, kinds)
        peaks = [
            _scaled_memory(s.peak_gb, declared_gb, s.declared_gb)
            for s in known
            if s.peak_gb is not None
        ]
        times = [
            s.seconds * _scale(declared_gb, s.declared_gb) * _longer(volumes, s.volumes)
            for s in known
            if s.seconds is not None
        ]
        mem_source: Source = "default" if declared_gb == DEFAULT_GB else "formula"
        memory = declared_gb
        if peaks:
            mem_source, memory = source, max(peaks) * _MARGINS[source]
        for killed in (s for kind in kinds for s in self._killed.get(kind, {}).values()):
            least = _scaled_memory(killed.peak_gb or 0.0, declared_gb, killed.declared_gb)
            if mem_source != "measured" and least * _KILLED_MARGIN > memory:
                mem_source, memory = "like", least * _KILLED_MARGIN
        disk = [
            s.disk_gb * _scale(declared_gb, s.declared_gb) * _longer(volumes, s.volumes)
            for s in known
            if s.disk_gb
        ]
        files = [s.files for s in known if s.files]
        return Estimate(
            mem_gb=max(memory, _EMPTY_GB),
            seconds=statistics.median(times) if times else DEFAULT_SECONDS,
            disk_gb=max(disk, default=2.2e-5),  # what Nipype itself writes for a step
            files=max(files, default=5),
            mem_source=mem_source,
            seconds_source=source if times else "default",
        )

    def _like(self, step: str, kinds: Sequence[str]) -> tuple[list[StepSummary], Source]:
        if step in self._steps:
            return [self._steps[step]], "measured"
        like = {name: s for kind in kinds for name, s in self._kinds.get(kind, {}).items()}
        if like:
            return list(like.values()), "like"
        for kind in kinds:
            if kind in self._table:
                return [self._table[kind]], "table"
        return [], "default"


def _scale(declared_gb: float, measured_at_gb: float | None) -> float:
    """Compute the ratio of two image sizes from the memory declared for them."""
    return declared_gb / measured_at_gb if measured_at_gb else 1.0


def _scaled_memory(peak_gb: float, declared_gb: float, measured_at_gb: float | None) -> float:
    """Scale a peak to an image of another size, except what an empty process takes.

    >>> _scaled_memory(0.62, 0.62, 1.12), _scaled_memory(0.62, 1.12, 1.12)
    (0.37, 0.62)
    """
    if measured_at_gb is None or min(peak_gb, declared_gb, measured_at_gb) <= _EMPTY_GB:
        return peak_gb * _scale(declared_gb, measured_at_gb)
    above = (declared_gb - _EMPTY_GB) / (measured_at_gb - _EMPTY_GB)
    return _EMPTY_GB + (peak_gb - _EMPTY_GB) * above


def _longer(volumes: int | None, measured_with: int | None) -> float:
    """Compute the ratio of the lengths of two series; 1 unless both are known."""
    return volumes / measured_with if volumes and measured_with else 1.0


def read_killed(out_dir: Path) -> list[StepSummary]:
    """List the steps of earlier runs that ran out of memory and have not succeeded since."""
    killed: dict[str, StepSummary] = {}
    for run_dir in list_runs(out_dir):
        for event in read_events(run_dir / "events.jsonl"):
            step = event.get("step", "")
            if event.get("out_of_memory") and event.get("peak_gb"):
                killed[step] = StepSummary(
                    step,
                    event.get("subject"),
                    "failed",
                    peak_gb=event["peak_gb"],
                    declared_gb=event.get("declared_gb"),
                    kind=kind_of_event(event),
                )
            elif event.get("event") == "step_done" and not event.get("cached"):
                killed.pop(step, None)
    return list(killed.values())


def read_table(values: Mapping[str, Any]) -> dict[str, StepSummary]:
    """Convert the table ``[steps]`` of ``configs/steps.toml`` to measured steps by kind."""
    return {
        kind: StepSummary(
            kind,
            None,
            "done",
            kind=kind,
            seconds=row.get("seconds"),
            peak_gb=row.get("peak_gb"),
            declared_gb=row.get("declared_gb"),
            disk_gb=row.get("disk_gb"),
            files=row.get("files"),
            volumes=row.get("volumes"),
        )
        for kind, row in values.get("steps", {}).items()
    }
