"""Diffusion tensors, fitted to every voxel of a brain mask by weighted least squares.

The fit is described in `neuroferry.interfaces.dwi.loglinear`. The tensor model holds where
diffusion is close to Gaussian, so only volumes up to about b = 1500 s/mm² are used, unless they
have fewer than six directions.

Peak memory: 125 bytes for each voxel of the grid and 10 MB for each thread, however many
volumes there are. A scratch file takes 4 bytes for each volume and voxel of the brain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.gradients import (
    MIN_DIRECTIONS,
    Gradients,
    determine_tensor,
    read_gradients,
)
from neuroferry.interfaces.dwi.loglinear import N_ITERATIONS, fit_log_linear, over_voxels
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.image.images import Volume, load_mask, save_nifti
from neuroferry.interfaces.image.series import Series, open_series

Matrix = NDArray[np.float64]

TENSOR_B_MAX = 1575.0
"""Highest b-value of approximately Gaussian diffusion, s/mm²: 1500 plus scanner deviations."""
B_UNIT = 1000.0
"""Scale to ms/µm² and µm²/ms, for numbers near one."""
SHELL_WIDTH = 1.1
LARGEST_LOG = 80.0


@dataclass(frozen=True)
class TensorFit:
    """Tensors of V voxels.

    Attributes
    ----------
    tensors : ndarray of float64, shape (6, V)
        Dxx, Dxy, Dxz, Dyy, Dyz, Dzz in mm²/s, in the frame of the gradients.
    s0 : ndarray of float64, shape (V,)
        Signal without diffusion weighting, in the unit of the signals.
    fitted : ndarray of bool, shape (V,)
        Voxels that were fitted; the others are zero.
    complete : ndarray of bool, shape (V,)
        Voxels whose measurements were all used.
    """

    tensors: Matrix
    s0: Matrix
    fitted: NDArray[np.bool_]
    complete: NDArray[np.bool_]


def tensor_design(gradients: Gradients) -> Matrix:
    """Build the design matrix from log S0 and six elements in µm²/ms to log signals.

    Parameters
    ----------
    gradients : Gradients
        b-values and directions of N volumes.

    Returns
    -------
    ndarray of float64, shape (N, 7)
        Columns for log S0, Dxx, Dxy, Dxz, Dyy, Dyz, Dzz; equation 7 of Basser et al. (1994).
    """
    x, y, z = gradients.bvecs.T
    weighting = -gradients.bvals / B_UNIT
    terms = (x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z)
    return np.stack([np.ones_like(weighting), *(weighting * term for term in terms)], axis=1)


def tensor_volumes(gradients: Gradients) -> NDArray[np.int64]:
    """Choose the volumes for the tensor fit.

    Parameters
    ----------
    gradients : Gradients
        b-values and directions of all volumes.

    Returns
    -------
    ndarray of int64
        Indices of volumes up to b = 1500 s/mm², and of as many higher shells as a tensor needs.

    Raises
    ------
    InputError
        If all volumes together have fewer than six directions or do not determine a tensor.
    """
    bvals = gradients.bvals
    limits = [TENSOR_B_MAX, *(b * SHELL_WIDTH for b, _ in gradients.shells if b > TENSOR_B_MAX)]
    for limit in limits:
        chosen = np.flatnonzero(bvals <= limit)
        if chosen.size and _determined(take_volumes(gradients, chosen)):
            return chosen
    if gradients.n_directions < MIN_DIRECTIONS:
        raise InputError(
            "Cannot fit a diffusion tensor: the number of gradient directions is "
            f"{gradients.n_directions}, and a diffusion tensor needs {MIN_DIRECTIONS}."
        )
    raise InputError(
        f"The {gradients.n_directions} gradient directions and their b-values do not determine "
        "a diffusion tensor: the directions lie in a plane or on a cone, or there is one "
        "shell and no volume without diffusion weighting."
    )


def _determined(gradients: Gradients) -> bool:
    """Check whether the gradients determine a tensor and S0."""
    if not determine_tensor(gradients.bvecs):
        return False
    return bool(gradients.b0s.any() or len(gradients.shells) > 1)


def take_volumes(gradients: Gradients, volumes: NDArray[np.int64]) -> Gradients:
    """Select some of the volumes."""
    return replace(gradients, bvals=gradients.bvals[volumes], bvecs=gradients.bvecs[volumes])


def fit_tensor(
    signals: NDArray[np.floating], gradients: Gradients, *, n_iterations: int = N_ITERATIONS
) -> TensorFit:
    """Fit diffusion tensors by iterated weighted least squares.

    Parameters
    ----------
    signals : ndarray of float, shape (N, V)
        N measurements of V voxels. Values that are not positive and finite are skipped.
    gradients : Gradients
        b-values and directions of the N measurements. The tensors are in the frame of the
        directions: RAS+ world coordinates throughout this package.
    n_iterations : int
        Rounds of weighted least squares after ordinary least squares.

    Returns
    -------
    TensorFit

    Examples
    --------
    >>> bvecs = np.array([[0, 0, 0], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1],
    ...                   [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
    >>> gradients = Gradients(np.array([0.0, 1e3, 1e3, 1e3, 1e3, 1e3, 1e3]), bvecs)
    >>> diffusion = bvecs**2 @ [1.7e-3, 0.3e-3, 0.3e-3]
    >>> fit = fit_tensor(400 * np.exp(-gradients.bvals * diffusion)[:, None], gradients)
    >>> (1e3 * np.abs(fit.tensors[:, 0])).round(3).tolist(), fit.s0.round(3).tolist()
    ([1.7, 0.0, 0.0, 0.3, 0.0, 0.3], [400.0])
    """
    fit = fit_log_linear(signals, tensor_design(gradients), n_iterations=n_iterations)
    s0 = np.where(fit.fitted, np.exp(np.minimum(fit.coefficients[0], LARGEST_LOG)), 0.0)
    return TensorFit(fit.coefficients[1:] / B_UNIT, s0, fit.fitted, fit.complete)


def fit_tensor_series(
    series: Series,
    gradients: Gradients,
    mask: NDArray[np.bool_],
    *,
    scratch: str | os.PathLike[str] | None = None,
    n_threads: int = 1,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Fit tensors to a series and compute their maps.

    Parameters
    ----------
    series : Series
        Preprocessed diffusion-weighted volumes.
    gradients : Gradients
        b-values and world directions of its volumes.
    mask : ndarray of bool, shape (I, J, K)
        Voxels to fit.
    scratch : path, optional
        Folder for the scratch file.
    n_threads : int
        Blocks of voxels processed in parallel; does not change the result.

    Returns
    -------
    maps : dict of ndarray of float32, shape (V,) or (V, n)
        Of the V voxels of the mask: ``fa``, ``md``, ``ad``, ``rd`` (mm²/s), ``s0``,
        ``tensor`` (six elements, mm²/s) and ``color_fa`` (red, green, blue in [0, 1]).
    report : dict
        Volumes used, method, and numbers of unusual voxels.

    Raises
    ------
    InputError
        If the gradients do not determine a tensor.
    """
    volumes = tensor_volumes(gradients)
    used = take_volumes(gradients, volumes)

    def work(block: NDArray[np.float32]) -> tuple[list[NDArray[np.float32]], list[int]]:
        fit = fit_tensor(block, used)
        made = tensor_maps(fit.tensors)
        maps = (made.fa, made.md, made.ad, made.rd, fit.s0, made.tensors.T, made.color_fa.T)
        counts = (~fit.fitted, ~fit.complete, made.clipped)
        return [m.astype(np.float32) for m in maps], [int(np.count_nonzero(c)) for c in counts]

    n_voxels = int(np.count_nonzero(mask))
    widths = {"fa": (), "md": (), "ad": (), "rd": (), "s0": (), "tensor": (6,), "color_fa": (3,)}
    maps = {name: np.empty((n_voxels, *w), np.float32) for name, w in widths.items()}
    totals = np.zeros(3, dtype=int)
    for where, (found, counts) in over_voxels(
        work, series, mask, volumes.tolist(), scratch=scratch, n_threads=n_threads
    ):
        for name, values in zip(maps, found, strict=True):
            maps[name][where] = values
        totals += counts
    unfitted, incomplete, clipped = totals.tolist()
    report = {
        "NumberOfVolumes": int(volumes.size),
        "NumberOfDirections": used.n_directions,
        "LargestBValue": float(used.bvals.max()),
        "FitMethod": "weighted least squares",
        "WeightedRounds": N_ITERATIONS,
        "Voxels": n_voxels,
        "VoxelsNotFitted": unfitted,
        "VoxelsWithUnusableSignals": incomplete,
        "VoxelsWithNegativeEigenvalues": clipped,
        "MedianFA": round(float(np.median(maps["fa"])), 4),
        "MedianMD": float(f"{np.median(maps['md']):.4g}"),
    }
    return maps, report


def fill(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Place values of the voxels of a mask, shape (V,) or (V, n), on its grid; zero elsewhere."""
    grid = np.zeros((*mask.shape, *values.shape[1:]), values.dtype)
    grid[mask] = values
    return grid


def write_maps(
    maps: Mapping[str, NDArray[Any]],
    report: Mapping[str, Any],
    series: Series,
    mask: NDArray[np.bool_],
    out: Path,
) -> dict[str, str]:
    """Write the maps of a model on the grid of its series, and its report.

    Parameters
    ----------
    maps : mapping of str to ndarray, shape (V,) or (V, n)
        Values of the V voxels of the mask, in their stored data type.
    report : mapping
        Written to ``report.json``.
    series : Series
        Fitted series.
    mask : ndarray of bool, shape (I, J, K)
        Fitted voxels.
    out : Path
        Output folder.

    Returns
    -------
    dict of str to str
        Paths keyed by the names of the maps, and ``report``.
    """
    paths = {}
    for name, values in maps.items():
        path = save_nifti(
            fill(values, mask),
            series.affine,
            out / f"{name}.nii.gz",
            header=series.header,
            dtype=values.dtype.type,
        )
        paths[name] = str(path)
    write_json(out / "report.json", report)
    return {**paths, "report": str(out / "report.json")}


def open_dwi(
    in_file: str | os.PathLike[str],
    bval: str | os.PathLike[str],
    bvec: str | os.PathLike[str],
    mask: str | os.PathLike[str],
) -> tuple[Series, Gradients, NDArray[np.bool_]]:
    """Open a DWI run, its gradients and its brain mask.

    Raises
    ------
    InputError
        If the numbers of gradients and volumes differ, or the mask is empty.
    GeometryError
        If the mask is on another grid.
    """
    series = open_series(in_file)
    gradients = read_gradients(bval, bvec, series.affine)
    if gradients.bvals.size != series.n_volumes:
        raise InputError(
            f"{Path(bval).name} has {gradients.bvals.size} b-values, but {series.path.name} has "
            f"{series.n_volumes} volumes."
        )
    grid = Volume(np.zeros(series.shape3, np.float32), series.affine, series.header)
    return series, gradients, load_mask(mask, grid, "brain mask")


class DwiFitInputSpec(BaseInterfaceInputSpec):
    """Inputs of every diffusion model."""

    in_file = File(exists=True, mandatory=True, desc="preprocessed DWI, 4-D")
    bval = File(exists=True, mandatory=True, desc="b-values, s/mm²")
    bvec = File(exists=True, mandatory=True, desc="gradient directions, FSL's convention")
    mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="blocks processed in parallel"
    )


class _FitTensorOutputSpec(TraitedSpec):
    fa = File(exists=True, desc="fractional anisotropy")
    md = File(exists=True, desc="mean diffusivity, mm²/s")
    ad = File(exists=True, desc="axial diffusivity, mm²/s")
    rd = File(exists=True, desc="radial diffusivity, mm²/s")
    s0 = File(exists=True, desc="signal without diffusion weighting")
    tensor = File(exists=True, desc="Dxx Dxy Dxz Dyy Dyz Dzz, mm²/s, RAS+ world axes, 4-D")
    color_fa = File(exists=True, desc="FA in red (x), green (y), blue (z), uint8, 4-D")
    report = File(exists=True, desc="JSON: report of the fit, numbers of unusual voxels")


class FitTensor(SimpleInterface):
    """Fit diffusion tensors in a brain mask and write their maps.

    The tensor elements refer to the world axes (right, anterior, superior), regardless of the
    axes of the image.
    """

    input_spec = DwiFitInputSpec
    output_spec = _FitTensorOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        out = Path(runtime.cwd)
        series, gradients, mask = open_dwi(inputs.in_file, inputs.bval, inputs.bvec, inputs.mask)
        maps, report = fit_tensor_series(
            series, gradients, mask, scratch=out, n_threads=inputs.n_procs
        )
        maps["color_fa"] = np.rint(255.0 * maps["color_fa"]).astype(np.uint8)
        self._results |= write_maps(maps, report, series, mask, out)
        return runtime
