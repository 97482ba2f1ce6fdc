"""Conversion of a Nipype workflow to the graph that a plugin runs, at a fraction of Nipype's cost.

``Workflow.run`` copies the workflow twice, because it may be used afterwards, and the settings
once for each node. For one participant's anatomical graph that is four fifths of the time, and a
run may plan thousands of them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def flatten(workflow: Any) -> Any:
    """Convert a workflow to the flattened and expanded graph that a plugin runs.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
        The workflow, which cannot be used afterwards.

    Returns
    -------
    networkx.DiGraph
        The graph that ``Workflow.run`` would hand over. Its nodes share their settings, which
        Nipype only reads.
    """
    from nipype import JoinNode, config
    from nipype.pipeline.engine.utils import generate_expanded_graph, merge_dict

    workflow._generate_flatgraph()
    graph = workflow._graph
    workflow.config = merge_dict(deepcopy(config._sections), workflow.config)
    workflow._set_needed_outputs(graph)
    if any(isinstance(node, JoinNode) for node in graph.nodes()):
        graph = deepcopy(graph)  # a copied join node connects its slots in another way
    graph = generate_expanded_graph(graph)
    for index, node in enumerate(graph.nodes()):
        node.config = merge_dict(workflow.config, node.config) if node.config else workflow.config
        node.base_dir = workflow.base_dir
        node.index = index
    workflow._configure_exec_nodes(graph)
    return graph
