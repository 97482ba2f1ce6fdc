"""The comparison of two versions: it sees every change of a graph, and nothing but changes."""

import json

import nibabel as nb
import numpy as np
import pytest
from nipype import Node, Workflow
from nipype.interfaces.utility import Function, IdentityInterface, Merge
from same import captured, compare, describe_graph, json_differences

from neuroferry.engine.flatten import flatten


def add(a, b):
    return a + b


def described(*, a=1, mem_gb=0.5, n_procs=1, source="x", interface=None):
    """Describe a graph of two nodes."""
    start = Node(IdentityInterface(fields=["x", "y"]), name="start")
    start.inputs.x, start.inputs.y = 1, 2
    interface = interface or Function(["a", "b"], ["out"], add)
    node = Node(interface, name="add", mem_gb=mem_gb, n_procs=n_procs)
    node.inputs.a = a
    last = Node(Merge(1), name="last")
    workflow = Workflow(name="wf")
    workflow.connect([(start, node, [(source, "b")]), (node, last, [("out", "in1")])])
    with captured() as found:
        workflow.visit_desc = lambda: ""
        flatten(workflow)
    ((graph, _),) = found
    return list(describe_graph(graph))


def write(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "graph.txt").write_text("\n".join(lines))
    return folder


def test_the_same_graph(tmp_path):
    """Also where an interface has moved to another module."""

    class Moved(Function):
        pass

    Moved.__name__ = "Function"
    one = write(tmp_path / "one", described())
    other = write(tmp_path / "other", described(interface=Moved(["a", "b"], ["out"], add)))
    assert (one / "graph.txt").read_text() != (other / "graph.txt").read_text()
    assert compare(one, other, everything=False) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"a": 2}, "+  a = 2"),
        ({"mem_gb": 0.6}, "+  mem_gb 0.6, n_procs 1"),
        ({"n_procs": 2}, "+  mem_gb 0.5, n_procs 2"),
        ({"source": "y"}, "+  b = 2"),
    ],
)
def test_a_change_of_the_graph(tmp_path, capsys, change, expected):
    one = write(tmp_path / "one", described())
    other = write(tmp_path / "other", described(**change))
    assert compare(one, other, everything=False) == 1
    assert expected in capsys.readouterr().out


def test_json_by_key():
    one = {"a": [1, 2], "b": {"c": 3}, "d": 1}
    other = {"a": [1, 4], "b": {"c": 3, "e": 5}, "d": 1.0}
    assert list(json_differences(one, other)) == [
        "a.1: 2 -> 4",
        "b.e: nothing -> 5",
        "d: 1 -> 1.0",
    ]


def test_folders_of_results(tmp_path, capsys):
    for name in ("one", "other"):
        root = tmp_path / name
        (root / "logs").mkdir(parents=True)
        (root / "logs" / "events.jsonl").write_text(name)
        (root / "sub-01.html").write_text(name)
        (root / "same.tsv").write_text("a\tb\n")
        (root / "about.json").write_text(json.dumps({"Threshold": 1 if name == "one" else 2}))
        data = np.zeros((4, 5, 6), np.float32)
        data[1, 2, 3] = 1.0 if name == "one" else 3.5
        nb.Nifti1Image(data, np.eye(4)).to_filename(root / "map.nii")
    (tmp_path / "one" / "left.txt").touch()
    assert compare(tmp_path / "one", tmp_path / "other", everything=False) == 1
    out = capsys.readouterr().out
    assert "Threshold: 1 -> 2" in out
    assert "1 of 120 voxels, by at most 2.5" in out
    assert f"only in {tmp_path / 'one'}: left.txt" in out
    assert "3 files in both, 3 differences" in out
    assert "sub-01.html" not in out
    compare(tmp_path / "one", tmp_path / "other", everything=True)
    assert "differs: sub-01.html" in capsys.readouterr().out
