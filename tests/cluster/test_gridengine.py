"""Dask workers that are jobs of a real Grid Engine, as many as there is work for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroferry.engine.record import read_events

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "containers" / "test-gridengine"
EXAMPLE = ROOT / "docs" / "examples" / "dask_jobs.py"
UNAVAILABLE = 69

STUDY = """
    import argparse
    from pathlib import Path

    from nipype import Function, Node, Workflow, config
    from neuroferry.engine import DaskPlugin, RunRecord

    def rest(x, runs, after=None):
        import os, time

        with open(runs, "a") as stream:
            stream.write(f"{x} {os.environ.get('JOB_ID')}\\n")
        time.sleep(1)
        return os.environ.get("JOB_ID")

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("folder", type=Path)
        parser.add_argument("--plugin")
        parser.add_argument("--dask-scheduler")
        parser.add_argument("--dask-wait-minutes", type=float, default=2.0)
        given = parser.parse_args()
        config.update_config({"execution": {"hash_method": "content", "check_version": "false"}})
        workflow = Workflow("w", base_dir=str(given.folder / "work"))
        for i in range(6):
            first, second = (
                Node(Function(["x", "runs", "after"], ["out"], rest), name=f"{name}{i}")
                for name in "ab"
            )
            first.inputs.x, second.inputs.x = f"a{i}", f"b{i}"
            first.inputs.runs = second.inputs.runs = str(given.folder / "runs")
            workflow.connect(first, "out", second, "after")
        workflow.run(
            plugin=DaskPlugin(
                {
                    "scheduler": given.dask_scheduler,
                    "wait_seconds": 60 * given.dask_wait_minutes,
                    "record": RunRecord(given.folder / "events.jsonl"),
                    "crash_dir": given.folder,
                }
            )
        )
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    """Settings of a running Grid Engine, in addition to this process's environment."""
    up = subprocess.run([SCRIPT, "up"], capture_output=True, text=True, check=False)
    if up.returncode == UNAVAILABLE:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    settings = dict(line.split("=", 1) for line in up.stdout.splitlines())
    yield {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([SCRIPT, "down"], check=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A script with twelve steps of a second, in two rows."""
    path = tmp_path / "study.py"
    path.write_text(textwrap.dedent(STUDY))
    return path


def _jobs(engine: dict[str, str]) -> list[str]:
    said = subprocess.run(["qstat"], env=engine, capture_output=True, text=True, check=True)
    return [line.split()[0] for line in said.stdout.splitlines()[2:]]


def _waits(true: object, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.2)


def test_jobs_come_with_the_work_and_a_lost_one_loses_nothing(
    engine: dict[str, str], study: Path, tmp_path: Path
) -> None:
    """No job before the run, several during it, none after it; a killed one's steps run again."""
    log = tmp_path / "example.log"
    with log.open("w") as stream:
        run = subprocess.Popen(
            [
                *(sys.executable, str(EXAMPLE), "sge", "--queue", "all.q", "--cores", "1"),
                *("--memory-gb", "1", "--jobs", "3", "--walltime", "00:10:00"),
                *("--directive=-V", "--interface", "lo", "--logs", str(tmp_path / "logs")),
                *("--", sys.executable, str(study), str(tmp_path)),
            ],
            env=engine,
            cwd=tmp_path,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        runs = tmp_path / "runs"
        _waits(runs.exists)
        victim = runs.read_text().split()[1]
        subprocess.run(["qdel", victim], env=engine, check=True, capture_output=True)
        assert run.wait(timeout=180) == 0, log.read_text()
    done = Counter(
        event["step"]
        for event in read_events(tmp_path / "events.jsonl")
        if event["event"] == "step_done"
    )
    assert done == {f"w.{name}{i}": 1 for name in "ab" for i in range(6)}
    assert len({line.split()[1] for line in runs.read_text().splitlines()} - {victim}) >= 1
    _waits(lambda: not _jobs(engine))


def test_workers_of_an_array_job_serve_a_run(
    engine: dict[str, str], study: Path, tmp_path: Path
) -> None:
    """One line of qsub: a scheduler here, workers as an array job, no further package."""
    scheduler = tmp_path / "dask.json"
    worker = [sys.executable, "-m", "neuroferry", "dask-worker", str(scheduler)]
    with subprocess.Popen([*worker, "--nprocs", "1", "--mem", "1GB"], env=engine) as first:
        _waits(scheduler.exists)
        assert json.loads(scheduler.read_text())["address"].startswith("tcp://")
        subprocess.run(
            [
                *("qsub", "-t", "1-2", "-b", "y", "-V", "-cwd", "-j", "y", "-o", "worker.log"),
                *(*worker, "--no-scheduler", "--nprocs", "1", "--mem", "1GB"),
            ],
            env=engine,
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [sys.executable, study, tmp_path, "--dask-scheduler", str(scheduler)],
            env=engine,
            check=True,
            timeout=180,
        )
        first.terminate()
    done = [e["step"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "step_done"]
    assert len(done) == len(set(done)) == 12
    _waits(lambda: not _jobs(engine))  # workers end with their scheduler
