"""Head motion on disk: one transform for each volume, and parameters in FSL's convention.

A motion transform maps points of the reference to points of one volume (RAS+ mm), so that
it resamples the volume onto the reference. Parameters follow the convention of ``mcflirt``,
as fMRIPrep's ``trans_*`` and ``rot_*`` do.

References
----------
.. [1] Jenkinson M et al. (2002). Improved optimization for the robust and accurate linear
   registration and motion correction of brain images. NeuroImage 17(2):825-841.
   doi:10.1006/nimg.2002.1132
.. [2] Jenkinson M (1999). Measuring transformation error by RMS deviation. FMRIB technical
   report TR99MJ1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_lines
from neuroferry.interfaces.image.images import Affine, Volume, inverse, voxel_sizes
from neuroferry.interfaces.image.transforms import LPS, itk_matrix

COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "rmsd")
RMSD_RADIUS_MM = 80.0


def write_motion_xfms(matrices: Iterable[Affine], path: str | os.PathLike[str]) -> Path:
    """Write one linear transform for each volume as ITK text.

    Parameters
    ----------
    matrices : iterable of ndarray of float64, shape (4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    path : path
        ``.txt`` file.

    Returns
    -------
    Path
        Path of the file.
    """
    path = Path(path)
    lines = ["#Insight Transform File V1.0"]
    for number, matrix in enumerate(matrices):
        lps = LPS @ matrix @ LPS
        numbers = " ".join(repr(float(v) + 0.0) for v in [*lps[:3, :3].ravel(), *lps[:3, 3]])
        lines += [
            f"#Transform {number}",
            "Transform: AffineTransform_double_3_3",
            f"Parameters: {numbers}",
            "FixedParameters: 0 0 0",
        ]
    write_lines(path, lines)
    return path


def read_motion_xfms(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read the transforms of a series from ITK text.

    Parameters
    ----------
    path : path
        ``.txt`` file with one 12-parameter transform for each volume.

    Returns
    -------
    ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.

    Raises
    ------
    InputError
        If the file holds anything else.
    """
    found: list[Affine] = []
    values: NDArray[np.float64] | None = None
    try:
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, numbers = line.partition(":")
            if key == "Parameters":
                values = np.array(numbers.split(), dtype=float)
            elif key == "FixedParameters" and values is not None:
                found.append(itk_matrix(values, np.array(numbers.split(), dtype=float)))
                values = None
    except ValueError as error:
        raise InputError(
            f"{Path(path).name} contains transforms that are not linear ({error})."
        ) from error
    if not found:
        raise InputError(f"{Path(path).name} contains no linear transform.")
    return np.stack(found)


def fsl_frame(shape: tuple[int, int, int], affine: Affine) -> Affine:
    """Compute FSL's scaled-voxel coordinates: index times voxel size, first axis radiological.

    Parameters
    ----------
    shape : tuple of int
        Numbers of voxels.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        RAS+ mm to FSL's mm.
    """
    frame = np.diag([*voxel_sizes(affine), 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        frame[0, 3] = (shape[0] - 1) * frame[0, 0]
        frame[0, 0] = -frame[0, 0]
    result: Affine = frame @ inverse(affine)
    return result


def motion_parameters(matrices: NDArray[np.float64], reference: Volume) -> NDArray[np.float64]:
    """Compute translations and rotations of a series in FSL's convention.

    FSL's matrix maps points of a volume to the reference: ``R (x - c) + c + t`` with
    ``R = Rx(-a) Ry(-b) Rz(-c)``, left-handed angles, about the reference's centre of mass, in
    the coordinates of :func:`fsl_frame`.

    Parameters
    ----------
    matrices : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    reference : Volume
        Reference image.

    Returns
    -------
    ndarray of float64, shape (T, 6)
        ``trans_x, trans_y, trans_z`` in mm, ``rot_x, rot_y, rot_z`` in radians.
    """
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    to_fsl = fsl_frame(reference.shape, reference.affine)
    mass = np.array([*ndimage.center_of_mass(np.maximum(reference.data, 0)), 1.0])
    centre = (to_fsl @ reference.affine @ mass)[:3]
    to_reference = to_fsl @ np.linalg.inv(matrices) @ inverse(to_fsl)
    turns = to_reference[:, :3, :3]
    angles = -Rotation.from_matrix(turns).as_euler("XYZ")
    shifts = to_reference[:, :3, 3] + turns @ centre - centre
    return np.hstack([shifts, angles]) + 0.0


def rms_deviation(matrices: NDArray[np.float64], reference: Volume) -> NDArray[np.float64]:
    """Compute the RMS deviation between successive volumes, over a sphere of 80 mm [2]_.

    Parameters
    ----------
    matrices : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    reference : Volume
        Reference image; the sphere is centred in its field of view.

    Returns
    -------
    ndarray of float64, shape (T,)
        mm; the first is NaN.
    """
    middle = (np.array(reference.shape) - 1) / 2
    centre = reference.affine[:3, :3] @ middle + reference.affine[:3, 3]
    to_reference = np.linalg.inv(matrices)
    difference = to_reference[1:] @ np.linalg.inv(to_reference[:-1]) - np.eye(4)
    turn = difference[:, :3, :3]
    shift = difference[:, :3, 3] + turn @ centre
    spread = np.einsum("tij,tij->t", turn, turn) * RMSD_RADIUS_MM**2 / 5
    deviation = np.sqrt(np.einsum("ti,ti->t", shift, shift) + spread)
    return np.concatenate([[np.nan], deviation])


def framewise_displacement(
    parameters: NDArray[np.float64], radius: float = 50.0
) -> NDArray[np.float64]:
    """Compute framewise displacement: sum of absolute changes, rotations on a sphere.

    Power JD et al. (2012), NeuroImage 59(3):2142-2154,
    doi:10.1016/j.neuroimage.2011.10.018.

    Parameters
    ----------
    parameters : ndarray of float64, shape (T, 6)
        From :func:`motion_parameters`.
    radius : float
        Radius of the sphere, mm.

    Returns
    -------
    ndarray of float64, shape (T,)
        mm; the first is NaN.

    Examples
    --------
    >>> framewise_displacement(np.array([[0.0] * 6, [0.5, 0, 0, 0, 0.01, 0]]))[1].item()
    1.0
    """
    steps = np.abs(np.diff(parameters, axis=0)) * ([1.0] * 3 + [radius] * 3)
    return np.concatenate([[np.nan], steps.sum(axis=1)])


def write_motion_table(
    parameters: NDArray[np.float64], rmsd: NDArray[np.float64], path: str | os.PathLike[str]
) -> Path:
    """Write motion parameters as a table, missing values as ``n/a``.

    Parameters
    ----------
    parameters : ndarray of float64, shape (T, 6)
        From :func:`motion_parameters`.
    rmsd : ndarray of float64, shape (T,)
        From :func:`rms_deviation`.
    path : path
        ``.tsv`` file.

    Returns
    -------
    Path
    """
    path = Path(path)
    rows = ["\t".join(COLUMNS)]
    for row in np.column_stack([parameters, rmsd]):
        rows.append("\t".join("n/a" if np.isnan(v) else f"{v:.8f}" for v in row))
    write_lines(path, rows)
    return path
