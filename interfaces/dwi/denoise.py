"""Removal of noise, Gibbs ringing and the noise floor from DWI runs, in this order.

Denoising comes first, because it identifies noise by its independence between voxels, which any
interpolation destroys: principal components of small patches that are consistent with pure noise
are removed (:mod:`neuroferry.interfaces.dwi.pca`). Gibbs ringing is removed slice by slice with
subvoxel shifts [1]_ (MRtrix's ``mrdegibbs``); the method assumes full k-space coverage, and is an
approximation with partial Fourier. Noise magnitudes never fall below a floor, which biases low
signals and hence diffusion: the relation between the mean magnitude and the noise level is
inverted (:mod:`neuroferry.interfaces.dwi.rician`).

The orientation in the header is not used, and results are stored as 16-bit integers with one
slope (an error of at most 1.6e-5 of the largest value). The number of threads does not change the
result.

Memory: 5 bytes for each voxel and volume, and 30 MB for each thread, for noise; 9 bytes and 60 MB
for ringing; 60 bytes for each voxel of one volume for the noise floor. Disk: 8 bytes for each
voxel and volume while ``mrdegibbs`` runs.

References
----------
.. [1] Kellner E et al. (2016). Gibbs-ringing artifact removal based on local subvoxel-shifts.
   Magn Reson Med 76(5):1574-1581. doi:10.1002/mrm.26054
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neuroferry.bids.headers import check_same_grid
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.dwi.mrtrix import run_mrtrix
from neuroferry.interfaces.dwi.pca import remove_noise
from neuroferry.interfaces.dwi.rician import without_noise_floor
from neuroferry.interfaces.image.images import FloatArray, load_map, save_nifti
from neuroferry.interfaces.image.series import Series, SeriesWriter, open_series

#: Fewer volumes tell no noise from signal.
MIN_VOLUMES = 7


def write_plain(series: Series, path: Path) -> Path:
    """Write a series as uncompressed float32 with plain axes, without orientation.

    Parameters
    ----------
    series : Series
        Series to write, one volume at a time.
    path : path
        ``.nii`` file.

    Returns
    -------
    Path
    """
    header = nb.Nifti1Header()
    header.set_data_shape(series.shape)
    header.set_data_dtype(np.float32)
    header.set_sform(np.diag([*series.zooms, 1.0]), code=1)
    header.set_qform(np.diag([*series.zooms, 1.0]), code=1)
    header.set_slope_inter(1, 0)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    with path.open("wb") as stream:
        header.write_to(stream)
        stream.write(b"\0" * (352 - stream.tell()))
        for volume in series.volumes():
            stream.write(volume.astype("<f4").tobytes(order="F"))
    return path


def store_like(result: Path, series: Series, path: Path, tr: float) -> Path:
    """Store the output of a program for a plain series on the original grid.

    Parameters
    ----------
    result : path
        Output series of the same shape, without orientation.
    series : Series
        Original series.
    path : path
        ``.nii.gz`` file; appears whole or not at all.
    tr : float
        Repetition time, s; 0 if unknown.

    Returns
    -------
    Path

    Raises
    ------
    GeometryError
        If the program changed the shape.
    InputError
        If the output is all zeros, or is not finite.
    """
    made = open_series(result)
    if made.shape != series.shape:
        raise GeometryError(
            f"the processed {series.path.name} has shape {made.shape} instead of {series.shape}."
        )
    ceiling = largest(made.volumes())
    return store_volumes(made.volumes(), series, path, ceiling, tr)


def largest(volumes: Iterable[FloatArray]) -> float:
    """Find the largest magnitude among volumes."""
    return max(float(np.abs(volume).max()) for volume in volumes)


def store_volumes(
    volumes: Iterable[FloatArray], series: Series, path: Path, ceiling: float, tr: float
) -> Path:
    """Write volumes on the grid of a series, as 16-bit integers with one slope.

    Parameters
    ----------
    volumes : iterable of ndarray of float32, shape (I, J, K)
        As many volumes as the series has.
    series : Series
        Series that defines the grid.
    path : path
        ``.nii.gz`` file; appears whole or not at all.
    ceiling : float
        Largest magnitude among them.
    tr : float
        Repetition time, s; 0 if unknown.

    Returns
    -------
    Path
    """
    with SeriesWriter(
        path,
        series.shape3,
        series.affine,
        tr,
        series.n_volumes,
        ceiling=ceiling,
        header=series.header,
    ) as writer:
        for volume in volumes:
            writer.add(volume)
    return path


def denoise(series: Series, out: Path, tr: float, *, n_threads: int = 1) -> tuple[Path, Path]:
    """Denoise a DWI run.

    Parameters
    ----------
    series : Series
        As acquired, never interpolated.
    out : path
        Output folder.
    tr : float
        Repetition time, s; 0 if unknown.
    n_threads : int
        Does not change the result.

    Returns
    -------
    Path, Path
        The denoised run, and the noise standard deviation on the grid of a volume.

    Raises
    ------
    InputError
        If the file is damaged, holds NaN or infinite values, or only zeros.
    """
    data = np.empty(series.shape, dtype=np.float32)
    for index, volume in enumerate(series.volumes()):
        data[..., index] = volume
    sigma = remove_noise(data, n_threads=n_threads)
    ceiling = float(max(data.max(), -data.min()))
    volumes = (data[..., index] for index in range(series.n_volumes))
    denoised = store_volumes(volumes, series, out / "denoised.nii.gz", ceiling, tr)
    noise_map = save_nifti(sigma, series.affine, out / "noise.nii.gz", header=series.header)
    return denoised, noise_map


def unring(
    series: Series, axes: Iterable[int], out: Path, tr: float, *, n_threads: int = 1
) -> Path:
    """Remove Gibbs ringing from a DWI run.

    Parameters
    ----------
    series : Series
        Never interpolated.
    axes : iterable of int
        The two in-plane stored axes.
    out : path
        Output folder.
    tr : float
        Repetition time, s; 0 if unknown.
    n_threads : int
        Does not change the result.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If `axes` are not two of the three.
    ToolError
        If ``mrdegibbs`` is missing or fails.
    """
    pair = tuple(sorted(set(axes)))
    if len(pair) != 2 or not set(pair) <= {0, 1, 2}:
        raise InputError(f"A slice has two of the axes 0, 1 and 2, not {pair}.")
    with tempfile.TemporaryDirectory(dir=out, prefix=".unring.") as scratch:
        plain, made = Path(scratch) / "in.nii", Path(scratch) / "out.nii"
        write_plain(series, plain)
        run_mrtrix(
            ["mrdegibbs", plain, made, "-axes", f"{pair[0]},{pair[1]}"],
            folder=scratch,
            n_threads=n_threads,
            instead=", or skip this step with --ignore unringing",
        )
        return store_like(made, series, out / "unringed.nii.gz", tr)


class _DenoiseDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run as acquired")
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads")


class _DenoiseDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="denoised run; the run itself if it is too short")
    noise_map = File(exists=True, desc="noise standard deviation; 0 where not estimated")
    note = traits.Str(desc="why the run was not denoised; empty if it was")


class DenoiseDwi(SimpleInterface):
    """Denoise a DWI run; runs of fewer than 7 volumes stay unchanged."""

    input_spec = _DenoiseDwiInputSpec
    output_spec = _DenoiseDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        out = Path(runtime.cwd)
        series = open_series(self.inputs.in_file)
        note = ""
        if series.n_volumes < MIN_VOLUMES:
            note = (
                f"The run has {series.n_volumes} volumes and was not denoised: separating "
                f"noise from signal needs at least {MIN_VOLUMES}."
            )
            denoised = Path(self.inputs.in_file)
            none = np.zeros(series.shape3, dtype=np.float32)
            noise = save_nifti(none, series.affine, out / "noise.nii.gz", header=series.header)
        else:
            denoised, noise = denoise(series, out, self.inputs.tr, n_threads=self.inputs.n_procs)
        self._results["out_file"], self._results["noise_map"] = str(denoised), str(noise)
        self._results["note"] = note
        return runtime


class _UnringDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="run, never interpolated")
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    axes = traits.List(
        traits.Range(low=0, high=2), [0, 1], usedefault=True, desc="in-plane stored axes"
    )
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads")


class _UnringDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="run without ringing")


class UnringDwi(SimpleInterface):
    """Remove Gibbs ringing from every slice of a DWI run."""

    input_spec = _UnringDwiInputSpec
    output_spec = _UnringDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        series = open_series(inputs.in_file)
        out = Path(runtime.cwd)
        path = unring(series, inputs.axes, out, inputs.tr, n_threads=inputs.n_procs)
        self._results["out_file"] = str(path)
        return runtime


class _CorrectRicianInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="denoised run")
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    noise_map = File(exists=True, mandatory=True, desc="standard deviation of the noise")


class _CorrectRicianOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="run without the noise floor")


class CorrectRician(SimpleInterface):
    """Remove the Rician noise floor from a denoised run."""

    input_spec = _CorrectRicianInputSpec
    output_spec = _CorrectRicianOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        series = open_series(self.inputs.in_file)
        noise = load_map(self.inputs.noise_map)
        check_same_grid((series.path.name, series), (Path(self.inputs.noise_map).name, noise))
        sigma = noise.data
        if not (sigma > 0).any():
            self._results["out_file"] = self.inputs.in_file
            return runtime
        # The correction never increases a value.
        ceiling = largest(series.volumes())
        corrected = (without_noise_floor(volume, sigma) for volume in series.volumes())
        path = Path(runtime.cwd) / "unbiased.nii.gz"
        store_volumes(corrected, series, path, ceiling, self.inputs.tr)
        self._results["out_file"] = str(path)
        return runtime
