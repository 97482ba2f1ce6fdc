"""Two jobs that want the same step."""

import subprocess
import sys

import pytest

from neuroferry.engine.slurm.claims import FILE, Claims, StepsBusyError

HOLDER = """
import sys
from pathlib import Path
from neuroferry.engine.slurm.claims import Claims
with Claims(Path(sys.argv[1]), sys.argv[2:], 0):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the steps b and c."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path, "b", "c"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "mine\n"
        yield process
        process.stdin.close()


def test_one_step_belongs_to_one_job(tmp_path, holder):
    with pytest.raises(StepsBusyError), Claims(tmp_path, ["a", "b"], 0):
        pass
    with Claims(tmp_path, ["a", "d"], 0):
        pass


def test_the_end_of_a_job_frees_its_steps(tmp_path, holder):
    holder.kill()
    holder.wait()
    with Claims(tmp_path, ["a", "b"], 0):
        pass


def test_a_link_to_another_file_is_refused(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / FILE).symlink_to(tmp_path / "other")
    with pytest.raises(Exception, match="link"), Claims(tmp_path, ["a"], 0):
        pass


def test_a_file_system_without_locks_grants_them(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with Claims(tmp_path, ["a"], 0):
        pass
