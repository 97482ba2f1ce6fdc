"""What is explained is what happens; nothing is written, and no patient named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scanner import PATIENT, made, scan

from neuroferry.errors import InputError
from neuroferry.intake.convert import process_series
from neuroferry.intake.explain import as_json, as_table, explain_folder, read_folder
from neuroferry.intake.rules import read_rules
from neuroferry.intake.spool import Spool
from neuroferry.phantom.dicom import Patient, faults, localiser, write_objects

RULES = read_rules()


@pytest.fixture
def session(tmp_path):
    t1w = scan("anat-T1w_ses-a", 2)
    groups = [
        [one for part in localiser(t1w) for one in made(part, "classic")],
        made(t1w, "classic"),
        list(faults.reconstruct_again(made(t1w, "classic"))),
        made(scan("func_task-rest_run+", 4)),
        list(faults.phase(made(scan("func_task-rest_run+", 4)))),
        made(scan("func_task-rest_run+", 5)),
        list(faults.lose(made(scan("func_task-gap", 6)), volumes=[2])),
        made(scan("t1_mprage Mustermann", 7), "classic"),
        made(scan("dwi", 8)),
        made(scan("anat-T1w", 2, study="other"), "classic", patient=Patient("X-1", "Roe^Rita")),
        made(scan("func_task-rest_run+", 5), patient=Patient("X-1", "Roe^Rita"))[3:],
    ]
    for one in groups[-1]:
        one.dataset.SeriesInstanceUID = groups[5][0].dataset.SeriesInstanceUID
    folder = tmp_path / "in"
    for number, group in enumerate(groups):
        write_objects(folder / f"{number}", group)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def outcome_of(outcome):
    images = [f"bids/{name}" for name in outcome.files if name.endswith(".nii.gz")]
    kept = {f"bids/{Path(name).parent}" for name in outcome.files}
    return outcome.fate, set(images) if outcome.fate == "placed" else kept


def test_it_says_what_then_happens(session, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*"))
    explained = explain_folder(session, RULES)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    root = tmp_path / "root"
    happened = [
        process_series(series, RULES, root, tmp_path / "scratch")
        for series in read_folder(session)
    ]
    assert [(one.fate, set(one.targets)) for one in explained] == list(map(outcome_of, happened))
    fates = [one.fate for one in explained]
    assert {"placed", "set aside", "unassigned", "refused"} == set(fates)
    assert any("two patients were mixed" in one.reason for one in explained)
    assert [one.reason for one in explained] == [one.reason for one in happened]


def test_table_and_json_name_no_patient(session):
    explained = explain_folder(session, RULES)
    table, content = as_table(explained), json.loads(as_json(explained))
    assert len(content) == len(explained) == 11
    assert "-> bids/sub-01/ses-a/func/sub-01_ses-a_task-rest_run-02_bold.nii.gz" in table
    assert "-> set aside: It is a localiser" in table
    for word in ("Mustermann", "Erika", PATIENT.id, "Roe"):
        assert word not in table
        assert word not in as_json(explained)


def test_an_intake_that_is_there_counts(session, tmp_path):
    root = tmp_path / "root"
    series = next(one for one in read_folder(session) if one.first.patient_id == "X-1")
    process_series(series, RULES, root, tmp_path / "scratch")
    names = sorted(path for path in root.rglob("*"))
    explained = explain_folder(session, RULES, root)
    assert any("bids/sub-02/ses-a/anat" in target for one in explained for target in one.targets)
    assert sorted(path for path in root.rglob("*")) == names


def test_what_is_there_already_is_no_repeat(tmp_path):
    folder, root = tmp_path / "in", tmp_path / "root"
    write_objects(folder, made(scan("anat-T1w"), "classic"))
    (series,) = read_folder(folder)
    key = Spool(root).series_key(series.first)
    process_series(replace(series, key=key), RULES, root, tmp_path / "scratch")
    (explained,) = explain_folder(folder, RULES, root)
    assert explained.targets == ("bids/sub-01/anat/sub-01_T1w.nii.gz",)
    assert explained.warnings == ()


def test_a_folder_without_dicom(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="holds no DICOM image"):
        explain_folder(tmp_path, RULES)
    with pytest.raises(InputError, match="is not a folder"):
        explain_folder(tmp_path / "none", RULES)
