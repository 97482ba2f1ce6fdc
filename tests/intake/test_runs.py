"""Runs count by protocol, so that a reference, its run and its phase share a number."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from neuroferry.intake.ledger import Entry
from neuroferry.intake.reproin import Name
from neuroferry.intake.runs import Candidate, base_of, find_place

START = datetime(2024, 3, 5, 9)


class Session:
    """Series of one session, placed one after the other."""

    def __init__(self, repeats="runs"):
        self.entries, self.repeats, self.foreign, self.count = [], repeats, set(), 0

    def add(
        self,
        suffix,
        run="",
        *,
        protocol="func_task-x",
        part="",
        volumes=1,
        minute=None,
        words=("M",),
        sums=(),
        before=None,
        **entities,
    ):
        self.count += 1
        number = self.count
        when = START + timedelta(minutes=number if minute is None else minute)
        name = Name("func", suffix, "test", entities, run)
        one = Candidate(name, base_of(name, protocol), when, words, sums, volumes, before)

        def files(label):
            labels = [f"{key}-{value}" for key, value in entities.items()]
            parts = ["x", *labels, f"run-{label}" if label else "", part, suffix]
            return ["_".join(filter(None, parts)) + ".nii.gz"]

        owned = {file for entry in self.entries for file in entry.files} | self.foreign
        place = find_place(one, self.entries, files, owned.__contains__, self.repeats)
        if not place.reason:
            if place.instead_of:
                self.entries.remove(place.instead_of)
            self.entries.append(
                Entry(
                    f"{number}",
                    "",
                    "placed",
                    "",
                    "bids",
                    "01",
                    files=tuple(files(place.run)),
                    base=one.base,
                    run=place.run,
                    number=number,
                    suffix=suffix,
                    acquired=when.isoformat(),
                    image_type=words,
                    checksums=sums,
                    n_volumes=volumes,
                )
            )
        return place


def test_one_scan_has_no_run_and_repeats_count():
    session = Session()
    assert [session.add("bold").run for _ in range(3)] == ["", "02", "03"]


def test_series_of_one_acquisition_share_a_run():
    session = Session()
    runs = [session.add(suffix).run for suffix in ("sbref", "sbref", "bold", "sbref", "bold")]
    assert runs == ["", "02", "02", "03", "03"]
    assert session.add("bold", part="part-phase", words=("P",)).run == "03"


@pytest.mark.parametrize("mark", ["+", "="])
def test_runs_that_count(mark):
    session = Session()
    assert session.add("sbref", "+").run == "01"
    assert session.add("bold", "+").run == "01"
    assert session.add("bold", mark).run == "02"
    assert session.add("bold", mark, protocol="func_task-y", task="y").run == "01"


def test_another_protocol_counts_on_its_own():
    session = Session()
    session.add("T1w", protocol="anat-T1w")
    session.add("T1w", protocol="anat-T1w")
    assert session.add("T2w", protocol="anat-T2w").run == ""


def test_a_numbered_run_is_replaced_but_not_by_a_shorter_one():
    session = Session()
    first = session.add("bold", "01", volumes=100)
    again = session.add("bold", "01", volumes=100)
    assert (first.instead_of, again.run) == (None, "01")
    assert again.instead_of is not None
    assert "sourcedata/repeated" in again.notes[0]
    assert "has 40 volumes only" in session.add("bold", "01", volumes=40).reason


def test_replacing_by_rule():
    session = Session("replace")
    session.add("bold")
    assert session.add("bold").instead_of is not None
    assert len(session.entries) == 1


def test_second_reconstructions_and_the_same_again():
    session = Session()
    session.add("bold", minute=1, words=("M", "ND"), sums=("a",))
    place = session.add("bold", minute=1, words=("M", "NORM"), sums=("b",))
    assert "second reconstruction (NORM instead of ND in its image type)" in place.reason
    assert "same images" in session.add("bold", minute=9, words=("M", "ND"), sums=("a",)).reason
    assert session.add("bold", "+", minute=1, words=("M", "NORM"), sums=("c",)).reason


def test_files_of_others_are_never_touched():
    session = Session("replace")
    session.foreign = {"x_bold.nii.gz"}
    assert "the intake did not write it" in session.add("bold").reason


def test_the_same_series_keeps_its_place():
    session = Session()
    session.add("bold")
    session.add("bold")
    (_, second) = session.entries
    session.entries.remove(second)
    assert session.add("bold", before=second).run == "02"
