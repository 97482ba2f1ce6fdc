"""Planned and measured memory of the steps of a run."""

from __future__ import annotations

from pathlib import Path

from neuroferry.engine.record import list_runs, read_run


def too_little(out: Path) -> dict[str, tuple[float, float]]:
    """Find steps of the first run of a folder that took over 10% more memory than planned, GB."""
    steps = [step for step in read_run(list_runs(out)[0]).steps if step.state == "done"]
    assert len(steps) > 50
    return {
        step.kind: (step.mem_gb or 0.0, step.peak_gb or 0.0)
        for step in steps
        if (step.mem_gb or 0.0) < 0.9 * (step.peak_gb or 0.0)
    }
