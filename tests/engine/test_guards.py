"""Inputs that Nipype takes for the same by their printed form are told apart by our plugins."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe
from scipy import sparse

from neuroferry.engine import LinearPlugin
from neuroferry.engine.guards import guard_nipype


def _long(at: int) -> np.ndarray[Any, Any]:
    values = np.zeros(2000)
    values[at] = 1.0
    return values


class _Settings:
    def __init__(self, values: Any) -> None:
        self.values = values


PAIRS = {
    "long array": (_long(1000), _long(1001)),
    "long array in a dictionary": ({"a": [_long(1000)]}, {"a": [_long(1001)]}),
    "short array, ninth digit": (np.array([1.0]), np.array([1.0 + 1e-12])),
    "masked array": (
        np.ma.masked_array(_long(1000), np.zeros(2000)),
        np.ma.masked_array(_long(1001), np.zeros(2000)),
    ),
    "shape": (np.zeros((1000, 2)), np.zeros((2, 1000))),
    "long table": (pd.DataFrame({"a": _long(1000)}), pd.DataFrame({"a": _long(1001)})),
    "long column": (pd.Series(_long(1000)), pd.Series(_long(1001))),
    "sparse matrix": (sparse.csr_array([[1.0, 0.0]]), sparse.csr_array([[2.0, 0.0]])),
    "small float": (1e-12, 2e-12),
    "floats that differ late": (0.1, 0.1 + 1e-15),
    "set": ({1, 2}, {1, 3}),
    "settings that hold an array": (_Settings(_long(1000)), _Settings(_long(1001))),
}


def _node(value: Any) -> pe.Node:
    node = pe.Node(Function(["value"], ["out"], function=_what), name="node")
    node.inputs.value = value
    return node


def _what(value):
    return str(type(value))


def _hash(value: Any) -> str:
    guard_nipype()
    return str(_node(value).inputs.get_hashval("content")[1])


@pytest.mark.parametrize("name", PAIRS)
def test_values_that_differ_have_different_hashes(name: str) -> None:
    """Whatever their printed form leaves out."""
    first, second = PAIRS[name]
    assert _hash(first) != _hash(second)


@pytest.mark.parametrize("name", PAIRS)
def test_a_value_keeps_its_hash_when_it_is_pickled(name: str) -> None:
    """A job of a cluster finds what the planning process hashed."""
    for value in PAIRS[name]:
        assert _hash(pickle.loads(pickle.dumps(value))) == _hash(value)


def test_a_view_has_the_hash_of_its_copy() -> None:
    """The order in memory is not part of the value."""
    values = np.arange(4000.0).reshape(2, 2000)
    assert _hash(values[:, ::2]) == _hash(values[:, ::2].copy())
    assert _hash(np.asfortranarray(values)) == _hash(values)


def test_the_content_of_a_file_counts_however_its_path_is_given(tmp_path: Path) -> None:
    """Nipype follows strings only."""
    path = tmp_path / "bvals"
    for value in (path, {"file": path}, [path], {path}):
        path.write_text("0 1000")
        before = _hash(value)
        path.write_text("0 2000")
        assert _hash(value) != before


def test_plain_values_keep_nipypes_own_hash() -> None:
    """Work folders of graphs with plain inputs stay valid."""
    values = [1, 2.5, 0.1, True, None, "text", (1, [2.0, "x"]), {"a": 1.25, "b": [1]}, 3 + 4j]
    script = (
        "from nipype.interfaces.utility import Function\n"
        "f = Function(['value'], ['out'])\n"
        f"for value in {values!r}:\n"
        "    f.inputs.value = value\n"
        "    print(f.inputs.get_hashval('content')[1])\n"
    )
    own = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    guard_nipype()
    interface = Function(["value"], ["out"])
    ours = []
    for value in values:
        interface.inputs.value = value
        ours.append(interface.inputs.get_hashval("content")[1])
    assert ours == own


def test_a_set_has_one_hash_in_every_process() -> None:
    """The order of a set of words changes from process to process."""
    script = (
        "from neuroferry.engine.guards import guard_nipype\n"
        "from nipype.interfaces.utility import Function\n"
        "guard_nipype()\n"
        "f = Function(['value'], ['out'])\n"
        "f.inputs.value = set('abcdefgh')\n"
        "print(f.inputs.get_hashval('content')[1])\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(seen) == 1


def test_a_step_runs_again_for_another_long_array(tmp_path: Path) -> None:
    """The earlier result is not returned for it."""

    def total(values):
        return float((values * range(len(values))).sum())

    def run(values: np.ndarray[Any, Any]) -> float:
        workflow = pe.Workflow("long", base_dir=str(tmp_path))
        node = pe.Node(Function(["values"], ["out"], function=total), name="total")
        node.inputs.values = values
        workflow.add_nodes([node])
        graph = workflow.run(plugin=LinearPlugin())
        return float(next(iter(graph.nodes())).result.outputs.out)

    assert run(_long(1000)) == 1000.0
    assert run(_long(1001)) == 1001.0
