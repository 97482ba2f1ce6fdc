"""Concatenation of the DWI runs of a session in T1w space, and models of them together.

One protocol is often split into several runs: in halves, by shell, by phase-encoding direction.
Each run is corrected by itself, and aligned with the others once it is in the space of the T1w
image, where their volumes are concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.draw.dwi_time import GradientsPicture
from neuroferry.interfaces.dwi.join import JoinDwi
from neuroferry.interfaces.dwi.summary import SummariseJoinedDwi
from neuroferry.selection.joining import Joined
from neuroferry.workflows.dwi.base import init_tracts_of, name_shells
from neuroferry.workflows.dwi.memory import (
    CHART_GB,
    JOIN_BYTES,
    MODEL_PICTURE_BYTES,
    PICTURE_BYTES,
    PICTURE_GB,
    REFERENCE_BYTES,
    T1W_BYTES,
    volume_gb,
)
from neuroferry.workflows.dwi.models import (
    init_dwi_models_wf,
    models_left_out,
    plan_models,
)
from neuroferry.workflows.dwi.outputs import init_joined_derivatives_wf
from neuroferry.workflows.dwi.reports import draw_models, draw_tracts
from neuroferry.workflows.parts import connect_parts, of_kind
from neuroferry.workflows.pictures import Drawing, init_pictures_wf

SUFFIX = "dwimap"
"""Suffix of the reportlets: joined runs have a section of their own in the report."""
ANATOMY = ("t1w_preproc", "brain_mask", "std2anat_xfm")
# Fields of the runs' own workflows, and those of JoinDwi.
SERIES = {
    "dwi_preproc_t1w": "in_files",
    "dwi_bval_t1w": "bvals",
    "dwi_bvec_t1w": "bvecs",
    "dwi_ref_t1w": "references",
    "dwi_mask_t1w": "masks",
}
CHECK = "coreg_report"
JOINED = {
    "dwi_preproc": "out_file",
    "dwi_bval": "out_bval",
    "dwi_bvec": "out_bvec",
    "dwi_ref": "out_ref",
    "dwi_mask": "out_mask",
    "dwiref2anat_xfm": "identity_xfm",
    "join_report": "report",
}


def init_joined_wf(
    *,
    joined: Joined,
    bids_dir: str | Path,
    out_dir: str | Path,
    t1w: tuple[tuple[int, int, int], tuple[float, float, float]],
    config: WorkflowConfig | None = None,
    omp_nthreads: int = 1,
    name: str = "joined_dwi_wf",
) -> Workflow:
    """Build the workflow of several joined runs.

    Parameters
    ----------
    joined : Joined
        The runs.
    bids_dir, out_dir : path
        Input dataset and derivatives.
    t1w : tuple of shape and voxel size
        Voxels of the T1w image, and their size in mm.
    config : WorkflowConfig, optional
        Settings of the steps.
    omp_nthreads : int
        Threads of one step.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_preproc_t1w_1, dwi_bval_t1w_1, dwi_bvec_t1w_1, dwi_ref_t1w_1, dwi_mask_t1w_1, ..._2, ...
        Outputs of `init_dwi_apply_wf` for each run.
    coreg_report_1, coreg_report_2, ...
        Reports on the coregistration of each run.
    t1w_preproc, brain_mask, std2anat_xfm
        Outputs of `init_anat_wf`.

    **Outputs**

    out_files
        The derivatives, once all are written.
    """
    config = config or WorkflowConfig()
    run = on_grid(joined.run, *t1w)
    numbers = range(1, len(joined.runs) + 1)
    models = plan_models(run)
    with_tracts = "DTI" in models and config.streamlines > 0
    fields = [f"{field}_{number}" for field in (*SERIES, CHECK) for number in numbers]
    workflow = of_kind(Workflow(name=name), "dwi_joined")
    workflow.__desc__ = _describe(joined)
    inputnode = pe.Node(IdentityInterface(fields=[*fields, *ANATOMY]), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["out_files"]), name="outputnode")
    join = pe.Node(
        JoinDwi(tr=run.tr, names=[one.image.path.name for one in joined.runs]),
        name="join_dwi",
        mem_gb=volume_gb(JOIN_BYTES + REFERENCE_BYTES * len(joined.runs), run),
    )
    for field, wanted in SERIES.items():
        merge = pe.Node(
            Merge(len(joined.runs)), name=f"merge_{wanted}", run_without_submitting=True
        )
        pairs = [(f"{field}_{number}", f"in{number}") for number in numbers]
        workflow.connect([
            (inputnode, merge, pairs),
            (merge, join, [("out", wanted)]),
        ])  # fmt: skip
    checks = pe.Node(Merge(len(joined.runs)), name="merge_checks", run_without_submitting=True)
    pairs = [(f"{CHECK}_{number}", f"in{number}") for number in numbers]
    workflow.connect([(inputnode, checks, pairs)])
    parts: list[Workflow] = []
    if models:
        parts.append(init_dwi_models_wf(run=run, models=models, omp_nthreads=omp_nthreads))
    if with_tracts:
        parts.append(init_tracts_of(run, models, config, omp_nthreads))
    t1w_gb = T1W_BYTES * math.prod(t1w[0]) / 1e9 if with_tracts else None
    parts.append(_init_pictures(run, models, out_dir, t1w_gb))
    parts.append(
        init_joined_derivatives_wf(
            out_dir=out_dir,
            bids_dir=bids_dir,
            run=run,
            runs=joined.runs,
            models=models,
            with_tracts=with_tracts,
            write_doubtful=config.write_doubtful,
            seed=config.random_seed,
        )
    )
    there: dict[str, tuple[pe.Node | Workflow, str]] = {
        field: (inputnode, field) for field in ANATOMY
    }
    there |= {field: (join, output) for field, output in JOINED.items()}
    there["coreg_reports"] = (checks, "out")
    connect_parts(workflow, there, parts)
    workflow.connect(parts[-1], "outputnode.out_files", outputnode, "out_files")
    return workflow


def on_grid(run: DwiRun, shape: tuple[int, int, int], zooms: tuple[float, float, float]) -> DwiRun:
    """Set a run's voxels to those of the T1w image's field of view, for the memory estimates."""
    size = [n * mm for n, mm in zip(shape, zooms, strict=True)]
    x, y, z = (max(1, round(mm / zoom)) for mm, zoom in zip(size, run.zooms, strict=True))
    return replace(run, shape=(x, y, z))


def _init_pictures(
    run: DwiRun, models: Collection[str], out_dir: str | Path, t1w_gb: float | None
) -> Workflow:
    """Build the reportlets and the summary of joined runs; `t1w_gb` is set with bundles."""
    slices, charts = volume_gb(PICTURE_BYTES, run, PICTURE_GB), volume_gb(0, run, CHART_GB)
    series = {"dwi_preproc": "in_file", "dwi_bval": "bval", "dwi_bvec": "bvec"}
    drawings = [Drawing("gradients", GradientsPicture(), series, charts)]
    drawings += draw_models(models, "dwi_ref", volume_gb(MODEL_PICTURE_BYTES, run, PICTURE_GB))
    reports: Mapping[str, str] = {"join_report": "join_report"}
    if t1w_gb is not None:
        drawings += draw_tracts(slices + t1w_gb, charts)
        reports = {**reports, "bundles_report": "bundles_report"}
    summary = SummariseJoinedDwi(models=sorted(models), models_left_out=models_left_out(run))
    drawings.append(Drawing("summary", summary, reports, charts, ".json"))
    return init_pictures_wf(
        drawings=drawings,
        out_dir=out_dir,
        entities=run.entities,
        suffix=SUFFIX,
        name="dwi_reports_wf",
    )


def _describe(joined: Joined) -> str:
    """Describe the joined runs in the methods text."""
    names = [run.label.replace("_", " ") or "DWI" for run in joined.runs]
    return (
        f"\n\n### Diffusion data, joined: {', '.join(names)}\n\nThe {len(names)} runs, each "
        "resampled into the space of the T1w image, were concatenated after matching their "
        f"intensities on the mean b0 images: {joined.run.n_volumes} volumes, "
        f"{name_shells(joined.run)}. "
    )
