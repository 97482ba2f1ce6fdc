"""A patient keeps its label, and no two patients share one."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from neuroferry.errors import InputError
from neuroferry.intake.labels import Labels, Participant, locked, private_folder
from neuroferry.intake.model import Instance
from neuroferry.intake.rules import read_rules

RULES = read_rules()
DAY = datetime(2024, 3, 5, 9)


def instance(patient="MRN1", name="Doe^Jane", when=DAY, study="1.2", birth="19700101", text=""):
    return Instance(
        Path(), "1", "", "1", study, patient, name, birth, acquired=when, study_description=text
    )


@pytest.fixture
def folder(tmp_path):
    with locked(tmp_path) as private:
        yield private


def known(labels, one, rules=RULES) -> Participant:
    participant, _ = labels.participant(one, rules)
    assert participant is not None
    return participant


def label(labels, one, rules=RULES, used=frozenset()):
    participant, _ = labels.participant(one, rules, used)
    return participant and participant.label


def test_numbers_are_given_in_turn_and_kept(folder):
    labels = Labels(folder)
    assert [label(labels, instance(patient)) for patient in ("B", "A", "B")] == ["01", "02", "01"]
    labels.save()
    again = Labels(folder)
    assert label(again, instance("A")) == "02"
    assert label(again, instance("C"), used=frozenset(["03"])) == "04"
    assert private_folder(folder.parent.parent).stat().st_mode & 0o077 == 0


def test_patients_without_an_id_are_not_taken_for_one(folder):
    labels = Labels(folder)
    assert label(labels, instance("", study="1")) != label(labels, instance("***", study="2"))
    assert label(labels, instance("", study="1")) == "01"


def test_patterns_tables_and_hashes(folder):
    labels = Labels(folder)
    assert label(labels, instance("sub-x9")) == "x9"
    by = replace(RULES.subjects, table={"K1": ("kid1", ""), "K2": ("kid1", "late")})
    rules = replace(RULES, subjects=by)
    assert label(labels, instance("K1"), rules) == "kid1"
    assert label(labels, instance("K2"), rules) == "kid1"
    one, two = (known(labels, instance(patient), rules) for patient in ("K1", "K2"))
    assert one.shift == two.shift
    assert labels.session(two, instance("K2"), "pre", rules)[0] == "late"
    hashed = replace(RULES, subjects=replace(RULES.subjects, otherwise="hash"))
    assert len(label(labels, instance("H1"), hashed)) == 8
    refusing = replace(RULES, subjects=replace(RULES.subjects, otherwise="refuse"))
    assert label(labels, instance("R1"), refusing) is None


def test_a_label_of_another_patient_is_not_taken_over(folder):
    labels = Labels(folder)
    assert label(labels, instance("MRN1")) == "01"
    participant, notes = labels.participant(instance("sub-01"), RULES)
    assert participant is None
    assert "another PatientID" in notes[0]


def test_an_object_that_was_kept_aside_is_known_again(folder):
    labels = Labels(folder)
    assert label(labels, instance("MRN1")) == "01"
    own = instance("sub-01", f"sub-01^{labels.token('01')}")
    participant = known(labels, own)
    assert (participant.label, participant.shift) == ("01", 0)
    assert labels.participant(instance("sub-01", "sub-01^guess"), RULES)[0] is None


def test_a_name_in_the_number_gives_no_label(folder):
    by = replace(RULES.subjects, pattern=re.compile("^(.*)$"))
    rules = replace(RULES, subjects=by)
    labels = Labels(folder)
    participant, notes = labels.participant(instance("JANE1970"), rules)
    assert participant is not None
    assert participant.label == "01"
    assert "part of the patient's name" in notes[0]
    assert label(labels, instance("P07", "P07"), rules) == "P07"


def test_another_name_with_the_same_number_is_said(folder):
    labels = Labels(folder)
    label(labels, instance("MRN1"))
    assert labels.participant(instance("MRN1", "JANE DOE"), RULES)[1] == ()
    assert labels.participant(instance("MRN1", birth=""), RULES)[1] == ()
    assert "same person" in labels.participant(instance("MRN1", "Roe^Jane"), RULES)[1][0]


def test_shifted_days_lie_before_1925_and_keep_intervals(folder):
    labels = Labels(folder)
    for number in range(20):
        participant = known(labels, instance(f"P{number}"))
        first = DAY + timedelta(days=participant.shift)
        assert 1900 <= first.year <= 1915
    labels.save()
    again = known(Labels(folder), instance("P3"))
    assert again.shift == known(labels, instance("P3")).shift


def sessions(labels, rules, *visits):
    found = []
    for when, said in visits:
        one = instance(when=when, study=str(when))
        participant = known(labels, one, rules)
        found.append(labels.session(participant, one, said, rules)[0])
    return found


WEEK = DAY + timedelta(days=7)


def test_sessions_by_name(folder):
    visits = [(DAY, ""), (DAY, "pre"), (DAY + timedelta(hours=3), ""), (WEEK, ""), (WEEK, "post")]
    assert sessions(Labels(folder), RULES, *visits) == ["", "pre", "pre", "", "post"]


def test_sessions_that_count(folder):
    visits = [(DAY, "+"), (DAY, "+"), (WEEK, "+"), (WEEK, "="), (WEEK, "")]
    assert sessions(Labels(folder), RULES, *visits) == ["01", "01", "02", "02", "02"]
    shifted = sessions(Labels(folder), RULES, (DAY, "{date}"), (WEEK, "{date}"))
    days = [datetime.strptime(text, "%Y%m%d") for text in shifted]
    assert (days[1] - days[0]).days == 7
    assert days[0].year < 1925


def test_sessions_by_date(folder):
    rules = replace(RULES, sessions=replace(RULES.sessions, by="date"))
    labels = Labels(folder)
    assert sessions(labels, rules, (DAY, ""), (WEEK, ""), (DAY, "")) == ["01", "02", "01"]
    early = instance(when=DAY - timedelta(days=30))
    participant = known(labels, early, rules)
    session, notes = labels.session(participant, early, "", rules)
    assert session == "03"
    assert "not in the order of dates" in notes[0]


def test_visits_are_kept_and_a_long_gap_ends_one(folder):
    labels = Labels(folder)
    sessions(labels, RULES, (DAY, "a"))
    labels.save()
    late = DAY + timedelta(hours=5)
    assert sessions(Labels(folder), RULES, (DAY + timedelta(hours=3), ""), (late, "")) == [
        "a",
        "a",
    ]
    assert sessions(Labels(folder), RULES, (late, "")) == [""]


def test_a_damaged_table_is_not_read_as_empty(folder):
    (folder / "participants.tsv").write_text("nonsense\n")
    with pytest.raises(InputError, match="is damaged"):
        Labels(folder)


def test_one_at_a_time(tmp_path):
    inside, most = [], []

    def work():
        with locked(tmp_path):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
