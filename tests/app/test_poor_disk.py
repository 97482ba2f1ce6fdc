"""A whole run where the disk can do little, by a user without a name or a home."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuroferry.engine.record import list_runs, read_run

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parents[1] / "helpers" / "poor_disk.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or ""
NOBODY = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]


def can_be_nobody():
    try:
        done = subprocess.run([*NOBODY, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not COMPILER, reason="there is no C compiler")
@pytest.mark.skipif(not can_be_nobody(), reason="no user name spaces here")
def test_a_run_on_a_poor_disk_by_a_nameless_user(phantom_bids, tmp_path):
    library = tmp_path / "poor_disk.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HOME"},
        "LD_PRELOAD": str(library),
        "POOR_DISK_FLOCK": str(errno.ENOLCK),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "neuroferry", phantom_bids, tmp_path / "out", "participant"]
    options = ["--participant-label", "01", "--sloppy", "--workflows", "qc", "--nprocs", "2"]
    for _ in range(2):  # the second finds every file there
        done = subprocess.run(
            [*NOBODY, *map(str, command), *options],
            capture_output=True,
            text=True,
            env=environment,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("does not support locks") == 2
        assert "Traceback" not in done.stderr
    first, second = (read_run(folder) for folder in list_runs(tmp_path / "out"))
    assert (first.count("done"), first.count("failed", "skipped")) == (first.n_steps, 0)
    assert second.count("cached") == second.n_steps
    assert (tmp_path / "out" / "sub-01.html").exists()
    left = [path.name for path in (tmp_path / "out").rglob("*") if ".part" in path.name]
    assert left == []
    assert not list(tmp_path.rglob("*.held"))
