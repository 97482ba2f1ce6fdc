"""Voxelwise diffusion models, as far as a run's gradients allow."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.dwi.csd import FitCsd
from neuroferry.interfaces.dwi.kurtosis import FitKurtosis
from neuroferry.interfaces.dwi.models import models_for
from neuroferry.interfaces.dwi.tensor import FitTensor
from neuroferry.workflows.dwi.memory import (
    KURTOSIS_BYTES,
    KURTOSIS_GB,
    TENSOR_BYTES,
    TENSOR_GB,
    csd_gb,
    grid_gb,
)

_DIFFUSIVITY = "mm^2/s"
INPUTS = {"dwi_preproc": "in_file", "dwi_bval": "bval", "dwi_bvec": "bvec", "dwi_mask": "mask"}


@dataclass(frozen=True)
class DwiMap:
    """One map of a model, with its entities and sidecar texts.

    Attributes
    ----------
    model, parameter, variant : str
        Entities ``model`` and ``param``, and ``desc`` where it is not empty.
    description, unit : str
        For the sidecar.
    extension : str
        Extension of the file.
    report : str
        Field with the report of the model; empty for none.
    """

    model: str
    parameter: str
    description: str
    unit: str = ""
    variant: str = ""
    extension: str = ".nii.gz"
    report: str = ""


MAPS = {
    "fa": DwiMap("DTI", "FA", "Fractional anisotropy, 0 to 1", report="tensor_report"),
    "md": DwiMap("DTI", "MD", "Mean diffusivity", _DIFFUSIVITY),
    "ad": DwiMap("DTI", "AD", "Axial diffusivity", _DIFFUSIVITY),
    "rd": DwiMap("DTI", "RD", "Radial diffusivity", _DIFFUSIVITY),
    "tensor": DwiMap(
        "DTI",
        "tensor",
        "Diffusion tensor in world coordinates (RAS+): xx, xy, xz, yy, yz, zz",
        _DIFFUSIVITY,
    ),
    "color_fa": DwiMap(
        "DTI",
        "FA",
        "Fractional anisotropy, coloured by the principal direction: red left-right, green "
        "anterior-posterior, blue inferior-superior (RAS+)",
        variant="color",
    ),
    "mk": DwiMap("DKI", "MK", "Mean kurtosis", report="kurtosis_report"),
    "ak": DwiMap("DKI", "AK", "Axial kurtosis"),
    "rk": DwiMap("DKI", "RK", "Radial kurtosis"),
    "kfa": DwiMap("DKI", "KFA", "Kurtosis fractional anisotropy"),
    "fod": DwiMap(
        "CSD",
        "FOD",
        "Fibre orientation distribution: spherical-harmonic coefficients in the basis of "
        "MRtrix3, in world coordinates (RAS+)",
        report="csd_report",
    ),
}
STEPS: dict[str, tuple[str, type[Any]]] = {
    "DTI": ("fit_tensor", FitTensor),
    "DKI": ("fit_kurtosis", FitKurtosis),
    "CSD": ("fit_csd", FitCsd),
}
REPORTS = {"DTI": "tensor_report", "DKI": "kurtosis_report", "CSD": "csd_report"}
TRACKED_DIRECTIONS = 28
"""Fewest directions for tracking on fibre orientations; below, tensors are tracked."""


def plan_models(run: DwiRun) -> tuple[str, ...]:
    """List the models that a run's gradients allow, of ``DTI``, ``DKI`` and ``CSD``."""
    return tuple(model for model, reason in _reasons(run).items() if not reason)


def models_left_out(run: DwiRun) -> dict[str, str]:
    """Explain why models are left out, keyed by their names."""
    return {model: reason for model, reason in _reasons(run).items() if reason}


def _reasons(run: DwiRun) -> dict[str, str]:
    why_not = models_for(run.shells, run.n_directions, run.fits_tensor, run.no_shells)
    return {"DTI": why_not.tensor, "DKI": why_not.kurtosis, "CSD": why_not.csd}


def init_dwi_models_wf(
    *,
    run: DwiRun,
    models: Collection[str],
    suffix: str = "",
    voxels: float | None = None,
    omp_nthreads: int = 1,
    name: str = "models_wf",
) -> Workflow:
    """Build the models of one DWI run.

    Parameters
    ----------
    run : DwiRun
        The run.
    models : collection of str
        Names from `plan_models`.
    suffix : str
        Suffix of the field names, for a series on another grid than its own.
    voxels : float, optional
        Of that grid.
    omp_nthreads : int
        Threads per step; more than one does not change results.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_preproc, dwi_bval, dwi_bvec, dwi_mask
        Preprocessed series, its gradients, brain mask.

    **Outputs**

    fa, md, ad, rd, tensor, color_fa, tensor_report
        Tensor maps and report (JSON).
    mk, ak, rk, kfa, kurtosis_report
        Kurtosis maps and report, where two shells allow it.
    fod, csd_report
        Fibre orientation distributions and report.
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = "" if suffix else _describe(models)
    chosen = [model for model in STEPS if model in models]
    maps = {model: [k for k, what in MAPS.items() if what.model == model] for model in chosen}
    found = [*(key for keys in maps.values() for key in keys), *(REPORTS[m] for m in chosen)]
    found = [f"{field}{suffix}" for field in found]
    inputs = {f"{field}{suffix}": name for field, name in INPUTS.items()}
    inputnode = pe.Node(IdentityInterface(fields=list(inputs)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=found), name="outputnode")
    for model in chosen:
        step, interface = STEPS[model]
        node = pe.Node(
            interface(n_procs=omp_nthreads),
            name=step,
            mem_gb=_mem_gb(model, run, omp_nthreads, voxels or run.n_voxels),
            n_procs=omp_nthreads,
        )
        workflow.connect([
            (inputnode, node, list(inputs.items())),
            (node, outputnode, [
                *((key, f"{key}{suffix}") for key in maps[model]),
                ("report", f"{REPORTS[model]}{suffix}"),
            ]),
        ])  # fmt: skip
    return workflow


def _mem_gb(model: str, run: DwiRun, n_threads: int, voxels: float) -> float:
    """Estimate the peak memory of fitting one model in GB."""
    if model == "CSD":
        return csd_gb(run)
    if model == "DKI":
        return grid_gb(KURTOSIS_BYTES, voxels, KURTOSIS_GB * n_threads)
    return grid_gb(TENSOR_BYTES, voxels, TENSOR_GB * n_threads)


def _describe(models: Collection[str]) -> str:
    """Describe the models in the methods text."""
    text = ""
    if "DTI" in models:
        text += "Diffusion tensors were fitted by weighted least squares [@veraart2013]. "
    if "DKI" in models:
        text += "Diffusion kurtosis was fitted by weighted least squares [@jensen2005]. "
    if "CSD" in models:
        text += (
            "Fibre orientations were estimated by constrained spherical deconvolution "
            "[@tournier2007] with *MRtrix3* [@mrtrix3]. "
        )
    return text
