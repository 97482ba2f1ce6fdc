"""Graphs of a run and settings of Nipype, before anything runs."""

import logging
import shutil
from copy import deepcopy

import pytest
from nipype import config as nipype_config
from plans import plan_of
from tiny_dataset import write_dataset

from neuroferry.app.dry_run import plan_run
from neuroferry.app.graph import build_graph, build_run, configure_nipype
from neuroferry.bids.index import index_subjects
from neuroferry.bids.model import Problem
from neuroferry.config import Config, WorkflowConfig, make_config
from neuroferry.engine.resources import Resources
from neuroferry.interfaces.derivatives import DerivativesNode
from neuroferry.workflows import base


@pytest.fixture
def config(tmp_path):
    settings = WorkflowConfig(workflows=("anat",))
    return Config(tmp_path / "bids", tmp_path / "out", "participant", workflow=settings)


@pytest.fixture
def plans(tmp_path):
    """Two participants, ``01`` and ``x+y``."""
    write_dataset(tmp_path / "bids", {"anat/T1w": {}})
    for name in ("sub-01_T1w.nii.gz", "sub-01_T1w.json"):
        path = tmp_path / "bids/sub-x+y/anat" / name.replace("01", "x+y")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "bids/sub-01/anat" / name, path)
    return [plan_of(subject, workflows=("anat",)) for subject in index_subjects(tmp_path / "bids")]


@pytest.fixture
def second_writer(monkeypatch):
    """Make each graph of a participant in the set write one file twice."""
    meant: set[str] = set()
    real = base.init_single_subject_wf

    def build(plan, settings):
        workflow = real(plan, settings)
        if plan.label in meant:
            first = next(n for n in workflow._get_all_nodes() if isinstance(n, DerivativesNode))
            workflow.add_nodes([DerivativesNode(deepcopy(first.interface), name="again")])
        return workflow

    monkeypatch.setattr(base, "init_single_subject_wf", build)
    return meant


def test_no_file_is_written_twice(config, plans, tmp_path):
    problems: list[Problem] = []
    workflow = build_graph(config, plans, 1, problems)
    sinks = [n for n in workflow._get_all_nodes() if isinstance(n, DerivativesNode)]
    paths = [path for node in sinks for path in node.interface.output_paths()]
    assert {path.relative_to(tmp_path / "out").parts[0] for path in paths} == {"sub-01", "sub-x+y"}
    assert len(set(paths)) == len(paths) > 20
    assert problems == []


def test_a_file_with_two_writers_is_an_error_of_its_participant(config, plans, second_writer):
    second_writer.add("x+y")
    problems: list[Problem] = []
    workflow = build_graph(config, plans, 1, problems)
    assert [node.name for node in workflow._graph.nodes()] == ["sub_01_wf"]
    (problem,) = problems
    assert (problem.subject, problem.severity) == ("x+y", "error")
    assert problem.path is not None
    assert problem.path.is_relative_to(config.output_dir / "sub-x+y")
    assert f"sub-x+y is skipped: 2 steps would write {problem.path}" in problem.message


def test_a_run_of_nothing_but_collisions_plans_nothing(
    config, plans, second_writer, tmp_path, capsys
):
    second_writer |= {"01", "x+y"}
    problems: list[Problem] = []
    assert len(build_run(config, tmp_path, plans, 1, problems)) == 0
    assert len(problems) == 2
    assert plan_run(config, plans, Resources(1, 8.0), problems).steps == ()
    assert "ERROR: sub-01 is skipped" in capsys.readouterr().err


@pytest.fixture
def nipype_settings():
    """Restore the settings and the log handlers of Nipype."""
    before = dict(nipype_config._sections["execution"])
    loggers = [logging.getLogger(f"nipype.{name}") for name in ("workflow", "interface", "utils")]
    handlers = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    nipype_config._sections["execution"].update(before)
    for logger, kept, propagate in handlers:
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate = kept, propagate


def test_a_run_folder_with_awkward_characters(tmp_path, nipype_settings):
    folder = tmp_path / "it's 50% (odd): x"
    folder.mkdir()
    configure_nipype(make_config({"bids_dir": "/a", "output_dir": "/b"}), folder)
    assert nipype_config.get("execution", "crashdump_dir") == str(folder)
    assert (folder / "steps.log").exists()
