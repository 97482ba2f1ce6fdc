"""Which field map, if any, corrects a BOLD run: decided from names and sidecars alone.

A run names its field maps by ``B0FieldSource``, or field maps name their runs by
``IntendedFor``; where a session has one set of field maps that names no run at all, it is
taken for all of them. What is missing is never guessed: every field map left aside, and every
run left as it is, has its reason in a plain sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nb

from neuroferry.bids.model import Run, Subject
from neuroferry.errors import InputError
from neuroferry.interfaces.distortion import phase_encoding_axis
from neuroferry.workflows.func.fieldmap_sets import fieldmap_runs, matching_sets

Method = Literal["phasediff", "phases", "direct", "pepolar"]
# The first that is there is taken: an EPI pair is distorted as the BOLD itself is.
PREFERENCE: tuple[Method, ...] = ("pepolar", "phasediff", "phases", "direct")


@dataclass(frozen=True)
class FieldmapPlan:
    """What corrects a BOLD run.

    Attributes
    ----------
    method : {"phasediff", "phases", "direct", "pepolar"} or None
        None: no correction.
    fmap_id : str
        Label of the field map for names of files, letters and digits only.
    magnitude, phase, fieldmap, epi : tuple of str
        Files. One EPI alone is used together with the BOLD reference.
    echo_times : tuple of float
        Of the phase images, s.
    units : str
        Of a field computed by the scanner.
    epi_phase_encoding : tuple of str
        PhaseEncodingDirection of each EPI.
    epi_readout_times : tuple of float
        TotalReadoutTime of each EPI, s.
    phase_encoding : str
        PhaseEncodingDirection of the BOLD; empty without a method.
    readout_time : float
        TotalReadoutTime of the BOLD, s; zero without a method.
    warnings : tuple of str
        Plain sentences for the user.
    """

    method: Method | None = None
    fmap_id: str = ""
    magnitude: tuple[str, ...] = ()
    phase: tuple[str, ...] = ()
    fieldmap: tuple[str, ...] = ()
    epi: tuple[str, ...] = ()
    echo_times: tuple[float, ...] = ()
    units: str = "Hz"
    epi_phase_encoding: tuple[str, ...] = ()
    epi_readout_times: tuple[float, ...] = ()
    phase_encoding: str = ""
    readout_time: float = 0.0
    warnings: tuple[str, ...] = ()


def choose_fieldmap(
    subject: Subject,
    bold: Run | Sequence[Run],
    *,
    ignore: Collection[str] = (),
) -> FieldmapPlan:
    """Choose what corrects a BOLD run for susceptibility distortion.

    Parameters
    ----------
    subject : Subject
        Its images, field maps among them.
    bold : Run or sequence of Run
        The run, or its echoes.
    ignore : collection of str
        With "fieldmaps" none is used.

    Returns
    -------
    FieldmapPlan
    """
    echoes = (bold,) if isinstance(bold, Run) else tuple(bold)
    run = echoes[0]
    found = [] if "fieldmaps" in ignore else _from_fieldmaps(subject, echoes)
    if isinstance(found, FieldmapPlan):
        return found
    return FieldmapPlan(warnings=tuple(_skipped(run, reason) for reason in found))


def _from_fieldmaps(subject: Subject, echoes: Sequence[Run]) -> FieldmapPlan | list[str]:
    """Plan with a field map, or the reasons why there is none."""
    run = echoes[0]
    sets = matching_sets(subject, echoes)
    if not sets:
        if fieldmap_runs(subject, run.session):
            return ["no field map of its session is meant for it (B0FieldSource or IntendedFor)"]
        return ["its session has no field map"]
    try:
        direction, readout, notes = bold_geometry(run)
    except InputError as error:
        return [str(error)]
    reasons: list[str] = []
    for method in PREFERENCE:
        for label, members in sets.items():
            try:
                plan = _plan_of(method, members, run, direction)
            except InputError as error:
                reasons.append(str(error))
                continue
            if plan is not None:
                return replace(
                    plan,
                    fmap_id=label,
                    phase_encoding=direction,
                    readout_time=readout,
                    warnings=(*notes, *plan.warnings),
                )
    if not reasons:
        names = ", ".join(sorted(r.path.name for members in sets.values() for r in members))
        reasons.append(f"its field maps are incomplete ({names})")
    return list(dict.fromkeys(reasons))


def _skipped(run: Run, reason: str) -> str:
    return f"{run.path.name} is not corrected for susceptibility distortion: {reason}."


def bold_geometry(run: Run) -> tuple[str, float, list[str]]:
    """Read how an EPI was encoded.

    Parameters
    ----------
    run : Run
        An EPI with its sidecar.

    Returns
    -------
    direction : str
        PhaseEncodingDirection.
    readout : float
        TotalReadoutTime in s.
    notes : list of str
        What is worth a warning.

    Raises
    ------
    InputError
        If either is missing or impossible.
    """
    direction = run.metadata.get("PhaseEncodingDirection")
    if not isinstance(direction, str):
        axis = run.metadata.get("PhaseEncodingAxis")
        known = f" (it has PhaseEncodingAxis {axis!r}, which leaves the sign open)" if axis else ""
        raise InputError(
            f"the sidecar of {run.path.name} has no PhaseEncodingDirection{known}; the polarity"
            " is never guessed, add it to the sidecar"
        )
    try:
        axis_index, _ = phase_encoding_axis(direction)
    except InputError as error:
        raise InputError(str(error).rstrip(".")) from error
    readout, notes = _readout_time(run, axis_index)
    if readout is None:
        raise InputError(
            f"the sidecar of {run.path.name} has neither TotalReadoutTime nor"
            " EffectiveEchoSpacing; add one"
        )
    return direction, readout, notes


def _readout_time(run: Run, axis: int) -> tuple[float | None, list[str]]:
    """TotalReadoutTime, or what stands for it; BIDS: echo spacing x (encoding steps - 1)."""
    total = _seconds(run.metadata.get("TotalReadoutTime"))
    if total is not None:
        return total, []
    spacing = _seconds(run.metadata.get("EffectiveEchoSpacing"))
    if spacing is not None:
        steps = run.metadata.get("ReconMatrixPE")
        if not isinstance(steps, int):
            image: Any = nb.load(run.path)
            steps = int(image.shape[axis])
        return spacing * (steps - 1), []
    estimated = _seconds(run.metadata.get("EstimatedTotalReadoutTime"))
    if estimated is not None:
        return estimated, [
            f"{run.path.name} has only an estimate of its readout time"
            f" (EstimatedTotalReadoutTime, {estimated:g} s); the size of its distortion rests on"
            " that."
        ]
    return None, []


def _seconds(value: Any) -> float | None:
    """Take a time in seconds, if it is one an EPI can have."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    return None


def _of(members: Sequence[Run], *suffixes: str) -> list[Run]:
    return [run for suffix in suffixes for run in members if run.suffix == suffix]


def _paths(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(str(Path(run.path)) for run in runs)


def _plan_of(
    method: Method, members: Sequence[Run], bold: Run, direction: str
) -> FieldmapPlan | None:
    """Plan with one method; None where the set is not of its kind.

    Raises
    ------
    InputError
        If it is, but something is missing; the message goes into a sentence.
    """
    if method == "pepolar":
        return _plan_pepolar(members, bold, direction)
    if method == "direct":
        return _plan_direct(members)
    phase = _of(members, *(("phasediff",) if method == "phasediff" else ("phase1", "phase2")))
    if not phase:
        return None
    if method == "phases" and len(phase) != 2:
        raise InputError(f"{phase[0].path.name} has no other echo's phase image beside it")
    magnitude = _of(members, "magnitude1", "magnitude2")
    if not magnitude:
        raise InputError(f"{phase[0].path.name} has no magnitude image beside it")
    keys = ("EchoTime1", "EchoTime2") if method == "phasediff" else ("EchoTime", "EchoTime")
    images = (phase[0], phase[-1])
    times = [_seconds(r.metadata.get(key)) for r, key in zip(images, keys, strict=True)]
    if times[0] is None or times[1] is None or not times[0] < times[1]:
        names = " and ".join(dict.fromkeys(keys))
        raise InputError(
            f"the sidecar of {phase[0].path.name} needs {names}, two rising times in seconds"
        )
    return FieldmapPlan(
        method=method,
        magnitude=_paths(magnitude[:2]),
        phase=_paths(phase[:2]),
        echo_times=(times[0], times[1]),
    )


def _plan_direct(members: Sequence[Run]) -> FieldmapPlan | None:
    fields = _of(members, "fieldmap")
    if not fields:
        return None
    magnitude = _of(members, "magnitude", "magnitude1")
    if not magnitude:
        raise InputError(f"{fields[0].path.name} has no magnitude image beside it")
    units = fields[0].metadata.get("Units")
    if not isinstance(units, str) or units.strip().lower() not in ("hz", "rad/s"):
        raise InputError(
            f"the sidecar of {fields[0].path.name} must give Units, Hz or rad/s (it has {units!r})"
        )
    return FieldmapPlan(
        method="direct",
        fieldmap=_paths(fields[:1]),
        magnitude=_paths(magnitude[:1]),
        units=units,
    )


def _plan_pepolar(members: Sequence[Run], bold: Run, direction: str) -> FieldmapPlan | None:
    epis = [r for r in _of(members, "epi", "sbref", "m0scan", "bold") if r.path != bold.path]
    if not any(r.suffix == "epi" for r in epis) and len(epis) < 2:
        return None
    usable: dict[str, tuple[Run, float]] = {}
    reasons: list[str] = []
    notes: list[str] = []
    for run, way, readout, more in _encoded(epis, reasons):
        if way[0] == direction[0] and way not in usable:
            usable[way] = (run, readout)
            notes += more
    opposite = direction[0] if direction.endswith("-") else f"{direction[0]}-"
    if opposite not in usable:
        raise InputError(
            reasons[0]
            if reasons
            else f"none of its EPI field maps is encoded in the opposite direction, {opposite}"
        )
    ways = [way for way in (direction, opposite) if way in usable]
    return FieldmapPlan(
        method="pepolar",
        epi=_paths(usable[way][0] for way in ways),
        epi_phase_encoding=tuple(ways),
        epi_readout_times=tuple(usable[way][1] for way in ways),
        warnings=tuple(notes),
    )


def _encoded(
    runs: Iterable[Run], reasons: list[str]
) -> Iterator[tuple[Run, str, float, list[str]]]:
    """EPI field maps whose encoding is known; why others are not goes to `reasons`."""
    for run in runs:
        try:
            way, readout, notes = bold_geometry(run)
        except InputError as error:
            reasons.append(str(error))
        else:
            yield run, way.rstrip("+"), readout, notes
