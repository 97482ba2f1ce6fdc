"""Comparison of image quality metrics with those published by MRIQC for the same files.

The folder given as argument holds one folder per participant, with ``sub-*_T1w.nii.gz`` and
``mriqc_T1w_iqms.json``. The images become a BIDS dataset, the command ``neuroferry`` processes
it, and tables in reStructuredText show both values side by side. Existing outputs are not
computed again.

    python benchmarks/mriqc_parity.py FOLDER OUTPUT_DIR --table parity.rst

With ``--quick``, the images are measured without the anatomical workflow.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TISSUES = ("csf", "gm", "wm")
STATISTICS = ("mean", "median", "p05", "p95", "stdv", "mad", "k", "n")

BOUND, QUICK_BOUND = 0.05, 0.1
WM_LEVELS = tuple(f"summary_wm_{s}" for s in ("mean", "median", "p05", "p95"))

WHY = {
    "file": "determined by the file",
    "image": "determined by the file and the bias correction",
    "mask": "same estimator; depends on the brain mask, which differs from MRIQC's",
    "wm": "white matter on which both segmentations agree with confidence",
    "spread": "narrower where the bias field removes more of the shading",
    "tissue": "depends on the segmentation: partial volume is assigned differently",
    "air": "no air in a skull-stripped image: null here; MRIQC uses the tissues' spread "
    "instead, as does this table",
    "no_air": "no air in a skull-stripped image: null here",
    "head": "MRIQC's head mask reaches into the empty background of a stripped image",
    "scale": "the overall scale of a bias field is arbitrary; here its mean in the brain is 1",
    "field": "another estimate of the bias field (mask, spline distance)",
    "maps": "another segmentation, and empty voxels count",
    "template": "another template and another registration",
}


@dataclass(frozen=True)
class Row:
    """Published and computed values of one metric for all participants."""

    name: str
    why: str
    published: tuple[float, ...]
    computed: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """Compute relative differences per participant; ``nan`` if a value is missing or 0."""
        return tuple(
            (mine - theirs) / abs(theirs) if theirs else math.nan
            for theirs, mine in zip(self.published, self.computed, strict=True)
        )


def reason(name: str) -> str:
    """Explain why a metric agrees or differs."""
    kind = name.partition("_")[0]
    if name in {"qi_1", "qi_2"}:
        return WHY["no_air"]
    if name.startswith("summary_bg") or name in {"cnr", "fber"} or kind == "snrd":
        return WHY["head" if name == "fber" else "air"]
    if kind in {"size", "spacing"}:
        return WHY["file"]
    if name == "efc":
        return WHY["image"]
    if kind == "fwhm":
        return WHY["mask"]
    if name == "inu_med":
        return WHY["scale"]
    if name == "inu_range":
        return WHY["field"]
    if kind == "rpve":
        return WHY["maps"]
    if name.startswith("tpm_overlap"):
        return WHY["template"]
    if name == "wm2max" or name in WM_LEVELS:
        return WHY["wm"]
    if name in {"snr_wm", "summary_wm_stdv", "summary_wm_mad", "summary_wm_k"}:
        return WHY["spread"]
    return WHY["tissue"]


def stand_in_air(metrics: dict[str, Any]) -> dict[str, Any]:
    """Fill in the values that MRIQC publishes if there is no air.

    The spread of air becomes the root of the summed squares of the tissue spreads, its number of
    voxels their sum, and everything else 0; CNR and SNRd follow from these.
    """
    from neuroferry.interfaces.qc import regions

    summaries = {
        name: regions.RegionSummary(**{s: metrics[f"summary_{name}_{s}"] for s in STATISTICS})
        for name in TISSUES
    }
    spread = {s: math.hypot(*(getattr(summaries[t], s) for t in TISSUES)) for s in ("stdv", "mad")}
    total = sum(s.n for s in summaries.values())
    summaries["bg"] = regions.RegionSummary(0.0, 0.0, 0.0, 0.0, 0.0, n=total, **spread)
    filled = metrics | summaries["bg"].as_metrics("bg")
    return filled | regions.contrast_metrics(summaries)


def make_dataset(reference: Path, bids_dir: Path) -> list[str]:
    """Arrange the images of the reference folder as BIDS; return the participant labels."""
    labels = []
    for image in sorted(reference.glob("sub-*/sub-*_T1w.nii.gz")):
        folder = bids_dir / image.parent.name / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / image.name
        if not link.exists():
            link.symlink_to(image.resolve())
        labels.append(image.parent.name.removeprefix("sub-"))
    description = {"Name": "MRIQC reference", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (bids_dir / "dataset_description.json").write_text(json.dumps(description))
    return labels


def find_metrics(out_dir: Path, label: str) -> Path | None:
    """Find the metrics of a participant below an output folder."""
    return next(
        iter(sorted(out_dir.glob(f"sub-{label}/**/sub-{label}*_desc-iqms_T1w.json"))), None
    )


def collect(reference: Path, out_dir: Path, labels: list[str]) -> list[Row]:
    """Read both sides for all participants, metrics in alphabetical order."""
    published, computed = [], []
    for label in labels:
        theirs = json.loads((reference / f"sub-{label}" / "mriqc_T1w_iqms.json").read_text())
        path = find_metrics(out_dir, label)
        if path is None:
            raise SystemExit(f"No metrics of sub-{label} in {out_dir}.")
        published.append(theirs)
        computed.append(stand_in_air(json.loads(path.read_text())))
    names = sorted(name for name in published[0] if isinstance(published[0][name], int | float))
    missing = [name for name in names if name not in computed[0]]
    if missing:
        raise SystemExit(f"MRIQC publishes metrics that are not computed: {missing}")
    return [
        Row(name, reason(name), _values(published, name), _values(computed, name))
        for name in names
    ]


def _values(documents: list[dict[str, Any]], name: str) -> tuple[float, ...]:
    return tuple(math.nan if d.get(name) is None else float(d[name]) for d in documents)


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "0.00 %" if abs(value) < 5e-5 else f"{100 * value:+.2f} %"


def _csv_table(title: str, header: list[str], lines: list[list[str]]) -> str:
    cells = [", ".join(f'"{cell}"' for cell in line) for line in [header, *lines]]
    body = "\n   ".join(cells)
    return f".. csv-table:: {title}\n   :header-rows: 1\n\n   {body}\n"


def summary_table(rows: list[Row]) -> str:
    """Make one line per metric: medians over participants, differences, and reasons."""
    lines = []
    for row in rows:
        known = [d for d in row.differences if not math.isnan(d)]
        middle = statistics.median(known) if known else math.nan
        worst = max(known, key=abs) if known else math.nan
        lines.append(
            [
                row.name,
                _number(statistics.median(row.published)),
                _number(statistics.median(row.computed)),
                _percent(middle),
                _percent(worst),
                row.why,
            ]
        )
    header = ["metric", "MRIQC", "neuroferry", "median difference", "largest", "why"]
    return _csv_table("Medians over participants", header, lines)


def subject_table(rows: list[Row], index: int, label: str) -> str:
    """Make a table of both values and their relative difference for one participant."""
    lines = [
        [
            row.name,
            _number(row.published[index]),
            _number(row.computed[index]),
            _percent(row.differences[index]),
        ]
        for row in rows
    ]
    return _csv_table(f"sub-{label}", ["metric", "MRIQC", "neuroferry", "difference"], lines)


def targets(rows: list[Row], *, quick: bool = False) -> list[tuple[str, float, float]]:
    """Compare the largest difference with the bound, where parity is promised."""
    level = QUICK_BOUND if quick else BOUND
    by_name = {row.name: row for row in rows}

    def worst(*names: str) -> float:
        return max(abs(d) for name in names for d in by_name[name].differences)

    geometry = [f"{kind}_{axis}" for kind in ("size", "spacing") for axis in "xyz"]
    return [
        ("size and spacing", worst(*geometry), 1e-6),
        ("efc", worst("efc"), 0.01),
        ("summary_wm mean, median, p05, p95", worst(*WM_LEVELS), level),
        ("wm2max", worst("wm2max"), level),
    ]


def main() -> int:
    """Compute missing outputs, print the tables, check the targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="images with the metrics of MRIQC")
    parser.add_argument(
        "out_dir", type=Path, help="output folder of the derivatives, new or existing"
    )
    parser.add_argument("--table", type=Path, help="also write the tables to this file")
    parser.add_argument(
        "--quick", action="store_true", help="measure without the anatomical workflow"
    )
    arguments = parser.parse_args()
    bids_dir = arguments.out_dir.with_name(arguments.out_dir.name + "_bids")
    labels = make_dataset(arguments.reference, bids_dir)
    todo = [label for label in labels if find_metrics(arguments.out_dir, label) is None]
    if todo:
        command = [sys.executable, "-m", "neuroferry", str(bids_dir), str(arguments.out_dir)]
        workflows = ["qc"] if arguments.quick else ["anat", "qc"]
        command += ["participant", "--workflows", *workflows, "--participant-label", *todo]
        command += ["-w", str(arguments.out_dir.with_name(arguments.out_dir.name + "_work"))]
        subprocess.run(command, check=True)
    rows = collect(arguments.reference, arguments.out_dir, labels)
    checks = targets(rows, quick=arguments.quick)
    lines = [
        [name, f"{100 * worst:.3g} %", f"{100 * bound:.3g} %", "yes" if worst <= bound else "no"]
        for name, worst, bound in checks
    ]
    parts = [
        _csv_table("Targets", ["metrics", "largest difference", "bound", "reached"], lines),
        summary_table(rows),
        *(subject_table(rows, index, label) for index, label in enumerate(labels)),
    ]
    text = "\n".join(parts)
    sys.stdout.write(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    return 0 if all(worst <= bound for _, worst, bound in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
