"""Quality metrics of a participant's images, with the pictures that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroferry.config import MODALITIES
from neuroferry.reports.gather import Reportlet, read_if_sound, report_layout
from neuroferry.reports.svg import looks_whole

SECTION = "Quality"
"""Section of ``configs/report.yml`` with the pictures."""
_DESC = "_desc-iqms"


@dataclass(frozen=True)
class Quality:
    """The quality of one image.

    Attributes
    ----------
    modality : str
        Its suffix: ``"T1w"``, ``"T2w"``, ``"bold"`` or ``"dwi"``.
    name : str
        Its BIDS name without extension, also the link target of its part of the report.
    values : mapping of str to float or None
        Metrics by name.
    notes : mapping of str to str
        Why metrics are undefined.
    doubts : tuple of str
        What is doubtful about the masks that the metrics depend on, in full sentences.
    reportlets : tuple of Reportlet
        Its pictures; those that were not drawn are left out.
    """

    modality: str
    name: str
    values: Mapping[str, Any]
    notes: Mapping[str, str]
    doubts: tuple[str, ...]
    reportlets: tuple[Reportlet, ...]


def find_quality(out_dir: Path, subject: str) -> tuple[Quality, ...]:
    """Collect the metrics and pictures of a participant's images.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    subject : str
        Label without ``sub-``.

    Returns
    -------
    tuple of Quality
        In the order T1w, T2w, BOLD, DWI, and of names; images without any metric are left out.
    """
    root = out_dir / f"sub-{subject}"
    found = []
    for modality in MODALITIES:
        pattern = f"*{_DESC}_{modality}.json"
        paths = [*root.glob(f"*/{pattern}"), *root.glob(f"ses-*/*/{pattern}")]
        found += [_read(path, modality, root / "figures") for path in sorted(paths)]
    return tuple(quality for quality in found if quality.values)


def _read(path: Path, modality: str, figures: Path) -> Quality:
    content = read_if_sound(path)
    warnings = (content.get("provenance") or {}).get("warnings") or {}
    doubts = warnings.get("doubts") or []
    name = path.name.replace(_DESC, "").removesuffix(".json")
    return Quality(
        modality,
        name,
        {key: v for key, v in content.items() if not isinstance(v, dict | list | str)},
        warnings.get("undefined") or {},
        tuple(str(doubt) for doubt in doubts) if isinstance(doubts, list) else (),
        tuple(_pictures(name, modality, figures)),
    )


def _pictures(name: str, modality: str, figures: Path) -> list[Reportlet]:
    stem = name.removesuffix(f"_{modality}")
    found = []
    for item in report_layout(SECTION):
        path = figures / f"{stem}_desc-{item['bids']['desc']}_{modality}.svg"
        if item["bids"]["suffix"] == modality and path.exists() and looks_whole(path):
            desc = item["bids"]["desc"]
            found.append(Reportlet(desc, item["subtitle"], item["description"], path))
    return found
