"""The diffusion workflow of one run: from its image to derivatives and reportlets."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.dwi.models import shell_directions
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.workflows.dwi.apply import T1wGrid, can_replace, init_dwi_apply_wf
from neuroferry.workflows.dwi.denoise import can_denoise, init_dwi_denoise_wf
from neuroferry.workflows.dwi.fit import init_dwi_fit_wf
from neuroferry.workflows.dwi.models import (
    TRACKED_DIRECTIONS,
    init_dwi_models_wf,
    plan_models,
)
from neuroferry.workflows.dwi.outputs import init_dwi_derivatives_wf
from neuroferry.workflows.dwi.reports import init_dwi_reports_wf
from neuroferry.workflows.dwi.tracts import init_dwi_tracts_wf
from neuroferry.workflows.parts import connect_parts, of_kind
from neuroferry.workflows.sdc import Readout, init_sdc_wf

IN_T1W = "_t1w"
"""Suffix of the names of fields in the space of the T1w image."""
INPUTS = ("t1w_preproc", "brain_mask", "dseg", "tpms", "anat2std_xfm", "std2anat_xfm")


def init_dwi_wf(
    *,
    run: DwiRun,
    fieldmap: FieldmapPlan,
    bids_dir: str | Path,
    out_dir: str | Path,
    t1w_shape: tuple[int, int, int] | None = None,
    t1w_grid: T1wGrid | None = None,
    config: WorkflowConfig | None = None,
    omp_nthreads: int = 1,
    name: str | None = None,
) -> Workflow:
    """Build the diffusion workflow of one run.

    Parameters
    ----------
    run : DwiRun
        The run.
    fieldmap : FieldmapPlan
        How its distortion is estimated, if it is.
    bids_dir, out_dir : path
        Input dataset and derivatives.
    t1w_shape : tuple of int, optional
        Voxels of the T1w image; without one there are no coregistration and no bundles.
    t1w_grid : T1wGrid, optional
        Also write series and tensors in the space of the T1w image.
    config : WorkflowConfig, optional
        Settings of the steps.
    omp_nthreads : int
        Threads of one step.
    name : str, optional
        Name of the workflow; by default ``dwi_<entities of the run>_wf``.

    Returns
    -------
    LiterateWorkflow

    **Inputs**, with a T1w image

    t1w_preproc, brain_mask, dseg, tpms, anat2std_xfm, std2anat_xfm
        Outputs of `init_anat_wf`.

    **Outputs**

    out_files
        The derivatives, once all are written.
    """
    config = config or WorkflowConfig()
    with_anat, with_sdc = t1w_shape is not None, fieldmap.method is not None
    models = plan_models(run)
    with_tracts = with_anat and "DTI" in models and config.streamlines > 0
    with_noise = can_denoise(run, config.ignore)
    with_slices = can_replace(run, config.ignore)
    workflow = of_kind(Workflow(name=name or f"dwi_{run.label}_wf"), "dwi")
    workflow.__desc__ = _describe(run)
    jacobian = "fmap-jacobian" not in config.ignore
    sdc_wf = readout = None
    if with_sdc:
        readout = Readout(fieldmap.phase_encoding, fieldmap.readout_time, jacobian)
        sdc_wf = init_sdc_wf(
            plan=fieldmap,
            bold_shape=run.shape,
            jacobian=jacobian,
            sloppy=config.sloppy,
            seed=config.random_seed,
        )
    inputnode = pe.Node(IdentityInterface(fields=list(INPUTS)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["out_files"]), name="outputnode")
    workflow.add_nodes([inputnode])
    parts = [
        init_dwi_denoise_wf(
            run=run,
            ignore=config.ignore,
            fix_gradients=config.fix_gradients,
            b0_threshold=config.b0_threshold,
            omp_nthreads=omp_nthreads,
        ),
        init_dwi_fit_wf(
            run=run,
            sdc_wf=sdc_wf,
            eddy="eddy" not in config.ignore,
            with_anat=with_anat,
            t1w_voxels=math.prod(t1w_shape or (256, 256, 256)),
            sloppy=config.sloppy,
            omp_nthreads=omp_nthreads,
            seed=config.random_seed,
        ),
        init_dwi_apply_wf(
            run=run,
            readout=readout,
            eddy="eddy" not in config.ignore,
            replace=with_slices,
            bias="b0-bias" not in config.ignore,
            t1w_grid=t1w_grid,
            omp_nthreads=omp_nthreads,
        ),
    ]
    if models:
        parts.append(init_dwi_models_wf(run=run, models=models, omp_nthreads=omp_nthreads))
    if t1w_grid is not None and "DTI" in models:
        parts.append(
            init_dwi_models_wf(
                run=run,
                models=["DTI"],
                suffix=IN_T1W,
                voxels=t1w_grid.voxels,
                omp_nthreads=omp_nthreads,
                name="models_t1w_wf",
            )
        )
    if with_tracts:
        parts.append(init_tracts_of(run, models, config, omp_nthreads))
    parts += [
        init_dwi_reports_wf(
            out_dir=out_dir,
            run=run,
            models=models,
            t1w_shape=t1w_shape,
            with_sdc=with_sdc,
            with_noise=with_noise,
            with_slices=with_slices,
            with_tracts=with_tracts,
            in_t1w=t1w_grid is not None,
        ),
        init_dwi_derivatives_wf(
            out_dir=out_dir,
            bids_dir=bids_dir,
            run=run,
            models=models,
            with_anat=with_anat,
            with_tracts=with_tracts,
            with_slices=with_slices,
            in_t1w=t1w_grid is not None,
            fieldmap=fieldmap if with_sdc else None,
            write_doubtful=config.write_doubtful,
            seed=config.random_seed,
        ),
    ]
    there = {field: (inputnode, field) for field in INPUTS} if with_anat else {}
    connect_parts(workflow, there, parts)
    workflow.connect(parts[-1], "outputnode.out_files", outputnode, "out_files")
    return workflow


def init_tracts_of(
    run: DwiRun, models: Collection[str], config: WorkflowConfig, omp_nthreads: int
) -> Workflow:
    """Build the tractography of one run, or of joined runs, from its models."""
    return init_dwi_tracts_wf(
        run=run,
        with_fod="CSD" in models
        and shell_directions(run.shells, run.n_directions) >= TRACKED_DIRECTIONS,
        streamlines=config.streamlines,
        bundles=config.bundles,
        profile_extent=config.profile_extent,
        omp_nthreads=omp_nthreads,
        seed=config.random_seed,
    )


def name_shells(run: DwiRun) -> str:
    """Describe the number of volumes of each shell of a run, without the b0 volumes."""
    return " and ".join(
        f"{len(shell.volumes)} of b = {shell.b:.0f} s/mm^2^" for shell in run.shells if shell.b
    )


def _describe(run: DwiRun) -> str:
    """Write the start of the methods text of a run."""
    shells = name_shells(run)
    n_b0 = sum(len(shell.volumes) for shell in run.shells if not shell.b)
    title = run.label.replace("_", " ") or "DWI"
    return (
        f"\n\n### Diffusion data: {title}\n\nThe run has {run.n_volumes} volumes of "
        f"{' x '.join(map(str, run.shape))} voxels, {n_b0} without diffusion weighting"
        f"{' and ' + shells if shells else ''}. "
    )
