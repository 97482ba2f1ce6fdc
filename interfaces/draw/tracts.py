"""Reportlets of bundles over the brain, and of the profiles along them.

Each ``draw_*`` function returns a complete SVG document; see `neuroferry.interfaces.draw.anat`
for the colours. Streamlines are drawn into the raster of a slice, distant ones first and darker:
as paths they would take megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiObject, isdefined

from neuroferry.bids.metadata import read_json
from neuroferry.interfaces.draw.anat import ORANGE, SKY, white_level
from neuroferry.interfaces.draw.base import Picture
from neuroferry.interfaces.draw.mosaic import PIXELS_PER_UNIT, WIDTH
from neuroferry.interfaces.draw.plots import GRID, PAPER, SOFT, Page, raster, reach, ticks
from neuroferry.interfaces.draw.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Box,
    Plane,
    Volume,
    box_around,
    cut,
    load_canonical,
)
from neuroferry.interfaces.image.images import inverse
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.interfaces.tracts.profiles import METRICS, read_profiles
from neuroferry.interfaces.tracts.streamlines import read_streamlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINES_TOGETHER = 120
LINES_ALONE = 250
"""Streamlines drawn per bundle, evenly sampled."""
POINTS = 60
FINER = 2
"""Supersampling factor of the lines."""
DIM = 0.62
"""Brightness of the slice behind streamlines."""
FAR = 0.45
"""Brightness of the farthest streamline."""
GAP = 6.0
COLUMNS = 7
GREEN = "#2CC295"
VIEWS = (
    ("Left side", SAGITTAL, -1, -1),
    ("From above", AXIAL, 0, 1),
    ("From behind", CORONAL, 0, -1),
    ("Right side", SAGITTAL, 1, 1),
)
"""Name, plane, side of the bundles, and the near end of the third axis."""
BEST_PLANES = {"Corticospinal": CORONAL, "Forceps": AXIAL, "IFOF": AXIAL}
"""Best view of a bundle, by a word of its name; others are seen from the side."""
SCALES = {"fa": (1.0, "FA"), "md": (1e3, "MD"), "rd": (1e3, "RD"), "ad": (1e3, "AD")}
"""For each metric, its display factor and short name."""
UNITS = {"fa": "", "md": "µm²/ms", "rd": "µm²/ms", "ad": "µm²/ms"}


@dataclass(frozen=True)
class _Drawn:
    """Drawable form of a bundle.

    Attributes
    ----------
    name : str
        Name of the bundle.
    colour : tuple of int
        Red, green, blue.
    lines : ndarray of float64, shape (N, POINTS, 3)
        Voxel indices in the background image.
    side : int
        -1 left, 1 right, 0 both.
    count : int
        All streamlines of the bundle, drawn or not.
    """

    name: str
    colour: tuple[int, int, int]
    lines: NDArray[np.float64]
    side: int
    count: int


def draw_bundles(
    image: str | Path,
    brain_mask: str | Path,
    bundles: Sequence[str | Path],
    report: str | Path,
    dwi2anat_xfm: str | Path | None = None,
) -> str:
    """Draw bundles over a brain image: all of them from four sides, then each separately.

    Parameters
    ----------
    image, brain_mask : str or pathlib.Path
        T1w image, or another image of the same head, and its brain mask.
    bundles : sequence of str or pathlib.Path
        Streamlines of each bundle found.
    report : str or pathlib.Path
        Report of `SegmentBundles`.
    dwi2anat_xfm : str or pathlib.Path, optional
        ITK affine that resamples the diffusion images onto the image; without it they are in the
        same space.

    Returns
    -------
    str
        An SVG document.
    """
    volume, mask = load_canonical(image), load_canonical(brain_mask)
    inside = np.asarray(mask.data) > 0
    box = box_around(inside, volume.zooms, 6)
    white = np.float32(white_level(volume.data, among=inside))
    shade = np.clip(volume.data / white, 0, 1).astype(np.float32)
    to_voxels = inverse(volume.affine)
    if dwi2anat_xfm is not None:
        # Points map in the opposite direction to images.
        to_voxels = to_voxels @ inverse(read_itk_affine(dwi2anat_xfm))
    drawn = _load(bundles, read_json(Path(report)), to_voxels)
    page = Page(
        "Bundles",
        "Streamlines of each bundle over slices of the brain: all together from four sides, "
        "then each bundle separately.",
    )
    _draw_together(page, volume, shade, box, drawn)
    _draw_alone(page, volume, shade, box, drawn)
    return page.document()


def _load(
    bundles: Sequence[str | Path], report: Mapping[str, Any], to_voxels: NDArray[np.float64]
) -> list[_Drawn]:
    """Read the bundles of a report; bundles that were not found have no lines."""
    files = {Path(path).name: path for path in bundles}
    drawn = []
    for bundle in report["Bundles"]:
        lines = np.zeros((0, POINTS, 3))
        path = files.get(bundle.get("File", ""))
        if path is not None:
            streamlines = read_streamlines(path)
            few = np.unique(
                np.linspace(0, len(streamlines) - 1, LINES_ALONE).round().astype(np.int64)
            )
            nodes = streamlines.take(few).resampled(POINTS)
            lines = nodes @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        colour = bundle["Colour"]
        red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
        side = {"Left": -1, "Right": 1}.get(bundle["Name"].split()[0], 0)
        drawn.append(_Drawn(bundle["Name"], (red, green, blue), lines, side, int(bundle["Kept"])))
    return drawn


def _tile(
    shade: NDArray[np.float32],
    plane: Plane,
    box: Box,
    drawn: Sequence[_Drawn],
    size: tuple[float, float],
    *,
    most: int,
    near: int = 1,
) -> str:
    """Draw bundles over one slice; return the picture as a data URI."""
    from PIL import Image, ImageDraw

    shown = [bundle for bundle in drawn if len(bundle.lines)]
    low, high = np.array(box.low, dtype=float), np.array(box.high, dtype=float)
    middle = (low[plane.axis] + high[plane.axis]) / 2
    if shown:
        middle = float(
            np.median(np.concatenate([b.lines[..., plane.axis].ravel() for b in shown]))
        )
    index = int(np.clip(round(middle), box.low[plane.axis], box.high[plane.axis]))
    back = (cut(shade, plane, index, box) * (255 * DIM) + 0.5).astype(np.uint8)
    width, height = (round(length * PIXELS_PER_UNIT) for length in size)
    picture = (
        Image.fromarray(np.ascontiguousarray(back))
        .resize((width * FINER, height * FINER), Image.Resampling.BICUBIC)
        .convert("RGB")
    )
    pen = ImageDraw.Draw(picture)
    across = width * FINER / (high[plane.right] - low[plane.right] + 1)
    down = height * FINER / (high[plane.up] - low[plane.up] + 1)
    paths, depths, colours = [], [], []
    for bundle in shown:
        step = max(1, -(-len(bundle.lines) // most))
        lines = bundle.lines[::step]
        x = (lines[..., plane.right] - low[plane.right] + 0.5) * across
        y = (high[plane.up] - lines[..., plane.up] + 0.5) * down
        paths += list(np.stack([x, y], axis=-1))
        depths += list(lines[..., plane.axis].mean(axis=1))
        colours += [bundle.colour] * len(lines)
    close = near * np.array(depths)
    span = (float(np.ptp(close)) or 1.0) if close.size else 1.0
    for n in np.argsort(close, kind="stable"):
        bright = FAR + (1 - FAR) * (close[n] - close.min()) / span
        colour = tuple(int(bright * part) for part in colours[n])
        pen.line([tuple(p) for p in paths[n].round(1).tolist()], fill=colour, width=FINER)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    return raster(np.asarray(small), lossless=False)


def _extent(volume: Volume, plane: Plane, box: Box) -> tuple[float, float]:
    """Compute the width and height of a slice in mm."""
    extent = (np.array(box.high) - np.array(box.low) + 1) * volume.zooms
    return float(extent[plane.right]), float(extent[plane.up])


def _place(page: Page, x: float, y: float, size: tuple[float, float], picture: str) -> None:
    page.add(
        f'<image x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" '
        f'href="{picture}"/>'
    )


def _draw_together(
    page: Page,
    volume: Volume,
    shade: NDArray[np.float32],
    box: Box,
    drawn: Sequence[_Drawn],
) -> None:
    """Draw all bundles from four sides, in one row at the same scale."""
    extents = [_extent(volume, plane, box) for _, plane, _, _ in VIEWS]
    scale = (WIDTH - GAP * (len(VIEWS) + 1)) / sum(width for width, _ in extents)
    row = max(height for _, height in extents) * scale
    x, top = GAP, page.y + 16
    for (label, plane, side, near), extent in zip(VIEWS, extents, strict=True):
        size = (extent[0] * scale, extent[1] * scale)
        some = [bundle for bundle in drawn if side in (0, bundle.side)]
        picture = _tile(shade, plane, box, some, size, most=LINES_TOGETHER, near=near)
        _place(page, x, top + (row - size[1]) / 2, size, picture)
        page.text(x, top - 5, label, size=13, bold=True)
        left, right = plane.marks
        for mark, at, anchor in ((left, x + 3, "start"), (right, x + size[0] - 3, "end")):
            page.add(
                f'<text class="nf-mark" x="{at:.1f}" y="{top + row / 2 + 5:.1f}" '
                f'text-anchor="{anchor}">{mark}</text>'
            )
        x += size[0] + GAP
    page.y = top + row + 12


def _draw_alone(
    page: Page,
    volume: Volume,
    shade: NDArray[np.float32],
    box: Box,
    drawn: Sequence[_Drawn],
) -> None:
    """Draw each bundle separately, left above right."""
    width = (WIDTH - GAP * (COLUMNS + 1)) / COLUMNS
    height = width
    # Pairs first, so that both sides share a column.
    groups = _pairs([bundle.name for bundle in drawn])
    order: list[tuple[str, ...]] = [group for group in groups if len(group) == 2]
    single = [group[0] for group in groups if len(group) == 1]
    order += [tuple(single[n : n + 2]) for n in range(0, len(single), 2)]
    named = {bundle.name: bundle for bundle in drawn}
    for first in range(0, len(order), COLUMNS):
        for row in range(2):
            top = page.y + 16
            for column, names in enumerate(order[first : first + COLUMNS]):
                if row >= len(names):
                    continue
                bundle = named[names[row]]
                x = GAP + column * (width + GAP)
                plane = next(
                    (p for word, p in BEST_PLANES.items() if word in bundle.name), SAGITTAL
                )
                mm = _extent(volume, plane, box)
                scale = min(width / mm[0], height / mm[1])
                size = (mm[0] * scale, mm[1] * scale)
                picture = _tile(
                    shade, plane, box, [bundle], size, most=LINES_ALONE, near=bundle.side or 1
                )
                _place(
                    page, x + (width - size[0]) / 2, top + (height - size[1]) / 2, size, picture
                )
                colour = "#{:02X}{:02X}{:02X}".format(*bundle.colour)
                page.add(
                    f'<rect x="{x:.1f}" y="{top - 13:.1f}" width="9" height="9" fill="{colour}"/>'
                )
                page.text(x + 13, top - 5, bundle.name, size=10, bold=True)
                count = f"{bundle.count} streamlines" if bundle.count else "not found"
                page.text(x + width, top + height + 11, count, size=11, anchor="end", colour=SOFT)
            page.y = top + height + 16


def _pairs(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Group names by left and right.

    >>> _pairs(["Left A", "Callosum", "Right A"])
    [('Left A', 'Right A'), ('Callosum',)]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition(" ")
        groups.setdefault(rest if first in ("Left", "Right") else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def draw_profiles(profiles_tsv: str | Path, report: str | Path) -> str:
    """Draw the tract profiles of each bundle, both sides in one panel.

    Parameters
    ----------
    profiles_tsv : str or pathlib.Path
        Output of `MeasureProfiles`.
    report : str or pathlib.Path
        Report of `SegmentBundles`.

    Returns
    -------
    str
        An SVG document with a view for each map.
    """
    profiles = read_profiles(profiles_tsv)
    about = {bundle["Name"]: bundle for bundle in read_json(Path(report))["Bundles"]}
    page = Page(
        "Tract profiles",
        "Fractional anisotropy, mean, radial and axial diffusivity along each bundle, from its "
        "start to its end; left and right in one panel.",
    )
    start = page.y
    for number, metric in enumerate(METRICS):
        scale, name = SCALES[metric]
        hidden = "" if number == 0 else ' style="display:none"'
        page.add(f'<g class="nf-view" data-label={quoteattr(name)}{hidden}>')
        page.y = start
        _draw_metric(page, profiles, about, metric, scale)
        page.add("</g>")
    return page.document()


def _draw_metric(
    page: Page,
    profiles: Mapping[str, Mapping[str, NDArray[np.float64]]],
    about: Mapping[str, Mapping[str, Any]],
    metric: str,
    scale: float,
) -> None:
    """Draw the panels of one metric, all with the same scale."""
    groups = _pairs(list(profiles))
    shown = [profiles[name][metric] * scale for group in groups for name in group]
    low, high = reach(shown, zero=metric == "fa", least=0.2)
    description = METRICS[metric][0]
    unit = f" ({UNITS[metric]})" if UNITS[metric] else ""
    page.text(8, page.y + 12, f"{description}{unit}", size=14, bold=True)
    key = (("left", ORANGE, ""), ("right", SKY, "7 3"), ("crosses the midline", GREEN, ""))
    x = 420.0
    for name, colour, dashes in key:
        page.add(_stroke(f"M{x:.0f} {page.y + 8:.0f}h26", colour, dashes, 2.4))
        page.text(x + 32, page.y + 12, name, size=12)
        x += 60 + 7 * len(name)
    columns, gap, height = 4, 42.0, 130.0
    width = (WIDTH - 8 - gap * columns) / columns
    top = page.y + 44
    for n, group in enumerate(groups):
        line, column = divmod(n, columns)
        left, y = gap + column * (width + gap), top + line * (height + 62)
        _draw_axes(page, (left, y, width, height), (low, high))
        title = group[0].removeprefix("Left ").removeprefix("Right ")
        page.text(left, y - 7, title, size=12, bold=True)
        counts = [f"{about[name]['Kept']}" if about[name]["Kept"] else "n/a" for name in group]
        page.text(left + width, y - 7, " / ".join(counts), size=11, anchor="end", colour=SOFT)
        for name in group:
            values = profiles[name][metric] * scale
            side = name.split()[0]
            colour, dashes = {"Left": (ORANGE, ""), "Right": (SKY, "7 3")}.get(side, (GREEN, ""))
            path = _course(values, (left, y, width, height), (low, high))
            if path:
                page.add(_stroke(path, colour, dashes, 1.8))
        page.text(left, y + height + 13, _short(about[group[0]]["From"]), size=10, colour=SOFT)
        end = _short(about[group[0]]["To"])
        page.text(left + width, y + height + 25, end, size=10, anchor="end", colour=SOFT)
    lines = -(-len(groups) // columns)
    page.y = top + lines * (height + 62)


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _stroke(path: str, colour: str, dashes: str, width: float) -> str:
    pattern = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-linejoin="round"{pattern}/>'
    )


def _draw_axes(
    page: Page, frame: tuple[float, float, float, float], ends: tuple[float, float]
) -> None:
    """Draw the background of a panel with its horizontal grid lines."""
    left, top, width, height = frame
    page.add(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{PAPER}"/>'
    )
    for tick in ticks(*ends, 4):
        y = top + height * (1 - (tick - ends[0]) / (ends[1] - ends[0]))
        page.add(f'<path d="M{left:.1f} {y:.1f}h{width:.1f}" stroke="{GRID}" fill="none"/>')
        page.text(left - 5, y + 4, f"{tick:g}", size=10, anchor="end", colour=SOFT)


def _course(
    values: NDArray[np.float64],
    frame: tuple[float, float, float, float],
    ends: tuple[float, float],
) -> str:
    """Format a profile as the ``d`` of an SVG path; empty if there is none."""
    left, top, width, height = frame
    if not np.isfinite(values).all():
        return ""
    x = left + np.linspace(0, width, values.size)
    y = top + height * (1 - (values - ends[0]) / (ends[1] - ends[0]))
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


class _BundlesPictureInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="T1w image, or another image of the same head")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    bundles = InputMultiObject(File(exists=True), desc="a .trk for each bundle found")
    report = File(exists=True, mandatory=True, desc="report of the segmentation")
    dwi2anat_xfm = File(exists=True, desc="ITK affine: diffusion images onto the image")


class BundlesPicture(Picture):
    """Reportlet of bundles over the brain."""

    input_spec = _BundlesPictureInputSpec

    def _draw(self) -> str:
        xfm, bundles = self.inputs.dwi2anat_xfm, self.inputs.bundles
        return draw_bundles(
            self.inputs.image,
            self.inputs.brain_mask,
            list(bundles) if isdefined(bundles) else [],
            self.inputs.report,
            xfm if isdefined(xfm) else None,
        )


class _ProfilesPictureInputSpec(BaseInterfaceInputSpec):
    profiles_tsv = File(exists=True, mandatory=True, desc="table of tract profiles")
    report = File(exists=True, mandatory=True, desc="report of the segmentation")


class ProfilesPicture(Picture):
    """Reportlet of the profiles along bundles."""

    input_spec = _ProfilesPictureInputSpec

    def _draw(self) -> str:
        return draw_profiles(self.inputs.profiles_tsv, self.inputs.report)
