"""Spatial reportlets of a DWI run: mask, denoising, model maps, fibre directions.

Each ``draw_*`` function reads images and returns a complete SVG document; see
`neuroferry.interfaces.draw.anat` for the colours. Directions have their usual colours: red for
left-right, green for anterior-posterior, blue for inferior-superior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, isdefined

from neuroferry.bids.gradients import read_bvals
from neuroferry.bids.headers import check_same_grid
from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw.anat import VERMILION, white_level
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.epi_space import DIVERGING, colour_bar
from neuroferry.interfaces.draw.mosaic import (
    HEADING,
    WIDTH,
    Cell,
    Outline,
    Painter,
    View,
    draw_mosaic,
    grey,
    place_cells,
)
from neuroferry.interfaces.draw.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Box,
    Plane,
    Row,
    Volume,
    box_around,
    cut,
    load_canonical,
    rows_over,
)
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.image.images import voxel_sizes
from neuroferry.interfaces.image.series import open_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREYS = ((0, 0, 0), (255, 255, 255))
MD_WHITE = 3e-3
"""Mean diffusivity shown as white: that of water at body temperature, mm²/s."""
COLOUR_GAIN = 1.5
"""Gain of colour FA, which makes most of white matter bright."""
STICK_FA = 0.15
"""FA above which directions are drawn."""
STICK_LENGTH = 0.9
"""Length of a stick that lies in the slice, in voxels."""
SHADES = 5
"""Levels of each colour channel of the sticks."""
RESIDUAL_SIGMAS = 3.0


@dataclass(frozen=True)
class Scale:
    """Grey scale of a scalar map, from 0 (black) to ``white``.

    Attributes
    ----------
    label : str
        Name of the view.
    white : float
        In units of the map.
    low, high : str
        Labels at the ends of the key.
    """

    label: str
    white: float
    low: str
    high: str


MAPS: Mapping[str, Scale] = {
    "fa": Scale("Fractional anisotropy", 1.0, "0", "1"),
    "md": Scale("Mean diffusivity, µm²/ms", MD_WHITE, "0", "3"),
    "mk": Scale("Mean kurtosis", 1.5, "0", "1.5"),
    "ak": Scale("Axial kurtosis", 1.5, "0", "1.5"),
    "rk": Scale("Radial kurtosis", 2.0, "0", "2"),
    "kfa": Scale("Kurtosis anisotropy", 1.0, "0", "1"),
}


def dwi_rows(box: Box) -> list[Row]:
    """Choose slices for maps of the whole brain."""
    axial = rows_over(box, [(AXIAL, 14, 7)], inset=0.08)
    return axial + rows_over(box, [(CORONAL, 7, 7), (SAGITTAL, 7, 7)], inset=0.17)


def draw_dwi_mask(dwi_ref: str | Path, mask: str | Path) -> str:
    """Draw the brain mask on the mean b0 image.

    Parameters
    ----------
    dwi_ref, mask : str or pathlib.Path
        Mean b0 image, and brain mask on its grid.

    Returns
    -------
    str
        An SVG document.
    """
    image, brain = load_canonical(dwi_ref), load_canonical(mask)
    check_same_grid(("the b0 image", image), ("the brain mask", brain))
    inside = brain.data > 0
    box = box_around(inside, image.zooms, 14)
    return draw_mosaic(
        image,
        [
            View("Image alone"),
            View("Brain mask", None, [Outline(inside, VERMILION, "brain mask")]),
        ],
        dwi_rows(box),
        box,
        base=grey(image.data, white_level(image.data, among=inside, top=97.0)),
        title="DWI brain mask",
        description="Outline of the brain mask over slices of the mean b0 image.",
    )


def draw_maps(
    dwi_ref: str | Path,
    mask: str | Path,
    maps: Mapping[str, str | Path],
    color_fa: str | Path | None = None,
) -> str:
    """Draw the maps of a diffusion model, one view each.

    Parameters
    ----------
    dwi_ref, mask : str or pathlib.Path
        Mean b0 image, and brain mask on its grid.
    maps : mapping of str to path
        Scalar maps on the same grid, keyed by their names in ``MAPS``.
    color_fa : str or pathlib.Path, optional
        Direction-encoded colour FA, 4-D, uint8.

    Returns
    -------
    str
        An SVG document.
    """
    image, brain = load_canonical(dwi_ref), load_canonical(mask)
    volumes = {name: load_canonical(path) for name, path in maps.items()}
    if color_fa is not None:
        volumes["color_fa"] = load_canonical(color_fa)
    check_same_grid(("the b0 image", image), ("the brain mask", brain), *volumes.items())
    inside = brain.data > 0
    views = [View("b = 0", grey(image.data, white_level(image.data, among=inside, top=97.0)))]
    for name in maps:
        scale = MAPS[name]
        notes = colour_bar(GREYS, scale.low, scale.high)
        views.append(View(scale.label, grey(volumes[name].data, scale.white), notes=notes))
    if color_fa is not None:
        paint = _coloured(volumes["color_fa"].data)
        views.append(View("Colour FA", paint, notes=direction_key()))
    names = ", ".join(view.label for view in views)
    box = box_around(inside, image.zooms, 6)
    return draw_mosaic(
        image,
        views,
        dwi_rows(box),
        box,
        title="Maps of the diffusion model",
        description=f"Slices of these maps, one view each: {names}.",
    )


def _coloured(data: NDArray[Any]) -> Painter:
    """Paint slices of an RGB map (0 to 255), brightened."""

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        tile = cut(data, plane, index, box).astype(np.float32) * np.float32(COLOUR_GAIN)
        return np.asarray(np.minimum(tile, 255).astype(np.uint8))

    return paint


def direction_key() -> list[str]:
    """Draw the colour key of the directions in the heading."""
    parts = []
    x = WIDTH - 430.0
    for colour, text, wide in (
        ("#ff3b30", "left\u2013right", 110),
        ("#34d058", "back\u2013front", 120),
        ("#4d7cff", "below\u2013above", 130),
    ):
        parts.append(f'<rect x="{x:.0f}" y="7" width="14" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20:.0f}" y="17" font-size="13">{text}</text>')
        x += wide + 20
    return parts


def draw_denoising(
    before: str | Path, after: str | Path, bval: str | Path, mask: str | Path | None = None
) -> str:
    """Draw the most strongly weighted volume before and after denoising, and the residual.

    Anatomy in the residual would mean that signal was removed with the noise.

    Parameters
    ----------
    before, after : str or pathlib.Path
        The series before and after denoising, 4-D.
    bval : str or pathlib.Path
        Their b-values.
    mask : str or pathlib.Path, optional
        Brain mask on their grid; limits the part that is shown.

    Returns
    -------
    str
        An SVG document.
    """
    bvals = read_bvals(bval)
    index = int(np.argmax(bvals))
    was, now = (_one_volume(path, index) for path in (before, after))
    volumes = {"the series before denoising": was, "the denoised series": now}
    shown = was.data > 0.35 * white_level(was.data)
    if mask is not None:
        volumes["the brain mask"] = load_canonical(mask)
        shown = volumes["the brain mask"].data > 0
    check_same_grid(*volumes.items())
    residual = was.data - now.data
    among = residual[shown] if shown.any() else residual.reshape(-1)
    sigma = max(1.4826 * float(np.median(np.abs(among - np.median(among)))), 1e-30)
    reach = np.float32(2 * RESIDUAL_SIGMAS * sigma)
    white = white_level(was.data, among=shown if shown.any() else None)
    box = box_around(shown, was.zooms, 10)
    low, high = (f"{sign}{RESIDUAL_SIGMAS * sigma:.3g}" for sign in ("\u2212", "+"))
    name = f"b = {bvals[index]:.0f} s/mm²"
    return draw_mosaic(
        was,
        [
            View(f"Before, {name}", grey(was.data, white)),
            View(f"After, {name}", grey(now.data, white)),
            View(
                "Residual",
                _diverging(residual / reach + np.float32(0.5)),
                notes=colour_bar(DIVERGING, low, high),
            ),
        ],
        rows_over(box, [(AXIAL, 7, 7), (CORONAL, 7, 7)], inset=0.2),
        box,
        shown=1,
        title="Denoising",
        description="One diffusion-weighted volume before and after denoising, and the "
        "residual, which should show no anatomy.",
    )


def _one_volume(path: str | Path, index: int) -> Volume:
    """Read one volume of a series in its closest RAS+ orientation."""
    import nibabel as nb

    series = open_series(path, min_volumes=1)
    if index >= series.n_volumes:
        raise GeometryError(
            f"{Path(path).name} has {series.n_volumes} volumes; volume {index} (counted from "
            "0) does not exist."
        )
    data = series.volume(index)
    series.close()
    image = nb.as_closest_canonical(nb.Nifti1Image(data, series.affine))
    return Volume(np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64))


def _diverging(place: NDArray[Any]) -> Painter:
    """Paint slices of values in [0, 1] with a diverging colour map; 0.5 stands for zero."""
    table = np.array(DIVERGING, dtype=np.float32)

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        position = np.clip(cut(place, plane, index, box), 0, 1) * np.float32(len(table) - 1)
        below = np.minimum(position.astype(np.int64), len(table) - 2)
        share = (position - below)[..., None]
        mixed = table[below] * (1 - share) + table[below + 1] * share
        return np.asarray((mixed + 0.5).astype(np.uint8))

    return paint


def draw_directions(fa: str | Path, tensor: str | Path, mask: str | Path) -> str:
    """Draw the principal direction of each voxel as a stick, on a few large slices.

    Sticks that follow white matter show that gradients and image share the same axes: with one
    axis reversed they would cross it.

    Parameters
    ----------
    fa, mask : str or pathlib.Path
        Fractional anisotropy and brain mask.
    tensor : str or pathlib.Path
        As `FitTensor` writes it, on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    image, elements, brain = (load_canonical(path) for path in (fa, tensor, mask))
    check_same_grid(("the FA map", image), ("the tensors", elements), ("the brain mask", brain))
    inside = brain.data > 0
    box = box_around(inside, image.zooms, 4)
    # the corpus callosum, the corticospinal tracts and the cingulum lie here
    rows = [
        Row(AXIAL, (_part(box, 2, 0.48), _part(box, 2, 0.62)), 2),
        Row(CORONAL, (_part(box, 1, 0.42), _part(box, 1, 0.58)), 2),
    ]
    cells, _ = place_cells(image, rows, box, HEADING)
    sticks = [line for cell in cells for line in _sticks(cell, image, elements.data, inside, box)]
    return draw_mosaic(
        image,
        [View("FA", notes=()), View("Principal directions", notes=[*sticks, *direction_key()])],
        rows,
        box,
        base=grey(image.data, 1.5),
        title="Principal directions of diffusion",
        description="The first eigenvector of each tensor as a stick in the colour of its "
        "direction, over fractional anisotropy.",
    )


def _part(box: Box, axis: int, fraction: float) -> int:
    """Find the index at a fraction of a box along one axis."""
    return round(box.low[axis] + fraction * (box.high[axis] - box.low[axis]))


def _sticks(
    cell: Cell, fa: Volume, tensors: NDArray[Any], inside: NDArray[np.bool_], box: Box
) -> list[str]:
    """Draw the sticks of one slice, one SVG path for each shade of colour."""
    plane = cell.plane
    anisotropy = cut(fa.data, plane, cell.index, box)
    chosen = cut(inside, plane, cell.index, box) & (anisotropy > STICK_FA)
    rows, columns = np.nonzero(chosen)
    if not rows.size:
        return []
    elements = cut(tensors, plane, cell.index, box)[rows, columns].astype(np.float64)
    vectors = tensor_maps(elements.T).vectors[:, 0].T
    along = vectors @ (fa.affine[:3, :3] / voxel_sizes(fa.affine))
    down, across = cell.height / chosen.shape[0], cell.width / chosen.shape[1]
    half = np.stack([along[:, plane.right] * across, -along[:, plane.up] * down], axis=1)
    half *= STICK_LENGTH / 2
    centre = np.stack([cell.x + (columns + 0.5) * across, cell.y + (rows + 0.5) * down], axis=1)
    shades = np.rint(np.abs(vectors) * (SHADES - 1)).astype(int)
    lines = []
    for shade in np.unique(shades, axis=0):
        same = (shades == shade).all(axis=1)
        start, step = centre[same] - half[same], 2 * half[same]
        path = "".join(
            f"M{x:.1f} {y:.1f}l{dx:.1f} {dy:.1f}"
            for (x, y), (dx, dy) in zip(start.tolist(), step.tolist(), strict=True)
        )
        rgb = np.rint(55 + 200 * shade / max(shade.max(), 1)).astype(int)
        colour = f"rgb({rgb[0]},{rgb[1]},{rgb[2]})"
        lines.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.5" fill="none"/>')
    return lines


class _DwiMaskPictureInputSpec(BaseInterfaceInputSpec):
    dwi_ref = File(exists=True, mandatory=True, desc="mean b0 image")
    mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class DwiMaskPicture(Picture):
    """Reportlet of the brain mask of a DWI run."""

    input_spec = _DwiMaskPictureInputSpec

    def _draw(self) -> str:
        return draw_dwi_mask(self.inputs.dwi_ref, self.inputs.mask)


class _TensorPictureInputSpec(_DwiMaskPictureInputSpec):
    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    md = File(exists=True, mandatory=True, desc="mean diffusivity, mm²/s")
    color_fa = File(exists=True, mandatory=True, desc="FA in colours, uint8, 4-D")


class TensorPicture(Picture):
    """Reportlet of b0 image, mean diffusivity, FA and colour FA."""

    input_spec = _TensorPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        maps = {"md": inputs.md, "fa": inputs.fa}
        return draw_maps(inputs.dwi_ref, inputs.mask, maps, inputs.color_fa)


class _KurtosisPictureInputSpec(_DwiMaskPictureInputSpec):
    mk = File(exists=True, mandatory=True, desc="mean kurtosis")
    ak = File(exists=True, mandatory=True, desc="axial kurtosis")
    rk = File(exists=True, mandatory=True, desc="radial kurtosis")
    kfa = File(exists=True, mandatory=True, desc="kurtosis fractional anisotropy")


class KurtosisPicture(Picture):
    """Reportlet of the kurtosis maps."""

    input_spec = _KurtosisPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        maps = {name: getattr(inputs, name) for name in ("kfa", "ak", "rk", "mk")}
        return draw_maps(inputs.dwi_ref, inputs.mask, maps)


class _DirectionsPictureInputSpec(BaseInterfaceInputSpec):
    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    tensor = File(exists=True, mandatory=True, desc="tensors, world axes, 4-D")
    mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class DirectionsPicture(Picture):
    """Reportlet of the principal directions of diffusion, as sticks."""

    input_spec = _DirectionsPictureInputSpec

    def _draw(self) -> str:
        return draw_directions(self.inputs.fa, self.inputs.tensor, self.inputs.mask)


class _DenoisingPictureInputSpec(BaseInterfaceInputSpec):
    before = File(exists=True, mandatory=True, desc="series before denoising, 4-D")
    after = File(exists=True, mandatory=True, desc="denoised series, 4-D")
    bval = File(exists=True, mandatory=True, desc="their b-values")
    mask = File(exists=True, desc="brain mask on their grid")


class DenoisingPicture(Picture):
    """Reportlet of a volume before and after denoising, and of the residual."""

    input_spec = _DenoisingPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        mask = inputs.mask if isdefined(inputs.mask) else None
        return draw_denoising(inputs.before, inputs.after, inputs.bval, mask)
