"""BOLD runs: grouping of echoes, and problems of headers and sidecars."""

import json

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.bold import check_bold
from neuroferry.bids.index import index_subjects
from neuroferry.bids.validate import check_subjects

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -40], [0, 0, 6, -50], [0, 0, 0, 1]])
TIMES = [0.0, 1.0, 0.2, 1.2, 0.4, 1.4, 0.6, 1.6, 0.8, 1.8]
SOUND = {"RepetitionTime": 2.0, "TaskName": "rest", "SliceTiming": TIMES}


class Dataset:
    """A participant with BOLD images, each given by name, sidecar and header."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "sub-01" / "func"
        self.folder.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')

    def __call__(
        self, name, sidecar=None, *, tr=2.0, units="sec", volumes=6, affine=AFFINE, shape=None
    ):
        folder = self.folder
        data = np.random.default_rng(1).integers(0, 900, (*(shape or (20, 20, 10)), volumes))
        image = nb.Nifti1Image(data.astype(np.int16), affine)
        image.header.set_xyzt_units("mm", units)
        image.header["pixdim"][4] = tr
        image.to_filename(folder / f"sub-01_{name}_bold.nii.gz")
        content = SOUND if sidecar is None else sidecar
        (folder / f"sub-01_{name}_bold.json").write_text(json.dumps(content))
        return folder

    def subject(self):
        return index_subjects(self.root)[0]


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "bids")


def said(dataset, **options):
    """Return the usable runs, and the messages by severity."""
    (subject,) = check_subjects([dataset.subject()], suffixes=("bold",))
    checked = check_bold(subject, **options)
    texts: dict[str, list[str]] = {"error": [], "warning": []}
    for problem in (*subject.problems, *checked.problems):
        texts[problem.severity].append(problem.message)
    return checked.runs, texts["error"], texts["warning"]


def test_a_sound_run_is_not_talked_about(dataset):
    dataset("task-rest_run-1")
    (run,), errors, warnings = said(dataset)
    assert (errors, warnings) == ([], [])
    assert (run.label, run.shape, run.n_volumes) == ("task_rest_run_1", (20, 20, 10), 6)
    assert (run.tr, run.slice_times, run.slice_axis) == (2.0, tuple(TIMES), 2)
    assert run.zooms == (4, 4, 6)


def write_sbref(folder, name="task-rest", *, shape=(20, 20, 10), affine=AFFINE, sidecar=None):
    data = np.random.default_rng(2).integers(0, 900, shape).astype(np.int16)
    path = folder / f"sub-01_{name}_sbref.nii.gz"
    nb.Nifti1Image(data, affine).to_filename(path)
    if sidecar:
        path.with_name(f"sub-01_{name}_sbref.json").write_text(json.dumps(sidecar))
    return path


def test_the_single_band_reference_of_a_run(dataset):
    folder = dataset("task-rest")
    dataset("task-rest_run-2")
    assert said(dataset)[0][0].sbref is None
    path = write_sbref(folder)
    write_sbref(folder, "task-rest_part-phase")
    (first, second), errors, warnings = said(dataset)
    assert (errors, warnings) == ([], [])
    assert (first.sbref, second.sbref) == (path, None)
    assert said(dataset, ignore=("sbref",))[1:] == ([], [])
    assert check_bold(dataset.subject(), ignore=("sbref",)).runs[0].sbref is None


def test_a_reference_without_a_run_is_named(dataset):
    folder = dataset("task-rest")
    write_sbref(folder, "task-rest")
    write_sbref(folder, "task-other", sidecar={"B0FieldIdentifier": "pepolar"})
    write_sbref(folder, "task-lost")
    write_sbref(folder, "task-lost_part-phase")
    _, errors, (warning,) = said(dataset)
    assert errors == []
    assert "task-lost_sbref.nii.gz: no BOLD run that can be used has its name" in warning
    assert said(dataset, ignore=("sbref",))[2] == []


def test_the_reference_of_the_shortest_echo(dataset):
    for echo, time in (("1", 0.03), ("2", 0.01)):
        folder = dataset(f"task-rest_echo-{echo}", {**SOUND, "EchoTime": time})
        write_sbref(folder, f"task-rest_echo-{echo}")
    (run,), _, _ = said(dataset)
    assert run.sbref == folder / "sub-01_task-rest_echo-2_sbref.nii.gz"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (
            {"shape": (20, 20, 12)},
            "a different grid from the run (20 x 20 x 12 and 20 x 20 x 10 voxels)",
        ),
        ({"shape": (20, 20, 10, 2)}, "has 2 volumes"),
        ({"affine": AFFINE @ np.diag([-1, 1, 1, 1])}, "stored in a different orientation"),
        (
            {"affine": AFFINE + np.diag([0, 0, 0.5, 0])},
            "a different grid from the run (voxels up to 4.5 mm apart)",
        ),
        ({"sidecar": {"PhaseEncodingDirection": "j"}}, "has a different PhaseEncodingDirection"),
    ],
)
def test_a_reference_that_cannot_be_used(dataset, reference, why):
    write_sbref(dataset("task-rest", {**SOUND, "PhaseEncodingDirection": "j-"}), **reference)
    (run,), errors, (warning,) = said(dataset)
    assert (run.sbref, errors) == (None, [])
    assert why in warning
    assert "the reference is computed from the run's own volumes" in warning
    assert said(dataset, ignore=("sbref",))[1:] == ([], [])


def test_a_reference_that_cannot_be_read(dataset):
    folder = dataset("task-rest")
    write_sbref(folder).write_bytes(b"no image")
    (run,), errors, (warning,) = said(dataset)
    assert (run.sbref, errors) == (None, [])
    assert "sub-01_task-rest_sbref.nii.gz, cannot be used (" in warning


@pytest.mark.parametrize("volumes", [1, 4])
def test_a_run_that_is_no_series(dataset, volumes):
    dataset("task-rest", volumes=volumes)
    runs, (error,), _ = said(dataset)
    assert runs == []
    assert ("only one volume" if volumes == 1 else "4 volumes; at least 5") in error


def test_repetition_times_that_contradict_each_other(dataset):
    folder = dataset("task-rest", tr=1.8, volumes=100)
    (folder / "sub-01_task-rest_events.tsv").write_text("onset\tduration\n10\t1\n195\t1\n")
    (run,), _, (warning,) = said(dataset)
    assert run.tr == 2.0
    assert (
        "RepetitionTime is 2 s in the sidecar and 1.8 s in the header. The sidecar is used"
        in warning
    )
    assert (
        "lasts 200 s by the sidecar, 180 s by the header; its last event begins at 195 s"
        in warning
    )


def test_a_header_in_milliseconds(dataset):
    dataset("task-rest", tr=2000.0, units="msec")
    (run,), errors, warnings = said(dataset)
    assert (run.tr, errors, warnings) == (2.0, [], [])


@pytest.mark.parametrize(
    ("sidecar", "word"),
    [
        ({}, "has no SliceTiming; slice-timing correction is skipped"),
        ({"SliceTiming": TIMES[:-1]}, "has 9 times, the image 10 slices"),
        ({"SliceTiming": [t * 1.2 for t in TIMES]}, "up to 2.16 s, beyond the repetition time"),
        ({"SliceTiming": [t * 1000 for t in TIMES]}, "probably in milliseconds"),
        ({"SliceTiming": "interleaved"}, "not a list of non-negative times"),
        ({"SliceTiming": [-0.1, *TIMES[1:]]}, "not a list of non-negative times"),
        ({"SliceTiming": TIMES, "SliceEncodingDirection": "z"}, "'z' is not an axis of the image"),
    ],
)
def test_slice_times_that_cannot_be_used(dataset, sidecar, word):
    dataset("task-rest", {"RepetitionTime": 2.0, **sidecar})
    (run,), errors, (warning,) = said(dataset)
    assert (run.slice_times, errors) == ((), [])
    assert word in warning
    (run,), errors, warnings = said(dataset, ignore=("slicetiming",))
    assert (run.slice_times, errors, warnings) == ((), [], [])


def test_a_run_in_another_orientation_than_its_siblings(dataset):
    dataset("task-rest_run-1")
    dataset("task-rest_run-2", affine=np.diag([-1, 1, 1, 1]) @ AFFINE)
    dataset("task-rest_run-3")
    runs, errors, (warning,) = said(dataset)
    assert (len(runs), errors) == (3, [])
    assert "run-2_bold" in warning
    assert "stored in RAS orientation, the other runs in LAS" in warning


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("start\tlength\n1\t2\n", "the columns start, length, but not onset and duration"),
        ("onset\tduration\n", "contains no events"),
        ("onset\tduration\n1\t1\nn/a\t1\n", "an onset that is not a number in line 3"),
        ("onset\tduration\nnan\t1\n2\t1\n", "an onset that is not a number in line 2"),
        ("onset\tduration\n1\t1\ninf\t1\n", "an onset that is not a number in line 3"),
        ("onset\tduration\n1\t1\n13\t1\n", "1 of 2 events in sub-01_task-rest_events.tsv begin"),
    ],
)
def test_events_that_an_analysis_cannot_read(dataset, table, word):
    folder = dataset("task-rest")
    (folder / "sub-01_task-rest_events.tsv").write_text(table)
    (_,), errors, (warning,) = said(dataset)
    assert errors == []
    assert word in warning


def test_echoes_make_one_run(dataset):
    for number, time in ((1, 0.013), (3, 0.06), (2, 0.03)):
        dataset(f"task-rest_echo-{number}", {**SOUND, "EchoTime": time})
    dataset("task-nback_echo-1", {**SOUND, "EchoTime": 0.013})
    one, several = said(dataset)[0]
    assert (one.label, one.echo_times) == ("task_nback", ())
    assert [echo.entities["echo"] for echo in several.echoes] == ["1", "2", "3"]
    assert several.echo_times == (0.013, 0.03, 0.06)
    assert several.entities == {"subject": "01", "task": "rest"}
    (warning,) = said(dataset)[2]
    assert "echo-2, echo-3 of the run is missing (available: echo-1)" in warning
    assert "processed as a run of one echo" in warning


def test_an_echo_that_is_missing(dataset):
    for number, time in ((1, 0.013), (3, 0.06)):
        dataset(f"task-rest_echo-{number}", {**SOUND, "EchoTime": time})
    (run,), errors, (warning,) = said(dataset)
    assert (len(run.echoes), errors) == (2, [])
    assert "echo-2 of the run is missing" in warning
    assert "the available echoes are combined" in warning


@pytest.mark.parametrize(
    ("second", "word"),
    [
        ({"sidecar": SOUND}, "echo-2_bold.nii.gz has no EchoTime"),
        ({"sidecar": {**SOUND, "EchoTime": 0.013}}, "same EchoTime (0.013 s)"),
        ({"sidecar": {**SOUND, "EchoTime": 30000}}, "no echo time in seconds or milliseconds"),
        ({"sidecar": {**SOUND, "EchoTime": 0.03}, "volumes": 7}, "differ in size"),
        ({"sidecar": {**SOUND, "EchoTime": 0.03}, "shape": (20, 20, 11)}, "differ in size"),
    ],
)
def test_echoes_that_cannot_be_combined(dataset, second, word):
    dataset("task-rest_echo-1", {**SOUND, "EchoTime": 0.013})
    dataset("task-rest_echo-2", **second)
    dataset("task-other")
    runs, errors, _ = said(dataset)
    assert [run.label for run in runs] == ["task_other"]
    assert any(word in error for error in errors)


def test_an_echo_that_cannot_be_read_leaves_the_others(dataset):
    for number, time in ((1, 0.013), (2, 0.03), (3, 0.06)):
        folder = dataset(f"task-rest_echo-{number}", {**SOUND, "EchoTime": time})
    path = folder / "sub-01_task-rest_echo-2_bold.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])
    (run,), (error,), (warning,) = said(dataset)
    assert run.echo_times == (0.013, 0.06)
    assert "truncated" in error
    assert "echo-2 of the run is missing" in warning


def test_phase_images_are_no_runs(dataset):
    dataset("task-rest_part-mag")
    dataset("task-rest_part-phase")
    assert [run.label for run in check_bold(dataset.subject()).runs] == ["task_rest_part_mag"]


def test_partial_coverage_is_no_error(dataset):
    dataset("task-rest", {"RepetitionTime": 2.0, "SliceTiming": TIMES[:8]}, shape=(20, 20, 8))
    runs, errors, warnings = said(dataset)
    assert (len(runs), errors) == (1, [])
    assert all("field of view" in warning for warning in warnings)


def test_nothing_is_said_of_participants_without_bold(dataset):
    (subject,) = check_subjects([dataset.subject()], suffixes=("T1w",))
    assert check_bold(subject) == ([], [], set())


def test_a_combined_image_is_no_echo(dataset):
    dataset("task-x")
    for echo, seconds in ((1, 0.01), (2, 0.03)):
        dataset(f"task-x_echo-{echo}", {**SOUND, "EchoTime": seconds})
    runs, errors, _ = said(dataset)
    assert [[echo.path.name[7:20] for echo in run.echoes] for run in runs] == [
        ["task-x_echo-1", "task-x_echo-2"]
    ]
    assert "no echo- in its name, but there are echoes of the same run" in errors[0]
