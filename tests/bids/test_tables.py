"""Tables of a dataset that hold anything."""

import pytest

from neuroferry.bids.tables import parse_table, read_number, read_table
from neuroferry.errors import InputError


def write(tmp_path, content):
    path = tmp_path / "participants.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quotation_mark_is_a_character(tmp_path, end):
    text = end.join(["id\tnote\tage", 'sub-01\t"open\t30', 'sub-02\t12"\tn/a', ""])
    table = read_table(write(tmp_path, text))
    assert table.columns == ("id", "note", "age")
    assert list(table.rows()) == [(2, ["sub-01", '"open', "30"]), (3, ["sub-02", '12"', "n/a"])]
    assert table.notes == ()


def test_encodings(tmp_path):
    text = "id\tname\nsub-01\tJosé\n"
    for encoding, note in (
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("latin-1", "read as Latin-1"),
        ("utf-16", "UTF-16"),
    ):
        table = read_table(write(tmp_path, text.encode(encoding)))
        assert list(table.rows()) == [(2, ["sub-01", "José"])], encoding
        assert table.columns == ("id", "name")
        assert [note in said for said in table.notes] == ([True] if note else [])


def test_lines_of_other_lengths_and_columns_that_are_there_twice(tmp_path):
    table = read_table(write(tmp_path, "id\tage\tage\na\t1\n\nb\t2\t3\t4\n"))
    assert list(table.rows()) == [(2, ["a", "1", ""]), (4, ["b", "2", "3"])]
    assert list(table.column("age")) == [(2, "1"), (4, "2")]
    assert table.notes == (
        "it has the column age twice; the first is used",
        "2 of its lines do not have 3 columns, the first is line 2",
    )


@pytest.mark.parametrize("content", ["", "\n", "\n\n"])
def test_nothing_at_all(tmp_path, content):
    table = read_table(write(tmp_path, content))
    assert (table.columns, list(table.rows())) == ((), [])


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("sign", "word"), [(",", "commas"), (";", "semicolons"), ("  ", "spaces")]
)
def test_columns_that_no_tab_separates(sign, word):
    table = parse_table(f"onset{sign}duration\n1{sign}2\n")
    assert table.notes == (f"its columns are separated by {word}: separate them by tabs",)
    assert parse_table("onset\n1\n").notes == ()


def test_numbers():
    assert [read_number(cell) for cell in ("1", "-.5", "2.", "1e3", " 7 ")] == [
        1,
        -0.5,
        2,
        1000,
        7,
    ]
    assert [read_number(cell) for cell in ("", "n/a", "1_0", "0x1", "1,5", "٣")] == [None] * 6
    assert read_number("inf") == float("inf")
