"""Choice of the field map of a run, from names, sidecars and b-values alone.

A run names its field maps by ``B0FieldSource``, or field maps name their runs by
``IntendedFor``; if a session has a single set of field maps that names no run, it is used for
all runs. Nothing missing is guessed: the reason for every unused field map and every
uncorrected run is given in a plain sentence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from neuroferry.bids.dwi import b0_volumes, has_bvals
from neuroferry.bids.epi import encoded, epi_encoding, opposite_of, seconds
from neuroferry.bids.gradients import B0_THRESHOLD
from neuroferry.bids.headers import image_shape, read_header
from neuroferry.bids.model import Image, Subject
from neuroferry.bids.volumes import judge_volumes
from neuroferry.errors import InputError
from neuroferry.selection.fieldmap_sets import Origin, fieldmap_runs, matching_sets

Method = Literal["phasediff", "phases", "direct", "pepolar"]
# In order of preference: an EPI pair has the same distortion as the run itself.
PREFERENCE: tuple[Method, ...] = ("pepolar", "phasediff", "phases", "direct")


@dataclass(frozen=True)
class FieldmapPlan:
    """Plan of the distortion correction of a run.

    Attributes
    ----------
    method : {"phasediff", "phases", "direct", "pepolar"} or None
        None: no correction.
    fmap_id : str
        Label of the field map in file names, letters and digits only.
    magnitude, phase, fieldmap, epi : tuple of str
        Files. A single EPI is used together with the run's own reference.
    echo_times : tuple of float
        Of the phase images, s.
    units : str
        Of a field computed by the scanner.
    epi_phase_encoding : tuple of str
        PhaseEncodingDirection of each EPI.
    epi_readout_times : tuple of float
        TotalReadoutTime of each EPI, s.
    epi_volumes : tuple of tuple of int
        Volumes of each EPI that are aligned and averaged: the b0 volumes; if empty, the mean
        over all volumes is used without alignment.
    epi_n_voxels : tuple of int
        Voxels of one volume of each EPI whose volumes are aligned; 0 for the others.
    phase_encoding : str
        PhaseEncodingDirection of the run; empty without a method.
    readout_time : float
        TotalReadoutTime of the run, s; zero without a method.
    origin : Origin or "option" or None
        Basis of the decision: ``B0FieldIdentifier``, ``IntendedFor``, ``inferred``, or ``option``
        if field maps are ignored on request; None if there was nothing to decide.
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
    epi_volumes: tuple[tuple[int, ...], ...] = ()
    epi_n_voxels: tuple[int, ...] = ()
    phase_encoding: str = ""
    readout_time: float = 0.0
    origin: Origin | Literal["option"] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Every file that the field is estimated from, other than the run itself."""
        return (*self.fieldmap, *self.phase, *self.magnitude, *self.epi)


class NoFieldmap(NamedTuple):
    """Reasons why a run has no field map.

    Attributes
    ----------
    reasons : list of str
        Clauses.
    meant : bool
        Whether some are assigned to it but cannot be used.
    """

    reasons: list[str]
    meant: bool


def choose_fieldmap(
    subject: Subject,
    bold: Image | Sequence[Image],
    *,
    ignore: Collection[str] = (),
    b0_threshold: float = B0_THRESHOLD,
) -> FieldmapPlan:
    """Choose the susceptibility distortion correction of a run.

    Parameters
    ----------
    subject : Subject
        Its images, field maps among them.
    bold : Image or sequence of Image
        The run, or its echoes.
    ignore : collection of str
        With "fieldmaps" none is used.
    b0_threshold : float
        Volumes of diffusion-weighted images up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    FieldmapPlan
    """
    echoes = (bold,) if isinstance(bold, Image) else tuple(bold)
    if "fieldmaps" in ignore:
        return FieldmapPlan(origin="option")
    found = find_fieldmap(subject, echoes, b0_threshold=b0_threshold)
    return found if isinstance(found, FieldmapPlan) else without_fieldmap(echoes[0], found.reasons)


def without_fieldmap(run: Image, reasons: Iterable[str]) -> FieldmapPlan:
    """Make the plan of an uncorrected run, with a sentence for each reason."""
    texts = (
        f"{run.path.name} is not corrected for susceptibility distortion: {reason}."
        for reason in dict.fromkeys(reasons)
    )
    return FieldmapPlan(warnings=tuple(texts))


def find_fieldmap(
    subject: Subject, echoes: Sequence[Image], *, b0_threshold: float = B0_THRESHOLD
) -> FieldmapPlan | NoFieldmap:
    """Find the field map of a run, or the reasons why there is none.

    Parameters
    ----------
    subject : Subject
        Its images, field maps among them.
    echoes : sequence of Image
        The images of the run.
    b0_threshold : float
        Volumes of diffusion-weighted images up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    FieldmapPlan or NoFieldmap
    """
    run = echoes[0]
    sets, origin = matching_sets(subject, echoes)
    if not sets:
        reason = "its session has no field map"
        if fieldmap_runs(subject, run.session):
            reason = "no field map of its session is assigned to it (B0FieldSource or IntendedFor)"
        return NoFieldmap([reason], meant=False)
    try:
        direction, readout, notes = epi_encoding(run)
    except InputError as error:
        return NoFieldmap([str(error)], meant=True)
    reasons: list[str] = []
    for method in PREFERENCE:
        for label, members in sets.items():
            try:
                plan = _plan_of(method, members, run, direction, b0_threshold)
            except InputError as error:
                reasons.append(str(error))
                continue
            if plan is not None:
                return replace(
                    plan,
                    origin=origin,
                    fmap_id=label,
                    phase_encoding=direction,
                    readout_time=readout,
                    warnings=(*notes, *plan.warnings),
                )
    if not reasons:
        names = ", ".join(sorted(r.path.name for members in sets.values() for r in members))
        reasons.append(f"its field maps are incomplete ({names})")
    return NoFieldmap(list(dict.fromkeys(reasons)), meant=True)


def _of(members: Sequence[Image], *suffixes: str) -> list[Image]:
    return [run for suffix in suffixes for run in members if run.suffix == suffix]


def _paths(runs: Iterable[Image]) -> tuple[str, ...]:
    return tuple(str(Path(run.path)) for run in runs)


def _plan_of(
    method: Method, members: Sequence[Image], bold: Image, direction: str, b0_threshold: float
) -> FieldmapPlan | None:
    """Plan the correction with one method; None if the set is of another kind.

    Raises
    ------
    InputError
        If it is of this kind, but incomplete; the message is a clause.
    """
    if method == "pepolar":
        return _plan_pepolar(members, bold, direction, b0_threshold)
    if method == "direct":
        return _plan_direct(members)
    phase = _of(members, *(("phasediff",) if method == "phasediff" else ("phase1", "phase2")))
    if not phase:
        return None
    if method == "phases" and len(phase) != 2:
        raise InputError(f"the other echo's phase image for {phase[0].path.name} is missing")
    magnitude = _of(members, "magnitude1", "magnitude2")
    if not magnitude:
        raise InputError(f"the magnitude image for {phase[0].path.name} is missing")
    keys = ("EchoTime1", "EchoTime2") if method == "phasediff" else ("EchoTime", "EchoTime")
    images = (phase[0], phase[-1])
    times = [seconds(r.metadata.get(key)) for r, key in zip(images, keys, strict=True)]
    if times[0] is None or times[1] is None or not times[0] < times[1]:
        names = " and ".join(dict.fromkeys(keys))
        raise InputError(
            f"the sidecar of {phase[0].path.name} needs {names}, two increasing times in seconds"
        )
    return FieldmapPlan(
        method=method,
        magnitude=_paths(magnitude[:2]),
        phase=_paths(phase[:2]),
        echo_times=(times[0], times[1]),
    )


def _plan_direct(members: Sequence[Image]) -> FieldmapPlan | None:
    fields = _of(members, "fieldmap")
    if not fields:
        return None
    magnitude = _of(members, "magnitude", "magnitude1")
    if not magnitude:
        raise InputError(f"the magnitude image for {fields[0].path.name} is missing")
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


def _plan_pepolar(
    members: Sequence[Image], bold: Image, direction: str, b0_threshold: float
) -> FieldmapPlan | None:
    kinds = ("epi", "sbref", "m0scan", "bold", "dwi")
    epis = [r for r in _of(members, *kinds) if r.path != bold.path]
    if not any(r.suffix in ("epi", "dwi") for r in epis) and len(epis) < 2:
        return None
    usable: dict[str, tuple[Image, float, tuple[int, ...]]] = {}
    reasons: list[str] = []
    notes: list[str] = []
    for run, way, readout, more in encoded(epis, reasons):
        if way[0] != direction[0] or way in usable:
            continue
        try:
            volumes = volumes_to_average(run, bold, b0_threshold)
        except InputError as error:
            reasons.append(str(error))
            continue
        usable[way] = (run, readout, volumes)
        notes += more
    opposite = opposite_of(direction)
    if opposite not in usable:
        raise InputError(
            reasons[0]
            if reasons
            else f"none of its EPI field maps has the opposite phase encoding, {opposite}"
        )
    # A DWI run that is itself one of the pair needs no substitute.
    itself = bold.suffix == "dwi" and any(run.path == bold.path for run in members)
    ways = [
        way for way in (direction, opposite) if way in usable and not (itself and way == direction)
    ]
    return pair_plan([(way, *usable[way]) for way in ways], notes)


def pair_plan(
    epis: Sequence[tuple[str, Image, float, tuple[int, ...]]], notes: Iterable[str] = ()
) -> FieldmapPlan:
    """Plan the correction with EPIs of known direction, readout time (s) and volumes."""
    return FieldmapPlan(
        method="pepolar",
        epi=_paths(run for _, run, _, _ in epis),
        epi_phase_encoding=tuple(way for way, _, _, _ in epis),
        epi_readout_times=tuple(readout for _, _, readout, _ in epis),
        epi_volumes=tuple(volumes for _, _, _, volumes in epis),
        epi_n_voxels=tuple(
            math.prod(image_shape(run.path)) if volumes else 0 for _, run, _, volumes in epis
        ),
        warnings=tuple(notes),
    )


def volumes_to_average(epi: Image, target: Image, b0_threshold: float) -> tuple[int, ...]:
    """Choose the volumes of an EPI from which a field is estimated.

    Parameters
    ----------
    epi : Image
        Field map, or a run that serves as one.
    target : Image
        Image that it corrects.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    tuple of int
        Volumes to align and average; empty for the mean over all without alignment.

    Raises
    ------
    InputError
        If all are diffusion-weighted, or its b-values cannot be used.
    """
    if epi.suffix == "dwi" or (epi.suffix == "epi" and has_bvals(epi)):
        volumes = b0_volumes(epi, b0_threshold=b0_threshold)
        if not volumes:
            raise InputError(f"{epi.path.name} has no b0 volume (b <= {b0_threshold:g} s/mm2)")
        return _usable(epi, volumes, alike=[volumes])
    if epi.suffix == "epi" and target.suffix == "dwi":
        facts = read_header(epi.path)
        return _usable(epi, tuple(range(facts.n_volumes))) if len(facts.shape) > 3 else ()
    if epi.volumes is not None:
        volumes = tuple(range(len(epi.volumes.spread)))
        usable = _usable(epi, volumes)
        return usable if usable != volumes else ()
    return ()


def _usable(
    epi: Image, volumes: tuple[int, ...], alike: Sequence[Sequence[int]] | None = None
) -> tuple[int, ...]:
    """Leave out volumes without a usable image."""
    if epi.volumes is None:
        return volumes
    unusable = judge_volumes(epi.volumes, alike).volumes
    usable = tuple(volume for volume in volumes if volume not in unusable)
    if not usable:
        raise InputError(f"no volume of {epi.path.name} that is needed holds a usable image")
    return usable
