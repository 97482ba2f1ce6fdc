"""A participant planned like another gets the same plan as from its own graph."""

import pickle
from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
from plans import plan_of

from neuroferry.app.alike import Alike
from neuroferry.app.slurm import plan_subjects
from neuroferry.bids.model import Image, Subject
from neuroferry.config import Config
from neuroferry.engine import RunRecord, SLURMGraphPlugin
from neuroferry.engine.slurm.manifest import read_manifest
from neuroferry.interfaces.image.images import save_nifti
from neuroferry.workflows.base import BuildSettings, init_neuroferry_wf


@pytest.fixture
def people(tmp_path):
    """Return a function that creates a participant with one T1w image of each shape."""
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "dataset_description.json").write_text('{"Name": "x"}')

    def make(label, *shapes, session=None, **metadata):
        runs = []
        for number, shape in enumerate(shapes, 1):
            where = f"_ses-{session}" if session else ""
            folder = tmp_path / "bids" / f"sub-{label}" / where.strip("_") / "anat"
            path = folder / f"sub-{label}{where}_run-{number}_T1w.nii.gz"
            folder.mkdir(parents=True, exist_ok=True)
            save_nifti(np.zeros(shape, np.uint8), np.eye(4), path)
            entities = {"subject": label, "run": str(number)}
            if session:
                entities["session"] = session
            runs.append(Image(path, entities, "T1w", "anat", metadata))
        return Subject(label, tuple(runs))

    return make


def plan(folder, subjects, *, alike):
    """Plan participants; return the manifest and the number of graphs built."""
    run_dir = folder / ("alike" if alike else "each") / "logs" / "run"
    run_dir.mkdir(parents=True)
    plugin = SLURMGraphPlugin(
        {"run_dir": run_dir, "record": RunRecord(run_dir / "events.jsonl"), "source": "config"}
    )
    built: list[str] = []
    config = Config(folder / "bids", folder / "out", "participant")
    settings = BuildSettings(folder / "bids", folder / "out", config.workflow, 2)

    def build(some):
        built.extend(plan.label for plan in some)
        workflow = init_neuroferry_wf(plans=some, settings=settings)
        workflow.base_dir = str(folder / "work")
        return workflow

    plans = [plan_of(subject) for subject in subjects]
    for some in [plans] if alike else [[one] for one in plans]:
        plan_subjects(plugin, config, some, build)
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
        people("a+b", small),
    ]
    shared, built, run_dir = plan(tmp_path, subjects, alike=True)
    each, all_built, other_dir = plan(tmp_path, subjects, alike=False)
    assert all_built == [subject.label for subject in subjects]
    assert built == ["01", "03", "04", "05", "06"]
    assert replace(shared, run_dir="", token="") == replace(each, run_dir="", token="")
    for subject in subjects:
        name = f"methods_sub-{subject.label}.md"
        assert (run_dir / name).read_text() == (other_dir / name).read_text()
    payloads = (run_dir / "slurm" / "payloads").read_bytes()
    for group in shared.groups:
        for member in group.members:
            payload = pickle.loads(payloads[member.offset : member.offset + member.length])
            assert payload.label == member.subject


def test_who_has_begun_is_looked_at(people, tmp_path):
    subjects = [people(label, (20, 20, 20)) for label in ("01", "02", "03")]
    (tmp_path / "out-work" / "neuroferry_wf" / "sub_02_wf").mkdir(parents=True)
    _, built, _ = plan(tmp_path, subjects, alike=True)
    assert built == ["01", "02"]


def test_what_no_step_depends_on_does_not_count(people):
    alike: Alike[str] = Alike()
    alike.keep(plan_of(people("01", (20, 20, 20), Serial="a")), "built")
    assert alike.find(plan_of(people("02", (20, 20, 20), Serial="b"))) == ("01", "built")
    assert alike.find(plan_of(people("03", (20, 20, 21)))) is None


def test_what_steps_depend_on_counts(tmp_path):
    def bold(label, tr):
        path = tmp_path / f"sub-{label}_task-rest_bold.nii.gz"
        image = nb.Nifti1Image(np.zeros((9, 9, 9, 6), np.int16), np.diag([3, 3, 3, 1]))
        image.to_filename(path)
        entities = {"subject": label, "task": "rest"}
        run = Image(path, entities, "bold", "func", {"RepetitionTime": tr, "Serial": label})
        return plan_of(Subject(label, (run,)), workflows=("func",))

    alike: Alike[str] = Alike()
    alike.keep(bold("01", 2.0), "built")
    assert alike.find(bold("02", 2.0)) == ("01", "built")
    assert alike.find(bold("03", 3.0)) is None
