"""Reportlets of a BOLD run over time: carpet, head motion, components, correlations.

Each ``draw_*`` function returns a complete SVG document; see `neuroferry.interfaces.draw.anat`
for the colours.

References
----------
.. [1] Power JD (2017). A simple but useful way to assess fMRI scan qualities. NeuroImage
   154:150-158. https://doi.org/10.1016/j.neuroimage.2016.08.009
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.bids.metadata import read_json
from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw.anat import ORANGE, PURPLE, SKY, VERMILION, YELLOW
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
    draw_time_axis,
    raster,
    reach,
    ticks,
)
from neuroferry.interfaces.epi.confound_table import MOTION, Column, read_table
from neuroferry.interfaces.func.compcor import quadratic_basis, residuals
from neuroferry.interfaces.image.images import load_map
from neuroferry.interfaces.image.series import Series, open_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREEN = "#2CC295"
GREY = "#d5dade"
CARPET_ROWS = 420
MIN_TISSUE_ROWS = 24
CARPET_COLUMNS = 1500
CARPET_REACH = 2.0
"""Standard deviations shown as black (below) and white (above)."""
TISSUE_ROWS = (("grey matter", ORANGE), ("white matter", SKY), ("CSF", PURPLE))
MASKS = (
    ("combined", "WM and CSF", ORANGE, ""),
    ("WM", "white matter", SKY, "7 3"),
    ("CSF", "CSF", PURPLE, "2 2"),
    ("temporal", "most variable 2%", GREEN, "9 3 2 3"),
)
N_CORRELATED = 5


def draw_carpet(
    bold: str | Path,
    bold_mask: str | Path,
    confounds_tsv: str | Path,
    summary_json: str | Path,
    tpms: Sequence[str | Path] | None = None,
) -> str:
    """Draw a carpet plot [1]_ of sampled voxels below the confounds that explain it.

    Parameters
    ----------
    bold : str or pathlib.Path
        Preprocessed series.
    bold_mask : str or pathlib.Path
        Brain mask on its grid.
    confounds_tsv, summary_json : str or pathlib.Path
        Outputs of `ComputeConfounds`.
    tpms : sequence of three str or pathlib.Path, optional
        Grey matter, white matter and CSF on the grid of the series, used to sort the rows.

    Returns
    -------
    str
        An SVG document.
    """
    series, table = open_series(bold), read_table(confounds_tsv)
    summary = read_json(Path(summary_json))
    start, tr = int(summary["NonSteadyStateVolumes"]), float(summary["RepetitionTime"])
    page = Page(
        "Confounds and carpet plot",
        "Signals over time: mean signals of the brain and its tissues, DVARS, framewise "
        "displacement; below, the time series of voxels as rows, sorted by tissue.",
    )
    shaded = shade(summary)
    for panel in _signal_panels(table, summary, start):
        draw_panel(page, panel, shaded)
    groups = _carpet_groups(series, bold_mask, tpms)
    rows = np.concatenate([voxels for _, _, voxels in groups])
    carpet = _carpet(series, rows, start)
    top = page.y + 10
    page.add(
        f'<image x="{LEFT:.0f}" y="{top:.1f}" width="{RIGHT - LEFT:.0f}" height="{len(rows)}" '
        f'preserveAspectRatio="none" href="{raster(carpet, lossless=False)}"/>'
    )
    y = top
    for name, colour, voxels in groups:
        page.add(
            f'<rect x="{LEFT - 12:.0f}" y="{y:.1f}" width="9" height="{len(voxels)}" '
            f'fill="{colour}"/>'
        )
        page.text(LEFT - 18, y + len(voxels) / 2 + 4, name, anchor="end")
        if y > top:
            page.add(f'<path d="M{LEFT:.0f} {y:.1f}H{RIGHT:.0f}" stroke="{BACKGROUND}"/>')
        y += len(voxels)
    page.y = y + 4
    draw_time_axis(page, series.n_volumes, tr)
    page.text(
        8,
        page.y + 10,
        "Each row of the carpet is one voxel, from the lowest slice to the highest within its "
        "tissue; black and white are two standard deviations below and above its trend.",
        size=11,
        colour=SOFT,
    )
    page.y += 12
    return page.document()


def shade(summary: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Find the shaded spans: volumes before the steady state, and outliers."""
    start = int(summary["NonSteadyStateVolumes"])
    spans = [(0, start, "#9aa4ad")] if start else []
    outliers = [int(volume) for volume in summary["MotionOutliers"]["Volumes"]]
    first = 0
    for n, volume in enumerate(outliers):
        if n + 1 == len(outliers) or outliers[n + 1] != volume + 1:
            spans.append((outliers[first], volume + 1, VERMILION))
            first = n + 1
    return spans


def _percent(values: Column, start: int) -> Column:
    """Express a signal in percent of its steady-state mean."""
    mean = float(values[start:].mean())
    return 100 * (values / mean - 1) if mean else values * 0


def _signal_panels(
    table: Mapping[str, Column], summary: Mapping[str, Any], start: int
) -> list[Panel]:
    """Prepare the panels above the carpet; their axes fit the steady-state volumes."""
    limits = summary["MotionOutliers"]
    named = (
        ("global_signal", "whole brain", GREY, ""),
        ("white_matter", "white matter", SKY, "7 3"),
        ("csf", "CSF", PURPLE, "2 2"),
    )
    lines = [
        Line(_percent(table[key], start), colour, name, dashes)
        for key, name, colour, dashes in named
        if key in table
    ]
    low, high = reach([line.values[start:] for line in lines], least=2.0)
    dvars, fd = table["std_dvars"], table["framewise_displacement"]
    return [
        Panel("Signals", "% of their mean", lines, low, high, height=92),
        Panel(
            "DVARS",
            "1 is expected",
            [Line(dvars, GREEN)],
            *reach([dvars[start + 1 :]], zero=True, least=2.0),
            limit=limits["StandardisedDVARSThreshold"],
            note=_mean_and_top(dvars[start + 1 :], ""),
        ),
        _fd_panel(fd, start, limits["FramewiseDisplacementThreshold"]),
    ]


def _fd_panel(fd: Column, start: int, limit: float) -> Panel:
    low, high = reach([fd[start + 1 :]], zero=True, least=0.6)
    note = _mean_and_top(fd[start + 1 :], " mm")
    return Panel(
        "Framewise", "displacement (mm)", [Line(fd, ORANGE)], low, high, limit=limit, note=note
    )


def _mean_and_top(values: Column, unit: str) -> str:
    known = values[np.isfinite(values)]
    if not known.size:
        return ""
    return f"mean {known.mean():.2f}{unit}, largest {known.max():.2f}{unit}"


def _carpet_groups(
    series: Series, bold_mask: str | Path, tpms: Sequence[str | Path] | None
) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Sample voxels of each tissue: name, colour, indices, lowest slice first."""
    inside = load_map(bold_mask).data > 0.5
    if inside.shape != series.shape3:
        raise GeometryError(f"{Path(bold_mask).name} lies on another grid than the series.")
    regions = [("brain", GREY, inside)]
    if tpms is not None:
        maps = np.stack([load_map(path).data for path in tpms])
        known, most = inside & (maps.max(axis=0) > 0.5), maps.argmax(axis=0)
        parts = [(*about, known & (most == n)) for n, about in enumerate(TISSUE_ROWS)]
        regions = [part for part in parts if part[2].any()] or regions
    height = np.einsum("i,i...->...", series.affine[2, :3], np.indices(series.shape3))
    total = sum(int(np.count_nonzero(region)) for _, _, region in regions)
    groups = []
    for name, colour, region in regions:
        flat = np.flatnonzero(region)
        flat = flat[np.argsort(height.reshape(-1)[flat], kind="stable")]
        count = min(
            max(round(CARPET_ROWS * flat.size / max(total, 1)), MIN_TISSUE_ROWS), flat.size
        )
        groups.append((name, colour, flat[np.linspace(0, flat.size - 1, count).astype(np.int64)]))
    return groups


def _carpet(series: Series, rows: NDArray[np.int64], start: int) -> NDArray[np.uint8]:
    """Read some voxels, detrended, in units of their standard deviation, as grey levels."""
    values = np.empty((series.n_volumes, rows.size), dtype=np.float32)
    for row, volume in zip(values, series.volumes(), strict=True):
        np.take(volume.reshape(-1), rows, out=row)
    steady = values[start:]
    flat = residuals(steady, quadratic_basis(len(steady)))
    deviation = flat.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    whole = np.zeros(values.shape)
    whole[start:] = flat / deviation
    whole[:start] = (values[:start] - steady.mean(axis=0)) / deviation
    return carpet_pixels(whole)


def carpet_pixels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn standardised time series into the grey levels of a carpet.

    Parameters
    ----------
    values : ndarray of float, shape (T, R)
        Deviations from the trend of each voxel, in its standard deviations.

    Returns
    -------
    ndarray of uint8, shape (R, columns)
        Black and white are two standard deviations below and above the trend.
    """
    count = len(values)
    if count > CARPET_COLUMNS:
        edges = np.linspace(0, count, CARPET_COLUMNS + 1).astype(int)[:-1]
        sizes = np.diff(np.append(edges, count))
        values = np.add.reduceat(values, edges, axis=0) / sizes[:, None]
    shades = np.clip((values + CARPET_REACH) / (2 * CARPET_REACH), 0, 1)
    # Each volume gets several pixels, or compression would blur neighbouring volumes.
    repeat = max(1, round(1200 / len(shades)))
    return np.repeat((shades * 255 + 0.5).astype(np.uint8).T, repeat, axis=1)


def draw_motion(confounds_tsv: str | Path, summary_json: str | Path) -> str:
    """Draw motion parameters and framewise displacement.

    Parameters
    ----------
    confounds_tsv, summary_json : str or pathlib.Path
        Outputs of `ComputeConfounds`.

    Returns
    -------
    str
        An SVG document.
    """
    table, summary = read_table(confounds_tsv), read_json(Path(summary_json))
    start = int(summary["NonSteadyStateVolumes"])
    page = Page(
        "Head motion",
        "Translations, rotations and framewise displacement of the head over time.",
    )
    looks = (("x", ORANGE, ""), ("y", SKY, "7 3"), ("z", GREEN, "2 2"))
    shifts = [Line(table[f"trans_{axis}"], c, axis, d) for axis, c, d in looks]
    turns = [Line(np.degrees(table[f"rot_{axis}"]), c, axis, d) for axis, c, d in looks]
    panels = [
        Panel("Translation", "mm", shifts, *reach([s.values for s in shifts], least=1.0)),
        Panel("Rotation", "degrees", turns, *reach([s.values for s in turns], least=1.0)),
        _fd_panel(
            table["framewise_displacement"],
            start,
            summary["MotionOutliers"]["FramewiseDisplacementThreshold"],
        ),
    ]
    shaded = shade(summary)
    for panel in panels:
        draw_panel(page, panel, shaded)
    draw_time_axis(page, int(summary["NumberOfVolumes"]), float(summary["RepetitionTime"]))
    return page.document()


def draw_components(summary_json: str | Path) -> str:
    """Draw the variance that CompCor's components explain in each mask.

    Parameters
    ----------
    summary_json : str or pathlib.Path
        Output of `ComputeConfounds`.

    Returns
    -------
    str
        An SVG document.
    """
    about = read_json(Path(summary_json))["CompCor"]
    page = Page(
        "Variance explained by noise components",
        "For each mask, the cumulative variance explained by the components.",
    )
    top, bottom = 40.0, 330.0
    page.add(
        f'<rect x="{LEFT:.0f}" y="{top:.0f}" width="{RIGHT - LEFT:.0f}" '
        f'height="{bottom - top:.0f}" fill="{PAPER}"/>'
    )
    shown = [entry for entry in MASKS if about.get(entry[0], {}).get("VarianceExplained")]
    most = max((2 * about[key]["NumberOfComponents"] + 8 for key, *_ in shown), default=10)
    across = (RIGHT - LEFT) / most
    for level in (0, 25, 50, 75, 100):
        y = bottom - level / 100 * (bottom - top)
        dash = ' stroke-dasharray="5 4"' if level == 50 else ""
        colour = YELLOW if level == 50 else GRID
        page.add(f'<path d="M{LEFT:.0f} {y:.1f}H{RIGHT:.0f}" stroke="{colour}"{dash}/>')
        page.text(LEFT - 6, y + 4, f"{level}%", size=11, anchor="end", colour=SOFT)
    x = LEFT
    for key, name, colour, dashes in shown:
        total = np.cumsum(about[key]["VarianceExplained"])[:most]
        points = [(LEFT, bottom)] + [
            (LEFT + (n + 1) * across, bottom - min(v, 1.0) * (bottom - top))
            for n, v in enumerate(total)
        ]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        kept = int(about[key]["NumberOfComponents"])
        pattern = f' stroke-dasharray="{dashes}"' if dashes else ""
        page.add(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{pattern}/>',
            f'<circle cx="{points[kept][0]:.1f}" cy="{points[kept][1]:.1f}" r="5" '
            f'fill="{colour}"/>',
            f'<path d="M{x:.0f} 22h24" stroke="{colour}" stroke-width="2.4"{pattern}/>',
        )
        label = f"{name}: {kept} (from {about[key]['NumberOfVoxels']} voxels)"
        page.text(x + 30, 26, label)
        x += 52 + 6.9 * len(label)
    for tick in ticks(0, most, 10):
        page.text(LEFT + tick * across, bottom + 16, f"{tick:g}", size=11, anchor="middle")
    page.text(8, (top + bottom) / 2, "Variance", size=13, bold=True)
    page.text(8, (top + bottom) / 2 + 16, "explained", size=11, colour=SOFT)
    page.text(8, bottom + 16, "components", size=11, colour=SOFT)
    if not shown:
        page.text((LEFT + RIGHT) / 2, 180, "There are no components.", anchor="middle")
    page.y = bottom + 26
    return page.document()


def correlated(table: Mapping[str, Column], start: int) -> tuple[list[str], NDArray[np.float64]]:
    """Correlate the confounds that most analyses use, over steady-state volumes.

    Returns
    -------
    names : list of str
        Columns that vary.
    matrix : ndarray of float64, shape (N, N)
        Pearson's correlations.
    """
    wanted = ["global_signal", "csf", "white_matter", "std_dvars", "framewise_displacement"]
    wanted += ["rmsd", *MOTION]
    for letter in "acwt":
        wanted += [f"{letter}_comp_cor_{n:02d}" for n in range(N_CORRELATED)]
    picked = {name: table[name][start + 1 :] for name in wanted if name in table}
    picked = {
        name: values
        for name, values in picked.items()
        if np.isfinite(values).all() and values.std() > 0
    }
    data = np.array([(v - v.mean()) / v.std() for v in picked.values()])
    return list(picked), data @ data.T / max(data.shape[-1], 1)


def draw_correlations(confounds_tsv: str | Path, summary_json: str | Path) -> str:
    """Draw the correlations between confounds.

    Parameters
    ----------
    confounds_tsv, summary_json : str or pathlib.Path
        Outputs of `ComputeConfounds`.

    Returns
    -------
    str
        An SVG document.
    """
    start = int(read_json(Path(summary_json))["NonSteadyStateVolumes"])
    names, matrix = correlated(read_table(confounds_tsv), start)
    page = Page(
        "Correlations between confounds",
        "A matrix of Pearson's correlations: blue is negative, orange positive.",
    )
    left, top, side = 200.0, 12.0, 20.0
    for row, name in enumerate(names):
        y = top + row * side
        page.text(left - 8, y + 14, name, size=11, anchor="end")
        for column in range(row):
            value = float(matrix[row, column])
            page.add(
                f'<rect x="{left + column * side:.0f}" y="{y:.0f}" width="{side - 1:.0f}" '
                f'height="{side - 1:.0f}" fill="{_blend(value)}"/>'
            )
        page.text(left + row * side + 6, y + 14, name, size=11, colour=SOFT)
    x, y = left + 620, top + 30
    for n in range(41):
        value = n / 20 - 1
        page.add(
            f'<rect x="{x + 6 * n:.0f}" y="{y:.0f}" width="7" height="14" fill="{_blend(value)}"/>'
        )
    for n, label in ((0, "-1"), (20, "0"), (40, "1")):
        page.text(x + 6 * n + 3, y + 30, label, size=11, anchor="middle")
    page.text(x, y - 8, "Pearson's correlation", size=12)
    page.y = top + side * len(names)
    return page.document()


def _blend(value: float) -> str:
    """Colour a correlation: blue at -1, dark at 0, orange at 1."""
    middle, low, high = (27, 31, 35), (86, 180, 233), (230, 159, 0)
    end, share = (low, -value) if value < 0 else (high, value)
    mixed = [round(m + (e - m) * min(share, 1.0)) for m, e in zip(middle, end, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)
