"""Quality metrics of a DWI run that do not depend on head motion, from its raw signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.gradients import (
    Shell,
    determine_tensor,
    read_bvals,
    read_bvecs,
    settle_gradients,
    why_no_shells,
)
from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.gradients import Gradients, fsl_to_world
from neuroferry.interfaces.dwi.pca import noise_map
from neuroferry.interfaces.dwi.tensor import fit_tensor, take_volumes, tensor_volumes
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.epi.brain_mask import find_mask
from neuroferry.interfaces.epi.motion import head_mask
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume
from neuroferry.interfaces.image.series import Series
from neuroferry.interfaces.qc import dwi as metrics
from neuroferry.interfaces.qc.dwi_regions import corpus_callosum, white_matter
from neuroferry.interfaces.qc.dwi_spikes import MIN_VOLUMES, Spikes, find_spikes

NAN = float("nan")
MIN_PCA_VOLUMES = 6
"""Fewest volumes for noise from principal components."""
MIN_PIESNO_VOXELS = 1000
"""Fewest values that hold nothing but noise."""
MOST_EMPTY = 0.1
"""Share of voxels without any signal from which the background counts as set to zero."""
CHANNELS = 1
"""Coil signals of which a magnitude is the root of a sum of squares."""
MARGIN = 2
"""Voxels around the brain of which noise is told."""
CHUNK = 20_000

NO_BRAIN = "No brain was found in the image."
NO_B0 = "The run has no volume without diffusion weighting."
NO_TENSOR = "The gradient directions do not determine a diffusion tensor."
NO_CALLOSUM = (
    "No corpus callosum was found: too few voxels of high anisotropy, from left to right."
)
NO_AIR = (
    "The background contains no noise to measure: it was set to zero, or holds ghosts or tissue."
)
TOO_FEW = "The run has fewer than {} volumes."
SMALL_SHELLS = "No b-value has {} volumes or more."
NO_NEIGHBOURS = "The run has fewer than two diffusion-weighted volumes."
CONSTANT = "The image is constant in the region of this metric."


@dataclass(frozen=True)
class RawRun:
    """Volumes of a DWI run as acquired, and their gradients.

    Attributes
    ----------
    data : ndarray of float32, shape (T, I, J, K)
        The volumes that can be used.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    gradients : Gradients
        One for each volume.
    """

    data: FloatArray
    affine: Affine
    gradients: Gradients


@dataclass(frozen=True)
class Measured:
    """What was measured without head motion.

    Attributes
    ----------
    values : dict of str to float
        Metrics; ``nan`` where undefined.
    undefined : dict of str to str
        Reason for each of those.
    doubts : list of str
        What is doubtful, in sentences.
    spikes : Spikes
        Of each volume and slice.
    images : dict of str to ndarray
        ``reference``, ``mask``, ``white``, ``callosum``, ``noise``, ``fa``, ``color_fa`` (uint8,
        4-D) and ``shells`` (4-D, mean of each shell); empty where undefined.
    shells : tuple of Shell
        Of the last of these.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    doubts: list[str]
    spikes: Spikes
    images: dict[str, NDArray[Any]]
    shells: tuple[Shell, ...]


def read_run(
    series: Series,
    bval: str | Path,
    bvec: str | Path,
    unusable: Sequence[int] = (),
    b0_threshold: float = 50.0,
) -> RawRun:
    """Read the volumes of a run that can be used.

    Parameters
    ----------
    series : Series
        The run.
    bval, bvec : path
        Its gradients, in FSL's format.
    unusable : sequence of int
        Volumes without a usable image, from 0.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    RawRun

    Raises
    ------
    InputError
        If a file cannot be read, or numbers of volumes and gradients differ.
    """
    values = read_bvals(bval)
    if len(values) != series.n_volumes:
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes, but {Path(bval).name} has "
            f"{len(values)} b-values; convert the images again."
        )
    gradients = read_used_gradients(bval, bvec, series.affine, unusable, b0_threshold)
    kept = [t for t in range(series.n_volumes) if t not in set(unusable)]
    data = np.empty((len(kept), *series.shape3), np.float32)
    place = {volume: number for number, volume in enumerate(kept)}
    for index, volume in enumerate(series.volumes()):
        if index in place:
            data[place[index]] = volume
    return RawRun(data, series.affine, gradients)


def read_used_gradients(
    bval: str | Path,
    bvec: str | Path,
    affine: Affine,
    unusable: Sequence[int] = (),
    b0_threshold: float = 50.0,
) -> Gradients:
    """Read the gradients of the volumes of a run that can be used; see :func:`read_run`."""
    values, (vectors, _) = read_bvals(bval), read_bvecs(bvec)
    if len(values) != len(vectors):
        raise InputError(
            f"{Path(bval).name} has {len(values)} b-values and {Path(bvec).name} {len(vectors)} "
            "directions; convert the images again."
        )
    kept = [t for t in range(len(values)) if t not in set(unusable)]
    settled, unit, _ = settle_gradients(values[kept], vectors[kept], b0_threshold)
    return Gradients(settled, fsl_to_world(unit, affine), b0_threshold)


def measure_signals(run: RawRun, slice_axis: int = 2, *, seed: int = 1) -> Measured:
    """Compute all metrics of a run that do not depend on head motion.

    Parameters
    ----------
    run : RawRun
        The run as acquired.
    slice_axis : int
        Axis along which slices are stacked.
    seed : int
        Seed of the registration that finds the brain.

    Returns
    -------
    Measured
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return _Measurement(run, slice_axis, seed).run()


class _Measurement:
    """Metrics of one run, collected one after another."""

    def __init__(self, run: RawRun, slice_axis: int, seed: int) -> None:
        self.data, self.gradients, self.affine = run.data, run.gradients, run.affine
        self.slice_axis = slice_axis
        self.values: dict[str, float] = {}
        self.undefined: dict[str, str] = {}
        self.doubts: list[str] = []
        self.no_shells = why_no_shells(self.gradients.bvals, self.gradients.b0_threshold)
        self.shells = metrics.number_shells(self.gradients.shells)
        lowest = list(self.gradients.shells[0].volumes)
        reference = self.data[lowest].mean(axis=0)
        self.images: dict[str, NDArray[Any]] = {"reference": reference}
        self.brain = np.zeros(reference.shape, dtype=bool)
        shown = self.brain
        try:
            shown = self.brain = find_mask(Volume(reference, self.affine), seed=seed)
        except InputError as error:
            self.doubts.append(f"{NO_BRAIN} {error}")
            shown = head_mask(Volume(reference, self.affine))
        self.images["mask"] = shown
        self.images |= {
            "fa": np.zeros(reference.shape, np.float32),
            "noise": np.zeros_like(reference),
        }
        self.images["color_fa"] = np.zeros((*reference.shape, 3), np.uint8)
        self.fitted = False
        self.signals = self.data[:, self.brain]

    def run(self) -> Measured:
        """Measure."""
        self._tensor()
        self._noise()
        self._callosum()
        self._whole_shells()
        b0 = self.images["reference"] if 0 in self.shells else None
        if b0 is None:
            b0 = np.zeros(self.brain.shape, np.float32)
            nowhere = np.zeros_like(self.brain)
            summaries = metrics.region_summaries(b0, nowhere, nowhere)
            self._add(summaries, NO_B0)
        else:
            white = self.images["white"]
            reason = NO_BRAIN if not self.brain.any() else self._why_no_white()
            self._add(metrics.region_summaries(b0, self.brain, white), reason)
        spikes = find_spikes(self.signals, self.brain, self._true_shells(), self.slice_axis)
        few = SMALL_SHELLS.format(MIN_VOLUMES)
        self._add(spikes.values, NO_BRAIN if not self.brain.any() else few)
        neighbours = metrics.nearest_neighbours(self.gradients.bvals, self.gradients.bvecs)
        ndc = metrics.neighbouring_correlation(self.signals, neighbours)
        self._add({"ndc": ndc}, NO_NEIGHBOURS if self.brain.any() else NO_BRAIN)
        self._add(metrics.grid_metrics(self.data.shape[1:], self.affine, len(self.data)), CONSTANT)
        return Measured(
            self.values,
            self.undefined,
            self.doubts,
            spikes,
            self.images,
            self.gradients.shells,
        )

    def _add(self, values: dict[str, float], reason: str) -> None:
        """Add metrics, and the reason for those that are no numbers."""
        self.values |= values
        for name, value in values.items():
            if not math.isfinite(value):
                self.undefined[name] = reason

    def _true_shells(self) -> list[Shell]:
        """List the shells whose volumes share one contrast."""
        return [s for n, s in self.shells.items() if n == 0 or not self.no_shells]

    def _why_no_tensor(self) -> str:
        if not self.brain.any():
            return NO_BRAIN
        return "" if determine_tensor(self.gradients.bvecs) else NO_TENSOR

    def _why_no_white(self) -> str:
        return self._why_no_tensor() or CONSTANT

    def _tensor(self) -> None:
        """Fit tensors; find white matter and corpus callosum."""
        shape = self.brain.shape
        nothing = np.zeros(shape, dtype=bool)
        self.images |= {"white": nothing, "callosum": nothing}
        faults, reason = (NAN, NAN), self._why_no_tensor()
        if not reason:
            try:
                volumes = tensor_volumes(self.gradients)
            except InputError:
                reason = NO_TENSOR
        if not reason:
            used = take_volumes(self.gradients, volumes)
            n = int(np.count_nonzero(self.brain))
            fa, color = np.zeros(n, np.float32), np.zeros((n, 3), np.float32)
            tensors, fitted = np.empty((6, n)), np.empty(n, dtype=bool)
            for start in range(0, n, CHUNK):
                part = slice(start, start + CHUNK)
                fit = fit_tensor(self.signals[volumes, part], used)
                maps = tensor_maps(fit.tensors)
                tensors[:, part], fitted[part] = fit.tensors, fit.fitted
                fa[part], color[part] = maps.fa, maps.color_fa.T
            faults = metrics.tensor_faults(tensors, fitted)
            whole = np.zeros((*shape, 3), np.float32)
            whole[self.brain] = color
            image = np.zeros(shape, np.float32)
            image[self.brain] = fa
            white = white_matter(image)
            self.fitted = True
            self.images |= {"fa": image, "color_fa": np.rint(255 * whole).astype(np.uint8)}
            self.images |= {"white": white, "callosum": corpus_callosum(whole, white)}
        self._add(dict(zip(("fa_nans", "fa_degenerate"), faults, strict=True)), reason)

    def _noise(self) -> None:
        """Estimate the noise from principal components, and in the air."""
        sigma, reason = NAN, NO_BRAIN
        if self.brain.any() and len(self.data) < MIN_PCA_VOLUMES:
            reason = TOO_FEW.format(MIN_PCA_VOLUMES)
        elif self.brain.any():
            box = tuple(
                slice(max(int(places.min()) - MARGIN, 0), int(places.max()) + MARGIN + 1)
                for places in np.nonzero(self.brain)
            )
            part = np.ascontiguousarray(np.moveaxis(self.data[:, *box], 0, -1))
            i, j, k, n_volumes = part.shape
            level = np.zeros(self.brain.shape, np.float32)
            level[box] = noise_map(part.reshape(i, -1, n_volumes), (i, j, k))
            known = level[self.brain & (level > 0)]
            sigma, reason = (float(np.median(known)) if known.size else NAN), CONSTANT
            self.images["noise"] = np.where(self.brain, level, 0)
        self._add({"sigma_pca": sigma}, reason)
        self._add({"sigma_piesno": air_noise(self.data)}, NO_AIR)

    def _callosum(self) -> None:
        """Measure the signal in the corpus callosum."""
        callosum = self.images["callosum"]
        weighted = {} if self.no_shells else {n: s for n, s in self.shells.items() if n}
        shells = {
            number: (
                self.data[list(shell.volumes)][:, callosum],
                self.gradients.bvecs[list(shell.volumes)],
            )
            for number, shell in weighted.items()
        }
        has_b0 = 0 in self.shells
        region = callosum if has_b0 else np.zeros_like(callosum)
        found = metrics.callosum_snr(self.images["reference"], shells, region)
        reason = self._why_no_tensor() or (NO_CALLOSUM if has_b0 else NO_B0)
        if has_b0 and not self.fitted:
            reason = NO_TENSOR if self.brain.any() else NO_BRAIN
        self._add({"sigma_cc": found.sigma, **found.ratios}, reason)
        if self.no_shells:
            self._add(
                {"snr_cc_shell1_best": NAN, "snr_cc_shell1_worst": NAN}, self._why_no_shells()
            )

    def _why_no_shells(self) -> str:
        return f"{self.no_shells[:1].upper()}{self.no_shells[1:]}."

    def _whole_shells(self) -> None:
        """Measure each shell as a whole, and average it."""
        means = []
        numbers = dict.fromkeys([0, *self.shells]) if not self.no_shells else {0: None}
        for number in numbers:
            shell = self.shells.get(number)
            spread, reason = (NAN, NAN), NO_B0
            if shell is not None:
                volumes = self.data[list(shell.volumes)]
                spread = metrics.shell_spread(volumes, self.brain)
                reason = NO_AIR if self.brain.any() else NO_BRAIN
                means.append(volumes.mean(axis=0))
            key = metrics.shell_key(number)
            self._add({f"efc_{key}": spread[0], f"fber_{key}": spread[1]}, reason)
        if self.no_shells:
            key = metrics.shell_key(1)
            self._add({f"efc_{key}": NAN, f"fber_{key}": NAN}, self._why_no_shells())
            means.append(self.data[~self.gradients.b0s].mean(axis=0))
        self.images["shells"] = np.stack(means, axis=-1)


def air_noise(data: FloatArray, channels: int = CHANNELS) -> float:
    """Estimate the noise in each channel from voxels without signal: ``sigma_piesno``.

    Parameters
    ----------
    data : ndarray of float32, shape (T, I, J, K)
        Magnitudes of all volumes.
    channels : int
        Coil signals of which a magnitude is the root of the sum of squares: 1 for images whose
        coils were combined with their phases, as by SENSE or adaptive combination.

    Returns
    -------
    float
        Median of the estimates of all slices; ``nan`` where fewer than 1000 voxels hold nothing
        but noise, or more than a tenth of the image was set to zero: what is left there is no
        sample of the noise.

    References
    ----------
    Koay et al. 2009, J Magn Reson 199(1):94-103, doi:10.1016/j.jmr.2009.03.005. Computed by
    DIPY.
    """
    from dipy.denoise.noise_estimate import piesno

    if float((data.max(axis=0) <= 0).mean()) > MOST_EMPTY:
        return NAN
    sigma, mask = piesno(np.moveaxis(data, 0, -1), N=channels, return_mask=True)
    counts = np.asarray(mask).reshape(-1, data.shape[3]).sum(axis=0)
    levels = np.asarray(sigma)[(counts > 0) & np.isfinite(sigma) & (np.asarray(sigma) > 0)]
    if counts.sum() < MIN_PIESNO_VOXELS or not levels.size:
        return NAN
    return float(np.median(levels))
