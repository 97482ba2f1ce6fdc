"""Contents of a participant's report about BOLD and DWI runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.bids.entities import ENTITIES, build_name, parse_name
from neuroferry.reports.gather import Reportlet, is_of_quality, read_if_sound, report_layout
from neuroferry.reports.svg import looks_whole

_NOT_OF_THE_RUN = ("description", "space", "resolution", "echo")
_METHODS = {
    "phasediff": "phase difference of a gradient-echo field map",
    "phases": "two phases of a gradient-echo field map",
    "direct": "measured field map",
    "pepolar": "images of opposite phase encoding",
    "boundary": "boundary-based",
}


@dataclass(frozen=True)
class Modality:
    """One kind of runs: its figures, facts and concerns.

    Attributes
    ----------
    suffix, datatype : str
        Suffix and datatype of its files: ``"bold"``, ``"func"``.
    section : str
        Its section of ``configs/report.yml``.
    title, anchor, caption : str
        Heading, link target, and caption of the table of its runs.
    facts : callable
        Describes the results of the steps: pairs of label and text, empty if unknown.
    doubts : callable
        Describes what needs review in full sentences.
    figures : tuple of Figure
        Columns of tables.
    shown_by : str
        Pattern of files that show that a run was processed, even without figures.
    in_overview : bool
        Whether the overview of all participants has a table of them.
    """

    suffix: str
    datatype: str
    section: str
    title: str
    anchor: str
    caption: str
    facts: Callable[[ScanRun], list[tuple[str, str]]]
    doubts: Callable[[ScanRun], list[str]]
    figures: tuple[Figure, ...]
    shown_by: str = "*_desc-confounds_timeseries.tsv"
    in_overview: bool = True


@dataclass(frozen=True)
class ScanRun:
    """The results of one run.

    Attributes
    ----------
    modality : Modality
        Its kind.
    name : str
        Its entities, such as ``task-rest run-2``, preceded by the session.
    stem : str
        Start of its file names.
    reportlets : tuple of Reportlet
        Its figures; optional ones only if they exist.
    summary : mapping
        Reports of its steps; empty if missing.
    """

    modality: Modality
    name: str
    stem: str
    reportlets: tuple[Reportlet, ...]
    summary: Mapping[str, Any]

    def part(self, key: str) -> Mapping[str, Any]:
        """Return the report of one step; empty if there is none."""
        found = self.summary.get(key)
        return found if isinstance(found, Mapping) else {}

    def number(self, *keys: str) -> float | None:
        """Look up a number in the summary."""
        value: Any = self.summary
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if known else None


@dataclass(frozen=True)
class Figure:
    """One value, with a column of its own in the tables."""

    name: str
    title: str
    form: str
    of: Callable[[ScanRun], float | None]


#: Columns of all kinds of series.
SERIES_FIGURES = (
    Figure("n_volumes", "Volumes", "{:.0f}", lambda run: run.number("NumberOfVolumes")),
    Figure(
        "fd_mean",
        "Mean displacement (mm)",
        "{:.2f}",
        lambda run: run.number("FramewiseDisplacement", "Mean"),
    ),
    Figure(
        "fd_max",
        "Maximum displacement (mm)",
        "{:.2f}",
        lambda run: run.number("FramewiseDisplacement", "Maximum"),
    ),
)


def find_runs(modality: Modality, out_dir: Path, subject: str) -> tuple[ScanRun, ...]:
    """Collect the figures and values of each run of one kind.

    Parameters
    ----------
    modality : Modality
        The kind.
    out_dir : pathlib.Path
        Root of the derivatives.
    subject : str
        Label without ``sub-``.

    Returns
    -------
    tuple of ScanRun
        In the order of their names.
    """
    root = out_dir / f"sub-{subject}"
    folders = (modality.datatype, f"ses-*/{modality.datatype}")
    made = [path for folder in folders for path in root.glob(f"{folder}/{modality.shown_by}")]
    pictures: dict[str, dict[str, Path]] = {_stem(path, modality): {} for path in made}
    for path in sorted((root / "figures").glob(f"*_{modality.suffix}.svg")):
        if is_of_quality(path):
            continue
        desc = parse_name(path).entities.get("description", "")
        pictures.setdefault(_stem(path, modality), {})[desc] = path
    return tuple(_read_run(modality, root, stem, pictures[stem]) for stem in sorted(pictures))


def _stem(path: Path, modality: Modality) -> str:
    """Find the run that a file belongs to."""
    entities = parse_name(path).entities
    kept = {name: value for name, value in entities.items() if name not in _NOT_OF_THE_RUN}
    return build_name(kept, modality.suffix, "").removesuffix(f"_{modality.suffix}")


def _read_run(modality: Modality, root: Path, stem: str, pictures: Mapping[str, Path]) -> ScanRun:
    reportlets = []
    for item in report_layout(modality.section):
        desc = item["bids"]["desc"]
        path = pictures.get(desc)
        whole = path if path is not None and looks_whole(path) else None
        if whole is not None or not (path is None and item.get("optional")):
            reportlets.append(Reportlet(desc, item["subtitle"], item["description"], whole))
    entities = parse_name(f"{stem}_{modality.suffix}").entities
    labels = [f"{ENTITIES[key]}-{value}" for key, value in entities.items() if key != "subject"]
    path = root / "figures" / f"{stem}_desc-summary_{modality.suffix}.json"
    name = " ".join(labels) or modality.suffix.upper()
    return ScanRun(modality, name, stem, tuple(reportlets), read_if_sound(path))


def run_facts(run: ScanRun) -> list[tuple[str, str]]:
    """Describe the known results of a run's steps: label and text."""
    return [(label, text) for label, text in run.modality.facts(run) if text]


def run_doubts(run: ScanRun) -> list[str]:
    """Describe what needs review in a run, in full sentences, those of its kind first."""
    doubts = [
        *alignment_doubts(run),
        *fieldmap_doubts(run),
        *_mask_doubts(run),
        *run.modality.doubts(run),
    ]
    missing = [item.title.lower() for item in run.reportlets if item.path is None]
    if len(missing) == len(run.reportlets):
        doubts.append(f"There are no figures of {run.name}.")
    elif missing:
        doubts.append(f"Figures of {run.name} are missing: {', '.join(missing)}.")
    return doubts


def alignment_doubts(run: ScanRun) -> list[str]:
    """Explain why the alignment with the T1w image is doubtful, if it is."""
    found = run.part("Coregistration")
    verdict, why = found.get("verdict"), _reasons(found)
    if verdict == "bad":
        return [
            f"{run.name} could not be aligned with the T1w image{why}. Nothing of it is written "
            "into the spaces of T1w image and templates, unless --write-doubtful asks for it, and "
            "its white-matter and CSF signals are not to be used."
        ]
    if verdict != "look":
        return []
    return [
        f"The alignment of {run.name} with the T1w image may be wrong{why}. Check it on "
        "every slice."
    ]


def _mask_doubts(run: ScanRun) -> list[str]:
    """Explain why the brain mask of a run is doubtful, if it is."""
    found = run.part("BrainMask")
    if found.get("verdict") != "look":
        return []
    why = " ".join(str(reason) for reason in found.get("reasons") or [])
    return [f"Look at the brain mask of {run.name}. {why}".rstrip()]


SAME_VOLUME = 0.2
"""Difference between the brain masks of two runs of a session that needs review, relative."""


def volume_doubts(runs: Sequence[ScanRun]) -> list[str]:
    """Compare the volumes of the brain masks of the runs of each session and kind.

    Parameters
    ----------
    runs : sequence of ScanRun
        Runs of a participant.

    Returns
    -------
    list of str
        One sentence for each session whose smallest and largest mask differ by more than 20%.
    """
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for run in runs:
        volume = run.number("BrainMask", "VolumeML")
        session = parse_name(f"{run.stem}_{run.modality.suffix}").entities.get("session", "")
        if volume is not None:
            groups.setdefault((run.modality.suffix, session), []).append((volume, run.name))
    doubts = []
    for found in groups.values():
        (low, one), (high, other) = min(found), max(found)
        if low > 0 and high / low - 1 > SAME_VOLUME:
            doubts.append(
                f"The brain masks of {one} ({low:.0f} ml) and {other} ({high:.0f} ml) differ by"
                f" {100 * (high / low - 1):.0f}%: look at both."
            )
    return doubts


def mask_text(run: ScanRun) -> str:
    """Describe the brain mask."""
    return number_text(run.number("BrainMask", "VolumeML"), "{:.0f} ml")


def fieldmap_doubts(run: ScanRun) -> list[str]:
    """Explain why the place of the field map is doubtful, if it is."""
    found = run.part("DistortionCorrection")
    if found.get("verdict") != "look":
        return []
    return [
        f"The field map of {run.name} may lie in the wrong place{_reasons(found)}. Compare the "
        "image before and after the correction of distortion."
    ]


def _reasons(found: Mapping[str, Any]) -> str:
    """Join the reasons of a verdict, after a colon."""
    reasons = [str(reason).rstrip(".") for reason in found.get("reasons") or []]
    return f": {'; '.join(reasons)}" if reasons else ""


def run_cells(run: ScanRun) -> list[tuple[str, str]]:
    """Make the cells of a table row: text and sort key."""
    verdict = str(run.part("Coregistration").get("verdict", ""))
    cells = [(verdict, verdict)]
    for figure in run.modality.figures:
        value = figure.of(run)
        text = number_text(value, figure.form) or "\u2013"
        cells.append((text, "" if value is None else repr(value)))
    return cells


def run_values(run: ScanRun) -> dict[str, str]:
    """Give the values of a run for the table of its modality, as text."""
    values = {figure.name: figure.of(run) for figure in run.modality.figures}
    return {
        "alignment": str(run.part("Coregistration").get("verdict", "n/a")),
        **{name: "n/a" if v is None else f"{v:.6g}" for name, v in values.items()},
    }


def number_text(value: float | None, form: str) -> str:
    """Format a number; empty if unknown."""
    return "" if value is None else form.format(value)


def motion_text(run: ScanRun) -> str:
    """Describe the head motion."""
    mean, top = (run.number("FramewiseDisplacement", key) for key in ("Mean", "Maximum"))
    if mean is None or top is None:
        return ""
    return f"mean {mean:.2f} mm from volume to volume, maximum {top:.2f} mm"


def _method(found: Mapping[str, Any]) -> str:
    method = str(found.get("method", ""))
    return _METHODS.get(method, method)


def _sources(found: Mapping[str, Any]) -> str:
    """List the source images of a field map."""
    names = found.get("sources")
    if not isinstance(names, list) or not names:
        return ""
    short = [str(name).removesuffix(".gz").removesuffix(".nii") for name in names]
    if len(short) == 1 and found.get("method") == "pepolar":
        return f" (of this run and {short[0]})"
    return f" ({', '.join(short)})"


def distortion_text(run: ScanRun) -> str:
    """Describe whether and how distortion was corrected."""
    found = run.part("DistortionCorrection")
    if not found:
        return "not corrected" if run.summary else ""
    text = f"corrected: {_method(found)}{_sources(found)}"
    if found.get("verdict") == "look":
        text += "; check the place of the field map"
    keys = ("median_size_mm", "percentile_1_mm", "percentile_99_mm")
    middle, low, top = (run.number("DistortionCorrection", key) for key in keys)
    if middle is None or low is None or top is None:
        return text
    return (
        f"{text}; median shift {middle:.1f} mm, 1st to 99th percentile {low:.1f} to {top:.1f} mm"
    )


def alignment_text(run: ScanRun) -> str:
    """Describe the quality of the alignment with the T1w image."""
    found = run.part("Coregistration")
    words = {"good": "looks good", "look": "check it", "bad": "failed"}
    parts = [words.get(str(found.get("verdict")), ""), _method(found)]
    error = run.number("Coregistration", "expected_error_mm")
    parts.append(number_text(error, "exact to about {:.1f} mm"))
    moved = run.number("Coregistration", "from_header_mm")
    parts.append(number_text(moved, "{:.1f} mm from the position in the headers"))
    return ", ".join(part for part in parts if part)
