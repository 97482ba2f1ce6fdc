"""The process environment: a private home folder for libraries."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from strangers import STRANGER, as_stranger, by_root

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


@by_root
def test_a_user_without_a_name_or_a_home(shared_folder, monkeypatch):
    """A user without a name, as in a container, and without a mounted home, as on a cluster."""
    shared_folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared_folder))
    for name in ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def act():
        prepare_environment(1)
        (Path.home() / "x").write_text(os.environ["MPLCONFIGDIR"])

    assert as_stranger(act)
    home = shared_folder / f"neuroferry-{STRANGER}"
    assert (home / "x").read_text() == str(home / "matplotlib")
    assert home.stat().st_uid == STRANGER
