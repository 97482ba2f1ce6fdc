"""Linear registration by mutual information at sample points, in NumPy.

The metric uses only sample points of the fixed image (such as a template's brain), so
nothing outside them affects the result; a registration is deterministic and takes seconds.

References
----------
.. [1] Wells WM et al. (1996). Multi-modal volume registration by maximization of mutual
   information. Medical Image Analysis 1(1):35-51. doi:10.1016/S1361-8415(01)80004-9
.. [2] Maes F et al. (1997). Multimodality image registration by maximization of mutual
   information. IEEE Trans Med Imaging 16(2):187-198. doi:10.1109/42.563664
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, inverse, smooth_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BINS = 32
RIGID, SIMILARITY, AFFINE = 6, 7, 12
# One optimiser step of each parameter: mm, radians, log-scales, shears.
STEPS = np.array([4.0, 4.0, 4.0, 0.08, 0.08, 0.08, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04])


@dataclass(frozen=True)
class SamplePoints:
    """Sample points of the fixed image.

    Attributes
    ----------
    world : ndarray of float64, shape (3, N)
        RAS+ mm.
    bins : ndarray of int64, shape (N,)
        Intensity class of each point, 0 to ``N_BINS - 1``.
    centre : ndarray of float64, shape (3,)
        Centre of rotation and scaling, RAS+ mm.
    """

    world: NDArray[np.float64]
    bins: NDArray[np.int64]
    centre: NDArray[np.float64]

    def thin(self, count: int) -> SamplePoints:
        """Keep about `count` evenly spaced points."""
        step = max(1, self.bins.size // count)
        return SamplePoints(self.world[:, ::step], self.bins[::step], self.centre)


def sample_points(
    volume: Volume,
    mask: NDArray[np.bool_],
    zoom: float,
    *,
    centre: NDArray[np.float64] | None = None,
    blur: float | None = None,
    seed: int = 1,
) -> SamplePoints:
    """Draw points inside a mask, about one in each cube of `zoom` mm, jittered.

    The jitter removes interpolation artefacts of the metric where the two grids coincide.

    Parameters
    ----------
    volume : Volume
        Fixed image.
    mask : ndarray of bool, shape (I, J, K)
        Region to sample, on the same grid.
    zoom : float
        Edge of the cubes, mm.
    centre : ndarray of float64, shape (3,), optional
        Centre of rotation; by default the middle of the mask's bounding box.
    blur : float, optional
        Resolution to which the image is blurred, mm; `zoom` by default.
    seed : int
        Seed of the jitter.

    Returns
    -------
    SamplePoints
    """
    from scipy import ndimage

    step = np.maximum(1.0, zoom / volume.zooms)
    axes = [np.arange(s / 2 - 0.5, n, s) for s, n in zip(step, volume.data.shape, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    jitter = np.random.default_rng(seed).uniform(-0.5, 0.5, index.shape)
    index = index + jitter * step[:, None]
    nearest = np.clip(np.rint(index).astype(int), 0, np.array(mask.shape)[:, None] - 1)
    index = index[:, mask[tuple(nearest)]]
    values = ndimage.map_coordinates(
        smooth_for(volume.data, volume.zooms, blur or zoom), index, order=1, mode="nearest"
    )
    world = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    if centre is None:
        box = np.argwhere(mask)
        middle = (box.min(axis=0) + box.max(axis=0)) / 2
        centre = volume.affine[:3, :3] @ middle + volume.affine[:3, 3]
    return SamplePoints(world, _to_bins(values), centre)


def _to_bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sort intensities into ``N_BINS`` classes between robust limits."""
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = (values - low) / max(float(high - low), np.finfo(np.float32).tiny)
    bins: NDArray[np.int64] = np.clip(scaled * N_BINS, 0, N_BINS - 1).astype(np.int64)
    return bins


@dataclass(frozen=True)
class MovingImage:
    """Moving image, its intensities scaled to bins.

    Attributes
    ----------
    data : ndarray of float32, shape (I, J, K)
        Bin coordinate of each voxel, 0 to ``N_BINS - 1``.
    to_voxels : ndarray of float64, shape (4, 4)
        RAS+ mm to voxel indices.
    """

    data: FloatArray
    to_voxels: Affine


def moving_image(volume: Volume, zoom: float) -> MovingImage:
    """Prepare an image for the metric: blur to `zoom` mm, scale from zero to a robust maximum.

    Parameters
    ----------
    volume : Volume
        Moving image.
    zoom : float
        Resolution of the metric, mm.

    Returns
    -------
    MovingImage
    """
    data = smooth_for(volume.data, volume.zooms, zoom)
    positive = data[data > 0]
    high = float(np.percentile(positive, 99.0)) if positive.size else 1.0
    binned = np.clip(data * ((N_BINS - 1) / high), 0, N_BINS - 1).astype(np.float32)
    return MovingImage(binned, inverse(volume.affine))


def mutual_information(points: SamplePoints, image: MovingImage, matrix: Affine) -> float:
    """Compute the mutual information, in nats, of fixed points and an image under a transform.

    Parameters
    ----------
    points : SamplePoints
        Points and classes of the fixed image.
    image : MovingImage
        Image to sample; zero outside its field of view.
    matrix : ndarray of float64, shape (4, 4)
        Fixed points to moving points, RAS+ mm.

    Returns
    -------
    float
    """
    from scipy import ndimage

    full = image.to_voxels @ matrix
    index = full[:3, :3] @ points.world + full[:3, 3:]
    values = ndimage.map_coordinates(image.data, index, order=1, mode="constant", cval=0.0)
    lower = values.astype(np.int64)
    np.minimum(lower, N_BINS - 2, out=lower)
    upper_weight = values - lower
    flat = points.bins * N_BINS + lower
    size = N_BINS * N_BINS
    joint = np.bincount(flat, 1.0 - upper_weight, size)
    joint += np.bincount(flat + 1, upper_weight, size)
    return _information(joint.reshape(N_BINS, N_BINS) / values.size)


def _information(joint: NDArray[np.float64]) -> float:
    """Compute the mutual information of a joint distribution, in nats.

    >>> round(float(_information(np.eye(4) / 4) / np.log(4)), 6)
    1.0
    >>> abs(round(_information(np.full((3, 3), 1 / 9)), 6))
    0.0
    """
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    return float(_neg_entropy(joint) - _neg_entropy(rows) - _neg_entropy(columns))


def _neg_entropy(p: NDArray[np.float64]) -> float:
    """Sum p log p."""
    positive = p[p > 0]
    return float(np.sum(positive * np.log(positive)))


def compose(parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> Affine:
    """Build a matrix from translation, rotation, log-scale and shear about a centre.

    Parameters
    ----------
    parameters : ndarray of float64, shape (6,), (7,) or (12,)
        Translation in mm, rotation vector in radians, then one or three log-scales and
        three shears.
    centre : ndarray of float64, shape (3,)
        Centre of rotation and scaling in the fixed image, RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (4, 4)

    Examples
    --------
    >>> matrix = compose(np.array([1.0, 2, 3, 0, 0, np.pi / 2]), np.zeros(3))
    >>> np.round(matrix @ [1.0, 0, 0, 1], 6).tolist()
    [1.0, 3.0, 3.0, 1.0]
    """
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(parameters[3:6]).as_matrix()
    stretch = np.eye(3)
    if parameters.size == SIMILARITY:
        stretch *= np.exp(parameters[6])
    elif parameters.size == AFFINE:
        stretch = np.diag(np.exp(parameters[6:9]))
        stretch[0, 1], stretch[0, 2], stretch[1, 2] = parameters[9:12]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ stretch
    matrix[:3, 3] = centre + parameters[:3] - matrix[:3, :3] @ centre
    return matrix


def refine(
    points: SamplePoints,
    image: MovingImage,
    start: Affine,
    *,
    dof: int = AFFINE,
    step: float = 1.0,
    tolerance: float = 1e-4,
    max_iterations: int = 20,
) -> tuple[Affine, float]:
    """Refine a linear transform by Powell's method.

    Parameters
    ----------
    points : SamplePoints
        Fixed image.
    image : MovingImage
        Moving image.
    start : ndarray of float64, shape (4, 4)
        Initial transform; the estimated parameters act before it.
    dof : int
        6 rigid, 7 similarity, 12 affine.
    step : float
        Initial step in units of 4 mm, 4.6 degrees, 4 %.
    tolerance : float
        Relative gain below which a sweep ends the search.
    max_iterations : int
        Maximum number of sweeps over all parameters.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        Fixed points to moving points.
    score : float
        Mutual information, nats.
    """
    from scipy.optimize import minimize

    steps = STEPS[:dof] * step

    def cost(x: NDArray[np.float64]) -> float:
        return -mutual_information(points, image, start @ compose(x * steps, points.centre))

    found = minimize(
        cost,
        np.zeros(dof),
        method="Powell",
        options={"xtol": 1e-2, "ftol": tolerance, "maxiter": max_iterations},
    )
    return start @ compose(found.x * steps, points.centre), float(-found.fun)
