"""Susceptibility distortion correction of a run, from any type of field map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.dwi.b0s import AverageB0s
from neuroferry.interfaces.epi.fieldmap_apply import ApplyFieldmap
from neuroferry.interfaces.epi.fieldmap_epi import EstimateEPIFieldmap
from neuroferry.interfaces.epi.fieldmap_gre import PrepareGREFieldmap
from neuroferry.selection.fieldmaps import FieldmapPlan
from neuroferry.workflows.parts import of_kind

OUTPUTS = (
    "fieldmap",
    "bold_ref_sdc",
    "sdc_report",
    "fmap2boldref_xfm",
    "fieldmap_hz",
    "magnitude_ref",
    "fieldmap_mask",
)
_SENTENCES = {
    "phasediff": "A B0 field map was computed from the phase difference of two gradient echoes",
    "phases": "A B0 field map was computed from the phases of two gradient echoes",
    "direct": "A B0 field map measured by the scanner was used",
    "pepolar": (
        "A B0 field map was estimated from echo-planar images of opposite phase-encoding"
        " polarity, as the field that brings them into agreement [@andersson2003; @holland2010]"
    ),
}
_OF_B0S = (
    "A B0 field map was estimated from the b0 volumes of opposite phase-encoding polarity"
    " ({}), aligned and averaged for each polarity, as the field that brings them into"
    " agreement [@andersson2003; @holland2010]"
)
# Measured peaks above Python and its libraries, GB per million voxels of the image.
BASE_GB = 0.38
SOLVER_GB_PER_MILLION = 0.35
APPLY_GB = 0.18
APPLY_GB_PER_MILLION = 0.25
AVERAGE_GB = 0.15
AVERAGE_GB_PER_MILLION = 0.13


def init_sdc_wf(
    *,
    plan: FieldmapPlan,
    bold_shape: tuple[int, int, int],
    jacobian: bool = True,
    sloppy: bool = False,
    seed: int = 1,
    name: str = "sdc_wf",
) -> Workflow:
    """Build the workflow that estimates the field of a run and unwarps its reference.

    Parameters
    ----------
    plan : FieldmapPlan
        Plan of the correction; its method must not be None.
    bold_shape : tuple of int
        Voxels of the BOLD reference.
    jacobian : bool
        Also correct intensities, where the distortion compressed or stretched the image.
    sloppy : bool
        Fast processing of low quality, for tests.
    seed : int
        Seed of the sampling of registrations.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    bold_ref
        Distorted BOLD reference.

    **Outputs**

    fieldmap, bold_ref_sdc
        Field in Hz on the reference's grid; the unwarped reference.
    sdc_report
        JSON: method, shifts in mm.
    fmap2boldref_xfm
        ITK affine: field map onto the reference.
    fieldmap_hz, magnitude_ref, fieldmap_mask
        The field map on its own grid.

    Raises
    ------
    ValueError
        If the plan has no method.
    """
    if plan.method is None:
        raise ValueError("A plan without a method has no workflow.")
    workflow = Workflow(name=name)
    workflow.__desc__ = (
        f"{_describe(plan)}; the series was corrected for susceptibility distortion with this"
        " field [@jezzard1995]. "
    )
    inputnode = pe.Node(IdentityInterface(fields=["bold_ref"]), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    memory = _memory_gb(bold_shape, BASE_GB, SOLVER_GB_PER_MILLION)
    estimate = _estimate_node(plan, memory, sloppy=sloppy, seed=seed)
    itself = plan.method == "pepolar" and len(plan.epi) == 1
    apply = pe.Node(
        ApplyFieldmap(
            phase_encoding=plan.phase_encoding,
            readout_time=plan.readout_time,
            # A field estimated on the reference itself needs no registration to it.
            same_space=itself,
            method=plan.method,
            sources=[Path(path).name for path in plan.sources],
            jacobian=jacobian,
            sloppy=sloppy,
            seed=seed,
        ),
        name="apply_fieldmap",
        mem_gb=_memory_gb(bold_shape, APPLY_GB, APPLY_GB_PER_MILLION),
    )
    if plan.method == "pepolar":
        _feed_pair(workflow, plan, inputnode if itself else None, estimate)
    workflow.connect([
        (inputnode, apply, [("bold_ref", "bold_ref")]),
        (estimate, apply, [
            ("fieldmap_hz", "fieldmap_hz"), ("magnitude_ref", "magnitude_ref"), ("mask", "mask"),
        ]),
        (apply, outputnode, [
            (field, field)
            for field in ("fieldmap", "bold_ref_sdc", "sdc_report", "fmap2boldref_xfm")
        ]),
        (estimate, outputnode, [
            ("fieldmap_hz", "fieldmap_hz"),
            ("magnitude_ref", "magnitude_ref"),
            ("mask", "fieldmap_mask"),
        ]),
    ])  # fmt: skip
    return workflow


def _describe(plan: FieldmapPlan) -> str:
    """Describe the source of the field."""
    if plan.method is None or not any(plan.epi_volumes):
        return _SENTENCES[str(plan.method)]
    names = [Path(path).name.removesuffix(".gz").removesuffix(".nii") for path in plan.epi]
    return _OF_B0S.format(" and ".join(names if len(names) > 1 else ["its own", *names]))


def _feed_pair(
    workflow: Workflow, plan: FieldmapPlan, inputnode: pe.Node | None, estimate: pe.Node
) -> None:
    """Connect the two EPIs to the estimation; a single EPI is paired with the reference."""
    join = pe.Node(Merge(2), name="join_pair", run_without_submitting=True)
    fields = ["in1", "in2"][2 - len(plan.epi) :]
    volumes = plan.epi_volumes or ((),) * len(plan.epi)
    for index, (field, path, chosen) in enumerate(zip(fields, plan.epi, volumes, strict=True)):
        if not chosen:
            setattr(join.inputs, field, path)
            continue
        average = pe.Node(
            AverageB0s(in_file=path, volumes=list(chosen)),
            name=f"average_b0s{field[-1] if len(fields) > 1 else ''}",
            mem_gb=round(AVERAGE_GB + AVERAGE_GB_PER_MILLION * plan.epi_n_voxels[index] / 1e6, 3),
        )
        workflow.connect(of_kind(average, "average_b0s"), "out_file", join, field)
    if inputnode is not None:
        workflow.connect(inputnode, "bold_ref", join, "in1")
    workflow.connect(join, "out", estimate, "in_files")


def _memory_gb(shape: tuple[int, int, int], base_gb: float, gb_per_million: float) -> float:
    """Estimate the peak memory of a step on the grid of the run in GB.

    >>> _memory_gb((100, 100, 50), 0.4, 0.5)
    0.65
    """
    return round(base_gb + gb_per_million * shape[0] * shape[1] * shape[2] / 1e6, 3)


def _estimate_node(plan: FieldmapPlan, memory: float, *, sloppy: bool, seed: int) -> pe.Node:
    """Make the node that estimates the field in Hz."""
    interface: Any
    if plan.method == "pepolar":
        ways, times = list(plan.epi_phase_encoding), list(plan.epi_readout_times)
        interface = EstimateEPIFieldmap(sloppy=sloppy, seed=seed)
        if len(plan.epi) == 1:
            ways, times = [plan.phase_encoding, *ways], [plan.readout_time, *times]
        interface.inputs.phase_encoding = ways
        interface.inputs.readout_times = times
    else:
        interface = PrepareGREFieldmap(magnitude=list(plan.magnitude), seed=seed)
        if plan.method == "direct":
            interface.inputs.fieldmap = plan.fieldmap[0]
            interface.inputs.units = plan.units
        else:
            interface.inputs.echo_times = plan.echo_times
            interface.inputs.phase = list(plan.phase)
    return pe.Node(interface, name="estimate_fieldmap", mem_gb=memory)


@dataclass(frozen=True)
class Readout:
    """Readout of a run, which turns a field map in Hz into shifts.

    Attributes
    ----------
    phase_encoding : str
        ``PhaseEncodingDirection``.
    readout_time : float
        ``TotalReadoutTime``, s.
    jacobian : bool
        Correct intensities where the distortion compressed or stretched the image.
    """

    phase_encoding: str
    readout_time: float
    jacobian: bool = True
