"""SLURMGraph on a real SLURM: arrays, failures, memory, time, dead nodes, refusals, resuming.

What takes long is submitted at once when the module starts, and looked at test by test.
"""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import (
    CLUSTER,
    UNAVAILABLE,
    Study,
    bring_up,
    queue,
    running_slurm,
    scontrol,
    wait_for,
)

from neuroferry.engine.slurm.ends import read_states

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slurm():
    with running_slurm():
        yield


@pytest.fixture(scope="module")
def studies(slurm, tmp_path_factory):
    """Everything that takes its time, submitted at once."""
    made = {}
    for name, *settings in (
        ("slow", 'packing="subject"', 'extra=["--nodelist=n1"]'),
        ("node", 'packing="subject"', 'extra=["--exclude=n1", "--exclusive"]'),
        ("hungry", 'packing="node"'),
        ("diamonds", 'packing="node"'),
    ):
        folder = tmp_path_factory.mktemp("a study") / name
        folder.mkdir()
        made[name] = Study(folder, name).plan(*settings)
        assert made[name].submit_twice_at_once() == [0, 75]
    wait_for(lambda: (made["slow"].folder / "marker").exists())
    # a minute is the shortest time that SLURM knows
    scontrol("update", f"jobid={made['slow'].calls()[0][1]}", "timelimit=1")
    return made


def test_a_node_that_goes_down_is_survived(studies):
    study = studies["node"]
    wait_for(lambda: (study.folder / "marker").exists())
    job = study.calls()[0][1]
    (where,) = {row[3] for row in queue(job) if row[2] == "RUNNING"}
    subprocess.run([CLUSTER, "kill", where], check=True)
    scontrol("update", f"nodename={where}", "state=down", "reason=test")
    wait_for(lambda: [row for row in queue(job) if row[2] == "PENDING"], 30)
    # SLURM makes such jobs wait two minutes: what it has to say to the dead node may come late
    scontrol("update", f"jobid={job}", f"excnodelist=n1,{where}", "starttime=now")
    assert study.wait().exit_code == 0
    assert set(study.states().values()) == {"done", "cached"}
    restarts = [entry["restarts"] for entry in study.events("job_started")]
    assert restarts[0] == 0
    assert max(restarts) == 1
    bring_up()


def test_what_does_not_hang_on_a_failure_goes_on(studies):
    study = studies["diamonds"]
    run = study.wait()
    assert run.exit_code == 1
    states = study.states()
    for label in ("01", "02"):
        assert all(
            states[f"sub_{label}_wf.{s}"] == "done" for s in ("start", "work", "other", "join")
        )
    for label in ("03", "04"):
        assert states[f"sub_{label}_wf.work"] == "failed"
        assert states[f"sub_{label}_wf.other"] == "done"
        assert states[f"sub_{label}_wf.join"] == "skipped"
    assert states["sub_04_wf.extra"] == "skipped"
    (step,) = (s for s in run.steps if s.step.endswith("sub_04_wf.extra"))
    assert step.because.endswith("sub_04_wf.work")
    (failed,) = (s for s in run.failed if s.subject == "03")
    assert failed.message == "ValueError: 3 is too much"
    assert Path(failed.crashfile).exists()


def test_subjects_of_one_structure_share_arrays(studies):
    study = studies["diamonds"]
    sizes = [int(last) for _, _, _, last in study.arrays()]
    assert sorted(sizes) == [1] * 5 + [3] * 4
    assert study.jobs == 3 * 4 + 5


def test_only_what_went_wrong_leaves_a_log(studies):
    study = studies["diamonds"]
    study.wait()
    logs = {path.name for path in (study.script.parent / "log").iterdir()}
    assert len([name for name in logs if "steward" not in name]) == 2


def test_a_finished_step_is_not_run_again(studies):
    study = studies["diamonds"]
    study.wait()
    again = Study(study.folder, study.name).plan('packing="node"', "limit=5")
    # the limit is an input of every subject's work, and join waits for work
    assert again.jobs == 4 * 2 + 1
    assert again.submit().returncode == 0
    assert again.wait().exit_code == 0
    ran = {entry["step"].split(".", 1)[1] for entry in again.events("step_started")}
    assert {name.split(".")[1] for name in ran} == {"work", "join", "extra"}
    assert set(again.states().values()) <= {"done", "cached"}
    assert len(again.states()) == 4 * 4 + 1
    third = Study(study.folder, study.name).plan('packing="node"', "limit=5")
    assert third.script is None


def test_the_same_script_submits_only_once(studies):
    second = studies["diamonds"].submit()
    assert second.returncode == 75
    assert "already been submitted" in second.stderr
    assert len(studies["diamonds"].calls()) == 9 + 2


def test_out_of_memory_runs_again_with_more(studies):
    study = studies["hungry"]
    assert study.wait().exit_code == 0
    assert set(study.states().values()) == {"done"}
    (warning,) = study.record.problems
    assert "middle ran out of memory with 802 MiB" in warning["message"]
    assert "runs again with 1604 MiB" in warning["message"]
    rounds = [entry["round"] for entry in study.events("job_started") if entry["unit"] == "sub-01"]
    assert rounds == [0, 0, 1, 1]


def test_a_refused_job_takes_back_those_before_it(slurm, tmp_path):
    study = Study(tmp_path, "impossible").plan('packing="node"')
    done = study.submit()
    assert done.returncode == 75
    assert "sbatch refused a job" in done.stderr
    assert "No job of this round is left in the queue" in done.stderr
    ids = [row[1] for row in study.calls()]
    assert len(ids) == 1
    wait_for(lambda: not queue(*ids), 30)
    run = study.record
    assert run.exit_code == 75
    assert "sbatch refused" in run.reason


def test_cancelling_empties_the_queue_and_closes_the_record(slurm, tmp_path):
    study = Study(tmp_path, "long").plan('packing="node"')
    assert study.submit().returncode == 0
    wait_for(lambda: study.events("step_started"))
    done = subprocess.run(
        [sys.executable, "-m", "neuroferry", "cancel", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert study.record.exit_code == 130
    wait_for(lambda: not queue(*[row[1] for row in study.calls()]), 30)


def test_status_shows_the_run_from_its_record(studies):
    study = studies["diamonds"]
    study.wait()
    done = subprocess.run(
        [sys.executable, "-m", "neuroferry", "status", study.folder, "--run", study.run_dir.name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert "ended with exit code 1" in done.stdout
    assert "sub-03 work: ValueError: 3 is too much" in done.stdout


def test_scripts_pass_shellcheck(studies):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(studies["hungry"].script.parent.glob("*.sh"))
    assert len(scripts) >= 6
    subprocess.run(["shellcheck", *scripts], check=True)


def test_a_terminal_that_closes_half_way_does_not_matter(studies, tmp_path):
    study = Study(tmp_path, "diamonds").plan('packing="subject"', "limit=9")
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    # the watch comes when all is over: it must not stay in the queue
    wait = 'case "$*" in *watch*) sleep 8 ;; *) sleep 1 ;; esac'
    slow.write_text(f'#!/bin/sh\n{wait}\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PATH"] = f"{slow.parent}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", str(study.script)])
    wait_for((study.script.parent / "jobs.tsv").exists)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [call[0] for call in study.calls()] == ["g1p01", "g2p01", "steward", "watch"]
    assert study.wait().exit_code == 0
    wait_for(lambda: not queue(*[call[1] for call in study.calls()]), 30)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 20 MB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can make a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_said_and_what_is_done_is_kept(studies, tmp_path, small_disk):
    settings = ('packing="subject"', f'run_dir="{tmp_path}/logs/first"')
    study = Study(small_disk, "large").plan(*settings)
    assert study.submit().returncode == 0
    run = study.wait()
    assert run.exit_code == 1
    (failed,) = run.failed
    assert "disk" in failed.message.lower() or "space" in failed.message
    assert study.states() == {
        "sub_01_wf.start": "done",
        "sub_01_wf.middle": "failed",
        "sub_01_wf.end": "skipped",
    }
    subprocess.run(["mount", "-o", "remount,size=99M", small_disk], check=True)
    again = Study(small_disk, "large").plan(settings[0], f'run_dir="{tmp_path}/logs/second"')
    assert again.submit().returncode == 0
    assert again.wait().exit_code == 0
    assert again.states() == {
        "sub_01_wf.start": "cached",
        "sub_01_wf.middle": "done",
        "sub_01_wf.end": "done",
    }


@pytest.mark.parametrize("retries", [1, 0])
def test_a_job_that_cannot_start_is_let_go_then_given_up(studies, tmp_path, retries):
    for name in ("diamonds", "hungry", "node"):
        studies[name].wait()
    study = Study(tmp_path, "short").plan(
        'packing="subject"', f"retries={retries}", 'extra=["--nodelist=n4"]'
    )
    subprocess.run([CLUSTER, "spoil", "n4"], check=True)
    assert study.submit().returncode == 0
    first, watch = study.arrays()[0][1], study.calls()[-1][1]
    wait_for(lambda: "held" in reason_of(first))
    bring_up()
    scontrol("update", f"jobid={watch}", "starttime=now")
    problems = wait_for(lambda: study.record.problems)
    assert "could not be started (launch failed requeued held)" in problems[0]["message"]
    if retries:
        wait_for(lambda: "held" not in reason_of(first))
        scontrol("update", f"jobid={first}", "starttime=now", check=False)
        assert study.wait().exit_code == 0
        assert set(study.states().values()) == {"done"}
    else:
        assert study.wait().exit_code == 1
        (failed,) = study.record.failed
        assert "put on hold by SLURM" in failed.message
        assert sorted(study.states().values()) == ["failed", "skipped", "skipped"]
    wait_for(lambda: not queue(*[row[1] for row in study.calls()]), 30)


def test_a_steward_that_is_gone_comes_back(studies, tmp_path):
    study = Study(tmp_path, "short").plan('packing="subject"')
    assert study.submit().returncode == 0
    _, steward, watch = (call[1] for call in study.calls())
    subprocess.run(["scancel", steward], check=True)
    scontrol("update", f"jobid={watch}", "starttime=now")
    run = study.wait()
    assert run.exit_code == 0
    assert "submitted again" in run.problems[0]["message"]
    wait_for(lambda: not queue(*[row[1] for row in study.calls()]), 30)


def reason_of(job):
    asked = ["squeue", "--noheader", "--format=%r", f"--jobs={job}"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def test_a_node_that_was_killed_is_back_at_once(studies):
    for _ in range(3):
        subprocess.run([CLUSTER, "kill", "n4"], check=True)
        bring_up()
        listed = ["sinfo", "--noheader", "--nodes=n4", "--format=%T"]
        state = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
        assert state.strip() == "idle"


def test_out_of_time_runs_again_with_more(studies):
    study = studies["slow"]
    assert study.wait().exit_code == 0
    (warning,) = study.record.problems
    assert "ran out of time" in warning["message"]
    assert set(study.states().values()) <= {"done", "cached"}


def test_what_does_not_fit_into_the_queue_follows(studies, tmp_path):
    for study in studies.values():
        study.wait()
    # the limit counts every job of the user
    wait_for(lambda: not queue(*[call[1] for study in studies.values() for call in study.calls()]))
    study = Study(tmp_path, "diamonds").plan('packing="subject"', "limit=9", "max_submitted=4")
    assert study.submit().returncode == 0
    assert study.wait().exit_code == 0
    assert len(study.states()) == 4 * 4 + 1
    assert (study.script.parent / "resubmit-1.sh").exists()


@pytest.fixture
def accounting(slurm):
    """The same cluster, started anew with slurmdbd, whose controller forgets jobs at once."""
    up = subprocess.run(
        [CLUSTER, "up", "--accounting"], capture_output=True, text=True, check=False
    )
    if up.returncode == UNAVAILABLE:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    yield
    subprocess.run([CLUSTER, "down"], check=True)


def test_where_there_is_accounting_sacct_is_asked(accounting, tmp_path):
    study = Study(tmp_path, "hungry").plan('packing="node"')
    assert study.submit().returncode == 0
    assert study.wait().exit_code == 0
    (warning,) = study.record.problems
    assert "middle ran out of memory with 802 MiB" in warning["message"]
    first, middle, last = (call[1] for call in study.arrays()[:3])
    text = (study.script.parent / "states-0.txt").read_text()
    assert "JobState=" not in text  # what scontrol would have said
    found = read_states(text)
    # SLURM stores an array of one task that starts at once with or without the task's number
    states = [found.get((job, 1), found.get((job, 0))) for job in (first, middle, last)]
    assert states == ["COMPLETED", "OUT_OF_MEMORY", "CANCELLED"]
