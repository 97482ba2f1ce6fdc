"""Sinks that write a step's results under their BIDS-Derivatives names.

niworkflows' ``DerivativesDataSink`` is not used: it takes 5.4 s and 170 MB to import in each
worker and needs a writable home folder; it rewrites headers and recompresses, whereas here the
bytes must stay those of the step; and it names files from patterns, so that an unknown
combination fails only at the end of a run. Here a name follows from the entities alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.pipeline import engine as pe

from neuroferry.bids.entities import parse_name
from neuroferry.bids.metadata import read_json
from neuroferry.bids.outputs import derivative_path
from neuroferry.files import copy_file, write_json

BAD = "bad"
"""Verdict of a check whose results are not written."""


class _DerivativesSinkInputSpec(BaseInterfaceInputSpec):
    in_file = InputMultiObject(File(exists=True), mandatory=True, desc="output files of a step")
    out_dir = traits.Str(mandatory=True, desc="root of the derivatives dataset")
    entities = InputMultiObject(
        traits.Dict(traits.Str, traits.Str),
        mandatory=True,
        desc="entities of each file, by long name",
    )
    suffix = traits.Str(mandatory=True, desc="BIDS suffix, such as T1w")
    extension = traits.Str(mandatory=True, desc="file extension, such as .nii.gz")
    datatype = traits.Str("anat", usedefault=True, desc="folder below the subject")
    metadata = traits.Dict(traits.Str, traits.Any, desc="content of the sidecars")
    metadata_file = File(exists=True, desc="JSON object to add to the sidecars")
    metadata_key = traits.Str(
        requires=["metadata_file"], desc="sidecar key that holds this object; merged without one"
    )
    check_files = InputMultiObject(
        File(exists=True), desc="JSON objects; if the verdict of one is bad, nothing is written"
    )


class _DerivativesSinkOutputSpec(TraitedSpec):
    out_file = OutputMultiObject(File(exists=True), desc="derivatives, in the order of in_file")
    out_meta = OutputMultiObject(File(exists=True), desc="their sidecars, if any")


class DerivativesSink(SimpleInterface):
    """Copy of results to their derivative names, with sidecars.

    The bytes of the results are copied, never linked, and each file appears whole or not
    at all.

    Raises
    ------
    NeuroferryError
        If a file cannot be written; the message says which one, why, and what to do.

    Examples
    --------
    >>> sink = DerivativesSink(
    ...     out_dir="/out",
    ...     entities={"subject": "01", "description": "brain"},
    ...     suffix="mask",
    ...     extension=".nii.gz",
    ... )
    >>> sink.output_paths()
    [PosixPath('/out/sub-01/anat/sub-01_desc-brain_mask.nii.gz')]
    """

    input_spec = _DerivativesSinkInputSpec
    output_spec = _DerivativesSinkOutputSpec

    @property
    def held_back(self) -> bool:
        """Whether a check failed, so that nothing is written."""
        files = self.inputs.check_files if isdefined(self.inputs.check_files) else []
        return any(read_json(Path(path)).get("verdict") == BAD for path in files)

    def output_paths(self) -> list[Path]:
        """List the files that it writes, without their sidecars."""
        if self.held_back:
            return []
        return [
            derivative_path(
                self.inputs.out_dir,
                entities,
                suffix=self.inputs.suffix,
                extension=self.inputs.extension,
                datatype=self.inputs.datatype,
            )
            for entities in self.inputs.entities
        ]

    def sidecar_paths(self) -> list[Path]:
        """List the sidecars that it writes."""
        if not (isdefined(self.inputs.metadata) or isdefined(self.inputs.metadata_file)):
            return []
        return [path.with_name(_stem(path) + ".json") for path in self.output_paths()]

    def _run_interface(self, runtime: Any) -> Any:
        paths = self.output_paths()
        metadata = dict(self.inputs.metadata) if isdefined(self.inputs.metadata) else {}
        if isdefined(self.inputs.metadata_file):
            extra = read_json(Path(self.inputs.metadata_file))
            key = self.inputs.metadata_key
            metadata.update({key: extra} if isdefined(key) else extra)
        write_files([] if self.held_back else self.inputs.in_file, paths)
        for path in self.sidecar_paths():
            write_json(path, metadata)
        self._results["out_file"] = [str(path) for path in paths]
        self._results["out_meta"] = [str(path) for path in self.sidecar_paths()]
        return runtime


class _LabelledSinkInputSpec(BaseInterfaceInputSpec):
    in_file = traits.List(File(exists=True), desc="output files of a step; may be empty")
    labels = traits.List(traits.Str, desc="value of the label entity for each file")
    label_entity = traits.Str(mandatory=True, desc="long name of the label entity")
    out_dir = traits.Str(mandatory=True, desc="root of the derivatives dataset")
    entities = traits.Dict(traits.Str, traits.Str, mandatory=True, desc="other entities")
    suffix = traits.Str(mandatory=True, desc="BIDS suffix, such as tractogram")
    extension = traits.Str(mandatory=True, desc="file extension, such as .trk")
    datatype = traits.Str("anat", usedefault=True, desc="folder below the subject")
    metadata = traits.Dict(traits.Str, traits.Any, desc="content of the sidecars")
    check_files = InputMultiObject(
        File(exists=True), desc="JSON objects; if the verdict of one is bad, nothing is written"
    )


class LabelledSink(DerivativesSink):
    """Copy of any number of results, each named after its label.

    Their number is known only when the sink runs and may be zero.

    Examples
    --------
    >>> sink = LabelledSink(
    ...     out_dir="/out",
    ...     entities={"subject": "01"},
    ...     label_entity="bundle",
    ...     suffix="tractogram",
    ...     extension=".trk",
    ...     datatype="dwi",
    ... )
    >>> sink.output_paths()
    []
    >>> sink.inputs.labels = ["Arcuate"]
    >>> sink.output_paths()
    [PosixPath('/out/sub-01/dwi/sub-01_bundle-Arcuate_tractogram.trk')]
    """

    input_spec = _LabelledSinkInputSpec

    def output_paths(self) -> list[Path]:
        """List the files that it writes, without their sidecars."""
        inputs = self.inputs
        if self.held_back:
            return []
        return [
            derivative_path(
                inputs.out_dir,
                {**inputs.entities, inputs.label_entity: label},
                suffix=inputs.suffix,
                extension=inputs.extension,
                datatype=inputs.datatype,
            )
            for label in (inputs.labels if isdefined(inputs.labels) else [])
        ]

    def sidecar_paths(self) -> list[Path]:
        """List the sidecars that it writes."""
        if not isdefined(self.inputs.metadata):
            return []
        return [path.with_name(_stem(path) + ".json") for path in self.output_paths()]

    def _run_interface(self, runtime: Any) -> Any:
        files = self.inputs.in_file if isdefined(self.inputs.in_file) else []
        write_files([] if self.held_back else files, self.output_paths())
        for path in self.sidecar_paths():
            write_json(path, self.inputs.metadata)
        self._results["out_file"] = [str(path) for path in self.output_paths()]
        self._results["out_meta"] = [str(path) for path in self.sidecar_paths()]
        return runtime


def write_files(sources: Sequence[str], paths: Sequence[Path]) -> None:
    """Copy files to the given paths.

    Raises
    ------
    ValueError
        If their numbers differ.
    """
    if len(paths) != len(sources):
        raise ValueError(f"{len(sources)} files and {len(paths)} sets of entities do not match")
    for source, path in zip(sources, paths, strict=True):
        copy_file(source, path)


class DerivativesNode(pe.Node):
    """Node around a sink that counts as done only while the sink's files exist.

    The sink lists them in ``output_paths()`` and ``sidecar_paths()``.

    Nipype looks for a step's results in the work folder only, so derivatives deleted from
    the output folder would not be written again until the work folder is deleted as well.
    """

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Check whether the files exist and are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        sink = self.interface
        files = [*sink.output_paths(), *sink.sidecar_paths()]
        if updated and not all(path.exists() for path in files):
            return False, False
        return cached, updated


def _stem(path: Path) -> str:
    return path.name.removesuffix(parse_name(path).extension)
