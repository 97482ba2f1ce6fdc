"""Wall time of many participants with a small graph on a real SLURM, for several variants.

Each participant has six steps that only write a line, so that the overhead of a cluster is
measured: jobs, and the start of Python. In one run, one after the other, on an idle SLURM:

- neuroferry's SLURMGraph with its packings ``chain`` (here two jobs per participant) and
  ``subject`` (one);
- a job array with one job per participant and MultiProc inside, as printed by
  ``neuroferry sbatch-script``;
- Nipype's own SLURMGraph, which makes one job per step, for fewer participants.

Before that, the separate cost of each job and step: empty jobs, Python with its imports, and the
entry into the image. Wall time is from the start of the planning Python to the empty queue; every
participant's last file must exist then.

    export SLURM_CONF=$(containers/test-cluster up)
    python benchmarks/slurm_real.py WORK_DIR [--subjects 200] [--peer 20] [--image neuroferry.sif]
    containers/test-cluster down
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = ("chain", "subject", "array", "nipype")
NAMES = {
    "chain": "neuroferry SLURMGraph, chain",
    "subject": "neuroferry SLURMGraph, subject",
    "array": "one job per participant, MultiProc",
    "nipype": "Nipype SLURMGraph",
}
COUNTING_SBATCH = '#!/usr/bin/env bash\necho "$*" >>"$COUNTER"\nexec {sbatch} "$@"\n'
REPEATS = 10
MEM_GB, PROCS = 1.0, 2
PATIENCE = 3600.0


def step(x: int) -> int:
    """Pass the value on."""
    return x + 1


def last_step(a: int, b: int) -> str:
    """Write a file that shows that all steps ran."""
    from pathlib import Path

    path = Path("ended.txt").absolute()
    path.write_text(f"{a + b}\n")
    return str(path)


def subject_wf(label: str) -> Any:
    """Build one participant's steps: a chain of three, two in parallel, a last one.

    Two of them exceed the limit of small steps, and differ in processors, so that they do not
    share a job.
    """
    from nipype import Function, Node, Workflow

    def node(name: str, **options: Any) -> Any:
        return Node(Function(["x"], ["out"], step), name=name, **options)

    workflow = Workflow(f"sub_{label}_wf")
    read, mask, table = node("read"), node("mask"), node("table")
    fit = node("fit", mem_gb=MEM_GB)
    resample = node("resample", mem_gb=MEM_GB, n_procs=PROCS)
    for large in (fit, resample):
        large.plugin_args = {"minutes": 11}
    end = Node(Function(["a", "b"], ["out"], last_step), name="end")
    read.inputs.x = int(label)
    workflow.connect([(read, fit, [("out", "x")]), (fit, resample, [("out", "x")])])
    workflow.connect([(resample, mask, [("out", "x")]), (resample, table, [("out", "x")])])
    workflow.connect([(mask, end, [("out", "a")]), (table, end, [("out", "b")])])
    return workflow


def study(base: Path, labels: list[str]) -> Any:
    """Build the steps of some participants."""
    from nipype import Workflow, config

    execution = {"hash_method": "content", "remove_unnecessary_outputs": "false"}
    execution |= {"create_report": "false", "check_version": "false"}
    config.update_config({"execution": execution})
    workflow = Workflow("study_wf", base_dir=str(base))
    workflow.add_nodes([subject_wf(label) for label in labels])
    return workflow


# --- what runs in processes of its own ----------------------------------------------------


def plan(base: Path, number: int, packing: str) -> None:
    """Plan with neuroferry, and submit."""
    from neuroferry.engine import SLURMGraphPlugin

    plugin = SLURMGraphPlugin({"packing": packing, "watch_minutes": 0})
    study(base, labels_of(number)).run(plugin=plugin)
    subprocess.run(["bash", str(plugin.submit_script)], check=True, capture_output=True)


def run_subject(base: Path, label: str) -> None:
    """Run one participant inside its job."""
    from neuroferry.engine import MultiProcPlugin

    plugin = MultiProcPlugin({"n_procs": PROCS, "memory_gb": 2 * MEM_GB})
    study(base, [label]).run(plugin=plugin)


def submit_array(base: Path, number: int) -> None:
    """Submit an array of one job per participant, with the resources of a pack."""
    from neuroferry.config import SlurmConfig
    from neuroferry.engine.slurm.scripts import header

    lines = header("subjects", SlurmConfig(), 1717, PROCS, 60)
    lines.insert(1, f"#SBATCH --array=1-{number} --output=/dev/null")
    lines.append(
        f'exec {sys.executable} {Path(__file__).resolve()} "{base}" --way run '
        '--label "$(printf %04d "$SLURM_ARRAY_TASK_ID")"'
    )
    script = base / "array.sh"
    script.write_text("\n".join(lines) + "\n")
    subprocess.run(["sbatch", str(script)], check=True, capture_output=True)


def plan_with_nipype(base: Path, number: int) -> None:
    """Let Nipype submit; with declared memory, as otherwise each job takes a whole node."""
    workflow = study(base, labels_of(number))
    workflow.run(plugin="SLURMGraph", plugin_args={"sbatch_args": f"--mem={MEM_GB * 1000:.0f}M"})


# --- the measurements ---------------------------------------------------------------------


def labels_of(number: int) -> list[str]:
    """List the labels of the first participants."""
    return [f"{i:04d}" for i in range(1, number + 1)]


def wait_for_empty_queue() -> None:
    """Wait until no job is running or pending."""
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(
        ["squeue", "--noheader"], capture_output=True, text=True, check=True
    ).stdout.strip():
        if time.monotonic() > deadline:
            raise TimeoutError(f"jobs are still in the queue after {PATIENCE:.0f} s")
        time.sleep(0.5)


def measure(way: str, work: Path, number: int) -> dict[str, float]:
    """Run one variant, with a counted ``sbatch``, and check that every participant finished."""
    base = work / way
    shutil.rmtree(base, ignore_errors=True)
    (base / "bin").mkdir(parents=True)
    counter, sbatch = base / "calls", base / "bin" / "sbatch"
    counter.touch()
    sbatch.write_text(COUNTING_SBATCH.format(sbatch=shutil.which("sbatch")))
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COUNTER": str(counter)}
    wait_for_empty_queue()
    started = time.monotonic()
    words = [sys.executable, __file__, str(base), "--way", way, "--subjects", str(number)]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    submitted = time.monotonic() - started
    wait_for_empty_queue()
    ended = time.monotonic() - started
    files = len(list(base.glob("study_wf/**/end/ended.txt")))
    if files != number:
        raise RuntimeError(f"{NAMES[way]}: {files} of {number} participants finished")
    # each job of an array has its index; ours also has a final steward
    jobs = {"chain": 2 * number + 1, "subject": number + 1, "array": number, "nipype": 6 * number}
    calls = len(counter.read_text().splitlines())
    return {"jobs": jobs[way], "calls": calls, "submitted": submitted, "seconds": ended}


def time_command(words: list[str]) -> tuple[float, float]:
    """Measure the mean wall and processor seconds of a command."""
    subprocess.run(words, check=True, capture_output=True)
    started, before = time.monotonic(), os.times()
    for _ in range(REPEATS):
        subprocess.run(words, check=True, capture_output=True)
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    return (time.monotonic() - started) / REPEATS, cpu / REPEATS


def time_empty_jobs(number: int) -> float:
    """Measure the time per job of an array of empty jobs, s."""
    wait_for_empty_queue()
    started = time.monotonic()
    words = ["sbatch", f"--array=1-{number}", "--mem=100M", "--output=/dev/null", "--wrap=true"]
    subprocess.run(words, check=True, capture_output=True)
    wait_for_empty_queue()
    return (time.monotonic() - started) / number


def print_costs(number: int, image: Path | None) -> None:
    """Print the cost of a job, a Python and an entry into the image."""
    print(f"empty job, {number} in an array: {time_empty_jobs(number):.3f} s wall each")
    ours = "import neuroferry.cli.job, neuroferry.engine.slurm.job"
    commands = {
        "Python alone": [sys.executable, "-c", "pass"],
        "Python with neuroferry's job": [sys.executable, "-c", ours],
        "Python with nipype.pipeline": [sys.executable, "-c", "import nipype.pipeline.engine"],
    }
    if image is not None:
        enter = ["apptainer", "--quiet", "exec", *(["--userns"] if os.geteuid() == 0 else [])]
        commands["the image: true"] = [*enter, str(image), "true"]
        commands["the image: Python with neuroferry's job"] = [
            *enter,
            str(image),
            "python3",
            "-c",
            ours,
        ]
    for name, words in commands.items():
        wall, cpu = time_command(words)
        print(f"{name}: {wall:.2f} s wall, {cpu:.2f} s CPU", flush=True)


def main() -> None:
    """Print the cost of the parts, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work_dir", type=Path, help="all nodes of the cluster must see it")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--peer", type=int, default=20, help="number of participants for Nipype")
    parser.add_argument("--image", type=Path, help="also time the entry into this image")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--label", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work, number = arguments.work_dir.absolute(), arguments.subjects
    if arguments.way in ("chain", "subject"):
        plan(work, number, arguments.way)
    elif arguments.way == "array":
        submit_array(work, number)
    elif arguments.way == "nipype":
        plan_with_nipype(work, number)
    elif arguments.way == "run":
        run_subject(work, arguments.label)
    else:
        work.mkdir(parents=True, exist_ok=True)
        print_costs(number, arguments.image)
        print_table(work, number, arguments.peer, arguments.ways)


def print_table(work: Path, number: int, peer: int, ways: list[str]) -> None:
    """Measure each variant and print its row."""
    titles = ("participants", "steps", "jobs", "sbatch calls", "submit s", "wall s", "s/step")
    print(f"{'':34}" + " | ".join(f"{title:>12}" for title in titles))
    for way in ways:
        people = peer if way == "nipype" else number
        row = measure(way, work, people)
        cells = [people, 6 * people, row["jobs"], row["calls"], f"{row['submitted']:.1f}"]
        cells += [f"{row['seconds']:.1f}", f"{row['seconds'] / 6 / people:.2f}"]
        print(f"{NAMES[way]:34}" + " | ".join(f"{cell:>12}" for cell in cells), flush=True)
        print(json.dumps({"way": way, "load": os.getloadavg()}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
