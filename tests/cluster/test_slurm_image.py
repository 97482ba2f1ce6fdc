"""The image on a real SLURM: one line through the launcher, the same bytes as on one machine."""

import gzip
import hashlib
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from neuroferry.engine.record import list_runs, read_events, read_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "containers" / "neuroferry"
CLUSTER = ROOT / "containers" / "test-cluster"
UNAVAILABLE = 69
QUICK = ("--sloppy", "--skip-bids-validation", "--participant-label", "01")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The environment of a login node: SLURM, and the image beside the launcher."""
    if not (shutil.which("apptainer") or shutil.which("singularity")):
        if os.environ.get("NEUROFERRY_NEEDS_IMAGE"):
            pytest.fail("Apptainer is not installed")
        pytest.skip("Apptainer is not installed and could not be")
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True, check=False)
    if up.returncode == UNAVAILABLE:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    build = subprocess.run(
        [ROOT / "containers" / "build"], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    return {**os.environ, "SLURM_CONF": up.stdout.strip(), "NEUROFERRY_SIF": build.stdout.strip()}


def launch(machine, *words, code=0):
    done = subprocess.run(
        [LAUNCHER, *map(str, words)], env=machine, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def follow(machine, out):
    """Wait for the end of the latest run and for the reports, which come after it."""
    launch(machine, "status", out, "--watch")
    ended = (list_runs(out)[-1] / "events.jsonl").stat().st_mtime
    deadline = time.monotonic() + 60
    while not (out / "index.html").exists() or (out / "index.html").stat().st_mtime < ended:
        assert time.monotonic() < deadline, "the reports do not come"
        time.sleep(0.5)


def digests(out):
    """SHA-256 of every derivative, images without their compression."""
    found = {}
    for path in sorted(out.glob("sub-*/**/*")):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            found[str(path.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def finished(machine, phantom_bids, tmp_path_factory):
    """One participant through SLURM, folders with spaces in their names."""
    folder = tmp_path_factory.mktemp("my study")
    bids = Path(shutil.copytree(phantom_bids, folder / "the data"))
    out = folder / "the results"
    command = (bids, out, "participant", *QUICK, "--plugin", "auto")
    submitted = launch(machine, *command)
    again = launch(machine, *command, code=75)
    assert "are processing" in again.stderr
    follow(machine, out)
    return bids, out, submitted


def test_the_launcher_submits_and_the_jobs_finish(finished):
    _, out, submitted = finished
    assert "job array(s)" in submitted.stderr
    assert "are in the queue" in submitted.stderr
    (folder,) = list_runs(out)
    run = read_run(folder)
    assert run.exit_code == 0
    assert run.plugin == "SLURMGraph"
    assert run.image is not None
    assert run.image.startswith("sha256:")
    assert run.count("done") == run.n_steps
    jobs = [e for e in read_events(folder / "events.jsonl") if e["event"] == "job_started"]
    assert 1 < len(jobs) <= run.n_steps / 4
    assert all(event["job"] and event["host"].startswith("n") for event in jobs)
    assert "sub-01" in (out / "sub-01.html").read_text()
    assert (out / "index.html").exists()


def test_the_bytes_are_those_of_one_machine(machine, finished, tmp_path):
    bids, out, _ = finished
    launch(machine, bids, tmp_path / "out", "participant", *QUICK, "--plugin", "MultiProc")
    assert digests(tmp_path / "out") == digests(out)


def test_what_got_lost_is_made_again_by_one_short_line(machine, finished):
    _, out, _ = finished
    before = digests(out)
    lost = out / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    lost.unlink()
    launch(machine, "resubmit", out)
    follow(machine, out)
    run = read_run(list_runs(out)[-1])
    assert run.exit_code == 0
    assert run.count("done") <= 2
    assert digests(out) == before


def test_the_other_plugin_finds_everything_done(machine, finished):
    bids, out, _ = finished
    work = out.parent / f"{out.name}-work"
    launch(machine, bids, out, "participant", *QUICK, "--plugin", "MultiProc", "-w", work)
    run = read_run(list_runs(out)[-1])
    assert run.plugin == "MultiProc"
    assert run.count("cached") == run.n_steps


def test_without_the_launcher_the_image_names_the_command(machine, finished, tmp_path):
    bids, _, _ = finished
    options = ["--userns"] if os.getuid() == 0 else []
    words = [bids, tmp_path / "out", "participant", *QUICK, "--plugin", "SLURMGraph"]
    done = subprocess.run(
        [
            *("apptainer", "--quiet", "run", *options, "--bind", f"{bids},{tmp_path}"),
            *(machine["NEUROFERRY_SIF"], *map(str, words)),
        ],
        env=machine,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "To submit them, run this on the host:" in done.stderr
    (script,) = (tmp_path / "out" / "logs").glob("*/slurm/submit.sh")
    assert done.stdout.strip() == f"bash {script}"


def submit_and_wait(machine, script):
    """Hand a job script to SLURM, and wait until the job has ended."""
    return subprocess.run(
        ["sbatch", "--wait", str(script)],
        env=machine,
        cwd=script.parent,  # where its log goes
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plain_job_script_runs_one_participant_a_task(machine, finished, tmp_path):
    bids, out, _ = finished
    text = launch(
        machine,
        *("sbatch-script", bids, tmp_path / "out", "-w", tmp_path / "work"),
        *("--participant-label", "01", "--nprocs", 2, "--mem", "4GB"),
        "--options=--sloppy --skip-bids-validation",
    ).stdout
    script = tmp_path / "job.sh"
    script.write_text(text)
    done = submit_and_wait(machine, script)
    assert done.returncode == 0, done.stderr
    run = read_run(list_runs(tmp_path / "out")[-1])
    assert (run.plugin, run.n_procs) == ("MultiProc", 2)
    assert digests(tmp_path / "out") == digests(out)


def test_dask_in_one_allocation_each_worker_in_the_image(machine, finished, tmp_path):
    bids, out, _ = finished
    launcher = shlex.quote(str(LAUNCHER))
    scheduler = tmp_path / "of this job" / "dask.json"
    app = [bids, tmp_path / "out", "participant", "-w", tmp_path / "work", *QUICK]
    app += ["--plugin", "Dask", f"--dask-scheduler={scheduler}"]
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        "#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=3000 --time=30\n"
        f"#SBATCH --output={tmp_path}/log.txt\n"
        "unset PYTHONPATH\n"
        f"srun {launcher} dask-worker {shlex.quote(str(scheduler))} &\n"
        f"{launcher} {shlex.join(map(str, app))}\n"
        "code=$?\nkill %1\nexit $code\n"
    )
    done = submit_and_wait(machine, script)
    assert done.returncode == 0, (tmp_path / "log.txt").read_text()
    run = read_run(list_runs(tmp_path / "out")[-1])
    assert run.plugin == "Dask"
    assert run.count("done") == run.n_steps
    assert digests(tmp_path / "out") == digests(out)


def test_dask_workers_of_other_folders_are_not_used(machine, finished, tmp_path):
    bids, _, _ = finished
    scheduler = tmp_path / "dask.json"
    for name in ("dask.json", "dask.json.enter"):
        (tmp_path / name).write_text("of another run")
    app = [bids, tmp_path / "out", "participant", *QUICK, "--plugin", "Dask"]
    refused = launch(machine, *app, "--dask-scheduler", scheduler, code=75)
    assert "other folders" in refused.stderr
    assert (tmp_path / "dask.json.enter").read_text() == "of another run"
