"""Simulation of a BOLD run of a phantom participant, volume by volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.anatomy import brain_template
from neuroferry.phantom.effects import (
    CONDITIONS,
    Effect,
    activation_weights,
    draw_events,
    physiology,
    task_course,
)
from neuroferry.phantom.epi import EpiGrid, EpiHead, add_noise, render_volume, trace, undistorted
from neuroferry.phantom.fieldmodel import susceptibility_field
from neuroferry.phantom.motion import draw_motion, motion_matrices, rigid
from neuroferry.phantom.relaxation import gradient_echo, relative
from neuroferry.phantom.t1w import bias_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neuroferry.phantom.bold_options import BoldOptions
    from neuroferry.phantom.deform import HeadWarp
    from neuroferry.phantom.epi import EpiOptions
    from neuroferry.phantom.fieldmodel import FieldModel
    from neuroferry.phantom.subject import SubjectAnatomy

SCALE = 1000.0  # value of white matter in the file, first echo
ECHO_SPACING = 0.00025  # s, effective
_ORIENTATIONS = ("LAS", "RAS", "LPS")
_FOV = 224.0  # mm, in plane
_BOLD_TE = 0.030  # s: echo time at which `activation` is defined
_TRANSIENT = 4  # volumes that differ from the steady state by more than the noise
_STEEPEST = 0.5  # voxels of shift that change from one voxel to the next


@dataclass(frozen=True)
class BoldSession:
    """Position of a participant during the functional scans of a session.

    Attributes
    ----------
    pose : ndarray of float64, shape (4, 4)
        Upright head to scanner, in the reference volume of the first run.
    warp : HeadWarp
        Placed in that pose.
    grid : EpiGrid
    field : FieldModel or None
    """

    pose: NDArray[np.float64]
    warp: HeadWarp
    grid: EpiGrid
    field: FieldModel | None

    def moved(self, motion: NDArray[np.float64]) -> tuple[NDArray[np.float64], HeadWarp]:
        """Return pose and warp after a rigid motion (4, 4) of the head, RAS+ mm."""
        return motion @ self.pose, self.warp.placed(motion @ self.warp.affine)


@dataclass(frozen=True)
class BoldRun:
    """One run: all random draws, and the head they apply to.

    Attributes
    ----------
    head : EpiHead
        Head in the position of the reference volume.
    reference : int
        Volume whose motion is the identity.
    motion : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    slice_times : ndarray of float64, shape (K,)
        Seconds.
    events : list of (onset, duration, condition)
    effects : list of Effect
    coil : ndarray of float32, shape (I, J, K)
    """

    head: EpiHead
    reference: int
    motion: NDArray[np.float64]
    slice_times: NDArray[np.float64]
    events: list[tuple[float, float, str]]
    effects: list[Effect]
    coil: NDArray[np.float32]


def draw_session(
    anatomy: SubjectAnatomy,
    anatomical: NDArray[np.float64],
    options: EpiOptions,
    rng: np.random.Generator,
) -> BoldSession:
    """Position the participant for one kind of echo-planar scan.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    anatomical : ndarray of float64, shape (4, 4)
        Pose in the session's T1w scan; the head has moved since.
    options : EpiOptions
    rng : numpy.random.Generator
    """
    rotation = np.clip(rng.normal(0, (4, 2, 3)), -9, 9)
    shift = rng.normal(0, (3, 4, 5))
    tilt = rng.normal(0, (7, 2, 2)) * (rng.random() < 0.5)
    pose = rigid(rotation, shift, anatomical[:3, 3]) @ anatomical
    warp = anatomy.warp.placed(pose @ anatomy.warp.affine)
    orientation = _ORIENTATIONS[anatomy.parameters.index % len(_ORIENTATIONS)]
    axes = rigid(tilt, (0, 0, 0))[:3, :3]
    grid = lay_slab(
        warp,
        orientation,
        axes,
        direction=options.direction,
        zoom=options.resolution,
        coverage=options.coverage,
    )
    field = None
    if options.distortion > 0:
        zoom = options.resolution
        field = susceptibility_field(
            anatomy,
            warp,
            pose,
            largest=options.distortion / zoom / grid.readout,
            steepest=_STEEPEST / zoom / grid.readout,
        )
    return BoldSession(pose, warp, grid, field)


def lay_slab(
    warp: HeadWarp,
    orientation: str,
    axes: NDArray[np.float64],
    *,
    direction: str,
    zoom: float,
    coverage: float,
) -> EpiGrid:
    """Place the slices over the brain.

    Parameters
    ----------
    warp : HeadWarp
        Placed in the scanner.
    orientation : str
        Orientation of the voxel axes; slices are stacked along the third.
    axes : ndarray of float64, shape (3, 3)
        Rotation of the slab.
    direction : str
        Phase-encoding direction, from ... to.
    zoom : float
        Voxel size, mm.
    coverage : float
        Share of the brain's height within the slices.
    """
    base = brain_template()
    inside = np.stack(np.nonzero(base.depth > 0), axis=-1)
    points = warp.to_subject(inside * base.coarse.spacing + base.coarse.low) @ axes
    low, high = points.min(axis=0), points.max(axis=0)
    height = (high[2] - low[2]) * coverage + 6
    plane = 2 * int(np.ceil(_FOV / zoom / 2))
    counts = np.array([plane, plane, int(np.ceil(height / zoom))])
    centre = (low + high) / 2
    centre[2] = high[2] + 3 - counts[2] * zoom / 2
    columns, origin = [], centre.copy()
    for axis, letter in enumerate(orientation):
        sign = 1.0 if letter in "RAS" else -1.0
        columns.append(axes[:, axis] * sign * zoom)
        origin[axis] -= sign * (counts[axis] - 1) / 2 * zoom
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(columns)
    affine[:3, 3] = axes @ origin
    towards = direction[1]
    along = 0 if towards in "LR" else 1
    encoding = "ij"[along] + ("" if orientation[along] == towards else "-")
    readout = ECHO_SPACING * (int(counts[along]) - 1)
    return EpiGrid(affine, (int(counts[0]), int(counts[1]), int(counts[2])), encoding, readout)


def draw_run(
    anatomy: SubjectAnatomy,
    session: BoldSession,
    options: BoldOptions,
    rng: np.random.Generator,
    *,
    first: bool,
) -> BoldRun:
    """Draw one run; after the first run of a session the head position differs slightly."""
    rotation, shift = rng.normal(0, 0.8, 3), rng.normal(0, 0.8, 3)
    between = np.eye(4) if first else rigid(rotation, shift, session.pose[:3, 3])
    pose, warp = session.moved(between)
    head = EpiHead(anatomy, warp, pose, session.grid, session.field)
    seconds = options.n_volumes * options.tr
    position = draw_motion(
        rng, options.n_volumes, tr=options.tr, drift=options.drift, jerk=options.jerk
    )
    reference = min(_TRANSIENT, options.n_volumes - 1)
    events = draw_events(rng, seconds)
    effects = physiology(rng, head.tissues, head.places, strength=options.physiology)
    if options.physiology == 0:
        effects = []
    if options.activation > 0:
        maps = activation_weights(head.places, head.tissues[0], options.activation)
        effects += [
            Effect(name, maps[name], task_course(events, name, seconds), bold=True)
            for name in CONDITIONS
        ]
    brain = head.tissues.sum(axis=0) >= 0.5
    coil = bias_field(rng, session.grid.affine, brain, max(options.bias, 1e-6))
    return BoldRun(
        head=head,
        reference=reference,
        motion=motion_matrices(position, reference, session.pose[:3, 3]),
        slice_times=slice_times(session.grid.shape[2], options.tr * options.slice_timing),
        events=events,
        effects=effects,
        coil=coil,
    )


def slice_times(n_slices: int, tr: float) -> NDArray[np.float64]:
    """Compute slice times after the start of the volume, s, for interleaved acquisition."""
    times = np.zeros(n_slices)
    order = np.concatenate([np.arange(0, n_slices, 2), np.arange(1, n_slices, 2)])
    times[order] = np.arange(n_slices) * tr / n_slices
    return times


def volumes(
    run: BoldRun, options: BoldOptions, rng: np.random.Generator
) -> Iterator[list[NDArray[np.float32]]]:
    """Scan a run: for each volume, one image per echo.

    Parameters
    ----------
    run : BoldRun
    options : BoldOptions
    rng : numpy.random.Generator
        For the noise.
    """
    voxels = run.head.signal_voxels()
    sigma = noise_level(run, options)
    history = spin_history(run, options)
    steady = [_echo(run, options, te, None) for te in options.echo_times]
    for number, motion in enumerate(run.motion):
        images = steady
        if options.transient and number < _TRANSIENT:
            images = [_echo(run, options, te, number) for te in options.echo_times]
        origin = trace(run.head, run.head.grid, motion, voxels)
        times = number * options.tr + run.slice_times
        courses = [effect.course(times) for effect in run.effects]
        scanned = []
        for te, image in zip(options.echo_times, images, strict=True):
            changes = [
                (effect, course, te / _BOLD_TE if effect.bold else 1.0)
                for effect, course in zip(run.effects, courses, strict=True)
            ]
            volume = render_volume(run.head, image, origin, motion, changes=changes, coil=run.coil)
            volume *= history[number]
            scanned.append(add_noise(volume, sigma, rng))
        yield scanned


def spin_history(run: BoldRun, options: BoldOptions) -> NDArray[np.float32]:
    """Compute the spin-history factor of each slice in each volume, shape (T, K).

    After motion across slices, a slice holds some spins that were excited later or earlier than
    the others. A fifth of the effect remains in the next volume.

    References
    ----------
    Friston KJ, Williams S, Howard R, Frackowiak RSJ, Turner R (1996). Movement-related
    effects in fMRI time-series. Magnetic Resonance in Medicine 35, 346-355.
    doi:10.1002/mrm.1910350312
    """
    affine, n_slices = run.head.grid.affine, run.head.grid.shape[2]
    centre = affine @ np.array([*(np.array(run.head.grid.shape) - 1) / 2, 1.0])
    thickness = run.head.grid.zooms[2]
    through = (run.motion @ centre)[:, :3] @ (affine[:3, 2] / thickness) / thickness
    moved = np.clip(np.abs(np.diff(through, prepend=through[0])), 0, 1)
    moved[1:] += 0.2 * moved[:-1]
    sides = 1.0 - 2.0 * (np.arange(n_slices) % 2)
    return (1 + options.spin_history * moved[:, None] * sides).astype(np.float32)


def noiseless_reference(
    run: BoldRun, options: BoldOptions, *, distorted: bool
) -> list[NDArray[np.float32]]:
    """Scan the head in its reference position in the steady state, at rest; one image per echo."""
    head = run.head
    still = np.eye(4)
    voxels = head.signal_voxels()
    origin = trace(head, head.grid, still, voxels) if distorted else undistorted(voxels)
    return [
        render_volume(head, _echo(run, options, te, None), origin, still, coil=run.coil)
        for te in options.echo_times
    ]


def noise_level(run: BoldRun, options: BoldOptions) -> float:
    """Compute the noise standard deviation in each channel, in the units of the file."""
    if options.snr == 0:
        return 0.0
    te = min(options.echo_times, key=lambda t: abs(t - _BOLD_TE))
    return _brightness(options, te, None)["gm"] * SCALE / options.snr


def _brightness(options: BoldOptions, te: float, pulses: int | None) -> dict[str, float]:
    """Compute the contrast relative to white matter in the steady state, first echo."""
    unit = gradient_echo(echo_time=options.echo_times[0], tr=options.tr, flip=options.flip)["wm"]
    contrast = gradient_echo(echo_time=te, tr=options.tr, flip=options.flip, pulses=pulses)
    return relative(contrast, unit)


def _echo(
    run: BoldRun, options: BoldOptions, te: float, pulses: int | None
) -> NDArray[np.float32]:
    lost = run.head.dephasing(te, slice_axis=2) if options.dropout else None
    image = run.head.image(_brightness(options, te, pulses), lost)
    return image * np.float32(SCALE)
