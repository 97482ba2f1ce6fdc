"""Reportlets of a DWI run over time: motion, eddy currents, signal dropout, gradients.

Each ``draw_*`` function returns a complete SVG document; see `neuroferry.interfaces.draw.anat`
for the colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, isdefined

from neuroferry.errors import InputError
from neuroferry.interfaces.draw.anat import ORANGE, PURPLE, SKY, VERMILION, YELLOW
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.plots import (
    BACKGROUND,
    GRID,
    LEFT,
    PAPER,
    RIGHT,
    SOFT,
    Line,
    Page,
    Panel,
    draw_panel,
    raster,
    reach,
    ticks,
)
from neuroferry.interfaces.dwi.gradients import Gradients, Shell, find_shells, read_gradients
from neuroferry.interfaces.dwi.outliers import OUTLIER_SIGMAS, read_outliers
from neuroferry.interfaces.epi.confound_table import FD_THRESHOLD, Column, read_table
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.series import open_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREEN = "#2CC295"
GREY = "#d5dade"
SHELL_COLOURS = (SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION)
"""Colours of the shells in the order of their b-values; b0 volumes are grey."""
EDDY_REACH_MM = 70.0
HEAT_REACH = 6.0
"""Standard deviations between the dark middle and full colour."""
SLICE_HEIGHT = 3.2
BALL = 210.0


def draw_dwi_motion(
    confounds_tsv: str | Path,
    outliers_tsv: str | Path,
    eddy_xfms: str | Path | None = None,
    motion_xfms: str | Path | None = None,
) -> str:
    """Draw head motion, eddy currents and the signal of each slice over the volumes.

    Parameters
    ----------
    confounds_tsv : path
        Output of `DwiConfounds`.
    outliers_tsv : path
        Output of `EstimateEddy`.
    eddy_xfms, motion_xfms : path, optional
        Outputs of `EstimateEddy`; without them eddy currents are not drawn.

    Returns
    -------
    str
        An SVG document.
    """
    table = read_table(confounds_tsv)
    deviations, odd = read_outliers(outliers_tsv)
    page = Page(
        "Head motion, eddy currents and signal dropout",
        "Translations, rotations and framewise displacement of the head, eddy-current stretch, "
        "b-values, and the signal of each slice relative to its prediction, over the volumes.",
    )
    looks = (("x", ORANGE, ""), ("y", SKY, "7 3"), ("z", GREEN, "2 2"))
    shifts = [Line(table[f"trans_{axis}"], c, axis, d) for axis, c, d in looks]
    turns = [Line(np.degrees(table[f"rot_{axis}"]), c, axis, d) for axis, c, d in looks]
    fd = table["framewise_displacement"]
    panels = [
        Panel("Translation", "mm", shifts, *reach([s.values for s in shifts], least=1.0)),
        Panel("Rotation", "degrees", turns, *reach([s.values for s in turns], least=1.0)),
        Panel(
            "Framewise",
            "displacement (mm)",
            [Line(fd, ORANGE)],
            *reach([fd], zero=True, least=0.6),
            limit=FD_THRESHOLD,
        ),
    ]
    if eddy_xfms is not None and motion_xfms is not None:
        panels += _eddy_panel(read_motion_xfms(eddy_xfms), read_motion_xfms(motion_xfms))
    spoilt = [(int(v), int(v) + 1, VERMILION) for v in np.flatnonzero(odd.any(axis=1))]
    for panel in panels:
        draw_panel(page, panel, spoilt)
    draw_weighting(page, table["bval"])
    replaced = table.get("replaced_slices")
    gone = None if replaced is None else int(np.nansum(replaced))
    draw_slices(page, deviations, odd, _losses(int(odd.sum()), gone))
    return page.document()


def _eddy_panel(matrices: NDArray[np.float64], rigid: NDArray[np.float64]) -> list[Panel]:
    """Prepare the panel of eddy-current slopes along the three axes."""
    if len(matrices) != len(rigid):
        raise InputError(
            "The numbers of eddy-current and motion transforms differ; both must be of one series."
        )
    slopes = (matrices @ np.linalg.inv(rigid))[:, :3, :3] - np.eye(3)
    # Eddy currents displace along one direction: the phase-encoding axis.
    size = np.linalg.norm(slopes, axis=1)
    if not size.max() > 0:
        return []
    axis = np.linalg.svd(slopes.transpose(0, 2, 1).reshape(-1, 3))[2][0]
    axis *= np.sign(axis[np.abs(axis).argmax()])
    moved = EDDY_REACH_MM * np.einsum("i,nij->nj", axis, slopes)
    looks = (("x", ORANGE, ""), ("y", SKY, "7 3"), ("z", GREEN, "2 2"))
    lines = [
        Line(moved[:, n], colour, f"per {EDDY_REACH_MM:g} mm along {name}", dashes)
        for n, (name, colour, dashes) in enumerate(looks)
    ]
    return [Panel("Eddy currents", "mm", lines, *reach([moved], least=1.0))]


def shell_colours(shells: Sequence[Shell]) -> dict[float, str]:
    """Assign each shell its colour; b0 volumes are grey."""
    weighted = [shell.b for shell in shells if not shell.is_b0]
    colours = {b: SHELL_COLOURS[n % len(SHELL_COLOURS)] for n, b in enumerate(weighted)}
    return {0.0: GREY} | colours


def draw_weighting(page: Page, bvals: Column) -> None:
    """Draw the shell of each volume as a strip."""
    shells = find_shells(bvals)
    colours = shell_colours(shells)
    across = (RIGHT - LEFT) / len(bvals)
    top = page.y + 18
    page.text(8, top + 10, "b-value", size=13, bold=True)
    x = LEFT
    for shell in shells:
        colour, name = colours[shell.b], f"b = {shell.b:g}: {len(shell.volumes)}"
        page.add(f'<rect x="{x:.0f}" y="{top - 13:.1f}" width="9" height="9" fill="{colour}"/>')
        page.text(x + 14, top - 5, name, size=11)
        x += 34 + 6.6 * len(name)
        for volume in shell.volumes:
            page.add(
                f'<rect x="{LEFT + volume * across:.1f}" y="{top:.1f}" '
                f'width="{max(across - 0.6, 0.6):.1f}" height="12" fill="{colour}"/>'
            )
    page.y = top + 18


def _losses(count: int, replaced: int | None) -> str:
    """Say how many slices lost signal."""
    note = (
        "1 slice lost signal: outlined" if count == 1 else f"{count} slices lost signal: outlined"
    )
    if replaced is not None and count:
        note += ", and replaced" if replaced == count else f"; {replaced} replaced"
    return note


def draw_slices(
    page: Page,
    deviations: NDArray[np.float64],
    odd: NDArray[np.bool_],
    note: str,
    against: tuple[str, str] = ("signal against", "prediction"),
) -> None:
    """Draw volumes as columns and slices as rows, lowest slice at the bottom.

    Parameters
    ----------
    page : Page
        Page to draw on.
    deviations : ndarray of float64, shape (T, S)
        In standard deviations; NaN if unknown.
    odd : ndarray of bool, shape (T, S)
        Slices to outline.
    note : str
        What is outlined.
    against : tuple of str
        Two lines that say what is shown.
    """
    n_volumes, n_slices = deviations.shape
    height = max(90.0, n_slices * SLICE_HEIGHT)
    top = page.y + 14
    across, down = (RIGHT - LEFT) / n_volumes, height / n_slices
    page.add(
        f'<image x="{LEFT:.0f}" y="{top:.1f}" width="{RIGHT - LEFT:.0f}" '
        f'height="{height:.1f}" preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="{raster(_heat(deviations))}"/>'
    )
    for volume, number in np.argwhere(odd):
        page.add(
            f'<rect x="{LEFT + volume * across:.1f}" y="{top + height - (number + 1) * down:.1f}" '
            f'width="{across:.1f}" height="{down:.1f}" fill="none" stroke="{YELLOW}" '
            'stroke-width="1.3"/>'
        )
    middle = top + height / 2
    page.text(8, middle - 10, "Slices", size=13, bold=True)
    page.text(8, middle + 6, against[0], size=11, colour=SOFT)
    page.text(8, middle + 20, against[1], size=11, colour=SOFT)
    page.text(RIGHT, top - 4, note, size=11, anchor="end", colour=SOFT)
    for tick in ticks(0, n_slices - 1, 4):
        y = top + height - (tick + 0.5) * down + 4
        page.text(LEFT - 6, y, f"{tick:g}", size=10, anchor="end", colour=SOFT)
    y = top + height + 14
    page.text(8, y, "volume", size=11, colour=SOFT)
    for tick in ticks(0, n_volumes - 1, 10):
        if tick == int(tick):
            page.text(
                LEFT + (tick + 0.5) * across, y, f"{tick:g}", size=11, anchor="middle", colour=SOFT
            )
    _heat_key(page, y + 14)
    page.y = y + 44


def _heat(deviations: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour deviations: orange for lost signal, blue for excess signal."""
    share = np.clip(np.nan_to_num(deviations) / HEAT_REACH, -1, 1)
    middle, more, less = (np.array(c) for c in ((27, 31, 35), (86, 180, 233), (230, 120, 0)))
    end = np.where((share < 0)[..., None], less, more)
    colours = middle + (end - middle) * np.abs(share)[..., None]
    colours[np.isnan(deviations)] = (52, 59, 66)
    pixels = (colours[:, ::-1].transpose(1, 0, 2) + 0.5).astype(np.uint8)
    rows, columns = max(1, 400 // len(pixels)), max(1, 1200 // pixels.shape[1])
    return np.repeat(np.repeat(pixels, rows, axis=0), columns, axis=1)


def _heat_key(page: Page, y: float) -> None:
    """Draw the colour key of the slices."""
    levels = np.linspace(-HEAT_REACH, HEAT_REACH, 61)[:, None]
    page.add(
        f'<image x="{LEFT:.0f}" y="{y:.1f}" width="240" height="10" preserveAspectRatio="none" '
        f'href="{raster(_heat(levels))}"/>'
    )
    for level in (-HEAT_REACH, -OUTLIER_SIGMAS, 0.0, HEAT_REACH):
        x = LEFT + 240 * (level + HEAT_REACH) / (2 * HEAT_REACH)
        page.text(x, y + 22, f"{level:g}", size=11, anchor="middle", colour=SOFT)
    page.text(LEFT + 256, y + 9, "standard deviations; grey: unknown", size=11, colour=SOFT)


def draw_gradients(gradients: Gradients) -> str:
    """Draw the gradient directions of each shell on a sphere, from the front and from above.

    Parameters
    ----------
    gradients : Gradients
        In RAS+ world coordinates.

    Returns
    -------
    str
        An SVG document.
    """
    page = Page(
        "Gradient directions",
        "Directions on a sphere, each with its opposite, from the front and from above.",
    )
    shells = [shell for shell in gradients.shells if not shell.is_b0]
    colours = shell_colours(gradients.shells)
    views = (
        ("from the front", np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])),
        ("from above", np.eye(3)),
    )
    names = (("R", "L", "S", "I"), ("L", "R", "A", "P"))
    middle = 36 + BALL
    for number, ((name, turn), letters) in enumerate(zip(views, names, strict=True)):
        x = 300.0 + 600.0 * number
        _draw_ball(page, x, middle, turn, letters)
        for shell in shells:
            for volume in shell.volumes:
                _draw_direction(page, x, middle, turn @ gradients.bvecs[volume], colours[shell.b])
        page.text(x, middle + BALL + 34, name, anchor="middle", colour=SOFT)
    y, x = middle + BALL + 60, 90.0
    counts = [(0.0, int(gradients.b0s.sum()), "b0")] + [
        (shell.b, len(shell.volumes), f"b = {shell.b:g} s/mm²") for shell in shells
    ]
    for b, count, label in counts:
        text = f"{label}: {count} volume{'s' if count != 1 else ''}"
        page.add(f'<circle cx="{x:.0f}" cy="{y - 4:.0f}" r="5" fill="{colours[b]}"/>')
        page.text(x + 12, y, text)
        x += 40 + 7.2 * len(text)
    page.text(90, y + 22, "filled: as measured; ring: its opposite", size=11, colour=SOFT)
    page.y = y + 30
    return page.document()


def _draw_ball(
    page: Page, x: float, y: float, turn: NDArray[np.float64], letters: Sequence[str]
) -> None:
    """Draw a sphere with its three great circles."""
    page.add(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{BALL:.0f}" fill="{PAPER}" stroke="{GRID}"/>',
        f'<path d="M{x - BALL:.0f} {y:.0f}h{2 * BALL:.0f}M{x:.0f} {y - BALL:.0f}v{2 * BALL:.0f}" '
        f'stroke="{GRID}" fill="none"/>',
    )
    for radius in (math.sin(math.radians(30)), math.sin(math.radians(60))):
        page.add(
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{BALL * radius:.1f}" fill="none" '
            f'stroke="{GRID}" stroke-dasharray="3 5"/>'
        )
    places = ((-BALL - 14, 4), (BALL + 14, 4), (0, -BALL - 8), (0, BALL + 18))
    for letter, (right, down) in zip(letters, places, strict=True):
        page.text(x + right, y + down, letter, size=13, anchor="middle", colour=SOFT)


def _draw_direction(
    page: Page, x: float, y: float, direction: NDArray[np.float64], colour: str
) -> None:
    """Draw the end of a direction that faces the viewer: a ring if it is the opposite one."""
    right, up, near = direction
    opposite = near < 0
    if opposite:
        right, up = -right, -up
    look = f'fill="{BACKGROUND}" stroke="{colour}"' if opposite else f'fill="{colour}"'
    page.add(
        f'<circle cx="{x + BALL * right:.1f}" cy="{y - BALL * up:.1f}" r="5.5" {look} '
        'stroke-width="2"/>'
    )


class _DwiMotionPictureInputSpec(BaseInterfaceInputSpec):
    confounds_tsv = File(exists=True, mandatory=True, desc="confounds table")
    outliers_tsv = File(
        exists=True, mandatory=True, desc="signal of each slice, from EstimateEddy"
    )
    eddy_xfms = File(exists=True, requires=["motion_xfms"], desc="from EstimateEddy")
    motion_xfms = File(exists=True, desc="from EstimateEddy")


class DwiMotionPicture(Picture):
    """Reportlet of head motion, eddy currents and signal dropout."""

    input_spec = _DwiMotionPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        eddy = inputs.eddy_xfms if isdefined(inputs.eddy_xfms) else None
        rigid = inputs.motion_xfms if isdefined(inputs.motion_xfms) else None
        return draw_dwi_motion(inputs.confounds_tsv, inputs.outliers_tsv, eddy, rigid)


class _GradientsPictureInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image of these gradients")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")


class GradientsPicture(Picture):
    """Reportlet of the gradient directions, on a sphere."""

    input_spec = _GradientsPictureInputSpec

    def _draw(self) -> str:
        affine = open_series(self.inputs.in_file, min_volumes=1).affine
        return draw_gradients(read_gradients(self.inputs.bval, self.inputs.bvec, affine))
