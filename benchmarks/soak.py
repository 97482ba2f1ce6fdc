"""Endurance of SLURM runs: many participants while everything around them fails.

A graph of sleeping steps for each participant runs on the test cluster. Meanwhile ``squeue``,
``sacct`` and ``sbatch`` fail in a fifth of their calls (half of the failing submissions are
accepted all the same), nodes are drained or declared down and come back, jobs are requeued and
cancelled, and the controller is restarted twice. Then, with everything whole again, the run is
repeated as a user would, until it succeeds. Every execution of a step leaves lines in a log of its
own, apart from neuroferry's record. What must hold:

- no step runs twice at once;
- every step ends once (a job that is killed after its step has ended and before the result is
  saved has to run it again: ``unsaved``);
- the run ends, and its exit code is 0 if no job was cancelled, otherwise 1.

    python benchmarks/soak.py WORK_DIR [--subjects 200] [--seeds 1 2 3 4 5] [--seconds 1] [--hurry]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "containers" / "test-cluster"
STUDY = ROOT / "tests" / "cluster" / "slurm_study.py"
NODES = ("n1", "n2", "n3", "n4")
FAILS = """\
#!/usr/bin/env bash
if ((RANDOM % 5 == 0)); then
    [[ {name} != sbatch ]] || ((RANDOM % 2)) || {program} "$@" >/dev/null 2>&1
    echo "{name}: error: Socket timed out on send/recv operation" >&2
    exit 1
fi
exec {program} "$@"
"""
PATIENCE = 1800.0


@dataclass
class Trouble:
    """Something that happens to the cluster every few seconds.

    Attributes
    ----------
    random : random.Random
        Decides what.
    jobs : pathlib.Path
        The run's list of jobs.
    most : dict of str to int
        How often each kind happens at most. After a node is declared down, SLURM holds its jobs
        back for two minutes.
    done : Counter of str
        How often each kind happened.
    out : dict of str to float
        Nodes out of service, and until when.
    hurry : bool
        Do not wait the two minutes for which SLURM holds a requeued job back.
    """

    random: random.Random
    jobs: Path
    most: dict[str, int]
    done: Counter[str] = field(default_factory=Counter)
    out: dict[str, float] = field(default_factory=dict)
    hurry: bool = False

    def happen(self) -> None:
        """Let one thing happen."""
        now = time.monotonic()
        for node in [node for node, until in self.out.items() if until < now]:
            _scontrol("update", f"nodename={node}", "state=resume")
            del self.out[node]
        if self.hurry:
            for task in self._tasks("PENDING", "BeginTime"):
                _scontrol("update", f"jobid={task}", "starttime=now")
        kind = self.random.choice(sorted(self.most))
        if self.done[kind] >= self.most[kind]:
            return
        if kind == "restart":
            subprocess.run([CLUSTER, "restart"], check=True, stdout=subprocess.DEVNULL)
        elif kind in ("drain", "down"):
            node = self.random.choice(NODES)
            if node in self.out or len(self.out) > 2:
                return
            _scontrol("update", f"nodename={node}", f"state={kind}", "reason=soak")
            self.out[node] = now + self.random.uniform(3, 10)
        elif kind in ("requeue", "cancel"):
            running = self._tasks("RUNNING")
            if not running:
                return
            task = self.random.choice(running)
            if kind == "requeue":
                _scontrol("requeue", task)
            else:
                subprocess.run(["scancel", task], check=False, stderr=subprocess.DEVNULL)
        self.done[kind] += 1

    def end(self) -> None:
        """Repair everything."""
        for node in self.out:
            _scontrol("update", f"nodename={node}", "state=resume")
        self.out.clear()
        subprocess.run([CLUSTER, "up"], check=True, stdout=subprocess.DEVNULL)

    def _tasks(self, state: str, reason: str = "") -> list[str]:
        try:
            rows = [line.split("\t") for line in self.jobs.read_text().splitlines()]
        except FileNotFoundError:
            return []
        ids = {row[1] for row in rows if not row[0].startswith(("steward", "watch"))}
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", f"--states={state}", "--format=%F_%K %r"],
            capture_output=True,
            text=True,
            check=False,
        )
        found = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
        return sorted(
            row[0]
            for row in found
            if row[0].partition("_")[0] in ids and (not reason or row[-1].strip() == reason)
        )


def _scontrol(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=False, capture_output=True)


def soak(
    base: Path,
    seed: int,
    subjects: int,
    seconds: float,
    *,
    every: float = 3.0,
    down: int = 4,
    hurry: bool = False,
) -> dict[str, object]:
    """Run one study through trouble, then repeat it until it succeeds.

    Returns
    -------
    dict
        Counts of what happened and of what came out.
    """
    base.mkdir(parents=True)
    started = time.monotonic()
    environment = {**os.environ, "PATH": f"{_failing(base / 'bin')}:{os.environ['PATH']}"}
    settings = [f"subjects={subjects}", f"seconds={seconds}", 'packing="subject"']
    settings += ["watch_minutes=1", "retries=5"]
    run, _ = _plan(base, settings)
    subprocess.run(["bash", run / "slurm" / "submit.sh"], env=environment, check=True)
    most = {"drain": 10, "requeue": 2 + subjects // 10, "cancel": 3, "restart": 2, "down": down}
    trouble = Trouble(random.Random(seed), run / "slurm" / "jobs.tsv", most, hurry=hurry)
    while (code := _ended(run)) is None:
        if time.monotonic() - started > PATIENCE:
            break
        if time.monotonic() - started < 0.7 * PATIENCE:
            trouble.happen()
        time.sleep(every)
    trouble.end()
    right = code is not None and bool(code) == bool(_failures(run))
    repeats = 0
    while code != 0 and repeats < 5:
        repeats += 1
        run, left = _plan(base, settings)
        if not left:
            break
        subprocess.run(["bash", run / "slurm" / "submit.sh"], check=True)
        while (code := _ended(run)) is None and time.monotonic() - started < 2 * PATIENCE:
            time.sleep(1)
    return {
        "seed": seed,
        "subjects": subjects,
        "minutes": round((time.monotonic() - started) / 60, 1),
        **{kind: trouble.done[kind] for kind in ("drain", "down", "requeue", "cancel", "restart")},
        **count(base),
        "verdict": "right" if right else f"wrong ({code})",
        "repeats": repeats,
    }


def _failing(folder: Path) -> Path:
    folder.mkdir()
    for name in ("squeue", "sacct", "sbatch"):
        program = subprocess.run(
            ["which", name], capture_output=True, text=True, check=True
        ).stdout.strip()
        (folder / name).write_text(FAILS.format(name=name, program=program))
        (folder / name).chmod(0o755)
    return folder


def _plan(base: Path, settings: list[str]) -> tuple[Path, int]:
    command = [sys.executable, str(STUDY), str(base), "counted", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout.splitlines()[-1])
    if not plan["script"]:
        return base, 0
    return Path(plan["script"]).parents[1], plan["jobs"]


def _events(run: Path) -> list[dict[str, object]]:
    found = []
    for line in (run / "events.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _ended(run: Path) -> int | None:
    codes = [e["exit_code"] for e in _events(run) if e["event"] == "run_ended"]
    return codes[-1] if codes else None  # type: ignore[return-value]


def _failures(run: Path) -> int:
    states: dict[object, object] = {}
    for event in _events(run):
        if str(event["event"]).startswith("step_"):
            states[event["step"]] = event["event"]
    return sum(state != "step_done" for state in states.values())


def count(base: Path) -> dict[str, int]:
    """Count executions in the log, and results in all records."""
    rows = [line.split() for line in (base / "exec.log").read_text().splitlines()]
    starts = Counter(row[1] for row in rows if row[0] == "start")
    ends = Counter(row[1] for row in rows if row[0] == "end")
    at_once, at_work = 0, {}
    for word, step, _, pid in rows:
        if word == "start":
            at_work[step] = pid
        elif at_work.get(step) != pid:
            at_once += 1  # it ended after another execution had started
    saved: Counter[object] = Counter()
    for path in base.glob("logs/*/events.jsonl"):
        for event in _events(path.parent):
            if event["event"] == "step_done" and not event["cached"]:
                saved[event["step"]] += 1
    return {
        "steps": len(starts),
        "starts": sum(starts.values()),
        "ended once": sum(ends[step] == 1 for step in starts),
        "unsaved": sum(n - 1 for n in ends.values()) - sum(n - 1 for n in saved.values()),
        "twice": sum(n > 1 for n in saved.values()),
        "at once": at_once,
    }


def main() -> None:
    """Run the seeds one after the other, and print a table."""
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--hurry", action="store_true", help="requeued jobs start at once")
    arguments = parser.parse_args()
    up = subprocess.run([CLUSTER, "up"], stdout=subprocess.PIPE, text=True, check=True)
    os.environ["SLURM_CONF"] = up.stdout.strip()
    for number, seed in enumerate(arguments.seeds):
        base = arguments.work.absolute() / f"seed-{seed}"
        row = soak(base, seed, arguments.subjects, arguments.seconds, hurry=arguments.hurry)
        if not number:
            print("  ".join(row))
        print("  ".join(f"{value!s:>{len(key)}}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
