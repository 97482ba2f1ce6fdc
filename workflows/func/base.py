"""The functional workflow of one run: from its images to derivatives and reportlets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import BoldRun
from neuroferry.config import WorkflowConfig
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.selection.spaces import BoldSpace
from neuroferry.workflows.func.apply import init_bold_apply_wf
from neuroferry.workflows.func.confounds import init_bold_confounds_wf
from neuroferry.workflows.func.fit import init_bold_fit_wf
from neuroferry.workflows.func.outputs import init_bold_derivatives_wf
from neuroferry.workflows.func.reports import init_bold_reports_wf
from neuroferry.workflows.parts import connect_parts, of_kind
from neuroferry.workflows.sdc import Readout, init_sdc_wf

INPUTS = ("t1w_preproc", "brain_mask", "dseg", "tpms", "anat2std_xfm")


def init_bold_wf(
    *,
    run: BoldRun,
    fieldmap: FieldmapPlan,
    spaces: Sequence[BoldSpace],
    bids_dir: str | Path,
    out_dir: str | Path,
    t1w: tuple[tuple[int, int, int], tuple[float, float, float]] | None = None,
    config: WorkflowConfig | None = None,
    omp_nthreads: int = 1,
    precomputed: Mapping[str, str] | None = None,
    cited: Mapping[str, Sequence[str]] | None = None,
    name: str | None = None,
) -> Workflow:
    """Build the functional workflow of one run.

    Parameters
    ----------
    run : BoldRun
        The run.
    fieldmap : FieldmapPlan
        How its distortion is estimated, if it is.
    spaces : sequence of BoldSpace
        Spaces that the series is written in.
    bids_dir, out_dir : path
        Input dataset and derivatives.
    t1w : tuple, optional
        Voxels and voxel size in mm of the T1w image, for the memory estimates; without one
        the run stays in native space.
    config : WorkflowConfig, optional
        Settings of the steps.
    omp_nthreads : int
        Threads of one step.
    precomputed : mapping, optional
        Files that replace steps; see `init_bold_fit_wf`.
    cited : mapping, optional
        BIDS URIs of these.
    name : str, optional
        Name of the workflow; by default ``bold_<entities of the run>_wf``.

    Returns
    -------
    LiterateWorkflow

    **Inputs**, with a T1w image

    t1w_preproc, brain_mask, dseg, tpms, anat2std_xfm
        Outputs of `init_anat_wf`; for each other template among the spaces the field named by
        `BoldSpace.anat2std_xfm`.

    **Outputs**

    out_files
        The derivatives, once all are written.
    """
    config = config or WorkflowConfig()
    with_anat, with_sdc = t1w is not None, fieldmap.method is not None
    shape, zooms = t1w or ((256, 256, 256), (1.0, 1.0, 1.0))
    workflow = of_kind(Workflow(name=name or f"bold_{run.label}_wf"), "bold")
    workflow.__desc__ = _describe(run)
    fields = [*dict.fromkeys([*INPUTS, *(space.anat2std_xfm for space in spaces)])]
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["out_files"]), name="outputnode")
    workflow.add_nodes([inputnode])
    fit_wf = init_bold_fit_wf(
        run=run,
        sdc_wf=_sdc_wf(run, fieldmap, config),
        with_anat=with_anat,
        t1w_voxels=math.prod(shape),
        dummy_scans=config.dummy_scans,
        precomputed=precomputed,
        sloppy=config.sloppy,
        omp_nthreads=omp_nthreads,
        seed=config.random_seed,
    )
    apply_wf = init_bold_apply_wf(
        run=run,
        spaces=spaces,
        readout=_readout(fieldmap, config),
        slice_time_ref=config.slice_time_ref,
        t1w_voxels=math.prod(shape),
        t1w_volume_mm3=math.prod(shape) * math.prod(zooms),
        omp_nthreads=omp_nthreads,
    )
    confounds_wf = init_bold_confounds_wf(
        tr=run.tr,
        n_volumes=run.n_volumes,
        shape=run.shape,
        t1w_shape=shape,
        with_anat=with_anat,
        fd_threshold=config.fd_spike_threshold,
        dvars_threshold=config.dvars_spike_threshold,
        unusable=run.unusable_volumes,
    )
    reports_wf = init_bold_reports_wf(
        out_dir=out_dir,
        entities=run.entities,
        n_volumes=run.n_volumes,
        shape=run.shape,
        t1w_shape=shape,
        with_anat=with_anat,
        with_sdc=with_sdc,
    )
    derivatives_wf = init_bold_derivatives_wf(
        out_dir=out_dir,
        bids_dir=bids_dir,
        run=run,
        spaces=spaces,
        with_anat=with_anat,
        fieldmap=fieldmap if with_sdc else None,
        given={name: (cited or {}).get(name, ()) for name in precomputed or ()},
        slice_time_ref=config.slice_time_ref,
        write_doubtful=config.write_doubtful,
        seed=config.random_seed,
    )
    there = {field: (inputnode, field) for field in fields} if with_anat else {}
    connect_parts(workflow, there, [fit_wf, apply_wf, confounds_wf, reports_wf, derivatives_wf])
    workflow.connect(derivatives_wf, "outputnode.out_files", outputnode, "out_files")
    return workflow


def _sdc_wf(run: BoldRun, fieldmap: FieldmapPlan, config: WorkflowConfig) -> Workflow | None:
    """Build the distortion correction of a plan."""
    if fieldmap.method is None:
        return None
    return init_sdc_wf(
        plan=fieldmap,
        bold_shape=run.shape,
        jacobian="fmap-jacobian" not in config.ignore,
        sloppy=config.sloppy,
        seed=config.random_seed,
    )


def _readout(fieldmap: FieldmapPlan, config: WorkflowConfig) -> Readout | None:
    """Make the readout that turns the field into shifts."""
    if fieldmap.method is None:
        return None
    return Readout(
        fieldmap.phase_encoding, fieldmap.readout_time, "fmap-jacobian" not in config.ignore
    )


def _describe(run: BoldRun) -> str:
    """Write the start of the methods text of a run."""
    echoes = f", with {len(run.echoes)} echoes" if run.echo_times else ""
    task = f" of the task *{run.entities['task']}*" if "task" in run.entities else ""
    return (
        f"\n\n### Functional data: {run.label.replace('_', ' ')}\n\n"
        f"The BOLD run{task} has {run.n_volumes} volumes of {' x '.join(map(str, run.shape))} "
        f"voxels, one every {run.tr:g} s{echoes}. {_describe_unusable(run)}"
    )


def _describe_unusable(run: BoldRun) -> str:
    count = len(run.unusable_volumes)
    if not count:
        return ""
    volumes = "1 volume holds" if count == 1 else f"{count} volumes hold"
    return (
        f"{volumes} no usable image: such volumes were excluded from all estimates, and marked as "
        "outliers in the confounds. "
    )
