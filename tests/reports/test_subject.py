"""The report of one participant."""

import json
import re

import pytest
from report_study import check_page

from neuroferry.reports import write_subject_report

TIMES = "\u00d7"


def write(study, subject="01"):
    path = write_subject_report(study.out, study.run_dir, subject)
    assert path == study.out / f"sub-{subject}.html"
    return check_page(path)


def test_a_good_participant(study):
    page = write(study.whole())
    text = page.text()
    assert "Participant sub-01" in text
    assert page.having("div", **{"class": "banner good"})
    for fact in ("1.2.3", "sha256:abc", "a-laptop", "4711", "7.5 GB", "--mem '8 GB'", "0.93 of 1"):
        assert fact in text, fact
    for fact in (
        f"6 {TIMES} 7 {TIMES} 8",
        f"1.00 {TIMES} 1.50 {TIMES} 2.00 mm",
        "LAS",
        "3 T",
        "2.3 s",
        "Some & Sons",
    ):
        assert fact in text, fact
    assert "No warnings and no errors." in text
    assert len(page.having("figure", **{"class": "reportlet"})) == 5
    assert "correct bias" in page.text("svg")
    assert "12 s" in page.text("svg")
    assert "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz" in page.links
    assert "T1w image, corrected" in text


def test_the_page_repeats_to_the_byte(study):
    study.whole()
    path = write_subject_report(study.out, study.run_dir, "01")
    first = path.read_bytes()
    path.unlink()
    assert write_subject_report(study.out, study.run_dir, "01").read_bytes() == first


def test_links_lead_to_files_or_citations_only(study):
    page = write(study.whole())
    for link in page.links:
        if link.startswith(("https://doi.org/10.", "#")) or link == "index.html":
            continue
        assert (study.out / link).exists(), link


def test_links_to_sections_go_on_in_another_line(study):
    """With sessions, BOLD and DWI there are more of them than a window of 1,300 pixels shows."""
    study.start("01")
    study.end()
    path = write_subject_report(study.out, study.run_dir, "01")
    rules = re.findall(r"(nav\.top[^{]*?) \{([^}]*)\}", path.read_text(encoding="utf-8"))
    assert any(name == "nav.top ul" and "flex-wrap: wrap" in rule for name, rule in rules)
    assert not any(name == "nav.top" and "overflow" in rule for name, rule in rules)


def test_metrics_say_what_they_mean(study):
    page = write(study.whole(metrics={"wm2max": 0.3, "qi_1": None, "novel_metric": 7}))
    text = page.text()
    assert "Contrast-to-noise ratio cnr" in text
    assert "below typical" in text
    assert "There is no air in this image." in text
    assert "novel_metric" in text
    assert page.having("table", **{"class": "stack metrics"})


def test_methods_are_cited(study):
    page = write(study.whole())
    text = page.text()
    assert "[1, 2]" in text
    assert "[3]" in text
    assert "[unheardof]" in text
    assert {"ref-nipype", "ref-bids", "ref-tustison2010"} <= set(page.ids)
    assert "https://doi.org/10.1109/TMI.2010.2046908" in page.links
    assert "https://doi.org/10.1371/journal.pone.0184661" in page.links


def test_licences_of_what_took_part_allow_commercial_use(study):
    study.whole()
    text = write(study).text()
    assert "All licences of the software and templates used for these results allow" in text
    assert "neuroferry, Nipype, NiWorkflows" in text
    assert "MRtrix3" not in text
    assert "10,698,065" not in text
    methods = (
        "Noise was removed [@veraart2016], then ringing [@kellner2016] with MRtrix3 [@mrtrix3]."
    )
    (study.run_dir / "methods_sub-01.md").write_text(methods)
    text = write(study).text()
    assert "MPL-2.0" in text
    assert "10,698,065" in text
    (study.run_dir / "methods_sub-01.md").unlink()
    (study.run_dir / "methods.md").unlink(missing_ok=True)
    assert "commercial use" not in write(study).text()


def test_a_doubtful_brain_mask_is_to_be_looked_at(study):
    brain = {"verdict": "look", "confidence": 0.31, "reasons": ["its volume of 700 ml is small"]}
    page = write(study.whole(brain=brain))
    assert page.having("div", **{"class": "banner look"})
    text = page.text()
    assert "Needs review" in text
    assert "confidence 0.31 of 1): its volume of 700 ml is small" in text


def test_a_participant_that_failed_at_the_first_step(study):
    study.start("01")
    trace = "Traceback (most recent call last):\nneuroferry.errors.InputError: <b>broken</b>"
    step = study.step(
        "01",
        "orient_t1w",
        "step_failed",
        message="sub-01_T1w.nii.gz ends too early",
        crashfile="/out/logs/crash.txt",
        traceback=trace,
    )
    study.step("01", "correct_bias", "step_skipped", because=step)
    study.end(1)
    page = write(study)
    text = page.text()
    assert page.having("div", **{"class": "banner failed"})
    assert "The step “orient t1w” failed: sub-01_T1w.nii.gz ends too early." in text
    assert "1 step was skipped as a result." in text
    assert "repair or replace it" in text
    assert "/out/logs/crash.txt" in text
    assert "<b>broken</b>" in page.text("pre")
    assert "correct bias (anatomy > anat), because “orient t1w” failed" in text
    assert not page.having("figure", **{"class": "reportlet"})
    assert "There are no figures" in text


def test_a_participant_whose_input_was_refused(study):
    study.start("01")
    study.record.write(
        "problem", subject="01", severity="error", message="It is empty.", path="/bids/a.nii.gz"
    )
    study.end(65)
    text = write(study).text()
    assert "Failed It is empty. Nothing was computed." in text
    assert "/bids/a.nii.gz" in text


def test_a_run_that_was_cut_off(study):
    study.start("01")
    study.step("01", "correct_bias", "step_started")
    study.record.write("run_ended", exit_code=130, reason="it was interrupted")
    page = write(study)
    assert "130, it was interrupted" in page.text()


def test_a_run_without_an_end(study):
    study.start("01")
    study.step("01", "correct_bias", "step_started")
    page = write(study)
    assert page.having("div", **{"class": "banner failed"})
    assert "1 step had not finished when the run ended." in page.text()
    assert "not recorded" in page.text()


def test_a_participant_that_no_record_knows(study):
    page = write(study, "99")
    assert page.having("div", **{"class": "banner failed"})
    assert "Nothing was computed in this run." in page.text()


HOSTILE = "<script>alert(1)</script> & \"x\" 'y' {{ 7 * 7 }} </pre></style>"


def test_odd_text_stays_text(study):
    study.start("01", command=HOSTILE, host=HOSTILE, image=HOSTILE)
    for severity in ("warning", "error"):
        study.record.write(
            "problem", subject="01", severity=severity, message=HOSTILE, path=HOSTILE
        )
    study.step("01", HOSTILE.replace(".", ""))
    study.step("01", "b", "step_failed", message=HOSTILE, traceback=HOSTILE, crashfile=HOSTILE)
    study.add("01", metrics={HOSTILE: 3}, brain={"verdict": "look", "reasons": [HOSTILE]})
    (study.run_dir / "methods_sub-01.md").write_text(f"{HOSTILE} [@tustison2010]\n\n# {HOSTILE}\n")
    study.end(1)
    page = write(study)
    assert "alert(1)" not in page.text("script")
    assert len(page.having("script")) == 2  # of every page, and of ratings
    assert page.text().count("<script>alert(1)</script>") >= 8
    assert "49" not in re.findall(r"'y' (\S+)", page.text())


def test_warnings_do_not_change_the_status_but_are_told(study):
    study.start("01")
    study.record.write(
        "problem", subject=None, severity="warning", message="No README.", path=None
    )
    study.record.write("problem", subject="01", severity="warning", message="No TR.", path=None)
    study.record.write("problem", subject="02", severity="error", message="Not me.", path=None)
    study.step("01", "a")
    study.add("01")
    study.end()
    page = write(study)
    text = page.text()
    assert page.having("div", **{"class": "banner good"})
    assert "2 warnings: see “Messages”." in text
    assert "Warning about the dataset: No README." in text
    assert "Warning: No TR." in text
    assert "Not me." not in text


def test_sessions_have_a_section_each(study):
    study.start("01")
    study.step("01", "a")
    study.add("01", "before")
    study.add("01", "after", figures=("conform", "brain"), brain={"verdict": "look"})
    study.end()
    page = write(study)
    text = page.text()
    assert text.index("Session after") < text.index("Session before")
    assert {"session-1", "session-2"} <= set(page.ids)
    assert len(page.having("figure", **{"class": "reportlet"})) == 7
    assert (
        "Figures of session after are missing: bias field correction, grey matter, "
        "white matter and cerebrospinal fluid, overlap with the template." in text
    )
    assert "The brain mask of session after may be wrong" in text
    assert "sub-01_ses-before_T1w" in text


def test_runs_have_a_table_each(study):
    study.start("01")
    study.step("01", "a")
    study.add("01", run=1)
    study.add("01", run=2)
    study.end()
    text = write(study).text()
    assert "sub-01_run-1_T1w" in text
    assert "sub-01_run-2_T1w" in text


@pytest.mark.parametrize("content", ["", "<svg", "not xml at all", "<html xmlns='x'></html>"])
def test_a_broken_picture_counts_as_missing(study, content):
    study.whole()
    (study.out / "sub-01" / "figures" / "sub-01_desc-brain_T1w.svg").write_text(content)
    page = write(study)
    assert page.having("div", **{"class": "banner look"})
    assert "Figures are missing: brain mask." in page.text()


def test_broken_sidecars_do_not_stop_the_page(study):
    study.whole()
    for path in (study.out / "sub-01" / "anat").glob("*.json"):
        path.write_text("{ not json")
    (study.raw / "sub-01" / "anat" / "sub-01_T1w.json").write_text("[]")
    (study.raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"\x1f\x8bjunk")
    text = write(study).text()
    assert "sub-01/anat/sub-01_T1w.nii.gz" in text  # found in the input dataset itself
    assert "its header cannot be read" in text
    assert "is not a JSON object" in text


def test_an_input_that_is_gone_is_still_named(study):
    study.whole()
    (study.raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz").unlink()
    text = write(study).text()
    assert "sub-01/anat/sub-01_T1w.nii.gz" in text
    assert "no longer readable" in text


def test_steps_taken_over_show_the_times_measured_before(study):
    study.whole()
    later = study.out / "logs" / "20260103T000000Z-2"
    study.run_dir, study.record.path = later, later / "events.jsonl"
    study.start("01")
    study.step("01", "correct_bias", cached=True)
    study.end()
    page = write(study)
    assert "1 of them (pale) were reused from an earlier run." in page.text()
    assert page.having("rect", **{"class": "time cached"})
    assert "12 s" in page.text("svg")


def test_memory_beyond_what_was_set_aside_is_marked(study):
    study.start("01")
    study.step("01", "a", seconds=3.0, cpu_seconds=2.0, peak_gb=1.5, mem_gb=1.0)
    study.add("01")
    study.end()
    page = write(study)
    assert page.having("rect", **{"class": "memory over"})
    assert page.having("path", **{"class": "mark"})


def test_a_half_written_record_is_read_as_far_as_it_goes(study):
    study.whole()
    with study.record.path.open("a") as stream:
        stream.write('{"event": "problem", "subj')
    assert write(study).having("div", **{"class": "banner good"})


def test_the_page_is_not_left_half_written(study, monkeypatch):
    study.whole()
    page = write_subject_report(study.out, study.run_dir, "01")
    first = page.read_bytes()
    study.step("01", "another")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="no space is left"):
        write_subject_report(study.out, study.run_dir, "01")
    assert page.read_bytes() == first
    assert [p.name for p in study.out.iterdir() if p.name.endswith(".part")] == []


def test_nireports_reads_the_same_layout(study):
    from importlib.resources import files

    from nireports.assembler.report import Report

    study.whole()
    layout = files("neuroferry.configs").joinpath("report.yml")
    report = Report(study.out, "id", bootstrap_file=layout, plugins=[], subject="01")
    (section,) = report.sections
    assert [r.subtitle for r in section.reportlets][2] == "Brain mask"
    assert len(section.reportlets) == 5


def test_sizes_and_json_of_the_study_are_what_the_page_says(study):
    page = write(study.whole())
    size = (study.out / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz").stat().st_size
    assert size == 2048
    assert "2.0 kB" in page.text()
    assert json.loads((study.out / "dataset_description.json").read_text())["DatasetLinks"]
