"""Benchmark of the diffusion tensor fit against DIPY and MRtrix3, in one run.

Speed in voxels per second, from arrays and from files, on one and on two threads; agreement of
the results; and, for synthetic voxels with known tensors, the error of each. Times are the best
of several rounds, with the slowest next to it: other work on the machine makes them longer, never
shorter.

    python benchmarks/tensor.py WORK_DIR --series DWI --table benchmarks/tensor.rst
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients, write_gradients
from neuroferry.interfaces.dwi.mrtrix import mrtrix_version
from neuroferry.interfaces.dwi.tensor import fit_tensor, fit_tensor_series
from neuroferry.interfaces.dwi.tensor_maps import ELEMENTS, compose_tensors, tensor_maps
from neuroferry.interfaces.image.series import open_series

SYNTHETIC = (80, 80, 40)
SNR = 30.0
DIPY_VOXELS = 40_000
"""Number of voxels given to DIPY, which takes seconds for them."""


@dataclass
class Data:
    """One series and its mask, with the truth if known."""

    name: str
    path: Path
    mask: Path
    gradients: Gradients
    signals: NDArray[np.float32]
    truth: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def n_voxels(self) -> int:
        """Voxels of the mask."""
        return self.signals.shape[1]


@dataclass
class Result:
    """Result of one tool for one series, and its times."""

    tool: str
    threads: int
    n_voxels: int
    wall: list[float]
    cpu: float
    fa: NDArray[Any]
    md: NDArray[Any]


def spread(n: int) -> NDArray[np.float64]:
    """Distribute directions over a hemisphere by a golden spiral."""
    z = (np.arange(n) + 0.5) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def synthesise(folder: Path) -> Data:
    """Simulate voxels of random tensors, 30 directions at b = 1000 s/mm², Rician noise."""
    rng = np.random.default_rng(1)
    bvals = np.r_[np.zeros(3), np.full(30, 1000.0)]
    gradients = Gradients(bvals, np.vstack([np.zeros((3, 3)), spread(30)]))
    count = int(np.prod(SYNTHETIC))
    values = np.sort(rng.uniform(0.2e-3, 1.8e-3, (3, count)), axis=0)[::-1]
    turns, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    tensors = compose_tensors(values, turns.transpose(1, 2, 0))
    weights = [gradients.bvecs[:, i] * gradients.bvecs[:, j] for i, j in ELEMENTS]
    twice = np.array([1, 2, 2, 1, 2, 1])
    exponent = -(np.stack(weights, axis=1) * bvals[:, None] * twice) @ tensors
    clean = 300 * np.exp(exponent)
    real, imaginary = rng.normal(0, 300 / SNR, (2, *clean.shape))
    signals = np.hypot(clean + real, imaginary).astype(np.float32)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    mask = np.ones(SYNTHETIC, np.uint8)
    nb.save(nb.Nifti1Image(signals.T.reshape(*SYNTHETIC, -1), affine), folder / "made.nii")
    nb.save(nb.Nifti1Image(mask, affine), folder / "made-mask.nii")
    maps = tensor_maps(tensors)
    paths = folder / "made.nii", folder / "made-mask.nii"
    return Data("synthetic", *paths, gradients, signals, (maps.fa, maps.md))


def prepare(series: Path, folder: Path) -> Data:
    """Prepare a real series: denoising and brain mask by MRtrix3."""
    stem = str(series).removesuffix(".gz").removesuffix(".nii")
    scheme = ["-fslgrad", f"{stem}.bvec", f"{stem}.bval"]
    path, mask = folder / "real.nii", folder / "real-mask.nii"
    if not mask.exists():
        quiet = ["-quiet", "-force", "-nthreads", "0"]
        subprocess.run(["dwidenoise", series, path, *quiet], check=True)
        subprocess.run(["dwi2mask", path, mask, *scheme, *quiet], check=True)
    image: Any = nb.load(path)
    gradients = read_gradients(f"{stem}.bval", f"{stem}.bvec", image.affine)
    inside = np.asanyarray(nb.load(mask).dataobj) > 0
    signals = np.stack([volume[inside] for volume in open_series(path).volumes()])
    return Data(series.name.partition("_")[0], path, mask, gradients, signals)


def measure(
    tool: str, threads: int, data: Data, rounds: int, work: Callable[[], Any], read: Any
) -> Result:
    """Run a function several times; return its result and the times."""
    wall, cpu, made = [], [], None
    for _ in range(rounds):
        before, start = spent(), time.perf_counter()
        made = work()
        wall.append(time.perf_counter() - start)
        cpu.append(spent() - before)
    fa, md = read(made)
    return Result(tool, threads, fa.size, wall, min(cpu), fa, md)


def spent() -> float:
    """Measure processor seconds of this process and of its children so far."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def run_ours(data: Data, rounds: int) -> list[Result]:
    """Fit tensors and maps from arrays, then from a file."""
    inside = np.asanyarray(nb.load(data.mask).dataobj) > 0

    def arrays() -> Any:
        maps = tensor_maps(fit_tensor(data.signals, data.gradients).tensors)
        return maps.fa, maps.md

    def files(threads: int) -> Any:
        maps, _ = fit_tensor_series(
            open_series(data.path), data.gradients, inside, n_threads=threads
        )
        return maps["fa"], maps["md"]

    results = [measure("neuroferry, arrays", 1, data, rounds, arrays, lambda made: made)]
    for threads in (1, 2):
        results.append(
            measure(
                "neuroferry, files",
                threads,
                data,
                rounds,
                lambda threads=threads: files(threads),
                lambda made: made,
            )
        )
    return results


def run_dipy(data: Data, rounds: int) -> list[Result]:
    """Run DIPY's weighted least squares from arrays, including FA and MD."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    table = gradient_table(data.gradients.bvals, bvecs=data.gradients.bvecs)
    rows = np.ascontiguousarray(data.signals[:, :: step_of(data)].T)

    def work() -> Any:
        fit = TensorModel(table, fit_method="WLS").fit(rows)
        return fit.fa, fit.md

    return [measure("DIPY WLS, arrays", 1, data, rounds, work, lambda made: made)]


def step_of(data: Data) -> int:
    """Choose the step with which voxels are given to DIPY."""
    return max(1, data.n_voxels // DIPY_VOXELS)


def run_mrtrix(data: Data, folder: Path, rounds: int) -> list[Result]:
    """Run ``dwi2tensor`` (two rounds of weighted least squares), then FA and MD, from files."""
    inside = np.asanyarray(nb.load(data.mask).dataobj) > 0
    bval, bvec = folder / "bval", folder / "bvec"
    write_gradients(data.gradients, open_series(data.path).affine, bval, bvec)
    tensor, fa, md = (folder / f"{name}.nii" for name in ("tensor", "fa", "md"))

    def work(threads: int) -> None:
        flags = ["-quiet", "-force", "-nthreads", str(threads if threads > 1 else 0)]
        scheme = ["-fslgrad", bvec, bval, "-mask", data.mask]
        subprocess.run(["dwi2tensor", data.path, tensor, *scheme, *flags], check=True)
        subprocess.run(["tensor2metric", tensor, "-fa", fa, "-adc", md, *flags], check=True)

    def read(_: None) -> Any:
        return tuple(np.asanyarray(nb.load(path).dataobj)[inside] for path in (fa, md))

    return [
        measure(
            "MRtrix3, files", threads, data, rounds, lambda threads=threads: work(threads), read
        )
        for threads in (1, 2)
    ]


def compare(data: Data, results: Sequence[Result]) -> list[list[str]]:
    """Make one row per tool: speed, difference from the first tool and error against the truth."""
    ours = results[0]
    rows = []
    for result in results:
        step = slice(None, None, step_of(data) if result.n_voxels < data.n_voxels else 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            d_fa = np.nanmedian(np.abs(result.fa - ours.fa[step]))
            d_md = np.nanmedian(np.abs(result.md / ours.md[step] - 1))
        row = [
            data.name,
            result.tool,
            str(result.threads),
            f"{result.n_voxels / min(result.wall):,.0f}",
            f"{result.n_voxels / max(result.wall):,.0f}",
            f"{result.n_voxels / result.cpu:,.0f}",
            f"{d_fa:.5f}" if result is not ours else "",
            f"{100 * d_md:.3f} %" if result is not ours else "",
        ]
        if data.truth is None:
            row += ["", ""]
        else:
            fa, md = (values[step] for values in data.truth)
            row += [
                f"{np.abs(result.fa - fa).mean():.4f}",
                f"{100 * np.abs(result.md / md - 1).mean():.2f} %",
            ]
        rows.append(row)
    return rows


def csv_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in reStructuredText."""
    lines = [f".. csv-table:: {title}", "   :header-rows: 1", ""]
    lines += ["   " + ", ".join(f'"{cell}"' for cell in row) for row in (header, *rows)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--series", type=Path, help="a DWI with .bval and .bvec next to it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="write here instead of printing")
    options = parser.parse_args()
    folder = options.work_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sets = [synthesise(folder)]
    if options.series:
        sets.append(prepare(options.series.resolve(), folder))
    rows, notes = [], []
    for data in sets:
        results = [
            *run_ours(data, options.rounds),
            *run_mrtrix(data, folder, options.rounds),
            *run_dipy(data, min(options.rounds, 3)),
        ]
        rows += compare(data, results)
        speed = {(r.tool, r.threads): r.n_voxels / r.cpu for r in results}
        ours = speed["neuroferry, arrays", 1] / speed["DIPY WLS, arrays", 1]
        files = speed["neuroferry, files", 1] / speed["MRtrix3, files", 1]
        notes.append(
            f"* {data.name} ({data.n_voxels:,} voxels, {data.signals.shape[0]} volumes), by "
            f"processor time on one thread: {ours:.0f} times DIPY's speed from arrays, and "
            f"{files:.1f} times MRtrix3's from files."
        )
    header = [
        "data",
        "tool",
        "threads",
        "voxels/s, best",
        "worst",
        "voxels per CPU s",
        "median dFA",
        "median dMD",
        "mean FA error",
        "mean MD error",
    ]
    text = INTRODUCTION.format(
        notes="\n".join(notes),
        version=mrtrix_version(),
        rounds=options.rounds,
        load=os.getloadavg()[1],
    )
    text += csv_table("Tensor fit, FA and MD included", header, rows)
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


INTRODUCTION = """\
==========
Tensor fit
==========

::

    python benchmarks/tensor.py WORK_DIR --series DWI

compares the speed and accuracy of the tensor fit with those of DIPY and MRtrix3, on the same
voxels in one run.

{notes}

"Arrays" means from signals in memory to tensors, FA and MD in memory; "files" from an
uncompressed series on disk. MRtrix3 {version} runs ``dwi2tensor``, with two iterations of
weighted least squares like neuroferry, then ``tensor2metric``; neuroferry reads, fits and
computes the maps, but does not write them. DIPY's weighted least squares has one iteration.
The table shows the best and the worst of {rounds} rounds: two shared cores with other work
(load average {load:.0f}) make wall time differ by a factor of two or more between rounds, so
compare speed by processor time. Differences (dFA, dMD) are relative to the first row of the
same data; errors, for synthetic voxels at a signal-to-noise ratio of 30, relative to the truth.

"""


if __name__ == "__main__":
    raise SystemExit(main())
