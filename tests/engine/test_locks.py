"""Locks: held by one run at a time, gone with the process."""

import multiprocessing
import resource

import pytest

from neuroferry.engine.locks import hold
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
