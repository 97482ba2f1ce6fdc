import json
import pickle
import sys

import pytest

from neuroferry.bids.index import index_subjects
from neuroferry.errors import ExitCode, InputError, UsageError

TWO_SESSIONS = {
    "sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_T1w.nii.gz": None,
    "sub-01/ses-a/anat/sub-01_ses-a_acq-flash_T1w.nii.gz": None,
    "sub-01/ses-b/anat/sub-01_ses-b_run-02_T1w.nii.gz": None,
    "sub-01/ses-b/func/sub-01_ses-b_task-rest_bold.nii.gz": None,
    "sub-02/ses-a/anat/sub-02_ses-a_acq-mprage_T1w.nii.gz": None,
    "sub-10/ses-a/anat/sub-10_ses-a_acq-mprage_T1w.nii.gz": None,
}


def names(subject):
    return [run.path.name for run in subject.images]


def test_everything_is_found_in_order(make_dataset):
    subjects = index_subjects(make_dataset(TWO_SESSIONS))
    assert [subject.label for subject in subjects] == ["01", "02", "10"]
    first = subjects[0]
    assert first.sessions == ("a", "b")
    assert [run.suffix for run in first.images] == ["T1w", "T1w", "T1w", "bold"]
    assert len(first.select(datatype="anat")) == 3
    assert len(first.select(suffix="T1w", session="b")) == 1
    assert first.images[2].entities == {"subject": "01", "session": "b", "run": "02"}
    assert pickle.loads(pickle.dumps(subjects)) == subjects


@pytest.mark.parametrize("label", ["02", "sub-02"])
def test_labels_with_or_without_their_key(make_dataset, label):
    root = make_dataset(TWO_SESSIONS)
    assert [s.label for s in index_subjects(root, participant_labels=[label])] == ["02"]


def test_a_label_is_no_beginning_of_another(make_dataset):
    root = make_dataset({f"sub-{x}/anat/sub-{x}_T1w.nii.gz": None for x in ("1", "10", "1b")})
    (subject,) = index_subjects(root, participant_labels=["1"])
    assert names(subject) == ["sub-1_T1w.nii.gz"]


def test_sessions_are_chosen(make_dataset):
    root = make_dataset(TWO_SESSIONS)
    first, second, _ = index_subjects(root, session_labels=["ses-b"])
    assert first.sessions == ("b",)
    assert second.images == ()
    (problem,) = second.problems
    assert problem.severity == "error"
    assert "sub-02 has no session ses-b" in problem.message


def test_participants_not_asked_for_are_not_entered(make_dataset):
    root = make_dataset(TWO_SESSIONS)
    listed = []
    armed = True

    def listen(event, args):
        if armed and event in ("os.scandir", "os.listdir"):
            listed.append(str(args[0]))

    sys.addaudithook(listen)
    index_subjects(root, participant_labels=["02"])
    armed = False
    assert any(path.endswith("sub-02") for path in listed)
    assert not any("sub-01" in path or "sub-10" in path for path in listed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"participant_labels": ["sub-99", "03"]}, "sub-03, sub-99 do not exist"),
        ({"participant_labels": ["011"]}, "sub-011 does not exist .*did you mean sub-01"),
        ({"session_labels": ["c"]}, "ses-c does not exist .*available: ses-a, ses-b"),
        ({"bids_filters": {"t1w": {"acquisition": "mp2rage"}}}, "acquisition is flash or mprage"),
        ({"bids_filters": {"t2w": {"session": "a"}}}, "matches no image: there are 0 images"),
    ],
)
def test_what_matches_nothing_ends_with_18_and_names_what_is_there(make_dataset, options, words):
    with pytest.raises(InputError, match=words) as caught:
        index_subjects(make_dataset(TWO_SESSIONS), **options)
    assert caught.value.exit_code == ExitCode.NOTHING_MATCHED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": ["rest", "words"]}, "--task-id words .*; task is nback or rest"),
        ({"task": "words"}, "--task-id words"),
        ({"echo": [3, None]}, "--echo-idx 3 .*; echo is 1 or 2"),
    ],
)
def test_an_option_that_matches_nothing_is_named(make_dataset, options, words):
    names = ("task-rest", "task-nback_echo-1", "task-nback_echo-2")
    root = make_dataset({f"sub-01/func/sub-01_{name}_bold.nii.gz": None for name in names})
    with pytest.raises(InputError, match=words) as caught:
        index_subjects(root, bids_filters={"bold": options})
    assert caught.value.exit_code == ExitCode.NOTHING_MATCHED


def test_what_an_option_does_not_find_in_one_participant_is_named_there(make_dataset):
    names = ["01_task-a", "01_task-b_run-1_echo-1", "01_task-b_run-1_echo-2"]
    names += ["01_task-b_run-2_echo-1", "02_task-a"]
    root = make_dataset({f"sub-{n[:2]}/func/sub-{n}_bold.nii.gz": None for n in names})
    first, second = index_subjects(root, bids_filters={"bold": {"task": ["a", "b"]}})
    assert first.problems == ()
    assert ["there is no run of the task b" in p.message for p in second.problems] == [True]
    first, second = index_subjects(root, bids_filters={"bold": {"echo": [2, None]}})
    (problem,) = first.problems
    assert (
        "sub-01_task-b_run-2_echo-1_bold.nii.gz: no echo of its run is chosen" in problem.message
    )
    assert second.problems == ()


@pytest.mark.parametrize(
    "place",
    ["func", "anat", "motion", "sub-X", "ses-1", "sub-01", "job/sub-01/ds", "sub-01/ses-1/func"],
)
def test_folders_above_the_dataset_do_not_count(make_dataset, tmp_path, place):
    root = make_dataset(TWO_SESSIONS)
    here = [(subject.label, subject.problems, subject.images) for subject in index_subjects(root)]
    other = tmp_path / "elsewhere" / place
    other.parent.mkdir(parents=True, exist_ok=True)
    root.rename(other)
    for (label, problems, images), found in zip(here, index_subjects(other), strict=True):
        assert (found.label, found.problems) == (label, problems)
        assert [(i.place, i.entities, i.datatype) for i in found.images] == [
            (i.place, i.entities, i.datatype) for i in images
        ]
        assert {image.root for image in found.images} == {other}


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"acquisition": "mprage"}, ["ses-a_acq-mprage_T1w"]),
        ({"acquisition": None}, ["ses-b_run-02_T1w"]),
        ({"acquisition": "*"}, ["ses-a_acq-flash_T1w", "ses-a_acq-mprage_T1w"]),
        ({"acquisition": [None, "flash"]}, ["ses-a_acq-flash_T1w", "ses-b_run-02_T1w"]),
        ({"run": 2}, ["ses-b_run-02_T1w"]),
        ({"session": "ses-b", "suffix": "T1w"}, ["ses-b_run-02_T1w"]),
    ],
)
def test_filters_choose_among_their_own_images(make_dataset, conditions, kept):
    root = make_dataset(TWO_SESSIONS)
    first, *_ = index_subjects(root, bids_filters={"t1w": conditions})
    expected = [f"sub-01_{name}.nii.gz" for name in kept]
    assert [name for name in names(first) if "T1w" in name] == expected
    assert "sub-01_ses-b_task-rest_bold.nii.gz" in names(first)


def test_a_filter_that_empties_one_participant_is_a_warning_there(make_dataset):
    root = make_dataset(TWO_SESSIONS)
    first, second, _ = index_subjects(root, bids_filters={"t1w": {"acquisition": "flash"}})
    assert first.problems == ()
    assert [p.severity for p in second.problems] == ["warning"]
    assert "for 't1w' matches no image of sub-02" in second.problems[0].message


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"T1": {}}, "unknown query 'T1'; did you mean t1w"),
        ({"t1w": {"acq": "mprage"}}, "unknown entity 'acq'; did you mean acquisition"),
        ({"t1w": "mprage"}, "must be an object"),
        ({"t1w": {"run": {"a": 1}}}, "use a string, a number"),
    ],
)
def test_a_filter_with_a_mistake_is_refused(make_dataset, filters, words):
    with pytest.raises(UsageError, match=words):
        index_subjects(make_dataset(TWO_SESSIONS), bids_filters=filters)


def test_metadata_are_inherited_and_the_nearest_wins(make_dataset):
    root = make_dataset(
        {
            "T1w.json": {"EchoTime": 1, "Manufacturer": "far"},
            "acq-flash_T1w.json": {"FlipAngle": 1},
            "bold.json": {"TaskName": "no"},
            "sub-01/sub-01_T1w.json": {"EchoTime": 2},
            "sub-01/anat/sub-01_acq-mprage_T1w.json": {"EchoTime": 3},
            "sub-01/anat/sub-01_acq-mprage_T1w.nii.gz": None,
            "sub-01/anat/sub-01_T1w.nii.gz": None,
        }
    )
    (subject,) = index_subjects(root)
    plain, mprage = sorted(subject.images, key=lambda run: len(run.path.name))
    assert plain.metadata == {"EchoTime": 2, "Manufacturer": "far"}
    assert mprage.metadata == {"EchoTime": 3, "Manufacturer": "far"}


def test_a_broken_sidecar_is_the_problem_of_its_own_participant(make_dataset):
    root = make_dataset(
        {
            "sub-01/anat/sub-01_T1w.nii.gz": None,
            "sub-01/anat/sub-01_T1w.json": '{"EchoTime": 0.003,\n "FlipAngle" 9}',
            "sub-02/anat/sub-02_T1w.nii.gz": None,
            "sub-02/anat/sub-02_T1w.json": {"EchoTime": 0.003},
        }
    )
    first, second = index_subjects(root)
    (problem,) = first.problems
    assert problem.severity == "warning"
    assert "sub-01_T1w.json is not valid JSON" in problem.message
    assert "line 2, column 14" in problem.message
    assert len(first.images) == 1
    assert second.problems == ()
    assert second.images[0].metadata == {"EchoTime": 0.003}
    (needed, _) = index_subjects(root, needs_metadata=["T1w"])
    assert needed.images == ()
    assert needed.problems[0].severity == "error"


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[1, 2]", b""])
def test_sidecars_that_are_no_json_object_are_named(make_dataset, content):
    root = make_dataset({"sub-01/anat/sub-01_T1w.nii.gz": None})
    sidecar = root / "sub-01/anat/sub-01_T1w.json"
    sidecar.write_bytes(content)
    (subject,) = index_subjects(root)
    assert [problem.path for problem in subject.problems] == [sidecar]


def test_a_participant_without_images_is_there_with_its_problem(make_dataset):
    root = make_dataset({"sub-01/anat/sub-01_T1w.nii.gz": None, "sub-02/notes.txt": "x"})
    first, second = index_subjects(root)
    assert first.problems == ()
    assert "sub-02 has no image" in second.problems[0].message
    assert second.problems[0].severity == "error"


def test_folders_that_are_no_datasets(make_dataset, tmp_path):
    with pytest.raises(InputError, match="not an existing folder") as caught:
        index_subjects(tmp_path / "nowhere")
    assert caught.value.exit_code == ExitCode.NO_INPUT
    with pytest.raises(InputError, match="has no participants") as caught:
        index_subjects(make_dataset({}))
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


@pytest.mark.parametrize("content", ["[1]", '{"Name": '])
def test_a_description_that_is_no_object_ends_with_16(make_dataset, content):
    root = make_dataset({"sub-01/anat/sub-01_T1w.nii.gz": None})
    (root / "dataset_description.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset_description\.json") as caught:
        index_subjects(root)
    assert caught.value.exit_code == ExitCode.INVALID_BIDS


def test_the_database_is_made_used_and_made_again_when_files_change(make_dataset, tmp_path):
    root = make_dataset(TWO_SESSIONS)
    database = tmp_path / "database"
    first = index_subjects(root, participant_labels=["01"], database_dir=database)
    (file,) = database.iterdir()
    made = file.stat().st_mtime_ns
    assert index_subjects(root, participant_labels=["01"], database_dir=database) == first
    assert file.stat().st_mtime_ns == made
    old = root / "sub-01/ses-b/anat/sub-01_ses-b_run-02_T1w.nii.gz"
    old.rename(old.with_name("sub-01_ses-b_run-03_T1w.nii.gz"))
    (changed,) = index_subjects(root, participant_labels=["01"], database_dir=database)
    assert "sub-01_ses-b_run-03_T1w.nii.gz" in names(changed)
    assert index_subjects(root, database_dir=database) == index_subjects(root)


@pytest.mark.parametrize("spoil", [b"", b"no database at all" * 100])
def test_a_spoiled_database_is_made_again(make_dataset, tmp_path, spoil):
    root = make_dataset(TWO_SESSIONS)
    database = tmp_path / "database"
    database.mkdir()
    (database / "layout_index.sqlite").write_bytes(spoil)
    assert index_subjects(root, database_dir=database) == index_subjects(root)


def test_a_database_folder_that_cannot_be_written_is_named(make_dataset, tmp_path):
    root = make_dataset(TWO_SESSIONS)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="choose another --bids-database-dir") as caught:
        index_subjects(root, database_dir=tmp_path / "file" / "database")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_metadata_values_keep_their_types(make_dataset):
    values = {"A": 1.5, "B": [1, 2], "C": {"d": None}, "E": "ü"}
    root = make_dataset({"sub-01/anat/sub-01_T1w.nii.gz": None})
    (root / "sub-01/anat/sub-01_T1w.json").write_text(
        "\ufeff" + json.dumps(values, ensure_ascii=False), encoding="utf-8"
    )
    assert index_subjects(root)[0].images[0].metadata == values
