"""Commands for runs on a cluster, and the settings for such runs."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from neuroferry.cli.main import main
from neuroferry.cli.parser import parse_config
from neuroferry.config import Config, SlurmConfig, make_config, write_config
from neuroferry.engine.record import RunRecord
from neuroferry.errors import ExitCode, UsageError
from neuroferry.files import read_toml

pytestmark = pytest.mark.slow


def _folders():
    return {"bids_dir": "b", "output_dir": "o"}


def test_flags_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text('[slurm]\naccount = "lab"\npartition = "long"\nretries = 5\n')
    flags = ["--slurm-partition", "short", "--slurm-extra=--exclusive", "--slurm-extra=--x=1"]
    config = parse_config(["b", "o", "participant", "--config", str(settings), *flags])
    assert config.slurm.account == "lab"
    assert config.slurm.partition == "short"
    assert config.slurm.extra == ("--exclusive", "--x=1")
    assert config.slurm.retries == 5
    assert config.slurm.default_minutes == SlurmConfig().default_minutes


def test_settings_survive_being_written(tmp_path):
    config = parse_config(["b", "o", "participant", "--slurm-prolog", "module load 'x y'"])
    path = tmp_path / "config.toml"
    path.write_text(write_config(config))
    read: Config = make_config(read_toml(path))
    assert read == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": "all"}, "node, chain, subject"),
        ({"retries": -1}, "must be at least 0, not -1"),
        ({"acount": "x"}, "slurm.account"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        make_config({**_folders(), "slurm": settings})


@pytest.fixture
def record(tmp_path):
    """The record of a run of two participants, one of which fails."""
    record = RunRecord(tmp_path / "logs" / "run-1" / "events.jsonl")
    record.write(
        "run_started", subjects=["01", "02"], steps=4, plugin="SLURMGraph", run_id="run-1"
    )
    name = "neuroferry_wf.sub_{}_wf.anat_wf.{}".format
    record.write("step_done", step=name("01", "correct_bias"), subject="01", seconds=1.0)
    record.write("step_started", step=name("01", "extract_brain"), subject="01")
    record.write(
        "step_failed", step=name("02", "correct_bias"), subject="02", message="no [good] image"
    )
    record.write(
        "step_skipped",
        step=name("02", "extract_brain"),
        subject="02",
        because=name("02", "correct_bias"),
    )
    return record


def test_status_of_a_run_under_way(record, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 of 4 steps done" in shown
    assert "not yet ended" in shown
    assert "sub-01 anat > extract brain" in shown
    assert "sub-02 anat > correct bias: no [good] image" in shown


def test_watching_ends_with_the_run_s_exit_code(record, tmp_path):
    record.write("run_ended", exit_code=1, reason=None)
    assert main(["status", str(tmp_path), "--watch"]) == 1


def test_a_folder_without_runs(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 66
    assert "contains no run" in capsys.readouterr().err


def test_a_run_without_jobs_cannot_be_cancelled(record, tmp_path, capsys):
    assert main(["cancel", str(tmp_path)]) == 65
    assert "has no jobs" in capsys.readouterr().err


def test_cancelling_inside_an_image_names_the_command(record, tmp_path, capsys, monkeypatch):
    script = record.path.parent / "slurm" / "cancel.sh"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["cancel", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == f"bash {script}"


def test_participants_in_the_queue_are_left_alone(bids_copy, tmp_path):
    out = tmp_path / "out"
    record = RunRecord(out / "logs" / "run-1" / "events.jsonl")
    record.write("run_started", subjects=["01"], steps=4, plugin="SLURMGraph", run_id="run-1")
    jobs = record.path.parent / "slurm" / "jobs.tsv"
    jobs.parent.mkdir()
    jobs.write_text("g1p01\t7\t1\t1\n")
    command = [sys.executable, "-m", "neuroferry", bids_copy, out, "participant"]
    done = subprocess.run([*command, "--sloppy"], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert "Jobs of the run run-1 are processing 1 of these participants" in done.stderr


def script_of(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "neuroferry", "sbatch-script", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_job_script_has_a_task_for_each_participant(phantom_bids, tmp_path):
    text = script_of(phantom_bids, tmp_path / "my out", "--mem", "6GB", "--nprocs", "3")
    lines = text.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "#SBATCH --array=1-2" in lines
    assert "#SBATCH --cpus-per-task=3" in lines
    assert f"#SBATCH --mem={round(6e9 / 2**20)}M" in lines
    # the task's own command, with a stand-in for the program
    text, replaced = re.subn("(?m)^enter=.*$", 'enter=(printf "%s\\\\n")', text)
    assert replaced == 1
    shown = subprocess.run(
        ["bash", "-c", text.replace('exec "${enter', '"${enter')],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown[:3] == [str(phantom_bids), str(tmp_path / "my out"), "participant"]
    assert shown[-2:] == ["--participant-label", "02"]
    assert shown[shown.index("--plugin") + 1] == "MultiProc"


@pytest.mark.parametrize(
    "words", [("--hours", "nan"), ("--hours", "inf"), ("--hours", "-2"), ("--nprocs", "0")]
)
def test_a_job_script_needs_sound_numbers(phantom_bids, tmp_path, words, capsys):
    assert main(["sbatch-script", str(phantom_bids), str(tmp_path), *words]) == ExitCode.USAGE
    assert f"{words[0]} must be a positive number" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_job_script_passes_shellcheck(phantom_bids, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(script_of(phantom_bids, tmp_path / "out", "--options=--sloppy"))
    subprocess.run(["shellcheck", script], check=True)
    assert "--sloppy" in script.read_text()


def test_a_plan_without_slurm_names_the_command(phantom_bids, tmp_path):
    """Planned without sbatch: the settings of the run contain all that jobs need."""
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not os.access(f"{folder}/sbatch", os.X_OK)
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "neuroferry", phantom_bids, out, "participant"),
            *("--plugin", "SLURMGraph", "--sloppy", "--skip-bids-validation"),
        ],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (script,) = (out / "logs").glob("*/slurm/submit.sh")
    assert done.stdout.strip() == f"bash {script}"
    settings = read_toml(script.parents[1] / "config.toml")
    assert settings["execution"]["omp_nthreads"] >= 1
    manifest = json.loads((script.parent / "manifest.json").read_text())
    (group,) = manifest["groups"]
    assert [member["name"] for member in group["members"]] == ["sub-01", "sub-02"]
    assert len(group["packs"]) <= len(group["steps"]) / 4
