"""Benchmark of head-motion estimation against ANTs' rigid registration on the same series.

Phantoms have a known truth; both tools align the same volumes to the same reference, each on one
thread. Real series have none: there, the remaining temporal variation after correction is
compared (median tSNR of the head, with the same cubic resampling).

    python benchmarks/motion.py WORK_DIR --volumes 40 --series BOLD ... --table T.rst
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from ants_env import ants_session, to_ants
from numpy.typing import NDArray

from neuroferry.interfaces.epi.motion import estimate_motion, head_mask
from neuroferry.interfaces.epi.motion_table import (
    framewise_displacement,
    motion_parameters,
    read_motion_xfms,
)
from neuroferry.interfaces.func.reference import Reference, find_reference
from neuroferry.interfaces.image.images import load_volume
from neuroferry.interfaces.image.sampling import resample_volume, static_map
from neuroferry.interfaces.image.series import Series, open_series
from neuroferry.interfaces.image.transforms import LPS
from neuroferry.phantom import BoldOptions, write_phantom_dataset
from neuroferry.phantom.score import motion_error

PLAIN = {
    "spin_history": 0.0,
    "activation": 0.0,
    "physiology": 0.0,
    "slice_timing": False,
    "transient": False,
    "distortion": 0.0,
    "dropout": False,
    "fieldmaps": (),
}
PHANTOMS: dict[str, dict[str, Any]] = {
    "motion and noise, SNR 50": PLAIN,
    "motion and noise, SNR 20": PLAIN | {"snr": 20.0},
    "spin history": PLAIN | {"spin_history": 0.1},
    "half the brain covered": PLAIN | {"coverage": 0.5},
    "all effects": {"fieldmaps": ()},
}
# Points from which a rigid transform can be recovered, mm.
CORNERS = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])


def align_ours(series: Series, reference: Reference) -> NDArray[np.float64]:
    """Align with this package."""
    return estimate_motion(series, reference.volume, reference.n_dummy).matrices


def ants_way(ants: Any, fixed: Any, moving: Any, kind: str) -> NDArray[np.float64]:
    """Register two images; return the map from fixed to moving points, RAS+ mm."""
    path = ants.registration(fixed, moving, type_of_transform=kind)["fwdtransforms"][0]
    transform = ants.read_transform(path)
    sent = np.array([transform.apply_to_point(list(p)) for p in CORNERS])
    Path(path).unlink()
    lps = np.eye(4)
    lps[:3, 3] = sent[0]
    lps[:3, :3] = ((sent[1:] - sent[0]) / 100).T
    way: NDArray[np.float64] = LPS @ lps @ LPS
    return way


def align_ants(kind: str) -> Callable[[Series, Reference], NDArray[np.float64]]:
    """Register every volume with ANTs, by the name of its recipe."""

    def align(series: Series, reference: Reference) -> NDArray[np.float64]:
        with ants_session() as ants:
            fixed = to_ants(ants, reference.volume.data, series.affine)
            images = (to_ants(ants, volume, series.affine) for volume in series.volumes())
            return np.stack([ants_way(ants, fixed, image, kind) for image in images])

    return align


TOOLS: dict[str, Callable[[Series, Reference], NDArray[np.float64]]] = {
    "neuroferry": align_ours,
    "ANTs Rigid": align_ants("Rigid"),
    "ANTs BOLDRigid": align_ants("BOLDRigid"),
}


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Call a function; return its result and processor seconds."""
    start = time.process_time()
    result = function(*args)
    return result, time.process_time() - start


def measure_phantom(root: Path, tools: Sequence[str]) -> list[list[str]]:
    """Run every tool on one phantom series: errors in mm and processor seconds per volume."""
    truth_dir = root / "derivatives" / "truth" / "sub-01" / "func"
    stem = truth_dir / "sub-01_task-blocks"
    series = open_series(root / "sub-01" / "func" / "sub-01_task-blocks_bold.nii.gz")
    truth = read_motion_xfms(f"{stem}_from-orig_to-boldref_mode-image_desc-truth_xfm.txt")
    mask = load_volume(f"{stem}_desc-brain_mask.nii.gz").data > 0
    reference = find_reference(series, 2.0)
    steady = slice(reference.n_dummy, None)
    true_fd = framewise_displacement(motion_parameters(truth, reference.volume))[steady][1:]
    rows = []
    for name in tools:
        found, seconds = timed(TOOLS[name], series, reference)
        mean, worst = motion_error(found[steady], truth[steady], mask, series.affine)
        fd = framewise_displacement(motion_parameters(found, reference.volume))[steady][1:]
        rows.append(
            [
                name,
                f"{mean:.3f}",
                f"{worst:.3f}",
                f"{np.corrcoef(fd, true_fd)[0, 1]:.4f}",
                f"{seconds / series.n_volumes:.3f}",
            ]
        )
    return rows


def measure_series(path: Path, tools: Sequence[str]) -> list[list[str]]:
    """Run every tool on a real series: tSNR after correction, FD, processor seconds per volume."""
    series = open_series(path)
    reference, seconds = timed(find_reference, series)
    mask = head_mask(reference.volume)
    rows = [["reference", "", "", f"{seconds / series.n_volumes:.3f}"]]
    still = np.tile(np.eye(4), (series.n_volumes, 1, 1))
    rows.append(["none", f"{median_tsnr(series, still, mask, reference.n_dummy):.2f}", "", ""])
    for name in tools:
        found, seconds = timed(TOOLS[name], series, reference)
        fd = framewise_displacement(motion_parameters(found, reference.volume))[1:]
        tsnr = median_tsnr(series, found, mask, reference.n_dummy)
        each = f"{seconds / series.n_volumes:.3f}"
        rows.append([name, f"{tsnr:.2f}", f"{fd[reference.n_dummy :].mean():.3f}", each])
    return rows


def median_tsnr(
    series: Series, motion: NDArray[np.float64], mask: NDArray[np.bool_], n_dummy: int
) -> float:
    """Compute the median tSNR over the head, after linear detrending."""
    where = static_map((series.shape3, series.affine), (series.shape3, series.affine))
    moves = np.linalg.inv(series.affine) @ motion @ series.affine
    inside = mask.reshape(-1)[where.voxels]
    times = np.linspace(-1.0, 1.0, series.n_volumes - n_dummy)
    total, squares, trend = np.zeros((3, int(np.count_nonzero(inside))))
    for number, volume in enumerate(series.volumes(n_dummy)):
        values = resample_volume(volume, where, moves[n_dummy + number])[inside].astype(float)
        total += values
        squares += values**2
        trend += values * times[number]
    mean = total / times.size
    variance = squares / times.size - mean**2 - trend**2 / (times @ times) / times.size
    return float(np.median(mean / np.sqrt(np.maximum(variance, 1e-6))))


def make_phantom(root: Path, n_volumes: int, options: dict[str, Any]) -> None:
    """Write a phantom series unless it already exists."""
    stamp = root / "made.json"
    wanted = json.dumps({"n_volumes": n_volumes, **options}, sort_keys=True)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        bold = BoldOptions(n_volumes, resolution=3.0, **options)
        write_phantom_dataset(root, subjects=1, resolution=2.0, seed=7, bold=bold, overwrite=True)
        stamp.write_text(wanted, encoding="utf-8")


def rst_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in reStructuredText."""
    body = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in body) for column in range(len(header))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in body]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def main() -> int:
    """Run the requested benchmarks and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument(
        "--volumes", type=int, default=40, help="volumes of each phantom; 0 for none"
    )
    parser.add_argument("--phantoms", nargs="*", choices=PHANTOMS, default=list(PHANTOMS))
    parser.add_argument("--series", type=Path, nargs="*", default=[], help="BOLD of real heads")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--table", type=Path, help="write here instead of printing")
    options = parser.parse_args()
    parts = []
    if options.volumes:
        rows = []
        for number, name in enumerate(PHANTOMS):
            if name not in options.phantoms:
                continue
            root = options.work_dir.resolve() / f"phantom-{number}"
            make_phantom(root, options.volumes, PHANTOMS[name])
            rows += [[name, *row] for row in measure_phantom(root, options.tools)]
        header = ["phantom", "tool", "mean mm", "max mm", "FD r", "CPU s/volume"]
        parts.append(rst_table(header, rows))
    if options.series:
        rows = [
            [path.name.partition("_")[0], *row]
            for path in options.series
            for row in measure_series(path.resolve(), options.tools)
        ]
        header = ["series", "tool", "tSNR", "mean FD", "CPU s/volume"]
        parts.append(rst_table(header, rows))
    text = "\n\n".join(parts) + "\n"
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
