"""Benchmark of planning and submitting the anatomical graph for many participants.

For each number of participants, in a process of its own: seconds and peak memory to plan, then
seconds and calls of ``sbatch`` to submit, with a mock that only counts, for a site that allows
arrays of a thousand jobs. CPU seconds include the start of Python. The peer is Nipype's own
SLURMGraph with the same graph and the same mock, for the first number only: it calls ``sbatch``
once per step and participant.

    python benchmarks/slurm_scale.py [NUMBER...]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBERS = (10, 100, 1000, 10000)
STAND_INS = {
    "sbatch": 'n=$(($(wc -l <"$COUNTER") + 1)); echo "$n" >>"$COUNTER"; echo "$n"',
    "scontrol": "printf '%-23s = %s\\n' MaxArraySize 1001 MaxJobCount 1000000",
    "squeue": "true",
}


def measure(number: int) -> dict[str, float]:
    """Plan and submit ``number`` participants, in this process."""
    from neuroferry.app.estimates import make_estimator
    from neuroferry.app.slurm import plan_subjects
    from neuroferry.config import Config
    from neuroferry.engine import RunRecord, SLURMGraphPlugin

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir = folder / "out" / "logs" / "run"
        run_dir.mkdir(parents=True)
        started = time.monotonic()
        plugin = SLURMGraphPlugin(
            {
                "run_dir": run_dir,
                "record": RunRecord(run_dir / "events.jsonl"),
                "source": "config",
                "estimator": make_estimator(folder / "out"),
            }
        )
        config = Config(folder, folder / "out", "participant")
        plan_subjects(plugin, config, plans(folder, number), lambda some: build(folder, some))
        script = plugin.write()
        planned = time.monotonic() - started
        started = time.monotonic()
        environment = stand_ins(folder)
        subprocess.run(["bash", script], env=environment, check=True, capture_output=True)
        submitted = time.monotonic() - started
        calls = len((folder / "count").read_text().splitlines())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak, cpu = usage.ru_maxrss * 1024 / 1e9, usage.ru_utime + usage.ru_stime
    return {"steps": plugin.n_steps, "jobs": plugin.n_jobs, "plan": planned, "peak": peak} | {
        "cpu": cpu,
        "submit": submitted,
        "calls": calls,
    }


def measure_peer(number: int) -> dict[str, float]:
    """Submit the same with Nipype's SLURMGraph."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(stand_ins(folder))
        started = time.monotonic()
        workflow = build(folder, list(plans(folder, number)))
        workflow.run(plugin="SLURMGraph", plugin_args={"dont_resubmit_completed_jobs": False})
        seconds = time.monotonic() - started
        calls = len((folder / "count").read_text().splitlines())
    return {"seconds": seconds, "calls": calls}


def plans(folder: Path, number: int) -> Iterator[Any]:
    """Plan participants with one T1w image each, the same file under different names."""
    import numpy as np

    from neuroferry.bids.model import Image, Subject
    from neuroferry.interfaces.image.images import save_nifti
    from neuroferry.selection.participant import plan_participant
    from neuroferry.selection.spaces import parse_output_spaces

    settings = build_settings(folder)
    spaces = parse_output_spaces(settings.workflow.output_spaces)
    image = folder / "T1w.nii.gz"
    save_nifti(np.zeros((160, 200, 200), np.uint8), np.eye(4), image)
    for i in range(number):
        label = f"{i:05d}"
        path = folder / f"sub-{label}_T1w.nii.gz"
        path.symlink_to(image)
        subject = Subject(label, (Image(path, {"subject": label}, "T1w", "anat"),))
        yield plan_participant(subject, settings.workflow, spaces)


def build(folder: Path, participants: list[Any]) -> Any:
    """Build the anatomical graph of some participants."""
    from neuroferry.workflows.base import init_neuroferry_wf

    workflow = init_neuroferry_wf(plans=participants, settings=build_settings(folder))
    workflow.base_dir = str(folder / "work")
    return workflow


def build_settings(folder: Path) -> Any:
    """Make the settings of the anatomical graph."""
    from neuroferry.config import WorkflowConfig
    from neuroferry.workflows.base import BuildSettings

    config = WorkflowConfig(workflows=("anat", "qc"))
    return BuildSettings(folder, folder / "out", config, omp_nthreads=4)


def stand_ins(folder: Path) -> dict[str, str]:
    """Make mock programs that only count, and an environment that finds them first."""
    programs = folder / "bin"
    programs.mkdir()
    counter = folder / "count"
    counter.touch()
    for program, text in STAND_INS.items():
        (programs / program).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / program).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COUNTER": str(counter)}


def apart(kind: str, number: int) -> dict[str, float]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, kind, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(numbers: list[int]) -> None:
    """Print the table, then the peer's line."""
    titles = (
        "subjects",
        "steps",
        "jobs",
        "plan s",
        "CPU s",
        "peak GB",
        "submit s",
        "sbatch calls",
    )
    print(" | ".join(f"{title:>12}" for title in titles))
    for number in numbers:
        row = apart("--measure", number)
        cells = [number, row["steps"], row["jobs"], f"{row['plan']:.1f}", f"{row['cpu']:.1f}"]
        cells += [f"{row['peak']:.2f}", f"{row['submit']:.1f}", row["calls"]]
        print(" | ".join(f"{cell:>12}" for cell in cells), flush=True)
    peer = apart("--peer", numbers[0])
    print(
        f"Nipype's SLURMGraph, {numbers[0]} subjects: {peer['seconds']:.1f} s, "
        f"{peer['calls']} calls"
    )


if __name__ == "__main__":
    kinds = {"--measure": measure, "--peer": measure_peer}
    if sys.argv[1:2] and sys.argv[1] in kinds:
        print(json.dumps(kinds[sys.argv[1]](int(sys.argv[2]))))
    else:
        main([int(text) for text in sys.argv[1:]] or list(NUMBERS))
