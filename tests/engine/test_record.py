"""The record: events are read as written, and summarised to the state of a run."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from neuroferry.engine.record import (
    RunRecord,
    StepSummary,
    found_done,
    list_runs,
    read_events,
    read_history,
    summarise,
)

STEP = "neuroferry_wf.sub_01_wf.anat_wf.correct_bias"


def test_events_are_read_as_written(tmp_path):
    record = RunRecord(tmp_path / "logs/a/events.jsonl")
    heard: list[dict[str, Any]] = []
    record.listeners.append(heard.append)
    record.write(
        "problem", subject="01", message="odd ünïcode\nand a line break", severity="error"
    )
    (event,) = read_events(record.path)
    assert event["message"] == "odd ünïcode\nand a line break"
    assert heard == [event]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    record = RunRecord(tmp_path / "events.jsonl")
    record.write("step_started", step=STEP)
    with record.path.open("a") as stream:
        stream.write('{"event": "step_do')
    assert [event["event"] for event in read_events(record.path)] == ["step_started"]


def test_no_file_means_no_events(tmp_path):
    assert read_events(tmp_path / "none") == []


def test_writers_do_not_mix_their_lines(tmp_path):
    record = RunRecord(tmp_path / "events.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: record.write("x", number=i, text="y" * 3000), range(200)))
    assert sorted(event["number"] for event in read_events(record.path)) == list(range(200))


def test_summary_follows_each_step():
    events: list[dict[str, Any]] = [
        {"event": "run_started", "run_id": "r", "steps": 3, "subjects": ["01"], "time": "t0"},
        {"event": "step_started", "step": STEP, "subject": "01", "mem_gb": 2.0, "n_procs": 1},
        {"event": "step_done", "step": STEP, "subject": "01", "seconds": 3.0, "peak_gb": 1.5},
        {"event": "step_failed", "step": "b", "subject": None, "message": "no", "crashfile": "f"},
        {"event": "step_skipped", "step": "c", "subject": None, "because": "b"},
        {"event": "problem", "subject": "01", "severity": "warning", "message": "hm"},
        {"event": "run_ended", "exit_code": 1, "reason": None, "time": "t1"},
    ]
    run = summarise(events)
    assert (run.run_id, run.n_steps, run.exit_code, run.ended) == ("r", 3, 1, "t1")
    first = run.steps[0]
    assert (first.state, first.seconds, first.peak_gb, first.mem_gb) == ("done", 3.0, 1.5, 2.0)
    assert run.count("done", "cached") == 1
    assert [step.step for step in run.failed] == ["b"]
    assert run.steps[2].because == "b"
    assert len(run.of_subject("01").steps) == 1
    assert run.of_subject("02").problems == ()


def test_a_step_that_runs_again_loses_its_error():
    events: list[dict[str, Any]] = [
        {"event": "step_failed", "step": STEP, "message": "no memory"},
        {"event": "step_started", "step": STEP},
        {"event": "step_done", "step": STEP, "seconds": 1.0},
    ]
    (step,) = summarise(events).steps
    assert (step.state, step.message) == ("done", None)


def test_a_step_that_is_done_reads_back_as_it_was_written(tmp_path):
    record = RunRecord(tmp_path / "events.jsonl")
    ran = StepSummary(
        *(STEP, "01", "done", 3.25, 2.5, 0.75, 1.0, 2),
        declared_gb=0.5,
        volumes=30,
        disk_gb=0.002,
        files=7,
        kind="anatomy.anat.correct_bias",
    )
    found = found_done(STEP, ran, subject="01", mem_gb=0.9)
    first, second = record.write_done(ran), record.write_done(found)
    assert summarise([first]).steps == (ran,)
    assert summarise([second]).steps == (replace(ran, state="cached", mem_gb=0.9),)
    assert first.keys() == record.write_done(found_done("a.b", None, subject=None)).keys()


def test_history_keeps_the_latest_measured_run(tmp_path):
    for name, seconds, cached in (("1", 9.0, False), ("2", 5.0, False), ("3", 5.0, True)):
        RunRecord(tmp_path / "logs" / name / "events.jsonl").write(
            "step_done", step=STEP, seconds=seconds, cached=cached
        )
    assert [folder.name for folder in list_runs(tmp_path)] == ["1", "2", "3"]
    assert read_history(tmp_path)[STEP].seconds == 5.0
    assert json.dumps(read_history(tmp_path)[STEP].state) == '"done"'


def test_lines_that_are_no_events_are_skipped(tmp_path):
    """A record that a disk damaged must not end the runs that come after it."""
    path = tmp_path / "events.jsonl"
    RunRecord(path).write("run_started", steps=1)
    with path.open("ab") as stream:
        stream.write(b'3\n[]\n{}\n{"event": 1}\n{"event": "step_done"}\n\xff\x00\n' + b"[" * 9999)
        stream.write(b"\n" + b'{"event": "step_done", "step": ["a"]}\n')
    RunRecord(path).write("run_ended", exit_code=0)
    assert [event["event"] for event in read_events(path)] == ["run_started", "run_ended"]


def test_a_record_that_cannot_be_read_is_said(tmp_path, capsys):
    (tmp_path / "events.jsonl").mkdir()
    assert read_events(tmp_path / "events.jsonl") == []
    assert "events.jsonl cannot be read (Is a directory)" in capsys.readouterr().err
