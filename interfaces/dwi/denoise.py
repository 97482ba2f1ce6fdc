"""Noise, ringing and the noise floor of diffusion-weighted runs, in this order.

Noise goes first, as it is told from signal by its being independent from voxel to voxel,
which every interpolation spoils: principal components of small patches that are what noise
alone makes are left out (:mod:`neuroferry.interfaces.dwi.pca`). Ringing is taken out slice by
slice by shifts of less than a voxel [1]_ (MRtrix's ``mrdegibbs``); the method expects the whole
of k-space, and with partial Fourier it is an approximation. Magnitudes of noise never fall below
a floor, which makes low signals, and so diffusion, look wrong: the mean that a magnitude of a
given noise level has is inverted (:mod:`neuroferry.interfaces.dwi.rician`).

What the header says of the axes plays no part, and results are stored as 16-bit numbers with one
slope (an error of 1.6e-5 of the largest value at most). The number of threads changes nothing.

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
    """Write a series as uncompressed float32 with axes of no orientation.

    Parameters
    ----------
    series : Series
        What to write, one volume at a time.
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


def store_like(result: Path, series: Series, path: Path) -> Path:
    """Store what a program made of a plain series on the grid that it came from.

    Parameters
    ----------
    result : path
        Series of the same shape, without orientation.
    series : Series
        Where it came from.
    path : path
        ``.nii.gz`` file; appears whole or not at all.

    Returns
    -------
    Path

    Raises
    ------
    GeometryError
        If the program changed the shape.
    InputError
        If it gave nothing but zeros, or other than numbers.
    """
    made = open_series(result)
    if made.shape != series.shape:
        raise GeometryError(
            f"a program made {made.shape} voxels of {series.path.name}, which has {series.shape}."
        )
    ceiling = largest(made.volumes())
    return store_volumes(made.volumes(), series, path, ceiling)


def largest(volumes: Iterable[FloatArray]) -> float:
    """Find the largest magnitude among volumes."""
    return max(float(np.abs(volume).max()) for volume in volumes)


def store_volumes(
    volumes: Iterable[FloatArray], series: Series, path: Path, ceiling: float
) -> Path:
    """Write volumes on the grid of a series, as 16-bit numbers with one slope.

    Parameters
    ----------
    volumes : iterable of ndarray of float32, shape (I, J, K)
        As many as the series has.
    series : Series
        Whose grid they lie on.
    path : path
        ``.nii.gz`` file; appears whole or not at all.
    ceiling : float
        Largest magnitude among them.

    Returns
    -------
    Path
    """
    with SeriesWriter(
        path,
        series.shape3,
        series.affine,
        series.tr,
        series.n_volumes,
        ceiling=ceiling,
        header=series.header,
    ) as writer:
        for volume in volumes:
            writer.add(volume)
    return path


def denoise(series: Series, out: Path, *, n_threads: int = 1) -> tuple[Path, Path]:
    """Take the noise out of a run.

    Parameters
    ----------
    series : Series
        As measured, never interpolated.
    out : path
        Folder of the results.
    n_threads : int
        Changes no value.

    Returns
    -------
    Path, Path
        The run, and the noise's standard deviation on the grid of a volume.

    Raises
    ------
    InputError
        If the file is damaged, holds NaN or infinite values, or nothing but zeros.
    """
    data = np.empty(series.shape, dtype=np.float32)
    for index, volume in enumerate(series.volumes()):
        data[..., index] = volume
    sigma = remove_noise(data, n_threads=n_threads)
    ceiling = float(max(data.max(), -data.min()))
    volumes = (data[..., index] for index in range(series.n_volumes))
    denoised = store_volumes(volumes, series, out / "denoised.nii.gz", ceiling)
    noise_map = save_nifti(sigma, series.affine, out / "noise.nii.gz", header=series.header)
    return denoised, noise_map


def unring(series: Series, axes: Iterable[int], out: Path, *, n_threads: int = 1) -> Path:
    """Take the ringing at edges out of a run.

    Parameters
    ----------
    series : Series
        Never interpolated.
    axes : iterable of int
        The two stored axes within a slice.
    out : path
        Folder of the result.
    n_threads : int
        Changes no value.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If `axes` are not two of three.
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
            instead=", or leave ringing where it is: --ignore unringing",
        )
        return store_like(made, series, out / "unringed.nii.gz")


class _DenoiseDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="diffusion-weighted run as measured")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads")


class _DenoiseDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="run without noise; the run itself where it is too short")
    noise_map = File(exists=True, desc="standard deviation of the noise; 0 where not estimated")
    note = traits.Str(desc="why nothing was done; empty where it was")


class DenoiseDwi(SimpleInterface):
    """Take noise out of a diffusion-weighted run; one of fewer than 7 volumes stays as it is."""

    input_spec = _DenoiseDwiInputSpec
    output_spec = _DenoiseDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        out = Path(runtime.cwd)
        series = open_series(self.inputs.in_file)
        note = ""
        if series.n_volumes < MIN_VOLUMES:
            note = (
                f"The run has {series.n_volumes} volumes, and noise cannot be told from signal"
                f" with fewer than {MIN_VOLUMES}; it was not denoised."
            )
            denoised = Path(self.inputs.in_file)
            none = np.zeros(series.shape3, dtype=np.float32)
            noise = save_nifti(none, series.affine, out / "noise.nii.gz", header=series.header)
        else:
            denoised, noise = denoise(series, out, n_threads=self.inputs.n_procs)
        self._results["out_file"], self._results["noise_map"] = str(denoised), str(noise)
        self._results["note"] = note
        return runtime


class _UnringDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="run that was never interpolated")
    axes = traits.List(
        traits.Range(low=0, high=2), [0, 1], usedefault=True, desc="stored axes within a slice"
    )
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads")


class _UnringDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="run without ringing")


class UnringDwi(SimpleInterface):
    """Take the ringing at edges out of every slice of a diffusion-weighted run."""

    input_spec = _UnringDwiInputSpec
    output_spec = _UnringDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        series = open_series(inputs.in_file)
        path = unring(series, inputs.axes, Path(runtime.cwd), n_threads=inputs.n_procs)
        self._results["out_file"] = str(path)
        return runtime


class _CorrectRicianInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="denoised run")
    noise_map = File(exists=True, mandatory=True, desc="standard deviation of the noise")


class _CorrectRicianOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="run without the noise floor")


class CorrectRician(SimpleInterface):
    """Take the noise floor out of the magnitudes of a denoised run."""

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
        # The correction makes nothing larger.
        ceiling = largest(series.volumes())
        corrected = (without_noise_floor(volume, sigma) for volume in series.volumes())
        path = store_volumes(corrected, series, Path(runtime.cwd) / "unbiased.nii.gz", ceiling)
        self._results["out_file"] = str(path)
        return runtime
