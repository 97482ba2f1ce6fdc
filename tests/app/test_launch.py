"""Start and end of a run."""

import os
import signal
import threading

import pytest

from neuroferry.app.launch import Run, end, terminable
from neuroferry.config import make_config
from neuroferry.engine.record import RunRecord, read_run
from neuroferry.engine.resources import Resources
from neuroferry.errors import ExitCode, RunInterrupted, Terminated


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Terminated(signal.SIGTERM), 143),
        (RunInterrupted("x", signal_number=2), 130),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (OSError("x"), ExitCode.IO),
        (ValueError("x"), ExitCode.SOFTWARE),
    ],
)
def test_however_a_run_ends_its_record_is_closed(tmp_path, error, code):
    config = make_config({"bids_dir": "/a", "output_dir": str(tmp_path)})
    record = RunRecord(tmp_path / "events.jsonl")
    end(Run(config, tmp_path, record, Resources(1, 1.0), "neuroferry"), error)
    assert read_run(tmp_path).exit_code == code


def be_terminated():
    with terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(30)
        except Exception:
            pytest.fail("swallowed")


def test_sigterm_passes_every_except_exception():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="Stopped by SIGTERM"):
        be_terminated()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_is_there_is_kept():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]
