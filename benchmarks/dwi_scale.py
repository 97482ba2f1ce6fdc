"""Benchmark of brain extraction, denoising and tensor fit for many participants, by plugin.

The workload with which Mehta et al. (2017, doi:10.14778/3137628.3137634) compared Dask, Spark and
others, and Richie-Halford and Rokem (2018, doi:10.25080/Majora-4af1f417-001) Cloudknot: the
question is how time grows with the number of participants. The ideal is the time of the steps
alone, one participant after the other, in as many plain parallel processes as there are
processors: the capacity of this machine without any engine.

    export SLURM_CONF=$(containers/test-cluster up)       # for --ways slurm
    python benchmarks/dwi_scale.py WORK_DIR --subjects 1 2 4 8 25
    containers/test-cluster down

Phantoms are made once; with more participants than phantoms they are reused, each in its own
steps. All variants run one after the other, each from an empty work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = ("multiproc", "dask", "slurm")
N_PROCS = 2
MEM_GB = 0.6
PHANTOMS = 5
ALONE = 3
PUBLISHED = {
    "Dask": {1: 605, 2: 727, 4: 1081, 8: 1734, 12: 2381, 25: 4847},
    "Cloudknot": {2: 1272, 4: 1919, 8: 3380, 12: 3848, 25: 6026},
}


def mean_b0(in_file: str, bval: str) -> str:
    """Average the volumes without diffusion weighting."""
    from pathlib import Path

    import numpy as np

    from neuroferry.bids.gradients import read_bvals
    from neuroferry.interfaces.dwi.bias import mean_b0
    from neuroferry.interfaces.image.images import save_volume
    from neuroferry.interfaces.image.series import open_series

    volume = mean_b0(open_series(in_file), np.asarray(read_bvals(Path(bval))))
    return str(save_volume(volume, Path("b0.nii.gz").absolute()))


def subject_wf(number: int, dwi: Path) -> Any:
    """Build the steps of one participant."""
    from nipype import Function, Node, Workflow

    from neuroferry.interfaces.dwi.denoise import DenoiseDwi
    from neuroferry.interfaces.dwi.tensor import FitTensor
    from neuroferry.interfaces.epi.brain_mask import MaskBold

    bval, bvec = (str(dwi).replace(".nii.gz", end) for end in (".bval", ".bvec"))
    average = Node(Function(["in_file", "bval"], ["out"], mean_b0), name="mean_b0", mem_gb=0.3)
    average.inputs.trait_set(in_file=str(dwi), bval=bval)
    mask = Node(MaskBold(), name="mask_dwi", mem_gb=MEM_GB)
    denoise = Node(DenoiseDwi(in_file=str(dwi), tr=3.0), name="denoise_dwi", mem_gb=MEM_GB)
    fit = Node(FitTensor(bval=bval, bvec=bvec), name="fit_tensor", mem_gb=MEM_GB)
    workflow = Workflow(f"sub_{number:02d}_wf")
    workflow.connect([
        (average, mask, [("out", "bold_ref")]),
        (mask, fit, [("bold_mask", "mask")]),
        (denoise, fit, [("out_file", "in_file")]),
    ])  # fmt: skip
    return workflow


def study(base: Path, files: list[Path], number: int) -> Any:
    """Build the steps of some participants."""
    from nipype import Workflow, config

    execution = {"hash_method": "content", "remove_unnecessary_outputs": "false"}
    config.update_config(
        {"execution": {**execution, "create_report": "false", "check_version": "false"}}
    )
    workflow = Workflow("study_wf", base_dir=str(base))
    workflow.add_nodes([subject_wf(n, files[n % len(files)]) for n in range(number)])
    return workflow


def run(way: str, base: Path, files: list[Path], number: int) -> None:
    """Run the participants by one plugin, in this process."""
    from neuroferry.engine import DaskPlugin, MultiProcPlugin, SLURMGraphPlugin

    workflow = study(base, files, number)
    resources = {"n_procs": N_PROCS, "memory_gb": 8}
    if way == "multiproc":
        workflow.run(plugin=MultiProcPlugin(resources))
    elif way == "dask":
        workflow.run(plugin=DaskPlugin(resources))
    else:
        plugin = SLURMGraphPlugin({"packing": "subject", "watch_minutes": 0})
        workflow.run(plugin=plugin)
        subprocess.run(["bash", str(plugin.submit_script)], check=True, capture_output=True)
        while subprocess.run(
            ["squeue", "--noheader"], capture_output=True, text=True, check=True
        ).stdout.strip():
            time.sleep(0.5)


def steps_alone(files: list[Path], base: Path) -> float:
    """Measure the mean time of one participant's steps without any engine, s."""
    from neuroferry.interfaces.dwi.denoise import DenoiseDwi
    from neuroferry.interfaces.dwi.tensor import FitTensor
    from neuroferry.interfaces.epi.brain_mask import MaskBold

    os.chdir(base)
    started = time.monotonic()
    for dwi in files:
        bval, bvec = (str(dwi).replace(".nii.gz", end) for end in (".bval", ".bvec"))
        mask = MaskBold(bold_ref=mean_b0(str(dwi), bval)).run().outputs.bold_mask
        clean = DenoiseDwi(in_file=str(dwi), tr=3.0).run().outputs.out_file
        FitTensor(in_file=clean, bval=bval, bvec=bvec, mask=mask).run()
    return (time.monotonic() - started) / len(files)


def measure(way: str, work: Path, number: int) -> float:
    """Time one variant in a process of its own, including its start."""
    base = _empty(work / f"{way}-{number}")
    started = time.monotonic()
    subprocess.run(_words(work, way, number), check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    made = len(list(base.glob("study_wf/*/fit_tensor/result_fit_tensor.pklz")))
    if made != number:
        raise RuntimeError(f"{way}: {made} of {number} participants finished")
    return seconds


def measure_alone(work: Path, processes: int) -> float:
    """Time the steps of one participant in some plain parallel processes; return the mean."""
    for number in range(processes):
        _empty(work / f"alone-{number}")
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # the engine's malloc settings for each step
    kept = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
    env = {**os.environ, **one_thread, **kept}
    running = [
        subprocess.Popen(_words(work, "alone", number), stdout=subprocess.PIPE, text=True, env=env)
        for number in range(processes)
    ]
    said = [process.communicate()[0] for process in running]
    return sum(float(json.loads(text.splitlines()[-1])) for text in said) / processes


def _words(work: Path, way: str, number: int) -> list[str]:
    return [sys.executable, __file__, str(work), "--way", way, "--subjects", str(number)]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path, help="all nodes of the cluster must see it")
    parser.add_argument("--subjects", type=int, nargs="+", default=[1, 2, 4, 8, 25])
    parser.add_argument("--resolution", type=float, default=2.0, help="of the DWI, mm")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = arguments.work_dir.absolute()
    files = sorted((work / "bids").glob("sub-*/dwi/*_dwi.nii.gz"))
    if arguments.way == "alone":
        few = files[:ALONE]  # phantoms of one size take the same
        print(json.dumps(steps_alone(few, work / f"alone-{arguments.subjects[0]}")))
        return
    if arguments.way:
        number = arguments.subjects[0]
        run(arguments.way, work / f"{arguments.way}-{number}", files, number)
        return
    if not files:
        from neuroferry.phantom import DwiOptions, write_phantom_dataset

        options = DwiOptions(30, resolution=arguments.resolution, fieldmaps=())
        write_phantom_dataset(
            work / "bids", subjects=PHANTOMS, resolution=4.0, seed=1, dwi=options
        )
    print_table(work, arguments.subjects, arguments.ways)


def print_table(work: Path, subjects: list[int], ways: list[str]) -> None:
    """Measure and print row by row: seconds, and their ratio to the ideal."""
    one, each = measure_alone(work, 1), measure_alone(work, N_PROCS)
    print(f"steps alone, s per participant: {one:.1f}, {each:.1f} in {N_PROCS} processes at once")
    titles = ["participants", "ideal s", *(f"{way} s (% of ideal)" for way in ways)]
    titles += [f"{name}, published s" for name in PUBLISHED]
    print(" | ".join(titles), flush=True)
    rows = {}
    for number in subjects:
        ideal = one if number == 1 else each * number / N_PROCS
        rows[number] = {way: measure(way, work, number) for way in ways}
        cells = [f"{s:.1f} ({100 * ideal / s:.0f})" for s in rows[number].values()]
        published = [str(series.get(number, "-")) for series in PUBLISHED.values()]
        print(" | ".join([str(number), f"{ideal:.1f}", *cells, *published]), flush=True)
    few, many = min(rows), max(rows)
    for way in ways if many > few else ():
        slope = (rows[many][way] - rows[few][way]) / (many - few)
        print(f"{way}: {slope:.2f} s for each further participant, {each / N_PROCS:.2f} at best")
    print(
        f"steps alone, once more: {measure_alone(work, 1):.1f}, {measure_alone(work, N_PROCS):.1f}"
    )


if __name__ == "__main__":
    main()
