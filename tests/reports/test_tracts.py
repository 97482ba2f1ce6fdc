"""Tract profiles in the overview, and their tables."""

import csv

import numpy as np
import pytest
from report_study import check_page

from neuroferry.interfaces.tracts.profiles import profiles_table
from neuroferry.reports import write_group_report, write_subject_report
from neuroferry.reports.tracts import find_tracts, profile_chart

NODES = np.arange(100)


def profile(level):
    return level + 0.1 * np.sin(NODES / 15)


def add_profiles(study, subject, level=0.5, *, scan="", folder="dwi", bundles=("Left Arcuate",)):
    one = {"fa": profile(level), "md": 1e-3 * profile(level)}
    path = study.out / f"sub-{subject}" / folder
    path.mkdir(parents=True, exist_ok=True)
    table = profiles_table(f"sub-{subject}", dict.fromkeys(bundles, one))
    (path / f"sub-{subject}{scan}_desc-profiles_tractometry.tsv").write_text(table)


def nodes(study):
    with (study.out / "tractometry" / "nodes.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def people(study):
    labels = [f"{n:02d}" for n in range(1, 9)]
    study.start(*labels)
    for n, label in enumerate(labels):
        study.step(label, "a")
        study.add(label)
        add_profiles(study, label, 0.9 if label == "05" else 0.4 + 0.01 * n)
    study.end()
    for label in labels:
        write_subject_report(study.out, study.run_dir, label)
    return study


def test_each_bundle_has_a_chart_and_who_lies_far_from_the_others_is_marked(people):
    page = check_page(write_group_report(people.out, people.run_dir))
    charts = page.having("svg", **{"class": "tract"})
    assert [c["aria-label"].split(":")[0] for c in charts] == ["Left Arcuate"] * 2  # FA and MD
    assert len(page.having("path", **{"class": "one"})) == 2 * 7
    assert len(page.having("path", **{"class": "odd"})) == 2
    assert "sub-05, outlier" in page.text("title")
    assert "sub-05.html" in page.links
    assert "tractometry/nodes.csv" in page.links


def test_tables_are_those_of_afq_browser(people):
    (people.raw / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\tn/a\tM\n"
    )
    add_profiles(people, "02", 0.7, scan="_ses-1", folder="ses-1/dwi")
    write_group_report(people.out, people.run_dir)
    rows = nodes(people)
    assert list(rows[0]) == ["subjectID", "tractID", "nodeID", "fa", "md"]
    assert len(rows) == 9 * 100
    third = next(r for r in rows if r["subjectID"] == "sub-01" and r["nodeID"] == "3")
    assert float(third["fa"]) == pytest.approx(profile(0.4)[3], abs=1e-5)
    # Two scans of one participant stay apart.
    assert {r["subjectID"] for r in rows if r["subjectID"].startswith("sub-02")} == {
        "sub-02",
        "sub-02_ses-1",
    }
    with (people.out / "tractometry" / "subjects.csv").open() as stream:
        known = {row["subjectID"]: row for row in csv.DictReader(stream)}
    assert known["sub-01"] == {"subjectID": "sub-01", "age": "31", "sex": "F"}
    assert known["sub-02_ses-1"]["age"] == ""
    assert set(known) == {r["subjectID"] for r in rows}


def test_a_broken_table_leaves_the_others(people):
    path = people.out / "sub-03" / "dwi" / "sub-03_desc-profiles_tractometry.tsv"
    path.write_text("nothing\there\n1\t2\n")
    (people.out / "sub-04" / "dwi" / "sub-04_desc-profiles_tractometry.tsv").write_text("")
    assert [s.name for s in find_tracts(people.out, ["02", "03", "04", "05"])] == [
        "sub-02",
        "sub-05",
    ]
    check_page(write_group_report(people.out, people.run_dir))


def test_without_profiles_there_is_nothing(study):
    study.whole()
    page = check_page(write_group_report(study.out, study.run_dir))
    assert "Tract profiles" not in page.text()
    assert not (study.out / "tractometry").exists()


def test_the_middle_line_is_the_median_and_gaps_stay_out():
    flat = [np.full(10, value) for value in (0.0, 0.5, 1.0)]
    flat[1][4:] = np.nan
    chart = profile_chart("x", list("abc"), flat, [""] * 3)
    heights = [piece.split()[1] for piece in chart.split('class="middle" d="M')[1].split("L")]
    assert heights[0] == "63.0"  # half way between 8 and 118
    assert heights[-1].startswith("63.0")  # of 0 and 1
    assert profile_chart("x", ["a"], [np.full(10, np.nan)], [""]) == ""


def test_many_scans_do_not_make_a_huge_page():
    rng = np.random.default_rng(0)
    many = [profile(level) for level in rng.normal(0.5, 0.01, 300)]
    many[7] = profile(0.9)
    chart = profile_chart("x", [f"sub-{n}" for n in range(300)], many, [""] * 300)
    assert chart.count('class="one"') == 0
    assert "sub-7, outlier" in chart
    assert len(chart) < 10_000
