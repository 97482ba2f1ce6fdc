"""Single-band references: which one belongs to a BOLD run, and whether it can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroferry.bids.images import check_image
from neuroferry.bids.model import Run

#: Keys that reference and series must share, so that both are bent alike.
_READOUT = ("PhaseEncodingDirection", "TotalReadoutTime", "EffectiveEchoSpacing")
_OTHER_PARTS = ("phase", "real", "imag")


def settle_sbref(echoes: Sequence[Run], references: Sequence[Run]) -> tuple[Path | None, str]:
    """Choose the single-band reference of a run.

    Parameters
    ----------
    echoes : sequence of Run
        The images of the run, the shortest echo first.
    references : sequence of Run
        Single-band references of the participant.

    Returns
    -------
    Path or None
        The one of the shortest echo, where it can be used.
    str
        Why one that is there cannot be used; empty where it can, or where there is none.
    """
    wanted = _of_the_run(echoes[0].entities)
    ours = [run for run in references if _of_the_run(run.entities) == wanted]
    ours = [run for run in ours if run.entities.get("part") not in _OTHER_PARTS]
    echo = echoes[0].entities.get("echo")
    ours = [run for run in ours if run.entities.get("echo") == echo]
    if not ours:
        return None, ""
    found = ours[0]
    why = _why_not(found, echoes[0])
    if why:
        then = "the reference is made of the run's own volumes"
        return None, f"its single-band reference, {found.path.name}, {why}; {then}"
    return found.path, ""


def _of_the_run(entities: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in entities.items() if key not in ("echo", "part")}


def _why_not(reference: Run, series: Run) -> str:
    """Say what keeps a reference from being used; nothing where it can be."""
    import nibabel as nb
    import numpy as np

    errors = [p.message for p in check_image(reference.path, ndim=4) if p.severity == "error"]
    if errors:
        return f"cannot be used ({errors[0].removeprefix(f'{reference.path}: ')})"
    image: Any = nb.load(reference.path)
    other: Any = nb.load(series.path)
    shape, expected = image.shape, other.shape[:3]
    if any(size != 1 for size in shape[3:]):
        return f"has {shape[3]} volumes"
    if shape[:3] != expected:
        sizes = " x ".join(map(str, shape[:3])), " x ".join(map(str, expected))
        return f"has {sizes[0]} voxels, and the run {sizes[1]}"
    if not np.allclose(image.affine, other.affine, atol=1e-2):
        axes = ["".join(nb.orientations.aff2axcodes(i.affine)) for i in (image, other)]
        if axes[0] != axes[1]:
            return f"is stored in another orientation ({axes[0]}) than the run ({axes[1]})"
        return "lies in another place than the run"
    for key in _READOUT:
        values = reference.metadata.get(key), series.metadata.get(key)
        if None not in values and values[0] != values[1]:
            return f"has another {key} ({values[0]}) than the run ({values[1]})"
    return ""
