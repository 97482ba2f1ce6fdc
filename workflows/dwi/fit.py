"""Estimates for a DWI run before it is resampled: motion, distortion, coregistration."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi.eddy import EstimateEddy
from neuroferry.interfaces.epi.brain_mask import MaskBold
from neuroferry.interfaces.epi.coregister import Coregister
from neuroferry.workflows.dwi.memory import eddy_gb
from neuroferry.workflows.func.memory import (
    MASK_BYTES,
    T1W_MASK_BYTES,
    coregister_gb,
)
from neuroferry.workflows.memory import memory_gb, volume_voxels

SERIES = ("dwi_denoised", "bval", "bvec")
ANATOMY = ("t1w_preproc", "brain_mask", "tpms")
EDDY = ("dwi_ref", "eddy_xfms", "motion_xfms", "motion_tsv", "outliers_tsv")
POSITION = {"boldref2anat_xfm": "dwiref2anat_xfm", "anat2boldref_xfm": "anat2dwiref_xfm"}
SDC = {
    "fieldmap": "fieldmap",
    "bold_ref_sdc": "dwi_ref_sdc",
    "sdc_report": "sdc_report",
    "fmap2boldref_xfm": "fmap2dwiref_xfm",
}
OUTPUTS = (*EDDY, "eddy_report", *SDC.values(), *POSITION.values(), "coreg_report", "dwi_mask")


def init_dwi_fit_wf(
    *,
    run: DwiRun,
    sdc_wf: Workflow | None = None,
    eddy: bool = True,
    with_anat: bool = True,
    t1w_voxels: int = 256**3,
    sloppy: bool = False,
    omp_nthreads: int = 1,
    seed: int = 1,
    name: str = "fit_wf",
) -> Workflow:
    """Build the estimation steps of one DWI run.

    Each volume is aligned to its prediction by a model of the others; the mean b0 image is the
    reference, which is unwarped, registered to the T1w image, and masked.

    Parameters
    ----------
    run : DwiRun
        The run.
    sdc_wf : Workflow, optional
        From `neuroferry.workflows.sdc.init_sdc_wf`; without it susceptibility distortion is
        not corrected.
    eddy : bool
        Estimate eddy-current distortion in addition to motion, where the phase-encoding axis
        is known.
    with_anat : bool
        Whether there is a T1w image.
    t1w_voxels : int
        Its voxels, for the memory estimates.
    sloppy : bool
        Fast processing of low quality, for tests.
    omp_nthreads : int
        Threads per step, where more than one does not change results.
    seed : int
        Seed of the sampling of registrations, positive.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_denoised, bval, bvec
        Outputs of `init_dwi_denoise_wf`.
    t1w_preproc, brain_mask, tpms
        Results of the anatomical workflow, where there is a T1w image.

    **Outputs**

    dwi_ref, dwi_ref_sdc
        Mean b0 image as measured, and unwarped where there is a field map.
    eddy_xfms, motion_xfms
        One affine for each volume, reference points to volume points; its rigid part.
    motion_tsv, outliers_tsv, eddy_report
        Motion parameters; deviation of each slice from its prediction; the report (JSON).
    fieldmap, sdc_report, fmap2dwiref_xfm
        Off-resonance in Hz on the reference's grid, with a field map.
    dwiref2anat_xfm, anat2dwiref_xfm, coreg_report
        Rigid transforms between the reference and the T1w image.
    dwi_mask
        Brain mask on the reference's grid.
    """
    voxels = volume_voxels(run.shape)
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(eddy=eddy and bool(run.phase_axis), with_anat=with_anat)
    fields = [*SERIES, *(ANATOMY if with_anat else ())]
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    estimate_eddy = pe.Node(
        EstimateEddy(slice_axis=run.slice_axis, eddy=eddy, n_procs=omp_nthreads),
        name="estimate_eddy",
        mem_gb=eddy_gb(run, omp_nthreads),
        n_procs=omp_nthreads,
    )
    axis = run.phase_encoding or run.phase_axis
    if axis:
        estimate_eddy.inputs.phase_encoding = axis
    workflow.connect([
        (inputnode, estimate_eddy, [
            ("dwi_denoised", "in_file"), ("bval", "bval"), ("bvec", "bvec"),
        ]),
        (estimate_eddy, outputnode, [
            *((field, field) for field in EDDY), ("report", "eddy_report"),
        ]),
    ])  # fmt: skip
    best = _add_sdc(workflow, estimate_eddy, outputnode, sdc_wf)
    mask_dwi = pe.Node(
        MaskBold(seed=seed),
        name="mask_dwi",
        mem_gb=memory_gb(MASK_BYTES, voxels, T1W_MASK_BYTES * t1w_voxels / 1e9 * with_anat),
    )
    workflow.connect(*best, mask_dwi, "bold_ref")
    workflow.connect(mask_dwi, "bold_mask", outputnode, "dwi_mask")
    if with_anat:
        select_wm = pe.Node(Select(index=[1]), name="select_wm", run_without_submitting=True)
        register_dwi = pe.Node(
            Coregister(sloppy=sloppy, seed=seed),
            name="register_dwi",
            mem_gb=coregister_gb(t1w_voxels),
        )
        workflow.connect(*best, register_dwi, "bold_ref")
        workflow.connect([
            (inputnode, select_wm, [("tpms", "inlist")]),
            (inputnode, register_dwi, [
                ("t1w_preproc", "t1w_preproc"), ("brain_mask", "t1w_mask"),
            ]),
            (inputnode, mask_dwi, [("brain_mask", "t1w_mask")]),
            (select_wm, register_dwi, [("out", "wm_probseg")]),
            (register_dwi, mask_dwi, [
                ("anat2boldref_xfm", "anat2boldref_xfm"), ("coreg_report", "coreg_report"),
            ]),
            (register_dwi, outputnode, [("coreg_report", "coreg_report"), *POSITION.items()]),
        ])  # fmt: skip
    return workflow


def _add_sdc(
    workflow: Workflow, estimate_eddy: pe.Node, outputnode: pe.Node, sdc_wf: Workflow | None
) -> tuple[pe.Node | Workflow, str]:
    """Add the distortion correction; return the source of the best reference."""
    if sdc_wf is None:
        workflow.connect(estimate_eddy, "dwi_ref", outputnode, "dwi_ref_sdc")
        return estimate_eddy, "dwi_ref"
    workflow.connect(estimate_eddy, "dwi_ref", sdc_wf, "inputnode.bold_ref")
    pairs = [(f"outputnode.{field}", here) for field, here in SDC.items()]
    workflow.connect([(sdc_wf, outputnode, pairs)])
    return sdc_wf, "outputnode.bold_ref_sdc"


def _describe(*, eddy: bool, with_anat: bool) -> str:
    """Describe the estimation steps in the methods text."""
    found = "Head motion and eddy-current distortion were" if eddy else "Head motion was"
    text = (
        f"{found} estimated by registering each volume to the prediction of a model of the other "
        "volumes for its gradient [@andersson2015]. "
    )
    if with_anat:
        text += (
            "The mean b0 image was rigidly registered to the T1w image by mutual information "
            "[@wells1996], followed by boundary-based registration [@greve2009]. "
        )
    return text
