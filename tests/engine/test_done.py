"""Finished steps are detected by the hash of their inputs."""

import shutil

import pytest
from nipype import Function, Node, Workflow, config

from neuroferry.engine import LinearPlugin
from neuroferry.engine.done import all_done, find_done
from neuroferry.engine.flatten import flatten


def same(x):
    return x


@pytest.fixture(autouse=True)
def _settings():
    before = dict(config._sections["execution"])
    config.update_config({"execution": {"check_version": "false", "hash_method": "content"}})
    yield
    config._sections["execution"].update(before)


def chain(folder, *, start=1, middle=None):
    workflow = Workflow("w", base_dir=str(folder))
    nodes = [Node(Function(["x"], ["out"], same), name=name) for name in "abc"]
    nodes[0].inputs.x = start
    nodes[1].overwrite = middle
    workflow.connect([(nodes[0], nodes[1], [("out", "x")]), (nodes[1], nodes[2], [("out", "x")])])
    return workflow


def names(graph):
    return {node.name for node in find_done(graph)}


def test_a_chain_is_done_up_to_what_changed_or_is_lost(tmp_path):
    assert names(flatten(chain(tmp_path))) == set()
    chain(tmp_path).run(plugin=LinearPlugin())
    assert names(flatten(chain(tmp_path))) == {"a", "b", "c"}
    assert all_done(flatten(chain(tmp_path)))
    assert names(flatten(chain(tmp_path, start=2))) == set()
    assert names(flatten(chain(tmp_path, middle=True))) == {"a"}
    shutil.rmtree(tmp_path / "w/b")
    assert names(flatten(chain(tmp_path))) == {"a"}
    assert not all_done(flatten(chain(tmp_path)))
