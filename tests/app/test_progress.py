"""Progress of a run on a terminal and in a log."""

import io
import os
import pty

from neuroferry.app.progress import Progress
from neuroferry.engine.record import StepSummary

STEP = "neuroferry_wf.sub_01_wf.anat_wf.correct_bias"


def test_plain_lines():
    stream = io.StringIO()
    with Progress(3, 2, {}, stream) as progress:
        progress({"event": "step_started", "step": STEP})
        progress({"event": "step_done", "step": STEP, "seconds": 61.0, "peak_gb": 0.51})
        progress({"event": "step_done", "step": STEP + "2", "seconds": 1.0, "cached": True})
        progress({"event": "step_failed", "step": STEP + "3", "message": "No luck."})
        progress({"event": "problem", "severity": "warning", "message": "Look."})
    assert stream.getvalue().splitlines() == [
        "[1/3] sub-01 anat > correct bias (1 min 1 s, 0.5 GB)",
        "[2/3] sub-01 anat > correct bias2 (done before)",
        "[3/3] FAILED sub-01 anat > correct bias3: No luck.",
        "WARNING: Look.",
    ]


def test_time_left_comes_from_like_steps():
    other = "neuroferry_wf.sub_02_wf.anat_wf.correct_bias"
    history = {other: StepSummary(other, "02", "done", seconds=40.0)}
    progress = Progress(2, 2, history, io.StringIO())
    assert progress.seconds_left() == 40.0
    progress({"event": "step_started", "step": STEP})
    left = progress.seconds_left()
    assert left is not None
    assert 39.0 < left <= 40.0
    assert Progress(2, 2, {}, io.StringIO()).seconds_left() is None


def test_live_display_on_a_terminal():
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        with Progress(4, 1, {}, stream) as progress:
            progress({"event": "step_started", "step": STEP})
            progress.tick(force=True)
        stream.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "0 of 4 steps" in shown
    assert "sub-01 anat > correct bias" in shown
