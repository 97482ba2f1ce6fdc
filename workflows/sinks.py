"""Writes the results of a workflow under their BIDS names: one sink for each kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.derivatives import DerivativesNode, DerivativesSink, LabelledSink

SINK_GB = 0.2
NIFTI, TEXT, TABLE = ".nii.gz", ".txt", ".tsv"


@dataclass(frozen=True)
class Output:
    """One sink: the input field that it takes, and how its file is named and described.

    Attributes
    ----------
    source : str
        Field of the input node with the file.
    entities : mapping of str to str
        Long BIDS names to values.
    suffix, extension, datatype : str
        ``"bold"``, ``".nii.gz"``, ``"func"``.
    metadata : mapping or None
        Content of the sidecar; without it and without a report there is none.
    report : tuple of (str, str or None) or None
        Field with a JSON file that goes into the sidecar, and the key that it goes under;
        without a key its content is merged.
    labels : tuple of (str, str) or None
        Where the source has as many files as are found: the field with a label for each,
        and the entity that it is the value of.
    """

    source: str
    entities: Mapping[str, str]
    suffix: str
    metadata: Mapping[str, Any] | None = None
    extension: str = NIFTI
    datatype: str = "func"
    report: tuple[str, str | None] | None = None
    labels: tuple[str, str] | None = None


def init_sinks_wf(*, outputs: Sequence[Output], out_dir: str | Path, name: str) -> Workflow:
    """Build the sinks of some results.

    Parameters
    ----------
    outputs : sequence of Output
        What is written.
    out_dir : path
        Root of the derivatives dataset.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        **Inputs**: the sources and reports of `outputs`. **Outputs**: ``out_files``, the
        derivatives, once all are written.
    """
    workflow = Workflow(name=name)
    more = [field[0] for output in outputs for field in (output.report, output.labels) if field]
    fields = [*dict.fromkeys([*(output.source for output in outputs), *more])]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=["out_files"]), name="outputnode")
    gather = pe.Node(niu.Merge(len(outputs)), name="gather_files", run_without_submitting=True)
    for index, output in enumerate(outputs, start=1):
        sink = _make_sink(output, out_dir)
        node = DerivativesNode(sink, name=f"write_{output.source}", mem_gb=SINK_GB)
        workflow.connect(inputnode, output.source, node, "in_file")
        if output.labels:
            workflow.connect(inputnode, output.labels[0], node, "labels")
        if output.report:
            report, key = output.report
            workflow.connect(inputnode, report, node, "metadata_file")
            if key is not None:
                sink.inputs.metadata_key = key
        workflow.connect(node, "out_file", gather, f"in{index}")
    workflow.connect(gather, "out", outputnode, "out_files")
    return workflow


def _make_sink(output: Output, out_dir: str | Path) -> DerivativesSink:
    """Make the interface that writes an output."""
    named = {
        "out_dir": str(out_dir),
        "suffix": output.suffix,
        "extension": output.extension,
        "datatype": output.datatype,
    }
    if output.labels:
        entity = output.labels[1]
        sink = LabelledSink(entities=dict(output.entities), label_entity=entity, **named)
    else:
        sink = DerivativesSink(entities=[dict(output.entities)], **named)
    if output.metadata is not None:
        sink.inputs.metadata = dict(output.metadata)
    return sink
