"""True profiles along a phantom's bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.bundles import NODES
from neuroferry.phantom.diffusion import eigenvalues

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neuroferry.phantom.bundles import Bundle, Course
    from neuroferry.phantom.dwi import DwiRun

PROFILE_COLUMNS = ("fa", "md", "rd", "ad")
_LEAST_SHARE = 0.02  # of a voxel that the bundle fills


def true_profile(
    bundle: Bundle,
    run: DwiRun,
    maps: Mapping[str, NDArray[np.float32]],
    share: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Average the true maps over a bundle at each of 100 nodes along it.

    A voxel is weighted by the share that the bundle fills, less towards the tube's wall, and
    contributes to the nodes next to it. This is the result of a perfect analysis of a perfect
    scan with these voxels, including crossing fibres and partial volume.

    Parameters
    ----------
    bundle : Bundle
    run : DwiRun
    maps : mapping of str to ndarray of float32, shape (I, J, K)
        From :func:`true_maps`.
    share : ndarray of float32, shape (I, J, K)
        Share of each voxel that the bundle fills.

    Returns
    -------
    ndarray of float64, shape (100, 4)
        Columns of `PROFILE_COLUMNS`, mm2/s; NaN where the bundle is not in the image.
    """
    inside = np.nonzero(share > _LEAST_SHARE)
    profile = np.full((NODES, len(PROFILE_COLUMNS)), np.nan)
    field = bundle.field(run.head.head.places[:, inside[0], inside[1], inside[2]].T)
    chosen = tuple(axis[field.index] for axis in inside)
    if not chosen[0].size:
        return profile
    weight = share[chosen] * np.exp(-(field.radius.astype(np.float64) ** 2))
    spacing = bundle.length / (NODES - 1)
    width = max(1.0, 0.5 * float(run.grid.zooms.max()) / spacing)  # nodes
    away = np.arange(NODES)[:, None] - (NODES - 1) * field.position[None, :].astype(np.float64)
    weights = weight * np.exp(-((away / width) ** 2) / 2) * (np.abs(away) < 3 * width)
    total = weights.sum(axis=1)
    reached = total > 1e-6 * weight.max()
    for column, name in enumerate(PROFILE_COLUMNS):
        values = (weights[reached] * maps[name][chosen]).sum(axis=1)
        profile[reached, column] = values / total[reached]
    return profile


def fibre_profile(course: Course) -> NDArray[np.float64]:
    """Compute the profile of a bundle's own fibres, as drawn.

    Parameters
    ----------
    course : Course

    Returns
    -------
    ndarray of float64, shape (100, 4)
        Columns of `PROFILE_COLUMNS`, mm2/s.
    """
    fa, md = course.at(np.linspace(0, 1, NODES))
    axial, radial = eigenvalues(fa, md)
    return np.stack([fa, md, radial, axial], axis=1)
