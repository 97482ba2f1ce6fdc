"""Fibre orientation distributions by constrained spherical deconvolution (MRtrix3 ``dwi2fod``).

The single-fibre response is estimated from the voxels whose tensors are most anisotropic and most
linear, deep in the brain [1]_: their signals, rotated so that the first eigenvector is the pole,
are fitted with zonal harmonics. This takes well under a second; ``dwi2response tournier``, which
deconvolves the whole brain repeatedly, took more than two minutes of processor time for one run
with 16 directions, and returned nearly the same shape (ratios to the mean of -0.368 and 0.073 at
orders 2 and 4; here -0.38 and 0.08).

With one shell, or too few directions for more, a single tissue is deconvolved [2]_; with two
shells or more, white matter together with grey matter and CSF [3]_, whose responses come from
isotropic voxels that diffuse like tissue or like water, followed by intensity normalisation of
the three [4]_. Orientations are in world axes (RAS+), as coefficients of MRtrix's real spherical
harmonics.

Peak memory, for each voxel of the grid: 80 bytes plus 4 for each coefficient here, then (not at
the same time) 6 in ``dwi2fod`` for each of its volumes and coefficients (15 at order 4, 28 at 6,
45 at 8; two more with three tissues). Disk: 4 bytes for each of those while it runs.

References
----------
.. [1] Tournier JD, Calamante F, Gadian DG, Connelly A (2004). Direct estimation of the fiber
   orientation density function from diffusion-weighted MRI data using spherical
   deconvolution. NeuroImage 23(3):1176-1185. doi:10.1016/j.neuroimage.2004.07.037
.. [2] Tournier JD, Calamante F, Connelly A (2007). Robust determination of the fibre
   orientation distribution in diffusion MRI: non-negativity constrained super-resolved
   spherical deconvolution. NeuroImage 35(4):1459-1472. doi:10.1016/j.neuroimage.2007.02.016
.. [3] Jeurissen B et al. (2014). Multi-tissue constrained spherical deconvolution for improved
   analysis of multi-shell diffusion MRI data. NeuroImage 103:411-426.
   doi:10.1016/j.neuroimage.2014.07.061
.. [4] Raffelt D et al. (2017). Bias field correction and intensity normalisation for
   quantitative analysis of apparent fibre density. Proc ISMRM 25:3541.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.gradients import Gradients, Shell, determine_tensor
from neuroferry.interfaces.dwi.loglinear import over_voxels
from neuroferry.interfaces.dwi.models import csd_caveats, models_for, order_for
from neuroferry.interfaces.dwi.mrtrix import run_mrtrix
from neuroferry.interfaces.dwi.tensor import (
    DwiFitInputSpec,
    fit_tensor,
    open_dwi,
    take_volumes,
    tensor_volumes,
)
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.image.images import make_header, save_nifti
from neuroferry.interfaces.image.series import Series

Matrix = NDArray[np.float64]

N_FIBRE_VOXELS = 300
N_TISSUE_VOXELS = 1000
MIN_TISSUE_VOXELS = 30
ERODE_VOXELS = 2
FIBRE_MD_MAX = 1.2e-3
TISSUE_FA_MAX = 0.2
GREY_MD = (0.5e-3, 1.1e-3)
"""Mean diffusivity of grey matter, mm²/s."""
FLUID_MD_MIN = 2.2e-3
"""Mean diffusivity above which a voxel is free water, mm²/s."""
INSTEAD = ", or skip tractography"


@dataclass(frozen=True)
class TissueVoxels:
    """Representative voxels of the tissues.

    Attributes
    ----------
    fibres : ndarray of int64
        Flat indices of single-fibre voxels, most typical first.
    directions : ndarray of float64, shape (F, 3)
        Their fibre directions, RAS+ world.
    grey, fluid : ndarray of int64
        Flat indices of voxels of grey matter and of CSF.
    median_fa : float
        Median FA of ``fibres``.
    """

    fibres: NDArray[np.int64]
    directions: Matrix
    grey: NDArray[np.int64]
    fluid: NDArray[np.int64]
    median_fa: float


@dataclass(frozen=True)
class Responses:
    """Response functions of pure tissues, one row for each shell.

    Attributes
    ----------
    white : ndarray of float64, shape (S, 1 + lmax / 2)
        Coefficients of the zonal harmonics of even order, for fibres along the pole.
    grey, fluid : ndarray of float64, shape (S, 1)
        Coefficients of order 0; empty if only white matter is deconvolved.
    """

    white: Matrix
    grey: Matrix
    fluid: Matrix


def find_tissue_voxels(
    series: Series,
    gradients: Gradients,
    mask: NDArray[np.bool_],
    *,
    scratch: str | os.PathLike[str] | None = None,
    n_threads: int = 1,
) -> TissueVoxels:
    """Find representative voxels of single fibres, grey matter and CSF.

    Parameters
    ----------
    series : Series
        Preprocessed diffusion-weighted volumes.
    gradients : Gradients
        Gradients of its volumes.
    mask : ndarray of bool, shape (I, J, K)
        Brain; voxels within two voxels of its border are skipped if enough others are left.
    scratch : path, optional
        Folder for a scratch file.
    n_threads : int
        Does not change the result.

    Returns
    -------
    TissueVoxels
    """
    from scipy import ndimage

    core = ndimage.binary_erosion(mask, iterations=ERODE_VOXELS)
    if np.count_nonzero(core) < N_FIBRE_VOXELS:
        core = mask
    chosen = tensor_volumes(gradients)
    used = take_volumes(gradients, chosen)

    def work(block: NDArray[np.float32]) -> NDArray[np.float32]:
        fit = fit_tensor(block, used)
        maps = tensor_maps(fit.tensors)
        first, second, _ = maps.eigenvalues
        linear = np.divide(first - second, first, out=np.zeros_like(first), where=first > 0)
        rows = (maps.fa, maps.md, linear, fit.s0, *maps.vectors[:, 0])
        return np.stack(rows).astype(np.float32)

    parts = over_voxels(work, series, core, chosen.tolist(), scratch=scratch, n_threads=n_threads)
    found = np.concatenate([part for _, part in parts], axis=1)
    fa, md, linear, s0 = found[:4]
    where = np.flatnonzero(core)
    # neither noise nor signal dropout
    signal = s0 > 0.3 * np.median(s0)
    score = np.where(signal & (md < FIBRE_MD_MAX), fa * linear, 0)
    count = min(N_FIBRE_VOXELS, max(10, where.size // 50))
    best = np.argsort(-score, kind="stable")[:count]
    best = best[score[best] > 0]
    if not best.size:
        raise InputError(
            f"No voxel of {series.path.name} looks like white matter: cannot estimate fibre "
            "orientations; check the FA map."
        )
    isotropic = signal & (fa < TISSUE_FA_MAX)
    grey = np.flatnonzero(isotropic & (md > GREY_MD[0]) & (md < GREY_MD[1]))
    if grey.size:
        # those nearest to the median
        grey = grey[np.argsort(np.abs(md[grey] - np.median(md[grey])), kind="stable")]
    fluid = np.flatnonzero(isotropic & (md > FLUID_MD_MIN))
    fluid = fluid[np.argsort(-md[fluid], kind="stable")]
    return TissueVoxels(
        fibres=where[best],
        directions=found[4:, best].T.astype(np.float64),
        grey=where[grey[:N_TISSUE_VOXELS]],
        fluid=where[fluid[:N_TISSUE_VOXELS]],
        median_fa=float(np.median(fa[best])),
    )


def zonal_harmonics(cosines: Matrix, lmax: int) -> Matrix:
    """Evaluate the zonal harmonics of even order.

    Parameters
    ----------
    cosines : ndarray of float64, shape (N,)
        Cosines of the angle from the pole.
    lmax : int
        Highest order.

    Returns
    -------
    ndarray of float64, shape (N, 1 + lmax / 2)

    Examples
    --------
    >>> zonal_harmonics(np.array([1.0, 0.0]), 2).round(4).tolist()
    [[0.2821, 0.6308], [0.2821, -0.3154]]
    """
    from scipy.special import eval_legendre

    columns = [
        np.sqrt((2 * order + 1) / (4 * np.pi)) * eval_legendre(order, cosines)
        for order in range(0, lmax + 1, 2)
    ]
    return np.stack(columns, axis=-1)


def estimate_responses(
    series: Series,
    gradients: Gradients,
    shells: Sequence[Shell],
    voxels: TissueVoxels,
    lmax: int,
) -> Responses:
    """Estimate the response functions of pure tissues.

    Parameters
    ----------
    series : Series
        Preprocessed diffusion-weighted volumes.
    gradients : Gradients
        Gradients of its volumes.
    shells : sequence of Shell
        One row of the responses for each.
    voxels : TissueVoxels
        Voxels to use.
    lmax : int
        Highest order of the white matter response.

    Returns
    -------
    Responses
    """
    groups = (voxels.fibres, voxels.grey, voxels.fluid)
    constant = float(np.sqrt(4 * np.pi))
    white: list[Matrix] = []
    grey: list[list[float]] = []
    fluid: list[list[float]] = []
    for shell in shells:
        signals = [series.volume(index).reshape(-1) for index in shell.volumes]
        fibre, *others = (np.stack([s[group] for s in signals]).astype(float) for group in groups)
        if shell.is_b0:
            row = np.zeros(1 + lmax // 2)
            row[0] = fibre.mean() * constant
        else:
            cosines = gradients.bvecs[list(shell.volumes)] @ voxels.directions.T
            design = zonal_harmonics(np.abs(cosines).reshape(-1), lmax)
            row = np.linalg.lstsq(design, fibre.reshape(-1), rcond=None)[0]
        white.append(row)
        for tissue, values in zip((grey, fluid), others, strict=True):
            tissue.append([float(values.mean()) * constant if values.size else 0.0])
    series.close()
    return Responses(np.array(white), np.array(grey), np.array(fluid))


def choose_shells(gradients: Gradients) -> tuple[tuple[Shell, ...], bool]:
    """Choose the shells to deconvolve.

    Returns
    -------
    tuple of Shell
        All of them, or the one with the most directions (the highest of several).
    bool
        Whether grey matter and CSF can be separated.
    """
    shells = gradients.shells
    allowed = models_for(shells, gradients.n_directions)
    if not allowed.multi_tissue:
        return shells, True
    weighted = [shell for shell in shells if not shell.is_b0]
    return (max(weighted, key=lambda shell: (len(shell.volumes), shell.b)),), False


def fit_csd(
    series: Series,
    gradients: Gradients,
    mask: NDArray[np.bool_],
    out: Path,
    *,
    n_threads: int = 1,
) -> tuple[Path, dict[str, Any]]:
    """Estimate fibre orientation distributions.

    Parameters
    ----------
    series : Series
        Preprocessed diffusion-weighted volumes.
    gradients : Gradients
        Gradients of its volumes.
    mask : ndarray of bool, shape (I, J, K)
        Voxels to use.
    out : path
        Output folder.
    n_threads : int
        Does not change the result.

    Returns
    -------
    fod : Path
        Coefficients of the white matter FODs, 4-D.
    report : dict
        Shells, responses and method.

    Raises
    ------
    InputError
        If there are fewer than six directions, or no white matter.
    ToolError
        If MRtrix3 is missing or fails.
    """
    shells, several = choose_shells(gradients)
    with tempfile.TemporaryDirectory(dir=out, prefix=".csd.") as name:
        scratch = Path(name)
        voxels = find_tissue_voxels(series, gradients, mask, scratch=scratch, n_threads=n_threads)
        if several and min(voxels.grey.size, voxels.fluid.size) < MIN_TISSUE_VOXELS:
            weighted = [shell for shell in shells if not shell.is_b0]
            shells, several = (max(weighted, key=lambda s: (len(s.volumes), s.b)),), False
        n_directions = max(
            take_volumes(gradients, np.array(shell.volumes)).n_directions for shell in shells
        )
        lmax = order_for(n_directions)
        responses = estimate_responses(series, gradients, shells, voxels, lmax)
        made = _deconvolve(series, gradients, mask, shells, responses, scratch, several, n_threads)
        image: Any = nb.nifti1.load(made)
        coefficients = np.asfortranarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
        np.nan_to_num(coefficients, copy=False)
        fod = save_nifti(
            coefficients,
            series.affine,
            out / "fod.nii.gz",
            header=series.header,
        )
    report = {
        "Method": "multi-tissue CSD" if several else "CSD",
        "BValues": [shell.b for shell in shells],
        "NumberOfDirections": n_directions,
        "LMax": lmax,
        "Basis": "real spherical harmonics of MRtrix3, world axes",
        "ResponseVoxels": int(voxels.fibres.size),
        "ResponseMedianFA": round(voxels.median_fa, 3),
        "Caveats": csd_caveats(n_directions, max(shell.b for shell in shells)),
        "ResponseWhiteMatter": responses.white.round(3).tolist(),
    }
    if several:
        report["ResponseGreyMatter"] = responses.grey.round(3).tolist()
        report["ResponseCSF"] = responses.fluid.round(3).tolist()
    return fod, report


def _deconvolve(
    series: Series,
    gradients: Gradients,
    mask: NDArray[np.bool_],
    shells: Sequence[Shell],
    responses: Responses,
    scratch: Path,
    several: bool,
    n_threads: int,
) -> Path:
    """Run ``dwi2fod`` on some shells; return the white matter FODs."""
    bvals = np.zeros(len(gradients))
    for shell in shells:
        # one b-value per shell, so that the program finds the same shells
        bvals[list(shell.volumes)] = shell.b
    volumes = sorted(index for shell in shells for index in shell.volumes)
    part = scratch / "dwi.nii"
    header = make_header((*series.shape3, len(volumes)), series.affine, np.float32, series.header)
    header.set_slope_inter(1, 0)
    with part.open("wb") as stream:
        header.write_to(stream)
        for index in volumes:
            stream.write(series.volume(index).astype("<f4").tobytes(order="F"))
    series.close()
    table = np.column_stack([gradients.bvecs[volumes], bvals[volumes]])
    np.savetxt(scratch / "gradients.txt", table, fmt="%.10g")
    inside = save_nifti(mask, series.affine, scratch / "mask.nii", dtype=np.uint8)
    tissues = {"wm": responses.white}
    if several:
        tissues |= {"gm": responses.grey, "csf": responses.fluid}
    pairs: list[Path] = []
    for tissue, response in tissues.items():
        np.savetxt(scratch / f"{tissue}.txt", response, fmt="%.8f")
        pairs += [scratch / f"{tissue}.txt", scratch / f"{tissue}.nii"]
    lmax = 2 * (responses.white.shape[1] - 1)
    method, orders = ("msmt_csd", f"{lmax},0,0") if several else ("csd", str(lmax))
    run_mrtrix(
        [
            "dwi2fod",
            method,
            part,
            *pairs,
            "-grad",
            scratch / "gradients.txt",
            "-mask",
            inside,
            "-lmax",
            orders,
        ],
        folder=scratch,
        n_threads=n_threads,
        instead=INSTEAD,
    )
    if not several:
        return scratch / "wm.nii"
    levelled = [[scratch / f"{t}.nii", scratch / f"{t}-level.nii"] for t in tissues]
    run_mrtrix(
        ["mtnormalise", *(path for pair in levelled for path in pair), "-mask", inside],
        folder=scratch,
        n_threads=n_threads,
        instead=INSTEAD,
    )
    return scratch / "wm-level.nii"


class _FitCsdOutputSpec(TraitedSpec):
    fod = File(exists=True, desc="FODs, MRtrix's spherical harmonics, world axes, 4-D")
    report = File(exists=True, desc="JSON: method, order, responses")


class FitCsd(SimpleInterface):
    """Estimate fibre orientation distributions by CSD in a brain mask."""

    input_spec = DwiFitInputSpec
    output_spec = _FitCsdOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        out = Path(runtime.cwd)
        series, gradients, mask = open_dwi(inputs.in_file, inputs.bval, inputs.bvec, inputs.mask)
        if not determine_tensor(gradients.bvecs):
            raise InputError(
                f"The {gradients.n_directions} gradient directions of {series.path.name} are "
                "too few, or too close to one plane, to estimate fibre orientations."
            )
        fod, report = fit_csd(series, gradients, mask, out, n_threads=inputs.n_procs)
        write_json(out / "report.json", report)
        self._results["fod"] = str(fod)
        self._results["report"] = str(out / "report.json")
        return runtime
