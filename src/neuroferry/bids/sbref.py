"""Single-band references of BOLD runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from neuroferry.bids.epi import encoding_difference
from neuroferry.bids.headers import grid_difference, read_header
from neuroferry.bids.images import check_image
from neuroferry.bids.intended import texts_of
from neuroferry.bids.model import Image
from neuroferry.errors import InputError

_OTHER_PARTS = ("phase", "real", "imag")


def settle_sbref(echoes: Sequence[Image], references: Sequence[Image]) -> tuple[Path | None, str]:
    """Choose the single-band reference of a run.

    Parameters
    ----------
    echoes : sequence of Image
        The images of the run, the shortest echo first.
    references : sequence of Image
        Single-band references of the participant.

    Returns
    -------
    Path or None
        That of the shortest echo, if it can be used.
    str
        Why an existing one cannot be used; empty if it can, or if there is none.
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
        then = "the reference is computed from the run's own volumes"
        return None, f"its single-band reference, {found.path.name}, {why}; {then}"
    return found.path, ""


def without_run(runs: Iterable[Sequence[Image]], references: Iterable[Image]) -> list[Image]:
    """Find the single-band references that belong to no run, and serve as no field map.

    Parameters
    ----------
    runs : iterable of sequence of Image
        The images of each run.
    references : iterable of Image
        Single-band references of the participant.
    """
    known = [_of_the_run(echoes[0].entities) for echoes in runs]
    return [
        image
        for image in references
        if image.entities.get("part") not in _OTHER_PARTS
        and _of_the_run(image.entities) not in known
        and not any(texts_of(image.metadata, key) for key in ("IntendedFor", "B0FieldIdentifier"))
    ]


def _of_the_run(entities: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in entities.items() if key not in ("echo", "part")}


def _why_not(reference: Image, series: Image) -> str:
    """Explain why a reference cannot be used; empty if it can."""
    errors = [p.message for p in check_image(reference.path, ndim=4) if p.severity == "error"]
    if errors:
        return f"cannot be used ({errors[0].removeprefix(f'{reference.path}: ')})"
    try:
        facts, other = read_header(reference.path), read_header(series.path)
    except InputError as error:
        return f"cannot be used ({error})"
    if facts.n_volumes > 1:
        return f"has {facts.n_volumes} volumes"
    if facts.axes != other.axes:
        return f"is stored in a different orientation ({facts.axes}) from the run ({other.axes})"
    difference = grid_difference(facts, other)
    if difference:
        return f"is on a different grid from the run ({difference})"
    unlike = encoding_difference(reference, series)
    return f"has {unlike}" if unlike else ""
