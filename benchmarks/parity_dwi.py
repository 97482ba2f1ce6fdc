"""DWI metrics against MRIQC's own functions, on the same volumes and the same masks.

A run of the phantom, or any other, is measured once; MRIQC's functions get the arrays that ours
get, with its faults worked around: its correlation of neighbours gets volumes where it expects
voxels, and its shells begin with the first weighted one (see ``docs/metrics_dwi.rst``).

    python benchmarks/parity_dwi.py [--run DWI] [--table table.rst]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from mriqc_env import Call, call_mriqc

from neuroferry.interfaces.dwi.quality import Measured, RawRun, measure_signals, read_run
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.qc.dwi import nearest_neighbours, number_shells, shell_key

BOUND = 1e-6
QUANTILE_BOUND = 1e-3
#: MRIQC rounds its results; its functions are asked for more digits.
DIGITS = {"decimals": 12}
QUANTILES = ("p05", "p95", "median", "mad")


def phantom(folder: Path) -> Path:
    """Write a run of two shells; return its path."""
    from neuroferry.phantom import DwiOptions, write_phantom_dataset

    options = DwiOptions(20, (1000.0, 2000.0), resolution=2.5, fieldmaps=())
    write_phantom_dataset(folder, subjects=1, resolution=3.0, seed=3, dwi=options)
    return next(folder.glob("sub-*/dwi/*_dwi.nii.gz"))


def theirs(run: RawRun, ours: Measured) -> dict[str, float]:
    """Compute MRIQC's values of a run, with the regions that ours were measured in."""
    images, gradients = ours.images, run.gradients
    brain = images["mask"].astype(np.uint8)
    b0 = np.asarray(images["reference"], dtype=np.float32)
    shells = number_shells(gradients.shells)
    volumes = {n: np.moveaxis(run.data[list(s.volumes)], 0, -1) for n, s in shells.items()}
    anat, diffusion = "mriqc.qc.anatomical", "mriqc.qc.diffusion"
    calls = {}
    for number, data in volumes.items():
        key = shell_key(number)
        calls[f"efc_{key}"] = Call(f"{anat}:efc", (data.astype(np.float64),), DIGITS)
        calls[f"fber_{key}"] = Call(f"{anat}:fber", (data, brain), DIGITS)
    regions = {"fg": brain, "bg": 1 - brain, "wm": images["white"].astype(np.uint8)}
    calls["summary"] = Call(f"{anat}:summary_stats", (b0, regions), {**DIGITS, "rprec_data": 9})
    weighted = [n for n in shells if n]
    calls["cc"] = Call(
        f"{diffusion}:cc_snr",
        (
            b0,
            [volumes[n] for n in weighted],
            images["callosum"].astype(np.uint8),
            np.array([shells[n].b for n in weighted]),
            [_upright(gradients.bvecs[list(shells[n].volumes)]) for n in weighted],
        ),
        DIGITS,
    )
    signals = run.data[:, images["mask"] > 0].astype(np.float64)
    neighbours = nearest_neighbours(gradients.bvals, gradients.bvecs)
    calls["ndc"] = Call(
        f"{diffusion}:neighboring_dwi_correlation",
        (signals[:, None, None, :], [list(pair) for pair in neighbours]),
        DIGITS,
    )
    found = call_mriqc(calls)
    values = {k: v for k, v in found.items() if k not in {"summary", "cc"}}
    for region, row in found["summary"].items():
        values |= {f"summary_{region}_{key}": value for key, value in row.items()}
    ratios, values["sigma_cc"] = found["cc"]
    return values | {f"snr_cc_{key}": value for key, value in ratios.items()}


def _upright(bvecs: np.ndarray) -> np.ndarray:
    """Reverse directions that are nearer to the opposite of an axis: MRIQC takes it for far."""
    strongest = np.abs(bvecs).argmax(axis=1)
    signs = np.sign(bvecs[np.arange(len(bvecs)), strongest])
    return np.asarray(bvecs * signs[:, None])


def table(rows: list[tuple[str, float, float, float]]) -> str:
    """Format the comparison as a table."""
    cells = "\n   ".join(
        f'"{name}", "{ours:.7g}", "{mriqc:.7g}", "{apart:.1e}"'
        for name, ours, mriqc, apart in rows
    )
    return (
        '.. csv-table:: DWI\n   :header-rows: 1\n\n   "metric", "ours", "MRIQC", "relative '
        f'difference"\n   {cells}\n'
    )


def main() -> int:
    """Compare, print the table, check the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="DWI run (default: a phantom)")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = arguments.run or phantom(Path(name) / "bids")
        stem = str(path).removesuffix(".nii.gz")
        run = read_run(open_series(path), f"{stem}.bval", f"{stem}.bvec")
    ours = measure_signals(run)
    rows, failed = [], []
    for key, value in sorted(theirs(run, ours).items()):
        mine = ours.values[key]
        if math.isnan(mine):
            continue
        apart = abs(mine - value) / max(abs(value), 1e-12)
        rows.append((key, mine, value, apart))
        loose = key.startswith("summary_") and key.endswith(QUANTILES)
        if apart > (QUANTILE_BOUND if loose else BOUND):
            failed.append(key)
    text = table(rows)
    print(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    if failed:
        print("beyond the bound:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
