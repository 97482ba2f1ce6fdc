"""Resamples a DWI run in one interpolation, turns its gradients, and evens its brightness."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi_bias import CorrectB0Bias
from neuroferry.interfaces.dwi_confounds import DwiConfounds
from neuroferry.interfaces.dwi_resample import ResampleDwi
from neuroferry.workflows.dwi.memory import BIAS_BYTES, RESAMPLE_BYTES, volume_gb
from neuroferry.workflows.func.apply import Readout

INPUTS = (
    *("dwi_denoised", "bval", "bvec", "eddy_xfms", "motion_xfms"),
    *("dwi_ref", "dwi_mask", "motion_tsv", "outliers_tsv"),
)


def init_dwi_apply_wf(
    *,
    run: DwiRun,
    readout: Readout | None = None,
    eddy: bool = True,
    bias: bool = True,
    omp_nthreads: int = 1,
    name: str = "apply_wf",
) -> Workflow:
    """Build the resampling of one DWI run on the grid of its reference.

    Parameters
    ----------
    run : DwiRun
        The run.
    readout : Readout, optional
        How the field bends it; without one its distortion is not corrected.
    eddy : bool
        Whether the distortion by eddy currents was estimated beside the motion.
    bias : bool
        Correct uneven brightness, with one field for all volumes.
    omp_nthreads : int
        Threads of one step, where more than one changes no value.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_denoised, bval, bvec
        As `init_dwi_denoise_wf` gives them.
    dwi_ref, eddy_xfms, motion_xfms, motion_tsv, outliers_tsv, dwi_mask
        As `init_dwi_fit_wf` gives them; and ``fieldmap``, with a readout.

    **Outputs**

    dwi_preproc, dwi_bval, dwi_bvec
        The series; gradients turned with the head.
    bias_field
        What brightness was divided by.
    confounds_tsv, confounds_json
        Table of what disturbs each volume, and what its columns are.
    """
    fields = [*INPUTS, *(["fieldmap"] if readout else [])]
    found = ["dwi_preproc", "dwi_bval", "dwi_bvec", "confounds_tsv", "confounds_json"]
    found += ["bias_field"] if bias else []
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(readout, eddy=eddy and bool(run.phase_axis), bias=bias)
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=found), name="outputnode")
    resample = pe.Node(
        ResampleDwi(n_procs=omp_nthreads),
        name="resample_dwi",
        mem_gb=volume_gb(RESAMPLE_BYTES * (omp_nthreads + 1), run),
        n_procs=omp_nthreads,
    )
    tabulate = pe.Node(DwiConfounds(), name="tabulate_confounds", mem_gb=volume_gb(0, run))
    workflow.connect([
        (inputnode, resample, [
            ("dwi_denoised", "in_file"), ("bval", "bval"), ("bvec", "bvec"),
            ("eddy_xfms", "eddy_xfms"), ("motion_xfms", "motion_xfms"), ("dwi_ref", "reference"),
        ]),
        (inputnode, tabulate, [
            ("bval", "bval"), ("bvec", "bvec"),
            ("motion_tsv", "motion_tsv"), ("outliers_tsv", "outliers_tsv"),
        ]),
        (resample, outputnode, [("out_bval", "dwi_bval"), ("out_bvec", "dwi_bvec")]),
        (tabulate, outputnode, [
            ("confounds_tsv", "confounds_tsv"), ("confounds_json", "confounds_json"),
        ]),
    ])  # fmt: skip
    if readout is not None:
        resample.inputs.phase_encoding = readout.phase_encoding
        resample.inputs.readout_time = readout.readout_time
        resample.inputs.jacobian = readout.jacobian
        workflow.connect(inputnode, "fieldmap", resample, "fieldmap")
    if not bias:
        workflow.connect(resample, "out_file", outputnode, "dwi_preproc")
        return workflow
    correct_bias = pe.Node(CorrectB0Bias(), name="correct_bias", mem_gb=volume_gb(BIAS_BYTES, run))
    workflow.connect([
        (resample, correct_bias, [("out_file", "in_file"), ("out_bval", "bval")]),
        (inputnode, correct_bias, [("dwi_mask", "mask")]),
        (correct_bias, outputnode, [("out_file", "dwi_preproc"), ("bias_field", "bias_field")]),
    ])  # fmt: skip
    return workflow


def _describe(readout: Readout | None, *, eddy: bool, bias: bool) -> str:
    """Say for the methods paragraph what is applied."""
    parts = ["head motion"]
    parts += ["the distortion by eddy currents"] if eddy else []
    parts += ["susceptibility distortion"] if readout else []
    joined = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    text = (
        f"The series was resampled with {joined} applied in one interpolation, by cubic "
        "B-splines [@unser1999], and the gradients were turned with the head [@leemans2009]. "
    )
    if bias:
        text += "Uneven brightness was estimated on the mean b0 image [@tustison2010]. "
    return text
