import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from neuroferry.bids.index import index_subjects
from neuroferry.bids.validate import check_sidecar, check_subjects, validate_dataset
from neuroferry.errors import ExitCode, InputError

SIDECAR = {"EchoTime": 0.003, "RepetitionTime": 2.3, "SliceThickness": 4}
TWO = {
    f"sub-{label}/anat/sub-{label}_T1w{extension}": content
    for label in ("01", "02")
    for extension, content in ((".nii.gz", None), (".json", SIDECAR))
}
has_validator = pytest.mark.skipif(
    not (Path(sys.executable).parent / "bids-validator-deno").exists()
    and shutil.which("bids-validator-deno") is None,
    reason="the BIDS validator is not installed",
)


def messages(problems):
    return [problem.message for problem in problems]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_description_ends_with_16(make_dataset, content):
    root = make_dataset(TWO)
    subjects = index_subjects(root)
    path = root / "dataset_description.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"dataset_description\.json") as caught:
        validate_dataset(root, subjects, use_validator=False)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


def test_a_poor_description_is_a_warning(make_dataset):
    root = make_dataset(TWO | {"dataset_description.json": {"DatasetType": "derivative"}})
    problems = validate_dataset(root, [], use_validator=False)
    assert {problem.severity for problem in problems} == {"warning"}
    assert [word in " ".join(messages(problems)) for word in ("Name", "BIDSVersion", "derivat")]
    assert len(problems) == 3


@has_validator
def test_a_sound_dataset_has_no_problem(make_dataset):
    root = make_dataset(TWO)
    assert validate_dataset(root, index_subjects(root)) == []


@has_validator
def test_what_the_validator_finds_is_one_sentence_for_each_rule_and_participant(make_dataset):
    runs = {f"sub-02/func/sub-02_task-rest_run-{i}_bold.nii.gz": None for i in range(1, 6)}
    root = make_dataset(TWO | runs | {"sub-02/anat/sub-02_wrong.json": {}})
    problems = validate_dataset(root, index_subjects(root))
    assert {(problem.severity, problem.subject) for problem in problems} == {("warning", "02")}
    (rule,) = [text for text in messages(problems) if "lacks RepetitionTime" in text]
    assert rule.startswith("sub-02/func/sub-02_task-rest_run-1_bold.nii.gz, ")
    assert " and 2 more: the sidecar lacks RepetitionTime, which BIDS requires; add it" in rule
    assert any(
        "sub-02_wrong.json: the name is not a valid BIDS name" in text
        for text in messages(problems)
    )
    assert all("\n" not in text for text in messages(problems))


@has_validator
def test_other_participants_are_not_validated(make_dataset):
    root = make_dataset(TWO | {"sub-02/anat/sub-02_wrong.json": {}, "derivatives/x/y.txt": "z"})
    (root / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    assert validate_dataset(root, index_subjects(root, participant_labels=["01"])) == []


@has_validator
def test_a_validator_that_takes_too_long_is_stopped(make_dataset):
    root = make_dataset(TWO)
    (problem,) = validate_dataset(root, index_subjects(root), time_limit=0.01)
    assert problem.severity == "warning"
    assert "did not end within 0.01 s" in problem.message


def test_a_validator_that_fails_is_a_warning(make_dataset, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "bids-validator-deno"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'out of memory' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    root = make_dataset(TWO)
    (problem,) = validate_dataset(root, index_subjects(root))
    assert "The BIDS validator failed (out of memory)" in problem.message


def test_a_bad_image_is_left_out_and_the_others_stay(make_dataset):
    root = make_dataset(
        {
            "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz": None,
            "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz": None,
            "sub-02/anat/sub-02_T1w.nii.gz": None,
            "sub-03/anat/sub-03_T1w.nii.gz": None,
            "T1w.json": SIDECAR,
        }
    )
    os.truncate(root / "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz", 300)
    os.truncate(root / "sub-02/anat/sub-02_T1w.nii.gz", 0)
    first, second, third = check_subjects(index_subjects(root), n_procs=3)
    assert first.sessions == ("a",)
    assert "truncated" in first.problems[0].message
    assert second.images == ()
    assert [problem.severity for problem in second.problems] == ["error"]
    assert third.problems == ()


def test_only_the_images_in_use_are_read(make_dataset):
    root = make_dataset(TWO | {"sub-01/func/sub-01_task-rest_bold.nii.gz": None})
    os.truncate(root / "sub-01/func/sub-01_task-rest_bold.nii.gz", 0)
    first, _ = check_subjects(index_subjects(root))
    assert first.problems == ()
    assert len(first.images) == 2
    (first, _) = check_subjects(index_subjects(root), suffixes=("T1w", "bold"))
    assert len(first.images) == 1


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "the sidecar JSON file is missing, empty or unreadable"),
        ({"EchoTime": 2.98}, "EchoTime = 2.98 s, which is probably in milliseconds"),
        ({"RepetitionTime": 2300}, "RepetitionTime = 2300 s"),
        ({"SkullStripped": True}, "look at the brain mask"),
        (
            {"SliceThickness": 40},
            "SliceThickness = 40 mm, but the largest side",
        ),
    ],
)
def test_missing_and_contradicting_sidecars_are_warnings(make_dataset, metadata, words):
    root = make_dataset({"sub-01/anat/sub-01_T1w.nii.gz": None})
    if metadata:
        (root / "T1w.json").write_text(json.dumps(metadata))
    (subject,) = check_subjects(index_subjects(root))
    (problem,) = subject.problems
    assert words in problem.message
    assert problem.severity == "warning"
    assert len(subject.images) == 1


def test_a_sidecar_can_be_checked_beside_a_broken_image(make_dataset):
    root = make_dataset(TWO)
    path = root / "sub-01/anat/sub-01_T1w.nii.gz"
    path.write_bytes(gzip.compress(b"no image"))
    assert check_sidecar(index_subjects(root)[0].images[0]) == []
