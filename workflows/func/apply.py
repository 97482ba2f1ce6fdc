"""Resampling of a BOLD run into each requested space, each in one interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import BoldRun
from neuroferry.interfaces.func.resample import ResampleSeries
from neuroferry.interfaces.func.t2star import FitT2Star
from neuroferry.interfaces.image.target_grid import CarryMask, MakeTargetGrid
from neuroferry.selection.spaces import BoldSpace
from neuroferry.workflows.func.memory import (
    T1W_GRID_BYTES,
    T2STAR_BYTES,
    TEMPLATE_GB,
    carry_mask_gb,
    resample_gb,
    target_voxels,
)
from neuroferry.workflows.memory import memory_gb, volume_voxels
from neuroferry.workflows.parts import of_kind
from neuroferry.workflows.sdc import Readout

INPUTS = (
    "bold_ref",
    "n_dummy",
    "motion_xfms",
    "fieldmap",
    "bold_mask",
    "boldref2anat_xfm",
    "anat2std_xfm",
    "t1w_preproc",
)


def init_bold_apply_wf(
    *,
    run: BoldRun,
    spaces: Sequence[BoldSpace],
    readout: Readout | None = None,
    slice_time_ref: float = 0.5,
    t1w_voxels: int = 256**3,
    t1w_volume_mm3: float = 256.0**3,
    omp_nthreads: int = 1,
    name: str = "apply_wf",
) -> Workflow:
    """Build the resampling of one BOLD run.

    Slice timing, motion, distortion and the transform to each space are applied together: one
    interpolation in time and one in space for each value of each output. The series in BOLD space
    is always computed, because confounds are extracted from it.

    Parameters
    ----------
    run : BoldRun
        The run; several echoes are combined.
    spaces : sequence of BoldSpace
        Requested spaces.
    readout : Readout, optional
        Readout of the run, with a field map; without it distortion is not corrected.
    slice_time_ref : float
        Time that slices are shifted to, as a fraction of the time from first to last slice.
    t1w_voxels, t1w_volume_mm3 : int, float
        Voxels and field of view of the T1w image, for the memory estimates.
    omp_nthreads : int
        Threads per step, each of which works on one volume at a time.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    bold_ref, n_dummy, motion_xfms, fieldmap, bold_mask, boldref2anat_xfm
        Outputs of `init_bold_fit_wf`.
    anat2std_xfm, t1w_preproc
        Outputs of the anatomical workflow, for the spaces that need them; for another
        template the field named by `BoldSpace.anat2std_xfm`.

    **Outputs**

    bold
        Series in BOLD space.
    bold_<space>, boldref_<space>, mask_<space>
        Series, its mean and the brain mask in each space.
    t2star
        T2* in s, with several echoes.
    """
    native = BoldSpace("bold")
    outputs = ["t2star", "bold"]
    outputs += [f"{what}_{s.node}" for s in spaces for what in ("bold", "boldref", "mask")]
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(run, spaces, readout)
    xfms = [space.anat2std_xfm for space in spaces]
    inputnode = pe.Node(
        IdentityInterface(fields=[*dict.fromkeys([*INPUTS, *xfms])]), name="inputnode"
    )
    outputnode = pe.Node(IdentityInterface(fields=outputs), name="outputnode")
    workflow.add_nodes([inputnode, outputnode])
    if run.echo_times:
        _add_t2star(workflow, run, omp_nthreads)
    for space in dict.fromkeys([native, *spaces]):
        node = _resample_node(run, space, slice_time_ref, t1w_volume_mm3, omp_nthreads)
        workflow.connect([
            (inputnode, node, [("motion_xfms", "motion_xfms"), ("n_dummy", "n_dummy")]),
        ])  # fmt: skip
        if readout is not None:
            node.inputs.phase_encoding = readout.phase_encoding
            node.inputs.readout_time = readout.readout_time
            node.inputs.jacobian = readout.jacobian
            workflow.connect(inputnode, "fieldmap", node, "fieldmap")
        if run.echo_times:
            workflow.connect(workflow.get_node("fit_t2star"), "t2star", node, "t2star")
        if space.is_native:
            workflow.connect([
                (inputnode, node, [("bold_ref", "reference")]),
                (node, outputnode, [("out_file", "bold")]),
            ])  # fmt: skip
        else:
            voxels = target_voxels(run, space, t1w_volume_mm3)
            _add_target(workflow, space, node, t1w_voxels, voxels)
        if space in spaces:
            workflow.connect([
                (node, outputnode, [
                    ("out_file", f"bold_{space.node}"), ("out_ref", f"boldref_{space.node}"),
                ]),
            ])  # fmt: skip
    return workflow


def _resample_node(
    run: BoldRun,
    space: BoldSpace,
    slice_time_ref: float,
    t1w_volume_mm3: float,
    omp_nthreads: int,
) -> pe.Node:
    """Make the node that resamples the series into one space, with its constant inputs."""
    resample = ResampleSeries(
        in_file=[str(echo.path) for echo in run.echoes],
        tr=run.tr,
        slice_axis=run.slice_axis,
        slice_time_ref=slice_time_ref,
        n_procs=omp_nthreads,
    )
    if run.slice_times:
        resample.inputs.slice_timing = list(run.slice_times)
    if run.echo_times:
        resample.inputs.echo_times = list(run.echo_times)
    if run.unusable_volumes:
        resample.inputs.unusable = list(run.unusable_volumes)
    node = pe.Node(
        resample,
        name=f"resample_{space.node}",
        mem_gb=resample_gb(
            run,
            target_voxels(run, space, t1w_volume_mm3),
            omp_nthreads,
            with_field=space.in_template,
        ),
        n_procs=omp_nthreads,
    )
    node.volumes = run.n_volumes
    return of_kind(node, f"resample_{space.kind}")


def _add_target(
    workflow: Workflow, space: BoldSpace, resample: pe.Node, t1w_voxels: int, target: float
) -> None:
    """Add the grid of a space, the transform to it, and the mask on it."""
    inputnode, outputnode = workflow.get_node("inputnode"), workflow.get_node("outputnode")
    native = not space.in_template
    grid_gb = memory_gb(0, 0, TEMPLATE_GB)
    if native or space.grid is not None:  # these read one image, the others the built-in template
        grid_gb = memory_gb(T1W_GRID_BYTES, t1w_voxels if space.grid is None else target)
    make_grid = pe.Node(MakeTargetGrid(), name=f"make_grid_{space.node}", mem_gb=grid_gb)
    of_kind(make_grid, f"make_grid_{space.kind}")
    fields = ["boldref2anat_xfm"]
    if native:
        workflow.connect(inputnode, "t1w_preproc", make_grid, "t1w_preproc")
    else:
        if space.grid is not None:
            make_grid.inputs.template = str(space.grid.t1w)
        else:
            make_grid.inputs.resolution = space.resolution
        fields.append(space.anat2std_xfm)
    chain = pe.Node(Merge(len(fields)), name=f"chain_{space.node}", run_without_submitting=True)
    of_kind(chain, f"chain_{space.kind}")
    carry_mask = pe.Node(
        CarryMask(),
        name=f"carry_mask_{space.node}",
        mem_gb=carry_mask_gb(target, with_field=not native),
    )
    of_kind(carry_mask, f"carry_mask_{space.kind}")
    workflow.connect([
        (inputnode, make_grid, [("bold_ref", "bold_ref")]),
        (inputnode, chain, [(field, f"in{i}") for i, field in enumerate(fields, start=1)]),
        (inputnode, carry_mask, [("bold_mask", "in_file")]),
        *((node, target, [(field, name)])
          for target in (resample, carry_mask)
          for node, field, name in (
              (make_grid, "reference", "reference"), (chain, "out", "transforms"))),
        (carry_mask, outputnode, [("out_mask", f"mask_{space.node}")]),
    ])  # fmt: skip


def _add_t2star(workflow: Workflow, run: BoldRun, omp_nthreads: int) -> None:
    """Add the fit of T2* to the echoes."""
    fit_t2star = pe.Node(
        FitT2Star(
            in_file=[str(echo.path) for echo in run.echoes], echo_times=list(run.echo_times)
        ),
        name="fit_t2star",
        mem_gb=memory_gb(T2STAR_BYTES, volume_voxels(run.shape)),
    )
    if run.unusable_volumes:
        fit_t2star.inputs.unusable = list(run.unusable_volumes)
    workflow.connect([
        (workflow.get_node("inputnode"), fit_t2star, [
            ("motion_xfms", "motion_xfms"), ("n_dummy", "n_dummy"),
        ]),
        (fit_t2star, workflow.get_node("outputnode"), [("t2star", "t2star")]),
    ])  # fmt: skip


def _describe(run: BoldRun, spaces: Sequence[BoldSpace], readout: Readout | None) -> str:
    """Describe the resampling in the methods text."""
    parts = ["head motion"]
    if readout is not None:
        parts.append("susceptibility distortion")
    if any(not space.is_native for space in spaces):
        parts.append("the transform to each output space")
    text = ""
    if run.slice_times:
        text = (
            "Slice timing was corrected to one reference time by windowed-sinc interpolation "
            "[@sladky2011]. "
        )
    if run.echo_times:
        text += (
            f"The {len(run.echoes)} echoes were optimally combined, weighted by a fit of T2* "
            "[@posse1999]. "
        )
    joined = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return (
        f"{text}The series was resampled with {joined} applied in a single interpolation with "
        "cubic B-splines [@unser1999]. "
    )
