"""Series of every vendor and form become a valid dataset, without the patient's data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scanner import PATIENT, SLICES, START, TR, VOLUMES, made, received, scan

from neuroferry.files import copy_file
from neuroferry.intake import place
from neuroferry.intake.convert import process_series
from neuroferry.intake.explain import read_folder
from neuroferry.intake.place import recover
from neuroferry.intake.rules import read_rules
from neuroferry.phantom.dicom import Patient, faults, localiser, multiband

pytestmark = pytest.mark.slow

FORMS = [
    ("mosaic", "siemens"),
    ("classic", "siemens"),
    ("classic", "ge"),
    ("classic", "philips"),
    ("enhanced", "siemens"),
    ("enhanced", "philips"),
]
RULES = read_rules()


class Intake:
    """An intake in a folder, with shorthands."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder, self.count = folder / "root", folder, 0

    def __call__(self, *groups, rules=RULES, key=""):
        self.count += 1
        series = received(self.folder / f"in{self.count}", *groups, key=key)
        return process_series(series, rules, self.root, self.folder / "scratch")

    @property
    def bids(self) -> Path:
        return self.root / "bids"

    def images(self):
        return sorted(
            str(path.relative_to(self.bids))
            for path in self.bids.rglob("*.nii.gz")
            if "sourcedata" not in path.parts
        )

    def sidecar(self, name):
        return json.loads((self.bids / name).read_text())


@pytest.fixture
def intake(tmp_path) -> Intake:
    return Intake(tmp_path)


def errors(folder):
    program = Path(sysconfig.get_path("scripts")) / "bids-validator-deno"
    done = subprocess.run(
        [program, "--format", "json", folder], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


def holds(folder: Path, *words: str):
    """Find words in the content of files, whatever their format, and in their names."""
    raws = [word.encode() for word in words]
    return [
        path
        for path in folder.rglob("*")
        if any(word.lower() in str(path.relative_to(folder)).lower() for word in words)
        or (path.is_file() and any(raw.lower() in path.read_bytes().lower() for raw in raws))
    ]


@pytest.mark.parametrize(("form", "vendor"), FORMS, ids="-".join)
def test_a_session_becomes_a_valid_dataset(intake, form, vendor):
    session = {
        "anat-T1w": "sub-01/anat/sub-01_T1w",
        "func_task-rest_run-1": "sub-01/func/sub-01_task-rest_run-01_bold",
        "dwi_acq-b1000": "sub-01/dwi/sub-01_acq-b1000_dwi",
    }
    for number, (protocol, stem) in enumerate(session.items(), 2):
        series = scan(protocol, number)
        outcome = intake(made(series, form, vendor))
        assert (outcome.fate, outcome.subject, outcome.session) == ("placed", "01", None)
        assert f"{stem}.nii.gz" in outcome.files
        image = nb.as_closest_canonical(nb.load(intake.bids / f"{stem}.nii.gz"))
        voxels = np.asanyarray(image.dataobj).reshape(8, 10, SLICES, -1)
        assert np.array_equal(voxels, series.data[::-1, ::-1])
        if protocol.startswith("func"):
            sidecar = intake.sidecar(f"{stem}.json")
            assert sidecar["RepetitionTime"] == TR
            assert sidecar["TaskName"] == "rest"
            assert nb.load(intake.bids / f"{stem}.nii.gz").header["pixdim"][4] == TR
    assert errors(intake.bids) == []
    assert holds(intake.bids, "Mustermann", "Erika", "778812", "19640812", "20240305") == []


def test_field_maps_name_the_runs_that_they_are_meant_for(intake):
    for number, way in enumerate(("AP", "PA"), 2):
        axis = {"phase_positive": way == "PA"}
        intake(made(scan(f"fmap_dir-{way}", number, **axis)))
    intake(made(scan("func_task-rest", 4)))
    intake(made(scan("func_task-late", 5, minutes=300)))
    maps = [f"sub-01/fmap/sub-01_dir-{way}_epi.json" for way in ("AP", "PA")]
    run = "bids::sub-01/func/sub-01_task-rest_bold.nii.gz"
    for name in maps:
        assert run in intake.sidecar(name)["IntendedFor"]
    assert {intake.sidecar(name)["PhaseEncodingDirection"] for name in maps} == {"j", "j-"}
    assert errors(intake.bids) == []


def test_magnitude_and_phase_of_a_gradient_echo_field_map_get_their_suffixes(intake):
    echoes = [
        scan(
            "fmap",
            3,
            suffix="magnitude",
            slice_times=None,
            uid="gre",
            echo=echo,
            n_echoes=2,
            sidecar={"RepetitionTime": 0.6, "EchoTime": time, "FlipAngle": 60},
        )
        for echo, time in ((1, 0.00492), (2, 0.00738))
    ]
    outcome = intake(*(made(one, "classic") for one in echoes))
    assert [Path(name).name for name in outcome.files if name.endswith(".nii.gz")] == [
        "sub-01_magnitude1.nii.gz",
        "sub-01_magnitude2.nii.gz",
    ]
    difference = scan(
        "fmap",
        4,
        suffix="phasediff",
        slice_times=None,
        phase_image=True,
        sidecar={"RepetitionTime": 0.6, "EchoTime": 0.00738, "FlipAngle": 60},
    )
    outcome = intake(made(difference, "classic"))
    assert "sub-01/fmap/sub-01_phasediff.nii.gz" in outcome.files
    sidecar = intake.sidecar("sub-01/fmap/sub-01_phasediff.json")
    assert (sidecar["EchoTime1"], sidecar["EchoTime2"]) == (0.00492, 0.00738)
    assert errors(intake.bids) == []


def test_the_phase_images_of_a_run_are_its_other_part(intake):
    series = scan("func_task-rest")
    intake(made(series))
    outcome = intake(list(faults.phase(made(series))))
    assert "sub-01/func/sub-01_task-rest_part-phase_bold.nii.gz" in outcome.files
    assert errors(intake.bids) == []


def test_a_series_without_a_name_is_kept_without_the_patient(intake, tmp_path):
    outcome = intake(made(scan("t1_mprage_Mustermann"), "classic"))
    assert outcome.fate == "unassigned"
    assert "no rule" in outcome.reason.lower()
    folder = intake.bids / "sourcedata" / "unassigned" / "sub-01" / "002-t1_mprage_removed"
    assert len(list(folder.glob("*.dcm"))) == SLICES
    assert outcome.reason in (folder / "reason.txt").read_text()
    assert intake.images() == []
    assert holds(intake.bids, "Mustermann", "Erika", "778812", "19640812", "20240305") == []
    # a rule is written, and what was kept is sent again: the same participant
    site = tmp_path / "site.toml"
    site.write_text('[[series]]\nprotocol = "mprage"\ndatatype = "anat"\nsuffix = "T1w"\n')
    (again,) = read_folder(folder)
    outcome = process_series(again, read_rules(site), intake.root, tmp_path / "scratch")
    assert (outcome.fate, outcome.subject) == ("placed", "01")
    scans = (intake.bids / "sub-01" / "sub-01_scans.tsv").read_text()
    assert scans.splitlines()[1].split("\t")[1][:2] == "19"
    assert 1900 <= int(scans.splitlines()[1].split("\t")[1][:4]) < 1925


@pytest.mark.parametrize("kind", ["ADC", "FA", "TRACEW", "MOCO"])
def test_what_the_scanner_computed_is_set_aside(intake, kind):
    protocol = "func_task-rest" if kind == "MOCO" else "dwi"
    outcome = intake(list(faults.derive(made(scan(protocol)), kind)))
    assert outcome.fate == "set aside"
    assert intake.images() == []


def test_localisers_are_set_aside_whatever_their_name(intake):
    groups = [made(one, "classic") for one in localiser(scan("anat-T1w"))]
    assert intake(*groups).fate == "set aside"
    named = [replace(one, protocol="anat-T1w") for one in localiser(scan("anat-T1w"))]
    groups = [made(one, "classic") for one in named]
    outcome = intake(*groups, rules=replace(RULES, aside=()), key="ac")
    assert outcome.fate == "set aside"
    assert "3 orientations" in outcome.reason


def test_a_second_reconstruction_is_set_aside_and_a_repeat_is_the_next_run(intake):
    series = scan("anat-T1w")
    intake(made(series, "classic"))
    again = intake(list(faults.reconstruct_again(made(series, "classic"), scale=0.5)))
    assert again.fate == "set aside"
    assert "second reconstruction (NORM/DIS2D instead of" in again.reason
    repeat = intake(made(scan("anat-T1w", 9), "classic"))
    assert repeat.fate == "placed"
    names = {Path(name).name for name in intake.images()}
    assert names == {"sub-01_T1w.nii.gz", "sub-01_run-02_T1w.nii.gz"}
    assert any("this repeat is run-02" in warning for warning in repeat.warnings)


def test_a_repeat_of_a_numbered_run_takes_its_name(intake):
    first = made(scan("func_task-rest_run-1", 2))
    intake(list(faults.stop(first, 3)))
    repeat = intake(made(scan("func_task-rest_run-1", 3)))
    assert repeat.fate == "placed"
    name = "sub-01/func/sub-01_task-rest_run-01_bold.nii.gz"
    assert intake.images() == [name]
    assert nb.load(intake.bids / name).shape[3] == VOLUMES
    kept = intake.bids / "sourcedata/repeated" / name.replace("_bold", "_bold__dup-01")
    assert nb.load(kept).shape[3] == 3
    assert errors(intake.bids) == []
    # a stopped one does not push a whole one away
    late = intake(list(faults.stop(made(scan("func_task-rest_run-1", 4)), 2)))
    assert late.fate == "set aside"
    assert nb.load(intake.bids / name).shape[3] == VOLUMES


def test_the_same_images_under_other_uids_are_there_once(intake):
    intake(made(scan("func_task-rest", seed=5)))
    group = made(scan("func_task-rest", seed=5, study="again"))
    for one in group:
        one.dataset.SeriesInstanceUID = "1.2.3.4"
        one.dataset.SOPInstanceUID += ".1"
    outcome = intake(group)
    assert outcome.fate == "set aside"
    assert "same images" in outcome.reason
    assert len(intake.images()) == 1


def test_two_patients_in_a_series_are_refused_and_nothing_is_written(intake):
    series = scan("anat-T1w")
    mine, other = made(series, "classic"), made(series, "classic", patient=Patient("X-1"))
    outcome = intake([*mine[:3], *other[3:]])
    assert outcome.fate == "refused"
    assert "2 patients" in outcome.reason
    assert "778812" not in repr(outcome)
    assert not intake.bids.exists()


def test_two_patients_under_one_series_uid_are_told_apart(intake):
    series = scan("func_task-rest")
    mine, other = made(series), made(series, patient=Patient("X-1", "Roe^Rita"))
    for one in other:
        one.dataset.SeriesInstanceUID = mine[0].dataset.SeriesInstanceUID
    assert intake(mine[:3], key="aa").fate == "placed"
    outcome = intake(other[3:], key="bb")
    assert outcome.fate == "refused"
    assert "two patients were mixed" in outcome.reason
    assert len(intake.images()) == 1
    # what else comes of the first is not concerned
    assert intake(mine, key="aa").fate == "placed"


def test_missing_images_within_a_series_are_refused_until_they_come(intake):
    group = made(scan("func_task-rest"), "classic")
    outcome = intake(list(faults.lose(group, slices=[(2, 1)])), key="aa")
    assert outcome.fate == "refused"
    assert "1 image of 6 volumes is missing" in outcome.reason
    assert intake(group, key="aa").fate == "placed"
    outcome = intake(list(faults.lose(made(scan("func_task-gap", 5)), volumes=[3])))
    assert outcome.fate == "refused"
    assert "1 volume within the series is missing" in outcome.reason
    outcome = intake(list(faults.lose(made(scan("anat-T1w", 6), "classic"), slices=[(0, 2)])))
    assert outcome.fate == "refused"
    assert "Slices are missing" in outcome.reason


@pytest.mark.parametrize(
    ("form", "vendor"),
    [("classic", "siemens"), ("classic", "ge"), ("classic", "philips"), ("enhanced", "siemens")],
)
def test_a_volume_missing_between_others_is_refused(intake, form, vendor):
    group = made(scan("func_task-rest"), form, vendor)
    outcome = intake(list(faults.lose(group, volumes=[3])))
    assert outcome.fate == "refused"
    assert "1 volume within the series is missing" in outcome.reason


@pytest.mark.parametrize("form", ["classic", "mosaic"])
def test_volumes_missing_before_the_first_are_said(intake, form):
    outcome = intake(list(faults.lose(made(scan("func_task-rest"), form), volumes=[0, 1])))
    assert outcome.fate == "placed"
    assert any("2 volumes before it may be missing" in text for text in outcome.warnings)


def test_what_headers_lack_is_said(intake):
    outcome = intake(made(scan("func_task-rest"), "classic", "philips"))
    assert any("PhaseEncodingDirection and SliceTiming" in text for text in outcome.warnings)
    outcome = intake(made(scan("func_task-one", 4, volumes=1)))
    assert any("one volume only" in text for text in outcome.warnings)


def test_a_stopped_run_is_placed_without_its_last_volume_and_says_so(intake):
    group = made(scan("func_task-rest"), "classic", "ge")
    outcome = intake(list(faults.stop(group, 4, slices=2)))
    assert outcome.fate == "placed"
    assert any("last volume has 2 of its slices" in warning for warning in outcome.warnings)
    assert any("4 volumes of the 6 that were planned" in text for text in outcome.warnings)
    (image,) = intake.images()
    assert nb.load(intake.bids / image).shape[3] == 4


def test_a_stopped_run_of_siemens_is_said(intake):
    group = list(faults.stop(made(scan("func_task-rest")), 4))
    protocol = (
        b"### ASCCONV BEGIN ###\nlContrasts\t = \t1\nlRepetitions\t = \t5\n### ASCCONV END ###"
    )
    for one in group:
        block = one.dataset.private_block(0x0029, "SIEMENS CSA HEADER")
        block.add_new(0x20, "OB", protocol + b" " * (len(protocol) % 2))
    outcome = intake(group)
    assert outcome.fate == "placed"
    assert any("4 volumes of the 6 that were planned" in text for text in outcome.warnings)


def test_late_objects_replace_what_was_placed_under_the_same_name(intake):
    group = made(scan("func_task-rest"))
    first = intake(list(faults.stop(group, 4)), key="ab")
    again = intake(group, key="ab")
    assert first.files == again.files
    (image,) = intake.images()
    assert nb.load(intake.bids / image).shape[3] == VOLUMES
    before = (intake.bids / image).stat().st_mtime_ns
    assert intake(group, key="ab") == again
    assert (intake.bids / image).stat().st_mtime_ns == before


@pytest.mark.parametrize("form", ["mosaic", "classic"])
def test_a_repetition_time_that_the_clock_contradicts_is_replaced(intake, form):
    outcome = intake(list(faults.state_tr(made(scan("func_task-rest"), form), 1.794)))
    (image,) = intake.images()
    stem = image.removesuffix(".nii.gz")
    assert intake.sidecar(f"{stem}.json")["RepetitionTime"] == pytest.approx(TR, abs=1e-3)
    assert nb.load(intake.bids / image).header["pixdim"][4] == pytest.approx(TR, abs=1e-3)
    if form == "mosaic":  # of single slices, the converter looks at the clock itself
        assert any("1.794 s, which was replaced" in text for text in outcome.warnings)
    assert errors(intake.bids) == []


def test_slice_times_of_a_single_band_first_volume_do_not_get_into_the_sidecar(intake):
    series = multiband(scan("func_task-rest", slice_times=np.arange(5) * 0.2), 2)
    group = made(series, "classic", software="syngo MR XA30")
    intake(list(faults.single_band_first(group, series, 2)))
    (image,) = intake.images()
    times = intake.sidecar(image.replace(".nii.gz", ".json"))["SliceTiming"]
    assert np.sort(times) == pytest.approx(np.sort(np.asarray(series.slice_times)), abs=0.0125)


def test_diffusion_images_without_gradients_are_not_placed_as_such(intake):
    outcome = intake(made(scan("dwi", bvals=None, bvecs=None, suffix="bold")))
    assert outcome.fate == "unassigned"
    assert "b values" in outcome.reason


def test_a_crash_while_placing_leaves_nothing_half(intake, monkeypatch):
    """Die before each single write into the dataset, once, and let the next call finish."""
    whole = intake.folder / "whole"
    Intake.__call__(other := Intake(whole), made(scan("func_task-rest")))
    expected = other.images()
    real, deaths = copy_file, 0
    for death in range(4):
        shutil.rmtree(intake.root, ignore_errors=True)
        calls: list[Path] = []

        def dying(source, target, death=death, calls=calls):
            calls.append(target)
            if len(calls) == death + 1:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(place, "copy_file", dying)
        try:
            intake(made(scan("func_task-rest")))
        except KeyboardInterrupt:
            deaths += 1
            monkeypatch.setattr(place, "copy_file", real)
            seen = intake.images()
            assert all((intake.bids / name.replace(".nii.gz", ".json")).exists() for name in seen)
            assert recover(intake.root) == 1
        assert intake.images() == expected
        assert errors(intake.bids) == []
        assert not list((intake.root / ".intake" / "names" / "placing").iterdir())
    assert deaths == 2


def test_series_of_one_participant_at_once(intake):
    groups = [made(scan(f"func_task-t{number}", number)) for number in range(2, 8)]
    series = [received(intake.folder / f"t{n}", group) for n, group in enumerate(groups)]
    found = []

    def work(one):
        found.append(process_series(one, RULES, intake.root, intake.folder / "scratch"))

    threads = [threading.Thread(target=work, args=(one,)) for one in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.subject for outcome in found] == ["01"] * 6
    assert len(intake.images()) == 6
    rows = (intake.bids / "sub-01" / "sub-01_scans.tsv").read_text().splitlines()
    assert len(rows) == 7
    assert errors(intake.bids) == []


def test_sessions_by_name_hold_for_the_rest_of_the_visit(intake):
    groups = [made(one, "classic") for one in localiser(scan("anat-T1w_ses-pre"))]
    assert intake(*groups).session == "pre"
    assert intake(made(scan("func_task-rest", 3))).session == "pre"
    later = timedelta(days=7)
    second = scan("anat-T1w_ses-post", 4, study="later", started=START + later)
    assert intake(made(second, "classic")).session == "post"
    run = scan("func_task-rest", 5, study="later", started=START + later + timedelta(hours=1))
    assert intake(made(run)).session == "post"
    assert errors(intake.bids) == []
    tables = [
        (intake.bids / "sub-01" / f"ses-{name}" / f"sub-01_ses-{name}_scans.tsv").read_text()
        for name in ("pre", "post")
    ]
    days = [np.datetime64(table.splitlines()[-1].split("\t")[1][:10]) for table in tables]
    assert days[1] - days[0] == np.timedelta64(7, "D")


def test_days_are_kept_or_removed_on_request(intake):
    intake(made(scan("func_task-rest")), rules=replace(RULES, dates="keep"))
    table = intake.bids / "sub-01" / "sub-01_scans.tsv"
    assert "2024-03-05T09:40:00" in table.read_text()
    gone = Intake(intake.folder / "gone")
    gone(made(scan("func_task-rest")), rules=replace(RULES, dates="remove"))
    assert (gone.bids / "sub-01" / "sub-01_scans.tsv").read_text().splitlines()[0] == "filename"
    (image,) = gone.images()
    assert not nb.load(gone.bids / image).header["descrip"].item()
    assert "AcquisitionTime" not in gone.sidecar(image.replace(".nii.gz", ".json"))


def test_an_identifier_in_a_text_field_does_not_reach_the_sidecar(intake):
    group = made(scan("anat-T1w"), "classic")
    for one in group:
        one.dataset.SeriesDescription = f"anat-T1w {PATIENT.name.partition('^')[0]}"
    outcome = intake(group)
    assert any("SeriesDescription held something" in warning for warning in outcome.warnings)
    assert holds(intake.bids, "Mustermann") == []
