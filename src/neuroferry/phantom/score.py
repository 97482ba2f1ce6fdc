"""Errors of results against the truth, as plain functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.errors import GeometryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TISSUE_LABELS = {"GM": 1, "WM": 2, "CSF": 3}


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Compute the Dice overlap of two masks.

    Parameters
    ----------
    a, b : array_like of bool, same shape
        Non-zero voxels are inside.

    Returns
    -------
    float
        0 (disjoint) to 1 (equal); two empty masks are equal.

    References
    ----------
    Dice LR (1945). Measures of the amount of ecologic association between species.
    Ecology 26, 297-302. doi:10.2307/1932409

    Examples
    --------
    >>> dice([1, 1, 0, 0], [0, 1, 1, 0])
    0.5
    """
    first, second = same_shape(np.asarray(a).astype(bool), np.asarray(b).astype(bool))
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def tissue_dice(found: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Compute the Dice overlap of GM, WM and CSF in two segmentations labelled 1, 2, 3.

    Examples
    --------
    >>> tissue_dice([1, 1, 2, 3], [1, 2, 2, 3])["CSF"]
    1.0
    """
    first, second = same_shape(np.asarray(found), np.asarray(truth))
    return {name: dice(first == label, second == label) for name, label in TISSUE_LABELS.items()}


def template_overlap(warped: ArrayLike, template: ArrayLike, *, threshold: float = 0.5) -> float:
    """Compute the Dice overlap of warped and template grey matter.

    Parameters
    ----------
    warped, template : array_like of float, same shape
        Probabilities on the template's grid.
    threshold : float
        Threshold of grey matter.
    """
    return dice(np.asarray(warped) > threshold, np.asarray(template) > threshold)


def bias_error(estimated: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Compute the relative RMS error of a multiplicative field, up to its scale.

    Parameters
    ----------
    estimated, truth : array_like of float, same shape
    mask : array_like of bool
        Voxels to compare: the brain.

    Returns
    -------
    float
        Coefficient of variation of the ratio estimated / truth; 0 if the two differ only by a
        constant factor. This is the field that remains after dividing by the estimate.

    Raises
    ------
    GeometryError
        The shapes differ, or the mask is empty.

    Examples
    --------
    >>> bias_error([2.0, 4.0, 99.0], [1.0, 2.0, 1.0], [1, 1, 0])
    0.0
    """
    first, second = same_shape(np.asarray(estimated, float), np.asarray(truth, float))
    first, inside = same_shape(first, np.asarray(mask).astype(bool))
    if not inside.any():
        raise GeometryError("the mask for the bias error is empty; pass the brain mask")
    ratio = first[inside] / second[inside]
    return float(ratio.std() / ratio.mean())


def jacobian_determinant(
    displacement: NDArray[np.floating], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the local volume change of ``x -> x + u(x)``.

    Parameters
    ----------
    displacement : ndarray of float, shape (I, J, K, 3)
        u in RAS+ mm.
    affine : ndarray of float64, shape (4, 4)
        Indices to RAS+ mm, oblique or not.

    Returns
    -------
    ndarray of float64, shape (I, J, K)
        Central differences (one-sided at the border): exact for affine maps.
    """
    if displacement.ndim != 4 or displacement.shape[3] != 3:
        raise GeometryError(
            f"a displacement has shape (I, J, K, 3), not {displacement.shape}; "
            "squeeze the ITK field's fourth axis"
        )
    slopes = np.stack(np.gradient(displacement.astype(np.float64), axis=(0, 1, 2)), axis=-1)
    jacobian = np.eye(3) + slopes @ np.linalg.inv(affine[:3, :3])
    determinant: NDArray[np.float64] = np.linalg.det(jacobian)
    return determinant


def folded_voxels(
    displacement: NDArray[np.floating],
    affine: NDArray[np.float64],
    mask: ArrayLike | None = None,
) -> int:
    """Count the nodes at which a map folds space (Jacobian not positive)."""
    folded = jacobian_determinant(displacement, affine) <= 0
    if mask is not None:
        folded, inside = same_shape(folded, np.asarray(mask).astype(bool))
        folded = folded & inside
    return int(folded.sum())


def map_error(found: ArrayLike, truth: ArrayLike) -> tuple[float, float]:
    """Measure the distance between the images of the same points under two maps.

    Parameters
    ----------
    found, truth : array_like of float, shape (..., 3)
        Images of the points, mm.

    Returns
    -------
    mean, maximum : float
        mm.

    Examples
    --------
    >>> map_error([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]] * 2)
    (2.5, 5.0)
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    distance = np.linalg.norm(first - second, axis=-1)
    return float(distance.mean()), float(distance.max())


def rigid_error(
    found: NDArray[np.float64],
    truth: NDArray[np.float64],
    mask: ArrayLike,
    affine: NDArray[np.float64],
) -> tuple[float, float]:
    """Measure the distance between the points of a mask under two matrices.

    Parameters
    ----------
    found, truth : ndarray of float64, shape (4, 4)
        RAS+ mm.
    mask : array_like of bool, shape (I, J, K)
        Mask on the grid whose points the matrices map.
    affine : ndarray of float64, shape (4, 4)
        Affine of that grid.

    Returns
    -------
    mean, maximum : float
        mm.

    Examples
    --------
    >>> shifted = np.eye(4)
    >>> shifted[2, 3] = 0.5
    >>> rigid_error(shifted, np.eye(4), np.ones((4, 4, 4)), np.eye(4))
    (0.5, 0.5)
    """
    points = _points(mask, affine)
    return map_error((points @ found.T)[:, :3], (points @ truth.T)[:, :3])


def motion_error(
    found: NDArray[np.float64],
    truth: NDArray[np.float64],
    mask: ArrayLike,
    affine: NDArray[np.float64],
    *,
    same_reference: bool = False,
) -> tuple[float, float]:
    """Measure the distance between estimated and true positions of brain voxels, over all volumes.

    Parameters
    ----------
    found, truth : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    mask : array_like of bool, shape (I, J, K)
        The brain on the series' grid.
    affine : ndarray of float64, shape (4, 4)
        Of the series.
    same_reference : bool
        Both references show the head in the same position. Otherwise the best-fitting rigid
        motion between the references (by medians over the volumes) is removed first: the position
        of the reference is not an error.

    Returns
    -------
    mean, maximum : float
        mm, over volumes and voxels.
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    points = _points(mask, affine)
    if not same_reference:
        between = np.linalg.inv(second) @ first
        places = np.median(points @ between.transpose(0, 2, 1), axis=0)
        second = second @ _fit_rigid(points[:, :3], places[:, :3])
    ways = points @ (first - second).transpose(0, 2, 1)
    distance = np.linalg.norm(ways[..., :3], axis=-1)
    return float(distance.mean()), float(distance.max())


def shift_error(
    found: ArrayLike, truth: ArrayLike, mask: ArrayLike, *, readout: float, voxel: float
) -> tuple[float, float]:
    """Measure the distance by which a field map misplaces voxels of an echo-planar image.

    Parameters
    ----------
    found, truth : array_like of float, same shape
        Hz, on the image's grid, undistorted.
    mask : array_like of bool
        The brain.
    readout : float
        Total readout time, s.
    voxel : float
        Voxel size along the phase encoding, mm.

    Returns
    -------
    mean, percentile : float
        mm: mean, and 95th percentile over voxels.

    Examples
    --------
    >>> shift_error([10.0, 0.0], [0.0, 0.0], [1, 1], readout=0.05, voxel=2.0)[0]
    0.5
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    first, inside = same_shape(first, np.asarray(mask).astype(bool))
    if not inside.any():
        raise GeometryError("the mask for the shift error is empty; pass the brain mask")
    miss = np.abs(first - second)[inside] * (readout * voxel)
    return float(miss.mean()), float(np.percentile(miss, 95))


def effect_recovery(found: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> tuple[float, float]:
    """Measure how much of a known activation an analysis recovers.

    Parameters
    ----------
    found, truth : array_like of float, same shape
        Effect in percent.
    mask : array_like of bool
        Voxels to compare.

    Returns
    -------
    slope, correlation : float
        Regression of the estimated on the true effect; 1 and 1 are ideal.

    Examples
    --------
    >>> effect_recovery([0.0, 1.0, 2.0, 7.0], [0.0, 2.0, 4.0, 0.0], [1, 1, 1, 0])
    (0.5, 1.0)
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    first, inside = same_shape(first, np.asarray(mask).astype(bool))
    x, y = second[inside] - second[inside].mean(), first[inside] - first[inside].mean()
    product, square = float(np.sum(x * y)), float(np.sum(x * x))
    return product / square, product / float(np.sqrt(square * np.sum(y * y)))


def course_correlation(found: ArrayLike, truth: ArrayLike) -> float:
    """Correlate two time courses, such as framewise displacement; NaN is ignored.

    Examples
    --------
    >>> course_correlation([np.nan, 1, 2, 3], [np.nan, 2, 4, 6])
    1.0
    """
    first, second = same_shape(np.asarray(found, float), np.asarray(truth, float))
    both = np.isfinite(first) & np.isfinite(second)
    return effect_recovery(first, second, both)[1]


def _points(mask: ArrayLike, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample every n-th voxel of a mask, at most about 4000, homogeneous RAS+ mm, shape (N, 4)."""
    index = np.argwhere(np.asarray(mask).astype(bool))
    if not len(index):
        raise GeometryError("the mask of the error measure is empty; pass the brain mask")
    index = index[:: max(1, len(index) // 4000)]
    points: NDArray[np.float64] = np.c_[index, np.ones(len(index))] @ affine.T
    return points


def _fit_rigid(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the rigid motion (4, 4) that brings points (N, 3) closest to others.

    References
    ----------
    Kabsch W (1976). A solution for the best rotation to relate two sets of vectors. Acta
    Crystallographica A 32, 922-923. doi:10.1107/S0567739476001873
    """
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    left, _, right = np.linalg.svd((source - middle).T @ (target - goal))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    matrix = np.eye(4)
    matrix[:3, :3] = (left @ flip @ right).T
    matrix[:3, 3] = goal - matrix[:3, :3] @ middle
    return matrix


def same_shape(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both arrays; refuse arrays of different shapes."""
    if a.shape != b.shape:
        raise GeometryError(
            f"images of shapes {a.shape} and {b.shape} cannot be compared; "
            "resample one to the other's grid"
        )
    return a, b
