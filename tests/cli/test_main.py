"""The command line: exit codes, messages, and heavy imports avoided."""

import subprocess
import sys

import pytest

from neuroferry import __version__
from neuroferry.cli.main import main

HEAVY = (
    *("numpy", "nipype", "nibabel", "bids", "scipy", "ants", "nilearn", "matplotlib", "rich"),
    *("neuroferry.app", "neuroferry.files", "tomllib", "difflib"),
)


@pytest.fixture
def dataset(tmp_path):
    bids = tmp_path / "bids"
    (bids / "sub-01" / "anat").mkdir(parents=True)
    (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"")
    return bids


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(argument):
    code = (
        "import sys; from neuroferry.cli.main import main\n"
        f"try: main([{argument!r}])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"neuroferry {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 64, "Usage: neuroferry BIDS_DIR OUTPUT_DIR participant"),
        (["bids"], 64, "Missing: output_dir"),
        (["bids", "out", "subject"], 17, "Unknown value 'subject' for 'level'. Choose one of"),
        (["bids", "out", "participant", "--nproc", "2"], 64, "nrecognized arguments: --nproc"),
        (["bids", "out", "participant", "--mem", "8"], 64, "Give it with its unit"),
        (["bids", "out", "participant", "-d", "x"], 64, "takes NAME=PATH"),
        (["nowhere", "out", "participant"], 66, "nowhere does not exist"),
        (["bids", "bids", "participant"], 64, "is inside the input dataset"),
        (["bids", "bids/out", "participant"], 64, "is inside the input dataset"),
        (["bids", "out", "participant", "-w", "bids/work"], 64, "is inside the input dataset"),
        (["bids", "out", "participant", "--participant-label", "99"], 18, "99"),
        (["bids", "out", "participant", "--bids-filter-file", "no.json"], 66, "no.json"),
        (["bids", "out", "participant", "--bundles", "no.toml"], 66, "no.toml"),
        (["bids", "out", "participant", "--profile-extent", "all"], 64, "waypoints, whole"),
        (["bids", "out", "participant", "--fd-spike-threshold", "nan"], 64, "a finite number"),
        (["bids", "out", "participant", "--json"], 64, "add --dry-run"),
        (["bids", "out", "participant", "-w", "~no-such-user/w"], 64, "no user ~no-such-user"),
        (["bids", "out", "group"], 66, "contains no participant yet"),
        (["bids", "out", "participant", "--reports-only"], 66, "contains no run"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(dataset, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(dataset.parent)
    before = sorted(dataset.rglob("*"))
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("neuroferry: ")
    assert sorted(dataset.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ([], 65, "own.toml, Cord: it needs at least two regions to include"),
        (["--streamlines", "0"], 64, "which --streamlines 0 skips"),
    ],
)
def test_definitions_of_bundles_are_looked_at_first(dataset, capsys, more, code, message):
    own = dataset.parent / "own.toml"
    own.write_text(
        'space = "MNI152NLin2009aSym"\n[[bundles]]\nname = "Cord"\ncolour = "#E69F00"\n'
    )
    out = dataset.parent / "out"
    arguments = [str(dataset), str(out), "participant", "--bundles", str(own), *more]
    assert main(arguments) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("neuroferry: ")
    assert message in error
    assert not list(out.glob("logs/*"))


def test_a_file_as_bids_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main([str(tmp_path / "file"), str(tmp_path / "out"), "participant"]) == 66
    assert "Give the folder of the BIDS dataset" in capsys.readouterr().err


def test_output_that_cannot_be_made(dataset, capsys):
    (dataset.parent / "file").write_text("x")
    out = dataset.parent / "file" / "out"
    assert main([str(dataset), str(out), "participant"]) == 73
    assert "is not writable" in capsys.readouterr().err


def test_output_below_derivatives_is_allowed(dataset, capsys):
    out = dataset / "derivatives" / "neuroferry"
    work = dataset.parent / "work"
    assert main([str(dataset), str(out), "participant", "-w", str(work)]) == 65
    assert (out / "sub-01.html").exists()


def test_unknown_command_option_and_command_help(capsys):
    assert main(["phantom", "--nonsense"]) == 64
    assert main(["phantom", "--help"]) == 0
    assert "--resolution" in capsys.readouterr().out


def test_launcher_is_bash(capsys):
    assert main(["launcher"]) == 0
    assert capsys.readouterr().out.startswith("#!/usr/bin/env bash")


@pytest.mark.parametrize("command", ["move", "fetch"])
def test_what_the_launcher_does_is_left_to_it(capsys, command):
    assert main([command, "results", "me@cluster:/data"]) == 64
    assert "needs the launcher on the host" in capsys.readouterr().err
