"""Simulation of a DWI run of a phantom participant, volume by volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.bold import SCALE, slice_times
from neuroferry.phantom.diffusion import (
    DiffusionHead,
    fit_tensor,
    signals_at_rest,
    tensor_maps,
)
from neuroferry.phantom.epi import EpiHead, add_noise, render_volume, trace, undistorted
from neuroferry.phantom.gradient_table import (
    GradientTable,
    draw_table,
    in_head,
    spread_directions,
)
from neuroferry.phantom.motion import draw_motion, motion_matrices
from neuroferry.phantom.relaxation import relative, spin_echo
from neuroferry.phantom.t1w import bias_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neuroferry.phantom.bold import BoldSession
    from neuroferry.phantom.dwi_options import DwiOptions
    from neuroferry.phantom.epi import EpiGrid
    from neuroferry.phantom.subject import SubjectAnatomy

TRUE_DIRECTIONS = 32  # along which the true tensor is fitted
_TRUE_SEED = 7
_EDDY_B = 1000.0  # s/mm2
_LEFT = (0.2, 0.6)  # of the signal of a dropped slice


@dataclass(frozen=True)
class DwiRun:
    """One series: all random draws, and the head they apply to.

    Attributes
    ----------
    head : DiffusionHead
        Head in the position of the first volume.
    table : GradientTable
        Scanner axes.
    motion : ndarray of float64, shape (T, 4, 4)
        Points of the first volume to points of each volume, rigid, RAS+ mm.
    eddy : ndarray of float64, shape (T, 4, 4)
        Eddy-current transform of points of each volume, along the phase encoding, RAS+ mm.
    slice_times : ndarray of float64, shape (K,)
        Seconds.
    kept : ndarray of float32, shape (T, K)
        Share of the signal that each slice keeps.
    coil : ndarray of float32, shape (I, J, K)
    """

    head: DiffusionHead
    table: GradientTable
    motion: NDArray[np.float64]
    eddy: NDArray[np.float64]
    slice_times: NDArray[np.float64]
    kept: NDArray[np.float32]
    coil: NDArray[np.float32]

    @property
    def grid(self) -> EpiGrid:
        """Grid of the series."""
        return self.head.head.grid

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Brain mask, head in the first volume, undistorted."""
        inside: NDArray[np.bool_] = self.head.head.tissues.sum(axis=0) >= 0.5
        return inside

    @property
    def seen(self) -> NDArray[np.float64]:
        """Gradients as the head sees them, shape (T, 3)."""
        return in_head(self.table.bvecs, self.motion)


def draw_dwi_run(
    anatomy: SubjectAnatomy,
    session: BoldSession,
    options: DwiOptions,
    rng: np.random.Generator,
    coil: NDArray[np.float32] | None = None,
) -> DwiRun:
    """Draw one series.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    session : BoldSession
        Position of the participant.
    options : DwiOptions
    rng : numpy.random.Generator
    coil : ndarray of float32, shape (I, J, K), optional
        Coil sensitivity of another run of the session, as it is fixed to the scanner.
    """
    still = EpiHead(anatomy, session.warp, session.pose, session.grid, session.field)
    head = DiffusionHead(still, _contrast(options))
    table = draw_table(options.directions, options.bvals, options.n_b0)
    # Always drawn, so that switching one effect off does not change the others.
    position = draw_motion(
        rng, options.n_volumes, tr=options.tr, drift=options.drift, jerk=options.jerk
    )
    grid = session.grid
    coefficients = rng.normal(size=(4, 3))
    lost = rng.random((options.n_volumes, grid.shape[2])) < options.dropped
    left = rng.uniform(*_LEFT, size=lost.shape)
    brain = still.tissues.sum(axis=0) >= 0.5
    drawn = bias_field(rng, grid.affine, brain, max(options.bias, 1e-6))
    return DwiRun(
        head=head,
        table=table,
        motion=motion_matrices(position, 0, session.pose[:3, 3]),
        eddy=eddy_transforms(table, grid, coefficients, brain, options.eddy),
        slice_times=slice_times(grid.shape[2], options.tr),
        kept=np.where(lost & (table.bvals > 0)[:, None], left, 1.0).astype(np.float32),
        coil=drawn if coil is None else coil,
    )


def eddy_transforms(
    table: GradientTable,
    grid: EpiGrid,
    coefficients: NDArray[np.float64],
    brain: NDArray[np.bool_],
    largest: float,
) -> NDArray[np.float64]:
    """Compute eddy-current transforms along the phase encoding, linear in b and the gradient.

    Eddy currents leave a field that varies linearly over the head, about the centre of the grid;
    in an echo-planar image it causes an affine shift along the phase encoding.

    Parameters
    ----------
    table : GradientTable
    grid : EpiGrid
    coefficients : ndarray of float64, shape (4, 3)
        Coefficients of the shift and of its slope along the three voxel axes (per 80 mm), for
        each component of the gradient; scaled to `largest`.
    brain : ndarray of bool, shape (I, J, K)
    largest : float
        Largest displacement of any brain point at b = 1000 s/mm2, mm.

    Returns
    -------
    ndarray of float64, shape (T, 4, 4)
        Points of the scanner to where their signal appears, RAS+ mm.

    References
    ----------
    Jezzard P, Barnett AS, Pierpaoli C (1998). Characterization of and correction for eddy
    current artifacts in echo planar diffusion imaging. Magnetic Resonance in Medicine 39,
    801-812. doi:10.1002/mrm.1910390518
    """
    axes = grid.affine[:3, :3] / grid.zooms
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    offsets = (np.argwhere(brain) - (np.array(grid.shape) - 1) / 2) * grid.zooms
    terms = np.column_stack([np.ones(len(offsets)), offsets / 80])
    unit = table.bvecs @ coefficients.T  # (T, 4)
    reach = float(np.abs(terms @ unit.T).max())
    weights = unit * (table.bvals / _EDDY_B)[:, None] * (largest / max(reach, 1e-12))
    slopes = weights[:, 1:] / 80 @ axes.T  # of the shift in mm, a world mm
    transforms = np.tile(np.eye(4), (len(unit), 1, 1))
    along = axes[:, grid.axis]
    transforms[:, :3, :3] += along[:, None] * slopes[:, None, :]
    transforms[:, :3, 3] = along * (weights[:, 0] - slopes @ middle)[:, None]
    return transforms


def dwi_volumes(
    run: DwiRun, options: DwiOptions, rng: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Simulate a series, volume by volume.

    Parameters
    ----------
    run : DwiRun
    options : DwiOptions
    rng : numpy.random.Generator
        For the noise.
    """
    head = run.head.head
    voxels = head.signal_voxels()
    sigma = dwi_noise_level(options)
    bare = head.blurred(run.head.image(0.0, np.zeros(3)))
    first = trace(head, head.grid, np.eye(4), voxels)
    rows = zip(run.table.bvals, run.seen, run.motion, run.eddy, run.kept, strict=True)
    for bval, bvec, motion, eddy, kept in rows:
        image = bare if bval == 0 else head.blurred(run.head.image(float(bval), bvec))
        bent = eddy if options.eddy > 0 and bval > 0 else None
        origin = trace(head, head.grid, motion, voxels, bent, first)
        volume = np.float32(SCALE) * render_volume(head, image, origin, motion, coil=run.coil)
        yield add_noise(volume * kept, sigma, rng)


def noiseless_b0(run: DwiRun, *, distorted: bool) -> NDArray[np.float32]:
    """Simulate a noiseless b0 image of the head in the position of the first volume."""
    head = run.head.head
    voxels, still = head.signal_voxels(), np.eye(4)
    origin = trace(head, head.grid, still, voxels) if distorted else undistorted(voxels)
    image = head.blurred(run.head.image(0.0, np.zeros(3)))
    return np.float32(SCALE) * render_volume(head, image, origin, still, coil=run.coil)


def dwi_noise_level(options: DwiOptions) -> float:
    """Compute the noise standard deviation in each channel, in the units of the file."""
    return SCALE / options.snr if options.snr else 0.0


def true_tensor(run: DwiRun) -> NDArray[np.float64]:
    """Fit the tensor of each brain voxel to its noiseless signal at the lowest shell.

    The signal is computed along `TRUE_DIRECTIONS` axes at the lowest b-value of the series: where
    several compartments share a voxel, no tensor describes their signal, and the result of a
    perfect scan depends on b.

    Returns
    -------
    ndarray of float64, shape (N, 3, 3)
        mm2/s, scanner axes; N voxels of :attr:`DwiRun.brain`.
    """
    lowest = float(run.table.bvals[run.table.bvals > 0].min())
    bvals = np.array([0.0, *[lowest] * TRUE_DIRECTIONS])
    bvecs = np.vstack([np.zeros(3), spread_directions(TRUE_DIRECTIONS, _TRUE_SEED)])
    return fit_tensor(signals_at_rest(run.head, bvals, bvecs, run.brain), bvals, bvecs)


def true_maps(run: DwiRun) -> dict[str, NDArray[np.float32]]:
    """Compute images of the true tensor and of the fibres, zero outside the brain.

    Returns
    -------
    dict of str to ndarray of float32
        ``fa``, ``md``, ``ad``, ``rd`` (mm2/s), shape (I, J, K); ``tensor`` (Dxx, Dxy, Dxz,
        Dyy, Dyz, Dzz) and ``direction``, shape (I, J, K, 6) and (I, J, K, 3), scanner axes
        (RAS+).
    """
    brain, tensor = run.brain, true_tensor(run)
    upper = tensor[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    maps = {**tensor_maps(tensor), "tensor": upper}
    images = {}
    for name, values in maps.items():
        images[name] = np.zeros((*brain.shape, *values.shape[1:]), dtype=np.float32)
        images[name][brain] = values
    return images


def _contrast(options: DwiOptions) -> dict[str, float]:
    brightness = spin_echo(echo_time=options.echo_time, tr=options.tr)
    return relative(brightness, brightness["wm"])
