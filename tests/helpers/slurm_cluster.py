"""Workflows on the test cluster: planned, submitted, watched."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroferry.engine.record import read_events, read_run

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "containers" / "test-cluster"
STUDY = ROOT / "tests" / "cluster" / "slurm_study.py"
UNAVAILABLE = 69


@contextmanager
def running_slurm():
    """Start the test cluster, or tell why there is none."""
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True, check=False)
    if up.returncode == UNAVAILABLE:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = up.stdout.strip()
    yield
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


class Study:
    """One workflow in a folder of its own, planned and submitted."""

    def __init__(self, folder, name):
        self.folder = folder
        self.name = name

    def plan(self, *settings):
        command = [sys.executable, STUDY, self.folder, self.name, *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout.splitlines()[-1])
        self.script = plan["script"] and Path(plan["script"])
        self.jobs = plan["jobs"]
        return self

    def submit(self):
        return subprocess.run(["bash", self.script], capture_output=True, text=True, check=False)

    def submit_twice_at_once(self):
        both = [
            subprocess.Popen(["bash", self.script], stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        return sorted(process.wait() for process in both)

    @property
    def run_dir(self):
        return self.script.parents[1]

    @property
    def record(self):
        return read_run(self.run_dir)

    def events(self, kind):
        events = read_events(self.run_dir / "events.jsonl")
        return [entry for entry in events if entry["event"] == kind]

    def calls(self):
        return [
            line.split("\t")
            for line in (self.script.parent / "jobs.tsv").read_text().split("\n")
            if line
        ]

    def arrays(self):
        """Of all calls those for the steps."""
        return [call for call in self.calls() if not call[0].startswith(("steward", "watch"))]

    def wait(self, seconds=240):
        return wait_for(lambda: self.record.exit_code is not None and self.record, seconds)

    def states(self):
        return {step.step.split(".", 1)[1]: step.state for step in self.record.steps}


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"waited {seconds} s in vain")


def scontrol(*words, check=True):
    subprocess.run(["scontrol", *words], check=check, capture_output=True)


def bring_up():
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr


def queue(*ids):
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%A %F %T %N", f"--jobs={','.join(ids)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.split() for line in listed.stdout.splitlines()]
