"""Denoising of a DWI run before resampling: gradients, noise, ringing and Rician bias."""

from __future__ import annotations

from collections.abc import Collection

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi.check_gradients import CheckGradients, CheckOrientation
from neuroferry.interfaces.dwi.denoise import MIN_VOLUMES, CorrectRician, DenoiseDwi, UnringDwi
from neuroferry.interfaces.dwi.leave_out import LeaveOutVolumes
from neuroferry.workflows.dwi.memory import (
    ORIENTATION_BYTES,
    RICIAN_BYTES,
    UNRING_BYTES,
    denoise_gb,
    series_gb,
    volume_gb,
)

OUTPUTS = (
    *("raw_dwi", "dwi_clean", "dwi_denoised", "bval", "bvec"),
    *("noise_map", "gradient_report", "orientation_report"),
)


def init_dwi_denoise_wf(
    *,
    run: DwiRun,
    ignore: Collection[str] = (),
    fix_gradients: bool = False,
    b0_threshold: float = 50.0,
    omp_nthreads: int = 1,
    name: str = "denoise_wf",
) -> Workflow:
    """Build the steps of a DWI run that come before any resampling.

    The order matters: noise is estimated on values that were never interpolated, and ringing
    is removed on the scanner's own grid.

    Parameters
    ----------
    run : DwiRun
        The run.
    ignore : collection of str
        Steps to skip, of ``denoising``, ``unringing`` and ``rician``.
    fix_gradients : bool
        Correct flipped or swapped gradient axes that the data reveal; they are reported in
        any case.
    b0_threshold : float
        b-values up to this one count as b0, s/mm^2.
    omp_nthreads : int
        Threads per step, where more than one does not change results.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Outputs**

    raw_dwi, dwi_denoised, bval, bvec
        The series before and after these steps, and its gradients.
    dwi_clean, noise_map
        The series right after denoising, and the standard deviation of the noise; undefined
        without denoising.
    gradient_report, orientation_report
        Findings about the gradients (JSON).
    """
    workflow = Workflow(name=name)
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    raw = _usable_volumes(run)
    _feed(workflow, raw, outputnode, "raw_dwi")
    check = pe.Node(
        CheckGradients(
            in_file=str(run.image.path),
            bval=str(run.bval),
            bvec=str(run.bvec),
            b0_threshold=b0_threshold,
        ),
        name="check_gradients",
        mem_gb=series_gb(0, run),
    )
    orientation = pe.Node(
        CheckOrientation(correct=fix_gradients),
        name="check_orientation",
        mem_gb=series_gb(ORIENTATION_BYTES, run),
    )
    if run.unusable_volumes:
        check.inputs.unusable = list(run.unusable_volumes)
    _feed(workflow, raw, orientation, "dwi")
    workflow.connect([
        (check, orientation, [("out_bval", "bval"), ("out_bvec", "bvec")]),
        (check, outputnode, [("out_bval", "bval"), ("report", "gradient_report")]),
        (orientation, outputnode, [("out_bvec", "bvec"), ("report", "orientation_report")]),
    ])  # fmt: skip

    steps = _steps(run, ignore)
    workflow.__desc__ = _describe_left_out(run) + _describe(steps)
    last = raw
    noise: pe.Node | None = None
    if "denoising" in steps:
        noise = pe.Node(
            DenoiseDwi(tr=run.tr, n_procs=omp_nthreads),
            name="denoise_dwi",
            mem_gb=denoise_gb(run, omp_nthreads),
            n_procs=omp_nthreads,
        )
        last = _follow(workflow, last, noise)
        workflow.connect([
            (noise, outputnode, [("noise_map", "noise_map"), ("out_file", "dwi_clean")]),
        ])  # fmt: skip
    if "unringing" in steps:
        axes = [axis for axis in range(3) if axis != run.slice_axis]
        unring = pe.Node(
            UnringDwi(tr=run.tr, axes=axes, n_procs=omp_nthreads),
            name="unring_dwi",
            mem_gb=series_gb(UNRING_BYTES, run),
            n_procs=omp_nthreads,
        )
        last = _follow(workflow, last, unring)
    if "rician" in steps and noise is not None:
        rician = pe.Node(
            CorrectRician(tr=run.tr),
            name="correct_rician",
            mem_gb=volume_gb(RICIAN_BYTES, run),
        )
        last = _follow(workflow, last, rician)
        workflow.connect(noise, "noise_map", rician, "noise_map")
    _feed(workflow, last, outputnode, "dwi_denoised")
    return workflow


def _usable_volumes(run: DwiRun) -> str | tuple[pe.Node, str]:
    """Take the run's file, or the step that leaves out volumes without a usable image."""
    if not run.unusable_volumes:
        return str(run.image.path)
    leave_out = pe.Node(
        LeaveOutVolumes(in_file=str(run.image.path), volumes=list(run.unusable_volumes)),
        name="leave_out_volumes",
        mem_gb=volume_gb(0, run),
    )
    return leave_out, "out_file"


def _feed(
    workflow: Workflow, source: str | tuple[pe.Node, str], node: pe.Node, field: str
) -> None:
    """Give a node a file, or connect it to the step that makes the file."""
    if isinstance(source, str):
        setattr(node.inputs, field, source)
    else:
        workflow.connect(*source, node, field)


def _follow(
    workflow: Workflow, last: str | tuple[pe.Node, str], node: pe.Node
) -> tuple[pe.Node, str]:
    """Connect a step to the one before it, the first one to the run itself."""
    _feed(workflow, last, node, "in_file")
    return node, "out_file"


def can_denoise(run: DwiRun, ignore: Collection[str] = ()) -> bool:
    """Check whether the run has enough volumes to separate noise from signal."""
    return "denoising" not in ignore and run.n_volumes >= MIN_VOLUMES


def _steps(run: DwiRun, ignore: Collection[str]) -> tuple[str, ...]:
    """Choose the steps of a run; the Rician correction needs the estimated noise."""
    needs_noise = ("denoising", "rician")
    return tuple(
        step
        for step in ("denoising", "unringing", "rician")
        if step not in ignore and (step not in needs_noise or can_denoise(run, ignore))
    )


def _describe_left_out(run: DwiRun) -> str:
    """Describe the volumes that were left out in the methods text."""
    count = len(run.unusable_volumes)
    if not count:
        return ""
    volumes = "1 volume" if count == 1 else f"{count} volumes"
    return f"{volumes} without a usable image were left out, with their gradients. "


def _describe(steps: Collection[str]) -> str:
    """Describe the steps in the methods text."""
    text = ""
    if "denoising" in steps:
        text += (
            "Noise was reduced by removing the principal components of overlapping patches "
            "[@manjon2013] below the Marchenko-Pastur edge [@veraart2016; @cordero2019]. "
        )
    if "unringing" in steps:
        text += (
            "Gibbs ringing was removed by local subvoxel shifts [@kellner2016] in *MRtrix3* "
            "[@mrtrix3]. "
        )
    if "rician" in steps:
        text += "The Rician bias of the magnitude signal was corrected [@koay2006]. "
    return text
