"""Division of a Nipype graph into independent units, the subjects.

Units whose graphs have the same structure share job arrays. Structures are compared by a digest
over the steps in a fixed order, the processors of each and the steps that each waits for.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx

from neuroferry.config import SlurmConfig
from neuroferry.engine.done import find_done
from neuroferry.engine.estimate import Estimator
from neuroferry.engine.names import StepName, drop_iterables, kind_of
from neuroferry.engine.schedule import volumes_of
from neuroferry.engine.slurm.pack import StepPlan

# resources of a step that only passes values on
_TRIVIAL_MINUTES = 0.1
_SMALL_MINUTES = 2.0


@dataclass(frozen=True)
class Unit:
    """One subject's part of a graph, or any connected part.

    Attributes
    ----------
    name : str
        ``sub-01``, or a name made from its iterables.
    subject : str or None
        Participant label.
    steps : tuple of StepPlan
        In the order of :func:`ordered_nodes`.
    done : frozenset of int
        Steps that are found done, and all steps before them.
    payload : bytes
        Data from which a job restores the unit's graph.
    """

    name: str
    subject: str | None
    steps: tuple[StepPlan, ...]
    done: frozenset[int] = frozenset()
    payload: bytes = field(default=b"", repr=False)

    @cached_property
    def structure(self) -> str:
        """Digest that units of the same structure share."""
        return structure_of(self.steps)

    @property
    def size_class(self) -> int:
        """Power of two of the largest step's memory, the same for all units of an array."""
        return math.ceil(math.log2(max(0.5, *(step.mem_gb for step in self.steps), 0.5)))


def structure_of(steps: tuple[StepPlan, ...]) -> str:
    """Compute a digest of the steps' base names (without iterables), processors and order."""
    text = json.dumps([[drop_iterables(step.generic), step.n_procs, step.after] for step in steps])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_graph(graph: nx.DiGraph) -> list[nx.DiGraph]:
    """Split a graph into the largest number of parts that share no edge and no subject."""
    owner: dict[Any, Any] = {node: node for node in graph.nodes()}

    def find(node: Any) -> Any:
        while owner[node] is not node:
            owner[node] = owner[owner[node]]
            node = owner[node]
        return node

    first_of: dict[str, Any] = {}
    for node in graph.nodes():
        subject = StepName(node.fullname).subject
        if subject is not None:
            owner[find(node)] = find(first_of.setdefault(subject, node))
    for before, after in graph.edges():
        owner[find(before)] = find(after)
    parts: dict[Any, list[Any]] = {}
    for node in graph.nodes():
        parts.setdefault(find(node), []).append(node)
    found = [graph.subgraph(nodes).copy() for nodes in parts.values()]
    return sorted(found, key=lambda part: min(map(_key, part.nodes())))


def _key(node: Any) -> tuple[str, str, str]:
    return StepName(node.fullname).generic, StepName.of(node).text, str(node._id)


def ordered_nodes(graph: nx.DiGraph) -> list[Any]:
    """Sort the nodes of one unit in the order that planning and jobs share."""
    return sorted(graph.nodes(), key=_key)


def plan_unit(
    graph: nx.DiGraph,
    number: int,
    settings: SlurmConfig,
    estimator: Estimator,
    payload: bytes,
) -> Unit:
    """Reduce one unit's graph to what planning needs.

    Parameters
    ----------
    graph : networkx.DiGraph
        Flattened and expanded Nipype graph of the unit.
    number : int
        For the name of a unit that has no better one.
    settings : SlurmConfig
        Limits of small steps, and time of unknown ones.
    estimator : Estimator
        Estimates of the steps.
    payload : bytes
        Data from which a job restores the graph.
    """
    nodes = ordered_nodes(graph)
    position = {node: i for i, node in enumerate(nodes)}
    steps = tuple(
        _plan_step(
            node,
            tuple(sorted(position[p] for p in graph.predecessors(node))),
            settings,
            estimator,
        )
        for node in nodes
    )
    subject = next((s for s in (StepName(step.name).subject for step in steps) if s), None)
    done = frozenset(position[node] for node in find_done(graph))
    name = f"sub-{subject}" if subject else _common_name(nodes, number)
    return Unit(name, subject, steps, done, payload)


def _common_name(nodes: list[Any], number: int) -> str:
    shared = set.intersection(*(set(node.parameterization or ()) for node in nodes))
    text = "".join(sorted(shared)).strip("_")
    return re.sub(r"[^0-9A-Za-z_.-]", "-", text) or f"unit-{number}"


def _plan_step(
    node: Any,
    after: tuple[int, ...],
    settings: SlurmConfig,
    estimator: Estimator,
) -> StepPlan:
    from nipype.interfaces.utility import IdentityInterface

    name, kind = StepName.of(node), kind_of(node)
    estimate = estimator.estimate(name.text, float(node.mem_gb), volumes_of(node), kind=kind)
    memory, procs = estimate.mem_gb, max(1, int(node.n_procs))
    trivial = bool(node.run_without_submitting) or isinstance(node.interface, IdentityInterface)
    light = trivial or (memory <= settings.small_gb and procs == 1)
    given = (getattr(node, "plugin_args", None) or {}).get("minutes")
    if given is not None:
        minutes = float(given)
    elif estimate.seconds_source != "default":
        minutes = estimate.seconds / 60
    elif trivial:
        minutes = _TRIVIAL_MINUTES
    else:
        many = hasattr(node, "iterfield")
        minutes = _SMALL_MINUTES if light and not many else float(settings.default_minutes)
    gpus = int((getattr(node, "plugin_args", None) or {}).get("gpus", node.is_gpu_node()))
    small = light and minutes <= settings.small_minutes and not gpus
    return StepPlan(name.text, name.generic, kind, procs, memory, minutes, small, after, gpus)
