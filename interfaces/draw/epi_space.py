"""Spatial reportlets of a BOLD run: masks, tSNR, coregistration, distortion, field map.

Each ``draw_*`` function reads images and returns a complete SVG document; see
`neuroferry.interfaces.draw.anat` for the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.bids.headers import check_same_grid
from neuroferry.interfaces.draw.anat import (
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    white_level,
)
from neuroferry.interfaces.draw.mosaic import WIDTH, Outline, Painter, View, draw_mosaic, grey
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
from neuroferry.interfaces.func.confounds import MASK_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Five colours of the map "viridis" (Smith and van der Walt, CC0), dark to bright.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
DIVERGING = ((178, 224, 255), (40, 120, 190), (24, 26, 29), (200, 90, 20), (255, 214, 140))
WHITE_MATTER = 2
"""Label of white matter in a dseg."""


def draw_masks(bold_ref: str | Path, bold_mask: str | Path, compcor_masks: str | Path) -> str:
    """Draw the brain mask and the masks of the noise components.

    Parameters
    ----------
    bold_ref : str or pathlib.Path
        Reference image of the run.
    bold_mask : str or pathlib.Path
        Brain mask on its grid.
    compcor_masks : str or pathlib.Path
        Bit mask written by `ComputeConfounds`, on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    image, mask, noise = (load_canonical(path) for path in (bold_ref, bold_mask, compcor_masks))
    check_same_grid(
        ("the BOLD reference", image), ("the brain mask", mask), ("the CompCor masks", noise)
    )
    inside = mask.data > 0
    bits = np.rint(noise.data).astype(np.uint8)
    tissues = [
        Outline(bits & MASK_BITS["WM"] > 0, SKY, "deep white matter", width=1.1),
        Outline(bits & MASK_BITS["CSF"] > 0, PURPLE, "CSF", width=1.1),
    ]
    brain = Outline(inside, VERMILION, "brain mask")
    top = Outline(bits & MASK_BITS["temporal"] > 0, YELLOW, "most variable 2%", width=1.0)
    present = [tissue for tissue in tissues if np.asarray(tissue.data).any()]
    box = box_around(inside, image.zooms, 14)
    return draw_mosaic(
        image,
        [View("Image alone"), View("Masks", None, [brain, *present, top])],
        bold_rows(box),
        box,
        base=grey(image.data, white_level(image.data, among=inside)),
        title="Brain mask and noise masks",
        description="Outlines of the brain mask and of the voxels used by CompCor, over slices "
        "of the BOLD reference.",
    )


def bold_rows(box: Box) -> list[Row]:
    """Choose slices for an image with few slices."""
    axial = rows_over(box, [(AXIAL, 21, 7)])
    return axial + rows_over(box, [(CORONAL, 7, 7), (SAGITTAL, 7, 7)], inset=0.17)


def draw_tsnr(tsnr_map: str | Path, bold_ref: str | Path, bold_mask: str | Path) -> str:
    """Draw the temporal signal-to-noise ratio.

    Parameters
    ----------
    tsnr_map : str or pathlib.Path
        Mean over time divided by standard deviation over time.
    bold_ref, bold_mask : str or pathlib.Path
        Reference image and brain mask on its grid.

    Returns
    -------
    str
        An SVG document.
    """
    tsnr, image, mask = (load_canonical(path) for path in (tsnr_map, bold_ref, bold_mask))
    check_same_grid(
        ("the tSNR map", tsnr), ("the BOLD reference", image), ("the brain mask", mask)
    )
    inside = mask.data > 0
    values = tsnr.data[inside] if inside.any() else np.zeros(1, np.float32)
    high = np.float32(max(float(np.percentile(values, 98)), 1.0))
    box = box_around(inside, image.zooms, 8)
    median = f"median in the brain {np.median(values):.0f}"
    notes = [note(median, 150), *colour_bar(VIRIDIS, "0", f"{high:.0f}")]
    return draw_mosaic(
        image,
        [
            View("BOLD reference", grey(image.data, white_level(image.data, among=inside))),
            View("Temporal SNR", painter(tsnr.data / high, VIRIDIS, inside), notes=notes),
        ],
        bold_rows(box),
        box,
        title="Temporal signal-to-noise ratio",
        description="Mean over time divided by the standard deviation over time, in colours.",
    )


def note(text: str, x: float) -> str:
    """Write a note in the heading."""
    return f'<text x="{x:.0f}" y="17" font-size="13">{text}</text>'


def _ramp(place: NDArray[Any], colours: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Colour values in [0, 1] by a list of colours at equal distances."""
    table = np.array(colours, dtype=np.float32)
    position = np.clip(place, 0, 1).astype(np.float32) * np.float32(len(table) - 1)
    below = np.minimum(position.astype(np.int64), len(table) - 2)
    share = (position - below)[..., None]
    mixed = table[below] * (1 - share) + table[below + 1] * share
    return np.asarray((mixed + 0.5).astype(np.uint8))


def painter(
    values: NDArray[Any],
    colours: Sequence[tuple[int, int, int]],
    inside: NDArray[np.bool_] | None = None,
) -> Painter:
    """Paint slices of values in [0, 1] in colours, only ``inside`` a mask if given."""

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        tile = _ramp(cut(values, plane, index, box), colours)
        if inside is not None:
            tile[~cut(inside, plane, index, box)] = 0
        return tile

    return paint


def colour_bar(colours: Sequence[tuple[int, int, int]], low: str, high: str) -> list[str]:
    """Draw the colour bar in the heading."""
    x = WIDTH - 290
    rgb = _ramp(np.linspace(0, 1, 41), colours).tolist()
    blocks = [
        f'<rect x="{x + 60 + 4 * n}" y="7" width="4.4" height="12" fill="rgb({r},{g},{b})"/>'
        for n, (r, g, b) in enumerate(rgb)
    ]
    return [
        *blocks,
        f'<text x="{x + 54}" y="17" font-size="12" text-anchor="end">{low}</text>',
        f'<text x="{x + 230}" y="17" font-size="12">{high}</text>',
    ]


def draw_coregistration(
    bold_ref: str | Path,
    t1w: str | Path,
    dseg: str | Path,
    brain_mask: str | Path,
    boldref2anat_xfm: str | Path | None,
    kind: str = "BOLD",
) -> str:
    """Draw the reference of a run resampled onto the T1w image, and the T1w image.

    Parameters
    ----------
    bold_ref : str or pathlib.Path
        Reference image of the run, distortion-corrected if possible.
    t1w, dseg, brain_mask : str or pathlib.Path
        T1w image, its tissues (2 = white matter) and its brain mask.
    boldref2anat_xfm : str or pathlib.Path, optional
        ITK transform that resamples the reference onto the T1w image; None if that was done.
    kind : str
        Name of the reference, such as ``BOLD``.

    Returns
    -------
    str
        An SVG document.
    """
    anatomy, labels, brain = (load_canonical(path) for path in (t1w, dseg, brain_mask))
    check_same_grid(
        ("the T1w image", anatomy), ("the segmentation", labels), ("the brain mask", brain)
    )
    inside = brain.data > 0
    box = box_around(inside, anatomy.zooms, 10)
    lines = [
        Outline(np.rint(labels.data) == WHITE_MATTER, SKY, "white matter of the T1w", width=1.0),
        Outline(inside, YELLOW, "brain mask of the T1w", width=1.0),
    ]
    rows = rows_over(box, [(AXIAL, 12, 6), (CORONAL, 6, 6), (SAGITTAL, 6, 6)], inset=0.14)
    paint = _carried(load_canonical(bold_ref), anatomy, boldref2anat_xfm)
    return draw_mosaic(
        anatomy,
        [
            View("T1w", grey(anatomy.data, white_level(anatomy.data, among=inside)), lines),
            View(kind, paint, lines),
        ],
        rows,
        box,
        title=f"Alignment of {kind} and T1w",
        description=f"The {kind} image resampled onto the T1w image, and the T1w image, each "
        "with the T1w image's brain and white-matter borders.",
    )


def _carried(moving: Volume, fixed: Volume, transform: str | Path | None) -> Painter:
    """Paint slices of one image resampled onto the grid of another."""
    from scipy.ndimage import map_coordinates

    from neuroferry.interfaces.image.transforms import map_points, read_transform

    steps = read_transform(transform) if transform is not None else []
    there = np.linalg.inv(moving.affine)
    data = moving.data.astype(np.float32)
    white = np.float32(white_level(data))

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        spans = [np.arange(lo, hi + 1) for lo, hi in zip(box.low, box.high, strict=True)]
        spans[plane.axis] = np.array([index])
        grid = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).astype(np.float64)
        shape = grid.shape[:3]
        points = fixed.affine[:3, :3] @ grid.reshape(-1, 3).T + fixed.affine[:3, 3:]
        points = map_points(points, steps)
        voxels = there[:3, :3] @ points + there[:3, 3:]
        values = map_coordinates(data, voxels, order=1, output=np.float32).reshape(shape)
        tile = cut(values, plane, 0, Box((0, 0, 0), (shape[0] - 1, shape[1] - 1, shape[2] - 1)))
        return np.asarray(np.clip(tile / white, 0, 1))

    return paint


def draw_distortion(
    before: str | Path,
    after: str | Path,
    bold_mask: str | Path,
    white_matter: str | Path | None = None,
) -> str:
    """Draw the BOLD reference before and after distortion correction.

    Parameters
    ----------
    before, after : str or pathlib.Path
        The reference as measured, and corrected.
    bold_mask : str or pathlib.Path
        Brain mask of the corrected reference.
    white_matter : str or pathlib.Path, optional
        Probability of white matter, from the T1w image, on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    was, now, mask = (load_canonical(path) for path in (before, after, bold_mask))
    volumes = {
        "the uncorrected reference": was,
        "the corrected reference": now,
        "the brain mask": mask,
    }
    inside = mask.data > 0
    lines = [Outline(inside, VERMILION, "brain mask", width=1.0)]
    if white_matter is not None:
        tissue = load_canonical(white_matter)
        volumes["the white matter map"] = tissue
        lines = [Outline(tissue.data, SKY, "white matter of the T1w", width=1.0), *lines]
    check_same_grid(*volumes.items())
    box = box_around(inside, now.zooms, 16)
    return draw_mosaic(
        now,
        [
            View("Before", grey(was.data, white_level(was.data, among=inside)), lines),
            View("After", grey(now.data, white_level(now.data, among=inside)), lines),
        ],
        bold_rows(box),
        box,
        title="Susceptibility distortion correction",
        description="The reference before and after distortion correction, with the same "
        "borders in both.",
    )


def draw_fieldmap(fieldmap: str | Path, image: str | Path, bold_mask: str | Path) -> str:
    """Draw a field map over its image.

    Parameters
    ----------
    fieldmap : str or pathlib.Path
        Off-resonance in Hz.
    image, bold_mask : str or pathlib.Path
        Image and brain mask on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    field, under, mask = (load_canonical(path) for path in (fieldmap, image, bold_mask))
    check_same_grid(("the field map", field), ("the image", under), ("the brain mask", mask))
    inside = mask.data > 0
    values = field.data[inside] if inside.any() else field.data.reshape(-1)
    reach = max(float(np.percentile(np.abs(values), 98)), 1.0)
    lines = [Outline(inside, "#ffffff", "brain mask", width=0.9)]
    box = box_around(inside, under.zooms, 12)
    colours = painter(field.data / np.float32(2 * reach) + np.float32(0.5), DIVERGING)
    low, high = (f"{sign}{reach:.0f} Hz" for sign in ("\u2212", "+"))
    return draw_mosaic(
        under,
        [
            View("Image", grey(under.data, white_level(under.data, among=inside)), lines),
            View("Field map", colours, lines, notes=colour_bar(DIVERGING, low, high)),
        ],
        bold_rows(box),
        box,
        title="Field map",
        description="Off-resonance in Hz, in colours, and the image it applies to.",
    )
