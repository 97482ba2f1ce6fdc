"""Quality metrics of one image, without any other workflow."""

from __future__ import annotations

from pathlib import Path

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.config import WorkflowConfig
from neuroferry.selection.quality import QualityPlan
from neuroferry.workflows.parts import of_kind


def init_quality_wf(
    *,
    plan: QualityPlan,
    bids_dir: Path,
    out_dir: Path,
    config: WorkflowConfig,
    omp_nthreads: int = 1,
    name: str,
) -> Workflow:
    """Build the quality metrics of one image, with its sinks and pictures.

    Parameters
    ----------
    plan : QualityPlan
        The image.
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
    Workflow
        Without inputs and outputs.
    """
    if plan.modality == "bold":
        from neuroferry.workflows.qc.bold import init_bold_qc_wf as build
    elif plan.modality == "dwi":
        from neuroferry.workflows.qc.dwi import init_dwi_qc_wf as build
    elif plan.modality == "T2w":
        from neuroferry.workflows.qc.anat_quick import init_t2w_qc_wf as build
    else:
        from neuroferry.workflows.qc.anat_quick import init_t1w_qc_wf as build
    workflow = build(
        plan=plan,
        bids_dir=bids_dir,
        out_dir=out_dir,
        config=config,
        omp_nthreads=omp_nthreads,
        name=name,
    )
    return of_kind(workflow, f"quality_{plan.modality}")
