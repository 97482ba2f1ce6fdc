"""Facts and concerns about DWI runs in the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuroferry.bids.volumes import name_volumes
from neuroferry.reports.scans import (
    SERIES_FIGURES,
    Figure,
    Modality,
    ScanRun,
    alignment_text,
    distortion_text,
    motion_text,
    number_text,
)

MANY_OUTLIERS = 0.05
"""Fraction of slices with dropout from which a run needs review."""
MUCH_BRIGHTER = 0.2
"""Intensity ratio to the first run from which joined runs need review."""
_PERCENT = 100


def _outliers(run: ScanRun) -> float | None:
    """Compute the percentage of slices with dropout."""
    share = run.number("OutlierSlices", "Fraction")
    return None if share is None else _PERCENT * share


def _facts(run: ScanRun) -> list[tuple[str, str]]:
    return [
        ("Volumes", _volumes(run)),
        ("Volumes left out", _left_out(run)),
        ("Gradients", _gradients(run)),
        ("Head motion", motion_text(run)),
        ("Eddy currents", _eddy(run)),
        ("Slices with dropout", _lost(run)),
        ("SNR", number_text(run.number("SNR"), "{:.0f} (b0, median in the brain)")),
        ("Distortion", distortion_text(run)),
        ("Alignment with the T1w image", alignment_text(run)),
        ("Models", ", ".join(str(name) for name in run.summary.get("Models") or [])),
        ("Bundles", _bundles(run)),
        ("Also in the space of", ", ".join(map(str, run.summary.get("Spaces") or []))),
    ]


def _doubts(run: ScanRun) -> list[str]:
    doubts = []
    left_out = _left_out(run)
    if left_out:
        doubts.append(
            f"{run.name}: no usable image in {left_out}. They are left out with their gradients;"
            " find out whether the other volumes can be trusted."
        )
    share = run.number("OutlierSlices", "Fraction")
    if share is not None and share >= MANY_OUTLIERS:
        doubts.append(f"{_PERCENT * share:.0f}% of the slices of {run.name} have signal dropout.")
    mostly = run.part("SliceReplacement").get("MostlyLostVolumes")
    if isinstance(mostly, list) and mostly:
        volumes = ", ".join(map(str, mostly))
        doubts.append(f"{run.name}: most slices of volume {volumes} have signal dropout.")
    found = run.part("Orientation")
    if found.get("verdict") == "wrong":
        doubts.append(f"{run.name}: {found.get('text', '')}")
    return doubts


def _lost(run: ScanRun) -> str:
    share = number_text(_outliers(run), "{:.2f}%")
    replaced = run.number("SliceReplacement", "ReplacedSlices")
    lost = run.number("SliceReplacement", "LostSlices")
    if not share or not lost:
        return share
    volumes = len(run.part("SliceReplacement").get("Volumes") or ())
    count = f"{replaced:.0f} of {lost:.0f} replaced by predictions from the other volumes"
    return f"{share}; {count}, in {volumes} volume{'' if volumes == 1 else 's'}"


def _volumes(run: ScanRun) -> str:
    found = run.part("Gradients")
    b0s, shells = found.get("b0_volumes"), found.get("shells")
    if not isinstance(shells, list):
        return ""
    parts = [f"{shell.get('volumes')} of b = {shell.get('b', 0):.0f}" for shell in shells]
    return ", ".join([f"{b0s} b0", *parts])


def _left_out(run: ScanRun) -> str:
    found = run.part("Gradients").get("left_out_volumes")
    return name_volumes(found) if isinstance(found, list) and found else ""


def _gradients(run: ScanRun) -> str:
    return str(run.part("Orientation").get("text", ""))


def _eddy(run: ScanRun) -> str:
    found = run.summary.get("EddyCurrents")
    if not isinstance(found, bool):
        return ""
    return "corrected" if found else "not corrected"


def _bundles(run: ScanRun) -> str:
    found = run.part("Bundles")
    if not found:
        return ""
    there = [name for name, count in found.items() if count]
    missing = [name for name, count in found.items() if not count]
    text = f"{len(there)} of {len(found)} found"
    return f"{text}; missing: {', '.join(missing)}" if missing else text


DIFFUSION = Modality(
    suffix="dwi",
    datatype="dwi",
    section="Diffusion",
    title="Diffusion runs",
    anchor="diffusion",
    caption="Framewise displacement from volume to volume; slices with signal dropout.",
    facts=_facts,
    doubts=_doubts,
    figures=(
        *SERIES_FIGURES,
        Figure("outlier_slices", "Slices with dropout (%)", "{:.2f}", _outliers),
        Figure("snr", "SNR", "{:.0f}", lambda run: run.number("SNR")),
    ),
)


def _joined_parts(run: ScanRun) -> list[Mapping[str, Any]]:
    parts = run.summary.get("Runs")
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _joined_facts(run: ScanRun) -> list[tuple[str, str]]:
    facts = []
    for part in _joined_parts(run):
        name = str(part.get("Image", "")).removesuffix(".gz").removesuffix(".nii")
        factor = number_text(part.get("BrightnessFactor"), "{:.3f}")
        facts.append((name, f"{part.get('NumberOfVolumes')} volumes, multiplied by {factor}"))
    return [
        *facts,
        ("Models", ", ".join(str(name) for name in run.summary.get("Models") or [])),
        ("Bundles", _bundles(run)),
    ]


def _joined_doubts(run: ScanRun) -> list[str]:
    return [
        f"{run.name}: {part.get('Image')} is {factor:.2f} times as bright as the first run; the "
        "two may differ in other ways too."
        for part in _joined_parts(run)
        if isinstance(value := part.get("BrightnessFactor"), int | float)
        and value > 0
        and abs((factor := 1 / value) - 1) > MUCH_BRIGHTER
    ]


JOINED = Modality(
    suffix="dwimap",
    datatype="dwi",
    section="Joined diffusion",
    title="Diffusion runs, joined",
    anchor="joined-diffusion",
    caption="Runs of a session concatenated in the space of the T1w image.",
    facts=_joined_facts,
    doubts=_joined_doubts,
    figures=(SERIES_FIGURES[0],),
    shown_by="*_rec-joined_*_desc-preproc_dwi.json",
    in_overview=False,
)
