"""Susceptibility distortion of a BOLD run: a field from whatever there is, on its grid."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.fieldmap import PrepareGREFieldmap
from neuroferry.interfaces.fieldmap_apply import ApplyFieldmap
from neuroferry.interfaces.fieldmap_epi import EstimateEPIFieldmap
from neuroferry.workflows.func.fieldmaps import FieldmapPlan

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
        " polarity as the field under which they agree [@andersson2003; @holland2010]"
    ),
}
# Measured peaks above Python and its libraries, GB for a million voxels of the image.
BASE_GB = 0.45
SOLVER_GB_PER_MILLION = 0.35


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
        What corrects the run; its method must not be None.
    bold_shape : tuple of int
        Voxels of the BOLD reference.
    jacobian : bool
        Undo the piling up of signal too.
    sloppy : bool
        Fast and of low quality, for tests.
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
        f"{_SENTENCES[plan.method]}; the series was corrected for susceptibility distortion with"
        " it [@jezzard1995]. "
    )
    inputnode = pe.Node(IdentityInterface(fields=["bold_ref"]), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    memory = _memory_gb(bold_shape)
    estimate = _estimate_node(plan, memory, sloppy=sloppy, seed=seed)
    apply = pe.Node(
        ApplyFieldmap(
            phase_encoding=plan.phase_encoding,
            readout_time=plan.readout_time,
            # A field estimated on the reference itself needs no registration to it.
            same_space=plan.method == "pepolar" and len(plan.epi) == 1,
            method=plan.method,
            jacobian=jacobian,
            sloppy=sloppy,
            seed=seed,
        ),
        name="apply_fieldmap",
        mem_gb=memory,
    )
    if plan.method == "pepolar" and len(plan.epi) == 1:
        join = pe.Node(Merge(2), name="join_pair", run_without_submitting=True)
        join.inputs.in2 = plan.epi[0]
        workflow.connect([
            (inputnode, join, [("bold_ref", "in1")]),
            (join, estimate, [("out", "in_files")]),
        ])  # fmt: skip
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


def _memory_gb(shape: tuple[int, int, int]) -> float:
    """Peak of the field's estimate and of unwarping, GB.

    >>> _memory_gb((100, 100, 50))
    0.625
    """
    return round(BASE_GB + SOLVER_GB_PER_MILLION * shape[0] * shape[1] * shape[2] / 1e6, 3)


def _estimate_node(plan: FieldmapPlan, memory: float, *, sloppy: bool, seed: int) -> pe.Node:
    """Make the node that gives the field in hertz."""
    interface: Any
    if plan.method == "pepolar":
        ways, times = list(plan.epi_phase_encoding), list(plan.epi_readout_times)
        interface = EstimateEPIFieldmap(sloppy=sloppy, seed=seed)
        if len(plan.epi) == 1:
            ways, times = [plan.phase_encoding, *ways], [plan.readout_time, *times]
        else:
            interface.inputs.in_files = list(plan.epi)
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
