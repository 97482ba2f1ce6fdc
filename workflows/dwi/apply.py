"""Resamples a DWI run in one interpolation, turns its gradients, and evens its brightness."""

from __future__ import annotations

from collections.abc import Collection

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi_bias import CorrectB0Bias
from neuroferry.interfaces.dwi_confounds import DwiConfounds
from neuroferry.interfaces.dwi_replace import LEAST_OTHERS, ReplaceSlices
from neuroferry.interfaces.dwi_resample import ResampleDwi
from neuroferry.workflows.dwi.memory import (
    BIAS_BYTES,
    REPLACE_BYTES,
    RESAMPLE_BYTES,
    series_gb,
    volume_gb,
)
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
    replace: bool = True,
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
    replace : bool
        Put what the other volumes predict in the place of slices that lost their signal.
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
    slices_report
        What was replaced (JSON), where slices are.
    confounds_tsv, confounds_json
        Table of what disturbs each volume, and what its columns are.
    """
    fields = [*INPUTS, *(["fieldmap"] if readout else [])]
    found = ["dwi_preproc", "dwi_bval", "dwi_bvec", "confounds_tsv", "confounds_json"]
    found += ["bias_field"] if bias else []
    found += ["slices_report"] if replace else []
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(
        readout, eddy=eddy and bool(run.phase_axis), replace=replace, bias=bias
    )
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
    if replace:
        _replace_slices(workflow, run, (resample, tabulate), omp_nthreads)
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


def can_replace(run: DwiRun, ignore: Collection[str] = ()) -> bool:
    """Tell whether lost slices are replaced: it takes volumes that predict them."""
    enough = any(len(shell.volumes) > LEAST_OTHERS for shell in run.shells)
    # Slices are looked for along the third axis alone.
    return "slice-replacement" not in ignore and enough and run.slice_axis == 2


def _replace_slices(
    workflow: Workflow, run: DwiRun, users: tuple[pe.Node, ...], omp_nthreads: int
) -> None:
    """Add the prediction of lost slices, for those that use it."""
    inputnode, outputnode = (workflow.get_node(name) for name in ("inputnode", "outputnode"))
    replace_slices = pe.Node(
        ReplaceSlices(n_procs=omp_nthreads),
        name="replace_slices",
        mem_gb=series_gb(REPLACE_BYTES, run, RESAMPLE_BYTES * omp_nthreads * run.n_voxels / 1e9),
        n_procs=omp_nthreads,
    )
    workflow.connect([
        (inputnode, replace_slices, [
            ("dwi_denoised", "in_file"), ("dwi_ref", "reference"),
            *((field, field) for field in ("bval", "bvec", "eddy_xfms", "motion_xfms")),
            ("outliers_tsv", "outliers_tsv"),
        ]),
        (replace_slices, outputnode, [("report", "slices_report")]),
        *((replace_slices, user, [("patches", "patches")]) for user in users),
    ])  # fmt: skip


def _describe(readout: Readout | None, *, eddy: bool, replace: bool, bias: bool) -> str:
    """Say for the methods paragraph what is applied."""
    parts = ["head motion"]
    parts += ["the distortion by eddy currents"] if eddy else []
    parts += ["susceptibility distortion"] if readout else []
    joined = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    text = ""
    if replace:
        text += (
            "Slices that had lost their signal were replaced by what the model of the other "
            "volumes predicts [@andersson2016]. "
        )
    text += (
        f"The series was resampled with {joined} applied in one interpolation, by cubic "
        "B-splines [@unser1999], and the gradients were turned with the head [@leemans2009]. "
    )
    if bias:
        text += "Uneven brightness was estimated on the mean b0 image [@tustison2010]. "
    return text
