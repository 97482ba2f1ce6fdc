"""Reportlets of the quality of a DWI run: masks, shells and noise, volumes and slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File

from neuroferry.bids.headers import check_same_grid
from neuroferry.bids.metadata import read_json
from neuroferry.interfaces.draw.anat import ORANGE, SKY, VERMILION, white_level
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.dwi_space import GREYS, draw_maps, dwi_rows
from neuroferry.interfaces.draw.dwi_time import draw_slices, draw_weighting
from neuroferry.interfaces.draw.epi_space import colour_bar
from neuroferry.interfaces.draw.mosaic import Outline, View, draw_mosaic, grey
from neuroferry.interfaces.draw.plots import Line, Page, Panel, draw_panel, reach
from neuroferry.interfaces.draw.slices import box_around, load_canonical
from neuroferry.interfaces.dwi.outliers import read_outliers
from neuroferry.interfaces.epi.confound_table import read_table
from neuroferry.interfaces.qc.dwi import FD_THRESHOLD

MOST_SHELLS = 5
"""Shells that have a view of their own, the lowest b-values first."""


def draw_regions(
    dwi_ref: str | Path, mask: str | Path, white: str | Path, callosum: str | Path
) -> str:
    """Draw the regions in which metrics are measured, on the image of the lowest b-value.

    Parameters
    ----------
    dwi_ref : path
        Mean of these volumes.
    mask, white, callosum : path
        Brain, white matter and corpus callosum on its grid.

    Returns
    -------
    str
        An SVG document.
    """
    image = load_canonical(dwi_ref)
    regions = [load_canonical(path) for path in (mask, white, callosum)]
    names = ("brain", "white matter", "corpus callosum")
    check_same_grid(("the b0 image", image), *zip(names, regions, strict=True))
    inside = regions[0].data > 0
    outlines = [
        Outline(region.data > 0, colour, name)
        for region, colour, name in zip(regions, (VERMILION, SKY, ORANGE), names, strict=True)
    ]
    box = box_around(inside, image.zooms, 14)
    return draw_mosaic(
        image,
        [View("Image alone"), View("Regions", None, outlines)],
        dwi_rows(box),
        box,
        base=grey(image.data, white_level(image.data, among=inside, top=97.0)),
        title="Regions of the quality metrics",
        description="Outlines of brain, white matter and corpus callosum over slices of the mean "
        "b0 image.",
    )


def draw_shells(
    shells: str | Path, mask: str | Path, metrics: str | Path, noise: str | Path
) -> str:
    """Draw the mean of each shell, bright enough to see the background, and the noise.

    Parameters
    ----------
    shells : path
        Mean of each shell, 4-D.
    mask : path
        Brain mask on its grid.
    metrics : path
        JSON of `MeasureDwi`, for the b-values.
    noise : path
        Noise of each channel; zero where unknown.

    Returns
    -------
    str
        An SVG document.
    """
    means, brain = load_canonical(shells), load_canonical(mask)
    check_same_grid(("the shells", means), ("the brain mask", brain))
    data = means.data if means.data.ndim == 4 else means.data[..., None]
    inside = brain.data > 0
    told = read_json(Path(metrics))["shells"]
    labels = [f"b = {b:g}, {count} volume{'s' * (count != 1)}" for b, count in told]
    if len(labels) != data.shape[3]:
        labels = ["b = 0", "all other volumes"][-data.shape[3] :]
    views = []
    for number, label in enumerate(labels[:MOST_SHELLS]):
        volume = np.ascontiguousarray(data[..., number])
        white = white_level(volume, among=inside, top=97.0)
        views.append(View(label, grey(volume, white, gamma=0.6)))
    level = load_canonical(noise)
    check_same_grid(("the shells", means), ("the noise", level))
    if level.data.any():
        top = float(np.percentile(level.data[inside], 99))
        notes = colour_bar(GREYS, "0", f"{top:.3g}")
        views.append(View("Noise of each channel", grey(level.data, top), notes=notes))
    box = box_around(inside, means.zooms, 24)
    return draw_mosaic(
        means,
        views,
        dwi_rows(box),
        box,
        shown=min(1, len(views) - 1),
        title="Shells and noise",
        description="Slices of the mean of each shell, with a grey scale that shows dark parts, "
        "and of the noise.",
    )


def draw_volumes(timeseries: str | Path, slices_tsv: str | Path) -> str:
    """Draw head motion, spikes and the signal of each slice over the volumes.

    Parameters
    ----------
    timeseries : path
        Table of `DwiIQMs`.
    slices_tsv : path
        Output of `MeasureDwi`.

    Returns
    -------
    str
        An SVG document.
    """
    table = read_table(timeseries)
    deviations, odd = read_outliers(slices_tsv)
    page = Page(
        "Head motion, spikes and slices",
        "Framewise displacement, share of spiking voxels, b-values, and the signal of each slice "
        "relative to the same slice in other volumes, over the volumes.",
    )
    displacement, spikes = table["framewise_displacement"], 100.0 * table["spikes"]
    panels = [
        Panel(
            "Framewise",
            "displacement (mm)",
            [Line(displacement, ORANGE)],
            *reach([displacement], zero=True, least=0.6),
            limit=FD_THRESHOLD,
        ),
        Panel(
            "Spikes",
            "% of the brain",
            [Line(spikes, SKY)],
            *reach([spikes], zero=True, least=1.0),
        ),
    ]
    marked = [(int(v), int(v) + 1, VERMILION) for v in np.flatnonzero(odd.any(axis=1))]
    for panel in panels:
        draw_panel(page, panel, marked)
    draw_weighting(page, table["bval"])
    count = int(odd.sum())
    note = f"{count} slice{'s' * (count != 1)} with spikes: outlined"
    draw_slices(page, deviations, odd, note, ("signal against", "other volumes"))
    return page.document()


class _RegionsPictureInputSpec(BaseInterfaceInputSpec):
    dwi_ref = File(exists=True, mandatory=True, desc="mean of the lowest b-value")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    white = File(exists=True, mandatory=True, desc="white matter")
    callosum = File(exists=True, mandatory=True, desc="corpus callosum")


class DwiRegionsPicture(Picture):
    """Reportlet of the regions in which metrics are measured."""

    input_spec = _RegionsPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        return draw_regions(inputs.dwi_ref, inputs.mask, inputs.white, inputs.callosum)


class _ShellsPictureInputSpec(BaseInterfaceInputSpec):
    shells = File(exists=True, mandatory=True, desc="mean of each shell, 4-D")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    metrics = File(exists=True, mandatory=True, desc="from MeasureDwi")
    noise = File(exists=True, mandatory=True, desc="noise of each channel")


class DwiShellsPicture(Picture):
    """Reportlet of the mean of each shell, and the noise."""

    input_spec = _ShellsPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        return draw_shells(inputs.shells, inputs.mask, inputs.metrics, inputs.noise)


class _VolumesPictureInputSpec(BaseInterfaceInputSpec):
    timeseries = File(exists=True, mandatory=True, desc="from DwiIQMs")
    slices_tsv = File(exists=True, mandatory=True, desc="from MeasureDwi")


class DwiVolumesPicture(Picture):
    """Reportlet of head motion, spikes and slices."""

    input_spec = _VolumesPictureInputSpec

    def _draw(self) -> str:
        return draw_volumes(self.inputs.timeseries, self.inputs.slices_tsv)


class _AnisotropyPictureInputSpec(BaseInterfaceInputSpec):
    dwi_ref = File(exists=True, mandatory=True, desc="mean of the lowest b-value")
    mask = File(exists=True, mandatory=True, desc="brain mask")
    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    color_fa = File(exists=True, mandatory=True, desc="FA in colours, uint8, 4-D")


class DwiAnisotropyPicture(Picture):
    """Reportlet of FA and colour FA."""

    input_spec = _AnisotropyPictureInputSpec

    def _draw(self) -> str:
        inputs = self.inputs
        return draw_maps(inputs.dwi_ref, inputs.mask, {"fa": inputs.fa}, inputs.color_fa)
