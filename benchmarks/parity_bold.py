"""BOLD metrics against MRIQC's own functions, on the same realigned series and the same masks.

A run of the phantom, or any other, is realigned once. MRIQC's functions and those of
Nipype that its workflow calls get the arrays that ours get. AFNI's programs, which MRIQC calls for
``aor``, ``aqi``, ``gcor`` and ``fwhm_*``, are not there: these metrics are compared with their
published definitions, written out voxel by voxel below.

    python benchmarks/parity_bold.py [--series BOLD --tr S] [--table table.rst]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import nibabel as nb
import numpy as np
from mriqc_env import Call, call_mriqc
from numpy.typing import NDArray
from scipy import stats

from neuroferry.interfaces.epi.motion_table import motion_parameters
from neuroferry.interfaces.func.quality import (
    align_for_quality,
    measure_series,
    realign_volume,
)
from neuroferry.interfaces.image.images import Volume, inverse, to_canonical
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.qc.bold_time import clip_level

BOUND = 1e-6
SINGLE_BOUND = 1e-5
QUANTILE_BOUND = 1e-3
#: MRIQC rounds some results; its functions are asked for more digits where they allow it.
DIGITS = {"decimals": 12}
QUANTILES = ("p05", "p95")
WHY = {
    "mriqc": "MRIQC's function",
    "single": "Nipype's function, which MRIQC calls; in single precision",
    "nipype": "the formula of Nipype's TSNR, which MRIQC calls",
    "power": "the formula of Power et al., counted as MRIQC does",
    "definition": "the published definition",
    "quantile": "MRIQC's function; its quantiles are those of a weighted sample",
}


def phantom(folder: Path) -> tuple[Path, float]:
    """Write a run of 40 volumes; return its path and its repetition time in s."""
    from neuroferry.phantom import BoldOptions, write_phantom_dataset

    options = BoldOptions(40, resolution=4.0, fieldmaps=())
    write_phantom_dataset(folder, subjects=1, resolution=3.0, seed=3, bold=options)
    return next(folder.glob("sub-*/func/*_bold.nii.gz")), options.tr


def theirs(
    series: NDArray[np.float32], brain: NDArray[np.bool_], fd: NDArray[np.float64], folder: Path
) -> dict[str, float]:
    """Compute MRIQC's values of a realigned series, shape (T, I, J, K), RAS+ axes."""
    data, mask = folder / "series.nii", folder / "mask.nii"
    nb.Nifti1Image(np.moveaxis(series, 0, -1), np.eye(4)).to_filename(data)
    nb.Nifti1Image(brain.astype(np.uint8), np.eye(4)).to_filename(mask)
    mean = np.maximum(series.mean(axis=0, dtype=np.float64), 0).astype(np.float32)
    anat, inside = "mriqc.qc.anatomical", brain.astype(np.uint8)
    regions = {"fg": inside, "bg": 1 - inside}
    found = call_mriqc(
        {
            "efc": Call(f"{anat}:efc", (mean,), DIGITS),
            "fber": Call(f"{anat}:fber", (mean, inside), DIGITS),
            "summary": Call(f"{anat}:summary_stats", (mean, regions), {**DIGITS, "rprec_data": 9}),
            "gsr_x": Call("mriqc.qc.functional:gsr", (mean, inside, "x")),
            "gsr_y": Call("mriqc.qc.functional:gsr", (mean, inside, "y")),
            "dvars": Call(
                "nipype.algorithms.confounds:compute_dvars",
                (str(data), str(mask)),
                {"remove_zerovariance": True, "variance_tol": 1e-7},
            ),
        }
    )
    summary = found.pop("summary")
    fg = summary["fg"]
    snr = call_mriqc({"snr": Call(f"{anat}:snr", (fg["median"], fg["stdv"], int(fg["n"])))})
    values = {f"summary_{r}_{key}": v for r in summary for key, v in summary[r].items()}
    values |= {name: found[name] for name in ("efc", "fber", "gsr_x", "gsr_y")} | snr
    for name, column in zip(("std", "nstd", "vstd"), found["dvars"], strict=True):
        values[f"dvars_{name}"] = float(np.mean(column))
    std = series.std(axis=0)
    tsnr = np.divide(series.mean(axis=0), std, out=np.zeros_like(std), where=std > 1e-3)
    known = fd[1:]
    return {
        **values,
        "tsnr": float(np.median(tsnr[brain])),
        "fd_mean": float(known.mean()),
        "fd_num": int((known > 0.2).sum()),
        "fd_perc": float((known > 0.2).sum() * 100 / (known.size + 1)),
    }


def definitions(
    series: NDArray[np.float32], brain: NDArray[np.bool_], head: NDArray[np.bool_]
) -> dict[str, float]:
    """Compute AFNI's metrics by their definitions."""
    inside = series[:, brain].astype(np.float64)
    length = len(inside)
    away = inside - inside.mean(axis=0)
    unit = away / np.sqrt((away**2).sum(axis=0))
    alpha = stats.norm.isf(0.001 / length)
    distance = np.abs(inside - np.median(inside, axis=0))
    far = distance > alpha * math.sqrt(math.pi / 2) * np.median(distance, axis=0)
    median = np.median(series[:, head], axis=0)
    mean = series.mean(axis=0, dtype=np.float64).astype(np.float32)
    return {
        "gcor": float((unit.mean(axis=1) ** 2).sum()),
        "aor": float(far.mean()),
        "aqi": float(np.mean([1 - stats.spearmanr(v[head], median).statistic for v in series])),
        **forman(np.maximum(mean, 0).astype(np.float64), brain),
    }


def forman(image: NDArray[np.float64], brain: NDArray[np.bool_]) -> dict[str, float]:
    """Compute the smoothness by the formula of Forman et al. (1995)."""
    variance = image[brain].var(ddof=1)
    widths = {}
    for number, axis in enumerate("xyz"):
        first, second = (np.moveaxis(image, number, 0)[s] for s in (slice(-1), slice(1, None)))
        pairs = np.moveaxis(brain, number, 0)
        steps = (second - first)[pairs[:-1] & pairs[1:]].var(ddof=1)
        ratio = 1 - steps / (2 * variance)
        widths[f"fwhm_{axis}"] = math.sqrt(8 * math.log(2)) * math.sqrt(-1 / (4 * math.log(ratio)))
    return widths | {"fwhm_avg": sum(widths.values()) / 3}


def reason(name: str) -> str:
    """Say what a metric is compared with."""
    if name in {"aor", "aqi", "gcor"} or name.startswith("fwhm"):
        return "definition"
    if name.startswith(("dvars", "tsnr", "fd_")):
        return {"d": "single", "t": "nipype", "f": "power"}[name[0]]
    if name.startswith("summary") and name.endswith(QUANTILES):
        return "quantile"
    return "mriqc"


def compare(path: Path, tr: float, folder: Path) -> list[tuple[str, float, float, float, str]]:
    """Measure a series both ways: name, their value, ours, relative difference, what it is."""
    raw = open_series(path)
    aligned = align_for_quality(raw, tr, n_threads=2)
    ours = measure_series(raw, aligned, n_threads=2, folder=folder)
    moves = inverse(raw.affine) @ aligned.matrices @ raw.affine
    kept = aligned.given.measured
    realigned = [realign_volume(raw.volume(t), moves[t]) for t in kept]
    series = np.stack([to_canonical(Volume(v, raw.affine)).data for v in realigned])
    level = clip_level(aligned.reference.data)

    def turn(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(to_canonical(Volume(mask.astype(np.float32), raw.affine)).data > 0.5)

    brain, head = turn(aligned.brain), turn(aligned.reference.data >= level)
    parameters = motion_parameters(aligned.matrices[kept], aligned.reference)
    arcs = np.abs(np.diff(parameters, axis=0)) * ([1.0] * 3 + [50.0] * 3)
    fd = np.concatenate([[math.nan], arcs.sum(axis=1)])
    expected = theirs(series, brain, fd, folder) | definitions(series, brain, head)
    rows = []
    for name, value in sorted(expected.items()):
        mine = ours.values[name]
        difference = abs(mine - value) / abs(value) if value else abs(mine)
        rows.append((name, float(value), float(mine), difference, reason(name)))
    return rows


def table(rows: list[tuple[str, float, float, float, str]]) -> str:
    """Format the comparison as reStructuredText."""
    lines = [["metric", "reference", "neuroferry", "relative difference", "the reference is"]]
    for name, value, mine, difference, why in rows:
        lines.append([name, f"{value:.8g}", f"{mine:.8g}", f"{difference:.1e}", WHY[why]])
    cells = "\n   ".join(", ".join(f'"{cell}"' for cell in line) for line in lines)
    return f".. csv-table:: BOLD\n   :header-rows: 1\n\n   {cells}\n"


def main() -> int:
    """Compare, print the table, check the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=Path, help="a BOLD series; by default a phantom")
    parser.add_argument("--tr", type=float, default=2.0, help="its repetition time in s")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, tr = arguments.series, arguments.tr
        if path is None:
            path, tr = phantom(folder / "bids")
        rows = compare(path, tr, folder)
    text = table(rows)
    sys.stdout.write(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    bounds = {"single": SINGLE_BOUND, "quantile": QUANTILE_BOUND}
    return 0 if all(row[3] <= bounds.get(row[4], BOUND) for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
