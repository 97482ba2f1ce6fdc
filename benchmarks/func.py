"""Time and memory of each step of the functional workflow, from the record of a run.

Usage::

    neuroferry BIDS OUT participant --workflows func -d anat=ANAT --output-spaces \
        MNI152NLin2009aSym:res-2 T1w bold
    python benchmarks/func.py BIDS OUT
    python benchmarks/func.py --long WORK_DIR

The first call prints, for each BOLD run, wall and processor time and peak memory of every step,
its share of the processor time, the total time (from first to last step), and the largest peak
relative to the size of the series as float32. ``--long`` makes series of 500 and of 2,000 volumes
and passes both through the steps that read a series: their peaks show whether memory is bounded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np

from neuroferry.bids.bold import BoldRun, check_bold
from neuroferry.bids.index import index_subjects
from neuroferry.engine.record import StepSummary, list_runs, read_events, read_run

BOLD = re.compile(r"\.(?:ses_\w+?_)?(bold_[0-9A-Za-z_]+?_wf)\.(?=fit_wf|apply_wf|bold_)")
LONG_SHAPE = (64, 64, 30)


def steps_of_runs(out: Path) -> dict[tuple[str, str], dict[str, StepSummary]]:
    """Collect the measured steps of each BOLD run, keyed by participant and run."""
    found: dict[tuple[str, str], dict[str, StepSummary]] = defaultdict(dict)
    for run_dir in list_runs(out):
        for step in read_run(run_dir).steps:
            name = BOLD.search(step.step)
            if name and step.subject and step.state == "done" and step.peak_gb is not None:
                found[step.subject, name[1]][step.step[name.end() :]] = step
    return found


def wall_seconds(out: Path, subject: str, run: str) -> float:
    """Compute the time from the first start to the last end of the steps of a BOLD run."""
    moments = []
    for event in (e for d in list_runs(out) for e in read_events(d / "events.jsonl")):
        name = BOLD.search(event.get("step", "") + " ")
        if name and name[1] == run and event.get("subject") == subject and not event.get("cached"):
            moments.append(datetime.fromisoformat(event["time"]).timestamp())
    return max(moments) - min(moments)


def series_gb(run: BoldRun) -> float:
    """Compute the size of a series as float32."""
    return 4 * float(np.prod(run.shape)) * run.n_volumes * len(run.echoes) / 1e9


def report(bids: Path, out: Path) -> None:
    """Print one table for each BOLD run."""
    runs = {
        (subject.label, f"bold_{run.label}_wf"): run
        for subject in index_subjects(bids)
        for run in check_bold(subject).runs
    }
    for (subject, name), steps in steps_of_runs(out).items():
        run = runs[subject, name]
        total = sum(step.cpu_seconds or 0 for step in steps.values())
        rows = []
        for step, taken in sorted(steps.items(), key=lambda item: -(item[1].cpu_seconds or 0)):
            cpu = taken.cpu_seconds or 0.0
            if cpu < 0.005 * total:
                continue
            rows.append(
                [
                    step.rpartition(".")[2],
                    f"{taken.seconds:.1f}",
                    f"{cpu:.1f}",
                    f"{cpu / total:.0%}",
                    f"{taken.peak_gb:.2f}",
                    f"{taken.declared_gb or 0:.2f}",
                ]
            )
        peak = max(step.peak_gb or 0 for step in steps.values())
        size = series_gb(run)
        print(
            f"\nsub-{subject}, {name}: {' x '.join(map(str, run.shape))} x {run.n_volumes}, "
            f"{len(steps)} steps, {total:.0f} s of processor time, "
            f"{wall_seconds(out, subject, name):.0f} s from first to last; largest peak "
            f"{peak:.2f} GB, {peak / size:.1f} times the series as float32 ({size:.2f} GB)\n"
        )
        print_rst([["step", "wall s", "CPU s", "share", "peak GB", "declared"], *rows])


def print_rst(rows: list[list[str]]) -> None:
    """Print a table; the first row is its header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    line = "  ".join("=" * width for width in widths)
    texts = ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in rows]
    print("\n".join([line, texts[0], line, *texts[1:], line]))


def make_series(path: Path, n_volumes: int) -> Path:
    """Write a series of a drifting head-like ellipsoid, with noise."""
    from neuroferry.interfaces.image.series import SeriesWriter

    rng = np.random.default_rng(1)
    affine = np.diag([3.5, 3.5, 4.0, 1.0])
    grid = np.indices(LONG_SHAPE) - (np.array(LONG_SHAPE) / 2)[:, None, None, None]
    texture = np.sin(grid[0] / 3) * np.cos(grid[1] / 4) * np.sin(grid[2] / 3 + 1)
    with SeriesWriter(path, LONG_SHAPE, affine, 2.0, n_volumes, ceiling=1500.0) as writer:
        for index in range(n_volumes):
            shift = 0.3 * np.sin(index / 60)
            radius = ((grid[0] + shift) / 22) ** 2 + (grid[1] / 27) ** 2 + (grid[2] / 13) ** 2
            head = np.where(radius < 1, 800 + 200 * texture, 20)
            writer.add((head + 10 * rng.standard_normal(LONG_SHAPE)).astype(np.float32))
    return path


def through_the_steps(path: Path, folder: Path) -> list[tuple[str, float, float]]:
    """Pass a series through each step that reads it; yield name, processor time and peak."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in ("reference", "motion", "mask", "resample", "confounds"):
        with context.Pool(1) as pool:
            rows.append((name, *pool.apply(one_step, (name, path, folder))))
    return rows


def one_step(name: str, path: Path, folder: Path) -> tuple[float, float]:
    """Run one step in a process of its own; return its processor time and peak memory."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    started = time.process_time()
    run_interface(name, str(path), folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return time.process_time() - started, peak


def run_interface(name: str, path: str, folder: Path) -> None:
    """Run an interface on the outputs of previous ones in the folder."""
    from neuroferry.interfaces.epi.brain_mask import MaskBold
    from neuroferry.interfaces.epi.motion import EstimateMotion
    from neuroferry.interfaces.func.confounds import ComputeConfounds
    from neuroferry.interfaces.func.reference import FindReference
    from neuroferry.interfaces.func.resample import ResampleSeries

    reference = str(folder / "bold_ref.nii.gz")
    if name == "reference":
        found = FindReference(in_file=path, tr=2.0).run(cwd=str(folder)).outputs
        Path(found.bold_ref).rename(reference)
        return
    if name == "motion":
        EstimateMotion(in_file=path, ref_file=reference).run(cwd=str(folder))
        return
    if name == "mask":
        MaskBold(bold_ref=reference).run(cwd=str(folder))
        return
    (motion_xfms,) = folder.glob("*xfm*.txt")
    if name == "resample":
        ResampleSeries(
            in_file=[path], motion_xfms=str(motion_xfms), reference=reference, tr=2.0
        ).run(cwd=str(folder))
        return
    (motion_tsv,) = folder.glob("motion*.tsv")
    ComputeConfounds(
        bold=str(folder / "bold.nii.gz"),
        bold_mask=str(folder / "bold_mask.nii.gz"),
        motion_tsv=str(motion_tsv),
        n_dummy=0,
        tr=2.0,
    ).run(cwd=str(folder))


def long_series(work: Path) -> None:
    """Compare the memory of a run of 500 and of 2,000 volumes."""
    work.mkdir(parents=True, exist_ok=True)
    measured = {}
    for count in (500, 2000):
        path = work / f"series-{count}.nii.gz"
        if not path.exists():
            make_series(path, count)
        measured[count] = through_the_steps(path, work / f"steps-{count}")
    rows = [["step", "CPU s, 500", "CPU s, 2,000", "GB, 500", "GB, 2,000", "ratio"]]
    for (name, cpu, peak), (_, more_cpu, more) in zip(*measured.values(), strict=True):
        texts = (f"{cpu:.0f}", f"{more_cpu:.0f}", f"{peak:.2f}", f"{more:.2f}")
        rows.append([name, *texts, f"{more / peak:.2f}"])
    print_rst(rows)


def main() -> None:
    """Report on a run, or compare a long series with a short one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="BIDS OUT")
    parser.add_argument("--long", type=Path, metavar="WORK_DIR")
    arguments = parser.parse_args()
    if arguments.long:
        long_series(arguments.long)
    if len(arguments.folders) == 2:
        report(*arguments.folders)


if __name__ == "__main__":
    main()
