"""Rules are read whole or not at all: every mistake names its place."""

from __future__ import annotations

import pytest

from neuroferry.errors import InputError
from neuroferry.intake.rules import read_rules

GOOD = """
dates = "keep"
[subjects]
table = "labels.tsv"
otherwise = "refuse"
[sessions]
by = "pattern"
pattern = "visit(\\\\d+)"
[[series]]
protocol = "^mprage (?P<side>left|right)"
datatype = "anat"
suffix = "T1w"
entities = { acq = "{side}x", run = 2 }
[[series]]
description = "pilot"
ignore = "a pilot"
[[sidecar]]
scanner = "Philips"
values = { TotalReadoutTime = 0.05 }
"""


def write(tmp_path, text):
    (tmp_path / "labels.tsv").write_text("patient_id\tparticipant_id\nA1\tsub-07\nB 2\t08\n")
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_a_site_adds_to_what_the_package_has(tmp_path):
    rules, package = read_rules(write(tmp_path, GOOD)), read_rules()
    assert rules.dates == "keep"
    assert rules.aside == package.aside
    assert rules.reproin
    assert rules.subjects.table == {"A1": ("07", ""), "B 2": ("08", "")}
    assert rules.subjects.pattern == package.subjects.pattern
    assert rules.sessions.gap_hours == 4
    assert rules.series[0].entities == {"acquisition": "{side}x", "run": "2"}
    assert rules.series[1].ignore == "a pilot"
    assert rules.sidecars[0].sidecar == {"TotalReadoutTime": 0.05}
    assert "A1" not in repr(rules)


RULE = '[[series]]\nprotocol = "x"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date = 1", "'date' is not known; did you mean dates"),
        ('dates = "never"', '"shift", "keep", "remove"'),
        ("reproin = 1", "not true or false"),
        ("subjects = 3", r"write \[subjects\]"),
        ('[subjects]\ntabel = ""', "did you mean table"),
        ('[subjects]\npattern = "sub-"', "has no group"),
        ('[subjects]\npattern = "("', "not a regular expression"),
        ('[subjects]\ntable = "none.tsv"', "none.tsv"),
        ('[sessions]\nby = "pattern"', "go together"),
        ("[sessions]\ngap_hours = -1", "gap_hours"),
        ("series = 1", r"write \[\[series\]\]"),
        ('[[series]]\ndatatype = "anat"', "no pattern"),
        (RULE + 'datatype = "anatomy"\nsuffix = "T1w"', "no folder of BIDS"),
        (RULE + 'datatype = "anat"\nsuffix = "bold"', "belongs into func"),
        (RULE + 'datatype = "anat"\nsuffix = "T1-w"', "not a suffix"),
        (RULE + 'datatype = "anat"', "not a suffix"),
        (RULE + 'ignore = "x"\nsuffix = "T1w"', "either has a reason"),
        (RULE + 'datatype = "anat"\nsuffix = "T1w"\nentities = {aqc = "x"}', "'aqc' is not"),
        (RULE + 'datatype = "anat"\nsuffix = "T1w"\nentities = {sub = "x"}', "'sub' is not"),
        (RULE + 'datatype = "anat"\nsuffix = "T1w"\nentities = {acq = "{y}"}', r"\(\?P<y>"),
        (RULE + 'datatype = "anat"\nsuffix = "T1w"\nentities = {acq = "a-b"}', "letters, digits"),
        ('[[sidecar]]\nprotocol = "x"', "needs values"),
        ("dates = ", "not valid TOML"),
    ],
)
def test_a_mistake_names_file_and_place(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=said) as error:
        read_rules(path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id\tlabel\n", "no column patient_id"),
        ("patient_id\tparticipant_id\nA1\tsub 01\n", "line 2"),
        ("patient_id\tparticipant_id\nA1\t01\nA1\t02\n", "line 3"),
    ],
)
def test_a_wrong_table_of_labels_names_the_line_and_no_patient(tmp_path, table, said):
    path = write(tmp_path, GOOD)
    (tmp_path / "labels.tsv").write_text(table)
    with pytest.raises(InputError, match=said) as error:
        read_rules(path)
    assert "A1" not in str(error.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rules(tmp_path / "none.toml")
