"""Work of ``neuroferry qc``, from files to files."""

import csv
import json

import pytest
from iqms_study import write_bold, write_t1w
from report_study import check_page

from neuroferry.app.judging import apply_thresholds, collect, follow_scanners, learn_model
from neuroferry.errors import InputError, UsageError
from neuroferry.judgement.rules import Limit, Outliers, Rules
from neuroferry.judgement.thresholds import RULES_FILE, read_rules, write_rules
from neuroferry.judgement.verdicts import excluded
from neuroferry.reports import write_group_report


def table(path):
    with path.open() as stream:
        return {row["bids_name"]: row for row in csv.DictReader(stream, delimiter="\t")}


def metrics_of(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*_desc-iqms_*")}


def test_thresholds_are_applied_without_measuring_and_stay(tmp_path):
    out = tmp_path / "out"
    write_t1w(out, 10, bad=(2,))
    write_bold(out, 6)
    before = metrics_of(out)
    write_rules(tmp_path / "t.toml", Rules((Limit("T1w", "cjv", high=0.6), Limit("dwi", "x", 1))))
    lines = apply_thresholds(out, thresholds=tmp_path / "t.toml", fd_threshold=0.1)
    assert lines[0] == "Limits of metrics that no scan has: x (dwi)."
    assert "T1w: 9 accept, 0 look, 1 exclude" in lines
    assert set(excluded(out)) == {"sub-003_T1w"}
    assert metrics_of(out) == before
    write_rules(tmp_path / "o.toml", Rules(outliers=Outliers(by=("coil",))))
    other = tmp_path / "other"
    write_t1w(other, 2)
    assert apply_thresholds(other, thresholds=tmp_path / "o.toml")[0] == (
        "Columns that no scan has: coil."
    )
    rules = read_rules(out / RULES_FILE)
    assert rules.fd_threshold == 0.1
    lenient = table(out / "group_bold.tsv")["sub-001_task-rest_bold"]["fd_num"]
    # a later run writes the overview by the same rules
    write_group_report(out, None)
    assert set(excluded(out)) == {"sub-003_T1w"}
    apply_thresholds(out, fd_threshold=0.3)
    strict = table(out / "group_bold.tsv")["sub-001_task-rest_bold"]["fd_num"]
    assert float(lenient) > float(strict)
    assert set(excluded(out)) == {"sub-003_T1w"}


def test_a_reference_stays_on_the_page(tmp_path):
    out = tmp_path / "out"
    write_t1w(out, 3)
    records = [{"bids_meta": {"modality": "T1w"}, "cjv": 0.4 + 0.001 * n} for n in range(40)]
    (tmp_path / "api.json").write_text(json.dumps(records))
    apply_thresholds(out, reference=tmp_path / "api.json")
    apply_thresholds(out)
    assert '"source":"api.json"' in check_page(out / "index.html").raw


def rating(name, value, rater, **more):
    return {"bids_name": name, "rating": value, "rater": rater, **more}


def test_ratings_become_a_table_verdicts_and_columns(tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    names = write_t1w(out, 8)
    for name in names:
        image = raw / name[:7] / "anat" / f"{name}.nii.gz"
        image.parent.mkdir(parents=True)
        image.touch()
    (raw / "dataset_description.json").write_text("{}")
    given = [rating(name, 1 if n == 4 else 3, "ann") for n, name in enumerate(names)]
    given += [rating(name, 2 if n == 4 else 3, "bob") for n, name in enumerate(names)]
    given.append(rating("sub-999_T1w", 3, "bob"))
    (tmp_path / "r.json").write_text(json.dumps({"neuroferry-ratings": 1, "ratings": given}))
    (tmp_path / "broken.json").write_text("{")
    lines = collect(out, None, [tmp_path / "r.json", tmp_path / "broken.json"], None, raw)
    text = "\n".join(lines)
    assert "broken.json is not valid JSON" in text
    assert "1 rated images have no metrics" in text
    assert "17 ratings of ann, bob" in text
    assert "ann and bob: weighted kappa 0." in text
    assert (out / "qc_agreement.tsv").exists()
    found = table(out / "qc_verdicts.tsv")["sub-005_T1w"]
    assert (found["verdict"], found["rating"], found["raters"]) == ("look", "1.5", "2")
    scans = (raw / "sub-005" / "sub-005_scans.tsv").read_text()
    assert "anat/sub-005_T1w.nii.gz\tlook\t1.5\t2\tn/a" in scans


def test_the_same_ratings_can_be_written_into_the_dataset_later(tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    write_t1w(out, 1)
    (raw / "sub-001" / "anat").mkdir(parents=True)
    (raw / "sub-001" / "anat" / "sub-001_T1w.nii").touch()
    (raw / "dataset_description.json").write_text("{}")
    content = {"neuroferry-ratings": 1, "ratings": [rating("sub-001_T1w", 4, "ann")]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    collect(out, None, [tmp_path / "r.json"])
    collect(out, None, [], scans_dir=raw)
    assert "\taccept\t4\t1" in (raw / "sub-001" / "sub-001_scans.tsv").read_text()


def test_a_scanner_that_changed_is_named(tmp_path):
    shift = {"snr_total": -9}
    write_t1w(tmp_path, 50, drift=lambda n: shift if n >= 40 else {})
    lines = follow_scanners(tmp_path)
    assert any("snr_total" in line and "the first on 2026-02-14" in line for line in lines)
    rows = (tmp_path / "qc_drift.tsv").read_text().splitlines()
    assert sum("\tsnr_total\t" in row for row in rows) >= 10
    write_group_report(tmp_path, None)
    page = check_page(tmp_path / "index.html")
    assert page.having("section", id="drift")
    assert "2026-02-14" in page.text()
    assert any("baseline" in line for line in follow_scanners(tmp_path, baseline="60"))


def test_what_cannot_be_done_is_said(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="not a folder"):
        apply_thresholds(out)
    out.mkdir()
    with pytest.raises(InputError, match="no quality metrics"):
        apply_thresholds(out)
    write_t1w(out, 2)
    with pytest.raises(UsageError, match="--match needs --reference"):
        apply_thresholds(out, match=["EchoTime"])
    with pytest.raises(UsageError, match="above 0"):
        apply_thresholds(out, fd_threshold=0.0)
    with pytest.raises(InputError, match="is not a folder"):
        apply_thresholds(out, tmp_path / "gone")
    with pytest.raises(UsageError, match="Give files of ratings"):
        collect(out, None, [])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="No rating was found"):
        collect(out, None, [tmp_path / "x.json"])
    with pytest.raises(InputError, match="0 T1w images are rated"):
        learn_model(out)
    with pytest.raises(UsageError, match="not flair"):
        learn_model(out, modality="flair")
    for text in ("5", "soon"):
        with pytest.raises(UsageError, match="--baseline"):
            follow_scanners(out, baseline=text)
    assert not list(out.glob("qc_*"))


def test_the_baseline_stays_for_later_pages(tmp_path):
    write_t1w(tmp_path, 40, scanners=("A", "B"))
    follow_scanners(tmp_path, baseline="2026-01-25", column="MagneticFieldStrength")
    text = check_page(tmp_path / "index.html").text()
    assert "T1w, 3, Model A, 3 T, mprage: 20 scans" in text
    rules = read_rules(tmp_path / RULES_FILE)
    assert (str(rules.baseline), rules.scanner_column) == ("2026-01-25", "MagneticFieldStrength")
