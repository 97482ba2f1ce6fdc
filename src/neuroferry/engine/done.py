"""Detection of steps with an existing result in the work folder, from the same inputs.

Nipype tells by a hash of the inputs. The inputs of a step are known once all steps before it are
done, so a step counts only then.
"""

from __future__ import annotations

from typing import Any

import networkx as nx


def is_done(node: Any) -> bool:
    """Tell whether a node whose predecessors are done has its result.

    Raises
    ------
    Exception
        Whatever Nipype raises on inputs that are missing or of the wrong type.
    """
    if node.overwrite or (node.overwrite is None and node.interface.always_run):
        return False
    cached, updated = node.is_cached()
    return bool(cached and updated)


def find_done(graph: nx.DiGraph) -> set[Any]:
    """Find the nodes of a flattened graph that are done, and everything before them."""
    done: set[Any] = set()
    for node in nx.topological_sort(graph):
        if done.issuperset(graph.predecessors(node)) and _is_surely_done(node):
            done.add(node)
    return done


def all_done(graph: nx.DiGraph) -> bool:
    """Tell whether every step of a flattened graph is done."""
    return all(_is_surely_done(node) for node in nx.topological_sort(graph))


def _is_surely_done(node: Any) -> bool:
    try:
        return is_done(node)
    except Exception:
        return False  # a step with unreadable inputs has to run, and reports them
