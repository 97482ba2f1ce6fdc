"""Plans of real Nipype graphs, compared with the actual runs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nipype import Function, MapNode, Node, Workflow, config

from neuroferry.engine import MultiProcPlugin, RunRecord
from neuroferry.engine.estimate import Estimator, read_killed, read_table
from neuroferry.engine.plan import DiskNeed, PlanPlugin, disk_need
from neuroferry.engine.record import StepSummary, read_events, read_history, summarise


def rest(x, seconds=0.0):
    import time

    time.sleep(seconds)
    return x


@pytest.fixture(autouse=True)
def settings():
    before = dict(config._sections["execution"])
    config.update_config(
        {
            "execution": {
                "check_version": "false",
                "create_report": "false",
                "hash_method": "content",
            }
        }
    )
    yield
    config._sections["execution"].update(before)


def fan(folder, count=4, seconds=0.5, mem_gb=0.25):
    workflow = Workflow("w", base_dir=str(folder / "work"))
    last = Node(Function(["x"], ["out"], rest), name="last", mem_gb=mem_gb)
    for i in range(count):
        node = Node(Function(["x", "seconds"], ["out"], rest), name=f"n{i}", mem_gb=mem_gb)
        node.inputs.x, node.inputs.seconds = i, seconds
        workflow.add_nodes([node])
        if i == 0:
            workflow.connect(node, "out", last, "x")
    return workflow


def plan_of(workflow, **arguments):
    plugin = PlanPlugin({"n_procs": 2, "memory_gb": 4, **arguments})
    workflow.run(plugin=plugin)
    return plugin.plan


def measured(step, seconds, **values):
    return StepSummary(step, None, "done", seconds=seconds, **values)


def test_time_is_that_of_the_schedule(tmp_path):
    history = {f"w.n{i}": measured(f"w.n{i}", 10.0) for i in range(4)}
    history["w.last"] = measured("w.last", 5.0)
    plan = plan_of(fan(tmp_path), estimator=Estimator(history))
    assert plan.seconds == {1: 45.0, 2: 25.0, 4: 15.0, 8: 15.0}
    assert (plan.at_once, plan.verdict) == (2, "fits")
    assert {step.seconds_source for step in plan.steps} == {"measured"}


def test_memory_limits_what_runs_at_once(tmp_path):
    plan = plan_of(fan(tmp_path, mem_gb=3.0))
    assert (plan.at_once, plan.verdict) == (1, "fits with fewer steps at once")
    assert plan.largest.mem_source == "formula"


def test_what_does_not_fit_is_named(tmp_path):
    workflow = fan(tmp_path)
    workflow.get_node("n2")._mem_gb = 21.0
    plan = plan_of(workflow)
    assert plan.verdict == "does not fit"
    assert [step.step for step in plan.too_large] == ["w.n2"]
    assert json.loads(json.dumps(plan.as_dict()))["too_large"] == ["w.n2"]


def test_what_is_done_is_found_and_nothing_is_run_or_changed(tmp_path):
    workflow = fan(tmp_path, seconds=0.0)
    plan = plan_of(workflow)
    assert not any(step.done for step in plan.steps)
    assert not list(tmp_path.rglob("result_*"))
    workflow.run(plugin=MultiProcPlugin({"n_procs": 2, "memory_gb": 4}))
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    assert all(step.done for step in plan_of(workflow).steps)
    workflow.get_node("n0").inputs.x = 7
    done = {step.step: step.done for step in plan_of(workflow).steps}
    assert done == {"w.n0": False, "w.last": False, "w.n1": True, "w.n2": True, "w.n3": True}
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_the_plan_meets_what_the_run_then_takes(tmp_path):
    records: list[RunRecord] = []
    for number in range(2):
        workflow = fan(tmp_path, seconds=0.6 + 0.01 * number)
        history = {}
        if number:
            before = summarise(read_events(records[0].path)).steps
            history = {step.step: step for step in before}
            planned = plan_of(workflow, estimator=Estimator(history))
        records.append(RunRecord(tmp_path / f"{number}.jsonl"))
        workflow.run(plugin=MultiProcPlugin({"n_procs": 2, "memory_gb": 4, "record": records[-1]}))
    steps = {s.step: s for s in summarise(read_events(records[1].path)).steps}
    assert {step.step for step in planned.to_do} >= {s.step for s in ran_anew(steps)}
    for step in planned.to_do:
        ran = steps[step.step]
        if ran.state == "done":
            assert ran.peak_gb is not None
            assert 0.9 * ran.peak_gb <= step.mem_gb <= 2 * ran.peak_gb
            assert step.files == ran.files


def ran_anew(steps):
    return [step for step in steps.values() if step.state == "done"]


def test_items_of_a_mapnode_count(tmp_path):
    workflow = Workflow("w", base_dir=str(tmp_path))
    items = MapNode(Function(["x"], ["out"], rest), iterfield=["x"], name="items", mem_gb=1.0)
    items.inputs.x = [1, 2, 3, 4, 5]
    workflow.add_nodes([items])
    history = {"w.items._items0": measured("w.items._items0", 10.0, peak_gb=0.5, declared_gb=1.0)}
    (step,) = plan_of(workflow, estimator=Estimator(history)).steps
    assert step.seconds == 30.0
    assert step.mem_gb == pytest.approx(0.5 * 1.15)


def test_a_step_that_ran_out_of_memory_is_not_said_to_fit_again(tmp_path):
    record = RunRecord(tmp_path / "out/logs/1/events.jsonl")
    record.write(
        "step_failed", step="w.n1", subject=None, peak_gb=3.5, declared_gb=0.25, out_of_memory=True
    )
    estimator = Estimator(killed=read_killed(tmp_path / "out"))
    plan = plan_of(fan(tmp_path), estimator=estimator)
    assert [step.step for step in plan.too_large] == ["w.n1"]
    assert plan.too_large[0].mem_gb == pytest.approx(5.25)
    record.write("step_done", step="w.n1", subject=None, seconds=1.0, peak_gb=5.0, cached=False)
    assert read_killed(tmp_path / "out") == []


def test_the_table_is_used_where_nothing_was_measured():
    table = read_table({"steps": {"w.sub_*_wf.a": {"seconds": 8, "peak_gb": 2, "declared_gb": 2}}})
    estimate = Estimator(table=table).estimate("w.sub_07_wf.a", 4.0)
    assert estimate.seconds == 16.0
    assert estimate.mem_gb == pytest.approx(2 * 2 * 1.15)
    assert Estimator(table=table).estimate("w.sub_07_wf.a", 1.0).mem_gb == pytest.approx(
        2 * 0.5 * 1.15
    )
    assert (estimate.mem_source, estimate.seconds_source) == ("table", "table")


def test_a_declared_figure_that_is_that_of_an_undeclared_step_still_tells_the_size():
    table = {"a": measured("a", 10.0, peak_gb=0.2, declared_gb=0.25)}
    assert Estimator(table=table).estimate("a", 0.5).seconds == 20.0


def test_a_longer_series_takes_longer_and_no_more_memory(tmp_path):
    """Measurements on 150 volumes are scaled to 2,000; the record keeps the number of volumes."""
    workflow = Workflow("w", base_dir=str(tmp_path))
    step = Node(Function(["x"], ["out"], rest), name="resample", mem_gb=1.0)
    step.inputs.x = 1
    step.volumes = 2000
    workflow.add_nodes([step])
    record = RunRecord(tmp_path / "events.jsonl")
    workflow.run(plugin=MultiProcPlugin({"n_procs": 1, "memory_gb": 4, "record": record}))
    (ran,) = summarise(read_events(record.path)).steps
    assert ran.volumes == 2000
    history = {
        "w.resample": measured("w.resample", 6.0, peak_gb=0.5, declared_gb=1.0, volumes=150)
    }
    step.inputs.x = 2
    (planned,) = plan_of(workflow, estimator=Estimator(history)).steps
    assert planned.seconds == pytest.approx(80.0)
    assert planned.mem_gb == pytest.approx(0.55)


@given(peaks=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), declared=st.floats(0.5, 50))
def test_an_estimate_is_never_below_what_was_measured(peaks, declared):
    history = {
        f"w.sub_{i}_wf.a": measured(f"w.sub_{i}_wf.a", 1.0, peak_gb=peak, declared_gb=declared)
        for i, peak in enumerate(peaks)
    }
    estimator = Estimator(history)
    assert estimator.estimate("w.sub_new_wf.a", declared).mem_gb >= max(peaks)
    for i, peak in enumerate(peaks):
        assert estimator.estimate(f"w.sub_{i}_wf.a", declared).mem_gb >= peak


@pytest.mark.parametrize(("declared", "scaled"), [(0.15, 0.14), (0.37, 0.26), (0.74, 0.48)])
def test_what_an_empty_process_takes_is_not_scaled(declared, scaled):
    """A step on a tiny image takes no less than Python does; on a large one, not twice as much."""
    ran = measured("w.sub_01_wf.a", 1.0, peak_gb=0.26, declared_gb=0.37)
    estimate = Estimator({ran.step: ran}).estimate("w.sub_02_wf.a", declared)
    assert estimate.mem_gb == pytest.approx(1.15 * scaled, abs=0.02)
    assert estimate.mem_gb > 0.12


def test_steps_learn_from_their_kind_whatever_they_are_called():
    ran = measured("w.dwi_dir_AP_wf.fit", 40.0, kind="dwi.fit")
    other = Estimator({ran.step: ran}).estimate("w.dwi_dir_PA_wf.fit", 0.25, kind="dwi.fit")
    assert (other.seconds, other.seconds_source) == (40.0, "like")


def test_steps_learn_from_records_that_have_no_kinds():
    ran = measured("w.sub_01_wf.anat_wf.fit", 40.0)
    other = Estimator({ran.step: ran}).estimate("w.sub_02_wf.anat_wf.fit", 0.25, kind="anat.fit")
    assert (other.seconds, other.seconds_source) == (40.0, "like")


def test_a_kind_is_taken_from_the_node_to_the_record_and_back(tmp_path):
    """The items of a MapNode have their own kind, and the plan of another run finds both."""
    workflow = Workflow("w", base_dir=str(tmp_path / "work"))
    items = MapNode(Function(["x"], ["out"], rest), iterfield=["x"], name="items", mem_gb=1.0)
    items.inputs.x = [1, 2, 3]
    items.kind = "some.items"
    workflow.add_nodes([items])
    record = RunRecord(tmp_path / "out/logs/1/events.jsonl")
    workflow.run(plugin=MultiProcPlugin({"n_procs": 1, "memory_gb": 4, "record": record}))
    history = read_history(tmp_path / "out")
    assert {step.kind for step in history.values()} == {"some.items", "some.items[*]"}
    workflow.name = "another"
    items.inputs.x = [4, 5, 6]
    (planned,) = plan_of(workflow, estimator=Estimator(history)).steps
    assert (planned.mem_source, planned.seconds_source) == ("like", "like")


def test_disk(tmp_path):
    need = disk_need(tmp_path / "not/there", 0.001, 10)
    assert need.fits
    assert need.free_gb > 0
    assert not DiskNeed("x", 2.0, 1, 1.0, None).fits
    assert not DiskNeed("x", 0.1, 100, 1.0, 50).fits
