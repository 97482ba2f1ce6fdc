"""Reportlets of the quality of a BOLD series: its mean, its noise, its volumes.

Each ``draw_*`` function reads files and returns a complete SVG document.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File

from neuroferry.bids.metadata import read_json
from neuroferry.interfaces.draw.anat import ORANGE, SKY, VERMILION, air_level, white_level
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.epi_space import (
    VIRIDIS,
    bold_rows,
    colour_bar,
    note,
    painter,
)
from neuroferry.interfaces.draw.func_time import GREEN, carpet_pixels
from neuroferry.interfaces.draw.mosaic import Outline, View, draw_mosaic, grey
from neuroferry.interfaces.draw.plots import (
    BACKGROUND,
    LEFT,
    PAPER,
    RIGHT,
    SOFT,
    Line,
    Page,
    Panel,
    draw_panel,
    draw_time_axis,
    raster,
    reach,
)
from neuroferry.interfaces.draw.slices import box_around, load_canonical, whole_box
from neuroferry.interfaces.epi.confound_table import Column, read_table
from neuroferry.interfaces.func.compcor import quadratic_basis, residuals
from neuroferry.interfaces.qc.bold import FD_THRESHOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPIKE_REACH = 12.0
"""Robust standard deviations shown in full colour."""
SPIKE_SIGMAS = 6.0
DUMMY, UNUSABLE = "#9aa4ad", VERMILION


def draw_mean(mean: str | Path, brain_mask: str | Path) -> str:
    """Draw the mean of a series: as it is, with the brain mask, and its background.

    Parameters
    ----------
    mean : str or pathlib.Path
        Mean of the realigned series.
    brain_mask : str or pathlib.Path
        Brain mask on its grid; may be empty.

    Returns
    -------
    str
        An SVG document.
    """
    image, inside = load_canonical(mean), load_canonical(brain_mask).data > 0
    box = whole_box(image.data.shape)
    plain = grey(image.data, white_level(image.data))
    level = air_level(image.data)
    outline = Outline(inside, VERMILION, "brain mask" if inside.any() else "no brain was found")
    views = [View("Mean", plain), View("Brain mask", plain, [outline])]
    if level is not None:
        stretched = grey(image.data, level, gamma=0.8)
        views.append(View("Background, contrast stretched", stretched))
    return draw_mosaic(
        image,
        views,
        bold_rows(box),
        box,
        shown=0,
        title="Mean of the BOLD series",
        description="Slices of the whole field of view of the mean after realignment; with the "
        "brain mask; and with the contrast stretched to show ghosts and noise outside the head.",
    )


def draw_noise(std: str | Path, tsnr: str | Path, brain_mask: str | Path) -> str:
    """Draw the standard deviation over time and the temporal signal-to-noise ratio.

    Parameters
    ----------
    std, tsnr : str or pathlib.Path
        Standard deviation over time, and mean over standard deviation.
    brain_mask : str or pathlib.Path
        Brain mask on the same grid; may be empty.

    Returns
    -------
    str
        An SVG document.
    """
    image, ratio = load_canonical(std), load_canonical(tsnr)
    inside = load_canonical(brain_mask).data > 0
    among = inside if inside.any() else np.ones(inside.shape, dtype=bool)
    high = np.float32(max(float(np.percentile(ratio.data[among], 98)), 1.0))
    median = note(f"median {np.median(ratio.data[among]):.0f}", 150)
    box = box_around(inside, image.zooms, 20)
    views = [
        View("Standard deviation", grey(image.data, white_level(image.data, among=among, top=99))),
        View(
            "Temporal SNR",
            painter(ratio.data / high, VIRIDIS),
            notes=[median, *colour_bar(VIRIDIS, "0", f"{high:.0f}")],
        ),
    ]
    return draw_mosaic(
        image,
        views,
        bold_rows(box),
        box,
        shown=0,
        title="Noise of the BOLD series",
        description="Standard deviation over time after realignment, and temporal "
        "signal-to-noise ratio in colours.",
    )


def draw_volumes(timeseries: str | Path, iqms: str | Path, carpet: str | Path) -> str:
    """Draw the values of each volume, the background of each slice, and a carpet of voxels.

    Parameters
    ----------
    timeseries, iqms, carpet : str or pathlib.Path
        Outputs of `BoldIQMs`.

    Returns
    -------
    str
        An SVG document.
    """
    table, metrics = read_table(timeseries), read_json(Path(iqms))
    with np.load(carpet) as arrays:
        voxels, spikes = arrays["carpet"], arrays["spikes"]
    warnings = metrics["provenance"]["warnings"]
    shaded = [(0, int(metrics["dummy_trs"]), DUMMY)] if metrics["dummy_trs"] else []
    shaded += [(t, t + 1, UNUSABLE) for t in warnings.get("unusable_volumes", ())]
    page = Page(
        "Volumes of the BOLD series",
        "Framewise displacement, DVARS, outliers and quality index of each volume; the mean of "
        "the background of each slice; the time series of voxels as rows.",
    )
    for panel in _panels(table):
        draw_panel(page, panel, shaded)
    _draw_strip(page, _spike_pixels(spikes), "Background", "of each slice", 96)
    _draw_strip(page, carpet_pixels(_standardised(voxels)), "Carpet", "of brain voxels", 300)
    draw_time_axis(page, len(voxels), float(metrics["spacing_tr"]))
    page.text(
        8,
        page.y + 10,
        f"Background: orange above {SPIKE_SIGMAS:.0f} robust standard deviations. Carpet: lowest "
        "slice first; black and white are two standard deviations below and above the trend.",
        size=11,
        colour=SOFT,
    )
    page.y += 12
    return page.document()


def _panels(table: dict[str, Column]) -> list[Panel]:
    """Prepare the panels above the carpet."""
    looks = (
        ("framewise_displacement", "Framewise", "displacement (mm)", ORANGE, 0.6, FD_THRESHOLD),
        ("dvars_std", "DVARS", "1 is expected", GREEN, 2.0, None),
        ("aor", "Outliers", "share of the brain", SKY, 0.02, None),
        ("aqi", "Quality index", "0 is best", VERMILION, 0.02, None),
    )
    panels = []
    for name, title, unit, colour, least, limit in looks:
        values = table[name]
        known = values[np.isfinite(values)]
        text = f"mean {known.mean():.3g}, largest {known.max():.3g}" if known.size else "undefined"
        low, high = reach([values], zero=True, least=least)
        lines = [Line(values, colour)]
        panels.append(Panel(title, unit, lines, low, high, limit=limit, note=text, height=60))
    return panels


def _draw_strip(
    page: Page, pixels: NDArray[np.uint8], title: str, unit: str, height: float
) -> None:
    """Draw an image with one column for each volume below the panels."""
    top = page.y + 8
    page.add(
        f'<rect x="{LEFT:.0f}" y="{top:.1f}" width="{RIGHT - LEFT:.0f}" height="{height:.0f}" '
        f'fill="{PAPER}" stroke="{BACKGROUND}"/>'
    )
    if pixels.size:
        page.add(
            f'<image x="{LEFT:.0f}" y="{top:.1f}" width="{RIGHT - LEFT:.0f}" '
            f'height="{height:.0f}" preserveAspectRatio="none" '
            f'href="{raster(pixels, lossless=False)}"/>'
        )
    page.text(8, top + height / 2 - 2, title, size=13, bold=True)
    page.text(8, top + height / 2 + 14, unit, size=11, colour=SOFT)
    page.y = top + height + 4


def _standardised(voxels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Remove the trend of each voxel and divide by its deviation; 0 where nothing was measured."""
    whole = np.zeros(voxels.shape)
    measured = np.isfinite(voxels).all(axis=1)
    if not voxels.size or np.count_nonzero(measured) < 2:
        return whole
    steady = np.asarray(voxels[measured], dtype=np.float32)
    flat = residuals(steady, quadratic_basis(len(steady)))
    deviation = flat.std(axis=0)
    whole[measured] = flat / np.where(deviation > 0, deviation, 1.0)
    return whole


def _spike_pixels(spikes: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour the background of each slice: dark by default, orange where it stands out."""
    share = np.clip((np.abs(spikes) - 2) / (SPIKE_REACH - 2), 0, 1)
    dark, hot = np.array((27, 31, 35)), np.array((255, 150, 30))
    pixels = dark + (hot - dark) * share[..., None]
    turned = (pixels[:, ::-1].transpose(1, 0, 2) + 0.5).astype(np.uint8)
    repeat = max(1, round(1200 / max(len(spikes), 1)))
    return np.repeat(np.repeat(turned, 4, axis=0), repeat, axis=1)


class _BoldMeanPictureInputSpec(BaseInterfaceInputSpec):
    mean = File(exists=True, mandatory=True, desc="mean of the realigned series")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class BoldMeanPicture(Picture):
    """Reportlet of the mean of a series and its background."""

    input_spec = _BoldMeanPictureInputSpec

    def _draw(self) -> str:
        return draw_mean(self.inputs.mean, self.inputs.brain_mask)


class _BoldNoisePictureInputSpec(BaseInterfaceInputSpec):
    std = File(exists=True, mandatory=True, desc="standard deviation over time")
    tsnr = File(exists=True, mandatory=True, desc="temporal signal-to-noise ratio")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on their grid")


class BoldNoisePicture(Picture):
    """Reportlet of the noise of a series."""

    input_spec = _BoldNoisePictureInputSpec

    def _draw(self) -> str:
        return draw_noise(self.inputs.std, self.inputs.tsnr, self.inputs.brain_mask)


class _BoldVolumesPictureInputSpec(BaseInterfaceInputSpec):
    timeseries = File(exists=True, mandatory=True, desc="table with the values of each volume")
    iqms = File(exists=True, mandatory=True, desc="JSON with the metrics")
    carpet = File(exists=True, mandatory=True, desc="NumPy archive of BoldIQMs")


class BoldVolumesPicture(Picture):
    """Reportlet of the volumes of a series."""

    input_spec = _BoldVolumesPictureInputSpec

    def _draw(self) -> str:
        return draw_volumes(self.inputs.timeseries, self.inputs.iqms, self.inputs.carpet)
