"""Programs of MRtrix3: finding, explained failures, and runs without user configuration."""

import shutil
from pathlib import Path

import pytest

from neuroferry.errors import ToolError
from neuroferry.interfaces.dwi.mrtrix import find_program, mrtrix_version, run_mrtrix

needs_mrtrix = pytest.mark.skipif(shutil.which("mrinfo") is None, reason="MRtrix3 is missing")


def script(folder, name, text):
    """Write a script in place of a program of MRtrix3."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin"


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"mrdegibbs was not found\. .*: package mrtrix3") as err:
        find_program("mrdegibbs", instead=", or give --ignore unringing")
    assert str(err.value).endswith("or give --ignore unringing.")


def test_a_failure_ends_in_the_programs_last_words(folder, tmp_path):
    script(folder, "tool", "for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3")
    with pytest.raises(ToolError) as err:
        run_mrtrix(["tool"], folder=tmp_path)
    assert (
        str(err.value) == "tool failed (exit code 3): line 3 / line 4 / line 5 / line 6 / line 7"
    )
    script(folder, "tool", "kill -9 $$")
    with pytest.raises(ToolError, match=r"tool was killed \(SIGKILL\), which happens when memory"):
        run_mrtrix(["tool"], folder=tmp_path)


def test_settings_of_others_do_not_reach_it(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MRTRIX_NTHREADS", "7")
    monkeypatch.setenv("MRTRIX_RNG_SEED", "9")
    script(
        folder, "tool", 'echo "$@"; pwd; env | grep MRTRIX; cat "$MRTRIX_CONFIGFILE"; echo $HOME'
    )
    said = run_mrtrix(["tool", "a", tmp_path / "b"], folder=tmp_path, n_threads=2, seed=5)
    arguments, where, *settings, home = said.splitlines()
    assert arguments == f"a {tmp_path}/b -quiet -force -nthreads 2"
    assert where == str(tmp_path)
    assert sorted(line.split("=")[0] for line in settings) == [
        *("MRTRIX_CONFIGFILE", "MRTRIX_RNG_SEED")
    ]
    assert "MRTRIX_RNG_SEED=5" in settings
    assert not Path(home).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert run_mrtrix(["tool"], folder=tmp_path).startswith("-quiet -force -nthreads 0")


@needs_mrtrix
def test_the_real_programs_answer(tmp_path):
    assert mrtrix_version()[0].isdigit()
    with pytest.raises(ToolError, match=r"mrinfo failed .*nothing\.nii"):
        run_mrtrix(["mrinfo", tmp_path / "nothing.nii"], folder=tmp_path)
