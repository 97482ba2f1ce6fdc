"""The launcher with other users' files and awkward names, in a real bash, without an image.

A stand-in for ``apptainer`` notes its arguments; code that must never run leaves a mark.
"""

import argparse
import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from neuroferry.cli import intake
from neuroferry.engine.slurm.scripts import host_command, parse_words

LAUNCHER = Path(__file__).resolve().parents[2] / "containers" / "neuroferry"
NO_PERMISSION = 77
USAGE = 64
NAMES = (
    "a b",
    "it's",
    'the "new" one',
    "two\nlines",
    "-rf",
    "--help",
    "*",
    "[a]?",
    "a,b:c",
    "back\\slash \\n",
    "%s%n",
    "~",
    "#1 & 2",
    "$HOME",
    "$(touch mark)",
    "`touch mark`",
    "; touch mark;",
    "| touch mark",
    "\n touch mark\n #",
    "';touch mark;'",
    '";touch mark;"',
    "${x:-$(touch mark)}",
    "$((a[$(touch mark)]))",
)
APPTAINER = """\
#!/usr/bin/env bash
if [[ $* == *--help ]]; then
    echo '--no-eval'
    exit
fi
printf '%s\\0' "$@" >"$NOTED/words"
env -0 >"$NOTED/environment"
[[ ! ${APPTAINERENV_NEUROFERRY_HANDOVER-} || ! ${PLANNED-} ]] ||
    printf '%s\\n' "$PLANNED" >"$TMPDIR/${APPTAINERENV_NEUROFERRY_HANDOVER#/tmp/}"
"""


class Machine:
    """A machine with a stand-in for Apptainer that notes its arguments, and a data folder."""

    def __init__(self, folder):
        self.folder = folder
        self.noted = folder / "noted"
        for name in ("bin", "noted", "data", "tmp"):
            (folder / name).mkdir()
        program = folder / "bin" / "apptainer"
        program.write_text(APPTAINER)
        program.chmod(0o755)
        (folder / "bin" / "singularity").symlink_to(program)
        (folder / "image.sif").write_text("an image")

    def __call__(self, *words, umask=0o022, **more):
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NEUROFERRY_SIF": str(self.folder / "image.sif"),
            "NOTED": str(self.noted),
            "TMPDIR": str(self.folder / "tmp"),
            **more,
        }
        return subprocess.run(
            ["bash", LAUNCHER, *map(str, words)],
            env=environment,
            cwd=self.folder / "data",
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
            stdin=subprocess.DEVNULL,
        )

    def words(self):
        return (self.noted / "words").read_text().split("\0")[:-1]

    def variable(self, name):
        pairs = (self.noted / "environment").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)[f"APPTAINERENV_{name}"]

    @property
    def marks(self):
        return [path for path in self.folder.rglob("mark*") if path.name == "mark"]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def begun(machine):
    """A machine with the folder of a run started there."""
    (machine.folder / "data" / "bids").mkdir()
    done = machine("bids", "out", "participant")
    assert done.returncode == 0, done.stderr
    machine.run_dir = machine.folder / "data" / "out" / "logs" / "20260101T000000Z-a"
    machine.run_dir.mkdir(parents=True)
    for name, variable in (("launch", "LAUNCH"), ("enter", "REENTER")):
        text = base64.b64decode(machine.variable(f"NEUROFERRY_{variable}"))
        (machine.run_dir / name).write_bytes(text)
    shutil.rmtree(machine.noted)
    machine.noted.mkdir()
    return machine


@pytest.mark.parametrize("name", NAMES)
def test_names_are_names(machine, name):
    for what in ("bids", "out", "work"):
        (machine.folder / "data" / f"{what} {name}").mkdir()
    done = machine(f"bids {name}", f"out {name}", "participant", "-w", f"work {name}")
    assert done.returncode == 0, done.stderr
    assert machine.marks == []
    data, quoted = machine.folder / "data", name.replace('"', '""')
    words = machine.words()
    assert f'type=bind,"source={data}/bids {quoted}","destination=/bids",ro' in words
    assert f'type=bind,"source={data}/out {quoted}","destination=/out"' in words
    assert machine.variable("NEUROFERRY_HOST_OUT") == f"{data}/out {name}"

    launch = parse_words(base64.b64decode(machine.variable("NEUROFERRY_LAUNCH")).decode())
    assert launch[1:5] == [
        f"/bids={data}/bids {name}",
        f"/out={data}/out {name}",
        f"/work={data}/work {name}",
        "--",
    ]
    # what a job does with the words that the launcher left for it
    given = {"NEUROFERRY_REENTER": machine.variable("NEUROFERRY_REENTER")}
    script = f'enter=({host_command(given, "python")})\nprintf "%s\\0" "${{enter[@]}}"'
    shown = subprocess.run(
        ["bash", "-c", script],
        env={"TMPDIR": "/there"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    assert shown[0] == "env"
    assert f'type=bind,"source={data}/out {quoted}","destination=/out"' in shown
    assert 'type=bind,"source=/there","destination=/tmp"' in shown
    assert machine.marks == []


@pytest.mark.parametrize("name", ["a b", "it's", "two\nlines", "a,b:c", "$(touch mark)"])
def test_files_of_ratings_and_thresholds_are_bound(machine, name):
    data = machine.folder / "data"
    for folder in ("out", "raw", f"in {name}"):
        (data / folder).mkdir()
    (data / "t.toml").touch()
    (data / f"in {name}" / "r.json").touch()
    done = machine("qc", "out", "ratings", f"in {name}", f"in {name}/r.json", "--scans", "raw")
    assert done.returncode == 0, done.stderr
    words = machine.words()
    at = words.index("qc")
    assert words[at + 1 : at + 3] == ["/out", "ratings"]
    folder, file, flag, scans = words[at + 3 :]
    assert (flag, scans) == ("--scans", "/scans")
    assert file.endswith("/r.json")
    bound = f'type=bind,"source={data}/in {name}","destination={folder}",ro'
    assert bound in words
    assert f'type=bind,"source={data}/raw","destination=/scans"' in words
    assert machine.marks == []
    assert machine("qc", "out", "apply", "--thresholds", "t.toml").returncode == 0
    assert machine.words()[-1].endswith("/t.toml")
    assert machine("qc", "out", "apply", "--thresholds=gone.toml").returncode == 66
    assert machine("qc", "gone", "apply").returncode == 66


@pytest.mark.parametrize("name", NAMES)
def test_runs_go_on_whatever_the_names(machine, name):
    """The launcher reads back exactly what it wrote to its own files."""
    data = machine.folder / "data"
    (data / f"bids {name}").mkdir()
    assert machine(f"bids {name}", f"out {name}", "participant").returncode == 0
    run = data / f"out {name}" / "logs" / "20260101T000000Z-a"
    run.mkdir(parents=True)
    for file, variable in (("launch", "LAUNCH"), ("enter", "REENTER")):
        text = machine.variable(f"NEUROFERRY_{variable}")
        (run / file).write_bytes(base64.b64decode(text))
    before = machine.words()
    done = machine("resubmit", f"out {name}")
    assert done.returncode == 0, done.stderr
    words = machine.words()
    assert words[-2:] == ["resubmit", "/out"]
    assert [word for word in before if word.startswith("type=bind")] == [
        word for word in words if word.startswith("type=bind")
    ]
    assert base64.b64decode(machine.variable("NEUROFERRY_REENTER")) == (run / "enter").read_bytes()
    assert machine.marks == []


def test_a_name_that_ends_with_a_line_break_is_refused(machine):
    done = machine("bids\n", "out", "participant")
    assert done.returncode == 64
    assert "ends with a line break" in done.stderr


def test_a_command_in_the_run_s_files_is_a_word(begun):
    for text in ("$(touch mark)", "x); touch mark; (", "env\n$(touch mark)\n`touch mark`\n"):
        (begun.run_dir / "enter").write_text(text)
        begun("resubmit", "out")
        assert begun.marks == []
    (begun.run_dir / "launch").write_text("/out=x $(touch mark)\n--\n")
    for command in ("resubmit", "cancel"):
        begun(command, "out")
        assert begun.marks == []


def refused(done, *says):
    assert done.returncode == NO_PERMISSION, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("neuroferry: ")
    for text in says:
        assert text in last


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["enter", "launch"])
def test_files_of_others_are_refused_unless_they_are_trusted(begun, name):
    os.chown(begun.run_dir / name, 54321, 54321)
    refused(begun("resubmit", "out"), name, "belongs to 54321", "NEUROFERRY_TRUST=54321")
    assert not (begun.noted / "words").exists()
    for trust in ("54321", "1, 54321", "@54321", "all"):
        done = begun("resubmit", "out", NEUROFERRY_TRUST=trust)
        assert done.returncode == 0, done.stderr
        assert begun.words()[-1] == "/out"
        assert begun.variable("NEUROFERRY_TRUST") == trust.replace(",", "")
    refused(begun("resubmit", "out", NEUROFERRY_TRUST="1"), "belongs to 54321")


def test_files_that_others_can_write_are_refused(begun):
    (begun.run_dir / "enter").chmod(0o666)
    refused(begun("resubmit", "out"), "can be written by everybody", "chmod o-w")
    assert begun("resubmit", "out", NEUROFERRY_TRUST="all").returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_that_a_group_can_write_are_refused(begun):
    os.chown(begun.run_dir / "enter", 0, 54321)
    (begun.run_dir / "enter").chmod(0o664)
    refused(begun("resubmit", "out"), "can be written by the group", "chmod g-w")
    assert begun("resubmit", "out", NEUROFERRY_TRUST="@54321").returncode == 0


def test_unknown_people_cannot_be_trusted(begun):
    done = begun("resubmit", "out", NEUROFERRY_TRUST="nobody-of-that-name")
    assert done.returncode == 64
    assert "'nobody-of-that-name', which is unknown on this machine" in done.stderr


def test_links_in_place_of_the_run_s_files_are_refused(begun):
    file = begun.run_dir / "enter"
    shutil.move(file, begun.folder / "elsewhere")
    file.symlink_to(begun.folder / "elsewhere")
    refused(begun("resubmit", "out"), "not a regular file")
    file.unlink()
    os.mkfifo(file)
    refused(begun("resubmit", "out"), "not a regular file")


@pytest.mark.parametrize("foreign", ["folder", "script", "link", "writable", None])
def test_only_one_s_own_script_cancels(begun, foreign):
    slurm = begun.run_dir / "slurm"
    slurm.mkdir()
    script = slurm / "cancel.sh"
    script.write_text('cd "$(dirname "${BASH_SOURCE[0]}")" && touch ran\n')
    if foreign in ("folder", "script"):
        if os.getuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(slurm if foreign == "folder" else script, 54321, 54321)
    elif foreign == "link":
        slurm.rename(begun.folder / "elsewhere")
        slurm.symlink_to(begun.folder / "elsewhere")
    elif foreign == "writable":
        slurm.chmod(0o777)
    done = begun("cancel", "out")
    assert (slurm / "ran").exists() is (foreign is None)
    if foreign is not None:
        refused(done)


@pytest.mark.parametrize("planned", ["../../../evil", "..", "a b", "$(touch mark)", "", "-x"])
def test_what_was_planned_is_a_run_of_this_folder(begun, planned):
    evil = begun.folder / "data" / "evil" / "slurm"
    evil.mkdir(parents=True)
    (evil / "submit.sh").write_text("touch mark\n")
    begun("resubmit", "out", PLANNED=planned)
    assert begun.marks == []
    assert list((begun.folder / "tmp").iterdir()) == []


def test_a_planned_run_is_submitted(begun):
    slurm = begun.run_dir / "slurm"
    slurm.mkdir()
    (slurm / "submit.sh").write_text(
        'cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd && printf "%s\\n" "$OLDPWD"\n'
    )
    done = begun("resubmit", "out", PLANNED=begun.run_dir.name)
    assert done.stdout.splitlines() == [str(slurm), str(begun.folder / "data")], done.stderr
    assert not list((begun.folder / "data" / "out").glob(".planned*"))
    slurm.chmod(0o777)
    refused(begun("resubmit", "out", PLANNED=begun.run_dir.name), "can be written by everybody")


def test_a_planted_link_is_not_written_through(begun):
    """Others who share the folder can guess the names of files that the launcher writes."""
    victim = begun.folder / "victim"
    victim.write_text("precious")
    data = begun.folder / "data"
    for name in (".planned-1", "dask.json.enter"):
        (data / name).symlink_to(victim)
    (begun.folder / "image.sif.digest").unlink()
    (begun.folder / "image.sif.digest").symlink_to(victim)
    done = begun("bids", "out", "participant", "--plugin", "Dask", "--dask-scheduler", "dask.json")
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "precious"
    assert not (data / "dask.json.enter").is_symlink()
    assert parse_words((data / "dask.json.enter").read_text())[0] == "env"


def test_the_words_for_workers_are_one_s_own(begun):
    data = begun.folder / "data"
    assert not begun(
        "bids", "out", "participant", "--plugin", "Dask", "--dask-scheduler", "dask.json"
    ).returncode
    done = begun("dask-worker", "dask.json")
    assert done.returncode == 0, done.stderr
    assert begun.words()[-2:] == ["dask-worker", "/dask/dask.json"]
    (data / "dask.json.enter").chmod(0o666)
    refused(begun("dask-worker", "dask.json"), "can be written by everybody")


def test_a_digest_that_a_stranger_left_is_not_believed(begun):
    digest = begun.folder / "image.sif.digest"
    size_and_time = digest.read_text().rsplit(" ", 1)[0]
    if os.getuid() == 0:
        digest.write_text(f"{size_and_time} {'0' * 64}\n")
        os.chown(digest, 54321, 54321)
        assert begun("bids", "out", "participant").returncode == 0
        assert begun.variable("NEUROFERRY_IMAGE_DIGEST") != f"sha256:{'0' * 64}"


@pytest.mark.parametrize("name", ["../bids", "a/b", ".", ".x"])
def test_derivatives_have_plain_names(begun, name):
    done = begun("bids", "out", "participant", "--derivatives", f"{name}={begun.folder}")
    assert done.returncode == 64
    assert "is not a valid name of derivatives" in done.stderr


def test_nothing_is_evaluated():
    lines = LAUNCHER.read_text().splitlines()
    code = [line.partition(" #")[0] for line in lines if not line.lstrip().startswith("#")]
    assert not [line for line in code if "eval" in line.replace("--no-eval", "").split()]


def test_links_that_leave_the_dataset_are_bound_where_they_lead(machine):
    data = machine.folder / "data"
    for folder in ("study/bids/sub-01/anat", "study/bids/sub-02/anat", "study/store"):
        (data / folder).mkdir(parents=True)
    (data / "study/store/x.nii.gz").write_text("")
    (data / "study/out").mkdir()
    anat = data / "study/bids/sub-01/anat"
    (anat / "sub-01_T1w.nii.gz").symlink_to("../../../store/x.nii.gz")
    (anat / "inside.nii.gz").symlink_to("../../sub-02/anat/x.nii.gz")
    (anat / "gone.nii.gz").symlink_to("../../../gone/x.nii.gz")
    (anat / "far1.nii.gz").symlink_to("/mnt/a/one.nii.gz")
    (anat / "far2.nii.gz").symlink_to("/mnt/b/two.nii.gz")
    (data / "study/bids/sub-02/anat/taken.nii.gz").symlink_to("../../../out/x.nii.gz")
    (data / "study/out/x.nii.gz").write_text("")

    done = machine("study/bids", "results", "participant")
    assert done.returncode == 0, done.stderr
    assert f'type=bind,"source={data}/study/store","destination=/store",ro' in machine.words()
    assert 'type=bind,"source=/mnt","destination=/mnt",ro' in machine.words()
    assert not any("gone" in word or "sub-02" in word for word in machine.words())
    assert f"lead to {data}/study/out, which cannot be shown inside the image" in done.stderr

    done = machine("study/bids", "results", "participant", "--participant-label", "sub-02")
    assert done.returncode == 0, done.stderr
    assert not any("/store" in word or "/mnt" in word for word in machine.words())


def test_folders_of_an_intake_are_bound(machine):
    data = machine.folder / "data"
    for name in ("export", "other", "site"):
        (data / name).mkdir()
    (data / "site" / "rules.toml").write_text("")
    words = ["--port", "11999", "scans", "--folders", "export", "other"]
    done = machine("intake", *words, "--rules", "site/rules.toml")
    assert done.returncode == 0, done.stderr
    bound = [word for word in machine.words() if word.startswith("type=bind")]
    assert f'type=bind,"source={data}/scans","destination=/out"' in bound
    assert f'type=bind,"source={data}/export","destination=/watched/1",ro' in bound
    assert f'type=bind,"source={data}/other","destination=/watched/2",ro' in bound
    assert f'type=bind,"source={data}/site","destination=/rules",ro' in bound
    assert machine.words()[-9:] == [
        *("intake", "--port", "11999", "/out", "--folders", "/watched/1", "/watched/2"),
        *("--rules", "/rules/rules.toml"),
    ]


def test_an_intake_in_the_image_submits_no_jobs(machine):
    done = machine("intake", "scans", "--plugin", "SLURMGraph")
    assert done.returncode == USAGE
    assert "with pip" in done.stderr

    sbatch = machine.folder / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    done = machine("intake", "scans", "--plugin", "auto")
    assert done.returncode == 0, done.stderr
    assert machine.words()[-4:] == ["intake", "/out", "--plugin", "MultiProc"]


def test_the_service_of_the_intake_is_sound(tmp_path):
    text = LAUNCHER.with_name("neuroferry-intake.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    _, command, _, *options = line.split()
    assert command == "intake"
    parser = argparse.ArgumentParser()
    intake.add_arguments(parser)
    parser.parse_args(["root", *options])
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd here")
    here = tmp_path / "neuroferry-intake.service"
    here.write_text(text.replace(line, "/bin/true").replace("User=neuroferry", "User=root"))
    done = subprocess.run([verify, "verify", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
