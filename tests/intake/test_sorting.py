"""Objects that arrive once, twice, changed, or half."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dicom_objects import write_object, write_series

from neuroferry.intake.headers import read_instance
from neuroferry.intake.queue import Queue
from neuroferry.intake.sorting import Sorter, digest_of
from neuroferry.intake.spool import Spool


class Intake:
    """Spool, queue and sorter of one folder."""

    def __init__(self, root: Path, queue: Queue) -> None:
        self.spool, self.queue = Spool(root), queue
        self.sorter = Sorter(self.spool, queue)
        self._count = 0

    def arrive(self, *paths: Path) -> None:
        for path in paths:
            self._count += 1
            file = self.spool.receiving / f"{self._count:012}.dcm"
            shutil.copyfile(path, file)
            self.spool.arrive(file, "1.2")

    @property
    def counts(self) -> dict[bool, list[int]]:
        """Objects of each series, for ordinary series and for those that came again."""
        rows = self.queue.series_in()
        return {
            again: [row.n_objects for row in rows if row.again == again] for again in (False, True)
        }

    @property
    def kept(self) -> list[str]:
        return sorted(digest_of(path) for path in self.spool.series.rglob("*.dcm"))


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    Spool(tmp_path / "root")
    with closing(Queue(tmp_path / "root" / ".intake")) as queue:
        yield Intake(tmp_path / "root", queue)


def test_objects_go_to_their_series_and_are_counted(intake: Intake, tmp_path: Path) -> None:
    paths = [*write_series(tmp_path, 4), *write_series(tmp_path, 3, series=2)]
    intake.arrive(*paths)
    assert intake.sorter.sort().n_objects == 7
    assert sorted(intake.counts[False]) == [3, 4]
    assert intake.kept == sorted(map(digest_of, paths))
    assert list(intake.spool.arrivals.iterdir()) == []


def test_what_is_sent_twice_is_kept_once(intake: Intake, tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    intake.arrive(*paths, *paths)
    assert intake.sorter.sort().n_again == 3
    intake.arrive(paths[1])
    assert intake.sorter.sort().n_again == 1
    assert intake.counts == {False: [3], True: []}
    assert len(intake.kept) == 3


def test_a_header_that_an_archive_changed_is_the_same_object(
    intake: Intake, tmp_path: Path
) -> None:
    intake.arrive(write_object(tmp_path, "first.dcm"))
    intake.sorter.sort()
    intake.arrive(write_object(tmp_path, "second.dcm", protocol="anat-T1w "))
    assert intake.sorter.sort().n_again == 1


@pytest.mark.parametrize("change", [{"value": 5}, {"patient": "P2"}])
def test_other_pixels_or_another_patient_under_one_uid_are_kept_apart(
    intake: Intake, tmp_path: Path, change: dict[str, object]
) -> None:
    intake.arrive(write_object(tmp_path, "first.dcm"))
    intake.sorter.sort()
    for _ in range(2):  # again and again, but kept once
        intake.arrive(write_object(tmp_path, "second.dcm", **change))
        intake.sorter.sort()
    assert intake.counts == {False: [1], True: [1]}
    assert len(intake.kept) == 2


def test_two_patients_of_one_series_uid_are_two_series(intake: Intake, tmp_path: Path) -> None:
    intake.arrive(
        write_object(tmp_path, number=1, patient="P1"),
        write_object(tmp_path, number=2, patient="P2"),
    )
    intake.sorter.sort()
    assert intake.counts == {False: [1, 1], True: []}


def test_what_is_no_image_is_kept_with_the_reason(intake: Intake, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no image at all")
    whole = write_object(tmp_path)
    half = tmp_path / "half.dcm"
    half.write_bytes(whole.read_bytes()[:-100])
    intake.arrive(text, half)
    assert sum(intake.sorter.sort().rejected.values()) == 2
    assert len(list(intake.spool.rejected.iterdir())) == 2
    assert sum(intake.queue.rejected().values()) == 2


def test_a_crash_between_row_and_move_loses_and_doubles_nothing(
    intake: Intake, tmp_path: Path
) -> None:
    path = write_object(tmp_path)
    instance = read_instance(path)
    key = intake.spool.object_key(instance.sop_uid)
    series = intake.spool.series_key(instance)
    intake.queue.add_object(key, digest_of(path), series, f"{key}.dcm", instance)
    intake.arrive(path)  # its row is there, its file not yet moved
    intake.sorter.sort()
    assert intake.counts == {False: [1], True: []}
    assert (intake.spool.series / series / f"{key}.dcm").is_file()


def test_names_reveal_neither_patient_nor_uid(intake: Intake, tmp_path: Path) -> None:
    intake.arrive(write_object(tmp_path, "a.dcm", patient="../../SECRET", uid="1.2/../../x"))
    intake.sorter.sort()
    names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "root").rglob("*")]
    assert not [name for name in names if "SECRET" in name or "1.2" in name]
    assert len(intake.kept) == 1


def test_a_series_is_loaded_in_order_with_what_its_headers_say(
    intake: Intake, tmp_path: Path
) -> None:
    intake.arrive(*reversed(write_series(tmp_path, 4)))
    intake.sorter.sort()
    row = intake.queue.series_in()[0]
    series = intake.queue.load_series(row.series, intake.spool.series / row.series)
    assert [one.instance_number for one in series.instances] == [1, 2, 3, 4]
    assert series.first.path.is_file()
    assert series.instances == tuple(
        sorted(
            (read_instance(one.path) for one in series.instances),
            key=lambda one: one.instance_number or 0,
        )
    )
