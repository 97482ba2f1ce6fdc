"""Quick estimate of head motion in a DWI run, for quality control.

The model is that of :mod:`neuroferry.interfaces.dwi.eddy_align`: each volume of a shell is aligned
to its prediction from the others, by a rigid motion followed by the stretch of eddy currents, and
all poses are solved jointly. But values and derivatives are taken at some tens of thousands of
points of the head instead of all voxels, and no volume is resampled, which takes a tenth of the
time. What images alone leave open is settled by the order of the volumes, as in the complete
estimation (:mod:`neuroferry.interfaces.dwi.eddy_time`).

Error of framewise displacement on the phantom (65 volumes of 2 mm, 0.82 mm from volume to volume):
0.07 mm on average, 0.32 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.gradients import Shell
from neuroferry.interfaces.dwi.eddy_align import (
    LEAST_GRIP,
    caused_slopes,
    mean_motion,
    rotate_gradients,
)
from neuroferry.interfaces.dwi.eddy_model import leave_out_weights, volume_covariance
from neuroferry.interfaces.dwi.eddy_time import (
    MOST_APART,
    caused_shifts,
    parameters_of,
)
from neuroferry.interfaces.dwi.gradients import Gradients
from neuroferry.interfaces.dwi.register_b0 import tie_images
from neuroferry.interfaces.epi.motion import head_mask
from neuroferry.interfaces.epi.realign import (
    MAD_TO_SIGMA,
    rigid_step,
    robust_sigma,
    sample,
    stretch_step,
    tukey,
)
from neuroferry.interfaces.epi.realign_target import block_affine, block_mean
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, inverse, voxel_sizes
from neuroferry.interfaces.image.series import ordered_map

Floats = NDArray[np.float64]

#: Fewer volumes than this are registered one by one: too few for predictions.
MIN_SHELL = 6
#: Most volumes that are registered one by one.
MOST_SINGLES = 24
#: Voxel size of the first level, mm.
COARSE_MM = 4.0
#: Points of the head at the two levels, and of those for the joint solution.
COARSE_POINTS, FINE_POINTS, JOINT_POINTS = 12_000, 20_000, 10_000
#: Rounds at the two levels.
COARSE_ROUNDS, FINE_ROUNDS = 4, 3
#: Volumes of a shell that are averaged to register it to the others.
MEAN_VOLUMES = 12
#: Smallest variance of a point, relative to the typical one.
LEAST_VARIANCE = 0.25

#: Typical size of what the contrast of the directions feigns, mm and radians, per unit of a
#: quadratic function of the direction; and the fewest steps to tell it from motion.
FEIGNED = np.array([0.3, 0.3, 0.3, 0.006, 0.006, 0.006])
#: The error of the ties between shells, relative to it.
TIED = 3.0
LEAST_STEPS = 12
ROUNDS_IN_TIME = 10


@dataclass
class _Group:
    """Volumes of one contrast, and their poses."""

    volumes: list[int]
    rigid: Floats
    slopes: Floats

    @classmethod
    def still(cls, volumes: Sequence[int]) -> _Group:
        n = len(volumes)
        return cls(sorted(volumes), np.tile(np.eye(4), (n, 1, 1)), np.zeros((n, 3)))


def estimate_motion(
    data: FloatArray,
    affine: Affine,
    gradients: Gradients,
    along: Floats | None = None,
    *,
    n_threads: int = 1,
) -> Floats:
    """Estimate the head motion of a DWI run.

    Parameters
    ----------
    data : ndarray of float32, shape (T, I, J, K)
        Volumes as acquired.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    gradients : Gradients
        One for each volume.
    along : ndarray of float64, shape (3,), optional
        Phase-encoding axis in RAS+, along which eddy currents stretch the volumes; without it
        they are taken for motion.
    n_threads : int
        Volumes processed in parallel; does not change the result.

    Returns
    -------
    ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm. The reference is the first
        volume of the lowest b-value.
    """
    return _Estimate(data, affine, gradients, along, n_threads).run()


def count_singles(shells: Sequence[Shell]) -> int:
    """Count the volumes that have to be registered one by one.

    >>> count_singles((Shell(0.0, (0,)), Shell(1000.0, tuple(range(1, 9))), Shell(2000.0, (9,))))
    1
    """
    return sum(len(shell.volumes) for shell in shells if _is_few(shell))


def feigned_motion(
    parameters: Floats, bvecs: Floats, shells: NDArray[np.int64], volumes: Sequence[int]
) -> Floats:
    """Estimate the part of motion parameters that follows the gradient instead of time.

    A prediction from other directions is a little too smooth a function of the direction, and
    what it misses of the contrast looks like motion that is a quadratic function of the
    direction. And shells and b0 volumes are tied to one another with an error. Like the shifts
    of eddy currents, both jump from volume to volume, while the head does not: they are fitted
    to the steps from each volume to the next, robustly, and shrunk by their precision.

    Parameters
    ----------
    parameters : ndarray of float64, shape (N, 6)
        Shift (mm) and rotation vector (radians) of volumes.
    bvecs : ndarray of float64, shape (N, 3)
        Their directions; zero for b0 volumes.
    shells : ndarray of int, shape (N,)
        Number of the shell of each, from 1; 0 for b0 volumes.
    volumes : sequence of int
        Their indices in the series, ascending.

    Returns
    -------
    ndarray of float64, shape (N, 6)
        Zero if there are too few steps.

    Examples
    --------
    >>> directions = np.random.default_rng(0).normal(size=(40, 3))
    >>> directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    >>> feigned = np.zeros((40, 6))
    >>> feigned[:, 2] = 0.3 * directions[:, 0] * directions[:, 1]
    >>> found = feigned_motion(feigned, directions, np.ones(40, int), range(40))
    >>> bool(np.abs(np.diff(found - feigned, axis=0)).max() < 0.01)
    True
    """
    gaps = np.diff(volumes)
    near = np.flatnonzero(gaps <= MOST_APART)
    if near.size < LEAST_STEPS:
        return np.zeros_like(parameters)
    x, y, z = bvecs.T
    terms = np.stack([x * y, x * z, y * z, x * x - y * y, z * z - 1 / 3], axis=1)
    numbers = np.unique(shells)
    curved = [terms * (shells == number)[:, None] for number in numbers if number]
    # The constant of the first group would move all volumes alike.
    constant = [(shells == number).astype(np.float64)[:, None] for number in numbers[1:]]
    basis = np.hstack([*curved, *constant])
    scale = np.ones(basis.shape[1])
    scale[basis.shape[1] - len(constant) :] = TIED
    design = np.diff(basis, axis=0)[near] / np.sqrt(gaps[near])[:, None]
    steps = np.diff(parameters, axis=0)[near] / np.sqrt(gaps[near])[:, None]
    feigned = np.zeros_like(parameters)
    for column, typical in enumerate(FEIGNED):
        weights = np.ones(len(steps))
        solution, sigma = np.zeros(design.shape[1]), typical
        for _ in range(ROUNDS_IN_TIME):
            weighted = design * weights[:, None] / sigma**2
            precision = weighted.T @ design + np.diag(1 / (typical * scale) ** 2)
            solution = np.linalg.solve(precision, weighted.T @ steps[:, column])
            rest = np.abs(steps[:, column] - design @ solution)
            # What is fitted to few steps leaves too little.
            spare = max(near.size - design.shape[1], 1) / near.size
            sigma = MAD_TO_SIGMA * float(np.median(rest)) / np.sqrt(spare)
            sigma = max(sigma, 1e-3 * typical)
            weights = np.maximum(tukey(rest / sigma), 1e-3)
        feigned[:, column] = basis @ solution
    return feigned


def _is_few(shell: Shell) -> bool:
    return not shell.is_b0 and len(shell.volumes) < MIN_SHELL


class _Estimate:
    """Alignment of the shells of a run, lowest b-value first."""

    def __init__(
        self,
        data: FloatArray,
        affine: Affine,
        gradients: Gradients,
        along: Floats | None,
        n_threads: int,
    ) -> None:
        self.data, self.affine, self.gradients = data, affine, gradients
        self.along, self.n_threads = along, n_threads
        self.shells = gradients.shells
        first = data[self.shells[0].volumes[0]]
        mask = head_mask(Volume(first, affine))
        for shell in self.shells[1:2]:
            mask |= head_mask(Volume(data[list(shell.volumes)].mean(axis=0), affine))
        self.mask = mask
        self.centre = affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
        self.rigid = np.tile(np.eye(4), (len(data), 1, 1))

    def run(self) -> Floats:
        """Align all volumes."""
        known: Volume | None = None
        for shell in self.shells:
            few = _is_few(shell)
            volumes = sorted(shell.volumes)
            if few and known is not None:
                for volume in volumes:
                    moving = Volume(self.data[volume], self.affine)
                    self.rigid[volume] = tie_images(known, moving, self.mask)
                continue
            group = _Group.still(volumes)
            if len(volumes) > 1:
                self._align(group, None if shell.is_b0 or few else self.gradients.bvecs[volumes])
            if known is None:
                group.rigid = group.rigid @ inverse(group.rigid[0])
            mean = self._mean(group)
            if known is not None:
                group.rigid = group.rigid @ tie_images(known, mean, self.mask)
                mean = self._mean(group)
            self.rigid[volumes] = group.rigid
            known = mean
        self._settle_in_time()
        return np.asarray(self.rigid)

    def _settle_in_time(self) -> None:
        """Use the order of the volumes: what follows the gradient is no motion."""
        b0s = sorted(v for shell in self.shells if shell.is_b0 for v in shell.volumes)
        groups = [sorted(s.volumes) for s in self.shells if not (s.is_b0 or _is_few(s))]
        for volumes in groups:
            if self.along is not None:
                turned = self.rigid[volumes]
                shifts = turned[:, :3, :3] @ self.centre + turned[:, :3, 3] - self.centre
                caused = caused_shifts(shifts @ self.along, self.gradients.bvecs[volumes], volumes)
                self.rigid[volumes, :3, 3] -= np.outer(caused, self.along)
        shell_of = {volume: n for n, group in enumerate([b0s, *groups]) for volume in group}
        aligned = sorted(shell_of)
        parameters = np.stack([parameters_of(one, self.centre) for one in self.rigid[aligned]])
        numbers = np.array([shell_of[volume] for volume in aligned])
        parameters -= feigned_motion(parameters, self.gradients.bvecs[aligned], numbers, aligned)
        self.rigid[aligned] = [rigid_step(one, self.centre) for one in parameters]

    def _mean(self, group: _Group) -> Volume:
        """Average some volumes of a group, aligned."""
        n = len(group.volumes)
        chosen = np.unique(np.linspace(0, n - 1, min(n, MEAN_VOLUMES)).round().astype(int))
        index = np.argwhere(np.ones(self.mask.shape, bool)).T.astype(np.float64)
        to_voxels = inverse(self.affine)

        def work(number: int) -> Floats:
            way = to_voxels @ self._pose(group, number) @ self.affine
            if np.array_equal(group.rigid[number], np.eye(4)):
                same: Floats = self.data[group.volumes[number]].ravel().astype(np.float64)
                return same
            return sample(self.data[group.volumes[number]], way, index)[0]

        total = np.zeros(self.mask.size)
        for values in ordered_map(work, chosen.tolist(), self.n_threads):
            total += values
        mean = (total / chosen.size).reshape(self.mask.shape).astype(np.float32)
        return Volume(mean, self.affine)

    def _pose(self, group: _Group, number: int) -> Affine:
        if self.along is None:
            return np.asarray(group.rigid[number])
        matrix: Affine = (
            stretch_step(group.slopes[number], self.centre, self.along) @ group.rigid[number]
        )
        return matrix

    def _align(self, group: _Group, bvecs: Floats | None) -> None:
        """Align the volumes of a group to one another: coarse, then fine."""
        zooms = voxel_sizes(self.affine)
        i, j, k = (max(1, round(COARSE_MM / float(zoom))) for zoom in zooms)
        levels = [((i, j, k), COARSE_POINTS, COARSE_ROUNDS), ((1, 1, 1), FINE_POINTS, FINE_ROUNDS)]
        for blocks, n_points, n_rounds in levels:
            images = [block_mean(self.data[v], blocks) for v in group.volumes]
            affine = block_affine(self.affine, blocks)
            inside = block_mean(self.mask.astype(np.float32), blocks) > 0.5
            _Level(self, images, affine, inside, n_points).refine(group, bvecs, n_rounds)


class _Level:
    """Volumes of a group at one resolution, and the points at which they are compared."""

    def __init__(
        self,
        estimate: _Estimate,
        images: list[FloatArray],
        affine: Affine,
        inside: NDArray[np.bool_],
        n_points: int,
    ) -> None:
        self.images, self.affine, self.estimate = images, affine, estimate
        chosen = np.argwhere(inside)
        picked = np.linspace(0, len(chosen) - 1, min(n_points, len(chosen))).astype(int)
        index = chosen[picked].T.astype(np.float64)
        self.points = affine[:3, :3] @ index + affine[:3, 3:]
        self.coarse = max(voxel_sizes(affine)) > max(voxel_sizes(estimate.affine))
        self.step = 0.7 * float(voxel_sizes(affine).min())

    def refine(self, group: _Group, bvecs: Floats | None, n_rounds: int) -> None:
        """Improve the poses of a group."""
        estimate = self.estimate
        slopes: NDArray[np.float32] | None = None
        for number in range(n_rounds):
            values, seen = self._values(group)
            if slopes is None or (self.coarse and number < 2):
                slopes = self._slopes(group)
            self._solve(group, bvecs, values, seen, slopes)
            if bvecs is not None and estimate.along is not None:
                group.slopes = caused_slopes(group.slopes, bvecs)
            elif bvecs is None:
                group.slopes[:] = 0.0
            group.rigid = group.rigid @ inverse(mean_motion(group.rigid, estimate.centre))

    def _values(self, group: _Group) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Sample each volume at the points, both of shape (N, M)."""

        def work(number: int) -> tuple[Floats, NDArray[np.bool_]]:
            return self._sample(group, number, self.points)

        found = list(ordered_map(work, range(len(self.images)), self.estimate.n_threads))
        values = np.stack([value for value, _ in found]).astype(np.float32)
        return values, np.stack([there for _, there in found])

    def _sample(
        self, group: _Group, number: int, points: Floats
    ) -> tuple[Floats, NDArray[np.bool_]]:
        matrix = self.estimate._pose(group, number)
        values, inside = sample(self.images[number], inverse(self.affine) @ matrix, points)
        return values * np.linalg.det(matrix[:3, :3]), inside

    def _slopes(self, group: _Group) -> NDArray[np.float32]:
        """Differentiate each volume along x, y, z at the points, shape (N, 3, M)."""

        def work(number: int) -> NDArray[np.float32]:
            rows = []
            for axis in range(3):
                ends = []
                for sign in (1.0, -1.0):
                    beside = self.points.copy()
                    beside[axis] += sign * self.step
                    ends.append(self._sample(group, number, beside)[0])
                rows.append((ends[0] - ends[1]) / (2 * self.step))
            return np.stack(rows).astype(np.float32)

        found = ordered_map(work, range(len(self.images)), self.estimate.n_threads)
        return np.stack(list(found))

    def _solve(
        self,
        group: _Group,
        bvecs: Floats | None,
        values: NDArray[np.float32],
        seen: NDArray[np.bool_],
        slopes: NDArray[np.float32],
    ) -> None:
        """Take one joint step of all poses."""
        n, centre, along = len(values), self.estimate.centre, self.estimate.along
        floor = np.float32(max(float(np.median(values)), 1e-6))
        logs = np.log(np.maximum(values, 0) + floor)
        if bvecs is None:
            along = None
            combination = (1.0 - np.eye(n)) / (n - 1)
        else:
            turned = rotate_gradients(bvecs, group.rigid)
            everywhere = np.asarray(seen.all(axis=0))
            combination = leave_out_weights(volume_covariance(logs, everywhere), turned)
        mixed = combination.astype(np.float32)
        raised = np.exp(mixed @ logs)
        predicted = raised - floor
        shares = slopes / (np.maximum(values, 0) + floor)[:, None, :]
        gradient = np.tensordot(mixed, shares, axes=(1, 0)) * raised[:, None, :]
        arm = self.points - centre[:, None]
        steps = joint_steps(
            pose_design(gradient, arm, along), values, predicted, seen, combination
        )
        for number, step in enumerate(steps):
            group.rigid[number] = group.rigid[number] @ rigid_step(step[:6], centre)
            if along is not None:
                group.slopes[number] += step[6:]


def pose_design(
    gradient: NDArray[np.float32], arm: Floats, along: Floats | None
) -> NDArray[np.float32]:
    """Differentiate volumes by their poses.

    Parameters
    ----------
    gradient : ndarray of float32, shape (N, 3, M)
        Derivatives along x, y, z at M points, per mm.
    arm : ndarray of float64, shape (3, M)
        Points relative to the centre of rotation, mm.
    along : ndarray of float64, shape (3,), or None
        Axis of the stretch, if there is one.

    Returns
    -------
    ndarray of float32, shape (N, 6 or 9, M)
        By shift (mm), rotation vector (radians) and slopes of the stretch.
    """
    size = 6 if along is None else 9
    designs = np.empty((len(gradient), size, arm.shape[1]), np.float32)
    for design, slope in zip(designs, gradient.astype(np.float64), strict=True):
        design[:3] = slope
        design[3:6] = np.cross(arm, slope, axis=0)
        if along is not None:
            design[6:] = (along @ slope) * arm
    return designs


def joint_steps(
    designs: NDArray[np.float32],
    values: NDArray[np.float32],
    predicted: NDArray[np.float32],
    seen: NDArray[np.bool_],
    combination: Floats,
) -> Floats:
    """Solve for the steps of all poses at once, as predictions depend on the poses.

    See :func:`neuroferry.interfaces.dwi.eddy_align.move_together`. Gain and offset of each volume
    are free; points count by their noise, and less where a slice is lost.

    Parameters
    ----------
    designs : ndarray of float32, shape (N, P, M)
        From :func:`pose_design`.
    values, predicted : ndarray of float32, shape (N, M)
        Volumes at the points, and their predictions.
    seen : ndarray of bool, shape (N, M)
        Points inside the field of view of the volume.
    combination : ndarray of float64, shape (N, N)
        Weights of the volumes in the predictions.

    Returns
    -------
    ndarray of float64, shape (N, P)
    """
    n, size, n_points = designs.shape
    rest = predicted - values
    spread = MAD_TO_SIGMA * np.median(np.abs(rest), axis=0)
    variance = np.square(spread / max(float(np.median(spread)), 1e-12))
    variance = np.maximum(variance, LEAST_VARIANCE)
    some = designs[:, :, :: max(1, n_points // JOINT_POINTS)]
    thin = slice(None, None, max(1, n_points // JOINT_POINTS))
    scale = np.sqrt(np.einsum("vam,vam,m->a", some, some, 1 / variance[thin]) / n)
    steps = np.empty((n, size))
    system = np.eye(n * size).reshape(n, size, n, size)
    for number in range(n):
        own, difference = designs[number].astype(np.float64), rest[number].astype(np.float64)
        ratio = difference / np.sqrt(variance)
        ratio -= np.median(ratio)
        weights = np.where(seen[number], tukey(ratio / robust_sigma(ratio)) / variance, 0.0)
        nuisance = np.stack([predicted[number].astype(np.float64), np.ones(n_points)])
        free, left = _without(nuisance, weights, own, difference)
        free *= weights
        steps[number] = np.linalg.solve(
            _raised(free @ own.T / scale[:, None] / scale), free @ left / scale
        )
        products = np.tensordot(free[:, thin].astype(np.float32), some, axes=(1, 2))
        products = products / scale / scale[:, None, None]
        shared = combination[number][None, :, None] * products
        mine = np.linalg.solve(_raised(products[:, number]), shared.reshape(size, -1))
        system[number] -= mine.reshape(shared.shape)
    square = system.reshape(n * size, -1)
    joint = np.linalg.lstsq(square, steps.reshape(-1), rcond=LEAST_GRIP)[0]
    found: Floats = joint.reshape(n, size) / scale
    return found


def _raised(matrix: Floats) -> Floats:
    """Add a little to the diagonal, so that the matrix can be inverted."""
    size = len(matrix)
    more: Floats = matrix + (1e-6 * float(np.trace(matrix)) / size + 1e-30) * np.eye(size)
    return more


def _without(
    nuisance: Floats, weights: Floats, design: Floats, values: Floats
) -> tuple[Floats, Floats]:
    """Remove what a gain and an offset explain, by weighted least squares."""
    weighted = nuisance * weights
    normal = weighted @ nuisance.T
    normal[np.diag_indices_from(normal)] *= 1 + 1e-9
    both = np.vstack([design, values])
    left = both - np.linalg.solve(normal, weighted @ both.T).T @ nuisance
    return left[:-1], left[-1]
