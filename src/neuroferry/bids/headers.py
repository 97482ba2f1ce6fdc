"""Headers of images: reading and comparing them.

nibabel raises a dozen kinds of exceptions on damaged files, depending on where the damage is;
here each becomes one sentence that names the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroferry.bids.nifti import open_image
from neuroferry.errors import GeometryError, InputError, NeuroferryError

Affine = NDArray[np.float64]

# Sine of the angle between axes above which the directions of two grids differ.
SAME_AXES = 0.02
# Largest distance between the corners of two grids that are the same, mm: see `same_grid`.
SAME_GRID_MM = 0.1
# The same where values are copied voxel by voxel instead of being interpolated, mm.
SAME_VOXELS_MM = 1e-3

# Factors to seconds of the time units of a header; an unknown unit is read as seconds.
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class ImageFacts:
    """The header of one image.

    Attributes
    ----------
    shape : tuple of int
        Lengths of all axes, as stored.
    zooms : tuple of float
        Voxel sizes in mm, then the header's values for any further axes.
    affine : tuple of 4 tuples of 4 float
        Voxel indices to RAS+ mm.
    tr : float
        Time from one volume to the next, s; 0 if the header has none.
    units : tuple of str
        Of space and time, as nibabel names them: ``("mm", "sec")``.
    dtype : str
        Type of the stored values, such as ``"int16"``.
    slice_axis : int or None
        Stored axis of the slices, if the header names one (``dim_info``).
    """

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    affine: tuple[tuple[float, ...], ...]
    tr: float = 0.0
    units: tuple[str, str] = ("unknown", "unknown")
    dtype: str = ""
    slice_axis: int | None = None

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Numbers of voxels of one volume; 1 along an axis that is not stored."""
        i, j, k = (*self.shape[:3], 1, 1, 1)[:3]
        return i, j, k

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size in mm, of the affine, which places the voxels; 1 along an axis not stored.

        The header's own field for it, `zooms`, differs after some conversions.
        """
        lengths = np.linalg.norm(np.asarray(self.affine, dtype=float)[:3, :3], axis=0)
        sizes = [float(f"{length:.7g}") for length in lengths[: len(self.shape)]]
        x, y, z = (*sizes, 1.0, 1.0, 1.0)[:3]
        return x, y, z

    @property
    def axes(self) -> str:
        """Directions of the voxel axes, such as ``"RAS"``; ``?`` for one without a direction."""
        import nibabel as nb

        affine = np.array(self.affine)
        if not np.isfinite(affine).all():
            return "???"
        return "".join(code or "?" for code in nb.orientations.aff2axcodes(affine))

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return self.shape[3] if len(self.shape) > 3 else 1


def read_header(path: str | os.PathLike[str]) -> ImageFacts:
    """Read the header of a NIfTI image.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.

    Returns
    -------
    ImageFacts

    Raises
    ------
    InputError
        If the file is missing, damaged or not a NIfTI image.
    """
    with open_image(Path(path)) as opened:
        header = opened.header
        space, time = units_of(header)
        zooms = tuple(float(zoom) for zoom in header.get_zooms())
        try:
            affine = header.get_best_affine()
        except Exception as error:  # nibabel raises several kinds on a bad quaternion
            raise InputError(
                f"{path} has no valid orientation in its header ({error}); convert the image again"
            ) from error
        return ImageFacts(
            shape=tuple(int(n) for n in header.get_data_shape()),
            zooms=zooms,
            affine=tuple(tuple(float(value) for value in row) for row in affine),
            tr=zooms[3] * SECONDS.get(time, 1.0) if len(zooms) > 3 else 0.0,
            units=(space, time),
            dtype=str(header.get_data_dtype()),
            slice_axis=header.get_dim_info()[2],
        )


def units_of(header: Any) -> tuple[str, str]:
    """Return the units of space and time of a header, ``"unknown"`` for a code without meaning."""
    from nibabel.nifti1 import unit_codes

    code = int(header["xyzt_units"])
    known = unit_codes.value_set("code")
    space, time = (
        str(unit_codes.label[part]) if part in known else "unknown"
        for part in (code & 0x07, code & 0x38)
    )
    return space, time


@contextmanager
def reading_image(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any exception of nibabel on an unreadable file into one sentence, without warnings.

    Parameters
    ----------
    path : path
        The image whose header or voxels are read.

    Raises
    ------
    InputError
        Naming the file, the reason and what to do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except NeuroferryError:
        raise
    except Exception as error:  # any of a dozen kinds, by where the damage is
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read as a NIfTI image ({reason}); it may be truncated: copy or"
            " convert it again."
        ) from error


def image_grid(path: Path) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Read the number of voxels along each axis, and their size in mm, from a header."""
    facts = read_header(path)
    return facts.volume_shape, facts.voxel_size


def image_shape(path: Path) -> tuple[int, int, int]:
    """Read the number of voxels along each axis from an image's header."""
    return read_header(path).volume_shape


class Gridded(Protocol):
    """Anything with a shape and an affine, such as an image or a header."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of voxels, and of volumes, if any."""

    @property
    def affine(self) -> ArrayLike:
        """Voxel indices to RAS+ mm, shape (4, 4)."""


@dataclass(frozen=True)
class Grid:
    """Grid of the voxels of an image.

    Attributes
    ----------
    shape : tuple of int
        Numbers of voxels, and of volumes, if any.
    affine : array_like of float, shape (4, 4)
        Voxel indices to RAS+ mm.
    """

    shape: tuple[int, ...]
    affine: ArrayLike


def same_axes(one: ArrayLike, other: ArrayLike) -> bool:
    """Check whether the axes of two grids point in the same directions.

    Parameters
    ----------
    one, other : array_like of float, shape (4, 4)
        Voxel indices to RAS+ mm.

    Examples
    --------
    >>> same_axes(np.diag([2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1]))
    True
    >>> same_axes(np.diag([2.0, 2, 2, 1]), np.diag([-2.0, 2, 2, 1]))
    False
    """
    first, second = (
        matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        for matrix in (np.asarray(one, dtype=float), np.asarray(other, dtype=float))
    )
    return bool(np.abs(first - second).max() < SAME_AXES)


def same_grid(one: Gridded, other: Gridded, *, tolerance_mm: float = SAME_GRID_MM) -> bool:
    """Check whether two images have the same grid.

    They do if the number of voxels along each axis is the same, and no corner of the field of
    view is farther than `tolerance_mm` from that of the other; volumes are not compared.

    Parameters
    ----------
    one, other : image
        Anything with ``shape`` and ``affine``.
    tolerance_mm : float
        The 0.1 mm of `SAME_GRID_MM` is for images that belong together. It exceeds the error
        of storing an affine: a rotation stored as a quaternion in single precision may be off
        by 6e-4 rad, which moves a corner 150 mm away by 0.09 mm, and scanners write positions
        with few digits. And it is too small to matter to any step: a twentieth of a voxel of
        2 mm. `SAME_VOXELS_MM` is for deciding whether values need interpolation, which
        changes results.

    Examples
    --------
    >>> facts = ImageFacts((64, 64, 30), (3.0, 3.0, 3.0), tuple(map(tuple, np.diag([3, 3, 3, 1]))))
    >>> same_grid(facts, facts)
    True
    """
    return not grid_difference(one, other, tolerance_mm=tolerance_mm)


def grid_difference(one: Gridded, other: Gridded, *, tolerance_mm: float = SAME_GRID_MM) -> str:
    """Describe how the grids of two images differ; empty if they do not (see `same_grid`)."""
    shapes = one.shape[:3], other.shape[:3]
    if shapes[0] != shapes[1]:
        sizes = (" x ".join(str(n) for n in shape) for shape in shapes)
        return f"{' and '.join(sizes)} voxels"
    apart = np.asarray(one.affine, dtype=float) - np.asarray(other.affine, dtype=float)
    ends = [(0, n - 1) for n in shapes[0]]
    corners = np.array(np.meshgrid(*ends, indexing="ij"), dtype=float).reshape(3, -1)
    moved = np.linalg.norm(apart[:3, :3] @ corners + apart[:3, 3:], axis=0).max()
    # NaN is not a distance either.
    return "" if moved <= tolerance_mm else f"voxels up to {moved:.3g} mm apart"


def check_same_grid(
    first: tuple[str, Gridded],
    *others: tuple[str, Gridded],
    then: str = "check that they belong together, or resample one onto the other",
) -> None:
    """Check that images have the same grid (see `same_grid`).

    Parameters
    ----------
    first, *others : tuple of (str, image)
        Its name in messages, and anything with ``shape`` and ``affine``.
    then : str
        Advice for the message.

    Raises
    ------
    GeometryError
        If grids differ; the message names the two images and the difference.
    """
    for name, image in others:
        difference = grid_difference(image, first[1])
        if difference:
            start = f"The {name[4:]}" if name.startswith("the ") else name
            raise GeometryError(
                f"{start} is on a different grid from {first[0]} ({difference}); {then}."
            )
