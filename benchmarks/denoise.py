"""Benchmark of DWI denoising against MRtrix3 and DIPY, on phantoms with known truth.

Every tool gets the same noisy series, the middle of a phantom head, in one run. Errors are
measured on the input of the next step: after removing the noise floor with the noise level
estimated by the tool itself. DIPY is slow: it gets a small block, and all tools are also scored
on that block. With a real series, time and memory are measured on it as well.

    python benchmarks/denoise.py WORK_DIR --series DWI
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel as nb
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients
from neuroferry.interfaces.dwi.pca import remove_noise
from neuroferry.interfaces.dwi.rician import without_noise_floor
from neuroferry.interfaces.dwi.tensor import fit_tensor
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps

Array = NDArray[Any]
PHANTOMS: dict[int, dict[str, Any]] = {
    17: {"directions": 16, "bvals": (1000.0,), "n_b0": 1},
    31: {"directions": 30, "bvals": (1000.0,), "n_b0": 1},
    65: {"directions": 30, "bvals": (1000.0, 2000.0), "n_b0": 5},
}
SNRS = (15.0, 30.0)
MIDDLE = (72, 96, 16)
"""Voxels of the phantom used."""
BLOCK = (16, 20, 10)
"""Voxels given to DIPY."""
TOOLS = ("neuroferry", "MRtrix3", "DIPY")
PURE = 0.9
"""Smallest white matter share of a voxel that counts."""
COLUMNS = (
    *("RMSE WM", "RMSE brain", "sigma bias %", "sigma RMS %"),
    *("FA error", "FA bias", "detail r", "CPU s", "wall s", "peak MB"),
)


def middle(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """Cut a block out of the middle of a grid."""
    return tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(shape, size, strict=False))


class Phantom:
    """Noiseless middle of a head and its truth."""

    def __init__(self, folder: Path, volumes: int) -> None:
        base = folder / f"clean{volumes}"
        if not base.exists():
            from neuroferry.phantom import DwiOptions, write_phantom_dataset

            still = {"drift": 0, "jerk": 0, "eddy": 0, "dropped": 0, "snr": 0, "fieldmaps": ()}
            options = DwiOptions(**PHANTOMS[volumes], **still)
            write_phantom_dataset(base, subjects=1, resolution=2.0, seed=3, dwi=options)
        path = next(base.glob("sub-*/dwi/*_dwi.nii.gz"))
        image: Any = nb.load(path)
        self.cut = middle(image.shape, MIDDLE)
        self.affine = image.affine
        self.clean = np.ascontiguousarray(image.dataobj[self.cut], dtype=np.float32)
        stem = str(path).removesuffix(".nii.gz")
        self.gradients: Gradients = read_gradients(f"{stem}.bval", f"{stem}.bvec", image.affine)
        self.truth = base / "derivatives" / "truth"
        self.brain = self._map("desc-brain_mask") > 0
        self.white = self.brain & (self._map("label-WM_probseg") >= PURE)

    def _map(self, name: str) -> Array:
        image: Any = nb.load(next(self.truth.glob(f"sub-*/dwi/*_{name}.nii.gz")))
        return np.asarray(image.dataobj[self.cut])

    def noisy(self, snr: float) -> tuple[Array, float]:
        """Add noise; return also its level in each channel."""
        from neuroferry.phantom.bold import SCALE

        sigma = SCALE / snr
        draw = np.random.default_rng(11).standard_normal
        noise = sigma * draw((2, *self.clean.shape), dtype=np.float32)
        return np.hypot(self.clean + noise[0], noise[1]).astype(np.float32), sigma

    def block(self) -> Phantom:
        """Cut out the voxels given to DIPY."""
        small = object.__new__(Phantom)
        small.__dict__ = dict(self.__dict__)
        inner = middle(self.brain.shape, BLOCK)
        for name in ("clean", "brain", "white"):
            setattr(small, name, getattr(self, name)[inner])
        small.cut = inner
        return small


def fractional(data: Array, phantom: Phantom) -> Array:
    """Compute the anisotropy in white matter."""
    signals = np.ascontiguousarray(data[phantom.white].T)
    return tensor_maps(fit_tensor(signals, phantom.gradients).tensors).fa


def score(phantom: Phantom, noisy: Array, made: Array, level: Array, sigma: float) -> list[float]:
    """Compute the errors of a result: see `COLUMNS`."""
    freed = without_noise_floor(made, np.broadcast_to(level[..., None], made.shape))
    off = (freed - phantom.clean) / sigma
    rms = [float(np.sqrt(np.mean(np.square(off[m])))) for m in (phantom.white, phantom.brain)]
    wrong = level[phantom.brain] / sigma - 1
    fa = fractional(freed, phantom) - fractional(phantom.clean, phantom)
    detail = phantom.clean - ndimage.uniform_filter(phantom.clean, (3, 3, 3, 1))
    pairs = ((noisy - made)[phantom.brain].T, detail[phantom.brain].T)
    r = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(*pairs, strict=True) if a.any()]
    spread = float(np.sqrt(np.mean(np.square(wrong))))
    errors = [float(np.abs(fa).mean()), float(fa.mean()), float(np.mean(r)) if r else 0.0]
    return [*rms, 100 * float(wrong.mean()), 100 * spread, *errors]


def run_tool(tool: str, series: Path, folder: Path) -> list[float]:
    """Denoise a series with one tool, on one thread, from file to file: CPU s, wall s, peak MB."""
    made, level = folder / f"{tool}.nii", folder / f"{tool}-noise.nii"
    started, before = time.perf_counter(), spent()
    if tool == "MRtrix3":
        quiet = ["-quiet", "-force", "-nthreads", "0"]
        subprocess.run(["dwidenoise", series, made, "-noise", level, *quiet], check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    else:
        image: Any = nb.load(series)
        data = np.ascontiguousarray(image.dataobj, dtype=np.float32)
        if tool == "neuroferry":
            sigma = remove_noise(data)
        else:
            from dipy.denoise.localpca import mppca

            data, sigma = mppca(data, patch_radius=2, return_sigma=True)
        nb.save(nb.Nifti1Image(data, image.affine), made)
        nb.save(nb.Nifti1Image(sigma.astype(np.float32), image.affine), level)
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak = int(status.partition("VmHWM:")[2].split()[0])
    return [spent() - before, time.perf_counter() - started, peak / 1e3]


def spent() -> float:
    """Measure processor seconds of this process and of its children so far."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def measure(tool: str, series: Path, folder: Path) -> list[float]:
    """Run a tool in a process of its own."""
    words = [sys.executable, __file__, str(folder), "--tool", tool, "--series", str(series)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    measured: list[float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def results(tool: str, folder: Path) -> tuple[Array, Array]:
    """Read the output of a tool."""
    paths = (folder / f"{tool}.nii", folder / f"{tool}-noise.nii")
    made, level = (np.asarray(nb.load(p).dataobj, dtype=np.float32) for p in paths)
    return made, np.nan_to_num(level)


def compare(phantom: Phantom, snr: float, folder: Path) -> dict[str, list[float]]:
    """Measure every tool on one noisy phantom."""
    noisy, sigma = phantom.noisy(snr)
    level = np.full(noisy.shape[:3], sigma, np.float32)
    rows = {"none": score(phantom, noisy, noisy, level, sigma)}
    series = folder / "noisy.nii"
    nb.save(nb.Nifti1Image(noisy, phantom.affine), series)
    small = phantom.block()
    part = noisy[small.cut]
    for tool in TOOLS[:2]:
        cost = measure(tool, series, folder)
        made, level = results(tool, folder)
        rows[tool] = score(phantom, noisy, made, level, sigma) + cost
        inside = (part, made[small.cut], level[small.cut])
        rows[f"{tool}, block"] = score(small, *inside, sigma)
    nb.save(nb.Nifti1Image(part, phantom.affine), series)
    cost = measure("DIPY", series, folder)
    rows["DIPY, block"] = score(small, part, *results("DIPY", folder), sigma) + cost
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--series", type=Path, help="a real DWI run")
    parser.add_argument("--volumes", type=int, nargs="+", choices=PHANTOMS, default=[*PHANTOMS])
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.work_dir.resolve()
    if arguments.tool:
        print(json.dumps(run_tool(arguments.tool, arguments.series, folder)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(["volumes", "SNR", "tool", *COLUMNS]))
    for volumes in arguments.volumes:
        phantom = Phantom(folder, volumes)
        for snr in SNRS:
            for name, row in compare(phantom, snr, folder).items():
                cells = [f"{value:.4g}" for value in row]
                print(" | ".join([str(volumes), f"{snr:g}", name, *cells]), flush=True)
    if arguments.series:
        for tool in TOOLS[:2]:
            cost = measure(tool, arguments.series.resolve(), folder)
            print(" | ".join(["real run", tool, *(f"{value:.4g}" for value in cost)]), flush=True)
    print(f"load {os.getloadavg()[1]:.1f}")


if __name__ == "__main__":
    main()
