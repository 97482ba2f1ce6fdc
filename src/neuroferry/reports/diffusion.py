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
    mask_text,
    motion_text,
    number_text,
)

MANY_OUTLIERS = 0.05
"""Fraction of slices with dropout from which a run needs review."""
FEW_DIRECTIONS = 28
"""Directions of a shell below which fibre orientations need review: order 6 has as many values."""
LOW_SNR = 5.0
"""Signal-to-noise ratio of the b0 images below which a run needs review."""
MEDIAN_FA = (0.05, 0.6)
MEDIAN_MD = (0.3e-3, 2.0e-3)
"""Plausible medians in a brain mask, children included; mm²/s."""
UNUSUAL_VOXELS = 0.1
"""Fraction of voxels with a negative eigenvalue from which tensors need review."""
FEW_BUNDLES = 0.5
"""Fraction of bundles found below which a run needs review."""
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
        ("Brain mask", mask_text(run)),
        ("Distortion", distortion_text(run)),
        ("Alignment with the T1w image", alignment_text(run)),
        ("Models", ", ".join(str(name) for name in run.summary.get("Models") or [])),
        ("Models left out", _models_left_out(run)),
        ("Fibre orientations", _orientations(run)),
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
    snr = run.number("SNR")
    if snr is not None and snr < LOW_SNR:
        doubts.append(f"{run.name}: the signal-to-noise ratio of the b0 images is {snr:.1f}.")
    return [*doubts, *_tensor_doubts(run), *_tract_doubts(run)]


def _tensor_doubts(run: ScanRun) -> list[str]:
    """Describe tensors that no brain has."""
    doubts = []
    fa, md = run.number("Tensor", "MedianFA"), run.number("Tensor", "MedianMD")
    if fa is not None and not MEDIAN_FA[0] <= fa <= MEDIAN_FA[1]:
        doubts.append(
            f"{run.name}: the median FA is {fa:.2f}, outside of {MEDIAN_FA[0]:g} to"
            f" {MEDIAN_FA[1]:g}: look at the map, the directions and the brain mask."
        )
    if md is not None and not MEDIAN_MD[0] <= md <= MEDIAN_MD[1]:
        doubts.append(
            f"{run.name}: the median diffusivity is {md:.2g} mm2/s, outside of {MEDIAN_MD[0]:g} to"
            f" {MEDIAN_MD[1]:g}: look at the b-values and the brain mask."
        )
    voxels = run.number("Tensor", "Voxels")
    negative = run.number("Tensor", "VoxelsWithNegativeEigenvalues")
    if voxels and negative is not None and negative >= UNUSUAL_VOXELS * voxels:
        share = _PERCENT * negative / voxels
        doubts.append(f"{run.name}: {share:.0f}% of the tensors have a negative eigenvalue.")
    return doubts


def _tract_doubts(run: ScanRun) -> list[str]:
    """Describe fibre orientations from few directions, and missing bundles."""
    doubts = []
    count = run.number("FibreOrientations", "NumberOfDirections")
    if count is not None and count < FEW_DIRECTIONS:
        doubts.append(
            f"{run.name}: the fibre orientations come from {count:.0f} directions, which do not"
            " resolve crossing fibres reliably."
        )
    bundles = run.part("Bundles")
    there = sum(bool(kept) for kept in bundles.values())
    if bundles and there < FEW_BUNDLES * len(bundles):
        doubts.append(f"{run.name}: only {there} of {len(bundles)} bundles were found.")
    return doubts


def _models_left_out(run: ScanRun) -> str:
    """Explain which models were left out."""
    return "; ".join(f"{name}: {why}" for name, why in run.part("ModelsLeftOut").items())


def _orientations(run: ScanRun) -> str:
    """Describe the fibre orientations and what limits them."""
    found = run.part("FibreOrientations")
    order, count = found.get("LMax"), found.get("NumberOfDirections")
    if order is None or count is None:
        return ""
    caveats = found.get("Caveats")
    more = [str(text) for text in caveats] if isinstance(caveats, list) else []
    return " ".join([f"Order {order}, from {count} directions.", *more])


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
        ("Models left out", _models_left_out(run)),
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
    shown_by="*_rec-*joined_*_desc-preproc_dwi.json",
    in_overview=False,
)
