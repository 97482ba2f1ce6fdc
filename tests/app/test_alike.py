"""A participant planned like another has the plan that the own graph would give."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from neuroferry.app.alike import Alike, watch
from neuroferry.app.slurm import plan_subjects
from neuroferry.bids.model import Run, Subject
from neuroferry.config import Config, Settings
from neuroferry.engine import RunRecord, SLURMGraphPlugin
from neuroferry.engine.slurm.manifest import read_manifest
from neuroferry.interfaces.image.images import save_nifti
from neuroferry.workflows.base import init_neuroferry_wf


@pytest.fixture
def people(tmp_path):
    """Give a function that makes a participant with one T1w image for each shape."""

    def make(label, *shapes, session=None, **metadata):
        runs = []
        for number, shape in enumerate(shapes, 1):
            where = f"_ses-{session}" if session else ""
            path = tmp_path / "bids" / f"sub-{label}{where}_run-{number}_T1w.nii.gz"
            path.parent.mkdir(exist_ok=True)
            save_nifti(np.zeros(shape, np.uint8), np.eye(4), path)
            entities = {"subject": label, "run": str(number)}
            if session:
                entities["session"] = session
            runs.append(Run(path, entities, "T1w", "anat", metadata))
        return Subject(label, tuple(runs))

    return make


def plan(folder, subjects, *, stamp):
    """Plan participants; give the manifest and how many graphs were built."""
    run_dir = folder / ("stamped" if stamp else "each") / "logs" / "run"
    run_dir.mkdir(parents=True)
    plugin = SLURMGraphPlugin(
        {"run_dir": run_dir, "record": RunRecord(run_dir / "events.jsonl"), "source": "config"}
    )
    built = []

    def build(some):
        built.extend(subject.label for subject in some)
        settings = Settings(bids_dir=folder / "bids", out_dir=folder / "out", omp_nthreads=2)
        workflow = init_neuroferry_wf(subjects=some, settings=settings)
        workflow.base_dir = str(folder / "work")
        return workflow

    # with precomputed derivatives every graph is built
    given = {} if stamp else {"old": folder / "nothing"}
    config = Config(folder / "bids", folder / "out", "participant")
    config = replace(config, input=replace(config.input, derivatives=given))
    plan_subjects(plugin, config, subjects, build)
    plugin.write()
    return read_manifest(run_dir, 0), built, run_dir


def test_the_same_plan_from_fewer_graphs(people, tmp_path):
    small, large = (20, 20, 20), (220, 240, 260)
    subjects = [
        people("01", small),
        people("02", small, AcquisitionTime="10:00"),
        people("010", small, AcquisitionTime="12:30"),
        people("03", large),
        people("04", small, small),
        people("05", small, session="a"),
        people("06", small, session="b"),
        people("07", large, AcquisitionTime="9:00"),
    ]
    stamped, built, run_dir = plan(tmp_path, subjects, stamp=True)
    each, all_built, other_dir = plan(tmp_path, subjects, stamp=False)
    assert all_built == [subject.label for subject in subjects]
    assert built == ["01", "03", "04", "05", "06"]
    assert replace(stamped, run_dir="") == replace(each, run_dir="")
    for subject in subjects:
        name = f"methods_sub-{subject.label}.md"
        assert (run_dir / name).read_text() == (other_dir / name).read_text()
    payloads = (run_dir / "slurm" / "payloads").read_bytes()
    for group in stamped.groups:
        for member in group.members:
            subject = pickle.loads(payloads[member.offset : member.offset + member.length])
            assert subject.label == member.subject
            json.dumps(dict(subject.runs[0].metadata))


def test_who_has_begun_is_looked_at(people, tmp_path):
    subjects = [people(label, (20, 20, 20)) for label in ("01", "02", "03")]
    (tmp_path / "out-work" / "neuroferry_wf" / "sub_02_wf").mkdir(parents=True)
    _, built, _ = plan(tmp_path, subjects, stamp=True)
    assert built == ["01", "02"]


def test_only_metadata_that_was_read_counts(people):
    first = people("01", (9, 9, 9), RepetitionTime=2.0, Serial="a", Intended="bids::sub-01/x")
    watched, read = watch(first)
    assert watched.runs[0].metadata.get("RepetitionTime") == 2.0
    assert "EchoTime" not in watched.runs[0].metadata
    assert watched.runs[0].metadata["Intended"]
    alike = Alike()
    alike.keep(first, read, "plan")

    def find(**metadata):
        values = {"RepetitionTime": 2.0, "Intended": "bids::sub-02/x", **metadata}
        return alike.find(people("02", (9, 9, 9), **values))

    assert find(Serial="b") == ("01", "plan")
    assert find(RepetitionTime=3.0) is None
    assert find(EchoTime=0.03) is None
    assert find(Intended="bids::sub-01/x") is None
    assert alike.find(people("03", (9, 9, 8), RepetitionTime=2.0)) is None


def test_whoever_reads_all_metadata_depends_on_all(people):
    first = people("01", (9, 9, 9), Serial="a")
    watched, read = watch(first)
    assert dict(watched.runs[0].metadata) == {"Serial": "a"}
    alike = Alike()
    alike.keep(first, read, "plan")
    assert alike.find(people("02", (9, 9, 9), Serial="b")) is None
    assert alike.find(people("02", (9, 9, 9), Serial="a")) == ("01", "plan")
