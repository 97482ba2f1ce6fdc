"""The command ``qc``."""

import json

import pytest
from iqms_study import write_t1w

from neuroferry.cli.main import main


@pytest.fixture
def out(tmp_path):
    write_t1w(tmp_path / "out", 8)
    return tmp_path / "out"


def test_each_verb_does_its_work(out, tmp_path, capsys):
    assert main(["qc", str(out), "apply"]) == 0
    assert "T1w: 8 accept, 0 look, 0 exclude" in capsys.readouterr().out
    assert main(["qc", str(out), "apply", "--fd-threshold", "0.3"]) == 0
    assert "alike" not in capsys.readouterr().out
    content = {"subject": "sub-001_T1w", "rating": "4.0", "dataset": "ds"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(["qc", str(out), "ratings", "--rater", "ann", str(tmp_path / "a.json")]) == 0
    assert "1 ratings of ann" in capsys.readouterr().out
    assert main(["qc", str(out), "drift"]) == 0
    assert "0 series, 0 signs" in capsys.readouterr().out
    assert main(["qc", str(out), "classify"]) == 65
    assert "1 T1w images are rated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["apply", "--rater", "x"], "--rater belongs to ratings"),
        (["drift", "--fd_threshold", "0.3"], "--fd-threshold belongs to apply"),
        (["apply", "file.json"], "takes no files"),
    ],
)
def test_arguments_of_another_verb_are_refused(out, capsys, arguments, word):
    assert main(["qc", str(out), *arguments]) == 64
    assert word in capsys.readouterr().err


def test_an_unknown_verb_and_a_missing_folder(tmp_path, capsys):
    assert main(["qc", str(tmp_path), "guess"]) == 64
    assert main(["qc", str(tmp_path / "x"), "apply"]) == 66
    assert "is not a folder" in capsys.readouterr().err
