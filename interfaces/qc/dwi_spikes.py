"""Spikes and lost slices of a DWI run: signals unlike those of the same voxel in its shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.interfaces.qc.regions import MAD_TO_SIGMA, NAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neuroferry.bids.gradients import Shell

SPIKE_SIGMAS = 4.0
"""Robust standard deviations from its median beyond which a voxel spikes."""
MIN_VOLUMES = 8
"""Fewest volumes of a shell whose spikes are looked for."""
SLICE_SHARE = 0.05
"""Share of the brain's voxels in a slice beyond which the slice is counted."""
SLICE_VOXELS = 20
"""Fewest voxels of the brain in a slice that is judged."""


@dataclass(frozen=True)
class Spikes:
    """Spiking voxels of a run.

    Attributes
    ----------
    values : dict of str to float
        ``spikes_global`` and ``spikes_slice_{i,j,k}``, per million.
    shares : ndarray of float64, shape (T,)
        Share of the brain that spikes in each volume; NaN in shells of too few volumes.
    deviations : ndarray of float64, shape (T, S)
        Median deviation of each slice along the slice axis, in robust standard deviations.
    odd : ndarray of bool, shape (T, S)
        Slices with more than 5% of spiking voxels.
    """

    values: dict[str, float]
    shares: NDArray[np.float64]
    deviations: NDArray[np.float64]
    odd: NDArray[np.bool_]


def voxel_deviations(
    signals: NDArray[np.float32], shells: Sequence[Shell]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Compare each signal with the median of its voxel over the volumes of its shell.

    Parameters
    ----------
    signals : ndarray of float32, shape (T, V)
        Voxels of the brain.
    shells : sequence of Shell
        Volumes of about one b-value.

    Returns
    -------
    deviations : ndarray of float32, shape (T, V)
        In robust standard deviations of the voxel over its shell, but at least the median of
        these over all voxels; zero where not judged.
    judged : ndarray of bool, shape (T,)
        Volumes of shells with at least eight volumes that vary.
    """
    deviations = np.zeros(signals.shape, np.float32)
    judged = np.zeros(len(signals), dtype=bool)
    for shell in shells:
        volumes = list(shell.volumes)
        if len(volumes) < MIN_VOLUMES:
            continue
        part = signals[volumes]
        part = part - np.median(part, axis=0)
        sigma = np.float32(MAD_TO_SIGMA) * np.median(np.abs(part), axis=0)
        usual = float(np.median(sigma)) if sigma.size else 0.0
        if not usual > 0:
            continue
        deviations[volumes] = part / np.maximum(sigma, np.float32(usual))
        judged[volumes] = True
    return deviations, judged


def find_spikes(
    signals: NDArray[np.float32],
    brain: NDArray[np.bool_],
    shells: Sequence[Shell],
    slice_axis: int = 2,
) -> Spikes:
    """Find spiking voxels and slices.

    Parameters
    ----------
    signals : ndarray of float32, shape (T, V)
        Signals of the voxels of `brain`, as acquired.
    brain : ndarray of bool, shape (I, J, K)
    shells : sequence of Shell
        Volumes of about one b-value.
    slice_axis : int
        Axis along which slices are stacked.

    Returns
    -------
    Spikes
        ``nan`` if no shell has eight volumes.

    Notes
    -----
    Both signs count: a spike in the raw data brightens voxels, and motion during the diffusion
    weighting darkens a slice. ``spikes_global`` is the share of voxels that deviate by more than
    four robust standard deviations. A slice (of either axis) of a volume is counted if more than
    5% of its voxels do.
    """
    names = ["spikes_global", *(f"spikes_slice_{axis}" for axis in "ijk")]
    deviations, judged = voxel_deviations(signals, shells)
    n_volumes, n_slices = len(signals), brain.shape[slice_axis]
    along = np.full((n_volumes, n_slices), NAN)
    odd = np.zeros((n_volumes, n_slices), dtype=bool)
    if not judged.any() or not brain.any():
        shares = np.full(n_volumes, NAN)
        return Spikes(dict.fromkeys(names, NAN), shares, along, odd)
    spiking = np.abs(deviations) > SPIKE_SIGMAS
    shares = np.where(judged, spiking.mean(axis=1), NAN)
    values = {"spikes_global": 1e6 * float(spiking[judged].mean())}
    places = np.nonzero(brain)
    for axis, name in enumerate("ijk"):
        counts = np.bincount(places[axis], minlength=brain.shape[axis])
        sums = np.stack(
            [np.bincount(places[axis], row, minlength=brain.shape[axis]) for row in spiking]
        )
        large = counts >= SLICE_VOXELS
        many = sums > SLICE_SHARE * counts
        judged_slices = many[judged][:, large]
        found = float(judged_slices.mean()) if judged_slices.size else NAN
        values[f"spikes_slice_{name}"] = 1e6 * found
        if axis == slice_axis:
            odd = many & large & judged[:, None]
    order = np.argsort(places[slice_axis], kind="stable")
    bounds = np.searchsorted(places[slice_axis][order], np.arange(n_slices + 1))
    for number in range(n_slices):
        inside = order[bounds[number] : bounds[number + 1]]
        if inside.size >= SLICE_VOXELS:
            along[judged, number] = np.median(deviations[judged][:, inside], axis=1)
    return Spikes(values, shares, along, odd)
