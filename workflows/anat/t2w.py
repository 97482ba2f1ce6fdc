"""A T2w image, aligned with the T1w image of the same participant."""

from __future__ import annotations

import math
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.anat.t2w import PlaceT2w
from neuroferry.interfaces.draw.func import CoregistrationPicture
from neuroferry.interfaces.epi.boundary import T2W_SLOPE
from neuroferry.interfaces.epi.coregister import Coregister
from neuroferry.selection.t2w import T2wPlan
from neuroferry.workflows.anat.memory import place_t2w_gb, register_t2w_gb, t2w_picture_gb
from neuroferry.workflows.anat.outputs import init_t2w_derivatives_wf
from neuroferry.workflows.parts import connect_parts, of_kind
from neuroferry.workflows.pictures import Drawing, init_pictures_wf

INPUTS = ("t1w_preproc", "brain_mask", "dseg", "tpms")


def init_t2w_wf(
    *,
    plan: T2wPlan,
    t1w_shape: tuple[int, int, int],
    bids_dir: str | Path,
    out_dir: str | Path,
    config: WorkflowConfig,
    name: str,
) -> Workflow:
    """Build the workflow of one T2w image.

    The image is registered rigidly to the T1w image, its bias field is estimated inside the brain
    of the T1w image, and the corrected image is resampled onto the T1w image's grid. Grey matter
    is brighter than white matter in T2w images, as in BOLD series, whose registration it shares.

    Parameters
    ----------
    plan : T2wPlan
        The image.
    t1w_shape : tuple of int
        Voxels of the T1w image along each axis, for the memory estimates.
    bids_dir, out_dir : path
        Input dataset and derivatives.
    config : WorkflowConfig
        Settings.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask, dseg, tpms
        Outputs of `init_anat_wf`, or precomputed.

    **Outputs**

    out_files
        The derivatives, once all are written.
    """
    workflow = of_kind(Workflow(name=name), "t2w")
    workflow.__desc__ = _describe(plan)
    inputnode = pe.Node(IdentityInterface(fields=list(INPUTS)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["out_files"]), name="outputnode")
    entities = plan.image.entities
    t1w_voxels = math.prod(t1w_shape)
    align_wf = _init_align_wf(plan, t1w_voxels, config)
    placed = {"t2w_preproc": "bold_ref", "t1w_preproc": "t1w"}
    drawing = Drawing(
        "coreg",
        CoregistrationPicture(kind="T2w"),
        {**placed, "dseg": "dseg", "brain_mask": "brain_mask"},
        t2w_picture_gb(t1w_voxels),
    )
    reports_wf = init_pictures_wf(
        drawings=[drawing],
        out_dir=out_dir,
        entities=entities,
        suffix="T2w",
        name="t2w_reports_wf",
    )
    derivatives_wf = init_t2w_derivatives_wf(
        out_dir=out_dir,
        bids_dir=bids_dir,
        image=plan.image,
        seed=config.random_seed,
        write_doubtful=config.write_doubtful,
    )
    given = {field: (inputnode, field) for field in INPUTS}
    workflow.add_nodes([inputnode])
    connect_parts(workflow, given, [align_wf, reports_wf, derivatives_wf])
    workflow.connect(derivatives_wf, "outputnode.out_files", outputnode, "out_files")
    return workflow


def _init_align_wf(plan: T2wPlan, t1w_voxels: int, config: WorkflowConfig) -> Workflow:
    """Build the registration and the resampling."""
    workflow = Workflow(name="align_wf")
    inputs = ["t1w_preproc", "brain_mask", "tpms"]
    outputs = ["t2w_preproc", "T2w2anat_xfm", "anat2T2w_xfm", "coreg_report"]
    inputnode = pe.Node(IdentityInterface(fields=inputs), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=outputs), name="outputnode")
    image, voxels = str(plan.image.path), math.prod(plan.shape)
    select_wm = pe.Node(Select(index=[1]), name="select_wm", run_without_submitting=True)
    register_t2w = pe.Node(
        Coregister(bold_ref=image, slope=T2W_SLOPE, sloppy=config.sloppy, seed=config.random_seed),
        name="register_t2w",
        mem_gb=register_t2w_gb(voxels, t1w_voxels),
    )
    place_t2w = pe.Node(
        PlaceT2w(in_file=image, sloppy=config.sloppy),
        name="place_t2w",
        mem_gb=place_t2w_gb(voxels, t1w_voxels),
    )
    workflow.connect([
        (inputnode, select_wm, [("tpms", "inlist")]),
        (inputnode, register_t2w, [("t1w_preproc", "t1w_preproc"), ("brain_mask", "t1w_mask")]),
        (select_wm, register_t2w, [("out", "wm_probseg")]),
        (inputnode, place_t2w, [("t1w_preproc", "t1w_preproc"), ("brain_mask", "brain_mask")]),
        (register_t2w, place_t2w, [("boldref2anat_xfm", "t2w2anat_xfm")]),
        (place_t2w, outputnode, [("t2w_preproc", "t2w_preproc")]),
        (register_t2w, outputnode, [
            ("boldref2anat_xfm", "T2w2anat_xfm"),
            ("anat2boldref_xfm", "anat2T2w_xfm"),
            ("coreg_report", "coreg_report"),
        ]),
    ])  # fmt: skip
    return workflow


def _describe(plan: T2wPlan) -> str:
    """Write the methods text of an image."""
    title = f": {plan.label.replace('_', ' ')}" if plan.label else ""
    return (
        f"\n\n### T2-weighted image{title}\n\n"
        "The T2-weighted (T2w) image was rigidly registered to the T1w image by mutual "
        "information [@wells1996], followed by boundary-based registration [@greve2009]. "
        "Intensity non-uniformity was corrected inside the brain with N4 [@tustison2010], and the "
        "image was resampled onto the grid of the T1w image in a single interpolation. "
    )
