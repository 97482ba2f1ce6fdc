"""Distributions of metrics over other people's images, from a file of MRIQC's Web API.

The file is given by the user: nothing is downloaded, and nothing is sent. Records as the API
answers them (JSON: a list, or an object with ``_items``), one JSON object a line, or a table (CSV,
TSV) with the same fields, where nested ones are written ``bids_meta.EchoTime``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroferry.bids.tables import read_number
from neuroferry.errors import InputError
from neuroferry.files import read_input, write_json
from neuroferry.judgement.tables import FIELDS, MODALITIES, Scan, Scans

REFERENCE_FILE = "qc_reference.json"
"""Distributions that the page shows, in the output folder."""
MOST_REFERENCE_BYTES = 2 << 30
"""Largest file that is read: the API holds some hundred thousand records."""
BINS = 64
"""Bars of a distribution, between its 0.5th and 99.5th percentile."""
FEWEST = 20
"""Records of a metric, at least, to show a distribution."""
SAME = 0.02
"""Relative difference of numbers of a protocol that count as equal."""


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a file, as flat objects.

    Raises
    ------
    InputError
        If the file is in none of the forms.
    """
    text = read_input(path, MOST_REFERENCE_BYTES).decode("utf-8-sig", "replace")
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        yield from (_flat(record) for record in _json_records(text, path))
        return
    first = text.partition("\n")[0]
    separator = "\t" if "\t" in first else ","
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(header) < 2:
            raise InputError(f"{path} is neither JSON nor a table of metrics with a header.")
        for row in rows:
            yield {
                name: cell for name, cell in zip(header, row, strict=False) if cell.strip() != ""
            }
    except csv.Error as error:
        raise InputError(f"{path} is no table: {error}.") from error


def _json_records(text: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(text)
    except ValueError:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}.") from error
    if isinstance(content, dict):
        content = content.get("_items", [content])
    if not isinstance(content, list):
        raise InputError(f"{path} holds no list of records.")
    yield from (record for record in content if isinstance(record, dict))


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def modality_of(record: Mapping[str, Any]) -> str:
    """Find the modality of a record; empty if it does not say, and its metrics do not either.

    Examples
    --------
    >>> modality_of({"bids_meta.modality": "T1w"}), modality_of({"tsnr": 30.0}), modality_of({})
    ('T1w', 'bold', '')
    """
    named = str(record.get("bids_meta.modality") or record.get("modality") or "")
    if named in MODALITIES:
        return named
    if "tsnr" in record or "aqi" in record:
        return "bold"
    return "T1w" if "cjv" in record else ""


def summarise_reference(path: Path, scans: Scans, match: Sequence[str] = ()) -> dict[str, Any]:
    """Make distributions of the metrics that the scans have.

    Parameters
    ----------
    path : pathlib.Path
        File of records; of an image that was sent several times, the first one counts.
    scans : Scans
        The scans to compare.
    match : sequence of str
        Fields, such as ``MagneticFieldStrength``: only records count that agree in all of them
        with one of the scans of the modality (numbers within 2 %).

    Returns
    -------
    dict
        By modality: ``n`` records, ``match``, and for each metric ``low``, ``high`` (range of the
        bars), ``counts`` and ``median``.

    Raises
    ------
    InputError
        If no record can be used; the message says why.
    """
    _check_fields(scans, match)
    read = 0
    values = {name: _Values(of, match) for name, of in scans.of.items()}
    images: set[str] = set()
    for record in read_records(path):
        read += 1
        image = str(record.get("provenance.md5sum") or "")
        if image in images:
            continue
        if image:
            images.add(image)
        into = values.get(modality_of(record))
        if into is not None and _fits(record, match, into.protocols):
            into.add(record)
    made = {
        name: {"n": found.n, "match": list(match), "metrics": distributions}
        for name, found in values.items()
        if (distributions := found.distributions())
    }
    if not made:
        why = f", with the same {', '.join(match)}" if match else ""
        raise InputError(
            f"{path} holds {read} records, but fewer than {FEWEST} of the same modality as the"
            f" scans{why}; their metrics are not compared."
        )
    return made


def _check_fields(scans: Scans, match: Sequence[str]) -> None:
    known = {field for scan in scans for field in scan.columns}
    odd = [field for field in match if field not in known]
    if odd:
        raise InputError(
            f"{odd[0]} cannot be matched: no scan has it. Known are"
            f" {', '.join(sorted(known & set(FIELDS)))}."
        )


class _Values:
    """Values of the metrics that the scans of one modality have."""

    def __init__(self, scans: Sequence[Scan], match: Sequence[str]) -> None:
        self.n = 0
        self.protocols = {tuple(scan.columns.get(field, "") for field in match) for scan in scans}
        self._of: dict[str, list[float]] = {
            metric: [] for metric in sorted({name for scan in scans for name in scan.metrics})
        }

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the values of one record."""
        self.n += 1
        for metric, numbers in self._of.items():
            number = _value(record.get(metric))
            if number is not None:
                numbers.append(number)

    def distributions(self) -> dict[str, Any]:
        """Make the distributions of metrics with enough values."""
        return {
            metric: _distribution(numbers)
            for metric, numbers in self._of.items()
            if len(numbers) >= FEWEST
        }


def _value(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    number = float(value) if isinstance(value, int | float) else read_number(str(value))
    return number if number is not None and math.isfinite(number) else None


def _fits(
    record: Mapping[str, Any], match: Sequence[str], protocols: Iterable[tuple[str, ...]]
) -> bool:
    if not match:
        return True
    found = [record.get(f"bids_meta.{field}", record.get(field)) for field in match]
    if any(value is None for value in found):
        return False
    return any(
        all(_same(value, text) for value, text in zip(found, protocol, strict=True))
        for protocol in protocols
    )


def _same(value: Any, text: str) -> bool:
    one, other = _value(value), read_number(text)
    if one is not None and other is not None:
        return abs(one - other) <= SAME * max(abs(one), abs(other))
    return str(value).strip().casefold() == text.casefold() != ""


def _distribution(numbers: Sequence[float]) -> dict[str, Any]:
    low, high = (float(edge) for edge in np.percentile(numbers, [0.5, 99.5]))
    counts, _ = np.histogram(numbers, BINS, (low, high if high > low else low + 1.0))
    return {
        "low": low,
        "high": high,
        "median": statistics.median(numbers),
        "counts": [int(count) for count in counts],
    }


def keep_reference(out_dir: Path, made: Mapping[str, Any], source: str) -> Path:
    """Keep the distributions in the output folder, for pages written later."""
    path = out_dir / REFERENCE_FILE
    write_json(path, {"source": source, "modalities": made})
    return path
