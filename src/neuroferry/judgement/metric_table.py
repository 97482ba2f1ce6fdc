"""Explanations of the image quality metrics, read from ``configs/iqms.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from neuroferry.config import MODALITIES
from neuroferry.files import package_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

Direction = Literal["higher", "lower", "near", "none"]


@dataclass(frozen=True)
class Metric:
    """One image quality metric.

    Attributes
    ----------
    name : str
        Key in the JSON file of metrics.
    title : str
        Name in words.
    unit : str
        Empty for a ratio without unit.
    meaning : str
        Explanation for readers who do not know it.
    better : {"higher", "lower", "near", "none"}
        Which values are better; ``near`` the typical range, or ``none``.
    typical : tuple of float or None
        Range of most good images, if known.
    group : str
        Heading above it.
    reference : str
        Source of its definition.
    needs_air : bool
        Undefined without noise around the head.
    """

    name: str
    title: str
    unit: str
    meaning: str
    better: Direction
    typical: tuple[float, float] | None
    group: str
    reference: str
    needs_air: bool


@lru_cache(maxsize=8)
def metric_table(modality: str = "T1w") -> Mapping[str, Metric]:
    """Read the table of the metrics of one kind of images.

    An entry with ``for`` stands for several metrics: ``{}`` is replaced by each of its words in
    the name, and by the text of that word in title and meaning.

    Parameters
    ----------
    modality : str
        ``"T1w"``, ``"T2w"``, ``"bold"`` or ``"dwi"``.

    Returns
    -------
    mapping of str to Metric
        In the order in which metrics are shown; read-only.

    Examples
    --------
    >>> metric_table()["snr_wm"].title
    'Signal-to-noise ratio, white matter'
    """
    document = package_toml("iqms.toml")
    table: dict[str, Metric] = {}
    for entry in document["metric"]:
        if modality not in entry.get("modalities", ("T1w", "T2w")):
            continue
        for metric in _expand(entry, document["words"], document["references"]):
            if metric.name in table:
                raise ValueError(f"{metric.name} occurs twice for {modality} in iqms.toml")
            table[metric.name] = metric
    return MappingProxyType(table)


def _expand(
    entry: dict[str, Any], words: dict[str, str], references: dict[str, str]
) -> list[Metric]:
    """Make the metrics of an entry: one, or one per word of ``for``."""
    typical = entry.get("typical")
    metrics = []
    for key in entry.get("for", [""]):
        metrics.append(
            Metric(
                name=entry["name"].replace("{}", key),
                title=entry["title"].replace("{}", words.get(key, "")),
                unit=entry.get("unit", ""),
                meaning=entry["meaning"].replace("{}", words.get(key, "")),
                better=entry["better"],
                typical=(float(typical[0]), float(typical[1])) if typical else None,
                group=entry["group"],
                reference=references[entry["reference"]] if "reference" in entry else "",
                needs_air=entry.get("needs_air", False) or key == "bg",
            )
        )
    return metrics


def directions() -> Mapping[str, Mapping[str, str]]:
    """Give ``better`` of each metric, by modality."""
    return {name: {m.name: m.better for m in metric_table(name).values()} for name in MODALITIES}
