"""BOLD runs in a participant's report."""

from report_study import BOLD_DESCS, check_page

from neuroferry.reports import write_group_report, write_subject_report
from neuroferry.reports.functional import FUNCTIONAL
from neuroferry.reports.gather import find_inputs, find_sessions
from neuroferry.reports.scans import ScanRun, find_runs, run_doubts, run_facts

ALL = (*BOLD_DESCS, "coreg", "sdc", "fieldmap")


def page_of(study, subject="01"):
    return check_page(write_subject_report(study.out, study.run_dir, subject))


def test_a_run_has_its_section_with_pictures_and_facts(study):
    study.whole().add_bold("01", "task-oneback_run-1", figures=ALL)
    page = page_of(study)
    text = page.text()
    for wanted in (
        "Functional runs",
        "task-oneback run-1",
        "156 of 2 s (5.2 min), the first 2 before steady state",
        "mean 0.14 mm from volume to volume, maximum 1.30 mm",
        "2 (1.3%)",
        "69 (median in the brain)",
        "34 white matter",
        "Confounds and carpet plot",
        "Field map",
    ):
        assert wanted in text, wanted
    assert len(page.having("figure", **{"class": "reportlet"})) == 5 + len(ALL)
    assert "Good" in page.text("p")
    (details,) = page.having("details", id="functional-1")
    assert "open" in details


def test_many_runs_are_folded_and_in_order(study):
    study.whole()
    for labels in ("task-rest_run-2", "task-rest_run-1", "task-a"):
        study.add_bold("01", labels)
    page = page_of(study)
    folded = [
        details for details in page.having("details") if "functional" in details.get("id", "")
    ]
    assert [details["id"] for details in folded] == [
        "functional-1",
        "functional-2",
        "functional-3",
    ]
    assert not any("open" in details for details in folded)
    names = [run.name for run in find_runs(FUNCTIONAL, study.out, "01")]
    assert names == ["task-a", "task-rest run-1", "task-rest run-2"]
    assert {"#functional-1", "#functional-2", "#functional-3", "#functional"} <= set(page.links)


def test_sessions_keep_their_runs_apart(study):
    study.whole(session="a")
    study.add_bold("01", session="a")
    study.add_bold("01", session="b")
    names = [run.name for run in find_runs(FUNCTIONAL, study.out, "01")]
    assert names == ["ses-a task-rest", "ses-b task-rest"]
    assert [s.label for s in find_sessions(study.out, "01")] == ["a"]
    page_of(study)


def test_optional_pictures_may_be_missing_others_not(study):
    study.whole().add_bold("01", figures=BOLD_DESCS)
    (run,) = find_runs(FUNCTIONAL, study.out, "01")
    assert {item.desc for item in run.reportlets} == set(BOLD_DESCS)
    assert run_doubts(run) == []
    study.add_bold("01", "task-x", figures=BOLD_DESCS[1:])
    (_, other) = find_runs(FUNCTIONAL, study.out, "01")
    (doubt,) = run_doubts(other)
    assert doubt == "Figures of task-x are missing: confounds and carpet plot."
    page = page_of(study)
    assert doubt in page.text()
    assert "Needs review" in page.text("p")


def test_a_broken_picture_counts_as_missing_even_if_optional(study):
    study.whole().add_bold("01", figures=ALL)
    path = study.out / "sub-01/figures/sub-01_task-rest_desc-coreg_bold.svg"
    path.write_text(path.read_text()[:-40])
    assert "alignment of bold and t1w" in page_of(study).text().lower()
    (run,) = find_runs(FUNCTIONAL, study.out, "01")
    assert run_doubts(run) == ["Figures of task-rest are missing: alignment of bold and t1w."]


def test_a_run_without_any_picture_is_named(study):
    study.whole().add_bold("01", figures=())
    (run,) = find_runs(FUNCTIONAL, study.out, "01")
    assert run_doubts(run) == ["There are no figures of task-rest."]
    assert page_of(study)


def test_doubtful_alignment_and_many_outliers_are_said(study):
    summary = {
        "Coregistration": {
            "verdict": "look",
            "reasons": ["it moved 40 mm."],
            "method": "boundary",
        },
        "MotionOutliers": {"Volumes": list(range(10, 64))},
    }
    study.whole().add_bold("01", summary=summary)
    text = page_of(study).text()
    assert "The alignment of task-rest with the T1w image may be wrong: it moved 40 mm." in text
    assert "35% of the volumes of task-rest are motion outliers." in text


def test_facts_of_correction_and_alignment():
    summary = {
        "DistortionCorrection": {
            "method": "pepolar",
            "median_size_mm": 1.24,
            "percentile_1_mm": -2.0,
            "percentile_99_mm": 6.1,
        },
        "Coregistration": {"verdict": "good", "method": "boundary", "from_header_mm": 13.3},
    }
    facts = dict(run_facts(ScanRun(FUNCTIONAL, "x", "x", (), summary)))
    assert facts["Distortion"] == (
        "corrected: images of opposite phase encoding; median shift 1.2 mm, 1st to 99th "
        "percentile -2.0 to 6.1 mm"
    )
    wanted = "looks good, boundary-based, 13.3 mm from the position in the headers"
    assert facts["Alignment with the T1w image"] == wanted
    assert run_facts(ScanRun(FUNCTIONAL, "x", "x", (), {})) == []
    assert dict(run_facts(ScanRun(FUNCTIONAL, "x", "x", (), {"a": 1}))) == {
        "Distortion": "not corrected"
    }


def test_a_broken_summary_leaves_the_pictures(study):
    study.whole().add_bold("01")
    path = study.out / "sub-01/figures/sub-01_task-rest_desc-summary_bold.json"
    for text in ("{", '{"CompCor": 3, "MotionOutliers": {}, "Coregistration": [1]}'):
        path.write_text(text)
        page = page_of(study)
        assert len(page.having("figure", **{"class": "reportlet"})) == 5 + len(BOLD_DESCS)


def test_bold_alone_has_no_anatomical_section(study):
    study.start("01")
    study.step("01", "compute_confounds")
    study.add_bold("01")
    study.end()
    page = page_of(study)
    assert "Anatomical images" not in page.text()
    assert "participant's left" in page.text()
    assert "Good" in page.text("p")
    write_group_report(study.out, study.run_dir)
    assert "sub-01" in check_page(study.out / "index.html").text()


def test_inputs_and_outputs_list_the_series(study):
    study.whole().add_bold("01")
    images = {image.name: dict(image.facts) for image in find_inputs(study.out, "01", study.raw)}
    facts = images["sub-01/func/sub-01_task-rest_bold.nii.gz"]
    assert facts["Voxels"] == "6 \u00d7 7 \u00d7 8"
    assert facts["Volumes"] == "9"
    assert facts["TR"] == "2.5 s"
    listed = page_of(study).having(
        "a", href="sub-01/func/sub-01_task-rest_desc-preproc_bold.nii.gz"
    )
    assert listed


def test_pictures_of_runs_do_not_share_names(study):
    study.whole().add_bold("01", "task-a")
    study.add_bold("01", "task-b")
    page = page_of(study)
    assert len(page.having("figure", **{"class": "reportlet"})) == 5 + 2 * len(BOLD_DESCS)


def test_the_overview_has_a_row_for_each_run(study):
    study.whole("01").add_bold("01", "task-a_run-1")
    study.add_bold("01", "task-a_run-2", summary={"Coregistration": {"verdict": "look"}})
    write_subject_report(study.out, study.run_dir, "01")
    write_group_report(study.out, study.run_dir)
    page = check_page(study.out / "index.html")
    assert {"sub-01.html#functional-1", "sub-01.html#functional-2", "group_bold.tsv"} <= set(
        page.links
    )
    subject = check_page(study.out / "sub-01.html")
    assert {"functional-1", "functional-2"} <= set(subject.ids)
    rows = (study.out / "group_bold.tsv").read_text().splitlines()
    names = ["bids_name", "alignment", "n_volumes", "fd_mean", "fd_max", "outliers", "tsnr"]
    assert rows[0].split("\t") == names
    values = ["156", "0.142", "1.3", "1.2987", "68.7"]
    assert rows[1].split("\t") == ["sub-01_task-a_run-1_bold", "n/a", *values]
    assert rows[2].split("\t") == ["sub-01_task-a_run-2_bold", "look", *values]
    # the buttons that show participants of one status apply to their runs, too
    levels = [row["data-level"] for row in page.having("tr") if "data-level" in row]
    assert levels == ["look"] * 3


def test_without_runs_the_overview_has_no_table_of_them(study):
    study.whole("01")
    write_group_report(study.out, study.run_dir)
    assert "Functional runs" not in check_page(study.out / "index.html").text()
    assert not (study.out / "group_bold.tsv").exists()


def test_volumes_without_a_usable_image_need_review(study):
    study.whole().add_bold("01", figures=ALL, summary={"UnusableVolumes": [34, 35, 36]})
    (run,) = find_runs(FUNCTIONAL, study.out, "01")
    (doubt,) = run_doubts(run)
    assert "no usable image in volumes 34-36 (counted from 0)" in doubt
    assert dict(run_facts(run))["Volumes without a usable image"].startswith("3: volumes 34-36")
    assert "Needs review" in page_of(study).text("p")


def test_empty_volumes_before_steady_state_are_not_missed_twice(study):
    study.whole()
    summary = {"NumberOfVolumes": 22, "NonSteadyStateVolumes": 2, "UnusableVolumes": [0, 1]}
    study.add_bold("01", "task-a", figures=ALL, summary=summary)
    study.add_bold("01", "task-b", figures=ALL, summary={**summary, "UnusableVolumes": [0, 2]})
    enough, short = find_runs(FUNCTIONAL, study.out, "01")
    assert not any("usable volumes" in doubt for doubt in run_doubts(enough))
    assert any("has 19 usable volumes" in doubt for doubt in run_doubts(short))
