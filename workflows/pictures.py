"""Drawing of the reportlets of one run, and their place in the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.entities import build_name
from neuroferry.interfaces.derivatives import DerivativesNode
from neuroferry.interfaces.draw.base import SaveFigure

SAVE_GB = 0.15


@dataclass(frozen=True)
class Drawing:
    """One file of the report.

    Attributes
    ----------
    desc : str
        Value of ``desc`` in its name, and in ``configs/report.yml``.
    interface : Interface
        Interface that draws it, with the output ``out_file``.
    inputs : mapping of str to str
        Fields of the input node to fields of the interface.
    mem_gb : float
        Peak memory, GB.
    extension : str
        Extension of the file.
    """

    desc: str
    interface: Any
    inputs: Mapping[str, str]
    mem_gb: float
    extension: str = ".svg"


def init_pictures_wf(
    *,
    drawings: Sequence[Drawing],
    out_dir: str | Path,
    entities: Mapping[str, str],
    suffix: str,
    name: str,
) -> Workflow:
    """Build the drawing of one run's reportlets.

    Parameters
    ----------
    drawings : sequence of Drawing
        The reportlets.
    out_dir : path
        Root of the derivatives; reportlets go to ``sub-<subject>/figures``.
    entities : mapping of str to str
        Long entity names of the run to values.
    suffix : str
        Suffix of the run's files, such as ``bold``.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        **Inputs**: the inputs of the drawings. **Outputs**: ``out_files``, paths in the output
        folder.
    """
    fields = dict.fromkeys(field for drawing in drawings for field in drawing.inputs)
    workflow = Workflow(name=name)
    inputnode = pe.Node(IdentityInterface(fields=list(fields)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["out_files"]), name="outputnode")
    gather = pe.Node(Merge(len(drawings)), name="gather_files", run_without_submitting=True)
    workflow.connect(gather, "out", outputnode, "out_files")
    figures = Path(out_dir).absolute() / f"sub-{entities['subject']}" / "figures"
    for number, drawing in enumerate(drawings, start=1):
        draw = pe.Node(
            drawing.interface,
            name=f"draw_{drawing.desc}",
            mem_gb=drawing.mem_gb,
            n_procs=1,
        )
        file_name = build_name(
            {**entities, "description": drawing.desc}, suffix, drawing.extension
        )
        save = DerivativesNode(
            SaveFigure(out_path=str(figures / file_name)),
            name=f"save_{drawing.desc}",
            mem_gb=SAVE_GB,
        )
        workflow.connect([
            (inputnode, draw, list(drawing.inputs.items())),
            (draw, save, [("out_file", "in_file")]),
            (save, gather, [("out_file", f"in{number}")]),
        ])  # fmt: skip
    return workflow
