"""Ratings from files of pages into one table."""

import json

import pytest

from neuroferry.errors import InputError
from neuroferry.judgement.ratings import (
    ARTIFACTS,
    Rating,
    collect_ratings,
    median_rating,
    read_rating_table,
    read_ratings,
    write_ratings,
)

NIREPORTS = {
    "dataset": "ds1",
    "subject": "sub-01_T1w",
    "rating": "2.5",
    "artifacts": ["inu", "head-motion"],
    "time_sec": 31.25,
    "confidence": "3",
    "comments": "a\ttab\nand a line",
}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def ours(*ratings):
    return {"neuroferry-ratings": 1, "dataset": "ds", "ratings": list(ratings)}


def one(name="sub-01_T1w", rating=3, **more):
    return {"bids_name": name, "rating": rating, "rater": "ann", **more}


def test_artefacts_are_those_of_nireports():
    yaml = pytest.importorskip("yaml")
    from importlib.resources import files

    text = files("nireports").joinpath("assembler/data/rating-widget/bootstrap.yml").read_text()
    widget = next(
        item
        for item in _dicts(yaml.safe_load(text))
        if "head-motion" in item and "uncategorized" in item
    )
    assert list(ARTIFACTS) == list(widget)


def _dicts(content):
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _dicts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _dicts(value)


def test_a_file_of_nireports_is_read(tmp_path):
    save(tmp_path / "ds1_sub-01_T1w.json", NIREPORTS)
    (rating,) = collect_ratings([tmp_path], rater="bob").ratings
    assert rating == Rating(
        name="sub-01_T1w",
        rating=2.5,
        rater="bob",
        artifacts=("head-motion", "inu"),
        confidence=3.0,
        time_sec=31.25,
        comments="a tab and a line",
        dataset="ds1",
    )
    assert rating.modality == "T1w"


def test_the_table_keeps_everything(tmp_path):
    save(tmp_path / "in" / "a.json", NIREPORTS)
    save(tmp_path / "in" / "b.json", ours(one(rated_at="2026-01-02T03:04:05Z"), one("sub-2_bold")))
    collected = collect_ratings([tmp_path / "in"])
    assert collected.notes == ()
    path = write_ratings(tmp_path, collected.ratings)
    assert read_ratings(tmp_path) == collected.ratings
    columns = path.read_text().splitlines()[0].split("\t")
    assert set(json.loads(path.with_suffix(".json").read_text())) == set(columns)


def test_collecting_again_changes_nothing(tmp_path):
    save(tmp_path / "in" / "a.json", ours(one()))
    write_ratings(tmp_path, collect_ratings([tmp_path / "in"]).ratings)
    again = collect_ratings([tmp_path / "in"], before=read_ratings(tmp_path))
    assert again.ratings == read_ratings(tmp_path)


def test_two_raters_stay_and_a_second_thought_replaces_the_first(tmp_path):
    late = one(rating=1, rated_at="2026-01-03T00:00:00+00:00")
    early = one(rating=4, rated_at="2026-01-02T00:00:00+00:00")
    save(tmp_path / "a.json", ours(late))
    save(tmp_path / "b.json", ours(early, one(rating=2, rater="bob")))
    collected = collect_ratings([tmp_path])
    assert [(r.rater, r.rating) for r in collected.ratings] == [("ann", 1.0), ("bob", 2.0)]
    assert "rated twice by ann" in collected.notes[0]
    assert "a.json, counts" in collected.notes[0]
    assert median_rating(collected.ratings) == 1.5


def test_the_same_rating_in_two_files_counts_once(tmp_path):
    save(tmp_path / "a.json", ours(one()))
    save(tmp_path / "b.json", ours(one()))
    collected = collect_ratings([tmp_path / "a.json", tmp_path / "b.json"])
    assert len(collected.ratings) == 1
    assert collected.notes == ("1 ratings were there already, unchanged.",)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ({"a": 1}, "1 JSON files hold no ratings"),
        ({"neuroferry-ratings": 1}, "no list of ratings"),
        (ours(3), "no object"),
        (ours(one(rating=5)), "not between 1 and 4"),
        (ours(one(rating="good")), "not between 1 and 4"),
        (ours(one(rating=True)), "not between 1 and 4"),
        (ours(one(name="T1w")), "which image"),
        (ours(one(artifacts=["ringing"])), "'ringing'"),
        (ours(one(artifacts="inu")), "no list"),
    ],
)
def test_what_is_malformed_is_named_and_the_rest_is_read(tmp_path, content, word):
    bad = save(tmp_path / "bad.json", content)
    save(tmp_path / "good.json", ours(one("sub-09_T1w")))
    collected = collect_ratings([tmp_path])
    assert [rating.name for rating in collected.ratings] == ["sub-09_T1w"]
    assert str(bad) in collected.notes[0]
    assert word in collected.notes[0]


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        collect_ratings([tmp_path / "x.json"])


def test_a_table_of_something_else_is_refused(tmp_path):
    save(tmp_path / "t.tsv", "bids_name\tscore\na\t1\n")
    with pytest.raises(InputError, match="no column rating"):
        read_rating_table(tmp_path / "t.tsv")
    save(tmp_path / "t.tsv", "bids_name\trating\nsub-1_T1w\t9\n")
    with pytest.raises(InputError, match="line 2"):
        read_rating_table(tmp_path / "t.tsv")
