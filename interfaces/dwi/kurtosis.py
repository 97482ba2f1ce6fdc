"""Diffusion kurtosis, the deviation from Gaussian diffusion, from two or more shells.

The logarithm of the signal is expanded to second order in the b-value [1]_; its 22 coefficients
are fitted by weighted least squares (see `neuroferry.interfaces.dwi.loglinear`). Mean, axial and
radial kurtosis follow in closed form [2]_, as in DIPY, as does the anisotropy of the kurtosis
tensor [3]_. The expansion holds up to about b = 3000 s/mm²: higher shells are not used.

Peak memory: 50 bytes for each voxel of the grid and 25 MB for each thread, however many
volumes there are. A scratch file takes 4 bytes for each volume and voxel of the brain.

References
----------
.. [1] Jensen JH, Helpern JA, Ramani A, Lu H, Kaczynski K (2005). Diffusional kurtosis imaging:
   the quantification of non-Gaussian water diffusion by means of magnetic resonance imaging.
   Magn Reson Med 53(6):1432-1440. doi:10.1002/mrm.20508
.. [2] Tabesh A, Jensen JH, Ardekani BA, Helpern JA (2011). Estimation of tensors and
   tensor-derived measures in diffusional kurtosis imaging. Magn Reson Med 65(3):823-836.
   doi:10.1002/mrm.22655
.. [3] Glenn GR, Helpern JA, Tabesh A, Jensen JH (2015). Quantitative assessment of diffusional
   kurtosis anisotropy. NMR Biomed 28(4):448-459. doi:10.1002/nbm.3271
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.gradients import Gradients, determine_tensor
from neuroferry.interfaces.dwi.loglinear import N_ITERATIONS, fit_log_linear, over_voxels
from neuroferry.interfaces.dwi.models import KURTOSIS_B_MAX, models_for
from neuroferry.interfaces.dwi.tensor import (
    B_UNIT,
    DwiFitInputSpec,
    open_dwi,
    take_volumes,
    tensor_design,
    write_maps,
)
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.image.series import Series

Matrix = NDArray[np.float64]

ELEMENTS = (
    *("xxxx", "yyyy", "zzzz", "xxxy", "xxxz", "xyyy", "yyyz", "xzzz", "yzzz"),
    *("xxyy", "xxzz", "yyzz", "xxyz", "xyyz", "xyzz"),
)
"""Elements of the kurtosis tensor, in DIPY's order."""
SMALLEST_MD = 1e-3
"""Mean diffusivity below which kurtosis is meaningless, µm²/ms."""
MAPS = ("mk", "ak", "rk", "kfa", "fa", "md")


def repeats(element: str) -> int:
    """Count how often an element occurs in the full tensor.

    >>> [repeats(element) for element in ("xxxx", "xxxy", "xxyy", "xxyz")]
    [1, 4, 6, 12]
    """
    counts = sorted(Counter(element).values())
    return {(4,): 1, (1, 3): 4, (2, 2): 6, (1, 1, 2): 12}[tuple(counts)]


def kurtosis_design(gradients: Gradients) -> Matrix:
    """Build the design matrix from log S0, tensor and kurtosis to log signals.

    Parameters
    ----------
    gradients : Gradients
        b-values and directions of N volumes.

    Returns
    -------
    ndarray of float64, shape (N, 22)
        Seven columns of `tensor_design`, then fifteen for the kurtosis tensor
        times the squared mean diffusivity, (µm²/ms)², in the order of ``ELEMENTS``;
        equation 3 of Jensen et al. (2005).
    """
    axes = dict(zip("xyz", gradients.bvecs.T, strict=True))
    scale = (gradients.bvals / B_UNIT) ** 2 / 6
    columns = []
    for element in ELEMENTS:
        product = np.prod([axes[letter] for letter in element], axis=0)
        columns.append(scale * repeats(element) * product)
    return np.column_stack([tensor_design(gradients), *columns])


def kurtosis_volumes(gradients: Gradients) -> NDArray[np.int64]:
    """Choose the volumes up to b = 3000 s/mm²; refuse insufficient gradients.

    Raises
    ------
    InputError
        If there are not two shells of fifteen directions.
    """
    chosen = np.flatnonzero(gradients.bvals <= KURTOSIS_B_MAX)
    used = take_volumes(gradients, chosen)
    fits = determine_tensor(used.bvecs)
    why = models_for(used.shells, used.n_directions, fits).kurtosis
    if why:
        raise InputError(f"Cannot fit diffusion kurtosis: {why}.")
    if np.linalg.matrix_rank(kurtosis_design(used), tol=1e-3) < 22:
        raise InputError("Cannot fit diffusion kurtosis: the gradients do not determine it.")
    return chosen


def fit_kurtosis(
    signals: NDArray[np.floating], gradients: Gradients, *, n_iterations: int = N_ITERATIONS
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """Fit diffusion kurtosis to many voxels.

    Parameters
    ----------
    signals : ndarray of float, shape (N, V)
        N measurements of V voxels. Values that are not positive and finite are skipped.
    gradients : Gradients
        b-values and directions of the N measurements.
    n_iterations : int
        Rounds of weighted least squares after ordinary least squares.

    Returns
    -------
    maps : dict of ndarray of float32, shape (V,)
        ``mk``, ``ak``, ``rk``, ``kfa``, ``fa``, and ``md`` in mm²/s; zero where there is no
        fit. Mean kurtosis is kept within -3/7 and 3, axial and radial within -3/7 and 10:
        values beyond are noise.
    fitted : ndarray of bool, shape (V,)
        Voxels that were fitted.
    """
    from dipy.reconst import dki

    fit = fit_log_linear(signals, kurtosis_design(gradients), n_iterations=n_iterations)
    tensor = tensor_maps(fit.coefficients[1:7])
    fitted = fit.fitted & (tensor.md > SMALLEST_MD)
    md = np.where(fitted, tensor.md, 1.0)
    kurtosis = fit.coefficients[7:] / md**2
    parameters = np.concatenate(
        [tensor.eigenvalues.T, tensor.vectors.transpose(2, 0, 1).reshape(-1, 9), kurtosis.T],
        axis=1,
    )
    maps = {name: np.zeros(fitted.size, np.float32) for name in MAPS}
    with np.errstate(all="ignore"):
        for name, function in (
            ("mk", dki.mean_kurtosis),
            ("ak", dki.axial_kurtosis),
            ("rk", dki.radial_kurtosis),
            ("kfa", dki.kurtosis_fractional_anisotropy),
        ):
            maps[name][fitted] = np.nan_to_num(function(parameters[fitted]))
    maps["fa"][fitted] = tensor.fa[fitted]
    maps["md"][fitted] = tensor.md[fitted] / B_UNIT
    return maps, fitted


def fit_kurtosis_series(
    series: Series,
    gradients: Gradients,
    mask: NDArray[np.bool_],
    *,
    scratch: str | os.PathLike[str] | None = None,
    n_threads: int = 1,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Fit diffusion kurtosis to a series.

    Parameters
    ----------
    series : Series
        Preprocessed diffusion-weighted volumes.
    gradients : Gradients
        Gradients of its volumes.
    mask : ndarray of bool, shape (I, J, K)
        Voxels to fit.
    scratch : path, optional
        Folder for the scratch file.
    n_threads : int
        Blocks of voxels processed in parallel; does not change the result.

    Returns
    -------
    maps : dict of ndarray of float32, shape (V,)
        See :func:`fit_kurtosis`; of the V voxels of the mask.
    report : dict
        Volumes used, and method.

    Raises
    ------
    InputError
        If the gradients are insufficient.
    """
    volumes = kurtosis_volumes(gradients)
    used = take_volumes(gradients, volumes)
    n_voxels = int(np.count_nonzero(mask))
    maps = {name: np.zeros(n_voxels, np.float32) for name in MAPS}
    unfitted = 0

    def work(block: NDArray[np.float32]) -> tuple[dict[str, NDArray[np.float32]], int]:
        found, fitted = fit_kurtosis(block, used)
        return found, int(np.count_nonzero(~fitted))

    for where, (found, missing) in over_voxels(
        work, series, mask, volumes.tolist(), scratch=scratch, n_threads=n_threads
    ):
        for name, values in found.items():
            maps[name][where] = values
        unfitted += missing
    report = {
        "NumberOfVolumes": int(volumes.size),
        "NumberOfDirections": used.n_directions,
        "BValues": [shell.b for shell in used.shells],
        "FitMethod": "weighted least squares",
        "WeightedRounds": N_ITERATIONS,
        "Voxels": n_voxels,
        "VoxelsNotFitted": unfitted,
        "MedianMK": round(float(np.median(maps["mk"])), 4),
    }
    return maps, report


class _FitKurtosisOutputSpec(TraitedSpec):
    mk = File(exists=True, desc="mean kurtosis")
    ak = File(exists=True, desc="axial kurtosis")
    rk = File(exists=True, desc="radial kurtosis")
    kfa = File(exists=True, desc="anisotropy of the kurtosis tensor")
    fa = File(exists=True, desc="fractional anisotropy of the kurtosis model's tensor")
    md = File(exists=True, desc="mean diffusivity of the kurtosis model, mm²/s")
    report = File(exists=True, desc="JSON: report of the fit")


class FitKurtosis(SimpleInterface):
    """Fit diffusion kurtosis in a brain mask and write its maps."""

    input_spec = DwiFitInputSpec
    output_spec = _FitKurtosisOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        out = Path(runtime.cwd)
        series, gradients, mask = open_dwi(inputs.in_file, inputs.bval, inputs.bvec, inputs.mask)
        maps, report = fit_kurtosis_series(
            series, gradients, mask, scratch=out, n_threads=inputs.n_procs
        )
        self._results |= write_maps(maps, report, series, mask, out)
        return runtime
