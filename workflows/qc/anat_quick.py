"""Image quality metrics of one T1w or T2w image, without the anatomical workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.anat.quick import FindAnatomy, SegmentQuickly
from neuroferry.interfaces.draw.anat import BrainPicture, QualityPicture, TissuesPicture
from neuroferry.interfaces.qc.head_regions import FindRegions
from neuroferry.interfaces.qc.metrics import AnatIQMs
from neuroferry.selection.quality import QualityPlan
from neuroferry.workflows.memory import memory_gb, volume_voxels
from neuroferry.workflows.pictures import Drawing, init_pictures_wf
from neuroferry.workflows.qc.about import about_image
from neuroferry.workflows.sinks import Output, init_sinks_wf

# Bytes held at once per voxel of the image, and what a step holds whatever the image.
_FIND_BYTES, _FIND_GB = 34, 0.45
_SEGMENT_BYTES, _SEGMENT_GB = 48, 0.1
_REGIONS_BYTES, _REGIONS_GB = 36, 0.15
_METRICS_BYTES, _METRICS_GB = 44, 0.2
_DRAW_BYTES, _DRAW_GB = 16, 0.1


def init_t1w_qc_wf(
    *,
    plan: QualityPlan,
    bids_dir: Path,
    out_dir: Path,
    config: WorkflowConfig,
    omp_nthreads: int = 1,
    name: str,
) -> Workflow:
    """Build the quality metrics of one T1w image, with their sink and pictures.

    Brain, bias field and tissues are found by the steps of the anatomical workflow, but the
    template is registered on voxels of 4 mm only.

    Parameters
    ----------
    plan : QualityPlan
        The image.
    bids_dir, out_dir : pathlib.Path
        Roots of the dataset and of the derivatives.
    config : WorkflowConfig
        Settings.
    omp_nthreads : int
        Accepted by every builder; the steps of this workflow use one thread each.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        Without inputs and outputs.
    """
    return _init_qc_wf(plan, out_dir, config, name)


def init_t2w_qc_wf(
    *,
    plan: QualityPlan,
    bids_dir: Path,
    out_dir: Path,
    config: WorkflowConfig,
    omp_nthreads: int = 1,
    name: str,
) -> Workflow:
    """Build the quality metrics of one T2w image, with their sink and pictures.

    No T1w image is needed: the image is measured with masks of its own.

    Parameters
    ----------
    plan, bids_dir, out_dir, config, omp_nthreads, name
        As for `init_t1w_qc_wf`.

    Returns
    -------
    LiterateWorkflow
        Without inputs and outputs.
    """
    return _init_qc_wf(plan, out_dir, config, name)


def _init_qc_wf(plan: QualityPlan, out_dir: Path, config: WorkflowConfig, name: str) -> Workflow:
    voxels, contrast = volume_voxels(plan.shape), plan.modality
    workflow = Workflow(name=name)
    workflow.__desc__ = (
        "\n\nImage quality metrics, as defined by *MRIQC* [@mriqc], were computed for each "
        f"{contrast} image after quick brain extraction, bias correction [@tustison2010] and "
        "segmentation, without registration to convergence.\n"
    )

    def step(interface: Any, label: str, per_voxel: float, fixed_gb: float) -> pe.Node:
        memory = memory_gb(per_voxel, voxels, fixed_gb)
        return pe.Node(interface, name=label, mem_gb=memory, n_procs=1)

    same: dict[str, Any] = {"contrast": contrast}
    find = step(
        FindAnatomy(
            in_file=str(plan.image.path), sloppy=config.sloppy, seed=config.random_seed, **same
        ),
        "find_anatomy",
        _FIND_BYTES,
        _FIND_GB,
    )
    segment = step(
        SegmentQuickly(sloppy=config.sloppy, **same), "segment", _SEGMENT_BYTES, _SEGMENT_GB
    )
    regions = step(FindRegions(), "find_regions", _REGIONS_BYTES, _REGIONS_GB)
    metrics = AnatIQMs(
        template_resolution=2,
        **about_image(plan.image),
        **same,
    )
    compute = step(metrics, "compute_iqms", _METRICS_BYTES, _METRICS_GB)
    sinks_wf = init_sinks_wf(
        outputs=[
            Output(
                "iqms",
                {**plan.image.entities, "description": "iqms"},
                contrast,
                extension=".json",
                datatype="anat",
            )
        ],
        out_dir=out_dir,
        name="sinks_wf",
    )
    draw_gb = memory_gb(_DRAW_BYTES, voxels, _DRAW_GB)
    pictures_wf = init_pictures_wf(
        drawings=[
            Drawing("qchead", QualityPicture(contrast=contrast), {"image": "t1w"}, draw_gb),
            Drawing(
                "qcbrain", BrainPicture(), {"image": "t1w", "brain_mask": "brain_mask"}, draw_gb
            ),
            Drawing("qctissues", TissuesPicture(), {"preproc": "t1w", "dseg": "dseg"}, draw_gb),
        ],
        out_dir=out_dir,
        entities=plan.image.entities,
        suffix=contrast,
        name="pictures_wf",
    )
    workflow.connect([
        (find, segment, [
            ("preproc", "in_file"), ("brain_mask", "in_mask"), ("priors", "priors"),
        ]),
        (find, regions, [
            ("image", "in_file"),
            *((field, field) for field in ("bias_field", "brain_mask", "std2anat_xfm")),
        ]),
        (find, compute, [
            ("image", "t1w"),
            ("priors", "template_tpms"),
            *((field, field) for field in ("bias_field", "brain_mask", "std2anat_xfm")),
            ("brain_score", "brain_score"),
        ]),
        (segment, compute, [("dseg", "dseg"), ("tpms", "tpms"), ("report", "tissue_report")]),
        (regions, compute, [("regions", "found_regions")]),
        (compute, sinks_wf, [("iqms", "inputnode.iqms")]),
        (find, pictures_wf, [
            (field, f"inputnode.{field}") for field in ("image", "brain_mask", "preproc")
        ]),
        (segment, pictures_wf, [("dseg", "inputnode.dseg")]),
    ])  # fmt: skip
    return workflow
