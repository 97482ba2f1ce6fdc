"""What the queue says about a run, and what it cannot say."""

import os

import pytest

from neuroferry.engine.record import RunRecord, read_run
from neuroferry.engine.slurm.queue import close_if_gone, look

SITE = "cluster head(10.0.0.1)"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with two arrays in the queue, and the answer of the host in a file."""
    folder = tmp_path / "run"
    (folder / "slurm" / "submitted-0").mkdir(parents=True)
    (folder / "slurm" / "submitted-0" / "all").touch()
    (folder / "slurm" / "site").write_text(f"{SITE}\n")
    (folder / "slurm" / "jobs.tsv").write_text("g1p01\t7\t1\t3\nsteward\t8\t1\t1\n")
    RunRecord(folder / "events.jsonl").write("run_started", subjects=["01"], steps=4)
    monkeypatch.setenv("NEUROFERRY_QUEUE", str(tmp_path / "queue"))
    return folder


def answer(run, *rows, site=SITE):
    (run.parent / "queue").write_text("\n".join([site, *rows]) + "\n")
    return look(run)


def test_jobs_are_found_by_their_numbers(run):
    queue = answer(
        run,
        "7|1|RUNNING|None|any name",
        "7|2|PENDING|PartitionTimeLimit|any name",
        "7|3|PENDING|Priority|any name",
        "8|N/A|PENDING|Dependency|any name",
        "9|N/A|RUNNING|None|nf-steward-other",
    )
    assert (queue.state, queue.running) == ("alive", 1)
    lines = queue.lines()
    assert lines[0] == "1 running"
    assert "1 waiting (Priority)" in lines
    (never,) = (line for line in lines if "PartitionTimeLimit" in line)
    assert "cannot start as they are" in never
    assert "--slurm-max-minutes" in never


@pytest.mark.parametrize(
    ("reason", "others", "never"),
    [
        ("BadConstraints", True, True),
        ("QOSMaxWallDurationPerJobLimit", True, True),
        ("QOSMaxMemoryPerJob", True, True),
        ("AssocMaxJobsLimit", True, False),
        ("AssocMaxJobsLimit", False, True),
        ("QOSMaxCpuPerUserLimit", False, True),
        ("Priority", False, False),
        ("Resources", False, False),
    ],
)
def test_reasons_that_do_not_go_away(run, reason, others, never):
    rows = [f"7|2|PENDING|{reason}|x", *["9|N/A|RUNNING|None|y"] * others]
    assert answer(run, *rows).never(reason) is never


def test_a_run_without_any_job_is_over(run):
    assert answer(run, "9|N/A|RUNNING|None|nf-steward-other").state == "gone"
    assert close_if_gone(run)
    assert read_run(run).exit_code == 75
    assert "no longer in the queue" in str(read_run(run).reason)
    assert not close_if_gone(run)


@pytest.mark.parametrize("doubt", ["no answer", "empty", "other site", "no site", "other user"])
def test_what_nobody_knows_is_not_gone(run, doubt, monkeypatch):
    answer(run)
    if doubt == "no answer":
        (run.parent / "queue").unlink()
    elif doubt == "empty":
        (run.parent / "queue").write_text("")
    elif doubt == "other site":
        answer(run, site="cluster head2(10.0.0.2)")
    elif doubt == "no site":
        (run / "slurm" / "site").write_text("")
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert look(run).state == "unknown"
    assert not close_if_gone(run)


def test_a_submission_that_has_just_begun_is_alive(run):
    (run / "slurm" / "submitted-0" / "all").unlink()
    assert answer(run).state == "alive"
    for path in (run / "slurm" / "submitted-0", run / "slurm" / "jobs.tsv"):
        os.utime(path, (1, 1))
    assert answer(run).state == "gone"


def test_squeue_s_own_defaults_are_left_out(run, tmp_path, monkeypatch):
    monkeypatch.delenv("NEUROFERRY_QUEUE")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "squeue": "[[ ! $SQUEUE_STATES ]] && echo '7|1|PENDING|Priority|x'",
        "scontrol": "printf 'ClusterName = cluster\\nSlurmctldHost[0] = head(10.0.0.1)\\n'",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert look(run).state == "alive"
    (folder / "squeue").write_text("#!/usr/bin/env bash\nexit 1\n")
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert look(run).state == "unknown"
