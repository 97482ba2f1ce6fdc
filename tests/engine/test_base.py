"""The plugins on real Nipype graphs: results, failures, deaths, interruptions."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
from nipype import Function, MapNode, Node, Workflow, config
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from neuroferry.app.progress import Progress
from neuroferry.engine import LinearPlugin, MultiProcPlugin, RunRecord
from neuroferry.engine.record import read_events, summarise
from neuroferry.engine.resources import Resources
from neuroferry.errors import RunInterrupted, StepsFailedError


def add_one(x, after=None):
    return x + 1


def total(values):
    return sum(values)


def fail(x):
    raise ValueError("no good")


def fail_at_two(x):
    if x == 2:
        raise ValueError("two is no good")
    return x


def be_killed(x):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def leave_quietly(x):
    import os

    os._exit(3)


def rest(x, use_gpu):
    import time

    time.sleep(1)
    return x


def take_memory(x):
    import numpy as np

    return float(np.ones(50_000_000).sum())


def leave_a_child(x):
    import subprocess

    subprocess.Popen(["sleep", "30"])
    return x


def sleep_with_a_child(x):
    import subprocess

    subprocess.run(["sleep", "60"])
    return x


LOADED_BY = []


class ShareInputSpec(BaseInterfaceInputSpec):
    number = traits.Int()
    broken = traits.Bool(False, usedefault=True)


class ShareOutputSpec(TraitedSpec):
    out = traits.List(traits.Int())


class Share(SimpleInterface):
    """Interface that reports in which processes its shared data were loaded."""

    input_spec = ShareInputSpec
    output_spec = ShareOutputSpec

    def load_shared(self):
        if self.inputs.broken:
            raise OSError("there is nothing to load")
        if not LOADED_BY:
            LOADED_BY.append(os.getpid())

    def _run_interface(self, runtime):
        with suppress(OSError):
            self.load_shared()
        self._results["out"] = list(LOADED_BY)
        return runtime


LOADED = []


class Wait(Share):
    """Interface whose shared data take a minute to load, while the run is told to end."""

    def load_shared(self):
        LOADED.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(600):
            time.sleep(0.1)
        LOADED.append("done")


@pytest.fixture(autouse=True)
def settings():
    before = dict(config._sections["execution"])
    config.update_config(
        {
            "execution": {
                "hash_method": "content",
                "create_report": "false",
                "check_version": "false",
            }
        }
    )
    yield
    config._sections["execution"].update(before)


class Runner:
    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def __call__(self, workflow, plugin=MultiProcPlugin, **arguments):
        self.count += 1
        record = RunRecord(self.folder / f"{self.count}.jsonl")
        workflow.base_dir = str(self.folder / "work")
        error = None
        try:
            workflow.run(
                plugin=plugin(
                    plugin_args={
                        "n_procs": 2,
                        "memory_gb": 2,
                        "record": record,
                        "crash_dir": self.folder / "crashes",
                        **arguments,
                    }
                )
            )
        except StepsFailedError as err:
            error = str(err)
        run = summarise(read_events(record.path))
        return {step.step.split(".", 1)[1]: step for step in run.steps}, error


@pytest.fixture
def run(tmp_path):
    return Runner(tmp_path)


def node(name, function, inputs=("x",), **values):
    made = Node(Function(list(inputs), ["out"], function), name=name)
    for key, value in values.items():
        setattr(made.inputs, key, value)
    return made


def result_of(workflow, name):
    from nipype.pipeline.engine.utils import load_resultfile

    folder = Path(workflow.base_dir) / workflow.name / name
    return load_resultfile(folder / f"result_{name}.pklz").outputs.out


@pytest.mark.parametrize("plugin", [MultiProcPlugin, LinearPlugin])
def test_results_and_cache(run, plugin):
    workflow = Workflow("w")
    items = MapNode(Function(["x"], ["out"], add_one), iterfield=["x"], name="items")
    items.inputs.x = [1, 2, 3]
    workflow.connect(items, "out", node("total", total, ("values",)), "values")
    # a live display listens, which cannot be pickled
    record = RunRecord(run.folder / "live.jsonl", [Progress(2, 2, {})])
    _, error = run(workflow, plugin, record=record)
    assert error is None
    assert result_of(workflow, "total") == 9
    first = summarise(read_events(record.path))
    assert {step.state for step in first.steps} == {"done"}
    assert (len(first.steps), first.count("done")) == (5, 2)
    again, _ = run(workflow, plugin)
    assert {name: step.state for name, step in again.items()} == {
        "items": "cached",
        "total": "cached",
    }


def test_changed_input_runs_again_only_what_it_must(run):
    workflow = Workflow("w")
    first = node("first", add_one, x=1)
    other = node("other", add_one, x=5)
    workflow.connect(first, "out", node("second", add_one), "x")
    workflow.add_nodes([other])
    run(workflow)
    first.inputs.x = 2
    steps, _ = run(workflow)
    assert {name: step.state for name, step in steps.items()} == {
        "first": "done",
        "second": "done",
        "other": "cached",
    }
    assert result_of(workflow, "second") == 4


@pytest.mark.parametrize("plugin", [MultiProcPlugin, LinearPlugin])
def test_a_failure_takes_only_what_depends_on_it(run, plugin):
    workflow = Workflow("w")
    workflow.connect(node("bad", fail, x=1), "out", node("after", add_one), "x")
    workflow.add_nodes([node("free", add_one, x=1)])
    steps, error = run(workflow, plugin)
    assert "w.bad failed: ValueError: no good" in error
    assert {name: step.state for name, step in steps.items()} == {
        "bad": "failed",
        "after": "skipped",
        "free": "done",
    }
    assert steps["after"].because == "w.bad"
    crash = Path(steps["bad"].crashfile).read_text()
    assert "ValueError: no good" in crash
    assert "x = 1" in crash


def test_a_step_that_somebody_kills_has_not_run_out_of_memory(run, monkeypatch):
    alone = Workflow("alone")
    alone.add_nodes([node("dies", be_killed, x=1)])
    # processes of others may really run out of memory meanwhile
    monkeypatch.setattr("neuroferry.engine.worker.oom_kills", lambda: 7)
    steps, error = run(alone)
    assert "The step was ended by signal 9 (SIGKILL)" in error
    assert "nothing shows that memory ran out" in error
    assert "not enough" not in error
    events = read_events(run.folder / "1.jsonl")
    assert [e["out_of_memory"] for e in events if "out_of_memory" in e] == [False, False]
    assert steps["dies"].state == "failed"


@pytest.mark.parametrize("told", [True, False])
def test_a_step_that_the_kernel_kills_has_run_out_of_memory(run, monkeypatch, told):
    alone = Workflow("alone")
    alone.add_nodes([node("dies", be_killed, x=1)])
    counts = iter(range(100))
    monkeypatch.setattr(
        "neuroferry.engine.worker.oom_kills", lambda: next(counts) if told else None
    )
    if not told:  # a kernel that does not count: the step had nearly all memory
        little = Resources(1, 0.01)
        monkeypatch.setattr("neuroferry.engine.worker.available_resources", lambda: little)
    _, error = run(alone)
    assert "because memory ran out" in error
    assert "plan with at least" in error


def test_sigterm_while_a_step_is_prepared_ends_the_run_at_once(run):
    """Templates that steps share take seconds to read."""
    workflow = Workflow("w")
    workflow.add_nodes([Node(Wait(), name="waits")])
    with pytest.raises(RunInterrupted, match="Stopped by SIGTERM") as caught:
        run(workflow)
    assert caught.value.signal_number == signal.SIGTERM
    assert LOADED == ["begun"]  # and not "done"


@pytest.mark.parametrize(
    ("function", "message"), [(be_killed, "SIGKILL"), (leave_quietly, "exit status 3")]
)
def test_a_worker_that_dies_is_a_failure_and_no_hang(run, function, message):
    alone = Workflow("alone")
    alone.add_nodes([node("dies", function, x=1)])
    steps, error = run(alone)
    assert message in error
    assert message in steps["dies"].message
    assert Path(steps["dies"].crashfile).exists()
    others = Workflow("others")
    others.add_nodes(
        [node("dies", function, x=1), *(node(f"n{i}", add_one, x=i) for i in range(6))]
    )
    steps, _ = run(others)
    assert [step.state for step in steps.values()].count("done") == 6


def test_an_item_that_fails_fails_its_mapnode_and_no_other_item(run):
    workflow = Workflow("w")
    items = MapNode(Function(["x"], ["out"], fail_at_two), iterfield=["x"], name="items")
    items.inputs.x = [1, 2, 3]
    workflow.connect(items, "out", node("total", total, ("values",)), "values")
    steps, error = run(workflow)
    assert "two is no good" in error
    assert {name: step.state for name, step in steps.items()} == {
        "items._items0": "done",
        "items._items1": "failed",
        "items._items2": "done",
        "items": "skipped",
        "total": "skipped",
    }


def test_missing_upstream_result_and_wrong_type_are_failures(run, tmp_path):
    workflow = Workflow("w")
    listed = node("listed", add_one, x=1)
    broken = MapNode(Function(["x"], ["out"], add_one), iterfield=["x"], name="broken")
    workflow.connect(listed, "out", node("after", add_one), "x")
    run(workflow)
    result = tmp_path / "work/w/listed/result_listed.pklz"
    workflow.add_nodes([broken])
    result.write_bytes(b"")
    steps, error = run(workflow)
    assert error is not None
    assert steps["broken"].state == "failed"


def test_what_steps_share_is_loaded_once_before_they_are_forked(run):
    LOADED_BY.clear()
    workflow = Workflow("sharing")
    workflow.add_nodes(
        [
            Node(Share(number=1, broken=True), name="broken"),
            Node(Share(number=2), name="one"),
            MapNode(Share(), iterfield=["number"], name="many"),
        ]
    )
    workflow.get_node("many").inputs.number = [3, 4]
    _, error = run(workflow)
    assert error is None
    assert result_of(workflow, "broken") == []
    assert result_of(workflow, "one") == [os.getpid()]
    assert result_of(workflow, "many") == [[os.getpid()]] * 2


def test_memory_is_measured(run):
    workflow = Workflow("w")
    workflow.add_nodes([node("large", take_memory, x=1), node("small", add_one, x=1)])
    steps, _ = run(workflow)
    assert 0.4 < steps["large"].peak_gb < 1.0
    assert steps["small"].peak_gb < steps["large"].peak_gb - 0.3


def most_at_once(record):
    running = most = 0
    for event in read_events(record):
        running += {"step_started": 1, "step_done": -1}[event["event"]]
        most = max(most, running)
    return most


def test_memory_and_processors_are_respected(run):
    workflow = Workflow("w")
    made = [node(f"n{i}", add_one, x=i) for i in range(4)]
    for one in made:
        one._mem_gb = 1.5
    workflow.add_nodes(made)
    run(workflow)
    assert most_at_once(run.folder / "1.jsonl") == 1


@pytest.mark.parametrize("n_gpu_procs", [None, 2])
def test_steps_that_use_a_gpu_run_one_at_a_time_unless_there_are_more(run, n_gpu_procs):
    workflow = Workflow("w")
    workflow.add_nodes(
        [node(f"n{i}", rest, inputs=("x", "use_gpu"), x=i, use_gpu=True) for i in range(2)]
    )
    _steps, error = run(workflow, n_gpu_procs=n_gpu_procs)
    assert error is None
    assert most_at_once(run.folder / "1.jsonl") == (n_gpu_procs or 1)


def test_a_step_larger_than_the_machine_is_tried_alone(run):
    workflow = Workflow("w")
    large = node("large", add_one, x=1)
    large._mem_gb = 500.0
    large._n_procs = 64
    workflow.add_nodes([large, node("small", add_one, x=1)])
    steps, error = run(workflow)
    assert error is None
    assert {step.state for step in steps.values()} == {"done"}


def test_a_process_left_behind_does_not_hold_the_run(run):
    workflow = Workflow("w")
    workflow.add_nodes([node("leaves", leave_a_child, x=1)])
    started = time.monotonic()
    steps, _ = run(workflow)
    assert steps["leaves"].state == "done"
    assert time.monotonic() - started < 25


def test_stop_on_first_crash_starts_nothing_more(run):
    workflow = Workflow("w")
    bad = node("a_bad", fail, x=1)
    workflow.add_nodes([bad, *(node(f"n{i}", add_one, x=i) for i in range(8))])
    steps, error = run(workflow, LinearPlugin, stop_on_first_crash=True)
    assert error is not None
    assert list(steps) == ["a_bad"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_every_process_and_can_be_resumed(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_base import add_one, sleep_with_a_child, node
        from nipype import Workflow, config
        from neuroferry.engine import MultiProcPlugin, RunRecord
        from neuroferry.errors import RunInterrupted
        from pathlib import Path
        config.update_config({{"execution": {{"hash_method": "content"}}}})
        workflow = Workflow("w", base_dir={str(tmp_path / "work")!r})
        workflow.connect(node("first", add_one, x=1), "out", node("long", sleep_with_a_child), "x")
        record = RunRecord(Path({str(tmp_path / "events.jsonl")!r}))
        try:
            workflow.run(plugin=MultiProcPlugin({{"n_procs": 2, "record": record}}))
        except RunInterrupted as err:
            print(err)
            sys.exit(128 + err.signal_number)
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        started = [
            e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "step_started"
        ]
        if len(started) == 2:
            break
        time.sleep(0.05)
    assert len(started) == 2
    time.sleep(0.5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "to continue" in out
    sleepers = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    assert sleepers.stdout == ""
    assert summarise(read_events(tmp_path / "events.jsonl")).count("done") == 1
    assert not _descendants_sleep(os.getpid())


def _descendants_sleep(pid):
    listing = subprocess.run(["ps", "-eo", "pid,sid,args"], capture_output=True, text=True).stdout
    session = os.getsid(pid)
    return [
        line
        for line in listing.splitlines()
        if line.split()[1] == str(session) and line.endswith("sleep 60")
    ]


def sleep_two_seconds(x):
    import time

    time.sleep(2)
    return x


def test_the_parent_sleeps_while_steps_run(run):
    """A pipe that a later worker inherited must not keep the parent awake."""
    workflow = Workflow("w")
    workflow.connect(node("short", add_one, x=1), "out", node("other", sleep_two_seconds), "x")
    workflow.add_nodes([node("long", sleep_two_seconds, x=1)])
    turns = []
    steps, _ = run(workflow, tick=lambda: turns.append(1))
    assert {step.state for step in steps.values()} == {"done"}
    # three steps that end, and a look around every second
    assert len(turns) < 100
