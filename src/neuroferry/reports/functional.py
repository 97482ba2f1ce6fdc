"""Collects what a participant's page shows of each BOLD run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import ENTITIES, build_name, parse_name
from neuroferry.bids.outputs import write_text
from neuroferry.reports.gather import Reportlet, read_if_sound, report_layout
from neuroferry.reports.svg import looks_whole

MANY_OUTLIERS = 0.2
"""From this part of the volumes on, a run is to be looked at."""
_NOT_OF_THE_RUN = ("description", "space", "resolution", "echo")
_METHODS = {
    "phasediff": "phase difference of a gradient-echo field map",
    "phases": "two phases of a gradient-echo field map",
    "direct": "measured field map",
    "pepolar": "images of opposite phase encoding",
    "boundary": "boundary-based",
}


@dataclass(frozen=True)
class FunctionalRun:
    """What there is of one BOLD run.

    Attributes
    ----------
    name : str
        Its entities, such as ``task-rest run-2``, with the session in front.
    stem : str
        What its files' names begin with.
    reportlets : tuple of Reportlet
        Its pictures; those that not every run has only where they are there.
    summary : mapping
        What its steps reported; empty when that is missing.
    """

    name: str
    stem: str
    reportlets: tuple[Reportlet, ...]
    summary: Mapping[str, Any]

    def part(self, key: str) -> Mapping[str, Any]:
        """Give what one step reported; empty when it did not."""
        found = self.summary.get(key)
        return found if isinstance(found, Mapping) else {}

    def number(self, *keys: str) -> float | None:
        """Look a number up in the summary."""
        value: Any = self.summary
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if known else None

    @property
    def outliers(self) -> float | None:
        """Part of the volumes at steady state that are motion outliers."""
        found = self.part("MotionOutliers").get("Volumes")
        volumes = self.number("NumberOfVolumes")
        steady = (volumes or 0) - (self.number("NonSteadyStateVolumes") or 0)
        return len(found) / steady if isinstance(found, list) and steady > 0 else None


def find_runs(out_dir: Path, subject: str) -> tuple[FunctionalRun, ...]:
    """Collect pictures and figures of each BOLD run.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    subject : str
        Label without ``sub-``.

    Returns
    -------
    tuple of FunctionalRun
        In the order of their names.
    """
    root = out_dir / f"sub-{subject}"
    figures = sorted((root / "figures").glob("*_bold.svg"))
    tables = [path for folder in ("func", "ses-*/func") for path in root.glob(f"{folder}/*.tsv")]
    tables = [path for path in tables if path.name.endswith("_desc-confounds_timeseries.tsv")]
    pictures: dict[str, dict[str, Path]] = {_stem(path): {} for path in tables}
    for path in figures:
        desc = parse_name(path).entities.get("description", "")
        pictures.setdefault(_stem(path), {})[desc] = path
    return tuple(_read_run(root, stem, pictures[stem]) for stem in sorted(pictures))


def _stem(path: Path) -> str:
    """Name the run that a file belongs to."""
    entities = parse_name(path).entities
    kept = {name: value for name, value in entities.items() if name not in _NOT_OF_THE_RUN}
    return build_name(kept, "bold", "").removesuffix("_bold")


def _read_run(root: Path, stem: str, pictures: Mapping[str, Path]) -> FunctionalRun:
    reportlets = []
    for item in report_layout("Functional"):
        desc = item["bids"]["desc"]
        path = pictures.get(desc)
        whole = path if path is not None and looks_whole(path) else None
        if whole is not None or not (path is None and item.get("optional")):
            reportlets.append(Reportlet(desc, item["subtitle"], item["description"], whole))
    entities = parse_name(f"{stem}_bold").entities
    labels = [f"{ENTITIES[key]}-{value}" for key, value in entities.items() if key != "subject"]
    summary = read_if_sound(root / "figures" / f"{stem}_desc-summary_bold.json")
    return FunctionalRun(" ".join(labels) or "BOLD", stem, tuple(reportlets), summary)


def run_facts(run: FunctionalRun) -> list[tuple[str, str]]:
    """Say in words what the steps of a run found.

    Returns
    -------
    list of (str, str)
        Label and text; only what is known.
    """
    facts = [
        ("Volumes", _volumes(run)),
        ("Head motion", _motion(run)),
        ("Motion outliers", _outliers(run)),
        ("Temporal SNR", _number(run.number("MedianTSNR"), "{:.0f} (median in the brain)")),
        ("Distortion", _distortion(run)),
        ("Alignment with the T1w image", _alignment(run)),
        ("Noise components", _components(run)),
    ]
    return [(label, text) for label, text in facts if text]


def run_doubts(run: FunctionalRun) -> list[str]:
    """Say in whole sentences what should be looked at."""
    doubts = []
    found = run.part("Coregistration")
    if found.get("verdict") == "look":
        reasons = [str(r).rstrip(".") for r in found.get("reasons") or []]
        why = f": {'; '.join(reasons)}" if reasons else ""
        doubts.append(
            f"The alignment of {run.name} with the T1w image may be wrong{why}. Check it on "
            "every slice."
        )
    if run.outliers is not None and run.outliers >= MANY_OUTLIERS:
        doubts.append(f"{100 * run.outliers:.0f}% of the volumes of {run.name} are outliers.")
    missing = [item.title.lower() for item in run.reportlets if item.path is None]
    if len(missing) == len(run.reportlets):
        doubts.append(f"No pictures of {run.name} were made.")
    elif missing:
        doubts.append(f"Pictures of {run.name} are missing: {', '.join(missing)}.")
    return doubts


@dataclass(frozen=True)
class RunFigure:
    """One figure that tables have a column for."""

    name: str
    title: str
    form: str
    of: Callable[[FunctionalRun], float | None]


RUN_FIGURES = (
    RunFigure("n_volumes", "Volumes", "{:.0f}", lambda run: run.number("NumberOfVolumes")),
    RunFigure(
        "fd_mean",
        "Mean displacement (mm)",
        "{:.2f}",
        lambda run: run.number("FramewiseDisplacement", "Mean"),
    ),
    RunFigure(
        "fd_max",
        "Largest (mm)",
        "{:.2f}",
        lambda run: run.number("FramewiseDisplacement", "Maximum"),
    ),
    RunFigure(
        "outliers",
        "Outliers (%)",
        "{:.1f}",
        lambda run: None if run.outliers is None else 100 * run.outliers,
    ),
    RunFigure("tsnr", "Temporal SNR", "{:.0f}", lambda run: run.number("MedianTSNR")),
)
"""What tables of runs show, framewise displacement and outliers at steady state."""


def run_cells(run: FunctionalRun) -> list[tuple[str, str]]:
    """Give the cells of a table's row: text, and what it is sorted by."""
    verdict = str(run.part("Coregistration").get("verdict", ""))
    cells = [(verdict, verdict)]
    for figure in RUN_FIGURES:
        value = figure.of(run)
        text = _number(value, figure.form) or "\u2013"
        cells.append((text, "" if value is None else repr(value)))
    return cells


def write_run_table(path: Path, runs: Sequence[FunctionalRun]) -> None:
    """Write the figures of all runs as a tab-separated table."""
    names = [figure.name for figure in RUN_FIGURES]
    lines = ["\t".join(["bids_name", "alignment", *names])]
    for run in runs:
        values = [figure.of(run) for figure in RUN_FIGURES]
        texts = ["n/a" if value is None else f"{value:.6g}" for value in values]
        verdict = str(run.part("Coregistration").get("verdict", "n/a"))
        lines.append("\t".join([run.stem, verdict, *texts]))
    write_text(path, "\n".join(lines) + "\n")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _volumes(run: FunctionalRun) -> str:
    volumes, tr = run.number("NumberOfVolumes"), run.number("RepetitionTime")
    if volumes is None or tr is None:
        return ""
    text = f"{volumes:.0f} of {tr:g} s ({volumes * tr / 60:.1f} min)"
    dummies = run.number("NonSteadyStateVolumes")
    return f"{text}, the first {dummies:.0f} not at steady state" if dummies else text


def _motion(run: FunctionalRun) -> str:
    mean, top = (run.number("FramewiseDisplacement", key) for key in ("Mean", "Maximum"))
    if mean is None or top is None:
        return ""
    return f"{mean:.2f} mm from volume to volume, at most {top:.2f} mm"


def _outliers(run: FunctionalRun) -> str:
    if run.outliers is None:
        return ""
    count = len(run.summary["MotionOutliers"]["Volumes"])
    return f"{count} ({100 * run.outliers:.1f}%)" if count else "none"


def _method(found: Mapping[str, Any]) -> str:
    method = str(found.get("method", ""))
    return _METHODS.get(method, method)


def _distortion(run: FunctionalRun) -> str:
    found = run.part("DistortionCorrection")
    if not found:
        return "not corrected" if run.summary else ""
    text = f"corrected: {_method(found)}"
    keys = ("median_size_mm", "percentile_1_mm", "percentile_99_mm")
    middle, low, top = (run.number("DistortionCorrection", key) for key in keys)
    if middle is None or low is None or top is None:
        return text
    return (
        f"{text}; median shift {middle:.1f} mm, 1st to 99th percentile {low:.1f} to {top:.1f} mm"
    )


def _alignment(run: FunctionalRun) -> str:
    found = run.part("Coregistration")
    words = {"good": "looks good", "look": "look at it"}
    parts = [words.get(str(found.get("verdict")), ""), _method(found)]
    moved = run.number("Coregistration", "from_header_mm")
    parts.append(_number(moved, "{:.1f} mm from where the headers put it"))
    return ", ".join(part for part in parts if part)


def _components(run: FunctionalRun) -> str:
    named = (
        ("WM", "white matter"),
        ("CSF", "CSF"),
        ("combined", "both"),
        ("temporal", "most variable"),
    )
    counts = [(run.number("CompCor", key, "NumberOfComponents"), text) for key, text in named]
    return ", ".join(f"{count:.0f} {text}" for count, text in counts if count)
