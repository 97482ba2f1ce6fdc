"""Alignment of the volumes of one shell: each to a prediction of itself from the others.

A volume's way is a rigid motion of the head followed by what eddy currents do to the image:
a displacement along the phase-encoding axis that is linear in place, so a stretch along the
axis and two shears (the constant part cannot be told from a motion in one volume).

1. All volumes to their mean, rigidly; then to the mean of the aligned ones, stretched too.
2. A few rounds: predict each volume from the others (:mod:`neuroferry.interfaces.dwi.eddy_model`),
   align it to that, resample. Voxels that the predictions miss more count less.
3. After each round what the volumes have in common is taken off, as nothing within a shell
   tells it: the mean motion, and the stretch of a gradient of zero. Eddy currents are
   proportional to the gradient that causes them, and change sign with it: the stretches are
   fitted as a linear function of the direction, and its constant is not theirs.
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
# Of the usual signal of the shell: half-way between a logarithm and none.
FLOOR_SHARE = 1.0
# Common movements that a round would bring less than this far are left alone.
LEAST_GRIP = 0.03
POINTS = 40_000
# Share of a slope's variance that a shell must show before the direction explains it.
RIDGE = 1e-3
ROBUST_STEPS = 8
# Usual error of a slope found in one volume, mm per mm.
SLOPE_ERROR = 0.007

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """What the volumes of a series have in common.

    Attributes
    ----------
    series : Series
        Where they are read.
    mask : ndarray of bool, shape (I, J, K)
        Head: what counts.
    where : StaticMap
        Voxels in and around the head: what is kept of each volume.
    centre : ndarray of float64, shape (3,)
        Middle of the head, RAS+ mm; eddy currents move nothing there.
    along : ndarray of float64, shape (3,), or None
        Phase-encoding axis in RAS+; without it volumes are moved rigidly.
    n_threads : int
        Volumes at a time; changes no value.
    """

    series: Series = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    where: StaticMap = field(repr=False)
    centre: Floats
    along: Floats | None = None
    n_threads: int = 1

    def fill(self, values: NDArray[np.float32]) -> Volume:
        """Put the kept voxels into a volume."""
        return Volume(self.where.fill(values), self.series.affine, self.series.header)


@dataclass
class Poses:
    """Where the volumes of a group were found.

    Attributes
    ----------
    rigid, stretch : ndarray of float64, shape (N, 4, 4)
        Points of the group's frame to the head's place in each volume, RAS+ mm, and from
        there to where the image shows them.
    residuals : ndarray of float64, shape (N,)
        Robust standard deviation of what remains; infinite for a volume without a head.
    losses : ndarray of float64, shape (N, S)
        Logarithm of what is left of the signal of spoilt slices, zero for the others.
    """

    rigid: Floats
    stretch: Floats
    residuals: Floats
    losses: Floats

    @property
    def matrices(self) -> Floats:
        """Both together, shape (N, 4, 4)."""
        both: Floats = self.stretch @ self.rigid
        return both


def still(n_volumes: int, n_slices: int) -> Poses:
    """Poses of volumes that nothing is known of."""
    identity = np.tile(np.eye(4), (n_volumes, 1, 1))
    return Poses(
        identity, identity.copy(), np.full(n_volumes, np.inf), np.zeros((n_volumes, n_slices))
    )


def read(series: Series, volumes: Sequence[int]) -> Iterator[FloatArray]:
    """Read some volumes of a series, in rising order, in one pass."""
    try:
        for number in volumes:
            yield series.volume(number)
    finally:
        series.close()


@dataclass(frozen=True)
class Prediction:
    """Predicts each volume of a shell from the others.

    Signals are combined as logarithms above a floor. In a voxel with one direction of
    fibres the logarithm is a polynomial of degree two in the direction; at the border of
    two tissues the signal itself is a mixture. A floor of about the usual signal lies
    between, and keeps the noise of dark voxels small.

    Attributes
    ----------
    logs : ndarray of float32, shape (N, V)
        Logarithms of the aligned volumes, the floor added.
    combination : ndarray of float64, shape (N, N)
        Weights of the others, from :func:`leave_out_weights`.
    floor : float
        What was added.
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
        """Give the aligned volumes at some voxels, shape (N, M)."""
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
        Which volumes, in rising order.
    poses : Poses
        Where to begin.
    reference : ndarray of float32, shape (V,), or Prediction
        Kept voxels of the image that all are aligned to, or what predicts each.
    weights : ndarray, shape (I, J, K)
        What each voxel counts.
    stretched : bool
        Look for stretches as well.

    Returns
    -------
    Poses
        A volume that could not be found stays where it was.
    """
    affine = head.series.affine
    along = head.along if stretched else None

    def prepare(values: NDArray[np.float32]) -> Target:
        return prepare_target(head.fill(values), weights, max_points=POINTS, along=along)

    def image(number: int) -> NDArray[np.float32]:
        return reference.volume(number) if isinstance(reference, Prediction) else reference

    common = None if isinstance(reference, Prediction) else prepare(reference)

    def work(item: tuple[int, FloatArray]) -> Alignment:
        number, data = item
        if poses.losses[number].any():
            data *= np.exp(-poses.losses[number]).astype(np.float32)
        target = common or prepare(image(number))
        if np.isfinite(poses.residuals[number]):
            target = replace(target, levels=target.levels[-1:])
        start, stretch = poses.matrices[number], poses.stretch[number]
        found = align_volume(target, data, affine, start, stretch)
        if not np.isfinite(found.residual):
            found = replace(found, matrix=start, stretch=stretch)
        return replace(found, differences=None)

    result = still(len(volumes), head.series.shape[2])
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
    """Look for slices that lost their signal; see :mod:`neuroferry.interfaces.dwi.outliers`.

    Parameters
    ----------
    head : Head
        The series.
    volumes : sequence of int
        Which volumes, in rising order.
    poses : Poses
        Where they are, and what was known of their slices when the reference was made.
    reference : ndarray of float32, shape (V,), or Prediction
        What all, or each, should look like.

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
        return slice_losses(expected, head.mask, data, affine, matrices[number])

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
    """Bring volumes into the common frame, each of shape (V,)."""
    affine = head.series.affine
    moves = inverse(affine) @ poses.matrices @ affine
    gains = np.linalg.det(poses.stretch[:, :3, :3])

    def work(item: tuple[int, FloatArray]) -> NDArray[np.float32]:
        number, data = item
        data *= np.exp(-poses.losses[number]).astype(np.float32)
        values = resample_volume(data, head.where, moves[number])
        values *= np.float32(gains[number])
        return values

    items = enumerate(read(head.series, volumes))
    with closing(ordered_map(work, items, head.n_threads)) as results:
        yield from results


def mean_of(head: Head, volumes: Sequence[int], poses: Poses) -> NDArray[np.float32]:
    """Mean of aligned volumes, shape (V,)."""
    total = np.zeros(head.where.voxels.size)
    for values in resample_group(head, volumes, poses):
        total += values
    mean: NDArray[np.float32] = (total / len(volumes)).astype(np.float32)
    return mean


def predict_group(
    head: Head, volumes: Sequence[int], poses: Poses, bvecs: Floats, floor: float
) -> Prediction:
    """Learn from aligned volumes how to predict each from the others."""
    logs = np.empty((len(volumes), head.where.voxels.size), dtype=np.float32)
    for number, values in enumerate(resample_group(head, volumes, poses)):
        np.log(np.maximum(values, 0.0) + np.float32(floor), out=logs[number])
    chosen = head.mask.reshape(-1)[head.where.voxels]
    weights = leave_out_weights(volume_covariance(logs, chosen), bvecs)
    return Prediction(logs, weights, floor)


def align_shell(
    head: Head, volumes: Sequence[int], bvecs: Floats, rounds: int = ROUNDS
) -> tuple[Poses, Prediction]:
    """Align the volumes of one shell among themselves.

    Parameters
    ----------
    head : Head
        The series.
    volumes : sequence of int
        Volumes of the shell, in rising order.
    bvecs : ndarray of float64, shape (N, 3)
        Their directions.
    rounds : int
        How often volumes are predicted.

    Returns
    -------
    poses : Poses
        In a frame of the shell's own.
    prediction : Prediction
        Of the volumes in that frame.
    """
    poses = still(len(volumes), head.series.shape[2])
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
    """Turn gradients with the head, to where it was in the reference.

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
    A motion ``x -> R x + t`` carries a fibre that points along ``f`` in the reference to
    ``R f`` in the volume. The scanner's gradient ``g`` weights it by ``(g . R f)^2``, which
    is ``(R^T g . f)^2``: in the reference's frame the gradient is ``R^T g``. The stretch by
    eddy currents moves the image and not the head, and turns nothing.

    Examples
    --------
    A head turned by 90 degrees about z: what pointed along x points along y in the volume.

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
    """Let volumes move knowing that their predictions move as well.

    A volume's prediction shares the misalignment of the volumes that it is made of: moving
    each volume to its own prediction, again and again, gets there slowly where neighbouring
    directions are off alike. With ``J_i`` the change of volume ``i`` with its pose, ``w`` the
    weights, ``P`` the combination and ``d_i`` the step that aligns it to its prediction, the
    steps ``q`` that align all at once solve

        ``A_ii q_i - sum_j P_ij A_ij q_j = A_ii d_i``  with  ``A_ij = J_i w J_j^T``.

    Parameters
    ----------
    head : Head
        The series.
    before, found : Poses
        Before and after aligning each volume to its prediction.
    prediction : Prediction
        What volumes were aligned to.
    weights : ndarray, shape (I, J, K)
        What each voxel counts.

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
    """Steps between poses: shift (mm), rotation vector and slopes, shape (N, 6) or (N, 9)."""
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
    """Change of predicted volumes with the pose at some voxels of the head.

    Returns
    -------
    slopes : ndarray of float32, shape (N, 6 or 9, M)
        For a shift (mm), a rotation vector and the slopes of a stretch.
    counts : ndarray of float64, shape (M,)
        What each voxel counts.
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
    """What each voxel counts: one over the variance of what the predictions miss."""
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
    """Take off what the volumes of a shell have in common.

    Parameters
    ----------
    head : Head
        The series.
    poses : Poses
        As found.
    bvecs : ndarray of float64, shape (N, 3)
        Directions.

    Returns
    -------
    Poses
        Stretches leave the middle of the head where it is, and have no part that all share;
        motions are zero on average.
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
    """Count shifts as motion: stretches leave the middle of the head where it is."""
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
    """Displacement along the axis per mm along x, y, z, shape (N, 3)."""
    slopes: Floats = np.einsum("i,nij->nj", along, stretch[:, :3, :3] - np.eye(3))
    return slopes


def caused_slopes(slopes: Floats, bvecs: Floats) -> Floats:
    """Keep of stretches what gradients can have caused.

    Parameters
    ----------
    slopes : ndarray of float64, shape (N, 3)
        Of the stretches as found.
    bvecs : ndarray of float64, shape (N, 3)
        Directions.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        A linear function of the direction without a constant, and as much of the rest as is
        more than the usual error. Directions that all point one way cannot tell the
        constant; it is the mean then.
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
    """Mean of motions about a centre: of their shifts there and rotation vectors."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_matrix(rigid[:, :3, :3]).as_rotvec()
    shifts = rigid[:, :3, :3] @ centre + rigid[:, :3, 3] - centre
    return rigid_step(np.concatenate([shifts.mean(axis=0), turns.mean(axis=0)]), centre)
