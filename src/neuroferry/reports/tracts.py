"""Tract profiles of all participants: a chart per bundle, and tables for AFQ-Browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry.bids.tables import MISSING, read_table
from neuroferry.errors import InputError
from neuroferry.files import write_lines
from neuroferry.reports.charts import OUTLIER_Z

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLES = "tractometry"
"""Folder of the tables in the root of the derivatives."""
SHOWN = {
    "fa": ("Fractional anisotropy", 1.0, ""),
    "md": ("Mean diffusivity", 1e3, "µm²/ms"),
}
"""Measures with charts: name, factor, and resulting unit."""
MOST_LINES = 60
"""With more profiles than this, only outliers have a line of their own."""
_NODE_STEP = 3
_END = "_desc-profiles_tractometry.tsv"
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 392.0, 8.0, 118.0


@dataclass(frozen=True)
class Tracts:
    """The tract profiles of one DWI run.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    name : str
        Its name in charts: the participant, and the run if they have several.
    profiles : mapping
        By bundle, then by measure: arrays of float, shape (P,), NaN if unknown.
    """

    subject: str
    name: str
    profiles: Mapping[str, Mapping[str, NDArray[Any]]]


def find_tracts(out_dir: Path, subjects: Sequence[str]) -> Iterator[Tracts]:
    """Read the profiles of one run after the other; unreadable tables are skipped.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    subjects : sequence of str
        Labels without ``sub-``.

    Yields
    ------
    Tracts
    """
    for subject in subjects:
        root = out_dir / f"sub-{subject}"
        paths = sorted(
            path
            for folder in ("dwi", "ses-*/dwi")
            for path in root.glob(f"{folder}/*{_END}")
            if path.stat().st_size
        )
        for path in paths:
            from neuroferry.interfaces.tracts.profiles import read_profiles  # loads nipype

            try:
                profiles = read_profiles(path)
            except (InputError, OSError, ValueError):
                continue
            name = path.name.removesuffix(_END) if len(paths) > 1 else f"sub-{subject}"
            yield Tracts(subject, name, profiles)


def gather_tracts(
    out_dir: Path, subjects: Sequence[str], participants: Path | None
) -> list[Tracts]:
    """Write ``nodes.csv`` and ``subjects.csv`` in the format of pyAFQ and AFQ-Browser.

    Neither is written if there are no profiles.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    subjects : sequence of str
        Labels without ``sub-``.
    participants : pathlib.Path or None
        ``participants.tsv`` of the dataset, whose columns are added to ``subjects.csv``.

    Returns
    -------
    list of Tracts
        The data of the charts: the measures of `SHOWN`, float32 to save memory.
    """
    scans = find_tracts(out_dir, subjects)
    first = next(scans, None)
    if first is None:
        return []
    kept: list[Tracts] = []
    measures = list(next(iter(first.profiles.values()), {}))

    def rows() -> Iterator[str]:
        yield _csv_row(["subjectID", "tractID", "nodeID", *measures])
        for scan in chain([first], scans):
            kept.append(_for_charts(scan))
            for bundle, columns in scan.profiles.items():
                for node in range(len(next(iter(columns.values())))):
                    cells = [_number(columns[m][node]) if m in columns else "" for m in measures]
                    yield _csv_row([scan.name, bundle, str(node), *cells])

    folder = out_dir / TABLES
    folder.mkdir(exist_ok=True)
    write_lines(folder / "nodes.csv", rows())
    known = _participants(participants)
    titles = list(dict.fromkeys(title for row in known.values() for title in row))
    people = [["subjectID", *titles]]
    for scan in kept:
        row = known.get(scan.subject, {})
        people.append([scan.name, *(row.get(title, "") for title in titles)])
    write_lines(folder / "subjects.csv", map(_csv_row, people))
    return kept


def _for_charts(scan: Tracts) -> Tracts:
    profiles = {
        bundle: {m: columns[m].astype("float32") for m in SHOWN if m in columns}
        for bundle, columns in scan.profiles.items()
    }
    return Tracts(scan.subject, scan.name, profiles)


def _number(value: float) -> str:
    return f"{value:.6g}" if value == value else ""


def _participants(path: Path | None) -> dict[str, dict[str, str]]:
    """Read ``participants.tsv``, by label; empty if it is missing or has no ``participant_id``.

    Its oddities are problems of the dataset, see `neuroferry.bids.validate`.
    """
    try:
        table = read_table(path) if path else None
    except InputError:
        return {}
    if table is None or "participant_id" not in table.columns:
        return {}
    known: dict[str, dict[str, str]] = {}
    for _, cells in table.rows():
        row = dict(zip(reversed(table.columns), reversed(cells), strict=True))
        label = row.pop("participant_id").removeprefix("sub-")
        titles = (title for title in dict.fromkeys(table.columns) if title in row and title)
        known.setdefault(
            label, {title: "" if row[title] in MISSING else row[title] for title in titles}
        )
    return known


def _csv_row(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def show_tracts(scans: Sequence[Tracts], pages: dict[str, str], few: int) -> list[dict[str, Any]]:
    """Lay out the charts: one per measure and bundle.

    Parameters
    ----------
    scans : sequence of Tracts
        All runs of the study.
    pages : dict of str to str
        Reports of participants, by label, as link targets; empty without a report.
    few : int
        With fewer runs than this, none is marked as an outlier.

    Returns
    -------
    list of dict
        ``title``, ``unit`` and ``charts`` of each measure.
    """
    import numpy as np

    bundles = list(dict.fromkeys(bundle for scan in scans for bundle in scan.profiles))
    shown = []
    for measure, (title, scale, unit) in SHOWN.items():
        charts = []
        for bundle in bundles:
            having = [s for s in scans if measure in s.profiles.get(bundle, {})]
            chart = profile_chart(
                bundle,
                [s.name for s in having],
                [s.profiles[bundle][measure] * np.float64(scale) for s in having],
                [pages.get(s.subject, "") for s in having],
                few=few,
            )
            charts += [{"bundle": bundle, "svg": chart}] if chart else []
        shown.append({"title": title, "unit": unit, "charts": charts})
    return shown if any(measure["charts"] for measure in shown) else []


def profile_chart(
    bundle: str,
    names: Sequence[str],
    profiles: Sequence[NDArray[np.float64]],
    links: Sequence[str],
    *,
    few: int = 6,
) -> str:
    """Draw one measure along a bundle: a line per run, the median and the quartiles.

    Parameters
    ----------
    bundle : str
        Its name.
    names : sequence of str
        Names of the runs.
    profiles : sequence of ndarray of float64, shape (P,)
        In the same order; those without values, or of another length than most, are skipped.
    links : sequence of str
        Link target of each line; empty for none.
    few : int
        With fewer runs than this, none is marked as an outlier.

    Returns
    -------
    str
        An ``<svg>`` element; empty if there are no profiles.
    """
    import numpy as np

    lengths = [len(profile) for profile in profiles if np.isfinite(profile).any()]
    if not lengths:
        return ""
    most = max(set(lengths), key=lengths.count)
    kept = [n for n, p in enumerate(profiles) if len(p) == most > 1 and np.isfinite(p).any()]
    if not kept:
        return ""
    table = np.stack([profiles[n] for n in kept])
    far = _far(table) if len(kept) >= few else np.zeros(len(kept), dtype=bool)
    axes = _Axes(most, float(np.nanmin(table)), float(np.nanmax(table)))
    lines = [
        _line(axes, names[n], table[row], links[n], odd=bool(far[row]))
        for row, n in enumerate(kept)
        if far[row] or len(kept) <= MOST_LINES
    ]
    count = f"{len(kept)} profile{'s' if len(kept) > 1 else ''}"
    parts = [
        f'<svg class="tract" viewBox="0 0 400 136" role="group" '
        f'aria-label="{escape(bundle)}: {count} from {axes.low:.3g} to {axes.high:.3g}">',
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>',
        f'<text x="{_LEFT - 5}" y="{_TOP + 8}" text-anchor="end">{axes.high:.3g}</text>',
        f'<text x="{_LEFT - 5}" y="{_BOTTOM}" text-anchor="end">{axes.low:.3g}</text>',
        f'<text x="{_LEFT}" y="132">node 0</text>',
        f'<text x="{_RIGHT}" y="132" text-anchor="end">{most - 1}</text>',
    ]
    if len(kept) > 2:
        known = np.isfinite(table).any(axis=0)
        low, middle, high = np.full((3, most), np.nan)
        quartiles = np.nanpercentile(table[:, known], (25, 50, 75), axis=0)
        low[known], middle[known], high[known] = quartiles
        parts.append(f'<path class="band" d="{axes.band(low, high)}"/>')
        lines.append(f'<path class="middle" d="{axes.path(middle)}"/>')
    return "".join([*parts, *lines, "</svg>"])


def _far(table: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the profiles that are outliers over half of their nodes."""
    import numpy as np

    known = np.isfinite(table).any(axis=0)
    middle = np.nanmedian(table[:, known], axis=0)
    away = np.abs(table[:, known] - middle)
    scale = 1.4826 * np.nanmedian(away, axis=0)
    scores = away / np.where(scale > 0, scale, np.inf)
    return np.asarray([np.nanmedian(row) > OUTLIER_Z for row in scores])


class _Axes:
    """Mapping of nodes and values to positions in a chart."""

    def __init__(self, count: int, low: float, high: float) -> None:
        self.low, self.high = low, high if high > low else low + 1.0
        self.count = count

    def places(self, values: NDArray[np.float64], step: int = _NODE_STEP) -> list[str]:
        """Format the points of a line, every few nodes and the last, without unknown ones."""
        numbers = [*range(0, self.count - 1, step), self.count - 1]
        span = self.high - self.low
        return [
            f"{_LEFT + n / (self.count - 1) * (_RIGHT - _LEFT):.0f} "
            f"{_BOTTOM - (values[n] - self.low) / span * (_BOTTOM - _TOP):.1f}"
            for n in numbers
            if values[n] == values[n]
        ]

    def path(self, values: NDArray[np.float64]) -> str:
        """Draw a line."""
        return "M" + "L".join(self.places(values))

    def band(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
        """Draw the area between two lines."""
        return "M" + "L".join([*self.places(low), *reversed(self.places(high))]) + "Z"


def _line(axes: _Axes, name: str, values: NDArray[np.float64], link: str, *, odd: bool) -> str:
    """Draw one run's profile."""
    text = escape(name + (", outlier" if odd else ""))
    look = "odd" if odd else "one"
    line = f'<path class="{look}" d="{axes.path(values)}"><title>{text}</title></path>'
    if not link:
        return line
    return f'<a href="{escape(link)}" aria-label="{text}">{line}</a>'
