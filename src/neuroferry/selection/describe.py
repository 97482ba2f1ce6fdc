"""Descriptions of participants' plans, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neuroferry.bids.model import Problem
from neuroferry.selection.anatomy import AnatomyPlan
from neuroferry.selection.fieldmap_plan import FieldmapPlan, averaged
from neuroferry.selection.participant import BoldPlan, DwiPlan, ParticipantPlan
from neuroferry.selection.t2w import names_of

_ORIGINS = {
    "B0FieldIdentifier": "B0FieldIdentifier",
    "IntendedFor": "IntendedFor",
    "inferred": "inferred",
    "option": "--ignore fieldmaps",
}


def describe_plan(plan: ParticipantPlan) -> Iterator[str]:
    """Describe the plan of a participant, one decision per line."""
    yield f"sub-{plan.label}" + ("" if plan.has_work else ": nothing to do")
    for anatomy in plan.anatomies:
        yield f"  {_anatomy(anatomy)}"
        if anatomy.t2w:
            yield f"    aligned with it: {names_of(anatomy.t2w)}"
    for bold in plan.bold:
        yield f"  {bold.run.reference.path.name}"
        yield from (f"    {line}" for line in _bold(plan, bold))
    for dwi in plan.dwi:
        yield f"  {dwi.run.image.path.name}"
        yield from (f"    {line}" for line in _dwi(plan, dwi))
    for joined in plan.joined:
        names = " and ".join(run.image.path.name for run in joined.runs)
        yield f"  joined in the space of the T1w image: {names}"
    if plan.quality:
        names = " and ".join(measured.image.path.name for measured in plan.quality)
        yield f"  quality measured: {names}"


def plan_as_json(plan: ParticipantPlan) -> dict[str, Any]:
    """Convert a plan to a JSON object."""
    return {
        "participant": plan.label,
        "has_work": plan.has_work,
        "anatomies": [_anatomy_json(anatomy) for anatomy in plan.anatomies],
        "bold": [_bold_json(bold) for bold in plan.bold],
        "dwi": [_dwi_json(dwi) for dwi in plan.dwi],
        "joined": [[str(run.image.path) for run in joined.runs] for joined in plan.joined],
        "quality": [str(measured.image.path) for measured in plan.quality],
        "problems": [problem_as_json(problem) for problem in plan.problems],
    }


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """Convert a problem to a JSON object."""
    return {
        "severity": problem.severity,
        "message": problem.message,
        "path": None if problem.path is None else str(problem.path),
        "participant": problem.subject,
    }


def _anatomy(plan: AnatomyPlan) -> str:
    session = f" of ses-{plan.session}" if plan.session else ""
    if plan.source == "precomputed":
        return f"anatomy{session}: precomputed ({plan.why})"
    images = " and ".join(run.path.name for run in plan.images)
    parts = f"; precomputed: {', '.join(plan.files)}" if plan.files else ""
    return f"anatomy{session}: computed from {images} ({plan.why}){parts}"


def _bold(plan: ParticipantPlan, bold: BoldPlan) -> Iterator[str]:
    run = bold.run
    echoes = f", {len(run.echoes)} echoes" if len(run.echoes) > 1 else ""
    times = "slice times known" if run.slice_times else "no slice timing"
    sbref = f", reference {run.sbref.name}" if run.sbref is not None else ""
    yield f"{run.n_volumes} volumes, TR {run.tr:g} s{echoes}, {times}{sbref}"
    yield _distortion(bold.fieldmap)
    yield f"spaces: {', '.join(space.text for space in bold.spaces)}"
    yield _registered(plan, bold.anatomy)
    if bold.precomputed:
        yield f"precomputed: {', '.join(bold.precomputed)}"


def _dwi(plan: ParticipantPlan, dwi: DwiPlan) -> Iterator[str]:
    run = dwi.run
    shells = ", ".join(f"{len(shell.volumes)} at b = {shell.b:.0f} s/mm2" for shell in run.shells)
    yield f"{run.n_volumes} volumes: {shells}; {run.n_directions} directions"
    yield _distortion(dwi.fieldmap)
    yield f"spaces: dwi{', T1w' if dwi.in_t1w else ''}"
    yield _registered(plan, dwi.anatomy)


def _registered(plan: ParticipantPlan, node: str | None) -> str:
    anatomy = plan.anatomy(node)
    if anatomy is None:
        return "not registered: there is no T1w image"
    session = f" of ses-{anatomy.session}" if anatomy.session else ""
    return f"registered to the {anatomy.source} anatomy{session}"


def _distortion(fieldmap: FieldmapPlan) -> str:
    if fieldmap.method is None:
        if fieldmap.origin == "option":
            return "distortion: not corrected (--ignore fieldmaps)"
        return f"distortion: not corrected: {fieldmap.why_not}"
    names = " and ".join(name.rpartition("/")[2] for name in fieldmap.sources)
    b0s = f"{averaged(fieldmap)} of " if any(fieldmap.epi_volumes) else ""
    origin = _ORIGINS.get(fieldmap.origin or "", "")
    return f"distortion: {fieldmap.method}, from {b0s}{names} ({origin})"


def _anatomy_json(plan: AnatomyPlan) -> dict[str, Any]:
    return {
        "session": plan.session,
        "source": plan.source,
        "why": plan.why,
        "images": [str(run.path) for run in plan.images],
        "shape": list(plan.shape),
        "zooms_mm": list(plan.zooms),
        "precomputed": dict(plan.files),
        "templates": [other.template.label for other in plan.templates],
        "t2w": [str(t2w.image.path) for t2w in plan.t2w],
        "name": plan.node,
    }


def _bold_json(plan: BoldPlan) -> dict[str, Any]:
    run = plan.run
    return {
        "images": [str(echo.path) for echo in run.echoes],
        "n_volumes": run.n_volumes,
        "repetition_time_s": run.tr,
        "slice_times_s": list(run.slice_times),
        "slice_axis": "ijk"[run.slice_axis],
        "echo_times_s": list(run.echo_times),
        "sbref": None if run.sbref is None else str(run.sbref),
        "fieldmap": _fieldmap_json(plan.fieldmap),
        "spaces": [space.text for space in plan.spaces],
        "anatomy": plan.anatomy,
        "precomputed": dict(plan.precomputed),
    }


def _dwi_json(plan: DwiPlan) -> dict[str, Any]:
    run = plan.run
    return {
        "image": str(run.image.path),
        "bval": str(run.bval),
        "bvec": str(run.bvec),
        "n_volumes": run.n_volumes,
        "shells": [{"b": shell.b, "n_volumes": len(shell.volumes)} for shell in run.shells],
        "n_directions": run.n_directions,
        "slice_axis": "ijk"[run.slice_axis],
        "phase_encoding_direction": run.phase_encoding,
        "total_readout_time_s": run.readout_time,
        "fieldmap": _fieldmap_json(plan.fieldmap),
        "spaces": ["dwi", "T1w"] if plan.in_t1w else ["dwi"],
        "anatomy": plan.anatomy,
    }


def _fieldmap_json(plan: FieldmapPlan) -> dict[str, Any]:
    return {
        "method": plan.method,
        "origin": plan.origin,
        "sources": list(plan.sources),
        "phase_encoding_direction": plan.phase_encoding or None,
        "total_readout_time_s": plan.readout_time or None,
        "reasons": list(plan.warnings),
        "why_not": plan.why_not or None,
    }
