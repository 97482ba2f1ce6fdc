"""The file of thresholds."""

from datetime import date

import pytest

from neuroferry.errors import InputError
from neuroferry.judgement.rules import Limit, Outliers, Rules
from neuroferry.judgement.thresholds import RULES_FILE, read_rules, rules_of, write_rules

ALL = Rules(
    (
        Limit("T1w", "cjv", high=0.6),
        Limit("bold", "tsnr", 20.0, None, "ProtocolName", 'a "b" \\ c', "look"),
    ),
    Outliers(False, 3.0, 8, ("scanner", "task"), ("cjv",)),
    0.35,
    1.8,
    2.2,
    date(2026, 3, 31),
    "site",
)


def test_what_is_written_is_read(tmp_path):
    for rules in (ALL, Rules()):
        write_rules(tmp_path / "t.toml", rules)
        assert read_rules(tmp_path / "t.toml") == rules


def test_without_a_file_the_usual_rules_apply(tmp_path):
    assert rules_of(tmp_path) == Rules()
    write_rules(tmp_path / RULES_FILE, ALL)
    assert rules_of(tmp_path) == ALL


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[limit]\n", "not valid TOML"),
        ("[[limits]]\n", "unknown key 'limits'"),
        ("limit = 3\n", "[[limit]]"),
        ('[[limit]]\nmetric = "cjv"\nmax = 1\n', "modality"),
        ('[[limit]]\nmodality = "T1w"\nmax = 1\n', "metric"),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\n', "min, max or both"),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmin = 2\nmax = 1\n', "larger than max"),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmax = "1"\n', "is a number"),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmax = nan\n', "is a number"),
        (
            '[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmax = 1\ncolumn = "x"\n',
            "column and value",
        ),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmax = 1\nthen = "drop"\n', "'drop'"),
        ('[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmaximum = 1\n', "'maximum'"),
        ("[outliers]\nk = 0\n", "above 0"),
        ("[outliers]\nfewest = 2\n", "at least 3"),
        ('[outliers]\nby = "scanner"\n', "list of names"),
        ("[motion]\nfd_threshold = -1\n", "above 0"),
        ("[ratings]\nexclude_below = 3.0\naccept_from = 2.0\n", "exclude_below"),
        ("outliers = 3\n", "[outliers]"),
        ("[drift]\nbaseline = 5\n", "at least 10 scans"),
        ('[drift]\nbaseline = "soon"\n', "'soon'"),
        ("[drift]\ncolumn = 3\n", "name of a column"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(tmp_path, text, word):
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_rules(path)
    assert str(path) in str(refused.value)
    assert word in str(refused.value)


def test_a_value_may_be_a_number(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(
        '[[limit]]\nmodality = "T1w"\nmetric = "cjv"\nmax = 1\n'
        'column = "MagneticFieldStrength"\nvalue = 3\n'
    )
    assert read_rules(path).limits[0].value == "3"
