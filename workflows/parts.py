"""Joins the parts of a run's workflow by the names of their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

Source = tuple[pe.Node | Workflow, str]


def connect_parts(
    workflow: Workflow, given: Mapping[str, Source], parts: Sequence[Workflow]
) -> dict[str, Source]:
    """Connect each part's inputs to what came before it under the same name.

    Parameters
    ----------
    workflow : Workflow
        What the parts become members of.
    given : mapping of str to (node, field)
        What is there at first.
    parts : sequence of Workflow
        In order; inputs that nothing has given stay open.

    Returns
    -------
    dict of str to (node, field)
        What there is after the last part.
    """
    there = dict(given)
    for part in parts:
        inputnode = part.get_node("inputnode")
        wanted = inputnode.inputs.copyable_trait_names() if inputnode is not None else []
        workflow.add_nodes([part])
        for field in sorted(wanted):
            if field in there:
                workflow.connect(*there[field], part, f"inputnode.{field}")
        for field in part.get_node("outputnode").inputs.copyable_trait_names():
            there[field] = (part, f"outputnode.{field}")
    return there


def join(workflow: Workflow, source: Workflow, target: Workflow) -> None:
    """Connect every output of ``source`` to the input of the same name of ``target``."""
    given = set(source.get_node("outputnode").inputs.copyable_trait_names())
    wanted = target.get_node("inputnode").inputs.copyable_trait_names()
    pairs = [(f"outputnode.{n}", f"inputnode.{n}") for n in sorted(wanted) if n in given]
    workflow.connect([(source, target, pairs)])
