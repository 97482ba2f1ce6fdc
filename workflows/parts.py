"""Connection of the parts of a workflow by field name, and the kinds of their nodes."""

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
    """Connect each part's inputs to earlier outputs of the same name.

    Parameters
    ----------
    workflow : Workflow
        Workflow that the parts are added to.
    given : mapping of str to (node, field)
        Sources available at the start, by field name.
    parts : sequence of Workflow
        In order; inputs without a source stay unconnected.

    Returns
    -------
    dict of str to (node, field)
        Sources available after the last part.
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
    """Set the kind of a node or workflow whose name also holds a label.

    A name may hold the label of a run, a session or a template; the kind must not.

    Examples
    --------
    >>> of_kind(Workflow("bold_task_rest_wf"), "bold").part_kind
    'bold'
    """
    member.part_kind = kind
    return member


def state_kinds(workflow: Workflow, around: str = "") -> None:
    """Set the kind of every node of a workflow, ``node.kind``, for the engine's estimates.

    It joins the kinds of the enclosing workflows and of the node, each of which is the name
    unless :func:`of_kind` has set another. The attribute stays on the node when the graph is
    flattened, expanded, pickled for a worker, or built again by a job.

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
