"""``--dry-run`` as a user runs it: its output, its exit code, and no files written."""

import json
import os
import subprocess
import sys

import pytest

from neuroferry.app.dry_run import describe
from neuroferry.engine.plan import DiskNeed, Plan, PlannedStep


def dry_run(bids, out, *options, **environ):
    return subprocess.run(
        [
            *(sys.executable, "-m", "neuroferry", str(bids), str(out), "participant"),
            *("--dry-run", "--skip-bids-validation", "--sloppy", *options),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.slow
def test_what_fits(phantom_bids, tmp_path):
    done = dry_run(phantom_bids, tmp_path / "out", "--nprocs", "2", "--mem", "64GB")
    assert done.returncode == 0, done.stderr
    assert "Plan for 2 participant(s) on this machine: 2 processors, 64.0 GB" in done.stdout
    assert " to do, 0 already done" in done.stdout
    assert done.stdout.rstrip().endswith("Verdict: fits.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit(phantom_bids, tmp_path):
    command = f"./neuroferry {phantom_bids} '/my out' participant --dry-run --mem 0.3GB"
    done = dry_run(
        *(phantom_bids, tmp_path / "out", "--mem", "0.3GB", "--participant-label", "01"),
        NEUROFERRY_HOST_COMMAND=command,
    )
    assert done.returncode == 75, done.stderr
    assert "Verdict: does not fit." in done.stdout
    assert "this run may use 0.3 GB" in done.stdout
    last = done.stdout.rstrip().splitlines()[-1].strip()
    assert last == f"./neuroferry {phantom_bids} '/my out' participant --plugin SLURMGraph"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_decisions_for_programs(phantom_bids, tmp_path):
    done = dry_run(phantom_bids, tmp_path / "out", "--json", "--nprocs", "2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # and nothing else is on standard output
    assert [person["participant"] for person in told["participants"]] == ["01", "02"]
    (anatomy,) = told["participants"][0]["anatomies"]
    assert (anatomy["source"], anatomy["why"]) == ("computed", "for anat and qc")
    assert [path.rpartition("/")[2] for path in anatomy["images"]] == ["sub-01_T1w.nii.gz"]
    assert told["run"]["verdict"].startswith("fits")
    assert told["run"]["steps_to_do"] > 0
    assert {disk["path"] for disk in told["run"]["disks"]} == {
        str(tmp_path / "out"),
        str(tmp_path / "out-work"),
    }
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_do_is_told_to_programs(tmp_path):
    (tmp_path / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "bids" / "dataset_description.json").write_text(
        '{"Name": "x", "BIDSVersion": "1.10.0"}'
    )
    (tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"")
    done = dry_run(tmp_path / "bids", tmp_path / "out", "--json")
    assert done.returncode == 65, done.stderr
    told = json.loads(done.stdout)
    (person,) = told["participants"]
    assert (person["has_work"], told["run"]) == (False, None)
    errors = [p["message"] for p in person["problems"] if p["severity"] == "error"]
    assert len(errors) == 2
    assert "sub-01_T1w.nii.gz" in errors[0]
    assert "so nothing was run" in errors[1]


@pytest.mark.parametrize(("largest", "machine"), [(2.7, 3), (4.0, 5), (20.9, 24)])
def test_the_machine_that_is_named_is_large_enough(largest, machine):
    """A run uses nine tenths of a machine's memory."""
    sizes = [largest, *(2.1 + i / 100 for i in range(5))]
    steps = tuple(
        PlannedStep(f"w.s{i}", None, 1, gb, 1.0, 0.0, 5, "formula", "default", done=False)
        for i, gb in enumerate(sizes)
    )
    disks = (DiskNeed("/work", 0.0, 0, 9.0, 99), DiskNeed("/out", 0.0, 0, 9.0, 99))
    plan = Plan(steps, 2, 2.0, {2: 6.0}, at_once=1, held_back=True, disks=disks)
    text = describe(plan, 1, "the command")
    assert f"Use a machine with at least {machine} GB, or the cluster:\n    the command" in text
    assert "1 more step is too large." in text


def test_no_participant_that_can_be_used(tmp_path):
    (tmp_path / "bids" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "bids" / "dataset_description.json").write_text(
        '{"Name": "x", "BIDSVersion": "1.10.0"}'
    )
    (tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"")
    done = dry_run(tmp_path / "bids", tmp_path / "out")
    assert done.returncode == 65, done.stderr
    assert "sub-01_T1w.nii.gz" in done.stderr
    assert not (tmp_path / "out").exists()
