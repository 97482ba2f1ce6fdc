"""Panels of line plots, drawn as SVG in the style of the reportlets.

Everything is text and paths, so that the same numbers give the same bytes; no fonts are measured
and no plotting library is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from neuroferry.interfaces.draw.mosaic import FIGURE_STYLE, WIDTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT = 150.0
RIGHT = 1180.0
BACKGROUND = "#101214"
PAPER = "#1b1f23"
SOFT = "#8b949e"
GRID = "#343b42"


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes
    ----------
    values : ndarray of float64, shape (N,)
        NaN makes a gap.
    colour : str
        Any SVG colour.
    name : str
        Shown in the panel's key; empty for a panel of one line.
    dashes : str
        SVG dash pattern, so that lines differ in more than colour.
    """

    values: NDArray[np.float64]
    colour: str
    name: str = ""
    dashes: str = ""


@dataclass(frozen=True)
class Panel:
    """Lines over a common axis.

    Attributes
    ----------
    title, unit : str
        Written to its left.
    lines : sequence of Line
        All of the same length.
    low, high : float
        Ends of the vertical axis; values beyond are clipped.
    limit : float, optional
        Drawn as a dashed horizontal line.
    note : str
        Written above its upper right corner.
    height : float
        In SVG units.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    low: float
    high: float
    limit: float | None = None
    note: str = ""
    height: float = 74.0


@dataclass
class Page:
    """Elements of a picture, collected from top to bottom."""

    title: str
    description: str
    y: float = 8.0
    elements: list[str] = field(default_factory=list)

    def add(self, *elements: str) -> None:
        """Add elements on top of the existing ones."""
        self.elements.extend(elements)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        anchor: str = "start",
        colour: str = "",
        bold: bool = False,
    ) -> None:
        """Write a line of text."""
        style = f' style="fill:{colour}"' if colour else ""
        weight = ' font-weight="bold"' if bold else ""
        self.add(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
            f"{weight}{style}>{escape(text)}</text>"
        )

    def document(self) -> str:
        """Compose the complete SVG document."""
        height = math.ceil(self.y + 8)
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="nf-figure" role="img" '
            f'viewBox="0 0 {WIDTH:.0f} {height}" aria-label={quoteattr(self.title)}>',
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>",
            f"<style>{FIGURE_STYLE}</style>",
            f'<rect x="0" y="0" width="{WIDTH:.0f}" height="{height}" fill="{BACKGROUND}"/>',
        ]
        return "\n".join([*head, *self.elements, "</svg>"]) + "\n"


def reach(
    values: Sequence[NDArray[np.float64]], *, zero: bool = False, least: float = 0.0
) -> tuple[float, float]:
    """Choose the ends of an axis that shows all values with a small margin.

    Parameters
    ----------
    values : sequence of ndarray of float64
        Values to show; NaN is ignored.
    zero : bool
        Begin at zero.
    least : float
        The axis spans at least this much.

    Examples
    --------
    >>> reach([np.array([1.0, 9.0, np.nan])])
    (0.6, 9.4)
    >>> reach([np.array([0.1, 0.2])], zero=True, least=1.0)
    (0.0, 1.0)
    """
    known = np.concatenate([np.asarray(v)[np.isfinite(v)] for v in values] or [np.zeros(0)])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if zero:
        return 0.0, max(high * 1.05, least, 1e-9)
    room = max(0.05 * (high - low), (least - (high - low)) / 2, 1e-9)
    return low - room, high + room


def ticks(low: float, high: float, count: int = 3) -> list[float]:
    """Choose round numbers within an axis.

    Examples
    --------
    >>> ticks(0, 0.83), ticks(-7, 12)
    ([0.0, 0.5], [0.0, 10.0])
    >>> ticks(0, 312, 8)
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 10) + 0.0 for n in range(first, last + 1)]


def draw_panel(page: Page, panel: Panel, shaded: Sequence[tuple[int, int, str]] = ()) -> None:
    """Draw a panel at the page's current height and advance below it.

    Parameters
    ----------
    page : Page
        Page to draw on.
    panel : Panel
        Panel to draw.
    shaded : sequence of (int, int, str)
        Spans of volumes, first and one after the last, and the colour behind them.
    """
    top, bottom = page.y + 14, page.y + 14 + panel.height
    page.add(
        f'<rect x="{LEFT:.0f}" y="{top:.1f}" width="{RIGHT - LEFT:.0f}" '
        f'height="{panel.height:.1f}" fill="{PAPER}"/>'
    )
    n = max(len(line.values) for line in panel.lines)
    across = (RIGHT - LEFT) / n
    for first, end, colour in shaded:
        page.add(
            f'<rect x="{LEFT + first * across:.1f}" y="{top:.1f}" '
            f'width="{max((end - first) * across, 1):.1f}" height="{panel.height:.1f}" '
            f'fill="{colour}" fill-opacity="0.32"/>'
        )
    down = panel.height / (panel.high - panel.low)
    for tick in ticks(panel.low, panel.high):
        y = bottom - (tick - panel.low) * down
        page.add(f'<path d="M{LEFT:.0f} {y:.1f}H{RIGHT:.0f}" stroke="{GRID}" fill="none"/>')
        page.text(LEFT - 6, y + 4, f"{tick:g}", size=11, anchor="end", colour=SOFT)
    if panel.limit is not None and panel.low < panel.limit < panel.high:
        y = bottom - (panel.limit - panel.low) * down
        page.add(
            f'<path d="M{LEFT:.0f} {y:.1f}H{RIGHT:.0f}" stroke="#F0E442" '
            'stroke-dasharray="5 4" fill="none"/>'
        )
    for line in panel.lines:
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        page.add(
            f'<path d="{_trace(line.values, panel, across, top, bottom)}" fill="none" '
            f'stroke="{line.colour}" stroke-width="1.4" stroke-linejoin="round"{dashes}/>'
        )
    middle = (top + bottom) / 2
    page.text(8, middle - 2, panel.title, size=13, bold=True)
    page.text(8, middle + 14, panel.unit, size=11, colour=SOFT)
    _key(page, [line for line in panel.lines if line.name], top - 4)
    if panel.note:
        page.text(RIGHT, top - 4, panel.note, size=11, anchor="end", colour=SOFT)
    page.y = bottom + 6


def _trace(
    values: NDArray[np.float64], panel: Panel, across: float, top: float, bottom: float
) -> str:
    """Format a line as the ``d`` of an SVG path, in tenths of a unit."""
    down = (bottom - top) / (panel.high - panel.low)
    heights = np.clip(bottom - (values - panel.low) * down, top, bottom)
    parts, pen = [], "M"
    for n, height in enumerate(heights):
        if not np.isfinite(height):
            pen = "M"
            continue
        parts.append(f"{pen}{LEFT + (n + 0.5) * across:.1f} {height:.1f}")
        pen = "L"
    return "".join(parts)


def _key(page: Page, lines: Sequence[Line], y: float) -> None:
    x = LEFT
    for line in lines:
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        page.add(
            f'<path d="M{x:.0f} {y - 4:.1f}h22" stroke="{line.colour}" stroke-width="2.4" '
            f'fill="none"{dashes}/>'
        )
        page.text(x + 27, y, line.name, size=11)
        x += 44 + 6.6 * len(line.name)


def draw_time_axis(page: Page, n_volumes: int, tr: float) -> None:
    """Draw the axis of seconds and volumes below the panels."""
    across = (RIGHT - LEFT) / n_volumes
    for row, (unit, step) in enumerate((("time (s)", tr), ("volume", 1.0))):
        y = page.y + 12 + 15 * row
        page.text(8, y, unit, size=11, colour=SOFT)
        for tick in ticks(0, n_volumes * step * 0.985, 8):
            x = LEFT + tick / step * across
            if row == 0:
                page.add(f'<path d="M{x:.1f} {page.y:.1f}v-5" stroke="{SOFT}" fill="none"/>')
            page.text(x, y, f"{tick:g}", size=11, anchor="middle", colour=SOFT)
    page.y += 30


def raster(pixels: NDArray[Any], *, lossless: bool = True) -> str:
    """Encode an image as a WebP data URI.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns) or (rows, columns, 3)
        Grey or RGB.
    """
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").save(
        buffer, "WEBP", lossless=lossless, quality=80, method=4
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
