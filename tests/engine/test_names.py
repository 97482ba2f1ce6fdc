"""Names of the nodes of real Nipype graphs."""

import pickle

import pytest
from nipype import Function, MapNode, Node, Workflow

from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import StepName, in_subject, kind_of


def same(x, factor=1):
    return x


@pytest.mark.parametrize(
    ("text", "subject", "generic", "kind"),
    [
        ("w.sub_01_wf.a_wf.b2", "01", "w.sub_*_wf.a_wf.b2", "w.sub_*_wf.a_wf.b2"),
        ("sub_x_wf.a", "x", "sub_*_wf.a", "sub_*_wf.a"),
        ("w.sub_a_plus_b_wf.a", "a+b", "w.sub_*_wf.a", "w.sub_*_wf.a"),
        ("w.sub_a_plus__wf.a", "a+", "w.sub_*_wf.a", "w.sub_*_wf.a"),
        ("w.sub_aplusb_wf.a", "aplusb", "w.sub_*_wf.a", "w.sub_*_wf.a"),
        ("some_wf.sub_wf.node", None, "some_wf.sub_wf.node", "some_wf.sub_wf.node"),
        ("w.a._scan_7", None, "w.a._scan_7", "w.a"),
        ("w.a._scan_7._a12", None, "w.a._scan_7._a12", "w.a[*]"),
        ("w.a._ab1", None, "w.a._ab1", "w.a"),
        ("node", None, "node", "node"),
    ],
)
def test_a_name_is_taken_apart(text, subject, generic, kind):
    step = StepName(text)
    assert (step.subject, step.generic, step.kind) == (subject, generic, kind)
    assert in_subject(generic, subject) == text


def test_words_for_people():
    step = StepName("neuroferry_wf.sub_01_wf.anat_wf.brain_extraction_wf.fit_affine")
    assert step.short == "sub-01 anat > brain extraction > fit affine"
    assert (step.place, step.plain) == ("anat > brain extraction", "fit affine")
    assert StepName("w.a._a3").short == "a > a3"
    assert (StepName("a").short, StepName("a").place) == ("a", "")


def test_a_kind_survives_flattening_iterables_and_pickling():
    inner = Workflow("bold_task_rest_wf")
    node = Node(Function(["x", "factor"], ["out"], same), name="resample")
    node.iterables = ("factor", [1, 2])
    node.kind = "bold.resample"
    inner.add_nodes([node])
    plain = MapNode(Function(["x"], ["out"], same), iterfield=["x"], name="plain")
    inner.connect(node, "out", plain, "x")
    outer = Workflow("w")
    outer.add_nodes([inner])
    nodes = pickle.loads(pickle.dumps(list(flatten(outer).nodes())))
    kinds = {StepName.of(node).text: kind_of(node) for node in nodes}
    assert kinds == {
        "w.bold_task_rest_wf.resample._factor_1": "bold.resample",
        "w.bold_task_rest_wf.resample._factor_2": "bold.resample",
        "w.bold_task_rest_wf.plain._factor_1": "w.bold_task_rest_wf.plain",
        "w.bold_task_rest_wf.plain._factor_2": "w.bold_task_rest_wf.plain",
    }
