"""The overview of all participants."""

import csv
import json
import re

from report_study import Study, check_page

from neuroferry.reports import write_group_report, write_subject_report
from neuroferry.reports.charts import robust_z


def write(study, *subjects):
    for subject in subjects:
        write_subject_report(study.out, study.run_dir, subject)
    path = write_group_report(study.out, study.run_dir)
    assert path == study.out / "index.html"
    return check_page(path)


def many(study, labels, odd="05"):
    study.start(*labels)
    for n, label in enumerate(labels):
        study.step(label, "a")
        study.add(label, metrics={"cnr": 3 + 0.01 * n if label != odd else 0.5})
    study.end()


def embedded(page):
    """Read the data that the page's script works on."""
    (text,) = re.findall(r'id="quality-data">(.*?)</script>', page.raw, re.DOTALL)
    return json.loads(text)


def rows(study):
    with (study.out / "group_T1w.tsv").open() as stream:
        return {row["bids_name"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_everybody_is_listed_with_status_and_a_link(study):
    labels = [f"{n:02d}" for n in range(1, 9)]
    many(study, labels[:6])
    study.start(*labels)
    study.add("07", brain={"verdict": "look", "confidence": 0.2})
    study.step("07", "a")
    study.step("08", "a", "step_failed", message="it broke")
    page = write(study, *labels)
    text = page.text()
    assert "Overview of 8 participants" in text
    assert {f"sub-{label}.html" for label in labels} <= set(page.links)
    assert "Good 6" in text
    assert "Needs review 1" in text
    assert "Failed 1" in text
    assert "The step “a” failed: it broke." in text
    levels = [row["data-level"] for row in page.having("tr") if "data-level" in row]
    assert levels == ["good"] * 6 + ["look", "failed"]


def test_outliers_are_marked_and_lead_to_their_page(study):
    labels = [f"{n:02d}" for n in range(1, 8)]
    many(study, labels)
    page = write(study, *labels)
    assert "Outliers: cnr." in page.text()
    assert len(page.having("td", **{"class": "number odd"})) == 1
    (t1w,) = embedded(page)["modalities"]
    assert t1w["names"][4] == "sub-05_T1w"
    assert t1w["links"][4] == "sub-05.html#sub-05_T1w"
    verdicts = (study.out / "qc_verdicts.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in verdicts if "\tlook\t" in line] == ["sub-05_T1w"]


def test_few_images_have_no_outliers(study):
    many(study, ["01", "02", "05"])
    page = write(study)
    assert not page.having("td", **{"class": "number odd"})
    assert "Outliers: " not in page.text()


def test_the_table_holds_every_metric(study):
    many(study, ["01", "02"])
    study.add("02", metrics={"qi_1": None, "efc": 0.25})
    write(study)
    table = rows(study)
    assert set(table) == {"sub-01_T1w", "sub-02_T1w"}
    assert table["sub-02_T1w"]["efc"] == "0.25"
    assert table["sub-02_T1w"]["qi_1"] == "n/a"
    assert table["sub-02_T1w"]["status"] == "good"
    assert table["sub-02_T1w"]["brain_mask_confidence"] == "0.93"


def test_participants_of_earlier_runs_stay(study, tmp_path):
    study.whole("01")
    first = study.run_dir
    study.run_dir = study.out / "logs" / "20260109T000000Z-2"
    study.record.path = study.run_dir / "events.jsonl"
    study.whole("02")
    page = write(study)
    assert "sub-01_T1w" in page.text()
    assert "sub-02_T1w" in page.text()
    assert study.run_dir.name in page.text()
    assert first.name not in page.text()


def test_a_name_without_a_page_is_no_link(study):
    study.whole("01")
    page = write(study)
    assert "sub-01.html" not in page.links


def test_a_run_that_failed_for_all_has_an_overview(study):
    study.start("01")
    study.record.write("problem", subject="01", severity="error", message="<b>Empty.", path=None)
    study.end(65)
    page = write(study, "01")
    assert "Failed 1" in page.text()
    assert "<b>Empty." in page.text()
    assert not page.having("script", id="quality-data")


def test_the_overview_repeats_to_the_byte(study):
    many(study, ["01", "02", "03"])
    path = write_group_report(study.out, study.run_dir)
    first = path.read_bytes(), (study.out / "group_T1w.tsv").read_bytes()
    path.unlink()
    write_group_report(study.out, study.run_dir)
    assert (path.read_bytes(), (study.out / "group_T1w.tsv").read_bytes()) == first


def test_doubts_about_metrics_count_here_as_on_the_page(study):
    study.whole()
    path = study.out / "sub-01" / "anat" / "sub-01_desc-iqms_T1w.json"
    document = json.loads(path.read_text())
    document["provenance"]["warnings"]["doubts"] = ["The mask of the metrics may be wrong."]
    path.write_text(json.dumps(document))
    own = write_subject_report(study.out, study.run_dir, "01").read_text()
    everybody = write_group_report(study.out, study.run_dir).read_text()
    for page in (own, everybody):
        assert "Look at sub-01_T1w. The mask of the metrics may be wrong." in page


def test_metrics_alone_are_listed(study):
    study.whole()
    for path in (study.out / "sub-01").rglob("*"):
        if path.is_file() and "_desc-iqms_" not in path.name:
            path.unlink()
    page = check_page(write_group_report(study.out, study.run_dir))
    (row,) = [row for row in page.having("tr") if "data-level" in row]
    assert row["data-level"] == "good"
    assert "sub-01_T1w" in page.text()
    (scan,) = csv.DictReader((study.out / "group_T1w.tsv").open(), delimiter="\t")
    assert (scan["bids_name"], scan["status"]) == ("sub-01_T1w", "good")


def test_robust_z_is_the_ordinary_one_for_normal_values():
    import numpy as np

    values = np.random.default_rng(0).normal(10, 2, 4001)
    np.testing.assert_allclose(robust_z(values.tolist()), (values - 10) / 2, atol=0.2)
    assert robust_z([1, 1, 1, 5]) == [0, 0, 0, 0]


def test_pages_of_many_participants_read_the_record_once(tmp_path):
    import time

    study = Study(tmp_path)
    labels = [f"{n:04d}" for n in range(300)]
    steps = [f"step_{n}" for n in range(30)]
    study.start(*labels)
    for label in labels:
        for name in steps:
            study.step(label, name)
        study.add(label, figures=())
    study.end()
    start = time.process_time()
    for label in labels:
        write_subject_report(study.out, study.run_dir, label)
    write_group_report(study.out, study.run_dir)
    assert time.process_time() - start < 15
