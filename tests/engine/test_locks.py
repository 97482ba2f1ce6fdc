"""Locks: held by one run at a time, released when its process ends."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource

import pytest
from strangers import as_stranger, by_root

from neuroferry.engine.locks import hold
from neuroferry.engine.markers import describe_owner
from neuroferry.errors import ExitCode, NeuroferryError


def _hold_and_die(folder, ready):
    with hold([folder], ["01"]):
        ready.set()
        import os

        os._exit(1)


def _hold_many(folders, done):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    with hold(folders, [f"{number:03d}" for number in range(300)]):
        done.set()


def test_more_participants_than_open_files_are_allowed(tmp_path):
    done = multiprocessing.Event()
    folders = [tmp_path / "a", tmp_path / "b"]
    process = multiprocessing.Process(target=_hold_many, args=(folders, done))
    process.start()
    process.join(60)
    assert done.is_set()
    assert len(list((tmp_path / "b").iterdir())) == 300


def test_two_runs_of_one_participant(tmp_path):
    with hold([tmp_path / "a", tmp_path / "b"], ["01", "02"]):
        second = hold([tmp_path / "b"], ["02", "03"])
        with pytest.raises(NeuroferryError, match=r"Another run \(process \d+ .* sub-02") as info:
            second.__enter__()
        assert info.value.exit_code == ExitCode.TEMPORARY
        with hold([tmp_path / "b"], ["03"]):
            pass
    with hold([tmp_path / "a"], ["01"]):
        pass


def test_a_dead_run_holds_nothing(tmp_path):
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=_hold_and_die, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    process.join(30)
    with hold([tmp_path], ["01"]):
        pass


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / ".sub-01.lock").symlink_to(precious)
    with pytest.raises(NeuroferryError, match="is a symbolic link") as info:
        hold([folder], ["01"]).__enter__()
    assert info.value.exit_code == ExitCode.CANNOT_CREATE
    os.link(precious, folder / ".sub-02.lock")
    with hold([folder], ["02"]):
        pass
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "\0"])
def test_a_lock_whose_holder_left_no_name(tmp_path, text):
    with hold([tmp_path], ["01"]):
        (tmp_path / ".sub-01.lock").write_text(text)
        with pytest.raises(NeuroferryError, match="Another run is processing sub-01"):
            hold([tmp_path], ["01"]).__enter__()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, capsys, number):
    """A file system that refuses locks, like Lustre without ``-o flock`` and some NFS."""

    def flock(stream, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold([tmp_path], ["01", "02"]):
        pass
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert f"{tmp_path} does not support locks" in said
    assert not list(tmp_path.glob("*.held"))


@pytest.fixture
def without_locks(monkeypatch):
    def flock(stream, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_two_runs_where_there_are_no_locks(tmp_path, without_locks):
    folders = [tmp_path / "a", tmp_path / "b"]
    with hold(folders, ["01", "02"]):
        second = hold([tmp_path / "b"], ["03", "02"])
        with pytest.raises(NeuroferryError, match=r"Another run \(process \d+ .* sub-02") as info:
            second.__enter__()
        assert info.value.exit_code == ExitCode.TEMPORARY
        assert str(tmp_path / "b" / ".sub-02.held") in str(info.value)
        with hold([tmp_path / "b"], ["03"]):  # what the second run had marked is free again
            pass
    with hold(folders, ["02"]):
        pass
    assert not list(tmp_path.rglob("*.held*"))


def test_a_dead_run_holds_nothing_where_there_are_no_locks(tmp_path, without_locks):
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=_hold_and_die, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    process.join(30)
    assert (tmp_path / ".sub-01.held").exists()
    with hold([tmp_path], ["01"]):
        pass


def owner(**other):
    return json.dumps({**describe_owner(), **other})


@pytest.mark.parametrize(
    ("left", "ended"),
    [
        (owner(boot="an earlier one"), True),
        (owner(born="1"), True),
        (owner(pid=2**22 + 5), True),
        (owner(), False),
        (owner(host="elsewhere", boot="another"), False),
        (owner(space="pid:[1]", pid=2**22 + 5), False),  # of another container
        (owner(host="localhost", boot="another"), False),  # of any machine
        ("", False),
        ("[1]", False),
    ],
)
def test_a_marker_is_taken_over_where_its_owner_has_certainly_ended(
    tmp_path, without_locks, left, ended
):
    path = tmp_path / ".sub-01.held"
    path.write_text(left)
    if ended:
        with hold([tmp_path], ["01"]):
            assert json.loads(path.read_text()) != json.loads(left)
        assert not path.exists()
    else:
        with pytest.raises(NeuroferryError, match=f"has ended, remove {path}"):
            hold([tmp_path], ["01"]).__enter__()
        assert path.read_text() == left


@by_root
def test_a_lock_file_that_others_left_can_be_held(shared_folder):
    """A lock file in a shared folder names its last holder, and is not written to."""

    def hold_it():
        with hold([shared_folder], ["01"]):
            pass

    hold_it()
    left = (shared_folder / ".sub-01.lock").read_text()
    assert as_stranger(hold_it)
    assert (shared_folder / ".sub-01.lock").read_text() == left
