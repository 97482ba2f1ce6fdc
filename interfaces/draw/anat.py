"""Reportlets of the anatomical steps, before and after each.

Each ``draw_*`` function reads images and returns a complete SVG document. Colours are those of
Okabe and Ito [1]_, which can be told apart with any kind of colour vision; line styles differ
too.

References
----------
.. [1] Okabe M, Ito K (2008). Color universal design: how to make figures and presentations
   that are friendly to colorblind people. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    isdefined,
    traits,
)

from neuroferry.bids.headers import (
    SAME_VOXELS_MM,
    Grid,
    check_same_grid,
    same_grid,
)
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.mosaic import WIDTH, Outline, Painter, View, draw_mosaic, grey
from neuroferry.interfaces.draw.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Box,
    Plane,
    Row,
    box_around,
    cut,
    load_canonical,
    rows_over,
    whole_box,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORANGE = "#E69F00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
YELLOW = "#F0E442"
VERMILION = "#FF6A1F"
"""Brighter than the original, for thin lines on black."""

TISSUES = ((1, "grey matter", ORANGE), (2, "white matter", SKY), (3, "CSF", PURPLE))
"""Label in a dseg, name, colour."""


def white_level(
    data: NDArray[Any], *, among: NDArray[np.bool_] | None = None, top: float = 99.7
) -> float:
    """Choose the intensity shown as white.

    Parameters
    ----------
    data : ndarray, shape (I, J, K)
        Intensities in any unit.
    among : ndarray of bool, shape (I, J, K), optional
        Voxels to consider; by default, those above the mean of ``data``.
    top : float
        Percentile shown as white.

    Returns
    -------
    float
        In units of ``data``; 1 when nothing is above zero.

    Examples
    --------
    >>> white_level(np.full((4, 4, 4), 300), among=np.ones((4, 4, 4), bool))
    300.0
    """
    thin = (slice(None, None, 2),) * 3
    few = data[thin]
    picked = few[few > few.mean()] if among is None else few[among[thin]]
    if not picked.size:
        picked = data.reshape(-1)
    white = float(np.percentile(picked, top))
    return white if white > 0 else 1.0


def air_level(data: NDArray[Any]) -> float | None:
    """Estimate the highest intensity that noise in air reaches.

    Air is every voxel between zero and Otsu's threshold. In magnitude images its noise is
    Rayleigh distributed with a median of 1.18 sigma, so that three medians (3.5 sigma) include
    all but 0.2% of it; ghosts and ringing exceed this.

    Parameters
    ----------
    data : ndarray, shape (I, J, K)
        Whole head and the surrounding air.

    Returns
    -------
    float or None
        In units of ``data``; ``None`` if less than 2% of the image is noisy air, as in images
        whose background was removed.
    """
    from skimage.filters import threshold_otsu

    few = np.asarray(data)[::2, ::2, ::2].astype(np.float32)
    if few.min() == few.max():
        return None
    air = few[(few > 0) & (few < threshold_otsu(few))]
    return 3 * float(np.median(air)) if air.size > 0.02 * few.size else None


def draw_quality(t1w: str | Path, contrast: str = "T1w") -> str:
    """Draw the whole head, and again with the contrast stretched to show the air.

    Parameters
    ----------
    t1w : str or pathlib.Path
        T1- or T2-weighted image, before any correction.
    contrast : {"T1w", "T2w"}
        Which of them.

    Returns
    -------
    str
        An SVG document.
    """
    volume = load_canonical(t1w)
    level = air_level(volume.data)
    image = grey(volume.data, white_level(volume.data))
    if level is None:
        views = [View("Image (its background is empty: no air to show)", image)]
    else:
        air = grey(volume.data, level, gamma=0.8)
        views = [View("Image", image), View("Air around the head, contrast stretched", air)]
    box = whole_box(volume.data.shape)
    rows = rows_over(box, [(AXIAL, 14, 7), (CORONAL, 7, 7), (SAGITTAL, 7, 7)], inset=0.08)
    return draw_mosaic(
        volume,
        views,
        rows,
        box,
        shown=0,
        title=f"{contrast[:2]}-weighted image as acquired",
        description="Slices of the whole field of view in three orientations; a second view "
        "stretches the contrast to show noise, ghosts and wrap-around in the air.",
    )


def _colours(field: NDArray[Any], reach: float) -> NDArray[np.uint8]:
    """Colour a field by its logarithm: blue below one, white at one, orange above."""
    ends = np.array([[0, 114, 178], [245, 245, 245], [213, 94, 0]], dtype=np.float32)
    log = np.log(np.maximum(field.astype(np.float32), 1e-3)) / np.log(np.float32(reach))
    place = np.clip(log, -1, 1)[..., None]
    low, mid, high = ends
    rgb = np.where(place < 0, mid + (low - mid) * -place, mid + (high - mid) * place)
    return np.asarray(rgb.astype(np.uint8))


def _field_painter(field: NDArray[Any], middle: float, reach: float) -> Painter:
    """Paint slices of a bias field relative to ``middle``."""

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        return _colours(cut(field, plane, index, box) / np.float32(middle), reach)

    return paint


def _colour_bar(reach: float) -> list[str]:
    """Draw the colour bar of the bias field in the heading."""
    x = WIDTH - 260
    steps = np.linspace(-1, 1, 41)
    rgb = _colours(np.exp(steps * np.log(reach)), reach)
    blocks = [
        f'<rect x="{x + 40 + 4 * n}" y="7" width="4.4" height="12" fill="rgb({r},{g},{b})"/>'
        for n, (r, g, b) in enumerate(rgb.tolist())
    ]
    return [
        *blocks,
        f'<text x="{x + 34}" y="17" font-size="12" text-anchor="end">x {1 / reach:.2f}</text>',
        f'<text x="{x + 210}" y="17" font-size="12">x {reach:.2f}</text>',
    ]


def draw_bias(
    t1w_ref: str | Path,
    t1w_preproc: str | Path,
    bias_field: str | Path,
    brain_mask: str | Path | None = None,
) -> str:
    """Draw the image before and after bias correction, and the bias field.

    Parameters
    ----------
    t1w_ref, t1w_preproc : str or pathlib.Path
        Before and after; after = before / field.
    bias_field : str or pathlib.Path
        Multiplicative field, without unit.
    brain_mask : str or pathlib.Path, optional
        Region to show; by default, the bright voxels.

    Returns
    -------
    str
        An SVG document.
    """
    before, after, field = (load_canonical(p) for p in (t1w_ref, t1w_preproc, bias_field))
    volumes = {"the image": before, "the corrected image": after, "the bias field": field}
    inside = after.data > after.data.mean()
    if brain_mask is not None:
        mask = load_canonical(brain_mask)
        check_same_grid(("the image", before), ("the brain mask", mask))
        if (mask.data > 0).any():
            inside = np.asarray(mask.data > 0)
    check_same_grid(*volumes.items())
    values = field.data[inside][::7] if inside.any() else field.data.reshape(-1)[::7]
    # the scale of a bias field is arbitrary: one is its median over the head
    middle = float(np.median(values)) or 1.0
    low, high = np.percentile(values / np.float32(middle), (1, 99))
    reach = max(1.1, float(high), 1 / max(float(low), 0.05))
    box = box_around(inside, after.zooms, 14)
    rows = rows_over(box, [(AXIAL, 8, 8), (CORONAL, 8, 8), (SAGITTAL, 7, 7)], inset=0.12)
    views = [
        View("Before correction", grey(before.data, white_level(before.data, among=inside))),
        View("After correction", grey(after.data, white_level(after.data, among=inside))),
        View(
            "Bias field",
            _field_painter(field.data, middle, reach),
            [] if brain_mask is None else [Outline(inside, "#7a7a7a", "brain mask")],
            notes=_colour_bar(reach),
        ),
    ]
    return draw_mosaic(
        after,
        views,
        rows,
        box,
        shown=1,
        title="Bias field correction",
        description="Slices before and after correction of the smooth intensity "
        "non-uniformity, and the field that was removed.",
    )


def _brain_rows(box: Box, dense: bool) -> list[Row]:
    if dense:
        return rows_over(box, [(AXIAL, 24, 8), (CORONAL, 16, 8), (SAGITTAL, 14, 7)])
    return rows_over(box, [(AXIAL, 12, 6), (CORONAL, 6, 6), (SAGITTAL, 6, 6)], inset=0.14)


def draw_brain(t1w: str | Path, brain_mask: str | Path) -> str:
    """Draw the outline of the brain mask on many slices in three orientations.

    Parameters
    ----------
    t1w : str or pathlib.Path
        T1-weighted image with skull.
    brain_mask : str or pathlib.Path
        Non-zero inside the brain, on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    image, mask = load_canonical(t1w), load_canonical(brain_mask)
    check_same_grid(("the image", image), ("the brain mask", mask))
    inside = np.asarray(mask.data) > 0
    box = box_around(inside, image.zooms, 14)
    name = "brain mask" if inside.any() else "brain mask (empty)"
    return draw_mosaic(
        image,
        [View("Image alone"), View("Brain mask", None, [Outline(inside, VERMILION, name)])],
        _brain_rows(box, dense=True),
        box,
        base=grey(image.data, white_level(image.data, among=inside)),
        title="Brain mask",
        description="The outline of the brain mask over axial, coronal and sagittal slices.",
    )


def _tissue_painter(plain: Painter, codes: NDArray[np.uint8]) -> Painter:
    """Paint slices with each tissue in its colour, the image showing through."""
    palette = np.zeros((256, 3), dtype=np.float32)
    for label, _, colour in TISSUES:
        palette[label] = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]

    def paint(plane: Plane, index: int, box: Box) -> NDArray[Any]:
        shade = 255 * plain(plane, index, box)[..., None]
        labels = cut(codes, plane, index, box)
        filled = np.where(labels[..., None] > 0, 0.5 * shade + 0.5 * palette[labels], shade)
        return np.asarray(filled.astype(np.uint8))

    return paint


def _tissue_key() -> list[str]:
    """Draw the colour key of the tissues in the heading."""
    parts = []
    for n, (_, name, colour) in enumerate(TISSUES):
        x = 110 + 130 * n
        parts.append(
            f'<rect x="{x}" y="7" width="22" height="11" fill="{colour}"/>'
            f'<text x="{x + 28}" y="17" font-size="13">{name}</text>'
        )
    return parts


def draw_tissues(t1w: str | Path, dseg: str | Path) -> str:
    """Draw the borders of grey matter, white matter and cerebrospinal fluid.

    Parameters
    ----------
    t1w : str or pathlib.Path
        Bias-corrected T1-weighted image.
    dseg : str or pathlib.Path
        1 = grey matter, 2 = white matter, 3 = CSF, on the same grid.

    Returns
    -------
    str
        An SVG document.
    """
    image, labels = load_canonical(t1w), load_canonical(dseg)
    check_same_grid(("the image", image), ("the segmentation", labels))
    codes = np.rint(labels.data).astype(np.uint8)
    brain = codes > 0
    plain = grey(image.data, white_level(image.data, among=brain))
    box = box_around(brain, image.zooms, 8)
    white = Outline(codes == 2, SKY, "white matter", width=1.1)
    # the outer border of grey matter; its inner one is white matter's
    rim = Outline((codes == 1) | (codes == 2), ORANGE, "grey matter", width=1.1)
    fluid = Outline(codes == 3, PURPLE, "CSF", width=0.9, dashes=(2.5, 1.5))
    return draw_mosaic(
        image,
        [
            View("Image alone"),
            View("Borders", None, [fluid, rim, white]),
            View("Filled in", _tissue_painter(plain, codes), notes=_tissue_key()),
        ],
        _brain_rows(box, dense=False),
        box,
        shown=1,
        base=plain,
        title="Tissues",
        description="Borders of grey matter, white matter and cerebrospinal fluid over "
        "axial, coronal and sagittal slices.",
    )


def template_on(affine: NDArray[np.float64], shape: tuple[int, ...]) -> dict[str, Any]:
    """Resample the template onto a grid in its own space.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm of the template's space.
    shape : tuple of int
        Number of voxels.

    Returns
    -------
    dict
        ``t1w``, ``wm`` (float32) and ``brain`` (bool) arrays of ``shape``.
    """
    from scipy.ndimage import affine_transform

    from neuroferry.templates import load_template

    template = load_template(1)
    maps = {
        "t1w": template.t1w,
        "wm": template.wm,
        "brain": template.brain_mask.astype(np.float32),
    }
    own = Grid(template.t1w.shape, template.affine)
    if not same_grid(Grid(shape, affine), own, tolerance_mm=SAME_VOXELS_MM):
        there = np.linalg.inv(template.affine) @ affine
        maps = {
            name: affine_transform(data, there[:3, :3], there[:3, 3], shape, order=1)
            for name, data in maps.items()
        }
    return {**maps, "brain": maps["brain"] > 0.5}


def draw_normalisation(std_t1w: str | Path) -> str:
    """Draw the image in template space and the template, both with the template's borders.

    Parameters
    ----------
    std_t1w : str or pathlib.Path
        T1-weighted image resampled to MNI152NLin2009aSym at any resolution.

    Returns
    -------
    str
        An SVG document.
    """
    image = load_canonical(std_t1w)
    template = template_on(image.affine, image.data.shape[:3])
    brain = template["brain"]
    box = box_around(brain, image.zooms, 6)
    lines = [
        Outline(brain, YELLOW, "template's brain", width=1.0),
        Outline(template["wm"], SKY, "template's white matter", width=0.9),
    ]
    return draw_mosaic(
        image,
        [
            View(
                "Template", grey(template["t1w"], white_level(template["t1w"], among=brain)), lines
            ),
            View(
                "This participant", grey(image.data, white_level(image.data, among=brain)), lines
            ),
        ],
        _brain_rows(box, dense=False),
        box,
        title="Overlap with the template",
        description="The image in template space and the template itself, each with the "
        "template's brain and white-matter borders.",
    )


class _QualityPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image before any correction")
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="contrast of the image")


class QualityPicture(Picture):
    """Reportlet of the whole head, and of the air around it with stretched contrast."""

    input_spec = _QualityPictureInputSpec

    def _draw(self) -> str:
        return draw_quality(self.inputs.t1w, self.inputs.contrast)


class _BiasPictureInputSpec(BaseInterfaceInputSpec):
    t1w_ref = File(exists=True, mandatory=True, desc="before correction")
    t1w_preproc = File(exists=True, mandatory=True, desc="after correction")
    bias_field = File(exists=True, mandatory=True, desc="estimated bias field")
    brain_mask = File(exists=True, desc="region to show")


class BiasPicture(Picture):
    """Reportlet of the image before and after bias correction, and of the bias field."""

    input_spec = _BiasPictureInputSpec

    def _draw(self) -> str:
        mask = self.inputs.brain_mask
        return draw_bias(
            self.inputs.t1w_ref,
            self.inputs.t1w_preproc,
            self.inputs.bias_field,
            mask if isdefined(mask) else None,
        )


class _BrainPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image with skull")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class BrainPicture(Picture):
    """Reportlet of the brain mask, as an outline on many slices."""

    input_spec = _BrainPictureInputSpec

    def _draw(self) -> str:
        return draw_brain(self.inputs.t1w, self.inputs.brain_mask)


class _TissuesPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    dseg = File(exists=True, mandatory=True, desc="1 = GM, 2 = WM, 3 = CSF")


class TissuesPicture(Picture):
    """Reportlet of the tissue borders."""

    input_spec = _TissuesPictureInputSpec

    def _draw(self) -> str:
        return draw_tissues(self.inputs.t1w, self.inputs.dseg)


class _NormalisationPictureInputSpec(BaseInterfaceInputSpec):
    std_t1w = File(exists=True, mandatory=True, desc="T1w image in template space")


class NormalisationPicture(Picture):
    """Reportlet of the image in template space beside the template."""

    input_spec = _NormalisationPictureInputSpec

    def _draw(self) -> str:
        return draw_normalisation(self.inputs.std_t1w)
