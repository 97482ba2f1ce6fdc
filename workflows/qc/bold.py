"""Image quality metrics of one BOLD series, without any other workflow."""

from __future__ import annotations

from pathlib import Path

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import BoldRun
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.draw.bold_quality import (
    BoldMeanPicture,
    BoldNoisePicture,
    BoldVolumesPicture,
)
from neuroferry.interfaces.func.bold_iqms import BoldIQMs
from neuroferry.interfaces.func.reference import REFERENCE_VOLUMES
from neuroferry.interfaces.qc.bold import about_columns
from neuroferry.selection.quality import QualityPlan
from neuroferry.workflows.memory import memory_gb, volume_voxels
from neuroferry.workflows.pictures import Drawing, init_pictures_wf
from neuroferry.workflows.qc.about import about_image
from neuroferry.workflows.sinks import Output, init_sinks_wf

# Bytes held at once per voxel of one volume: of the series, of each averaged volume, and of each
# volume that a thread aligns.
_VOXEL_BYTES = 190
_AVERAGED_BYTES = 7
_THREAD_BYTES = 50
_TEMPLATE_GB = 0.1
_DRAW_GB = 0.2
_DRAW_BYTES = 40


def init_bold_qc_wf(
    *,
    plan: QualityPlan,
    bids_dir: Path,
    out_dir: Path,
    config: WorkflowConfig,
    omp_nthreads: int = 1,
    name: str,
) -> Workflow:
    """Build the quality metrics of one BOLD series, with its sinks and pictures.

    Parameters
    ----------
    plan : QualityPlan
        The series; one echo of a multi-echo run.
    bids_dir, out_dir : pathlib.Path
        Roots of the dataset and of the derivatives.
    config : WorkflowConfig
        Settings.
    omp_nthreads : int
        Threads of one step.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        Without inputs and outputs.
    """
    run = plan.bold
    if run is None:
        raise ValueError(f"{plan.image.path.name} has no run")
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(run)
    measure = _measure(plan, run, config, omp_nthreads)
    voxels = volume_voxels(plan.shape)
    names = {**plan.image.entities, "description": "iqms"}
    about = about_columns(run.tr)
    table = Output("timeseries", names, "timeseries", about, extension=".tsv")
    sinks_wf = init_sinks_wf(
        outputs=[Output("iqms", names, "bold", extension=".json"), table],
        out_dir=out_dir,
        name="sinks_wf",
    )
    draw_gb = round(_DRAW_GB + _DRAW_BYTES * voxels / 1e9, 3)
    pictures_wf = init_pictures_wf(
        drawings=[
            Drawing(
                "qccarpet", BoldVolumesPicture(), _same("timeseries", "iqms", "carpet"), draw_gb
            ),
            Drawing("qcmean", BoldMeanPicture(), _same("mean", "brain_mask"), draw_gb),
            Drawing("qcnoise", BoldNoisePicture(), _same("std", "tsnr", "brain_mask"), draw_gb),
        ],
        out_dir=out_dir,
        entities=plan.image.entities,
        suffix="bold",
        name="pictures_wf",
    )
    for part in (sinks_wf, pictures_wf):
        fields = part.get_node("inputnode").inputs.copyable_trait_names()
        pairs = [(field, f"inputnode.{field}") for field in sorted(fields)]
        workflow.connect([(measure, part, pairs)])
    return workflow


def _measure(
    plan: QualityPlan, run: BoldRun, config: WorkflowConfig, omp_nthreads: int
) -> pe.Node:
    """Make the node that measures."""
    per_voxel = _VOXEL_BYTES + _AVERAGED_BYTES * min(run.n_volumes, REFERENCE_VOLUMES)
    per_voxel += _THREAD_BYTES * omp_nthreads
    node = pe.Node(
        BoldIQMs(
            reference_echo=str(run.reference.path),
            tr=run.tr,
            slice_axis=run.slice_axis,
            seed=config.random_seed,
            n_procs=omp_nthreads,
            **about_image(plan.image),
        ),
        name="measure",
        mem_gb=memory_gb(per_voxel, volume_voxels(plan.shape), _TEMPLATE_GB),
        n_procs=omp_nthreads,
    )
    node.volumes = run.n_volumes
    if config.dummy_scans is not None:
        node.inputs.dummy_scans = config.dummy_scans
    if run.unusable_volumes:
        node.inputs.unusable = list(run.unusable_volumes)
    return node


def _same(*fields: str) -> dict[str, str]:
    return {field: field for field in fields}


def _describe(run: BoldRun) -> str:
    """Write the methods text."""
    return (
        "\n\nImage quality metrics, as defined by *MRIQC* [@mriqc], were computed for each BOLD "
        f"series after rigid realignment of its {run.n_volumes} volumes and no other processing.\n"
    )
