"""Resampling of a DWI run in one interpolation, with its gradients, and bias correction."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi.bias import CorrectB0Bias
from neuroferry.interfaces.dwi.confounds import DwiConfounds
from neuroferry.interfaces.dwi.replace_slices import ReplaceSlices
from neuroferry.interfaces.dwi.resample import ResampleDwi
from neuroferry.interfaces.dwi.slice_prediction import LEAST_OTHERS
from neuroferry.interfaces.image.target_grid import CarryMask, MakeTargetGrid
from neuroferry.workflows.dwi.memory import (
    BIAS_BYTES,
    RESAMPLE_BYTES,
    replace_gb,
    resample_t1w_gb,
    volume_gb,
)
from neuroferry.workflows.func.memory import T1W_GRID_BYTES, carry_mask_gb
from neuroferry.workflows.memory import memory_gb
from neuroferry.workflows.sdc import Readout

INPUTS = (
    *("dwi_denoised", "bval", "bvec", "eddy_xfms", "motion_xfms"),
    *("dwi_ref", "dwi_mask", "motion_tsv", "outliers_tsv"),
)
IN_T1W = ("t1w_preproc", "dwiref2anat_xfm")
T1W_OUTPUTS = [
    *("dwi_preproc_t1w", "dwi_bval_t1w", "dwi_bvec_t1w", "dwi_ref_t1w", "dwi_mask_t1w"),
]


@dataclass(frozen=True)
class T1wGrid:
    """Size of the output grid in the space of the T1w image, as known from headers.

    Attributes
    ----------
    t1w_voxels : int
        Voxels of the T1w image.
    voxels : float
        Voxels of the grid: the T1w field of view in voxels of the run.
    """

    t1w_voxels: int
    voxels: float

    @classmethod
    def of(
        cls, run: DwiRun, shape: tuple[int, int, int], zooms: tuple[float, float, float]
    ) -> T1wGrid:
        """Compute the sizes from the T1w image's shape and voxel size in mm."""
        field_of_view = math.prod(n * size for n, size in zip(shape, zooms, strict=True))
        return cls(math.prod(shape), field_of_view / math.prod(run.zooms))


def init_dwi_apply_wf(
    *,
    run: DwiRun,
    readout: Readout | None = None,
    eddy: bool = True,
    replace: bool = True,
    bias: bool = True,
    t1w_grid: T1wGrid | None = None,
    omp_nthreads: int = 1,
    name: str = "apply_wf",
) -> Workflow:
    """Build the resampling of one DWI run onto the grid of its reference.

    Parameters
    ----------
    run : DwiRun
        The run.
    readout : Readout, optional
        Readout that turns the field into shifts; without one distortion is not corrected.
    eddy : bool
        Whether eddy-current distortion was estimated in addition to motion.
    replace : bool
        Replace slices with signal dropout by the prediction from the other volumes.
    bias : bool
        Correct intensity non-uniformity, with one bias field for all volumes.
    t1w_grid : T1wGrid, optional
        Also resample the run into the space of the T1w image.
    omp_nthreads : int
        Threads per step, where more than one does not change results.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_denoised, bval, bvec
        Outputs of `init_dwi_denoise_wf`.
    dwi_ref, eddy_xfms, motion_xfms, motion_tsv, outliers_tsv, dwi_mask
        Outputs of `init_dwi_fit_wf`; with a readout also ``fieldmap``.
    t1w_preproc, dwiref2anat_xfm
        For resampling into the space of the T1w image.

    **Outputs**

    dwi_preproc, dwi_bval, dwi_bvec
        The series; gradients rotated with the head.
    dwi_preproc_t1w, dwi_bval_t1w, dwi_bvec_t1w, dwi_ref_t1w, dwi_mask_t1w
        The same in the space of the T1w image, the mean of its b0 volumes, and the brain mask.
    bias_field
        Bias field that the series was divided by.
    slices_report
        Replaced slices (JSON), if slices are replaced.
    confounds_tsv, confounds_json
        Confounds of each volume, and the description of the columns.
    """
    fields = [*INPUTS, *(["fieldmap"] if readout else []), *(IN_T1W if t1w_grid else ())]
    found = ["dwi_preproc", "dwi_bval", "dwi_bvec", "confounds_tsv", "confounds_json"]
    found += ["bias_field"] if bias else []
    found += ["slices_report"] if replace else []
    found += T1W_OUTPUTS if t1w_grid else []
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(
        readout,
        eddy=eddy and bool(run.phase_axis),
        replace=replace,
        bias=bias,
        in_t1w=t1w_grid is not None,
    )
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=found), name="outputnode")
    resample = pe.Node(
        ResampleDwi(tr=run.tr, n_procs=omp_nthreads),
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
    resamplers = [resample]
    if t1w_grid is not None:
        resamplers.append(_resample_t1w(workflow, run, t1w_grid, omp_nthreads))
    if replace:
        _replace_slices(workflow, run, (*resamplers, tabulate), omp_nthreads)
    if readout is not None:
        for node in resamplers:
            node.inputs.phase_encoding = readout.phase_encoding
            node.inputs.readout_time = readout.readout_time
            node.inputs.jacobian = readout.jacobian
            workflow.connect(inputnode, "fieldmap", node, "fieldmap")
    if not bias:
        workflow.connect(resample, "out_file", outputnode, "dwi_preproc")
        return workflow
    correct_bias = pe.Node(
        CorrectB0Bias(tr=run.tr), name="correct_bias", mem_gb=volume_gb(BIAS_BYTES, run)
    )
    workflow.connect([
        (resample, correct_bias, [("out_file", "in_file"), ("out_bval", "bval")]),
        (inputnode, correct_bias, [("dwi_mask", "mask")]),
        (correct_bias, outputnode, [("out_file", "dwi_preproc"), ("bias_field", "bias_field")]),
        *((correct_bias, node, [("bias_field", "bias_field")]) for node in resamplers[1:]),
    ])  # fmt: skip
    return workflow


def _resample_t1w(workflow: Workflow, run: DwiRun, grid: T1wGrid, omp_nthreads: int) -> pe.Node:
    """Add the resampling of the series and the brain mask into the space of the T1w image."""
    inputnode, outputnode = (workflow.get_node(name) for name in ("inputnode", "outputnode"))
    make_grid = pe.Node(
        MakeTargetGrid(),
        name="make_grid_t1w",
        mem_gb=memory_gb(T1W_GRID_BYTES, grid.t1w_voxels),
    )
    resample = pe.Node(
        ResampleDwi(tr=run.tr, n_procs=omp_nthreads),
        name="resample_dwi_t1w",
        mem_gb=resample_t1w_gb(run, grid.voxels, omp_nthreads),
        n_procs=omp_nthreads,
    )
    carry_mask = pe.Node(
        CarryMask(),
        name="carry_mask_t1w",
        mem_gb=carry_mask_gb(grid.voxels, with_field=False),
    )
    workflow.connect([
        (inputnode, make_grid, [("dwi_ref", "bold_ref"), ("t1w_preproc", "t1w_preproc")]),
        (inputnode, resample, [
            ("dwi_denoised", "in_file"), ("dwiref2anat_xfm", "transforms"),
            *((field, field) for field in ("bval", "bvec", "eddy_xfms", "motion_xfms")),
        ]),
        (inputnode, carry_mask, [("dwi_mask", "in_file"), ("dwiref2anat_xfm", "transforms")]),
        *((make_grid, node, [("reference", "reference")]) for node in (resample, carry_mask)),
        (resample, outputnode, [
            ("out_file", "dwi_preproc_t1w"), ("out_ref", "dwi_ref_t1w"),
            ("out_bval", "dwi_bval_t1w"), ("out_bvec", "dwi_bvec_t1w"),
        ]),
        (carry_mask, outputnode, [("out_mask", "dwi_mask_t1w")]),
    ])  # fmt: skip
    return resample


def can_replace(run: DwiRun, ignore: Collection[str] = ()) -> bool:
    """Check whether slices with dropout can be replaced: other volumes must predict them."""
    enough = any(len(shell.volumes) > LEAST_OTHERS for shell in run.shells)
    return "slice-replacement" not in ignore and enough


def _replace_slices(
    workflow: Workflow, run: DwiRun, users: tuple[pe.Node, ...], omp_nthreads: int
) -> None:
    """Add the replacement of slices with dropout, and connect its outputs."""
    inputnode, outputnode = (workflow.get_node(name) for name in ("inputnode", "outputnode"))
    replace_slices = pe.Node(
        ReplaceSlices(slice_axis=run.slice_axis, n_procs=omp_nthreads),
        name="replace_slices",
        mem_gb=replace_gb(run, omp_nthreads),
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


def _describe(
    readout: Readout | None, *, eddy: bool, replace: bool, bias: bool, in_t1w: bool
) -> str:
    """Describe the resampling in the methods text."""
    parts = ["head motion"]
    parts += ["eddy-current distortion"] if eddy else []
    parts += ["susceptibility distortion"] if readout else []
    joined = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    text = ""
    if replace:
        text += (
            "Slices with signal dropout were replaced by the prediction of a model of the other "
            "volumes [@andersson2016]. "
        )
    text += (
        "The series was resampled in a single interpolation with cubic B-splines [@unser1999], "
        f"correcting for {joined}; the gradients were rotated with the head [@leemans2009]. "
    )
    if in_t1w:
        text += (
            "It was also resampled into the space of the T1w image, again in a single "
            "interpolation, and the gradients were rotated into that space. "
        )
    if bias:
        text += (
            "Intensity non-uniformity was estimated on the mean b0 image [@tustison2010] and "
            "corrected in all volumes. "
        )
    return text
