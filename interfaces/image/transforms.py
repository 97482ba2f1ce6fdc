"""Spatial transforms: ITK files, composition, resampling, Jacobian determinants.

A transform here maps **points** of the target grid to points of the source image, in RAS+
mm. ITK, and therefore ANTs, stores LPS+ mm on disk; the functions that read and write
convert. ``from-A_to-B_mode-image_xfm`` in BIDS names a transform that resamples an image in
space A onto a grid in space B, and therefore maps points from B to A.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.headers import SAME_VOXELS_MM, Grid, same_grid
from neuroferry.errors import InputError
from neuroferry.files import write_bytes, write_text
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    voxel_sizes,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FIELD_STEP_MM = 2.0**-10
SLAB_VOXELS = 500_000
# A matrix that changes volumes by a factor smaller than this cannot be inverted.
LEAST_DETERMINANT = 1e-6


@dataclass(frozen=True)
class DisplacementField:
    """Dense displacement field: ``y(x) = x + d(x)``, zero outside its grid.

    Attributes
    ----------
    data : ndarray of float32, shape (I, J, K, 3)
        Displacements in mm along the RAS+ axes.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices of the field to RAS+ mm.
    """

    data: FloatArray
    affine: Affine


Transform = Affine | DisplacementField


def grid_to_itk(
    affine: Affine,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Split a RAS+ affine into ITK's origin, spacing and direction (LPS+).

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.

    Returns
    -------
    origin : ndarray of float64, shape (3,)
        Centre of the first voxel, mm.
    spacing : ndarray of float64, shape (3,)
        Voxel sizes, mm.
    direction : ndarray of float64, shape (3, 3)
        Unit vectors of the axes as columns.
    """
    lps = LPS @ affine
    spacing = voxel_sizes(affine)
    return lps[:3, 3].copy(), spacing, lps[:3, :3] / spacing


def write_itk_affine(matrix: Affine, path: str | os.PathLike[str]) -> Path:
    """Write a linear transform as ITK text.

    Parameters
    ----------
    matrix : ndarray of float64, shape (4, 4)
        Maps points to points, RAS+ mm.
    path : path
        ``.txt`` file.

    Returns
    -------
    Path
        Path of the file.
    """
    path = Path(path)
    lps = LPS @ matrix @ LPS
    numbers = " ".join(repr(float(v)) for v in [*lps[:3, :3].ravel(), *lps[:3, 3]])
    text = (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    write_text(path, text)
    return path


def read_itk_affine(path: str | os.PathLike[str]) -> Affine:
    """Read one linear transform from ITK text.

    Parameters
    ----------
    path : path
        ``.txt`` file with a 12-parameter transform.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Maps points to points, RAS+ mm.

    Raises
    ------
    InputError
        If the file is not an ITK text file, or holds another kind of transform.
    """
    fields: dict[str, str] = {}
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value)
    try:
        values = np.array(fields["Parameters"].split(), dtype=float)
        centre = np.array(fields["FixedParameters"].split(), dtype=float)
        return itk_matrix(values, centre)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{Path(path).name} does not hold one linear ITK transform with 12 parameters"
            f" ({error})."
        ) from error


def itk_matrix(values: NDArray[np.float64], centre: NDArray[np.float64]) -> Affine:
    """Convert ITK parameters and a centre of rotation (LPS+) to a RAS+ matrix."""
    if values.size != 12 or centre.size != 3:
        raise ValueError("not a 12-parameter transform")
    if not (np.isfinite(values).all() and np.isfinite(centre).all()):
        raise ValueError("a parameter is not a finite number")
    if abs(np.linalg.det(values[:9].reshape(3, 3))) < LEAST_DETERMINANT:
        raise ValueError("its matrix cannot be inverted")
    lps = np.eye(4)
    lps[:3, :3] = values[:9].reshape(3, 3)
    lps[:3, 3] = values[9:] + centre - lps[:3, :3] @ centre
    matrix: Affine = LPS @ lps @ LPS
    return matrix


def write_itk_composite(transforms: Sequence[Transform], path: str | os.PathLike[str]) -> Path:
    """Write a chain of transforms as an ITK composite (HDF5).

    Displacements are rounded to 1/1024 mm, which halves the file.

    Parameters
    ----------
    transforms : sequence
        4x4 matrices and :class:`DisplacementField`, in the order in which they act on a
        point. (ITK stores, and ANTs lists, the last one to act first.)
    path : path
        ``.h5`` file.

    Returns
    -------
    Path
        Path of the file.
    """
    import h5py

    path = Path(path)
    # In memory first: on a full disk HDF5 aborts the whole process.
    with h5py.File(path.name, "w", driver="core", backing_store=False, track_order=False) as store:
        for key, value in (("ITKVersion", "5.4"), ("HDFVersion", h5py.version.hdf5_version)):
            _store_text(store, key, value)
        group = store.create_group("TransformGroup")
        _store_text(group.create_group("0"), "TransformType", "CompositeTransform_double_3_3")
        for index, transform in enumerate(reversed(transforms), start=1):
            _write_one(group.create_group(str(index)), transform)
        store.flush()
        content = store.id.get_file_image()
    write_bytes(path, content)
    return path


def _store_text(group: Any, key: str, value: str) -> None:
    """Store a string as ITK does: variable length, in an array of one."""
    import h5py

    group.create_dataset(key, data=[value], dtype=h5py.string_dtype("ascii"))


def _write_one(group: Any, transform: Transform) -> None:
    """Store one transform of a composite."""
    if isinstance(transform, DisplacementField):
        _store_text(group, "TransformType", "DisplacementFieldTransform_float_3_3")
        origin, spacing, direction = grid_to_itk(transform.affine)
        size = np.array(transform.data.shape[:3], dtype=float)
        fixed = np.concatenate([size, origin, spacing, direction.ravel()])
        # ITK orders voxels with the first axis fastest, components innermost.
        lps = np.empty((*transform.data.shape[2::-1], 3), dtype=np.float32)
        for axis, sign in enumerate((-1, -1, 1)):
            steps = np.round(transform.data[..., axis] * np.float32(sign / FIELD_STEP_MM))
            lps[..., axis] = (steps * np.float32(FIELD_STEP_MM)).T
        values = lps.ravel()
        values += 0.0
        group.create_dataset("TransformFixedParameters", data=fixed)
        group.create_dataset(
            "TransformParameters",
            data=values,
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            chunks=(min(values.size, 1 << 20),),
        )
        return
    lps_matrix = LPS @ transform @ LPS
    _store_text(group, "TransformType", "AffineTransform_double_3_3")
    group.create_dataset("TransformFixedParameters", data=np.zeros(3))
    group.create_dataset(
        "TransformParameters",
        data=np.concatenate([lps_matrix[:3, :3].ravel(), lps_matrix[:3, 3]]),
    )


def read_itk_composite(path: str | os.PathLike[str]) -> list[Transform]:
    """Read an ITK composite (HDF5) of linear transforms and displacement fields.

    Parameters
    ----------
    path : path
        ``.h5`` file, written here or by ANTs.

    Returns
    -------
    list
        4x4 matrices and :class:`DisplacementField`, in the order in which they act.

    Raises
    ------
    InputError
        If the file is not such a composite.
    """
    import h5py

    try:
        # some file systems have no locks, and files here are whole before they have their name
        with h5py.File(path, "r", locking=False) as store:
            group = store["TransformGroup"]
            stored = [_read_one(group[key]) for key in sorted(group, key=int) if key != "0"]
            first = _text(group["0"]["TransformType"])
            if not first.startswith("Composite"):
                stored.insert(0, _read_one(group["0"]))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{Path(path).name} is not an ITK composite of linear transforms and "
            f"displacement fields ({error})."
        ) from error
    return stored[::-1]


def _text(dataset: Any) -> str:
    """Read a stored string: bytes or str, in an array of one or scalar."""
    value = np.asarray(dataset[()]).ravel()[0]
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _read_one(group: Any) -> Transform:
    """Read one transform of a composite; older versions of ITK misspell the names."""
    kind = _text(group["TransformType"])
    names = ("Transform", "Tranform")
    prefix = next(name for name in names if f"{name}Parameters" in group)
    stored = group[f"{prefix}Parameters"]
    fixed = np.asarray(group[f"{prefix}FixedParameters"], dtype=float)
    if kind.startswith("DisplacementField"):
        i, j, k = (int(n) for n in fixed[:3])
        lps = np.eye(4)
        lps[:3, :3] = fixed[9:18].reshape(3, 3) * fixed[6:9]
        lps[:3, 3] = fixed[3:6]
        # A field is large: read it in slabs, so that it is in memory only once.
        data = np.empty((i, j, k, 3), dtype=np.float32)
        step = max(1, SLAB_VOXELS // (i * j))
        for start in range(0, k, step):
            stop = min(k, start + step)
            part = np.asarray(stored[3 * i * j * start : 3 * i * j * stop])
            if not np.isfinite(part).all():
                raise ValueError("a displacement is not a finite number")
            data[:, :, start:stop] = part.reshape(stop - start, j, i, 3).transpose(2, 1, 0, 3)
        data[..., :2] *= -1
        return DisplacementField(data, LPS @ lps)
    return itk_matrix(np.asarray(stored).astype(float), fixed)


def read_transform(path: str | os.PathLike[str]) -> list[Transform]:
    """Read ITK text (one matrix) or an ITK composite (a chain), depending on the file's name."""
    return [read_itk_affine(path)] if Path(path).suffix == ".txt" else read_itk_composite(path)


def map_points(
    points: NDArray[np.float64], transforms: Sequence[Transform]
) -> NDArray[np.float64]:
    """Map points through a chain of transforms.

    Parameters
    ----------
    points : ndarray of float64, shape (3, N)
        RAS+ mm.
    transforms : sequence
        In the order in which they act.

    Returns
    -------
    ndarray of float64, shape (3, N)
        RAS+ mm.
    """
    from scipy import ndimage

    for transform in transforms:
        if isinstance(transform, DisplacementField):
            to_voxels = inverse(transform.affine)
            index = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
            moved = np.empty_like(points)
            for axis in range(3):
                moved[axis] = points[axis] + ndimage.map_coordinates(
                    transform.data[..., axis], index, order=1, mode="constant", cval=0.0
                )
            points = moved
        else:
            points = transform[:3, :3] @ points + transform[:3, 3:]
    return points


def apply_transforms(
    volume: Volume,
    transforms: Sequence[Transform],
    shape: tuple[int, int, int],
    affine: Affine,
    *,
    order: int = 1,
) -> Volume:
    """Resample an image onto a grid through a chain of transforms, in one interpolation.

    Parameters
    ----------
    volume : Volume
        Source image.
    transforms : sequence
        In the order in which they act on the points of the new grid.
    shape : tuple of int
        Numbers of voxels of the new grid.
    affine : ndarray of float64, shape (4, 4)
        Affine of the new grid.
    order : int
        Spline order: 0 nearest (labels), 1 linear, 3 cubic.

    Returns
    -------
    Volume
        Zero where the transform leaves the image.
    """
    return apply_to_many([volume], [order], transforms, shape, affine)[0]


def apply_to_many(
    volumes: Sequence[Volume],
    orders: Sequence[int],
    transforms: Sequence[Transform],
    shape: tuple[int, int, int],
    affine: Affine,
) -> list[Volume]:
    """Resample images of one space through the same transforms, computed once.

    Parameters
    ----------
    volumes : sequence of Volume
        Source images; they may lie on different grids.
    orders : sequence of int
        Spline order for each.
    transforms, shape, affine
        As for :func:`apply_transforms`.

    Returns
    -------
    list of Volume
    """
    from scipy import ndimage

    sources = [
        v.data if order < 2 else ndimage.spline_filter(v.data, order=order, output=np.float32)
        for v, order in zip(volumes, orders, strict=True)
    ]
    out = [np.empty(shape, dtype=np.float32) for _ in volumes]
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop = min(shape[0], start + step)
        points = _slab_points(start, stop, shape, affine, transforms)
        for volume, source, order, filled in zip(volumes, sources, orders, out, strict=True):
            to_voxels = inverse(volume.affine)
            ndimage.map_coordinates(
                source,
                to_voxels[:3, :3] @ points + to_voxels[:3, 3:],
                output=filled[start:stop].reshape(-1),
                order=order,
                mode="constant",
                cval=0.0,
                prefilter=False,
            )
    return [Volume(data, affine, v.header) for data, v in zip(out, volumes, strict=True)]


def _slab_points(
    start: int,
    stop: int,
    shape: tuple[int, int, int],
    affine: Affine,
    transforms: Sequence[Transform],
) -> NDArray[np.float64]:
    """Map the voxels of a slab of a grid, shape (3, N), RAS+ mm."""
    index = np.indices((stop - start, shape[1], shape[2]), dtype=np.float64).reshape(3, -1)
    index[0] += start
    points = affine[:3, :3] @ index + affine[:3, 3:]
    if not transforms or not isinstance(transforms[0], DisplacementField):
        return map_points(points, transforms)
    field = transforms[0]
    own = Grid(field.data.shape, field.affine)
    if not same_grid(own, Grid(shape, affine), tolerance_mm=SAME_VOXELS_MM):
        return map_points(points, transforms)
    # The grid is that of the field: use its displacements without interpolation.
    points += field.data[start:stop].reshape(-1, 3).T
    return map_points(points, transforms[1:])


def jacobian_determinant(field: DisplacementField) -> FloatArray:
    """Compute the volume change at each voxel of a displacement field.

    Parameters
    ----------
    field : DisplacementField
        Displacements in mm.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Determinant of the Jacobian of ``x + d(x)`` by central differences; zero or less
        where the map folds.
    """
    to_voxels = inverse(field.affine)[:3, :3]
    jacobian = np.empty((*field.data.shape, 3), dtype=np.float32)
    for component in range(3):
        slopes = np.stack(np.gradient(field.data[..., component]), axis=-1)
        jacobian[..., component, :] = slopes @ to_voxels
        jacobian[..., component, component] += 1.0
    (a, b, c), (d, e, f), (g, h, i) = (
        tuple(jacobian[..., row, column] for column in range(3)) for row in range(3)
    )
    determinant: FloatArray = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return determinant
