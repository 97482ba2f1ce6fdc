"""Alignment of the volumes of one shell: each to a prediction of itself from the others.

A volume's transform is a rigid head motion followed by the eddy-current distortion: a
displacement along the phase-encoding axis that is linear in position, that is a stretch along the
axis and two shears (the constant part cannot be separated from motion in one volume).

1. Align all volumes to their mean, rigidly; then to the new mean, including the stretch.
2. A few rounds: predict each volume from the others (:mod:`neuroferry.interfaces.dwi.eddy_model`),
   align it to its prediction, resample. Voxels with larger prediction errors count less.
3. After each round remove what the volumes have in common, because a shell alone does not
   determine it: the mean motion, and the stretch at zero gradient. Eddy currents are proportional
   to the gradient that causes them, and change sign with it: the stretches are fitted as a linear
   function of the direction, whose constant is not caused by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.dwi.eddy_model import (
    CHUNK_VOXELS,
    leave_out_weights,
    volume_covariance,
)
from neuroferry.interfaces.dwi.outliers import Slices, judge_slices, slice_losses
from neuroferry.interfaces.epi.motion import variance_weights
from neuroferry.interfaces.epi.realign import (
    MAD_TO_SIGMA,
    Alignment,
    align_volume,
    rigid_step,
    robust_sigma,
    stretch_step,
    tukey,
)
from neuroferry.interfaces.epi.realign_target import Target, prepare_target, soften, spline_values
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, inverse
from neuroferry.interfaces.image.sampling import StaticMap, resample_volume
from neuroferry.interfaces.image.series import Series, ordered_map

ROUNDS = 3
JOINT_POINTS = 12_000
# As a fraction of the median signal of the shell: half-way between logarithmic and linear.
FLOOR_SHARE = 1.0
# Joint steps whose relative singular value is below this are skipped.
LEAST_GRIP = 0.03
POINTS = 40_000
# Ridge penalty: variance of the directions below which they explain no slopes.
RIDGE = 1e-3
ROBUST_STEPS = 8
# Typical error of a slope estimated from one volume, mm per mm.
SLOPE_ERROR = 0.007

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """Settings that the volumes of a series share.

    Attributes
    ----------
    series : Series
        Series that the volumes are read from.
    mask : ndarray of bool, shape (I, J, K)
        Head: the voxels that count.
    where : StaticMap
        Voxels in and around the head, kept of each volume.
    centre : ndarray of float64, shape (3,)
        Centre of the head, RAS+ mm; eddy currents cause no displacement there.
    along : ndarray of float64, shape (3,), or None
        Phase-encoding axis in RAS+; without it alignment is rigid.
    slice_axis : int
        Stored axis along which slices are stacked.
    n_threads : int
        Volumes processed in parallel; does not change the result.
    """

    series: Series = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    where: StaticMap = field(repr=False)
    centre: Floats
    along: Floats | None = None
    slice_axis: int = 2
    n_threads: int = 1

    def still(self, n_volumes: int) -> Poses:
        """Make the initial poses of some volumes."""
        return still(n_volumes, self.series.shape[self.slice_axis])

    def left_in(self, losses: Floats) -> FloatArray:
        """Give the remaining fraction of the signal of each slice of a volume.

        Parameters
        ----------
        losses : ndarray of float64, shape (S,)
            Its logarithm.

        Returns
        -------
        ndarray of float32
            Of three axes, S long along that of the slices, so that it scales a volume.
        """
        shape = [1, 1, 1]
        shape[self.slice_axis] = losses.size
        return np.exp(losses).astype(np.float32).reshape(shape)

    def fill(self, values: NDArray[np.float32]) -> Volume:
        """Put the kept voxels into a volume."""
        return Volume(self.where.fill(values), self.series.affine, self.series.header)


@dataclass
class Poses:
    """Estimated transforms of the volumes of a group.

    Attributes
    ----------
    rigid, stretch : ndarray of float64, shape (N, 4, 4)
        Points of the group's frame to the head's place in each volume, RAS+ mm, and from
        there to where the image shows them.
    residuals : ndarray of float64, shape (N,)
        Robust standard deviation of the residual; infinite for a volume without a head.
    losses : ndarray of float64, shape (N, S)
        Logarithm of the remaining signal fraction of slices with dropout, zero for others.
    """

    rigid: Floats
    stretch: Floats
    residuals: Floats
    losses: Floats

    @property
    def matrices(self) -> Floats:
        """Product of both, shape (N, 4, 4)."""
        both: Floats = self.stretch @ self.rigid
        return both


def still(n_volumes: int, n_slices: int) -> Poses:
    """Make the initial poses of volumes: identity."""
    identity = np.tile(np.eye(4), (n_volumes, 1, 1))
    return Poses(
        identity, identity.copy(), np.full(n_volumes, np.inf), np.zeros((n_volumes, n_slices))
    )


def read(series: Series, volumes: Sequence[int]) -> Iterator[FloatArray]:
    """Read some volumes of a series, in ascending order, in one pass."""
    try:
        for number in volumes:
            yield series.volume(number)
    finally:
        series.close()


@dataclass(frozen=True)
class Prediction:
    """Prediction of each volume of a shell from the others.

    Signals are combined as logarithms with an added floor. In a voxel with one fibre direction
    the logarithm is a polynomial of degree two in the gradient direction; at the border of two
    tissues the signal itself is a mixture. A floor of about the median signal is a compromise,
    and keeps the noise of dark voxels small.

    Attributes
    ----------
    logs : ndarray of float32, shape (N, V)
        Logarithms of the aligned volumes, the floor added.
    combination : ndarray of float64, shape (N, N)
        Weights of the others, from :func:`leave_out_weights`.
    floor : float
        Added signal.
    """

    logs: NDArray[np.float32] = field(repr=False)
    combination: Floats
    floor: float

    def volume(
        self, number: int | slice, voxels: slice | NDArray[np.bool_] = slice(None)
    ) -> NDArray[np.float32]:
        """Predict a volume, shape (V,), or several."""
        weights = self.combination[number].astype(np.float32)
        made: NDArray[np.float32] = np.exp(weights @ self.logs[:, voxels])
        made -= np.float32(self.floor)
        return made

    def measured(self, voxels: slice) -> NDArray[np.float32]:
        """Return the aligned volumes at some voxels, shape (N, M)."""
        made: NDArray[np.float32] = np.exp(self.logs[:, voxels]) - np.float32(self.floor)
        return made


def align_group(
    head: Head,
    volumes: Sequence[int],
    poses: Poses,
    reference: NDArray[np.float32] | Prediction,
    weights: NDArray[np.floating],
    *,
    stretched: bool,
) -> Poses:
    """Align volumes to an image, or each to its own.

    Parameters
    ----------
    head : Head
        The series.
    volumes : sequence of int
        Indices of the volumes, ascending.
    poses : Poses
        Initial poses.
    reference : ndarray of float32, shape (V,), or Prediction
        Kept voxels of the common target image, or a prediction of each volume.
    weights : ndarray, shape (I, J, K)
        Weight of each voxel.
    stretched : bool
        Estimate the stretch as well.

    Returns
    -------
    Poses
        A volume that could not be aligned keeps its pose.
    """
    affine = head.series.affine
    along = head.along if stretched else None

    def prepare(values: NDArray[np.float32]) -> Target:
        return prepare_target(
            head.fill(values),
            weights,
            slice_axis=head.slice_axis,
            max_points=POINTS,
            along=along,
        )

    def image(number: int) -> NDArray[np.float32]:
        return reference.volume(number) if isinstance(reference, Prediction) else reference

    common = None if isinstance(reference, Prediction) else prepare(reference)

    def work(item: tuple[int, FloatArray]) -> Alignment:
        number, data = item
        if poses.losses[number].any():
            data /= head.left_in(poses.losses[number])
        target = common or prepare(image(number))
        if np.isfinite(poses.residuals[number]):
            target = replace(target, levels=target.levels[-1:])
        start, stretch = poses.matrices[number], poses.stretch[number]
        found = align_volume(target, data, affine, start, stretch)
        if not np.isfinite(found.residual):
            found = replace(found, matrix=start, stretch=stretch)
        return replace(found, differences=None)

    result = head.still(len(volumes))
    items = enumerate(read(head.series, volumes))
    with closing(ordered_map(work, items, head.n_threads)) as results:
        for number, found in enumerate(results):
            if found.stretch is not None:
                result.stretch[number] = found.stretch
            result.rigid[number] = found.rigid
            result.residuals[number] = found.residual
    result.losses[:] = poses.losses
    return result


def compare_slices(
    head: Head,
    volumes: Sequence[int],
    poses: Poses,
    reference: NDArray[np.float32] | Prediction,
) -> Slices:
    """Detect slices with signal dropout; see :mod:`neuroferry.interfaces.dwi.outliers`.

    Parameters
    ----------
    head : Head
        The series.
    volumes : sequence of int
        Indices of the volumes, ascending.
    poses : Poses
        Their poses, and the slice losses known when the reference was made.
    reference : ndarray of float32, shape (V,), or Prediction
        Expected image, common or of each volume.

    Returns
    -------
    Slices
    """
    affine, n = head.series.affine, len(volumes)
    matrices, gains = poses.matrices, np.linalg.det(poses.stretch[:, :3, :3])

    def work(item: tuple[int, FloatArray]) -> tuple[Floats, NDArray[np.int64]]:
        number, data = item
        values = reference.volume(number) if isinstance(reference, Prediction) else reference
        expected = head.where.fill(values)
        data *= np.float32(gains[number])
        return slice_losses(expected, head.mask, data, affine, matrices[number], head.slice_axis)

    items = enumerate(read(head.series, volumes))
    with closing(ordered_map(work, items, head.n_threads)) as results:
        found = list(results)
    combination = np.full((n, n), 1.0 / n)
    if isinstance(reference, Prediction):
        combination = reference.combination
    differences = np.stack([difference for difference, _ in found])
    counts = np.stack([count for _, count in found])
    return judge_slices(differences, counts, combination, poses.losses)


def resample_group(
    head: Head, volumes: Sequence[int], poses: Poses
) -> Iterator[NDArray[np.float32]]:
    """Resample volumes into the common frame, each of shape (V,)."""
    affine = head.series.affine
    moves = inverse(affine) @ poses.matrices @ affine
    gains = np.linalg.det(poses.stretch[:, :3, :3])

    def work(item: tuple[int, FloatArray]) -> NDArray[np.float32]:
        number, data = item
        data /= head.left_in(poses.losses[number])
        values = resample_volume(data, head.where, moves[number])
        values *= np.float32(gains[number])
        return values

    items = enumerate(read(head.series, volumes))
    with closing(ordered_map(work, items, head.n_threads)) as results:
        yield from results


def mean_of(head: Head, volumes: Sequence[int], poses: Poses) -> NDArray[np.float32]:
    """Average aligned volumes, shape (V,)."""
    total = np.zeros(head.where.voxels.size)
    for values in resample_group(head, volumes, poses):
        total += values
    mean: NDArray[np.float32] = (total / len(volumes)).astype(np.float32)
    return mean


def predict_group(
    head: Head, volumes: Sequence[int], poses: Poses, bvecs: Floats, floor: float
) -> Prediction:
    """Fit the model that predicts each aligned volume from the others."""
    logs = np.empty((len(volumes), head.where.voxels.size), dtype=np.float32)
    for number, values in enumerate(resample_group(head, volumes, poses)):
        np.log(np.maximum(values, 0.0) + np.float32(floor), out=logs[number])
    chosen = head.mask.reshape(-1)[head.where.voxels]
    weights = leave_out_weights(volume_covariance(logs, chosen), bvecs)
    return Prediction(logs, weights, floor)


def align_shell(
    head: Head, volumes: Sequence[int], bvecs: Floats, rounds: int = ROUNDS
) -> tuple[Poses, Prediction]:
    """Align the volumes of one shell to one another.

    Parameters
    ----------
    head : Head
        The series.
    volumes : sequence of int
        Volumes of the shell, ascending.
    bvecs : ndarray of float64, shape (N, 3)
        Their directions.
    rounds : int
        Number of prediction rounds.

    Returns
    -------
    poses : Poses
        Relative to the shell's own frame.
    prediction : Prediction
        Model of the volumes in that frame.
    """
    poses = head.still(len(volumes))
    mean = mean_of(head, volumes, poses)
    chosen = head.mask.reshape(-1)[head.where.voxels]
    floor = FLOOR_SHARE * max(float(np.median(mean[chosen])), 1e-6)
    for _ in range(rounds):
        turned = rotate_gradients(bvecs, poses.rigid)
        prediction = predict_group(head, volumes, poses, turned, floor)
        weights = trust(head, prediction)
        found = align_group(head, volumes, poses, prediction, weights, stretched=True)
        found.losses = compare_slices(head, volumes, found, prediction).losses
        found = move_together(head, poses, found, prediction, weights)
        poses = settle(head, found, bvecs)
    turned = rotate_gradients(bvecs, poses.rigid)
    return poses, predict_group(head, volumes, poses, turned, floor)


def rotate_gradients(bvecs: Floats, rigid: Floats) -> Floats:
    """Rotate gradients with the head, into the frame of the reference.

    Parameters
    ----------
    bvecs : ndarray of float64, shape (N, 3)
        Directions in the scanner, RAS+.
    rigid : ndarray of float64, shape (N, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        Directions in the frame of the reference.

    Notes
    -----
    A motion ``x -> R x + t`` rotates a fibre along ``f`` in the reference to ``R f`` in the
    volume. The scanner's gradient ``g`` weights it by ``(g . R f)^2``, which is ``(R^T g .
    f)^2``: in the reference frame the gradient is ``R^T g``. The eddy-current stretch distorts
    the image, not the head, and rotates no gradient.

    Examples
    --------
    Head rotated by 90 degrees about z: a fibre along x points along y in the volume.

    >>> turned = np.eye(4)
    >>> turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    >>> rotate_gradients(np.array([[0.0, 1.0, 0.0]]), turned[None]).tolist()
    [[1.0, 0.0, 0.0]]
    """
    rotated: Floats = np.einsum("nji,nj->ni", rigid[:, :3, :3], bvecs)
    return rotated


def move_together(
    head: Head,
    before: Poses,
    found: Poses,
    prediction: Prediction,
    weights: NDArray[np.floating],
) -> Poses:
    """Solve for all poses jointly, as the predictions depend on the poses.

    A volume's prediction shares the misalignment of the volumes behind it: aligning each volume
    to its own prediction converges slowly if neighbouring directions are misaligned alike. With
    ``J_i`` the derivative of volume ``i`` with respect to its pose, ``w`` the weights, ``P`` the
    combination and ``d_i`` the step that aligns it to its prediction, the joint steps ``q`` solve

        ``A_ii q_i - sum_j P_ij A_ij q_j = A_ii d_i``  with  ``A_ij = J_i w J_j^T``.

    Parameters
    ----------
    head : Head
        The series.
    before, found : Poses
        Poses before and after aligning each volume to its prediction.
    prediction : Prediction
        Targets of the alignment.
    weights : ndarray, shape (I, J, K)
        Weight of each voxel.

    Returns
    -------
    Poses
    """
    n = len(prediction.logs)
    steps = pose_steps(head, before, found)
    size = steps.shape[1]
    slopes, counts = pose_slopes(head, prediction, weights)
    products = np.empty((n, size, n, size))
    for number in range(n):
        weighted = (slopes[number] * counts).astype(np.float32)
        products[number] = np.tensordot(weighted, slopes, axes=(1, 2))
    scale = np.sqrt(np.einsum("iaia->a", products) / n)
    products /= scale[:, None, None] * scale
    system = np.eye(n * size).reshape(n, size, n, size)
    for number in range(n):
        own = products[number, :, number] + 1e-6 * np.eye(size)
        shared = prediction.combination[number][None, :, None] * products[number]
        system[number] -= np.linalg.solve(own, shared.reshape(size, -1)).reshape(shared.shape)
    joint = np.linalg.lstsq(
        system.reshape(n * size, -1), (steps * scale).reshape(-1), rcond=LEAST_GRIP
    )[0]
    moved = joint.reshape(n, size) / scale
    rigid, stretch = before.rigid.copy(), before.stretch.copy()
    for number, step in enumerate(moved):
        rigid[number] = rigid[number] @ rigid_step(step[:6], head.centre)
        if head.along is not None:
            slope = stretch_slopes(stretch[number][None], head.along)[0] + step[6:]
            stretch[number] = stretch_step(slope, head.centre, head.along)
    return replace(found, rigid=rigid, stretch=stretch)


def pose_steps(head: Head, before: Poses, after: Poses) -> Floats:
    """Compute steps between poses: shift (mm), rotation vector, slopes; shape (N, 6) or (N, 9)."""
    from scipy.spatial.transform import Rotation

    old, new = centre_stretch(head, before), centre_stretch(head, after)
    way = np.linalg.inv(old.rigid) @ new.rigid
    shifts = way[:, :3, :3] @ head.centre + way[:, :3, 3] - head.centre
    turns = Rotation.from_matrix(way[:, :3, :3]).as_rotvec()
    parts = [shifts, turns]
    if head.along is not None:
        slopes = (stretch_slopes(p.stretch, head.along) for p in (new, old))
        parts.append(next(slopes) - next(slopes))
    return np.hstack(parts)


def pose_slopes(
    head: Head, prediction: Prediction, weights: NDArray[np.floating]
) -> tuple[NDArray[np.float32], Floats]:
    """Differentiate predicted volumes by the pose, at some voxels of the head.

    Returns
    -------
    slopes : ndarray of float32, shape (N, 6 or 9, M)
        Derivatives by shift (mm), rotation vector and slopes of the stretch.
    counts : ndarray of float64, shape (M,)
        Weight of each voxel.
    """
    inner = np.zeros(head.mask.shape, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = head.mask[1:-1, 1:-1, 1:-1]
    chosen = np.flatnonzero(inner)
    chosen = chosen[:: max(1, chosen.size // JOINT_POINTS)]
    affine = head.series.affine
    index = np.stack(np.unravel_index(chosen, head.mask.shape)).astype(np.float64)
    arm = affine[:3, :3] @ index + affine[:3, 3:] - head.centre[:, None]
    turn = inverse(affine)[:3, :3].T
    slopes = []
    for number in range(len(prediction.logs)):
        volume = soften(head.where.fill(prediction.volume(number)), (1, 1, 1))
        _, gradient = spline_values(volume)
        along = turn @ np.stack([g.reshape(-1)[chosen] for g in gradient]).astype(np.float64)
        rows = [along, np.cross(arm, along, axis=0)]
        if head.along is not None:
            rows.append((head.along @ along) * arm)
        slopes.append(np.vstack(rows).astype(np.float32))
    counts = np.asarray(weights).reshape(-1)[chosen].astype(np.float64)
    return np.stack(slopes), counts


def combine(combination: Floats, signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predict volumes, shape (N, V)."""
    made: NDArray[np.float32] = combination.astype(np.float32) @ signals
    return made


def trust(head: Head, prediction: Prediction) -> FloatArray:
    """Weight each voxel by the inverse variance of the prediction error."""
    variance = np.empty(head.where.voxels.size)
    for start in range(0, variance.size, CHUNK_VOXELS):
        part = slice(start, start + CHUNK_VOXELS)
        missed = np.abs(prediction.measured(part) - prediction.volume(slice(None), part))
        variance[part] = np.square(np.median(missed, axis=0) * MAD_TO_SIGMA)
    chosen = head.mask.reshape(-1)[head.where.voxels]
    usual = float(np.median(variance[chosen]))
    if usual <= 0:
        return head.mask.astype(np.float32)
    where = np.unravel_index(head.where.voxels[chosen], head.mask.shape)
    return variance_weights(head.mask, where, variance[chosen] / usual)


def settle(head: Head, poses: Poses, bvecs: Floats) -> Poses:
    """Remove the common motion and stretch of a shell.

    Parameters
    ----------
    head : Head
        The series.
    poses : Poses
        Estimated poses.
    bvecs : ndarray of float64, shape (N, 3)
        Directions.

    Returns
    -------
    Poses
        Stretches leave the centre of the head in place and have no common part; motions average
        to zero.
    """
    poses = centre_stretch(head, poses)
    stretch = poses.stretch
    if head.along is not None:
        slopes = stretch_slopes(stretch, head.along)
        slopes = caused_slopes(slopes, bvecs)
        stretch = np.stack([stretch_step(slope, head.centre, head.along) for slope in slopes])
    middle = inverse(mean_motion(poses.rigid, head.centre))
    return replace(poses, rigid=poses.rigid @ middle, stretch=stretch)


def centre_stretch(head: Head, poses: Poses) -> Poses:
    """Assign shifts to the motion, so that stretches leave the centre of the head in place."""
    if head.along is None:
        return poses
    rigid, stretch = poses.rigid.copy(), poses.stretch.copy()
    slopes = stretch_slopes(stretch, head.along)
    for number, slope in enumerate(slopes):
        moved = stretch[number, :3, :3] @ head.centre + stretch[number, :3, 3] - head.centre
        shift = np.eye(4)
        shift[:3, 3] = head.along * float(head.along @ moved / (1 + slope @ head.along))
        rigid[number] = shift @ rigid[number]
        stretch[number] = stretch_step(slope, head.centre, head.along)
    return replace(poses, rigid=rigid, stretch=stretch)


def stretch_slopes(stretch: Floats, along: Floats) -> Floats:
    """Compute the displacement along the axis per mm along x, y, z, shape (N, 3)."""
    slopes: Floats = np.einsum("i,nij->nj", along, stretch[:, :3, :3] - np.eye(3))
    return slopes


def caused_slopes(slopes: Floats, bvecs: Floats) -> Floats:
    """Keep the part of the stretches that gradients can have caused.

    Parameters
    ----------
    slopes : ndarray of float64, shape (N, 3)
        Slopes of the estimated stretches.
    bvecs : ndarray of float64, shape (N, 3)
        Directions.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        A linear function of the direction without a constant, plus the part of the remainder that
        exceeds the typical error. If all directions are alike the constant is undetermined; the
        mean is used.
    """
    design = np.column_stack([np.ones(len(bvecs)), bvecs])
    ridge = np.diag([0.0, 1.0, 1.0, 1.0]) * RIDGE * len(bvecs)
    counts, rest = np.ones(len(bvecs)), slopes
    solution: Floats = np.zeros((4, 3))
    for _ in range(ROBUST_STEPS):
        weighted = design * counts[:, None]
        solution = np.asarray(
            np.linalg.solve(weighted.T @ design + ridge, weighted.T @ slopes), dtype=np.float64
        )
        rest = slopes - design @ solution
        missed = np.sqrt(np.square(rest).sum(axis=1))
        counts = np.maximum(tukey(missed / robust_sigma(missed)), 1e-3)
    spare = max(len(bvecs) - 4, 1)
    variance = float(np.square(rest).sum()) / (3 * spare)
    kept = max(0.0, 1.0 - SLOPE_ERROR**2 / max(variance, np.finfo(float).tiny))
    caused: Floats = bvecs @ solution[1:] + kept * rest
    return caused


def mean_motion(rigid: Floats, centre: Floats) -> Affine:
    """Average motions about a centre, by their shifts there and rotation vectors."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_matrix(rigid[:, :3, :3]).as_rotvec()
    shifts = rigid[:, :3, :3] @ centre + rigid[:, :3, 3] - centre
    return rigid_step(np.concatenate([shifts.mean(axis=0), turns.mean(axis=0)]), centre)
