"""DWI runs in a participant's report."""

import json

from report_study import check_page

from neuroferry.reports import write_group_report, write_subject_report
from neuroferry.reports.diffusion import DIFFUSION, JOINED
from neuroferry.reports.gather import find_inputs
from neuroferry.reports.scans import ScanRun, find_runs, run_doubts, run_facts

ALWAYS = ("motion", "gradients", "brain")
SUMMARY = {
    "NumberOfVolumes": 34,
    "FramewiseDisplacement": {"Mean": 0.31, "Maximum": 2.4},
    "OutlierSlices": {"Count": 8, "Fraction": 0.004},
    "Gradients": {"b0_volumes": 4, "shells": [{"b": 1000.0, "volumes": 30}]},
    "Orientation": {"verdict": "right", "text": "The axes of the gradients agree with the data."},
    "EddyCurrents": True,
    "Models": ["CSD", "DTI"],
    "Bundles": {"Left Arcuate": 120, "Right Arcuate": 0},
    "SNR": 27.4,
}


def add_dwi(study, labels="", *, figures=ALWAYS, **summary):
    """Write one DWI run's table, figures and summary."""
    name = "_".join(filter(None, ["sub-01", labels]))
    dwi, pictures = study.out / "sub-01" / "dwi", study.out / "sub-01" / "figures"
    for folder in (dwi, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    (dwi / f"{name}_desc-preproc_dwi.nii.gz").write_bytes(b"0" * 1024)
    about = {"Sources": [f"bids:raw:sub-01/dwi/{name}_dwi.nii.gz"]}
    (dwi / f"{name}_desc-preproc_dwi.json").write_text(json.dumps(about))
    (dwi / f"{name}_desc-confounds_timeseries.tsv").write_text("trans_x\n0\n")
    for desc in figures:
        (pictures / f"{name}_desc-{desc}_dwi.svg").write_text(study.figure)
    path = pictures / f"{name}_desc-summary_dwi.json"
    path.write_text(json.dumps({**SUMMARY, **summary}))


def test_a_run_has_its_section_beside_the_functional_ones(study):
    study.whole().add_bold("01")
    add_dwi(study, figures=(*ALWAYS, "tensor", "bundles"), Spaces=["T1w"])
    page = check_page(write_subject_report(study.out, study.run_dir, "01"))
    text = page.text()
    for wanted in (
        "Functional runs",
        "Diffusion runs",
        "4 b0, 30 of b = 1000",
        "mean 0.31 mm from volume to volume, maximum 2.40 mm",
        "0.40%",
        "27 (b0, median in the brain)",
        "1 of 2 found; missing: Right Arcuate",
        "Maps of the diffusion tensor",
        "Also in the space of",
    ):
        assert wanted in text, wanted
    assert {"#functional-1", "#diffusion-1"} <= set(page.links)
    assert "Good" in page.text("p")


def test_wrong_axes_and_lost_slices_are_doubts(study):
    study.whole()
    wrong = {"verdict": "wrong", "text": "The axes of the gradients do not agree with the data."}
    add_dwi(study, Orientation=wrong, OutlierSlices={"Count": 90, "Fraction": 0.09})
    (run,) = find_runs(DIFFUSION, study.out, "01")
    assert run_doubts(run) == [
        "9% of the slices of DWI have signal dropout.",
        "DWI: The axes of the gradients do not agree with the data.",
    ]
    page = check_page(write_subject_report(study.out, study.run_dir, "01"))
    assert "Needs review" in page.text("p")


def test_replaced_slices_are_counted_and_mostly_lost_volumes_doubted(study):
    study.whole()
    replaced = {
        "LostSlices": 40,
        "ReplacedSlices": 38,
        "Volumes": {"4": 30, "9": 8},
        "MostlyLostVolumes": [4],
        "Warning": "",
    }
    add_dwi(study, SliceReplacement=replaced)
    (run,) = find_runs(DIFFUSION, study.out, "01")
    assert "Also in the space of" not in dict(run_facts(run))
    assert dict(run_facts(run))["Slices with dropout"] == (
        "0.40%; 38 of 40 replaced by predictions from the other volumes, in 2 volumes"
    )
    assert run_doubts(run) == ["DWI: most slices of volume 4 have signal dropout."]


def test_what_is_not_known_is_not_said():
    assert run_facts(ScanRun(DIFFUSION, "x", "x", (), {})) == []
    few = {"EddyCurrents": False}
    assert dict(run_facts(ScanRun(DIFFUSION, "x", "x", (), few))) == {
        "Eddy currents": "not corrected",
        "Distortion": "not corrected",
    }


def test_diffusion_alone_has_no_anatomical_section(study):
    study.start("01")
    study.step("01", "fit_tensor")
    add_dwi(study)
    study.end()
    page = check_page(write_subject_report(study.out, study.run_dir, "01"))
    assert "Anatomical images" not in page.text()
    assert [image.name for image in find_inputs(study.out, "01", study.raw)] == [
        "sub-01/dwi/sub-01_dwi.nii.gz"
    ]


def test_the_overview_has_a_row_for_each_run(study):
    study.whole()
    add_dwi(study, "acq-a")
    add_dwi(study, "acq-b")
    write_subject_report(study.out, study.run_dir, "01")
    write_group_report(study.out, study.run_dir)
    page = check_page(study.out / "index.html")
    assert {"sub-01.html#diffusion-1", "sub-01.html#diffusion-2"} <= set(page.links)
    rows = (study.out / "group_dwi.tsv").read_text().splitlines()
    names = ["n_volumes", "fd_mean", "fd_max", "outlier_slices", "snr"]
    assert rows[0].split("\t") == ["bids_name", "alignment", *names]
    assert rows[1].split("\t") == ["sub-01_acq-a_dwi", "n/a", "34", "0.31", "2.4", "0.4", "27.4"]


def add_joined(study, factor):
    """Write the results of two joined runs."""
    name = "sub-01_ses-1_rec-joined"
    dwi, pictures = study.out / "sub-01" / "ses-1" / "dwi", study.out / "sub-01" / "figures"
    for folder in (dwi, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    (dwi / f"{name}_space-T1w_desc-preproc_dwi.json").write_text("{}")
    for desc in ("gradients", "tensor"):
        (pictures / f"{name}_desc-{desc}_dwimap.svg").write_text(study.figure)
    runs = [("sub-01_ses-1_run-1_dwi.nii.gz", 1.0), ("sub-01_ses-1_run-2_dwi.nii.gz", factor)]
    rows = [
        {"Image": image, "NumberOfVolumes": 34, "BrightnessFactor": number}
        for image, number in runs
    ]
    about = {"Runs": rows, "NumberOfVolumes": 68, "Models": ["DKI", "DTI"]}
    (pictures / f"{name}_desc-summary_dwimap.json").write_text(json.dumps(about))


def test_joined_runs_have_a_section_of_their_own(study):
    study.whole()
    add_joined(study, 0.98)
    assert find_runs(DIFFUSION, study.out, "01") == ()
    (run,) = find_runs(JOINED, study.out, "01")
    assert run.name == "ses-1 rec-joined"
    assert ("sub-01_ses-1_run-2_dwi", "34 volumes, multiplied by 0.980") in run_facts(run)
    assert run_doubts(run) == []
    text = check_page(write_subject_report(study.out, study.run_dir, "01")).text()
    assert "Diffusion runs, joined" in text
    overview = check_page(write_group_report(study.out, study.run_dir)).text()
    assert "Diffusion runs, joined" not in overview


def test_runs_that_differ_much_in_brightness_are_doubted(study):
    study.whole()
    add_joined(study, 0.5)
    (run,) = find_runs(JOINED, study.out, "01")
    (doubt,) = run_doubts(run)
    assert "sub-01_ses-1_run-2_dwi.nii.gz is 2.00 times as bright" in doubt


def doubts_of(study, **summary):
    add_dwi(study, **summary)
    (run,) = find_runs(DIFFUSION, study.out, "01")
    return run_doubts(run), dict(run_facts(run))


def test_fibre_orientations_of_few_directions_need_review(study):
    caveats = ["16 directions determine orders up to 4 only."]
    fod = {"LMax": 4, "NumberOfDirections": 16, "Caveats": caveats}
    (doubt,), facts = doubts_of(study.whole(), FibreOrientations=fod)
    assert "come from 16 directions" in doubt
    assert facts["Fibre orientations"] == f"Order 4, from 16 directions. {caveats[0]}"
    fod = {"LMax": 6, "NumberOfDirections": 30, "Caveats": []}
    assert doubts_of(study, FibreOrientations=fod)[0] == []


def test_models_that_were_left_out_are_named(study):
    why = "spherical deconvolution needs 15 directions of one b-value; the run has 12"
    doubts, facts = doubts_of(study.whole(), Models=["DTI"], ModelsLeftOut={"CSD": why})
    assert doubts == []
    assert facts["Models left out"] == f"CSD: {why}"


def test_volumes_that_were_left_out_need_review(study):
    found = {"b0_volumes": 4, "shells": [], "left_out_volumes": [3, 4, 9]}
    (doubt,), facts = doubts_of(study.whole(), Gradients=found)
    assert "no usable image in volumes 3-4, 9 (counted from 0)" in doubt
    assert facts["Volumes left out"] == "volumes 3-4, 9 (counted from 0)"


def test_tensors_that_no_brain_has_need_review(study):
    sound = {
        "MedianFA": 0.24,
        "MedianMD": 0.0009,
        "Voxels": 1000,
        "VoxelsWithNegativeEigenvalues": 12,
    }
    assert doubts_of(study.whole(), Tensor=sound)[0] == []
    for wrong, word in (
        ({"MedianFA": 0.71}, "median FA is 0.71"),
        ({"MedianMD": 9e-5}, "median diffusivity is 9e-05"),
        ({"VoxelsWithNegativeEigenvalues": 240}, "24% of the tensors"),
    ):
        (doubt,), _ = doubts_of(study, Tensor={**sound, **wrong})
        assert word in doubt
    (doubt,), _ = doubts_of(study, SNR=3.2)
    assert "is 3.2" in doubt
    (doubt,), _ = doubts_of(study, Bundles={"A": 0, "B": 0, "C": 9})
    assert "only 1 of 3 bundles" in doubt
