"""Reading, checking, resampling and writing NIfTI volumes.

World coordinates are RAS+ mm; an affine maps voxel indices to world coordinates.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import DTypeLike, NDArray

from neuroferry.bids.headers import Grid, check_same_grid, reading_image
from neuroferry.errors import GeometryError, InputError
from neuroferry.files import whole_file

GZIP_LEVEL = 4
MIN_EXTENT_VOXELS = 8
FWHM_PER_SIGMA = 2.3548200450309493

FloatArray = NDArray[np.float32]
Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """Three-dimensional image in memory.

    Attributes
    ----------
    data : ndarray of float32, shape (I, J, K)
        Voxel values.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    header : nibabel.Nifti1Header or None
        Header of the source file; its codes are kept when the image is written.
    """

    data: FloatArray
    affine: Affine
    header: nb.Nifti1Header | None = None

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Voxel sizes in mm, shape (3,)."""
        return voxel_sizes(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of voxels."""
        i, j, k = self.data.shape
        return i, j, k

    def with_data(self, data: FloatArray) -> Volume:
        """Replace the values, keeping the grid."""
        return replace(self, data=data)


def voxel_sizes(affine: Affine) -> NDArray[np.float64]:
    """Compute the voxel sizes of an affine in mm, shape (3,).

    >>> voxel_sizes(np.diag([2.0, -1.0, 0.5, 1.0])).tolist()
    [2.0, 1.0, 0.5]
    """
    sizes: NDArray[np.float64] = np.sqrt(np.sum(np.asarray(affine)[:3, :3] ** 2, axis=0))
    return sizes


def inverse(affine: Affine) -> Affine:
    """Invert an affine, shape (4, 4)."""
    result: Affine = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    return result


def load_volume(path: str | os.PathLike[str]) -> Volume:
    """Read and check a three-dimensional NIfTI image.

    Parameters
    ----------
    path : path
        NIfTI file; trailing axes of length one are dropped.

    Returns
    -------
    Volume
        Values as float32, in the file's axis order.

    Raises
    ------
    InputError
        If the file cannot be read, contains NaN or infinite values, or is constant.
    GeometryError
        If it is not three-dimensional, too small, or its affine is singular.
    """
    path = Path(path)
    with reading_image(path):
        image: Any = nb.load(path)
        data = np.asanyarray(image.dataobj)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise GeometryError(
            f"{path.name} has shape {data.shape}; a three-dimensional image is required."
        )
    if data.dtype.kind not in "biuf":
        raise InputError(f"{path.name} has data type {data.dtype}; real numbers are required.")
    volume = Volume(
        np.asarray(data, dtype=np.float32),
        np.asarray(image.affine, dtype=np.float64),
        image.header if isinstance(image.header, nb.Nifti1Header) else None,
    )
    check_volume(volume, path.name)
    return volume


def check_volume(volume: Volume, name: str) -> None:
    """Refuse images that cannot be processed.

    Parameters
    ----------
    volume : Volume
        Image to check.
    name : str
        Name used in messages.

    Raises
    ------
    InputError
        If it contains NaN or infinite values, or is constant.
    GeometryError
        If it is too small or its affine is not finite and invertible.
    """
    if min(volume.data.shape) < MIN_EXTENT_VOXELS:
        raise GeometryError(
            f"{name} has shape {volume.data.shape}; each axis needs at least "
            f"{MIN_EXTENT_VOXELS} voxels."
        )
    affine = volume.affine
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise GeometryError(f"{name} has a singular affine; correct its header.")
    lowest, highest = float(volume.data.min()), float(volume.data.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise InputError(f"{name} contains NaN or infinite values; convert it again.")
    if lowest == highest:
        raise InputError(f"{name} is constant ({lowest:g} in every voxel); check the image.")


def to_canonical(volume: Volume) -> Volume:
    """Reorder the axes to the closest RAS+ orientation, without interpolation.

    Parameters
    ----------
    volume : Volume
        Image in any axis order.

    Returns
    -------
    Volume
        The same voxels, axes flipped and permuted so that they run right, anterior,
        superior; an oblique field of view stays oblique.
    """
    orientation = nb.orientations.io_orientation(volume.affine)
    data = nb.orientations.apply_orientation(volume.data, orientation)
    affine = volume.affine @ nb.orientations.inv_ornt_aff(orientation, volume.data.shape)
    return Volume(np.ascontiguousarray(data), affine, volume.header)


def make_header(
    shape: tuple[int, ...],
    affine: Affine,
    dtype: DTypeLike,
    source: nb.Nifti1Header | None,
    *,
    tr: float = 0.0,
) -> nb.Nifti1Header:
    """Build a header with consistent voxel sizes, units, sform and qform.

    Parameters
    ----------
    shape : tuple of int
        Numbers of voxels, and of volumes or components.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    dtype : dtype
        Type on disk.
    source : nibabel.Nifti1Header or None
        Source of the sform code; nothing else of it is used.
    tr : float
        Time from one volume to the next, s; 0 if unknown, or if the fourth axis is not time.
    """
    header = nb.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.dtype(dtype))
    code = 1
    if source is not None:
        code = int(source["sform_code"]) or int(source["qform_code"]) or 1
    header.set_sform(affine, code=code)
    header.set_qform(affine, code=code, strip_shears=True)
    header.set_xyzt_units("mm", "unknown" if len(shape) > 3 and not tr else "sec")
    if len(shape) > 3:
        header["pixdim"][4] = tr
    return header


def save_nifti(
    data: NDArray[Any],
    affine: Affine,
    path: str | os.PathLike[str],
    *,
    header: nb.Nifti1Header | None = None,
    dtype: DTypeLike = np.float32,
) -> Path:
    """Write a NIfTI image reproducibly (same values, same bytes) and atomically.

    Parameters
    ----------
    data : ndarray, shape (I, J, K[, T])
        Voxel values; floating-point values are rounded when `dtype` is an integer type.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm; written to sform and qform.
    path : path
        ``.nii.gz`` or ``.nii``.
    header : nibabel.Nifti1Header, optional
        Source of the sform code (scanner, template, ...).
    dtype : dtype
        Type on disk; values are stored without scaling.

    Returns
    -------
    Path
        Path of the file.
    """
    path = Path(path)
    kind = np.dtype(dtype)
    if kind.kind in "iu" and np.asarray(data).dtype.kind == "f":
        data = np.rint(data)
    values = np.asarray(data).astype(kind, copy=False)
    image = nb.Nifti1Image(values, affine, make_header(values.shape, affine, kind, header))
    image.header.set_slope_inter(1, 0)
    with whole_file(path) as beside, beside.open("xb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=raw, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(raw)
    return path


def save_volume(
    volume: Volume, path: str | os.PathLike[str], *, dtype: DTypeLike = np.float32
) -> str:
    """Write a :class:`Volume` with :func:`save_nifti`; return its path as a string."""
    return str(save_nifti(volume.data, volume.affine, path, header=volume.header, dtype=dtype))


def load_mask(path: str | os.PathLike[str], like: Volume, name: str = "mask") -> NDArray[np.bool_]:
    """Read a mask on the grid of an image.

    Parameters
    ----------
    path : path
        Image; values above 0.5 are inside.
    like : Volume
        Image whose shape and affine it must share.
    name : str
        Name used in messages.

    Returns
    -------
    ndarray of bool, shape (I, J, K)

    Raises
    ------
    GeometryError
        If shape or affine differ.
    InputError
        If the mask is empty.
    """
    with reading_image(path):
        image: Any = nb.load(path)
        data = np.squeeze(np.asanyarray(image.dataobj))
    if data.ndim > 3:
        raise GeometryError(
            f"{name} {Path(path).name} has {data.shape[3]} volumes; it must have one."
        )
    about = f"{name} {Path(path).name}", Grid(data.shape, image.affine)
    check_same_grid(("the image that it belongs to", like), about)
    mask: NDArray[np.bool_] = data > 0.5
    if not mask.any():
        raise InputError(f"{name} {Path(path).name} is empty.")
    return mask


def world_grid(
    affine: Affine, shape: tuple[int, ...], zoom: float
) -> tuple[tuple[int, int, int], Affine]:
    """Build a grid along the world axes that covers the field of view of an image.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Affine of the image, oblique or not.
    shape : tuple of int
        Its numbers of voxels.
    zoom : float
        Isotropic voxel size of the new grid in mm.

    Returns
    -------
    shape : tuple of int
        Numbers of voxels of the new grid.
    affine : ndarray of float64, shape (4, 4)
        Affine of the new grid.
    """
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape[:3]])).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = world.min(axis=1), world.max(axis=1)
    count = np.maximum(1, np.round((high - low) / zoom)).astype(int)
    new = np.diag([zoom, zoom, zoom, 1.0])
    new[:3, 3] = (low + high) / 2 - (count - 1) / 2 * zoom
    return (int(count[0]), int(count[1]), int(count[2])), new


def smooth_for(data: FloatArray, zooms: NDArray[np.float64], target: float) -> FloatArray:
    """Blur an image before sampling it on a coarser grid, to avoid aliasing.

    The Gaussian has a full width at half maximum of ``sqrt(target² - zoom²)`` along each
    axis, which widens the point spread of the old voxels to that of the new ones.
    """
    from scipy import ndimage

    sigma = np.sqrt(np.maximum(target**2 - zooms**2, 0)) / FWHM_PER_SIGMA / zooms
    if not np.any(sigma > 0.05):
        return data
    blurred: FloatArray = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    return blurred


def resample_isotropic(volume: Volume, zoom: float, *, order: int = 1) -> Volume:
    """Resample to an isotropic grid along the world axes, blurring first if it is coarser.

    Parameters
    ----------
    volume : Volume
        Image in any orientation.
    zoom : float
        New voxel size in mm.
    order : int
        Spline order of the interpolation.

    Returns
    -------
    Volume
        Zero outside the old field of view.
    """
    shape, affine = world_grid(volume.affine, volume.data.shape, zoom)
    return resample_to(
        volume.with_data(smooth_for(volume.data, volume.zooms, zoom)), shape, affine, order=order
    )


def resample_to(
    volume: Volume, shape: tuple[int, int, int], affine: Affine, *, order: int = 1
) -> Volume:
    """Resample an image onto another grid in the same space.

    Parameters
    ----------
    volume : Volume
        Image.
    shape : tuple of int
        New numbers of voxels.
    affine : ndarray of float64, shape (4, 4)
        New affine.
    order : int
        Spline order: 0 nearest (labels), 1 linear, 3 cubic.

    Returns
    -------
    Volume
        Zero outside the old field of view.
    """
    from scipy import ndimage

    matrix = inverse(volume.affine) @ affine
    data = ndimage.affine_transform(
        volume.data,
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=shape,
        order=order,
        mode="constant",
        cval=0.0,
        output=np.float32,
    )
    return Volume(data, affine, volume.header)


def crop_to(
    mask: NDArray[np.bool_], affine: Affine, margin_mm: float
) -> tuple[tuple[slice, slice, slice], Affine]:
    """Find the bounding box of a mask, with a margin.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Must not be empty.
    affine : ndarray of float64, shape (4, 4)
        Its affine.
    margin_mm : float
        Margin on each side in mm.

    Returns
    -------
    box : tuple of slice
        Index of the box in the array.
    affine : ndarray of float64, shape (4, 4)
        Affine of the cropped array.
    """
    margin = np.ceil(margin_mm / voxel_sizes(affine)).astype(int)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        low = max(0, int(inside[0]) - int(margin[axis]))
        high = min(mask.shape[axis], int(inside[-1]) + 1 + int(margin[axis]))
        box.append(slice(low, high))
    cropped = affine.copy()
    cropped[:3, 3] = affine[:3, :3] @ [s.start for s in box] + affine[:3, 3]
    return (box[0], box[1], box[2]), cropped


def load_map(path: str | Path) -> Volume:
    """Read a map or a mask that may be empty or have few slices.

    A series may be a thin slab, and a tissue may lie outside its field of view.

    Parameters
    ----------
    path : str or pathlib.Path
        Three-dimensional image; NaN and infinite values are read as zero.

    Returns
    -------
    Volume
    """
    with reading_image(path):
        image: Any = nb.funcs.squeeze_image(nb.load(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
    data = np.nan_to_num(data, posinf=0.0, neginf=0.0)
    return Volume(data, np.asarray(image.affine, dtype=np.float64), image.header)
