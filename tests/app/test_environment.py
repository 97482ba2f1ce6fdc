"""The process environment: a home for libraries that is nobody else's."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from neuroferry.app.environment import make_home, prepare_environment


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_home_is_private_and_stays(temporary):
    home = make_home()
    assert home == temporary / f"neuroferry-{os.getuid()}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert make_home() == home


@pytest.mark.parametrize("how", ["owner", "mode", "link", "file"])
def test_a_home_that_somebody_else_prepared_is_not_taken(temporary, how):
    planted = temporary / f"neuroferry-{os.getuid()}"
    if how == "link":
        (temporary / "theirs").mkdir(mode=0o700)
        planted.symlink_to(temporary / "theirs")
    elif how == "file":
        planted.write_text("")
    else:
        planted.mkdir(mode=0o700)
        if how == "mode":
            planted.chmod(0o777)
        elif os.getuid() != 0:
            pytest.skip("only root can give files away")
        else:
            os.chown(planted, 54321, 54321)
    home = make_home()
    assert home != planted
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert home.stat().st_uid == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_a_user_without_a_name_or_a_home(tmp_path):
    """As a container gives its user a number, and a cluster a home that is not mounted."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    pid = os.fork()
    if pid == 0:
        os.setgid(54321)
        os.setuid(54321)
        os.environ.pop("HOME")
        for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        tempfile.tempdir = str(tmp_path / "tmp")
        prepare_environment(1)
        (Path.home() / "x").write_text(os.environ["MPLCONFIGDIR"])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    home = tmp_path / "tmp" / "neuroferry-54321"
    assert (home / "x").read_text() == str(home / "matplotlib")
    assert home.stat().st_uid == 54321
