"""Which runs a field map is meant for: ``IntendedFor``, and the echo times of phase images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroferry.files import write_json
from neuroferry.intake.ledger import Entry

_RUNS = ("bold", "sbref", "dwi", "asl", "m0scan")
#: Part by which currents of two shims may differ; scanners round them.
_ALIKE = 0.05


def update_intended(
    dataset: Path, entries: Sequence[Entry], *, closest: bool, match_shims: bool
) -> None:
    """Write ``IntendedFor`` into the sidecars of a session's field maps.

    Parameters
    ----------
    dataset : pathlib.Path
        The dataset.
    entries : sequence of Entry
        The series of one session that are in it.
    closest : bool
        Whether a run belongs to the field map nearest in time, else to each.
    match_shims : bool
        Whether a field map and its run have to have the same shims, where both are known.
    """
    maps: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.datatype == "fmap":
            maps[(*_kind(entry), *entry.base[2:], entry.run)].append(entry)
    if not maps:
        return
    intended: dict[tuple[str, ...], list[str]] = {group: [] for group in maps}
    for run in entries:
        if run.suffix not in _RUNS or run.datatype == "fmap":
            continue
        fit = [
            group
            for group, members in maps.items()
            if not match_shims or any(_same_shims(run, member) for member in members)
        ]
        if closest and fit:
            fit = [min(fit, key=lambda group: _distance(run, maps[group]))]
        for group in fit:
            intended[group] += [f"bids::{name}" for name in run.images()]
    for group, members in maps.items():
        echoes = _echo_times(dataset, members)
        for member in members:
            for name in member.files:
                if name.endswith(".json") and "_magnitude" not in name:
                    _write(dataset / name, sorted(intended[group]), echoes)


def _kind(entry: Entry) -> tuple[str]:
    """Tell what kind of field map a series belongs to: spin echo of opposite phase, or phase."""
    return ("epi" if entry.suffix == "epi" else "phase",)


def _same_shims(run: Entry, other: Entry) -> bool:
    if not run.shims or not other.shims or len(run.shims) != len(other.shims):
        return True
    return all(
        abs(one - two) <= _ALIKE * max(abs(one), abs(two), 20.0)
        for one, two in zip(run.shims, other.shims, strict=True)
    )


def _distance(run: Entry, members: Sequence[Entry]) -> float:
    when = run.when()
    clocks = [clock for member in members if (clock := member.when())]
    if when is None or not clocks:
        numbers = [member.number for member in members if member.number is not None]
        if run.number is None or not numbers:
            return float("inf")
        return min(abs(run.number - number) for number in numbers)
    return min(abs((when - clock).total_seconds()) for clock in clocks)


def _echo_times(dataset: Path, members: Sequence[Entry]) -> dict[str, float]:
    """Read the echo times of the magnitudes, which a phase difference has to name."""
    found = {}
    for member in members:
        for name in member.files:
            for number in (1, 2):
                if name.endswith(f"_magnitude{number}.json"):
                    time = _read(dataset / name).get("EchoTime")
                    if isinstance(time, int | float):
                        found[f"EchoTime{number}"] = float(time)
    return found if len(found) == 2 else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, intended: list[str], echoes: dict[str, float]) -> None:
    content = _read(path)
    if not content:
        return
    content["IntendedFor"] = intended
    if "_phasediff" in path.name:
        content = {**echoes, **content}
    if not intended:
        del content["IntendedFor"]
    write_json(path, content)
