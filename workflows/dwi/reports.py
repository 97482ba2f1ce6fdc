"""Reportlets of one DWI run."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.draw.dwi_space import (
    DenoisingPicture,
    DirectionsPicture,
    DwiMaskPicture,
    KurtosisPicture,
    TensorPicture,
)
from neuroferry.interfaces.draw.dwi_time import DwiMotionPicture, GradientsPicture
from neuroferry.interfaces.draw.func import (
    CoregistrationPicture,
    DistortionPicture,
    FieldmapPicture,
)
from neuroferry.interfaces.draw.tracts import BundlesPicture, ProfilesPicture
from neuroferry.interfaces.dwi.summary import SummariseDwi
from neuroferry.workflows.dwi.memory import (
    CHART_GB,
    MODEL_PICTURE_BYTES,
    PICTURE_BYTES,
    PICTURE_GB,
    T1W_BYTES,
    volume_gb,
)
from neuroferry.workflows.dwi.models import REPORTS, models_left_out
from neuroferry.workflows.pictures import Drawing, init_pictures_wf

MOTION = ("confounds_tsv", "outliers_tsv", "eddy_xfms", "motion_xfms")


def init_dwi_reports_wf(
    *,
    out_dir: str | Path,
    run: DwiRun,
    models: Collection[str] = (),
    t1w_shape: tuple[int, int, int] | None = None,
    with_sdc: bool = False,
    with_noise: bool = True,
    with_slices: bool = True,
    with_tracts: bool = False,
    in_t1w: bool = False,
    name: str = "dwi_reports_wf",
) -> Workflow:
    """Build the reportlets of a run, and collect the reports of its steps.

    Parameters
    ----------
    out_dir : str or pathlib.Path
        Root of the derivatives; reportlets go to ``sub-<subject>/figures``.
    run : DwiRun
        The run.
    models : collection of str
        Computed models, of ``DTI``, ``DKI`` and ``CSD``.
    t1w_shape : tuple of int, optional
        Voxels of the T1w image, where there is one.
    with_sdc, with_noise, with_slices, with_tracts : bool
        Whether distortion was corrected, noise removed, slices with dropout replaced, bundles
        tracked.
    in_t1w : bool
        Whether series and tensors are also written in the space of the T1w image.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        **Inputs**: the fields of the same names of the other workflows of a run.
        **Outputs**: ``out_files``, reportlets and summary in the output folder.
    """
    slices = volume_gb(PICTURE_BYTES, run, PICTURE_GB)
    charts = volume_gb(0, run, CHART_GB)
    ref = "dwi_ref_sdc" if with_sdc else "dwi_ref"
    mask = {"dwi_mask": "mask"}
    here = {ref: "dwi_ref", **mask}
    drawings = [
        Drawing(
            "motion",
            DwiMotionPicture(),
            {field: field for field in MOTION},
            charts,
        ),
        Drawing(
            "gradients",
            GradientsPicture(),
            {"dwi_preproc": "in_file", "dwi_bval": "bval", "dwi_bvec": "bvec"},
            charts,
        ),
        Drawing("brain", DwiMaskPicture(), here, slices),
    ]
    if with_noise:
        series = {"raw_dwi": "before", "dwi_clean": "after", "bval": "bval"}
        drawings.append(Drawing("denoising", DenoisingPicture(), series, slices))
    if t1w_shape is not None:
        anatomy = {
            ref: "bold_ref",
            "t1w_preproc": "t1w",
            "dseg": "dseg",
            "brain_mask": "brain_mask",
            "dwiref2anat_xfm": "boldref2anat_xfm",
        }
        memory = slices + T1W_BYTES * math.prod(t1w_shape) / 1e9
        drawings.append(Drawing("coreg", CoregistrationPicture(kind="DWI"), anatomy, memory))
    if with_sdc:
        both = {"dwi_ref": "bold_ref", "dwi_ref_sdc": "bold_ref_sdc", "dwi_mask": "bold_mask"}
        field = {"fieldmap": "fieldmap", "dwi_ref_sdc": "image", "dwi_mask": "bold_mask"}
        drawings.append(Drawing("sdc", DistortionPicture(), both, slices))
        drawings.append(Drawing("fieldmap", FieldmapPicture(), field, slices))
    drawings += draw_models(models, ref, volume_gb(MODEL_PICTURE_BYTES, run, PICTURE_GB))
    if with_tracts and t1w_shape is not None:
        memory = slices + T1W_BYTES * math.prod(t1w_shape) / 1e9
        drawings += draw_tracts(memory, charts)
    fields = ["gradient_report", "orientation_report", "eddy_report"]
    fields += ["coreg_report"] if t1w_shape is not None else []
    fields += ["sdc_report"] if with_sdc else []
    fields += ["slices_report"] if with_slices else []
    fields += ["dwi_mask"]
    fields += ["noise_map", "dwi_ref"] if with_noise else []
    fields += [REPORTS[model] for model in models]
    fields += ["bundles_report"] if with_tracts else []
    summarise = SummariseDwi(
        models=sorted(models),
        models_left_out=models_left_out(run),
        n_slices=run.shape[run.slice_axis],
    )
    if in_t1w:
        summarise.inputs.spaces = ["T1w"]
    same = {field: field for field in fields}
    drawings.append(Drawing("summary", summarise, same, slices, ".json"))
    return init_pictures_wf(
        drawings=drawings, out_dir=out_dir, entities=run.entities, suffix="dwi", name=name
    )


def draw_models(models: Collection[str], ref: str, mem_gb: float) -> list[Drawing]:
    """List the reportlets of models, drawn with the reference in the field `ref`."""
    drawings = []
    mask = {"dwi_mask": "mask"}
    here = {ref: "dwi_ref", **mask}
    if "DTI" in models:
        maps = {"fa": "fa", "md": "md", "color_fa": "color_fa", **here}
        drawings.append(Drawing("tensor", TensorPicture(), maps, mem_gb))
        sticks = {"fa": "fa", "tensor": "tensor", **mask}
        drawings.append(Drawing("directions", DirectionsPicture(), sticks, mem_gb))
    if "DKI" in models:
        maps = {"mk": "mk", "ak": "ak", "rk": "rk", "kfa": "kfa", **here}
        drawings.append(Drawing("kurtosis", KurtosisPicture(), maps, mem_gb))
    return drawings


def draw_tracts(bundles_gb: float, profiles_gb: float) -> list[Drawing]:
    """List the reportlets of bundles on the T1w image, and of their tract profiles."""
    lines = {
        "bundles": "bundles",
        "bundles_report": "report",
        "t1w_preproc": "image",
        "brain_mask": "brain_mask",
        "dwiref2anat_xfm": "dwi2anat_xfm",
    }
    table = {"profiles_tsv": "profiles_tsv", "bundles_report": "report"}
    return [
        Drawing("bundles", BundlesPicture(), lines, bundles_gb),
        Drawing("profiles", ProfilesPicture(), table, profiles_gb),
    ]
