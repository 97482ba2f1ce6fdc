"""Facts and concerns about BOLD runs in the reports."""

from __future__ import annotations

from neuroferry.bids.volumes import name_volumes
from neuroferry.reports.scans import (
    SERIES_FIGURES,
    Figure,
    Modality,
    ScanRun,
    alignment_text,
    distortion_text,
    mask_text,
    motion_text,
    number_text,
)

MANY_OUTLIERS = 0.2
"""Fraction of outlier volumes from which a run needs review."""


FEW_VOLUMES = 20
"""Usable volumes below which a run needs review."""
USUAL_TR = (0.2, 15.0)
"""Usual repetition times of BOLD runs, sparse sampling included, s."""


def unusable(run: ScanRun) -> list[int]:
    """Find the volumes without a usable image, from 0."""
    found = run.summary.get("UnusableVolumes")
    return [v for v in found if isinstance(v, int)] if isinstance(found, list) else []


def _unusable_text(run: ScanRun) -> str:
    found = unusable(run)
    return f"{len(found)}: {name_volumes(found)}" if found else ""


def usable(run: ScanRun) -> float | None:
    """Count the volumes at steady state that hold a usable image."""
    volumes, dummies = run.number("NumberOfVolumes"), run.number("NonSteadyStateVolumes") or 0
    if volumes is None:
        return None
    return volumes - dummies - sum(volume >= dummies for volume in unusable(run))


def outliers(run: ScanRun) -> float | None:
    """Compute the fraction of steady-state volumes that are motion outliers."""
    found = run.part("MotionOutliers").get("Volumes")
    steady = usable(run) or 0
    return len(found) / steady if isinstance(found, list) and steady > 0 else None


def _percent_outliers(run: ScanRun) -> float | None:
    share = outliers(run)
    return None if share is None else 100 * share


def _facts(run: ScanRun) -> list[tuple[str, str]]:
    return [
        ("Volumes", _volumes(run)),
        ("Volumes without a usable image", _unusable_text(run)),
        ("Head motion", motion_text(run)),
        ("Motion outliers", _outliers(run)),
        ("Temporal SNR", number_text(run.number("MedianTSNR"), "{:.0f} (median in the brain)")),
        ("Brain mask", mask_text(run)),
        ("Distortion", distortion_text(run)),
        ("Alignment with the T1w image", alignment_text(run)),
        ("Noise components", _components(run)),
    ]


def _doubts(run: ScanRun) -> list[str]:
    doubts = []
    empty = unusable(run)
    if empty:
        doubts.append(
            f"{run.name}: no usable image in {name_volumes(empty)}. They are marked in the"
            " confounds; find out whether the rest of the run can be trusted."
        )
    doubts += _length_doubts(run)
    share = outliers(run)
    if share is not None and share >= MANY_OUTLIERS:
        doubts.append(f"{100 * share:.0f}% of the volumes of {run.name} are motion outliers.")
    return doubts


def _length_doubts(run: ScanRun) -> list[str]:
    """Describe a run that is too short for its confounds, and an unusual repetition time."""
    doubts = []
    left, tr = usable(run), run.number("RepetitionTime")
    if left is not None and left < FEW_VOLUMES:
        doubts.append(
            f"{run.name} has {left:.0f} usable volumes, fewer than"
            f" {FEW_VOLUMES}: outliers, temporal SNR and noise components are hardly determined."
        )
    if tr is not None and not USUAL_TR[0] <= tr <= USUAL_TR[1]:
        doubts.append(
            f"The repetition time of {run.name} is {tr:g} s, outside of {USUAL_TR[0]:g} to"
            f" {USUAL_TR[1]:g} s: check the sidecar."
        )
    return doubts


def _volumes(run: ScanRun) -> str:
    volumes, tr = run.number("NumberOfVolumes"), run.number("RepetitionTime")
    if volumes is None or tr is None:
        return ""
    text = f"{volumes:.0f} of {tr:g} s ({volumes * tr / 60:.1f} min)"
    dummies = run.number("NonSteadyStateVolumes")
    return f"{text}, the first {dummies:.0f} before steady state" if dummies else text


def _outliers(run: ScanRun) -> str:
    share = outliers(run)
    if share is None:
        return ""
    count = len(run.summary["MotionOutliers"]["Volumes"])
    return f"{count} ({100 * share:.1f}%)" if count else "none"


def _components(run: ScanRun) -> str:
    named = (
        ("WM", "white matter"),
        ("CSF", "CSF"),
        ("combined", "both"),
        ("temporal", "most variable"),
    )
    counts = [(run.number("CompCor", key, "NumberOfComponents"), text) for key, text in named]
    return ", ".join(f"{count:.0f} {text}" for count, text in counts if count)


FUNCTIONAL = Modality(
    suffix="bold",
    datatype="func",
    section="Functional",
    title="Functional runs",
    anchor="functional",
    caption="Framewise displacement and outliers, excluding volumes before steady state.",
    facts=_facts,
    doubts=_doubts,
    figures=(
        *SERIES_FIGURES,
        Figure("outliers", "Outliers (%)", "{:.1f}", _percent_outliers),
        Figure("tsnr", "Temporal SNR", "{:.0f}", lambda run: run.number("MedianTSNR")),
    ),
)
