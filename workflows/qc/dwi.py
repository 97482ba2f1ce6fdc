"""Image quality metrics of one DWI run, without any other workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.draw.dwi_quality import (
    DwiAnisotropyPicture,
    DwiRegionsPicture,
    DwiShellsPicture,
    DwiVolumesPicture,
)
from neuroferry.interfaces.draw.dwi_time import GradientsPicture
from neuroferry.interfaces.dwi.iqms import DwiIQMs, MeasureDwi, QuickMotion
from neuroferry.selection.quality import QualityPlan
from neuroferry.workflows.dwi.memory import (
    CHART_GB,
    PICTURE_BYTES,
    PICTURE_GB,
    series_gb,
    volume_gb,
)
from neuroferry.workflows.pictures import Drawing, init_pictures_wf
from neuroferry.workflows.qc.about import about_image
from neuroferry.workflows.sinks import Output, init_sinks_wf

# Bytes held at once per value of the series; the template, in GB.
_SIGNAL_BYTES = 17.0
_MOTION_BYTES = 7.0
_TEMPLATE_GB = 0.12
_MOTION_GB = 0.15


def init_dwi_qc_wf(
    *,
    plan: QualityPlan,
    bids_dir: Path,
    out_dir: Path,
    config: WorkflowConfig,
    omp_nthreads: int = 1,
    name: str,
) -> Workflow:
    """Build the quality metrics of one DWI run, with its sinks and pictures.

    Head motion and everything else are measured at the same time, each on one processor.

    Parameters
    ----------
    plan : QualityPlan
        The run.
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
    run = plan.dwi
    if run is None:
        raise ValueError(f"{plan.image.path.name} has no run")
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(run)
    gradients: dict[str, Any] = {
        "bval": str(run.bval),
        "bvec": str(run.bvec),
        "b0_threshold": config.b0_threshold,
    }
    if run.unusable_volumes:
        gradients["unusable"] = list(run.unusable_volumes)
    axis = {"phase_encoding": run.phase_encoding or run.phase_axis} if run.phase_axis else {}
    image = str(plan.image.path)
    estimate = pe.Node(
        QuickMotion(in_file=image, **gradients, **axis),
        name="estimate_motion",
        mem_gb=series_gb(_MOTION_BYTES, run, _MOTION_GB),
        n_procs=1,
    )
    measure = pe.Node(
        MeasureDwi(in_file=image, slice_axis=run.slice_axis, seed=config.random_seed, **gradients),
        name="measure_signals",
        mem_gb=series_gb(_SIGNAL_BYTES, run, _TEMPLATE_GB),
        n_procs=1,
    )
    collect = pe.Node(
        DwiIQMs(**about_image(plan.image), **gradients, **axis),
        name="collect_metrics",
        mem_gb=volume_gb(0, run),
        n_procs=1,
    )
    sinks_wf = init_sinks_wf(outputs=_outputs(plan), out_dir=out_dir, name="sinks_wf")
    pictures_wf = init_pictures_wf(
        drawings=_drawings(run),
        out_dir=out_dir,
        entities=plan.image.entities,
        suffix="dwi",
        name="pictures_wf",
    )
    inputs = pictures_wf.get_node("inputnode").inputs
    inputs.trait_set(bval=str(run.bval), bvec=str(run.bvec), dwi=image)
    fields = set(inputs.copyable_trait_names())
    made = fields & set(measure.outputs.copyable_trait_names())
    workflow.connect([
        (estimate, collect, [("motion_tsv", "motion_tsv"), ("motion_xfms", "motion_xfms")]),
        (measure, collect, [("metrics", "metrics"), ("volumes_tsv", "volumes_tsv")]),
        (collect, sinks_wf, [
            ("iqms", "inputnode.iqms"),
            ("timeseries", "inputnode.timeseries"),
            ("timeseries_about", "inputnode.timeseries_about"),
        ]),
        (measure, pictures_wf, [(field, f"inputnode.{field}") for field in sorted(made)]),
        (collect, pictures_wf, [("timeseries", "inputnode.timeseries")]),
    ])  # fmt: skip
    return workflow


def _outputs(plan: QualityPlan) -> list[Output]:
    """List the metrics and the table of the volumes."""
    names = {**plan.image.entities, "description": "iqms"}
    table = Output(
        "timeseries",
        names,
        "timeseries",
        extension=".tsv",
        datatype="dwi",
        report=("timeseries_about", None),
    )
    return [Output("iqms", names, "dwi", extension=".json", datatype="dwi"), table]


def _drawings(run: DwiRun) -> list[Drawing]:
    """List the pictures of a run."""
    slices = volume_gb(PICTURE_BYTES, run, PICTURE_GB)
    means = volume_gb(PICTURE_BYTES + 8 * len(run.shells), run, PICTURE_GB)
    charts = volume_gb(0, run, CHART_GB)
    drawings = [
        Drawing("qcvolumes", DwiVolumesPicture(), _same("timeseries", "slices_tsv"), charts),
        Drawing(
            "qcregions", DwiRegionsPicture(), _same("dwi_ref", "mask", "white", "callosum"), slices
        ),
        Drawing(
            "qcshells", DwiShellsPicture(), _same("shells", "mask", "metrics", "noise"), means
        ),
        Drawing(
            "qcgradients",
            GradientsPicture(),
            {"dwi": "in_file", "bval": "bval", "bvec": "bvec"},
            charts,
        ),
    ]
    if run.fits_tensor:
        maps = _same("dwi_ref", "mask", "fa", "color_fa")
        drawings.append(Drawing("qctensor", DwiAnisotropyPicture(), maps, slices))
    return drawings


def _same(*fields: str) -> dict[str, str]:
    return {field: field for field in fields}


def _describe(run: DwiRun) -> str:
    """Write the methods text."""
    return (
        "\n\nImage quality metrics, named as in *MRIQC* [@mriqc], were computed for each "
        f"diffusion-weighted run from its {run.n_volumes} volumes as acquired.\n"
    )
