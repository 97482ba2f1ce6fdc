"""Joins the parts of a run's workflow by the names of their fields, and says what each node is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

Source = tuple[pe.Node | Workflow, str]
Member = TypeVar("Member", pe.Node, Workflow)


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


def of_kind(member: Member, kind: str) -> Member:
    """Say what a node or a workflow is whose own name tells more than that.

    A name may hold the label of a run, a session or a template, which the kind must not.

    Examples
    --------
    >>> of_kind(Workflow("bold_task_rest_wf"), "bold").part_kind
    'bold'
    """
    member.part_kind = kind
    return member


def state_kinds(workflow: Workflow, around: str = "") -> None:
    """State the kind of every node below a workflow, ``node.kind``, for the engine's estimates.

    It is the kinds of the workflows around it and its own, of which each is the name unless
    :func:`of_kind` said another. The attribute stays on the node when the graph is flattened,
    expanded, pickled for a worker, or built again by a job.

    Examples
    --------
    >>> from nipype.interfaces.utility import IdentityInterface
    >>> run = of_kind(Workflow("bold_task_rest_wf"), "bold")
    >>> fit = Workflow("fit_wf")
    >>> motion = pe.Node(IdentityInterface(["x"]), "estimate_motion")
    >>> fit.add_nodes([motion])
    >>> run.add_nodes([fit])
    >>> whole = Workflow("sub_01_wf")
    >>> whole.add_nodes([run])
    >>> state_kinds(whole)
    >>> motion.kind
    'bold.fit.estimate_motion'
    """
    for member in workflow._graph.nodes():
        own = getattr(member, "part_kind", None) or member.name.removesuffix("_wf")
        if isinstance(member, pe.Workflow):
            state_kinds(member, f"{around}{own}.")
        else:
            member.kind = around + own
