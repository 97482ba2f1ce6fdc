"""Quality control as processes: how each ends, and that the queue tells it."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from neuroferry.intake import start
from neuroferry.intake.model import Outcome
from neuroferry.intake.queue import DONE, FAILED, QUEUED, RUNNING, Queue
from neuroferry.intake.spool import Spool
from neuroferry.intake.start import QualityControl

WAITS = "import time; print('begun', flush=True); time.sleep(60)"
# it does not end when told to, and has started a process of its own
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print('begun', flush=True); time.sleep(60)"
)


class Control(QualityControl):
    """Quality control whose command is a script."""

    script = "print('done')"

    def command(self, row):
        return [sys.executable, "-c", self.script]


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "root")


@pytest.fixture
def queue(spool):
    with closing(Queue(spool.private)) as opened:
        yield opened


def ask(spool, queue, subject="01"):
    outcome = Outcome("placed", "", spool.root / "bids", subject, None, ("a.nii.gz",), ())
    queue.finish("s", 1, outcome)


def run(control, queue, script, *, until=None):
    """Let it run until nothing is running, or until a condition holds; what was said."""
    control.script = script
    said = control.step()
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        if until() if until else not queue.quality_in(RUNNING):
            return said
        time.sleep(0.02)
        said += control.step()
    raise AssertionError(said)


def group(pid):
    """The processes of a group that live."""
    found = []
    for one in psutil.process_iter():
        try:
            if os.getpgid(one.pid) == pid and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def is_gone(pid):
    """Whether a group of processes ends."""
    limit = time.monotonic() + 10
    while group(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not group(pid)


def begun(spool):
    return lambda: any("begun" in path.read_text() for path in spool.logs.iterdir())


def test_the_command_is_the_ordinary_one(spool, queue) -> None:
    ask(spool, queue)
    (row,) = queue.quality_in()
    command = QualityControl(spool, queue, ["--plugin", "SLURMGraph"]).command(row)
    assert command[3:5] == [str(spool.root / "bids"), str(spool.root / "qc")]
    assert command[-2:] == ["--plugin", "SLURMGraph"]
    assert "qc" in command


def test_it_ends_well(spool, queue) -> None:
    ask(spool, queue)
    control = Control(spool, queue)
    page = spool.root / "qc" / "sub-01.html"
    said = run(control, queue, f"import pathlib as p; q = p.Path({str(page)!r}); q.parent.mkdir();"
               "q.touch()")  # fmt: skip
    assert said == ["sub-01: quality control has started.", f"sub-01: {page}"]
    (row,) = queue.quality_in()
    assert (row.state, row.exit_code, row.attempts) == (DONE, 0, 1)
    assert not control.is_busy


def test_a_failure_is_said_with_its_own_log(spool, queue) -> None:
    control = Control(spool, queue)
    for number in range(2):
        ask(spool, queue)
        said = run(control, queue, f"import sys; print('run {number}'); sys.exit(70)")
        assert "quality control failed (70)" in said[-1]
        (row,) = queue.quality_in()
        assert (row.state, row.exit_code, row.message) == (FAILED, 70, f"run {number}")
        log = Path(said[-1].partition("see ")[2].rstrip("."))
        assert log.read_text() == f"run {number}\n"
    assert len(list(spool.logs.iterdir())) == 2


def test_old_logs_are_removed(spool, queue) -> None:
    for number in range(30):
        (spool.logs / f"sub-01_{number:03d}.log").touch()
    (spool.logs / "sub-02_1.log").touch()
    ask(spool, queue)
    run(Control(spool, queue), queue, "")
    assert len(list(spool.logs.glob("sub-01_*"))) == 10
    assert (spool.logs / "sub-02_1.log").exists()


@pytest.mark.parametrize("ends", ["sys.exit(75)", "os.kill(os.getpid(), 9)"])
def test_what_was_in_the_way_is_tried_again_but_not_for_ever(
    spool, queue, monkeypatch, ends
) -> None:
    monkeypatch.setattr(start, "_PAUSE", 0.0)
    ask(spool, queue)
    control = Control(spool, queue)
    said = run(control, queue, f"import os, sys; {ends}", until=lambda: queue.quality_in(FAILED))
    assert sum("has started" in text for text in said) == 3
    assert sum("tried again" in text for text in said) == 2
    assert queue.quality_in()[0].attempts == 3


def test_killed_it_is_noticed_and_what_it_had_started_ends(spool, queue) -> None:
    ask(spool, queue)
    control = Control(spool, queue)
    run(control, queue, STUBBORN, until=begun(spool))
    ((pid, _),) = queue.left_over()
    assert len(group(pid)) == 2
    os.kill(pid, signal.SIGKILL)
    said = run(control, queue, "")
    assert "ended early (-9)" in said[-1]
    assert [row.state for row in queue.quality_in()] == [QUEUED]
    assert is_gone(pid)
    assert queue.left_over() == []


def test_hanging_it_is_ended_and_counts_as_failed(spool, queue, monkeypatch) -> None:
    monkeypatch.setattr(start, "_PATIENCE", 0.3)
    ask(spool, queue)
    control = Control(spool, queue, hours=1.5 / 3600)
    said = run(control, queue, STUBBORN)
    assert "quality control failed: It took more than" in said[-1]
    (row,) = queue.quality_in()
    assert (row.state, row.exit_code) == (FAILED, -9)
    assert not control.is_busy


def test_series_that_come_meanwhile_start_it_again(spool, queue) -> None:
    ask(spool, queue)
    control = Control(spool, queue)
    run(control, queue, "import time; time.sleep(0.5)", until=lambda: queue.quality_in(RUNNING))
    ask(spool, queue)
    said = run(control, queue, "", until=lambda: queue.quality_in(DONE))
    assert sum("has started" in text for text in said) == 1


def test_what_a_killed_service_left_is_ended_by_the_next(spool, queue, monkeypatch) -> None:
    monkeypatch.setattr(start, "_PATIENCE", 0.3)
    ask(spool, queue)
    control = Control(spool, queue)
    run(control, queue, STUBBORN, until=begun(spool))
    ((pid, _),) = queue.left_over()
    after = Control(spool, queue)  # of the next process
    queue.interrupted()
    assert after.end_left_over() == 1
    assert is_gone(pid)
    (row,) = queue.quality_in()
    assert (row.state, row.attempts) == (QUEUED, 0)
    assert after.end_left_over() == 0


def test_another_program_with_its_number_is_left_alone(spool, queue) -> None:
    ask(spool, queue)
    (row,) = queue.quality_in()
    queue.start_quality(row, os.getpid(), psutil.Process().create_time() - 1000)
    assert Control(spool, queue).end_left_over() == 0


def test_stopping_ends_it(spool, queue, monkeypatch) -> None:
    monkeypatch.setattr(start, "_PATIENCE", 0.3)
    ask(spool, queue)
    control = Control(spool, queue)
    run(control, queue, WAITS, until=begun(spool))
    ((pid, _),) = queue.left_over()
    control.stop()
    assert is_gone(pid)
