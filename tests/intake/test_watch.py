"""Watched folders: files still being written, archives, what is no image, what vanishes."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dicom_objects import write_object, write_series

from neuroferry.intake.queue import Queue
from neuroferry.intake.spool import Spool
from neuroferry.intake.watch import Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets time pass."""
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])

    def later(seconds: float) -> None:
        moment[0] += seconds

    return later


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "root")


@pytest.fixture
def queue(spool: Spool) -> Iterator[Queue]:
    with closing(Queue(spool.private)) as opened:
        yield opened


def arrived(spool: Spool) -> int:
    return len(list(spool.arrivals.iterdir()))


def test_a_file_is_taken_once_it_did_not_change(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "in"
    whole = write_object(tmp_path).read_bytes()
    path = folder / "deep" / "a.dcm"
    path.parent.mkdir(parents=True)
    watch = Watch(spool, queue, {folder: True})
    for size in (500, 900):
        path.write_bytes(whole[:size])
        assert watch.look() == 0
        clock(1.5)
    path.write_bytes(whole)
    assert watch.look() == 0
    clock(3)
    assert watch.look() == 1
    assert arrived(spool) == 1
    assert list(folder.iterdir()) == []  # its folder went with it


def test_a_pause_of_the_copying_program_is_waited_for(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "in"
    whole = write_object(tmp_path).read_bytes()
    folder.mkdir()
    (folder / "a.dcm").write_bytes(whole[:900])
    watch = Watch(spool, queue, {folder: True})
    for _ in range(5):
        assert watch.look() == 0
        clock(4)
    (folder / "a.dcm").write_bytes(whole)
    watch.look()
    clock(4)
    assert watch.look() == 1


def test_a_file_that_stays_cut_off_is_turned_down_and_stays(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(write_object(tmp_path).read_bytes()[:900])
    watch = Watch(spool, queue, {folder: True})
    for _ in range(20):
        watch.look()
        clock(4)
    assert sum(queue.turned_down().values()) == 1
    assert (folder / "a.dcm").exists()
    assert not watch.is_waiting


def test_files_of_a_foreign_folder_stay_and_are_taken_once(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "export"
    write_series(folder, 3)
    (folder / "notes.txt").write_text("no image")
    for _ in range(2):  # the next process remembers
        watch = Watch(spool, queue, {folder: False})
        for _ in range(3):
            watch.look()
            clock(4)
    assert arrived(spool) == 3
    assert len(list(folder.iterdir())) == 4
    assert sum(queue.turned_down().values()) == 1


def test_archives_are_opened_and_their_names_are_no_paths(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    paths = write_series(tmp_path / "made", 3)
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(paths[0], "../../../up.dcm")
        archive.write(paths[1], "a/b/c.dcm")
        archive.write(paths[2], "/abs.dcm")
        archive.writestr("readme.txt", "no image")
    watch = Watch(spool, queue, {folder: True}, patient=False)
    assert watch.look() == 3
    assert arrived(spool) == 3
    assert not list(tmp_path.rglob("up.dcm"))
    assert list(folder.iterdir()) == []


def test_a_damaged_archive_is_waited_for_then_turned_down(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.write(write_object(tmp_path), "a.dcm")
    raw = bytearray(whole.read_bytes())
    raw[300] ^= 0xFF
    (folder / "scan.zip").write_bytes(raw)
    watch = Watch(spool, queue, {folder: True})
    for _ in range(20):
        watch.look()
        clock(4)
    assert sum(queue.turned_down().values()) == 1
    assert (folder / "scan.zip").exists()


def test_folders_and_files_that_vanish_are_no_error(spool, queue, clock, tmp_path) -> None:
    folder = tmp_path / "export"
    write_series(folder / "session", 3)
    watch = Watch(spool, queue, {folder: False})
    watch.look()
    shutil.rmtree(folder)
    clock(4)
    assert watch.look() == 0
    assert list(watch.unreadable) == [folder]
    write_series(folder / "session", 2)
    for _ in range(2):
        clock(4)
        watch.look()
    assert arrived(spool) == 2
    assert watch.unreadable == {}
