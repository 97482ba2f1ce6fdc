"""Sinks that write the results of a workflow under their BIDS names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.outputs import RAW_DATASET, bids_uri, derivative_path
from neuroferry.interfaces.derivatives import DerivativesNode, DerivativesSink, LabelledSink
from neuroferry.workflows.parts import of_kind

SINK_GB = 0.15
NIFTI, TEXT, TABLE = ".nii.gz", ".txt", ".tsv"


@dataclass(frozen=True)
class Output:
    """One sink: its input field, and the name and sidecar of its file.

    Attributes
    ----------
    source : str
        Field of the input node with the file.
    entities : mapping of str to str, or sequence of them
        Long BIDS names to values; a sequence where the source is a list of files.
    suffix, extension, datatype : str
        ``"bold"``, ``".nii.gz"``, ``"func"``.
    metadata : mapping or None
        Content of the sidecar; without metadata and report there is no sidecar.
    report : tuple of (str, str or None) or None
        Field with a JSON file that is added to the sidecar, and its key; without a key its
        content is merged.
    labels : tuple of (str, str) or None
        Where the number of files is not known in advance: the field with a label for each,
        and the entity that takes the labels.
    kind : str
        The source without the label of its space, if it has one.
    check : str
        Field with one or more JSON reports; if the verdict of one is bad, nothing is written.
    """

    source: str
    entities: Mapping[str, str] | Sequence[Mapping[str, str]]
    suffix: str
    metadata: Mapping[str, Any] | None = None
    extension: str = NIFTI
    datatype: str = "func"
    report: tuple[str, str | None] | None = None
    labels: tuple[str, str] | None = None
    kind: str = ""
    check: str = ""


class RunNamer:
    """Names and sidecars of the derivatives of one run.

    Parameters
    ----------
    out_dir, bids_dir : path
        Roots of the derivatives, and of the dataset that the run belongs to.
    entities : mapping of str to str
        Long entity names of the run to values.
    images : sequence of pathlib.Path
        Its images, below `bids_dir`.
    datatype : str
        Folder of its files: ``"func"``.
    reference : str
        Suffix of its reference image: ``"boldref"``.
    seed : int
        Seed of the random numbers, written into the sidecars.
    """

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        entities: Mapping[str, str],
        images: Sequence[Path],
        *,
        datatype: str,
        reference: str,
        seed: int,
    ) -> None:
        self._out_dir = Path(out_dir)
        self._root = Path(os.path.abspath(bids_dir))  # noqa: PTH100  (resolve() would follow links)
        self._names = dict(entities)
        self._raw = [self._raw_uri(image) for image in images]
        self._datatype, self._reference, self._seed = datatype, reference, seed

    def _raw_uri(self, image: Path) -> str:
        return bids_uri(image, self._root, RAW_DATASET)

    def _uri(self, suffix: str, extension: str = NIFTI, datatype: str = "", **more: str) -> str:
        return self._uri_of(self._names, suffix, extension, datatype, **more)

    def _uri_of(
        self,
        entities: Mapping[str, str],
        suffix: str,
        extension: str = NIFTI,
        datatype: str = "",
        **more: str,
    ) -> str:
        path = derivative_path(
            self._out_dir,
            {**entities, **more},
            suffix=suffix,
            extension=extension,
            datatype=datatype or self._datatype,
        )
        return bids_uri(path, self._out_dir)

    def _about(self, description: str, sources: Sequence[str], **others: Any) -> dict[str, Any]:
        return {
            "Description": description,
            "Sources": list(sources),
            "RandomSeed": self._seed,
            **others,
        }

    def _xfm(self, origin: str, target: str, description: str) -> dict[str, str]:
        return {"from": origin, "to": target, "mode": "image", "description": description}

    def coregistration_outputs(self) -> list[Output]:
        """List the transforms between the run and the T1w image."""
        made = [self._uri(self._reference, description="coreg")]
        about = "ITK affine that resamples images in {} space onto {}"
        return [
            Output(
                source,
                {**self._names, **self._xfm(origin, target, "coreg")},
                "xfm",
                self._about(about.format(origin, target), made),
                TEXT,
                self._datatype,
                report=("coreg_report", "Coregistration"),
            )
            for source, origin, target in (
                (f"{self._reference}2anat_xfm", self._reference, "T1w"),
                (f"anat2{self._reference}_xfm", "T1w", self._reference),
            )
        ]

    def fieldmap_outputs(self, label: str, images: Sequence[str]) -> list[Output]:
        """List the field map on the grid of the run, and its transform to the run.

        Parameters
        ----------
        label : str
            Label of the field map.
        images : sequence of str
            Its source images, relative to the dataset.
        """
        reference = self._uri(self._reference, description="hmc")
        made = [*(self._raw_uri(Path(image)) for image in images), reference]
        about = self._about(
            "Off-resonance field on the grid of the reference volume",
            made,
            Units="Hz",
            SkullStripped=False,
            SpatialReference=reference,
        )
        names = {**self._names, "description": "preproc"}
        way = self._about(
            "ITK affine that resamples images of the field map onto the reference volume",
            made,
        )
        xfm = {**self._names, "from": label, "to": self._reference, "mode": "image"}
        return [
            Output("fieldmap", names, "fieldmap", about, datatype="fmap"),
            Output(
                f"fmap2{self._reference}_xfm",
                xfm,
                "xfm",
                way,
                TEXT,
                self._datatype,
                report=("sdc_report", "DistortionCorrection"),
            ),
        ]


def hold_back(outputs: Sequence[Output], check: str) -> list[Output]:
    """Let outputs be written only if the verdict of a check is not bad; always without one."""
    return [replace(output, check=check) for output in outputs]


def init_sinks_wf(*, outputs: Sequence[Output], out_dir: str | Path, name: str) -> Workflow:
    """Build the sinks of results.

    Parameters
    ----------
    outputs : sequence of Output
        The results to write.
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
    more += [output.check for output in outputs if output.check]
    fields = [*dict.fromkeys([*(output.source for output in outputs), *more])]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=["out_files"]), name="outputnode")
    gather = pe.Node(niu.Merge(len(outputs)), name="gather_files", run_without_submitting=True)
    for index, output in enumerate(outputs, start=1):
        sink = _make_sink(output, out_dir)
        node = DerivativesNode(sink, name=f"write_{output.source}", mem_gb=SINK_GB)
        of_kind(node, f"write_{output.kind or output.source}")
        workflow.connect(inputnode, output.source, node, "in_file")
        if output.labels:
            workflow.connect(inputnode, output.labels[0], node, "labels")
        if output.report:
            report, key = output.report
            workflow.connect(inputnode, report, node, "metadata_file")
            if key is not None:
                sink.inputs.metadata_key = key
        if output.check:
            workflow.connect(inputnode, output.check, node, "check_files")
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
    entities = output.entities
    each = [entities] if isinstance(entities, Mapping) else entities
    if output.labels:
        entity = output.labels[1]
        sink = LabelledSink(entities=dict(each[0]), label_entity=entity, **named)
    else:
        sink = DerivativesSink(entities=[dict(names) for names in each], **named)
    if output.metadata is not None:
        sink.inputs.metadata = dict(output.metadata)
    return sink
