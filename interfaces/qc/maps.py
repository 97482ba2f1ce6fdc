"""Anatomical maps resampled onto the voxels of a T1w image for its quality metrics.

Masks, tissue maps and bias field are defined on the session's reference image and resampled
onto the T1w image through the inverse of the rigid transform that aligned it; nothing is
interpolated when the image is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np

from neuroferry.bids.headers import SAME_VOXELS_MM, Grid, reading_image, same_grid
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    crop_to,
    inverse,
    load_volume,
    voxel_sizes,
)
from neuroferry.interfaces.image.transforms import Transform, map_points, read_transform
from neuroferry.interfaces.qc.background import above_plane

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neuroferry.templates import Template

MIN_BRAIN_VOXELS = 1000


@dataclass(frozen=True)
class RunGrid:
    """Grid of a T1w image, and its transform to the session's reference image.

    Attributes
    ----------
    shape : tuple of int
        Numbers of voxels.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm of the image.
    to_reference : ndarray of float64, shape (4, 4)
        Points of the image to points of the reference, RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: Affine
    to_reference: Affine

    def crop(self, box: tuple[slice, slice, slice]) -> RunGrid:
        """Crop the grid to a box of indices."""
        affine = self.affine.copy()
        start = [s.start for s in box]
        affine[:3, 3] = self.affine[:3, :3] @ start + self.affine[:3, 3]
        i, j, k = (s.stop - s.start for s in box)
        return RunGrid((i, j, k), affine, self.to_reference)


@dataclass(frozen=True)
class AnatMaps:
    """Results of the anatomical workflow on the voxels of one T1w image.

    Attributes
    ----------
    t1w : ndarray of float32, shape (I, J, K)
        Intensities as acquired.
    corrected : ndarray of float32, shape (I, J, K)
        Intensities divided by the bias field, negative values set to 0.
    spacing : tuple of float
        Voxel sizes, mm.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask.
    above_face : ndarray of bool, shape (I, J, K)
        Voxels above the plane through glabella and inion.
    box : tuple of slice
        Box that contains every tissue; the following maps are cropped to it.
    dseg : ndarray of uint8
        1 GM, 2 WM, 3 CSF.
    bias_field : ndarray of float32
        Multiplicative non-uniformity.
    tpms, template_tpms : mapping of str to ndarray of float32
        Probabilities of ``csf``, ``gm`` and ``wm`` in the image and in the template.
    bright_wm : bool
        Whether white matter is the brightest tissue, so that what is far brighter is none.
    """

    t1w: FloatArray
    corrected: FloatArray
    spacing: tuple[float, float, float]
    brain: NDArray[np.bool_]
    above_face: NDArray[np.bool_]
    box: tuple[slice, slice, slice]
    dseg: NDArray[np.uint8]
    bias_field: FloatArray
    tpms: Mapping[str, FloatArray]
    template_tpms: Mapping[str, FloatArray]
    bright_wm: bool = True


def load_any(path: str | os.PathLike[str]) -> Volume:
    """Read a map, which, unlike an image, may be constant."""
    with reading_image(path):
        image: Any = nb.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    if data.ndim != 3 or not np.isfinite(data).all():
        raise InputError(f"{Path(path).name} is not a three-dimensional map of finite numbers.")
    return Volume(data, np.asarray(image.affine, dtype=np.float64))


def to_run_grid(volume: Volume, grid: RunGrid, *, order: int, extend: bool = False) -> FloatArray:
    """Resample a map from the session's reference image onto a T1w image.

    Parameters
    ----------
    volume : Volume
        Map on the grid of the reference.
    grid : RunGrid
        Grid of the image.
    order : int
        0 nearest neighbour (labels), 1 linear.
    extend : bool
        Outside the field of view, use the border values instead of 0.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        The same array (not a copy) when the grids are identical.
    """
    from scipy import ndimage

    matrix = inverse(volume.affine) @ grid.to_reference @ grid.affine
    there = Grid(grid.shape, grid.to_reference @ grid.affine)
    if same_grid(volume, there, tolerance_mm=SAME_VOXELS_MM):
        return volume.data
    moved: FloatArray = ndimage.affine_transform(
        volume.data,
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=grid.shape,
        order=order,
        mode="nearest" if extend else "constant",
        output=np.float32,
    )
    return moved


def fit_to_template(
    brain: NDArray[np.bool_], grid: RunGrid, std2anat: list[Transform], *, count: int = 20_000
) -> Affine:
    """Fit an affine to the non-linear transform from the voxels of an image to the template.

    The non-linear transform is defined in the brain only; the affine maps landmarks on the
    skin.

    Parameters
    ----------
    brain : ndarray of bool, shape (I, J, K)
        Brain mask of the image.
    grid : RunGrid
        Grid of the image.
    std2anat : list of transforms
        From the template to the reference image: maps points of the reference to points of
        the template.
    count : int
        Approximate number of voxels used.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Voxel indices of the image to mm in template space.
    """
    index = np.flatnonzero(brain)
    index = index[:: max(1, index.size // count)]
    voxels = np.stack(np.unravel_index(index, brain.shape)).astype(np.float64)
    matrix = grid.to_reference @ grid.affine
    points = map_points(matrix[:3, :3] @ voxels + matrix[:3, 3:], std2anat)
    design = np.vstack([voxels, np.ones(voxels.shape[1])]).T
    solution, *_ = np.linalg.lstsq(design, points.T, rcond=None)
    fitted = np.eye(4)
    fitted[:3] = solution.T
    return fitted


def template_on_run(
    template: Template, grid: RunGrid, std2anat: list[Transform]
) -> dict[str, FloatArray]:
    """Resample the template's tissue maps onto a T1w image.

    Parameters
    ----------
    template : Template
        Template with tissue maps.
    grid : RunGrid
        Grid of the image, or a part of it.
    std2anat : list of transforms
        From the template to the reference image.

    Returns
    -------
    dict of str to ndarray of float32, shape (I, J, K)
        Keys ``csf``, ``gm``, ``wm``.
    """
    from scipy import ndimage

    maps = dict(zip(("gm", "wm", "csf"), template.tpms, strict=True))
    out = {name: np.empty(grid.shape, dtype=np.float32) for name in maps}
    matrix = grid.to_reference @ grid.affine
    to_voxels = inverse(template.affine)
    step = max(1, 1_000_000 // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], step):
        stop = min(grid.shape[0], start + step)
        index = np.indices((stop - start, *grid.shape[1:]), dtype=np.float64).reshape(3, -1)
        index[0] += start
        points = map_points(matrix[:3, :3] @ index + matrix[:3, 3:], std2anat)
        where = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
        for name, data in maps.items():
            ndimage.map_coordinates(
                data, where, order=1, output=out[name][start:stop].reshape(-1), cval=0.0
            )
    return out


def gather_maps(
    *,
    t1w: str | os.PathLike[str],
    run2ref_xfm: str | os.PathLike[str] | None,
    bias_field: str | os.PathLike[str],
    brain_mask: str | os.PathLike[str],
    dseg: str | os.PathLike[str],
    tpms: list[str],
    std2anat_xfm: str | os.PathLike[str],
    template: Template,
    template_tpms: list[str] | None = None,
    bright_wm: bool = True,
) -> tuple[AnatMaps, Affine]:
    """Read all maps and resample them onto the voxels of a T1w image.

    Parameters
    ----------
    t1w : path
        T1w image in canonical orientation.
    run2ref_xfm : path or None
        ITK ``.txt`` that resamples the image onto the reference; None if it is the reference.
    bias_field, brain_mask, dseg : path
        On the grid of the reference.
    tpms : list of path
        GM, WM and CSF, on the grid of the reference.
    std2anat_xfm : path
        ITK composite that resamples the template onto the reference.
    template : Template
        The template of `std2anat_xfm`.
    template_tpms : list of path, optional
        GM, WM and CSF of the template on the grid of the image; otherwise they are resampled.
    bright_wm : bool
        Whether white matter is the brightest tissue, as in a T1w image.

    Returns
    -------
    maps : AnatMaps
        Maps for the metrics.
    affine : ndarray of float64, shape (4, 4)
        Affine of the image.

    Raises
    ------
    GeometryError
        If the brain lies outside the field of view of the image.
    """
    run = load_volume(t1w)
    grid = RunGrid(run.shape, run.affine, _to_reference(run2ref_xfm))
    std2anat = read_transform(std2anat_xfm)

    brain = to_run_grid(load_any(brain_mask), grid, order=0) > 0.5
    if brain.sum() < MIN_BRAIN_VOXELS:
        raise GeometryError(
            f"The brain mask does not overlap {Path(t1w).name}; check its alignment to the "
            "session's reference image."
        )
    to_template = fit_to_template(brain, grid, std2anat)
    box, _ = crop_to(_brain_of_template(template, to_template, run.shape) | brain, run.affine, 4.0)
    part = grid.crop(box)
    bias = to_run_grid(load_any(bias_field), grid, order=1, extend=True)
    corrected = without_bias(run.data, bias)
    labels = to_run_grid(load_any(dseg), grid, order=0)[box]
    zooms = voxel_sizes(run.affine)
    maps = AnatMaps(
        t1w=run.data,
        corrected=corrected,
        spacing=(float(zooms[0]), float(zooms[1]), float(zooms[2])),
        brain=brain,
        above_face=above_plane(run.shape, to_template),
        box=box,
        dseg=np.rint(labels).astype(np.uint8),
        bias_field=bias[box].copy(),  # not a view, which would keep the whole field
        tpms={
            name: to_run_grid(load_any(path), grid, order=1)[box].copy()
            for name, path in zip(("gm", "wm", "csf"), tpms, strict=True)
        },
        template_tpms=template_on_run(template, part, std2anat)
        if template_tpms is None
        else {
            name: load_any(path).data[box].copy()
            for name, path in zip(("gm", "wm", "csf"), template_tpms, strict=True)
        },
        bright_wm=bright_wm,
    )
    return maps, run.affine


def _to_reference(run2ref_xfm: str | os.PathLike[str] | None) -> Affine:
    """Read the transform of points of an image to points of the reference."""
    if run2ref_xfm is None:
        return np.eye(4)
    linear = read_transform(run2ref_xfm)
    if len(linear) != 1 or not isinstance(linear[0], np.ndarray):
        raise InputError(f"{Path(run2ref_xfm).name} must contain one rigid transform.")
    return inverse(linear[0])


def without_bias(image: FloatArray, bias: FloatArray) -> FloatArray:
    """Divide an image by its bias field; negative values become 0."""
    corrected = np.zeros_like(image)
    np.divide(image, bias, out=corrected, where=(bias > 0) & (image > 0))
    return corrected


def _brain_of_template(
    template: Template, to_template: Affine, shape: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Mark the corners of the bounding box of the template's brain on an image."""
    inside = np.argwhere(template.brain_mask)
    ends = np.stack([inside.min(axis=0), inside.max(axis=0)])
    corners = np.array([[ends[(n >> axis) & 1, axis] for axis in range(3)] for n in range(8)])
    matrix = inverse(to_template) @ template.affine
    on_run = np.rint(corners @ matrix[:3, :3].T + matrix[:3, 3]).astype(int)
    marked = np.zeros(shape, dtype=bool)
    marked[tuple(np.clip(on_run, 0, np.array(shape) - 1).T)] = True
    return marked
