"""Suggestions and verdicts."""

import csv
import json

import pytest
from iqms_study import write_t1w

from neuroferry.errors import InputError
from neuroferry.judgement.metric_table import directions
from neuroferry.judgement.ratings import Rating
from neuroferry.judgement.rules import Limit, Rules
from neuroferry.judgement.tables import read_scans
from neuroferry.judgement.verdicts import VERDICTS_FILE, excluded, judge_scans, write_verdicts


@pytest.fixture
def judged(tmp_path):
    write_t1w(tmp_path, 12, bad=(3, 4))
    return judge_scans(
        read_scans(tmp_path),
        Rules((Limit("T1w", "cjv", high=0.6),)),
        directions(),
        ratings=[
            Rating("sub-005_T1w", 4, "ann", ("inu",)),
            Rating("sub-005_T1w", 3, "bob", ("head-motion",)),
            Rating("sub-006_T1w", 1, "ann"),
        ],
        probabilities={"sub-007_T1w": 0.8, "sub-008_T1w": 0.2},
    )


def test_people_overrule_rules(judged):
    by = {verdict.name: verdict for verdict in judged}
    assert (by["sub-004_T1w"].suggestion, by["sub-004_T1w"].final) == ("exclude", "exclude")
    assert (by["sub-005_T1w"].suggestion, by["sub-005_T1w"].final) == ("exclude", "accept")
    assert by["sub-005_T1w"].rating == 3.5
    assert by["sub-005_T1w"].artifacts == ("head-motion", "inu")
    assert by["sub-005_T1w"].reasons[-1] == "rated 3.5 by 2 people"
    assert (by["sub-006_T1w"].suggestion, by["sub-006_T1w"].final) == ("accept", "exclude")
    assert by["sub-007_T1w"].final == "look"
    assert by["sub-007_T1w"].reasons == ("the model gives 0.8 for its exclusion",)
    assert by["sub-008_T1w"].final == "accept"


def test_the_table_is_what_models_of_the_group_read(judged, tmp_path):
    path = write_verdicts(tmp_path, judged)
    bad = excluded(tmp_path)
    assert set(bad) == {"sub-004_T1w", "sub-006_T1w"}
    assert bad["sub-006_T1w"] == ("rated 1 by 1 person",)
    assert excluded(tmp_path, "bold") == {}
    with path.open() as stream:
        (first, *_) = csv.DictReader(stream, delimiter="\t")
    assert set(json.loads(path.with_suffix(".json").read_text())) == set(first)


def test_no_table_excludes_nothing_and_a_broken_one_is_refused(tmp_path):
    assert excluded(tmp_path) == {}
    (tmp_path / VERDICTS_FILE).write_text(
        "bids_name\tmodality\tverdict\treasons\na\tb\tmaybe\tc\n"
    )
    with pytest.raises(InputError, match="'maybe'"):
        excluded(tmp_path)
    (tmp_path / VERDICTS_FILE).write_text("bids_name\n")
    with pytest.raises(InputError, match="no column modality"):
        excluded(tmp_path)
