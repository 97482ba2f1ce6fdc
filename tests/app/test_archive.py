"""Work folders do not grow with the cohort, and finished steps do not run again."""

import os
import subprocess
import sys

import pytest

from neuroferry.engine.record import list_runs, read_run
from neuroferry.engine.slurm.manifest import read_manifest

pytestmark = pytest.mark.slow


def call(*arguments, **environ):
    done = subprocess.run(
        [sys.executable, "-m", "neuroferry", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def neuroferry(*arguments, **environ):
    return call(*arguments, "--sloppy", "--skip-bids-validation", **environ)


def test_packed_found_again_and_brought_back(phantom_bids, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    words = (phantom_bids, out, "participant", "-w", work)

    neuroferry(*words, "--finished-work", "pack")
    parts = sorted(path.name for path in (work / "neuroferry_wf").iterdir())
    assert parts == [
        f"sub_{label}_wf.{ending}" for label in ("01", "02") for ending in ("finished.json", "tar")
    ]
    first = read_run(list_runs(out)[-1])

    planned = neuroferry(*words, "--dry-run")
    assert f"0 to do, {first.n_steps} already done" in planned.stdout

    lost = out / "sub-01" / "anat" / "sub-01_desc-preproc_T1w.nii.gz"
    content = lost.read_bytes()
    lost.unlink()
    neuroferry(*words, "--clean-workdir")
    second = read_run(list_runs(out)[-1])
    assert lost.read_bytes() == content
    ran = [step for step in second.steps if step.state == "done"]
    assert {step.subject for step in ran} == {"01"}
    assert 0 < len(ran) < 5
    assert second.n_steps == first.n_steps == len(second.steps)
    assert all(step.seconds is not None for step in second.steps)
    parts = sorted(path.name for path in (work / "neuroferry_wf").iterdir())
    assert parts == ["sub_01_wf.finished.json", "sub_02_wf.finished.json", "sub_02_wf.tar"]
    for label in ("01", "02"):
        assert (list_runs(out)[-1] / f"methods_sub-{label}.md").exists()
        assert (out / f"sub-{label}.html").exists()


def test_the_job_that_ends_last_puts_the_participant_away(phantom_bids, tmp_path):
    """Run jobs as SLURM would start them, one at a time."""
    out, work = tmp_path / "out", tmp_path / "work"
    words = [phantom_bids, out, "participant", "--participant-label", "01", "-w", work]
    words += ["--plugin", "SLURMGraph", "--finished-work", "remove"]
    handover = {"NEUROFERRY_HANDOVER": str(tmp_path / "handover")}
    neuroferry(*words, **handover)
    (run_dir,) = list_runs(out)
    (group,) = read_manifest(run_dir, 0).groups
    part = work / "neuroferry_wf" / "sub_01_wf"
    for pack in group.packs:
        assert part.exists() or pack is group.packs[0]
        call("job", "--run", run_dir, "--pack", pack.name, "--task", "1")
    assert [path.name for path in part.parent.iterdir()] == ["sub_01_wf.finished.json"]
    assert read_run(run_dir).count("done") == read_run(run_dir).n_steps

    neuroferry(*words, **handover)
    second = read_run(list_runs(out)[-1])
    assert second.exit_code == 0
    assert second.count("cached") == second.n_steps == len(group.steps)
