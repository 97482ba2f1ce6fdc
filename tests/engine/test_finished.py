"""Work folders of finished participants: archived once verified, detected, restored."""

import gzip
import os
import tarfile
from dataclasses import replace

import pytest
from nipype import Function, Node, Workflow, config
from strangers import STRANGER, by_root

from neuroferry.engine import MultiProcPlugin, RunRecord
from neuroferry.engine.finished import (
    Part,
    PutAway,
    bring_back,
    finished_steps,
    put_away,
    verify_outputs,
)
from neuroferry.engine.flatten import flatten
from neuroferry.engine.record import read_events, summarise
from neuroferry.errors import ExitCode, NeuroferryError, StepsFailedError, ToolError

STEPS = ("w.sub_01_wf.a", "w.sub_01_wf.b")


@pytest.fixture
def part(tmp_path):
    """A finished participant: one input, a work folder, three derivatives."""
    source = tmp_path / "T1w.nii.gz"
    source.write_bytes(gzip.compress(b"image"))
    work = tmp_path / "work" / "sub_01_wf"
    (work / "a").mkdir(parents=True)
    (work / "a" / "result_a.pklz").write_bytes(b"result")
    (work / "a" / "link").symlink_to(source)
    os.utime(work / "a" / "result_a.pklz", ns=(1, 123_456_789_123_456_789))
    outputs = tmp_path / "out" / "sub-01"
    (outputs / "anat").mkdir(parents=True)
    (outputs / "anat" / "T1w.nii.gz").write_bytes(gzip.compress(os.urandom(100_000)))
    (outputs / "anat" / "T1w.json").write_text("{}")
    (outputs / "anat" / "xfm.h5").write_bytes(b"transform")
    return Part(work, outputs, (source,), "settings")


def test_removed_and_known_to_be_finished(part):
    assert put_away(part, "remove", STEPS)
    assert [path.name for path in part.folder.parent.iterdir()] == ["sub_01_wf.finished.json"]
    assert finished_steps(part) == STEPS
    assert not put_away(part, "remove", STEPS)


def test_packed_and_brought_back_as_it_was(part):
    assert put_away(part, "pack", STEPS)
    assert sorted(path.name for path in part.folder.parent.iterdir()) == [
        "sub_01_wf.finished.json",
        "sub_01_wf.tar",
    ]
    assert finished_steps(part) == STEPS
    bring_back(part)
    assert [path.name for path in part.folder.parent.iterdir()] == ["sub_01_wf"]
    result = part.folder / "a" / "result_a.pklz"
    assert result.read_bytes() == b"result"
    assert result.stat().st_mtime == pytest.approx(123_456_789.123_457, abs=1e-6)
    assert (part.folder / "a" / "link").readlink() == part.inputs[0]


def test_the_same_file_with_another_time_is_the_same(part):
    put_away(part, "remove", STEPS)
    os.utime(part.inputs[0], (1, 1))
    assert finished_steps(part) == STEPS


@pytest.mark.parametrize("change", ["input", "size", "settings", "files", "derivative", "receipt"])
def test_what_makes_a_receipt_invalid(part, change, tmp_path):
    put_away(part, "pack", STEPS)
    if change == "input":
        data = part.inputs[0].read_bytes()
        part.inputs[0].write_bytes(data[:-1] + b"x")
        os.utime(part.inputs[0], (1, 1))
    elif change == "size":
        part.inputs[0].write_bytes(b"more than there was")
    elif change == "settings":
        part = replace(part, key="others")
    elif change == "files":
        part = replace(part, inputs=(*part.inputs, tmp_path / "another"))
    elif change == "derivative":
        (part.outputs / "anat" / "xfm.h5").unlink()
    else:
        part.receipt.write_text("{")
    assert finished_steps(part) is None
    bring_back(part)
    assert (part.folder / "a" / "result_a.pklz").exists()
    assert not part.receipt.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("T1w.nii.gz", gzip.compress(os.urandom(1000))[:-20]),
        ("T1w.nii.gz", gzip.compress(b"a" * 100)[:20] + b"\0" * 20),
        ("T1w.json", b"{"),
        ("xfm.h5", b""),
    ],
    ids=["cut", "damaged", "json", "empty"],  # the content has random bytes and a time
)
def test_a_broken_derivative_keeps_the_work_folder(part, name, content):
    (part.outputs / "anat" / name).write_bytes(content)
    with pytest.raises(ToolError, match=name):
        put_away(part, "remove", STEPS)
    assert (part.folder / "a" / "result_a.pklz").exists()
    assert finished_steps(part) is None


def test_no_derivative_at_all_keeps_the_work_folder(part, tmp_path):
    with pytest.raises(ToolError, match="no derivative"):
        verify_outputs(tmp_path / "nowhere")


@pytest.mark.parametrize("receipt", [True, False])
def test_killed_while_putting_away(part, receipt):
    """Nothing is lost before the receipt is written; afterwards the folder is not needed."""
    part.folder.rename(part.claimed)
    if receipt:
        part.receipt.write_text("{}")
    bring_back(part)
    assert part.folder.exists() is not receipt
    assert not part.claimed.exists()


def write_output(path, x):
    import gzip
    from pathlib import Path

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(gzip.compress(str(x).encode()))
    return x


def add_one(x, fail=False):
    if fail:
        raise ValueError("no good")
    return x + 1


def cohort(folder, labels, bad=()):
    workflow = Workflow("w", base_dir=str(folder / "work"))
    for label in labels:
        first = Node(Function(["x", "fail"], ["out"], add_one), name="first", mem_gb=0.1)
        first.inputs.x, first.inputs.fail = 1, label in bad
        write = Node(Function(["path", "x"], ["out"], write_output), name="write", mem_gb=0.1)
        write.inputs.path = str(folder / "out" / f"sub-{label}" / "a.nii.gz")
        part = Workflow(f"sub_{label}_wf")
        part.connect(first, "out", write, "x")
        workflow.add_nodes([part])
    return flatten(workflow)


def test_a_cohort_leaves_what_failed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setitem(config._sections["execution"], "create_report", "false")
    monkeypatch.setitem(config._sections["execution"], "hash_method", "content")
    labels = ["01", "02", "03", "04"]
    graph = cohort(tmp_path, labels, bad=["02"])
    parts = {
        label: Part(
            tmp_path / "work" / "w" / f"sub_{label}_wf", tmp_path / "out" / f"sub-{label}", (), "k"
        )
        for label in labels
    }
    steps = {label: [f"w.sub_{label}_wf.{n}" for n in ("first", "write")] for label in labels}
    record = RunRecord(tmp_path / "events.jsonl")
    most, complaints = [], []

    def look(event):
        most.append(len(list((tmp_path / "work" / "w").glob("sub_*_wf"))))

    with PutAway("remove", parts, steps, lambda *said: complaints.append(said)) as listener:
        record.listeners += [listener, look]
        plugin = MultiProcPlugin(
            {"n_procs": 1, "memory_gb": 2, "record": record, "crash_dir": tmp_path}
        )
        with pytest.raises(StepsFailedError):
            plugin.run(graph, config={})
    left = sorted(path.name for path in (tmp_path / "work" / "w").iterdir() if path.is_dir())
    assert left == ["sub_02_wf"]
    assert complaints == []
    assert [finished_steps(parts[label]) is None for label in labels] == [0, 1, 0, 0]
    assert len(summarise(read_events(record.path)).steps) == 8


def test_participants_come_one_after_the_other(tmp_path):
    record = RunRecord(tmp_path / "events.jsonl")
    plugin = MultiProcPlugin({"n_procs": 1, "memory_gb": 2, "record": record})
    plugin.run(cohort(tmp_path, ["01", "02", "03"]), config={})
    done = [e["step"] for e in read_events(record.path) if e["event"] == "step_done"]
    assert done == [f"w.sub_0{i}_wf.{name}" for i in (1, 2, 3) for name in ("first", "write")]


def end_all(part, complain):
    """End the last step of a participant, and the run with it."""
    with PutAway("pack", {"01": part}, {"01": STEPS}, complain) as listener:
        for step in STEPS:
            listener({"event": "step_done", "step": step, "subject": "01"})
        if complain is None:
            raise KeyboardInterrupt


def test_who_could_not_be_verified_is_said(part):
    said = []
    part.outputs.joinpath("anat", "T1w.json").write_text("{")
    end_all(part, lambda *words: said.append(words))
    ((label, why),) = said
    assert label == "01"
    assert "T1w.json is damaged" in why
    assert (part.folder / "a" / "result_a.pklz").exists()


def test_an_interrupted_run_leaves_a_state_that_goes_on(part):
    with pytest.raises(KeyboardInterrupt):
        end_all(part, None)
    if finished_steps(part) is None:
        bring_back(part)
        assert (part.folder / "a" / "result_a.pklz").exists()


@by_root
def test_what_others_packed_is_not_unpacked(part):
    put_away(part, "pack", STEPS)
    part.folder.parent.chmod(0o755)
    os.chown(part.packed, STRANGER, STRANGER)
    with pytest.raises(NeuroferryError, match=r"sub_01_wf.tar belongs to user 54321") as info:
        bring_back(part)
    assert info.value.exit_code == ExitCode.NO_PERMISSION
    assert part.packed.exists()
    assert not part.folder.exists()


def member(name, kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o755
    return made


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("sub_01_wf/../../outside")],
        [member("sub_01_wf", tarfile.SYMTYPE, "/{}"), member("sub_01_wf/outside")],
        [member("sub_01_wf/l", tarfile.SYMTYPE, "../.."), member("sub_01_wf/l/outside")],
        [member("sub_01_wf/l", tarfile.SYMTYPE, "/etc/passwd")],
        [member("sub_01_wf/l", tarfile.LNKTYPE, "../../precious")],
        [member("sub_01_wf/pipe", tarfile.CHRTYPE)],
    ],
)
def test_members_stay_in_the_folder(part, tmp_path, members):
    put_away(part, "pack", STEPS)
    (tmp_path / "work" / "precious").write_text("precious")
    with tarfile.open(part.packed, "w") as tar:
        for made in members:
            made.linkname = made.linkname.format(tmp_path)
            tar.addfile(made)
    with pytest.raises(NeuroferryError, match="leads out of its folder"):
        bring_back(part)
    assert not list(tmp_path.rglob("outside"))
    assert not part.folder.exists()
    assert not part.folder.with_name("sub_01_wf.unpacking").exists()


def test_links_between_nodes_and_to_inputs_come_back(part):
    inside, relative = part.folder / "b" / "own", part.folder / "b" / "near"
    inside.parent.mkdir()
    inside.symlink_to(part.folder / "a" / "result_a.pklz")
    relative.symlink_to("../a/result_a.pklz")
    put_away(part, "pack", STEPS)
    bring_back(part)
    assert inside.readlink() == part.folder / "a" / "result_a.pklz"
    assert inside.read_bytes() == relative.read_bytes() == b"result"
