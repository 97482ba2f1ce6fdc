"""Draw the graph of each workflow builder below its documentation.

The graphs are those of an example study: ``neuroferry --dry-run`` plans it in this process, and
whatever a builder (``init_*_wf``) returns meanwhile is kept as text for Graphviz. So the pictures
show what is built, and no builder has to be called here with arguments of its own.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from example_study import write_example_study
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Workflow
from other_template import write_template
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_STYLE = """\
  graph [bgcolor=transparent, rankdir=TB, nodesep=0.15, ranksep=0.3]
  node [shape=box, style="rounded,filled", fillcolor="#f5f7fa", color="#8a97a8",
        fontname="DejaVu Sans", fontsize=10, height=0.3, margin="0.1,0.04"]
  edge [color="#8a97a8", arrowsize=0.6]
"""
_WORKFLOW = 'style=filled, fillcolor="#d6e6f7", color="#3b76b0"'
_VALUES = 'style="filled,rounded", fillcolor="#ffffff", color="#c3cad4", fontcolor="#5b6675"'
_SPACE = "MNI152NLin2009aSym"

#: Text for Graphviz, by the full name of the builder.
_graphs: dict[str, str] = {}


def draw(workflow: Any) -> str:
    """Write the nodes and the workflows directly inside a workflow as text for Graphviz."""
    order = sorted(workflow._graph.nodes(), key=lambda node: str(node.name))
    lines = [f'digraph "{workflow.name}" {{', _STYLE]
    for node in order:
        if isinstance(node, Workflow):
            style = _WORKFLOW
        elif isinstance(node.interface, IdentityInterface):
            style = _VALUES
        else:
            style = f'tooltip="{type(node.interface).__name__}"'
        lines.append(f'  "{node.name}" [{style}]')
    for source, target, data in sorted(
        workflow._graph.edges(data=True), key=lambda edge: (str(edge[0].name), str(edge[1].name))
    ):
        fields = ", ".join(sorted({str(field).rpartition(".")[2] for _, field in data["connect"]}))
        lines.append(f'  "{source.name}" -> "{target.name}" [edgetooltip="{fields}"]')
    return "\n".join([*lines, "}"])


def build_graphs() -> dict[str, str]:
    """Plan the example study in several ways, and keep what the builders return."""
    from neuroferry.cli.main import main

    found: dict[str, tuple[int, str]] = {}

    def keep(frame: FrameType, event: str, value: Any) -> None:
        name = frame.f_code.co_name
        if event != "return" or not (name.startswith("init_") and name.endswith("_wf")):
            return
        if isinstance(value, Workflow):
            key = f"{frame.f_globals['__name__']}.{name}"
            size = len(value._graph)
            if size > found.get(key, (0, ""))[0]:
                found[key] = size, draw(value)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = write_example_study(root / "study")
        write_template(root / "templates", 8, name="MNI152Other")
        command = [str(study), str(root / "out"), "participant", "--dry-run"]
        command += ["--skip-bids-validation", "--nprocs", "2", "--mem", "64GB"]
        command += ["--templateflow-home", str(root / "templates"), "--output-spaces"]
        command += [f"{_SPACE}:res-2", "MNI152Other:res-8", "T1w", "bold"]
        said = io.StringIO()
        before = sys.getprofile()
        for choice in ([], ["--workflows", "qc"]):
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                sys.setprofile(keep)
                try:
                    code = main([*command, *choice])
                finally:
                    sys.setprofile(before)
            if code:
                raise ExtensionError(f"The example study cannot be planned: {said.getvalue()}")
    return {key: text for key, (_, text) in found.items()}


def _insert(_app: Sphinx, what: str, name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Put the graph below a builder's documentation."""
    short = name.rpartition(".")[2]
    if what != "function" or not (short.startswith("init_") and short.endswith("_wf")):
        return
    if not _graphs:
        _graphs.update(build_graphs())
    key = f"{obj.__module__}.{short}"
    if key not in _graphs:
        raise ExtensionError(f"The example study builds no graph with {key}: extend it.")
    text = (f"   {line}" for line in _graphs[key].splitlines())
    lines += ["", ".. graphviz::", "   :align: center", "", *text, ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    # after numpydoc, which would take the picture for a part of its last section
    app.connect("autodoc-process-docstring", _insert, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
