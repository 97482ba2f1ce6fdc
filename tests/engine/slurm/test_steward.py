"""The steward's decisions, from records and states as SLURM reports them."""

import json

import pytest

from neuroferry.config import SlurmConfig
from neuroferry.engine.record import RunRecord, read_events, read_run
from neuroferry.engine.slurm.ends import read_states
from neuroferry.engine.slurm.manifest import (
    Group,
    Manifest,
    Member,
    Pack,
    read_manifest,
    write_manifest,
)
from neuroferry.engine.slurm.scripts import write_scripts
from neuroferry.engine.slurm.steward import Steward, _nearest

STEPS = tuple(f"w.sub_*_wf.{name}" for name in "abcd")
# a, then b and c side by side, then d after both
PACKS = (
    Pack("g1p01", (0,), 500, 1, 10),
    Pack("g1p02", (1,), 800, 1, 20, ("g1p01",)),
    Pack("g1p03", (2,), 500, 1, 10, ("g1p01",)),
    Pack("g1p04", (3,), 500, 1, 10, ("g1p02", "g1p03")),
)
BEFORE = ((), (0,), (0,), (1, 2))


class Run:
    """A run of two participants, and the ends of its jobs."""

    def __init__(self, folder, **settings):
        self.folder = folder
        members = tuple(Member(f"sub-{label}", label, 0, 0) for label in ("01", "02"))
        group = Group("g1", "x", STEPS, BEFORE, PACKS, members)
        manifest = Manifest(0, str(folder), "config", SlurmConfig(**settings), (group,))
        write_manifest(manifest, folder)
        write_scripts(manifest, folder, "true")
        rows = [f"{pack.name}\t{100 + i}\t1\t2" for i, pack in enumerate(PACKS)]
        (folder / "slurm" / "jobs.tsv").write_text("\n".join(rows) + "\n")
        self.record = RunRecord(folder / "events.jsonl")
        self.record.write("run_started", subjects=["01", "02"], steps=8)

    def job(self, pack, label, exit_code=0, cause=None, done=True):
        about = {"pack": pack, "unit": f"sub-{label}", "round": 0}
        step = "abcd"[int(pack[-1]) - 1]
        about_step = {"step": f"w.sub_{label}_wf.{step}", "subject": label}
        self.record.write("job_started", **about)
        self.record.write("step_started", **about_step)
        if done is None:
            return self
        self.record.write("step_done" if done else "step_failed", **about_step, message="bad")
        self.record.write("job_ended", exit_code=exit_code, cause=cause, **about)
        return self

    def well(self, label, packs="1234"):
        for number in packs:
            self.job(f"g1p0{number}", label)
        return self

    def states(self, text):
        (self.folder / "slurm" / "states-0.txt").write_text(text)
        return self

    def settle(self):
        return Steward(self.folder).settle()

    def close(self):
        code = Steward(self.folder).close()
        steps = {s.step.removeprefix("w.sub_"): s for s in read_run(self.folder).steps}
        return code, steps


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_nothing_is_left_to_do(run):
    run.well("01").well("02")
    assert run.settle() is None
    assert run.close()[0] == 0
    assert read_events(run.folder / "events.jsonl")[-1]["event"] == "run_ended"


def test_memory_doubles_and_what_waited_follows(run):
    run.well("02").well("01", "13").job("g1p02", "01", 1, "memory", done=False)
    script = run.settle()
    assert script.name == "resubmit-1.sh"
    (group,) = read_manifest(run.folder, 1).groups
    assert [member.name for member in group.members] == ["sub-01"]
    first, second = group.packs
    assert (first.steps, first.mem_mb, first.minutes, first.attempt) == ((1,), 1600, 20, 1)
    assert (second.steps, second.mem_mb, second.after) == ((3,), 500, (first.name,))


@pytest.mark.parametrize(
    ("state", "memory", "minutes"),
    [("OUT_OF_MEMORY", 1600, 20), ("TIMEOUT", 800, 40), ("NODE_FAIL", 800, 20), ("", 1600, 40)],
)
@pytest.mark.parametrize("program", ["sacct", "scontrol", "neither"])
def test_a_job_that_left_no_word(run, state, memory, minutes, program):
    run.well("02").well("01", "13").job("g1p02", "01", done=None)
    if program == "neither":
        memory, minutes = 1600, 40
    elif state:
        lines = {
            "sacct": f"101_1|{state}\n101_2|COMPLETED\n103_[1-2]|CANCELLED by 0\n",
            "scontrol": f"JobId=9 ArrayJobId=101 ArrayTaskId=1 JobName=x JobState={state} a=b\n",
        }
        run.states(lines[program])
    run.settle()
    (group,) = read_manifest(run.folder, 1).groups
    assert (group.packs[0].mem_mb, group.packs[0].minutes) == (memory, minutes)


def test_a_failed_step_ends_its_own_branch_only(run):
    run.well("02").well("01", "13").job("g1p02", "01", 1, "step", done=False)
    assert run.settle() is None
    code, steps = run.close()
    assert code == 1
    assert steps["01_wf.d"].state == "skipped"
    assert steps["01_wf.d"].because == "w.sub_01_wf.b"
    assert steps["02_wf.d"].state == "done"


def test_retries_end(tmp_path):
    run = Run(tmp_path, retries=0).well("02").well("01", "13")
    run.job("g1p02", "01", done=None).states("101_1|OUT_OF_MEMORY\n")
    assert run.settle() is None
    code, steps = run.close()
    assert code == 1
    assert steps["01_wf.b"].message.startswith(
        "Its job ran out of memory; it had requested 800 MiB"
    )
    assert steps["01_wf.d"].state == "skipped"


def test_the_most_that_may_be_asked_for(tmp_path):
    run = Run(tmp_path, max_mem="1GB").well("02").well("01", "13")
    run.job("g1p02", "01", 1, "memory", done=False)
    run.settle()
    (group,) = read_manifest(tmp_path, 1).groups
    assert group.packs[0].mem_mb == int(1e9 / 2**20)


def test_more_than_may_be_asked_for_is_not_tried(tmp_path):
    run = Run(tmp_path, max_mem="0.8GB").well("02").well("01", "13")
    run.job("g1p02", "01", 1, "memory", done=False)
    assert run.settle() is None


def test_a_task_that_somebody_cancelled_stays_cancelled(run):
    run.well("02").well("01", "13")
    run.job("g1p02", "01", done=None).states("101_1|CANCELLED by 1000\n")
    assert run.settle() is None
    _, steps = run.close()
    assert "was cancelled" in steps["01_wf.b"].message


def test_a_task_that_could_not_be_started_says_so(run):
    run.well("02").well("01", "13").states("101_1|CANCELLED\n103_1|CANCELLED\n")
    (run.folder / "slurm" / "given-up.txt").write_text("101_1\n")
    assert run.settle() is None
    code, steps = run.close()
    assert code == 1
    assert "put on hold by SLURM" in steps["01_wf.b"].message
    assert steps["01_wf.d"].state == "skipped"


def test_participants_that_did_not_fit_are_next(run):
    rows = [f"{pack.name}\t{100 + i}\t1\t1" for i, pack in enumerate(PACKS)]
    (run.folder / "slurm" / "jobs.tsv").write_text("\n".join(rows) + "\n")
    run.well("01")
    run.settle()
    (group,) = read_manifest(run.folder, 1).groups
    assert [member.name for member in group.members] == ["sub-02"]
    assert len(group.packs) == 4
    assert group.packs[0].attempt == 0


def test_a_second_round_continues_where_the_first_ended(run):
    run.well("02").well("01", "13").job("g1p02", "01", 1, "memory", done=False)
    run.settle()
    (group,) = read_manifest(run.folder, 1).groups
    rows = [f"{pack.name}\t{200 + i}\t1\t1" for i, pack in enumerate(group.packs)]
    with (run.folder / "slurm" / "jobs.tsv").open("a") as stream:
        stream.write("\n".join(rows) + "\n")
    for pack, step in zip(group.packs, "bd", strict=True):
        about = {"pack": pack.name, "unit": "sub-01", "round": 1}
        run.record.write("job_started", **about)
        run.record.write("step_done", step=f"w.sub_01_wf.{step}", subject="01")
        run.record.write("job_ended", exit_code=0, cause=None, **about)
    steward = Steward(run.folder)
    assert steward.manifest.round == 1
    assert steward.settle() is None
    assert steward.close() == 0


def test_states_of_whole_ranges():
    text = "12_[3,5-6%2]|PENDING\n13|COMPLETED\nJobId=1 JobName=x JobState=RUNNING\n"
    array = {("12", i): "PENDING" for i in (3, 5, 6)}
    assert read_states(text) == {**array, ("13", 0): "COMPLETED"}


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_task_without_its_number_is_known_where_it_is_the_only_one(run, tasks):
    """As ``sacct`` may print an array of one task that started at once."""
    rows = [f"{pack.name}\t{100 + i}\t1\t{tasks}" for i, pack in enumerate(PACKS)]
    (run.folder / "slurm" / "jobs.tsv").write_text("\n".join(rows) + "\n")
    run.well("02").well("01", "13").job("g1p02", "01", done=None).states("101|OUT_OF_MEMORY\n")
    run.settle()
    (group,) = read_manifest(run.folder, 1).groups
    # a job that is lost gets more of both
    assert group.packs[0].minutes == (20 if tasks == 1 else 40)


def test_a_problem_with_the_input_shows_in_the_exit_code(run):
    run.well("01").well("02")
    run.record.write("problem", subject="03", severity="error", message="no T1w", path=None)
    assert run.close()[0] == 1


def test_warnings_tell_what_runs_again(run):
    run.well("02").well("01", "13").job("g1p02", "01", 1, "memory", done=False)
    run.settle()
    (warning,) = read_run(run.folder).problems
    assert warning["message"] == (
        "sub-01: b ran out of memory with 800 MiB and 20 min; runs again with 1600 MiB and 20 min."
    )
    assert json.loads((run.folder / "slurm" / "manifest-1.json").read_text())["round"] == 1


def test_a_mapnode_with_a_failed_item_is_not_tried_again(run):
    run.well("02")
    about = {"pack": "g1p01", "unit": "sub-01", "round": 0}
    name = "w.sub_01_wf.a"
    run.record.write("job_started", **about)
    run.record.write("step_started", step=f"{name}._a1", subject="01", item=True)
    run.record.write("step_failed", step=f"{name}._a1", subject="01", message="bad item")
    run.record.write("step_skipped", step=name, subject="01", because=f"{name}._a1")
    run.record.write("job_ended", exit_code=1, cause="step", **about)
    assert run.settle() is None
    code, steps = run.close()
    assert code == 1
    assert steps["01_wf.b"].because == f"{name}._a1"
    assert steps["01_wf.d"].state == "skipped"


def test_rounds_without_any_progress_end(tmp_path):
    run = Run(tmp_path, retries=1).well("02")
    about = {"pack": "g1p01", "unit": "sub-01", "round": 0}
    run.record.write("job_started", **about)
    run.record.write("job_ended", exit_code=75, cause="early", reason="Too early.", **about)
    rounds = 0
    while Steward(tmp_path).settle() is not None:
        rounds += 1
        assert rounds < 10
        manifest = read_manifest(tmp_path, rounds)
        (group,) = manifest.groups
        with (tmp_path / "slurm" / "jobs.tsv").open("a") as stream:
            stream.write("".join(f"{pack.name}\t{rounds}00\t1\t1\n" for pack in group.packs))
        # the queue starts jobs although what they depend on is not done
        about = {"pack": group.packs[0].name, "unit": "sub-01", "round": rounds}
        run.record.write("job_started", **about)
        run.record.write("job_ended", exit_code=75, cause="early", reason="Too early.", **about)
    assert 1 <= rounds <= 3
    code, steps = run.close()
    assert code == 1
    assert "failed" in {step.state for name, step in steps.items() if name.startswith("01")}


def test_a_closed_run_is_not_closed_again(run):
    run.well("01").well("02").close()
    assert Steward(run.folder).exit_code == 0


@pytest.mark.parametrize("told", ["by the job's script", "by SLURM"])
def test_a_job_that_could_not_start_is_tried_again_then_named(tmp_path, told):
    run = Run(tmp_path, retries=0).well("02")
    if told == "by SLURM":
        run.states("100_1|FAILED|1:0\n")
    else:
        run.record.write(
            "job_not_started",
            pack="g1p01",
            task=1,
            round=0,
            exit_code=127,
            host="n7",
            reason="apptainer: command not found",
        )
    assert run.settle() is None
    _, steps = run.close()
    assert "Its job could not start" in steps["01_wf.a"].message
    if told != "by SLURM":
        assert "n7, exit code 127: apptainer: command not found" in steps["01_wf.a"].message
    again = Run(tmp_path / "again", retries=1).well("02").states("100_1|FAILED|1:0\n")
    assert again.settle() is not None


def test_paths_through_many_diamonds_are_followed_once(tmp_path):
    packs = [Pack("g1p000", (0,), 1, 1, 1)]
    for i in range(1, 61, 2):
        packs += [
            Pack(f"g1p{i:03d}", (i,), 1, 1, 1, tuple(p.name for p in packs[-2:])),
            Pack(f"g1p{i + 1:03d}", (i + 1,), 1, 1, 1, tuple(p.name for p in packs[-2:])),
        ]
    group = Group("g1", "x", (), (), tuple(packs), ())
    assert _nearest(group, packs[-1], {"g1p000": "r1"}) == ["g1p000"]
