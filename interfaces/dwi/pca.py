"""Local PCA denoising of a DWI run, with a Marchenko-Pastur threshold.

In a small patch of voxels the signals of all volumes vary about their mean in only a few ways;
noise that is independent between voxels adds components whose eigenvalues follow the
Marchenko-Pastur law. The largest set that fits the law is taken as noise [1]_, accounting for the
degrees of freedom that the others use [2]_. There are two passes:

#. **Level.** Patches of a coarse lattice yield a smooth noise map. The spread of magnitudes is
   converted to the noise in each channel; air is used only where there is nothing else.
#. **Filter.** Each patch of 27 voxels on a fine lattice keeps its mean and the components above
   the Marchenko-Pastur edge. A voxel lies in several patches; their estimates are averaged, with
   greater weight for patches with fewer components [3]_. Patches in which no volume has more
   energy than noise have no components, and are not decomposed.

Keeping the mean separate, a patch needs no component for what its voxels share, and with
averaging small patches suffice, which blur less: both improve the accuracy of anisotropy.
Singular values are truncated, not shrunk [4]_: shrinkage would lower the mean squared error
further, but pulls signals to the mean of their patch, and the residual then shows anatomy.

References
----------
.. [1] Veraart J et al. (2016). Denoising of diffusion MRI using random matrix theory.
   NeuroImage 142:394-406. doi:10.1016/j.neuroimage.2016.08.016
.. [2] Cordero-Grande L et al. (2019). Complex diffusion-weighted image estimation via matrix
   recovery under general noise models. NeuroImage 200:391-404.
   doi:10.1016/j.neuroimage.2019.06.039
.. [3] Manjon JV et al. (2013). Diffusion weighted image denoising using overcomplete local PCA.
   PLoS ONE 8(9):e73021. doi:10.1371/journal.pone.0073021
.. [4] Gavish M, Donoho DL (2017). Optimal shrinkage of singular values. IEEE Trans Inf Theory
   63(4):2137-2152. doi:10.1109/TIT.2017.2653801
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuroferry.interfaces.dwi.rician import channel_sigma
from neuroferry.interfaces.image.images import FloatArray
from neuroferry.interfaces.image.series import ordered_map

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
#: Width of patches, and from one to the next, in voxels; a second lattice lies between.
_WIDTH, _STEP = 3, 2
#: Width and distance of the patches of which the noise level is told.
_LEVEL_WIDTH, _LEVEL_STEP = 5, 3
#: Spread of the smoothing of the level, in steps: noise can change quickly near the skull.
_LEVEL_SMOOTHING = 0.5
#: Below this share of the noise's variance a patch holds little but noise, and counts little.
_SIGNAL_SHARE, _AIR_WEIGHT = 0.75, 1e-3
#: Values of the patches that are worked on at once; fixed, as sums must not depend on threads.
_CHUNK_VALUES = 500_000


def noise_variance(values: NDArray[np.floating], rows: Indices, columns: int) -> Floats:
    """Estimate the noise variance from the eigenvalues of patches.

    Parameters
    ----------
    values : ndarray of float64, shape (P, R)
        Eigenvalues of ``X'X`` or ``XX'``, largest first; X has voxels as rows and volumes as
        columns.
    rows : ndarray of int, shape (P,)
        Independent rows of each patch: one less than its voxels if their mean was removed.
    columns : int
        Volumes.

    Returns
    -------
    ndarray of float64, shape (P,)
        0 for an empty patch.

    Notes
    -----
    With p signal components removed, noise has ``(rows - p) (columns - p)`` degrees of freedom,
    and the law predicts that its eigenvalues spread over ``4 sqrt(that)`` variances. Signal is
    the smallest number of components for which the rest spreads over no more than that.

    Examples
    --------
    >>> noise = np.random.default_rng(1).normal(scale=3, size=(1, 125, 17))
    >>> values = np.linalg.eigvalsh(noise.transpose(0, 2, 1) @ noise)[:, ::-1]
    >>> noise_variance(values, np.array([125]), 17).round(1).tolist()
    [9.1]
    """
    parts = np.arange(values.shape[1])
    there = parts < np.minimum(rows, columns)[:, None]
    kept = np.where(there, values, 0)
    freedom = np.maximum(rows[:, None] - parts, 1) * np.maximum(columns - parts, 1)
    variance = np.cumsum(kept[:, ::-1], axis=1)[:, ::-1] / freedom
    least = np.where(there, values, np.inf).min(axis=1, initial=np.inf)
    spread = (kept - np.where(np.isfinite(least), least, 0)[:, None]) / (4 * np.sqrt(freedom))
    fits = there & (spread <= variance)
    first = fits.argmax(axis=1)[:, None]
    found: Floats = np.take_along_axis(variance, first, axis=1)[:, 0] * fits.any(axis=1)
    return found


@dataclass(frozen=True)
class Patches:
    """Positions of patches on a grid.

    Attributes
    ----------
    shape : tuple of int
        Voxels (I, J, K) of the grid.
    width : tuple of int
        Voxels of a patch along each axis.
    layers : tuple of (int, ndarray of int64)
        First plane of each layer of patches, ascending, and the in-plane index of the first voxel
        of each patch.
    """

    shape: tuple[int, int, int]
    width: tuple[int, int, int]
    layers: tuple[tuple[int, Indices], ...]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Plane and in-plane index of each voxel of a patch, relative to its first."""
        steps = product(*map(range, self.width))
        return [(i, j * self.shape[2] + k) for i, j, k in steps]

    @property
    def middle(self) -> tuple[int, int]:
        """Plane and in-plane index of the central voxel of a patch, or the one just after it."""
        i, j, k = (width // 2 for width in self.width)
        return i, j * self.shape[2] + k

    def jobs(self, n_volumes: int) -> Iterator[tuple[int, Indices]]:
        """Yield layers in pieces whose size depends only on the run."""
        for plane, firsts in self.layers:
            yield from ((plane, piece) for piece in self.pieces(firsts, n_volumes))

    def pieces(self, firsts: Indices, n_volumes: int) -> Iterator[Indices]:
        """Split the patches of a layer into pieces."""
        size = max(1, _CHUNK_VALUES // (len(self.offsets) * n_volumes))
        yield from (firsts[at : at + size] for at in range(0, len(firsts), size))


def place_patches(
    shape: tuple[int, int, int], width: int, step: int, *, centred: bool = False
) -> Patches:
    """Place patches on a lattice that covers a grid.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the grid; a patch is never thicker than the grid.
    width, step : int
        Width of a patch, and distance from one to the next, in voxels.
    centred : bool
        Add a second lattice in between: twice as many patches.

    Returns
    -------
    Patches
    """
    i, j, k = (min(width, n) for n in shape)
    lasts = [n - w for n, w in zip(shape, (i, j, k), strict=True)]
    lattices = [[_starts(last, step) for last in lasts]]
    if centred:
        lattices.append([list(range(step // 2, last, step)) for last in lasts])
    layers = [
        (plane, np.add.outer(np.array(along_j) * shape[2], along_k).ravel().astype(np.int64))
        for along_i, along_j, along_k in lattices
        for plane in along_i
        if along_j and along_k
    ]
    return Patches(shape, (i, j, k), tuple(sorted(layers, key=lambda layer: layer[0])))


def _starts(last: int, step: int) -> list[int]:
    """List the first voxels of patches along an axis; the last patch starts at `last`."""
    return [*range(0, last, step), last]


def remove_noise(data: FloatArray, *, n_threads: int = 1) -> FloatArray:
    """Denoise a DWI run in place.

    Parameters
    ----------
    data : ndarray of float32, shape (I, J, K, T)
        C order, finite magnitudes as acquired; overwritten by the result. Voxels that are 0 in
        all volumes stay 0 and count as not measured.
    n_threads : int
        Does not change the result.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Noise standard deviation in each channel, in the unit of `data`; 0 in empty voxels and
        where it cannot be estimated.
    """
    from threadpoolctl import threadpool_limits

    x, y, z, volumes = data.shape
    planes = data.reshape(x, y * z, volumes)
    with threadpool_limits(1, "blas"):
        sigma = noise_map(planes, (x, y, z), n_threads=n_threads)
        known = data.any(axis=3)
        patches = place_patches((x, y, z), _WIDTH, _STEP, centred=True)
        _filter(planes, patches, sigma.reshape(x, -1), n_threads)
    return np.where(known, sigma, 0).astype(np.float32)


def noise_map(planes: FloatArray, shape: tuple[int, int, int], *, n_threads: int = 1) -> Floats:
    """Estimate a smooth map of the noise in each channel.

    Parameters
    ----------
    planes : ndarray of float32, shape (I, J * K, T)
    shape : tuple of int
        (I, J, K).
    n_threads : int
        Does not change the result.

    Returns
    -------
    ndarray of float64, shape (I, J, K)
        0 where it cannot be estimated.
    """
    patches = place_patches(shape, _LEVEL_WIDTH, _LEVEL_STEP)
    offsets, volumes = patches.offsets, planes.shape[2]

    def look(job: tuple[int, Indices]) -> tuple[Floats, Floats]:
        values = _gather(planes, job, offsets)
        apart, means, rows = _centre(values, np.asarray(values.any(axis=2)))
        eigenvalues = np.maximum(np.linalg.eigvalsh(_gram(apart))[:, ::-1], 0)
        spread = np.sqrt(noise_variance(eigenvalues, rows - 1, volumes))
        level = channel_sigma(spread, means[:, 0].astype(np.float64))
        signal = np.square(spread) > _SIGNAL_SHARE * np.square(level)
        told = (2 * rows >= len(offsets)) & (spread > 0)
        return level, told * np.where(signal, 1.0, _AIR_WEIGHT)

    found = list(ordered_map(look, patches.jobs(volumes), n_threads))
    centres = [
        np.array(_starts(n - w, _LEVEL_STEP)) + (w - 1) / 2
        for n, w in zip(shape, patches.width, strict=True)
    ]
    lattice = [len(centre) for centre in centres]
    level, weight = (np.concatenate(part).reshape(lattice) for part in zip(*found, strict=True))
    total, share = (
        ndimage.gaussian_filter(part, _LEVEL_SMOOTHING, mode="constant")
        for part in (level * weight, weight)
    )
    smooth = np.divide(total, share, out=np.zeros_like(total), where=share > 1e-12)
    along = [
        np.stack([np.interp(np.arange(n), centre, one) for one in np.eye(len(centre))])
        for n, centre in zip(shape, centres, strict=True)
    ]
    for axis, weights in enumerate(along):
        smooth = np.moveaxis(np.tensordot(smooth, weights, axes=(axis, 0)), -1, axis)
    return np.asarray(smooth)


def _gather(
    planes: FloatArray, job: tuple[int, Indices], offsets: list[tuple[int, int]]
) -> FloatArray:
    """Gather patches, shape (P, voxels, T)."""
    plane, firsts = job
    values = np.empty((len(firsts), len(offsets), planes.shape[2]), np.float32)
    for number, (layer, offset) in enumerate(offsets):
        values[:, number] = planes[plane + layer, firsts + offset]
    return values


def _gram(values: FloatArray) -> Floats:
    """Compute Gram matrices over volumes, or over voxels if these are fewer."""
    exact = values.astype(np.float64)
    turned = exact.transpose(0, 2, 1)
    by_volume = exact.shape[2] <= exact.shape[1]
    gram: Floats = turned @ exact if by_volume else exact @ turned
    return gram


def _centre(
    values: FloatArray, there: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, Indices]:
    """Subtract the mean of the measured voxels of each patch; the mean has shape (P, 1, T)."""
    rows = there.sum(axis=1)
    total = values.sum(axis=1, keepdims=True, dtype=np.float64)
    means = (total / np.maximum(rows, 1)[:, None, None]).astype(np.float32)
    return np.where(there[:, :, None], values - means, 0), means, rows


def _is_air(values: FloatArray, rows: Indices, sigma: Floats) -> NDArray[np.bool_]:
    """Find patches of pure noise: no volume has more energy than noise."""
    energy = np.einsum("pvt,pvt->pt", values, values)
    noise = 2 * np.square(sigma) * rows
    spread = 1 / np.sqrt(np.maximum(rows, 1))
    in_all = energy.mean(axis=1) <= noise * (1.03 + 3 * spread / np.sqrt(energy.shape[1]))
    in_each = energy.max(axis=1) <= noise * (1 + 5 * spread)
    air: NDArray[np.bool_] = in_all & in_each
    return air


def filter_patches(values: FloatArray, sigma: Floats) -> tuple[FloatArray, FloatArray]:
    """Keep the components of patches that exceed noise.

    Parameters
    ----------
    values : ndarray of float32, shape (P, V, T)
        Signals of V voxels in T volumes.
    sigma : ndarray of float64, shape (P,)
        Noise in each channel, used to detect air.

    Returns
    -------
    result : ndarray of float32, shape (P, V, T)
        A patch without components is the mean of its voxels; a mostly empty patch stays
        unchanged.
    weight : ndarray of float32, shape (P,)
        ``1 / (1 + components)``.
    """
    there = np.asarray(values.any(axis=2))
    apart, means, rows = _centre(values, there)
    parts = np.ones(len(values))
    result = np.where(there[:, :, None], means, 0)
    found = np.flatnonzero((rows > 0) & ~_is_air(values, rows, sigma))
    if found.size:
        some, rows, volumes = apart[found], rows[found], values.shape[2]
        eigenvalues, vectors = np.linalg.eigh(_gram(some))
        variance = noise_variance(np.maximum(eigenvalues[:, ::-1], 0), rows - 1, volumes)
        edge = variance * np.square(np.sqrt(rows - 1) + np.sqrt(volumes))
        # Too few voxels for an estimate: keep them as they are.
        kept = (eigenvalues > edge[:, None]) | (2 * rows < values.shape[1])[:, None]
        parts[found] += kept.sum(axis=1)
        onto = ((vectors * kept[:, None]) @ vectors.transpose(0, 2, 1)).astype(np.float32)
        result[found] += some @ onto if volumes <= values.shape[1] else onto @ some
    return result, (1 / (1 + parts)).astype(np.float32)


def _filter(planes: FloatArray, patches: Patches, sigma: Floats, n_threads: int) -> None:
    """Filter patch by patch, in place: a plane is overwritten once no later patch needs it."""
    offsets, volumes = patches.offsets, planes.shape[2]
    total = np.zeros((patches.width[0], *planes.shape[1:]), np.float32)
    weights = np.zeros(total.shape[:2], np.float32)
    layer, middle = patches.middle

    def work(job: tuple[int, Indices]) -> tuple[Indices, FloatArray, FloatArray]:
        plane, firsts = job
        level = sigma[plane + layer, firsts + middle]
        result, weight = filter_patches(_gather(planes, job, offsets), level)
        return firsts, result * weight[:, None, None], weight

    done = 0
    for plane, firsts in patches.layers:
        done = _settle(planes, total, weights, (done, plane))
        jobs = ((plane, piece) for piece in patches.pieces(firsts, volumes))
        for piece, result, weight in ordered_map(work, jobs, n_threads):
            for number, (above, offset) in enumerate(offsets):
                total[above][piece + offset] += result[:, number]
                weights[above][piece + offset] += weight
    _settle(planes, total, weights, (done, len(planes)))


def _settle(
    planes: FloatArray, total: FloatArray, weights: FloatArray, between: tuple[int, int]
) -> int:
    """Write the averages of finished planes and make room for new ones."""
    first, stop = between
    count = stop - first
    if count:
        np.divide(total[:count], weights[:count, :, None], out=planes[first:stop])
        for part in (total, weights):
            part[:-count] = part[count:].copy()
            part[len(part) - count :] = 0
    return stop
