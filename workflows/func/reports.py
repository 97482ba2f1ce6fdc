"""Reportlets of one BOLD run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.draw.func import (
    CarpetPicture,
    ComponentsPicture,
    CoregistrationPicture,
    CorrelationsPicture,
    DistortionPicture,
    FieldmapPicture,
    MasksPicture,
    MotionPicture,
    TSNRPicture,
)
from neuroferry.interfaces.func.summary import SummariseRun
from neuroferry.workflows.pictures import SAVE_GB, Drawing, init_pictures_wf

_BASE_GB = 0.2
"""Interpreter and libraries, in GB."""
_CARPET_BYTES = 40
_MOSAIC_BYTES = 25
_T1W_BYTES = 12
_CARPET_ROWS = 500
_TABLE = ("confounds_tsv", "summary_json")


def init_bold_reports_wf(
    *,
    out_dir: str | Path,
    entities: Mapping[str, str],
    n_volumes: int,
    shape: Sequence[int],
    t1w_shape: Sequence[int] = (256, 256, 256),
    with_anat: bool = True,
    with_sdc: bool = False,
    name: str = "bold_reports_wf",
) -> Workflow:
    """Build the reportlets of one run: confounds, masks, alignment and distortion.

    Parameters
    ----------
    out_dir : str or pathlib.Path
        Root of the derivatives; reportlets go to ``sub-<subject>/figures``.
    entities : mapping of str to str
        Long entity names of the run (subject, session, task, run and so on) to values.
    n_volumes : int
        Length of the series, for the memory estimates.
    shape, t1w_shape : sequence of int
        Voxels of one volume and of the T1w image, for the memory estimates.
    with_anat : bool
        Whether there is a T1w image.
    with_sdc : bool
        Whether distortion was corrected.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    bold, bold_ref, bold_mask
        Preprocessed series, reference image as measured, brain mask.
    confounds_tsv, summary_json, compcor_masks, tsnr_map
        Outputs of `init_bold_confounds_wf`.
    reference_report
        Report on the estimation of the reference (JSON); optional.
    bold_tpms, t1w_preproc, brain_mask, dseg, boldref2anat_xfm, coreg_report
        With a T1w image: tissues on the grid of the series; the image, its mask, tissues;
        transform that resamples BOLD onto it; report on the alignment.
    bold_ref_sdc, fieldmap, sdc_report
        With distortion correction: undistorted reference, field in Hz on its grid, report on
        the correction.

    **Outputs**

    out_files
        Paths of reportlets and summary in the output folder.
    """
    drawings = [
        Drawing(desc, interface, inputs, _mem_gb(desc, shape, t1w_shape, n_volumes))
        for desc, interface, inputs in _steps(with_anat, with_sdc)
    ]
    reports = ["summary_json", "reference_report", "bold_mask"]
    reports += ["coreg_report"] if with_anat else []
    reports += ["sdc_report"] if with_sdc else []
    same = {field: field for field in reports}
    drawings.append(Drawing("summary", SummariseRun(), same, SAVE_GB, ".json"))
    return init_pictures_wf(
        drawings=drawings, out_dir=out_dir, entities=entities, suffix="bold", name=name
    )


def _steps(with_anat: bool, with_sdc: bool) -> list[tuple[str, Any, dict[str, str]]]:
    """List the reportlets: name, interface, input fields and destination."""
    reference = "bold_ref_sdc" if with_sdc else "bold_ref"
    tissues = {"bold_tpms": "bold_tpms"} if with_anat else {}
    table = {field: field for field in _TABLE}
    here = {reference: "bold_ref", "bold_mask": "bold_mask"}
    steps: list[tuple[str, Any, dict[str, str]]] = [
        (
            "carpetplot",
            CarpetPicture(),
            {"bold": "bold", "bold_mask": "bold_mask", **table, **tissues},
        ),
        ("motion", MotionPicture(), table),
        ("rois", MasksPicture(), {**here, "compcor_masks": "compcor_masks"}),
        ("tsnr", TSNRPicture(), {**here, "tsnr_map": "tsnr_map"}),
        ("compcorvar", ComponentsPicture(), {"summary_json": "summary_json"}),
        ("confoundcorr", CorrelationsPicture(), table),
    ]
    if with_anat:
        anatomy = {
            "t1w_preproc": "t1w",
            "dseg": "dseg",
            "brain_mask": "brain_mask",
            "boldref2anat_xfm": "boldref2anat_xfm",
        }
        steps.append(("coreg", CoregistrationPicture(), {reference: "bold_ref", **anatomy}))
    if with_sdc:
        both = {"bold_ref": "bold_ref", "bold_ref_sdc": "bold_ref_sdc", "bold_mask": "bold_mask"}
        field = {"fieldmap": "fieldmap", "bold_ref_sdc": "image", "bold_mask": "bold_mask"}
        steps.append(("sdc", DistortionPicture(), {**both, **tissues}))
        steps.append(("fieldmap", FieldmapPicture(), field))
    return steps


def _mem_gb(desc: str, shape: Sequence[int], t1w_shape: Sequence[int], n_volumes: int) -> float:
    """Estimate the peak memory of drawing one reportlet in GB.

    Interpreter and libraries; for the carpet a volume and the rows of the carpet; for
    slices a few volumes, and for the alignment the T1w image, its tissues and its mask
    (measured with 40 million voxels: 0.61 GB).
    """
    n_voxels = int(shape[0]) * int(shape[1]) * int(shape[2])
    t1w_voxels = int(t1w_shape[0]) * int(t1w_shape[1]) * int(t1w_shape[2])
    if desc == "carpetplot":
        return _BASE_GB + (_CARPET_BYTES * n_voxels + 40 * _CARPET_ROWS * n_volumes) / 1e9
    if desc in ("motion", "compcorvar", "confoundcorr"):
        return _BASE_GB
    anatomy = _T1W_BYTES * t1w_voxels if desc == "coreg" else 0
    return _BASE_GB + (_MOSAIC_BYTES * n_voxels + anatomy) / 1e9
