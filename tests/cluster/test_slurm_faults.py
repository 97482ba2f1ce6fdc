"""Faults around jobs on a real SLURM: questions that fail, jobs that vanish, answers that lie."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from slurm_cluster import Study, queue, running_slurm, scontrol, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# what a busy controller answers to jobs
BUSY = """\
[[ $SLURM_JOB_ID ]] && { echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }
exec /usr/bin/squeue "$@"
"""


@pytest.fixture(scope="module", autouse=True)
def slurm():
    with running_slurm():
        yield


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Programs that come first in PATH, here and in jobs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name, text):
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def short(monkeypatch):
    """Questions that fail are asked twice only."""
    monkeypatch.setenv("NEUROFERRY_PATIENCE", "2")


def executions(study):
    """Number of starts and of ends of each step, from its own log."""
    lines = [line.split() for line in (study.folder / "exec.log").read_text().splitlines()]
    return [Counter(row[1] for row in lines if row[0] == word) for word in ("start", "end")]


def neuroferry(*words):
    return subprocess.run(
        [sys.executable, "-m", "neuroferry", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "300"},
    )


def left(study):
    return queue(*[row[1] for row in study.calls()])


def cancel(study):
    subprocess.run(["bash", study.script.parent / "cancel.sh"], check=True, capture_output=True)


def test_a_question_that_fails_says_nothing(tmp_path, programs, short, monkeypatch):
    programs("squeue", BUSY)
    monkeypatch.setenv("SBATCH_JOB_NAME", "mine")
    study = Study(tmp_path, "counted").plan('packing="subject"', "seconds=4")
    assert study.submit().returncode == 0
    watch = next(row[1] for row in study.calls() if row[0] == "watch")
    wait_for(lambda: (tmp_path / "exec.log").exists())
    scontrol("update", f"jobid={watch}", "starttime=now")
    wait_for(lambda: sum(row[0] == "watch" for row in study.calls()) == 2)
    (tmp_path / "bin" / "squeue").unlink()
    # the watch knew nothing, so it sent no second steward
    assert sum(row[0] == "steward" for row in study.calls()) == 1
    assert study.wait(300).exit_code == 0
    assert set(executions(study)[0].values()) == {1}


def test_a_mapnode_s_item_fails_once(tmp_path):
    study = Study(tmp_path, "items").plan()
    assert study.submit().returncode == 0
    run = study.wait()
    assert run.exit_code == 1
    assert [step.message for step in run.failed] == ["ValueError: bad item"]
    assert {entry["round"] for entry in study.events("job_started")} == {0}
    (skipped,) = (step for step in run.steps if step.step.endswith("last"))
    assert (skipped.state, skipped.because.rpartition(".")[2]) == ("skipped", "_many1")


def break_entry(study, words):
    for script in study.script.parent.glob("*.sh"):
        lines = script.read_text().splitlines()
        new = [f"enter=({words})" if line.startswith("enter=") else line for line in lines]
        script.write_text("\n".join(new) + "\n")


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ("apptainer-that-is-missing exec", 69, "command not found"),
        ("bash -c 'echo FATAL: container creation failed >&2; exit 255'", 69, "creation failed"),
        ("bash -c 'echo No module named neuroferry; exit 1'", 75, "No module named neuroferry"),
    ],
)
def test_nodes_on_which_nothing_can_start(tmp_path, words, code, reason):
    study = Study(tmp_path, "short").plan('packing="subject"', "retries=1")
    break_entry(study, words)
    assert study.submit().returncode == 0
    run = study.wait()
    assert run.exit_code == code
    assert reason in run.reason
    wait_for(lambda: not left(study), 60)


def test_jobs_that_somebody_took_out_of_the_queue(tmp_path):
    study = Study(tmp_path, "long").plan('packing="node"')
    assert study.submit().returncode == 0
    wait_for(lambda: len(study.events("step_started")) == 2)  # the first is over at once
    again = subprocess.run(
        [sys.executable, "tests/cluster/slurm_study.py", tmp_path, "long", 'packing="node"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "in the same folder. Wait for them" in again.stderr
    shown = neuroferry("status", tmp_path, "--run", study.run_dir.name).stdout
    assert "not yet ended" in shown
    assert "1 running" in shown
    subprocess.run(["scancel", *(row[1] for row in study.calls())], check=True)
    wait_for(lambda: not left(study), 60)
    ended = study.record.exit_code
    assert ended is None
    shown = neuroferry("status", tmp_path, "--run", study.run_dir.name).stdout
    assert "no longer in the queue" in shown
    assert "unfinished:" in shown
    watched = neuroferry("status", tmp_path, "--run", study.run_dir.name, "--watch")
    assert watched.returncode == 75
    second = Study(tmp_path, "long").plan('packing="node"')
    assert study.record.exit_code == 75
    assert second.jobs == 2


def brief_jobs():
    asked = ["squeue", "--noheader", "--partition=brief"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def test_reasons_that_never_go_away_are_named(tmp_path):
    scontrol("create", "partitionname=brief", "nodes=n[1-4]", "maxtime=10", "state=up")
    try:
        study = Study(tmp_path, "short").plan('packing="subject"', 'partition="brief"')
        done = study.submit()
        # SLURM 22.05 gives the second reason where a partition of this name was deleted before
        assert "cannot start (Partition" in done.stderr
        shown = neuroferry("status", tmp_path).stdout
        assert "waiting (Partition" in shown
        assert "cannot start as they are; " in shown
        cancel(study)
        assert study.record.exit_code == 130
        capped = Study(tmp_path, "short").plan('partition="brief"', "max_minutes=10")
        assert "cannot start" not in capped.submit().stderr
        assert capped.wait().exit_code == 0
    finally:
        subprocess.run(["scancel", "--partition=brief"], check=False)
        wait_for(lambda: not brief_jobs(), 60)
        scontrol("delete", "partitionname=brief", check=False)


def test_the_number_is_read_among_other_lines(tmp_path, programs):
    programs("sbatch", 'echo "Your project has 12 hours left."\n/usr/bin/sbatch "$@"\n')
    study = Study(tmp_path, "short").plan('packing="subject"')
    assert study.submit().returncode == 0
    assert study.wait().exit_code == 0


def test_a_number_that_got_lost_is_found_by_the_job_s_name(tmp_path, programs, short):
    # a job that had already ended would have left the queue
    programs(
        "sbatch",
        '/usr/bin/sbatch --begin=now+8 "$@" >/dev/null\necho Socket timed out >&2\nexit 1\n',
    )
    study = Study(tmp_path, "short").plan('packing="subject"', "watch_minutes=0")
    assert study.submit().returncode == 0
    assert [row[0] for row in study.calls()] == ["g1p01", "steward"]
    assert study.wait().exit_code == 0


def test_an_interruption_while_sbatch_works_leaves_nothing_behind(tmp_path, programs):
    programs("sbatch", '/usr/bin/sbatch --hold "$@"\ntouch "$SENT"\nsleep 4\n')
    study = Study(tmp_path, "short").plan('packing="node"')
    sent = tmp_path / "sent"
    process = subprocess.Popen(
        ["bash", study.script],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "SENT": str(sent)},
    )
    wait_for(sent.exists)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 75
    assert "The submission was interrupted." in said
    assert "No job of this round is left in the queue" in said
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%j"], capture_output=True, text=True, check=True
    )
    token = study.script.read_text().partition("\ntoken=")[2].splitlines()[0]
    assert token not in listed.stdout
    assert study.record.exit_code == 75


def test_the_user_s_own_defaults_do_not_replace_the_plan(tmp_path, monkeypatch):
    for name, value in {
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_WAIT": "1",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_MEM_PER_CPU": "10",
        "SBATCH_ARRAY_INX": "7-9",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_HOLD": "1",
        "SLURM_MEM_PER_CPU": "10",
        "SLURM_ARRAY_TASK_ID": "9",
        "SQUEUE_STATES": "RUNNING",
        "SQUEUE_FORMAT": "%i",
        "SACCT_FORMAT": "jobname",
        "SBATCH_PARTITION": "main",
    }.items():
        monkeypatch.setenv(name, value)
    study = Study(tmp_path, "diamonds").plan('packing="node"', "limit=9", "max_submitted=12")
    started = time.monotonic()
    assert study.submit().returncode == 0
    assert time.monotonic() - started < 60
    monkeypatch.undo()
    assert study.wait().exit_code == 0


def test_a_step_runs_once_though_its_job_was_started_again(tmp_path):
    study = Study(tmp_path, "counted").plan('packing="subject"', "seconds=6", "subjects=1")
    assert study.submit().returncode == 0
    wait_for(lambda: (tmp_path / "exec.log").exists())
    # the same task once more, as on another node after the first seemed to be dead
    script = study.script.parent / "g1p01.sh"
    double = subprocess.run(
        ["sbatch", "--parsable", "--array=1", "--output=/dev/null", script, script.parent, "1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert study.wait().exit_code == 0
    wait_for(lambda: not queue(double))
    starts, ends = executions(study)
    assert set(starts.values()) == set(ends.values()) == {1}
