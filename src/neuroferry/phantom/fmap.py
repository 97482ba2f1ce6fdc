"""Field map scans of a session: dual gradient echoes, or EPI with opposite phase encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.bold import SCALE, lay_slab
from neuroferry.phantom.epi import EpiHead, add_noise, render_volume, trace, undistorted
from neuroferry.phantom.motion import rigid
from neuroferry.phantom.relaxation import gradient_echo, relative, spin_echo
from neuroferry.phantom.t1w import bias_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroferry.phantom.bold import BoldSession
    from neuroferry.phantom.epi import EpiGrid, EpiOptions
    from neuroferry.phantom.subject import SubjectAnatomy

GRE_ECHO_TIMES = (0.00492, 0.0123)  # s: wraps beyond 68 Hz
GRE_TR, GRE_FLIP = 0.6, 60.0  # s, degrees
EPI_ECHO_TIME, EPI_TR = 0.066, 8.0  # s: spin echo, so no dropout
EPI_VOLUMES = 3
PHASE_UNIT = np.pi / 4096  # radians of one stored unit, as Siemens stores phase
_GRE_RESOLUTION = 3.0  # mm, or that of the BOLD where it is coarser


@dataclass(frozen=True)
class GradientEchoes:
    """Dual-echo field map scan.

    Attributes
    ----------
    head : EpiHead
        Head in the position of this scan, on its grid.
    motion : ndarray of float64, shape (4, 4)
        Points of the first run's reference to points of this scan, RAS+ mm.
    magnitude : list of ndarray of float32
        One per echo.
    phase : list of ndarray of float32
        Radians, -pi to pi, one per echo.
    difference : ndarray of float32
        Phase of the second echo minus that of the first, wrapped, radians.
    field : ndarray of float32
        Field map as stored by a scanner, with the same noise, unwrapped; Hz.
    """

    head: EpiHead
    motion: NDArray[np.float64]
    magnitude: list[NDArray[np.float32]]
    phase: list[NDArray[np.float32]]
    difference: NDArray[np.float32]
    field: NDArray[np.float32]


@dataclass(frozen=True)
class OpposedEpi:
    """Two series of spin-echo images, phase-encoded in opposite directions.

    Attributes
    ----------
    head : EpiHead
    motion : ndarray of float64, shape (4, 4)
        Points of the first run's reference to points of this scan, RAS+ mm.
    grids : tuple of two EpiGrid
        Readout of the BOLD series, and the opposite one.
    series : tuple of two lists of ndarray of float32
        Volumes of each.
    """

    head: EpiHead
    motion: NDArray[np.float64]
    grids: tuple[EpiGrid, EpiGrid]
    series: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]


def scan_gradient_echoes(
    anatomy: SubjectAnatomy, session: BoldSession, options: EpiOptions, rng: np.random.Generator
) -> GradientEchoes:
    """Simulate a dual-echo field map; the head has moved by about a millimetre.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    session : BoldSession
    options : EpiOptions
    rng : numpy.random.Generator
    """
    motion = between_scans(rng, session)
    pose, warp = session.moved(motion)
    zoom = max(_GRE_RESOLUTION, options.resolution)
    grid = lay_slab(warp, "LPS", np.eye(3), direction=options.direction, zoom=zoom, coverage=1.0)
    head = EpiHead(anatomy, warp, pose, grid, session.field)
    voxels = head.signal_voxels()
    brain = head.tissues.sum(axis=0) >= 0.5
    coil = bias_field(rng, grid.affine, brain, max(options.bias, 1e-6))
    field = head.field_on_grid()
    receiver = _receiver_phase(rng, grid.shape)
    unit = gradient_echo(echo_time=GRE_ECHO_TIMES[0], tr=GRE_TR, flip=GRE_FLIP)["wm"]
    echoes = []
    for te in GRE_ECHO_TIMES:
        contrast = relative(gradient_echo(echo_time=te, tr=GRE_TR, flip=GRE_FLIP), unit)
        image = head.image(contrast, head.dephasing(te, slice_axis=2) if options.dropout else None)
        magnitude = SCALE * render_volume(head, image, undistorted(voxels), np.eye(4), coil=coil)
        phase = receiver + np.float32(2 * np.pi * te) * field
        echoes.append(_with_noise(magnitude, phase, _sigma(options), rng))
    delta = GRE_ECHO_TIMES[1] - GRE_ECHO_TIMES[0]
    difference = np.angle(echoes[1] * np.conj(echoes[0])).astype(np.float32)
    truth = np.float32(2 * np.pi * delta) * field
    noise = np.angle(np.exp(1j * (difference - truth)))
    return GradientEchoes(
        head=head,
        motion=motion,
        magnitude=[np.abs(echo).astype(np.float32) for echo in echoes],
        phase=[np.angle(echo).astype(np.float32) for echo in echoes],
        difference=difference,
        field=(field + noise / (2 * np.pi * delta)).astype(np.float32),
    )


def scan_opposed(
    anatomy: SubjectAnatomy, session: BoldSession, options: EpiOptions, rng: np.random.Generator
) -> OpposedEpi:
    """Simulate spin-echo EPI in both phase-encoding directions, on the BOLD grid.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    session : BoldSession
    options : EpiOptions
    rng : numpy.random.Generator
    """
    motion = between_scans(rng, session)
    pose, warp = session.moved(motion)
    head = EpiHead(anatomy, warp, pose, session.grid, session.field)
    unit = spin_echo(echo_time=EPI_ECHO_TIME, tr=EPI_TR)
    image = head.image(relative(unit, unit["wm"])) * np.float32(SCALE)
    voxels = head.signal_voxels()
    brain = head.tissues.sum(axis=0) >= 0.5
    coil = bias_field(rng, session.grid.affine, brain, max(options.bias, 1e-6))
    grids = (session.grid, session.grid.reversed())
    series: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for grid, volumes in zip(grids, series, strict=True):
        origin = trace(head, grid, np.eye(4), voxels)
        volume = render_volume(head, image, origin, np.eye(4), coil=coil)
        volumes += [add_noise(volume, _sigma(options), rng) for _ in range(EPI_VOLUMES)]
    return OpposedEpi(head, motion, grids, series)


def between_scans(rng: np.random.Generator, session: BoldSession) -> NDArray[np.float64]:
    """Draw the head motion between two scans of a session, shape (4, 4), RAS+ mm."""
    return rigid(rng.normal(0, 0.6, 3), rng.normal(0, 0.6, 3), session.pose[:3, 3])


def _sigma(options: EpiOptions) -> float:
    return SCALE / options.snr if options.snr else 0.0


def _receiver_phase(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Draw the smooth phase that both echoes share, radians."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    terms = np.stack([np.ones(shape), x, y, z, x * y, y * z, x * x + y * y])
    weights = rng.normal(0, 1.5, len(terms))
    phase = np.zeros(shape, dtype=np.float32)
    for weight, term in zip(weights, terms, strict=True):
        phase += (weight * term).astype(np.float32)
    return phase


def _with_noise(
    magnitude: NDArray[np.float32],
    phase: NDArray[np.float32],
    sigma: float,
    rng: np.random.Generator,
) -> NDArray[np.complex64]:
    signal = magnitude * np.exp(1j * phase)
    noise = rng.standard_normal((2, *magnitude.shape), dtype=np.float32)
    noisy: NDArray[np.complex64] = (signal + sigma * (noise[0] + 1j * noise[1])).astype(
        np.complex64
    )
    return noisy
