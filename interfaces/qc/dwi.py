"""Image quality metrics of a DWI run: the metrics that need gradients or a series.

Names are those of MRIQC. ``docs/metrics_dwi.rst`` defines each, and says where a definition
differs. Every function takes numbers or arrays and returns numbers; what is not defined for its
input is ``nan``, never a placeholder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.qc.regions import MAD_TO_SIGMA, NAN, summarize_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroferry.bids.gradients import Shell

FD_THRESHOLD = 0.2
"""Framewise displacement above which a volume is counted, mm."""
BDIFFS = ("bdiffs_min", "bdiffs_max", "bdiffs_mean", "bdiffs_median")
MIN_CC_VOXELS = 5
"""Fewest voxels of a corpus callosum that is measured."""
LEAST_ENERGY = 1e-3
"""Median squared intensity of the background below which it holds no noise."""


def fd_summary(displacement: NDArray[np.float64]) -> dict[str, float]:
    """Summarise framewise displacement.

    Parameters
    ----------
    displacement : ndarray of float64, shape (T,)
        mm; NaN in the first volume.

    Returns
    -------
    dict of str to float
        ``fd_mean`` (mm, over the steps between volumes), ``fd_num`` (volumes above 0.2 mm) and
        ``fd_perc`` (percent of all volumes).

    References
    ----------
    Power et al. 2012, NeuroImage 59(3):2142-2154, doi:10.1016/j.neuroimage.2011.10.018.

    Examples
    --------
    >>> fd_summary(np.array([np.nan, 0.1, 0.3, 0.2]))
    {'fd_mean': 0.2, 'fd_num': 1, 'fd_perc': 25.0}
    """
    steps = displacement[1:]
    if not steps.size or not np.isfinite(steps).all():
        return {"fd_mean": NAN, "fd_num": NAN, "fd_perc": NAN}
    count = int(np.count_nonzero(steps > FD_THRESHOLD))
    mean = round(float(steps.mean()), 12)
    return {"fd_mean": mean, "fd_num": count, "fd_perc": 100.0 * count / displacement.size}


def gradient_turns(bvecs: NDArray[np.float64], rigid: NDArray[np.float64]) -> dict[str, float]:
    """Summarise how far head motion turned the gradients relative to the head.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (T, 3)
        Unit vectors, RAS+; zero for b0 volumes, which are left out.
    rigid : ndarray of float64, shape (T, 4, 4)
        Head motion of each volume, RAS+.

    Returns
    -------
    dict of str to float
        ``bdiffs_min``, ``bdiffs_max``, ``bdiffs_mean`` and ``bdiffs_median``: angles in radians
        between each direction and the same direction rotated with the head.

    Examples
    --------
    >>> turn = np.eye(4)
    >>> turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    >>> angles = gradient_turns(np.array([[1.0, 0, 0]]), turn[None])
    >>> bool(np.isclose(angles["bdiffs_max"], np.arccos(0.8)))
    True
    """
    weighted = np.linalg.norm(bvecs, axis=1) > 0.5
    before = bvecs[weighted]
    after = np.einsum("nji,nj->ni", rigid[weighted, :3, :3], before)
    across = np.linalg.norm(np.cross(before, after), axis=1)
    angles = np.arctan2(across, (before * after).sum(axis=1))
    if not angles.size:
        return dict.fromkeys(BDIFFS, NAN)
    found = (angles.min(), angles.max(), angles.mean(), np.median(angles))
    return {name: float(value) for name, value in zip(BDIFFS, found, strict=True)}


def nearest_neighbours(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Find the nearest neighbour of each diffusion-weighted volume in q-space.

    The place of a volume is its direction times the square root of its b-value; opposite places
    are the same.

    Parameters
    ----------
    bvals : ndarray of float64, shape (T,)
    bvecs : ndarray of float64, shape (T, 3)
        Unit vectors; zero for b0 volumes, which neither have nor are neighbours.

    Returns
    -------
    list of (int, int)
        Each weighted volume and its neighbour.

    Examples
    --------
    >>> directions = np.array([[0, 0, 0], [1, 0, 0], [-1, 0.1, 0], [0, 1, 0.0]])
    >>> nearest_neighbours(np.array([0, 1e3, 1e3, 1e3]), directions)
    [(1, 2), (2, 1), (3, 2)]
    """
    weighted = np.flatnonzero(np.linalg.norm(bvecs, axis=1) > 0.5)
    if weighted.size < 2:
        return []
    places = np.sqrt(bvals[weighted])[:, None] * bvecs[weighted]
    apart = np.minimum(
        np.linalg.norm(places[:, None] - places, axis=2),
        np.linalg.norm(places[:, None] + places, axis=2),
    )
    np.fill_diagonal(apart, np.inf)
    nearest = weighted[apart.argmin(axis=1)]
    return [(int(a), int(b)) for a, b in zip(weighted, nearest, strict=True)]


def neighbouring_correlation(
    signals: NDArray[np.float32], neighbours: Sequence[tuple[int, int]]
) -> float:
    """Compute the neighbouring DWI correlation, ``ndc``.

    Parameters
    ----------
    signals : ndarray of float, shape (T, V)
        Volumes inside the brain.
    neighbours : sequence of (int, int)
        From :func:`nearest_neighbours`.

    Returns
    -------
    float
        Mean of the correlation of each volume with its neighbour, over voxels.

    References
    ----------
    Yeh et al. 2019, NeuroImage 202:116131, doi:10.1016/j.neuroimage.2019.116131.
    """
    if not neighbours or signals.shape[1] < 2:
        return NAN
    correlations = []
    centred: dict[int, NDArray[np.float64]] = {}
    for pair in neighbours:
        for number in pair:
            if number not in centred:
                values = signals[number].astype(np.float64)
                values -= values.mean()
                norm = math.sqrt(float((values * values).sum()))
                centred[number] = values / norm if norm > 0 else np.full_like(values, NAN)
        correlations.append(float((centred[pair[0]] * centred[pair[1]]).sum()))
    return float(np.mean(correlations))


@dataclass(frozen=True)
class CallosumSignal:
    """Signal of the corpus callosum over its spread.

    Attributes
    ----------
    sigma : float
        ``sigma_cc``.
    ratios : dict of str to float
        ``snr_cc_*``.
    """

    sigma: float
    ratios: dict[str, float]


def callosum_snr(
    b0: NDArray[np.float32],
    shells: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float64]]],
    callosum: NDArray[np.bool_],
) -> CallosumSignal:
    """Compute the signal-to-noise ratio in the corpus callosum.

    Its fibres run from left to right: the signal is lowest with the gradient along x (worst
    case), and highest with the gradient along y or z (best case).

    Parameters
    ----------
    b0 : ndarray of float32, shape (I, J, K)
        Mean b0 image.
    shells : mapping of int to (ndarray (T, I, J, K) or (T, V), ndarray (T, 3))
        Of the weighted shells 1, 2, ...: volumes, as whole images or inside `callosum` only, and
        unit vectors in RAS+.
    callosum : ndarray of bool, shape (I, J, K)

    Returns
    -------
    CallosumSignal
        All ``nan`` for a corpus callosum of fewer than five voxels, or of one intensity.

    Notes
    -----
    ``sigma_cc`` is the robust standard deviation (median absolute deviation times 1.4826) of the
    mean b0 image over the voxels of the corpus callosum. Each ratio is a mean over these voxels,
    divided by ``sigma_cc``.

    References
    ----------
    Descoteaux et al. 2011, Med Image Anal 15(4):603-621, doi:10.1016/j.media.2010.07.001.
    """
    names = [f"shell{n}_{kind}" for n in shells for kind in ("best", "worst")]
    nothing = dict.fromkeys(["snr_cc_shell0", *(f"snr_cc_{name}" for name in names)], NAN)
    if np.count_nonzero(callosum) < MIN_CC_VOXELS:
        return CallosumSignal(NAN, nothing)
    values = b0[callosum].astype(np.float64)
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))
    if not sigma > 0:
        return CallosumSignal(NAN, nothing)
    ratios = {"snr_cc_shell0": float(values.mean()) / sigma}
    for number, (volumes, bvecs) in shells.items():
        inside = volumes[:, callosum] if volumes.ndim == 4 else volumes
        means = inside.mean(axis=1, dtype=np.float64)
        x, y, z = (int(n) for n in np.abs(bvecs).argmax(axis=0))
        ratios[f"snr_cc_shell{number}_worst"] = float(means[x]) / sigma
        ratios[f"snr_cc_shell{number}_best"] = 0.5 * float(means[y] + means[z]) / sigma
    return CallosumSignal(sigma, ratios)


def tensor_faults(tensors: NDArray[np.float64], fitted: NDArray[np.bool_]) -> tuple[float, float]:
    """Compute the shares of brain voxels whose anisotropy is no number, or beyond its range.

    Parameters
    ----------
    tensors : ndarray of float64, shape (6, V)
        Dxx, Dxy, Dxz, Dyy, Dyz, Dzz as fitted, negative eigenvalues included.
    fitted : ndarray of bool, shape (V,)
        Voxels with enough signals for a fit.

    Returns
    -------
    nans, degenerate : float
        ``fa_nans`` and ``fa_degenerate``, voxels per million: without a tensor, and with a tensor
        whose fractional anisotropy is above 1.

    Notes
    -----
    Fractional anisotropy is above 1 exactly where the second invariant of the tensor, the sum of
    the products of two eigenvalues each, is negative: at least one eigenvalue is negative, and
    not just barely.
    """
    if not fitted.size:
        return NAN, NAN
    xx, xy, xz, yy, yz, zz = tensors
    second = xx * yy + xx * zz + yy * zz - xy * xy - xz * xz - yz * yz
    numbers = fitted & np.isfinite(second) & (np.abs(tensors).max(axis=0) > 0)
    beyond = numbers & (second < 0)
    return 1e6 * float((~numbers).mean()), 1e6 * float(beyond.mean())


def shell_spread(volumes: NDArray[np.float32], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """Compute ``efc`` and ``fber`` of the volumes of one shell together.

    Parameters
    ----------
    volumes : ndarray of float32, shape (T, I, J, K)
        As acquired.
    brain : ndarray of bool, shape (I, J, K)
        Foreground; everything else is background, skull and scalp included.

    Returns
    -------
    efc, fber : float
    """
    return entropy_focus(volumes), energy_ratio(volumes, brain)


def entropy_focus(volumes: NDArray[np.float32]) -> float:
    """Compute the entropy focus criterion of several volumes as if they were one image.

    As :func:`neuroferry.interfaces.qc.whole_image.efc`, one volume at a time.

    Parameters
    ----------
    volumes : ndarray of float32, shape (T, I, J, K)

    Returns
    -------
    float
        ``nan`` without energy.

    Examples
    --------
    >>> round(entropy_focus(np.full((2, 4, 4, 4), 7.0, np.float32)), 12)
    1.0
    """
    squares = plain = logs = 0.0
    for volume in volumes:
        values = volume[volume > 0].astype(np.float64)
        squares += float(np.sum(values * values))
        plain += float(np.sum(values))
        logs += float(np.sum(values * np.log(values)))
    if volumes.size < 2 or squares <= 0:
        return NAN
    top = math.sqrt(squares)
    entropy = (plain * math.log(top) - logs) / top
    return entropy / (math.sqrt(volumes.size) * math.log(math.sqrt(volumes.size)))


def energy_ratio(volumes: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    """Compute the foreground-background energy ratio of several volumes as if they were one.

    As :func:`neuroferry.interfaces.qc.whole_image.fber`, with the brain as foreground and
    everything else as background.

    Parameters
    ----------
    volumes : ndarray of float32, shape (T, I, J, K)
    brain : ndarray of bool, shape (I, J, K)

    Returns
    -------
    float
        ``nan`` if a region is empty or the background has no energy.
    """
    if not brain.any() or brain.all():
        return NAN
    inside, outside = (_median_square(volumes[:, mask].ravel()) for mask in (brain, ~brain))
    return inside / outside if outside >= LEAST_ENERGY else NAN


def _median_square(values: NDArray[np.float32]) -> float:
    """Compute the median of the squares, without squaring all."""
    middle = [(values.size - 1) // 2, values.size // 2]
    np.abs(values, out=values)
    values.partition(middle)
    return float(np.mean(np.square(values[middle].astype(np.float64))))


def shell_key(number: int) -> str:
    """Name a shell in ``efc_*`` and ``fber_*``; the b0 volumes are shell01.

    >>> shell_key(0), shell_key(1), shell_key(12)
    ('shell01', 'shell02', 'shell13')
    """
    return f"shell{number + 1:02d}"


def number_shells(shells: Sequence[Shell]) -> dict[int, Shell]:
    """Number the shells: 0 for the b0 volumes, the others from 1, by b-value.

    >>> from neuroferry.bids.gradients import find_shells
    >>> {n: s.b for n, s in number_shells(find_shells([0, 1000, 2000, 990])).items()}
    {0: 0.0, 1: 995.0, 2: 2000.0}
    >>> list(number_shells(find_shells([1000, 2000])))
    [1, 2]
    """
    first = 0 if shells and shells[0].is_b0 else 1
    return dict(enumerate(shells, start=first))


def region_summaries(
    b0: NDArray[np.float32], brain: NDArray[np.bool_], white: NDArray[np.bool_]
) -> dict[str, float]:
    """Summarise the mean b0 image in brain (fg), everything else (bg) and white matter (wm).

    Parameters
    ----------
    b0 : ndarray of float32, shape (I, J, K)
    brain, white : ndarray of bool, shape (I, J, K)

    Returns
    -------
    dict of str to float
        ``summary_{fg,bg,wm}_{mean,median,stdv,mad,p05,p95,k,n}``.
    """
    regions = {"fg": brain, "bg": ~brain & brain.any(), "wm": white}
    values: dict[str, float] = {}
    for name, mask in regions.items():
        values |= summarize_region(b0, mask).as_metrics(name)
    return values


def grid_metrics(
    shape: Sequence[int], affine: NDArray[np.float64], n_volumes: int
) -> dict[str, float]:
    """Measure field of view and voxels along the axes of the body.

    Parameters
    ----------
    shape : sequence of int
        Voxels along the stored axes.
    affine : ndarray of float64, shape (4, 4)
    n_volumes : int

    Returns
    -------
    dict of str to float
        ``size_{x,y,z,t}`` and ``spacing_{x,y,z}`` (mm).

    Examples
    --------
    >>> swapped = np.array([[0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]])
    >>> found = grid_metrics((10, 20, 30), swapped, 7)
    >>> found["size_x"], found["spacing_y"], found["size_t"]
    (20, 3.0, 7)
    """
    import nibabel as nb

    axes = nb.io_orientation(affine)[:, 0].astype(int)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    values: dict[str, float] = {"size_t": n_volumes}
    for stored, body in enumerate(axes):
        values[f"size_{'xyz'[body]}"] = int(shape[stored])
        values[f"spacing_{'xyz'[body]}"] = float(zooms[stored])
    return values
