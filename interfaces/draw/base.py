"""Base class of the interfaces that draw reportlets, and the sink that saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neuroferry.files import copy_file, write_text


class _PictureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="SVG document")


class Picture(SimpleInterface):
    """Base of the interfaces that draw one SVG document."""

    output_spec = _PictureOutputSpec

    def _draw(self) -> str:
        raise NotImplementedError

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / "picture.svg"
        write_text(path, self._draw())
        self._results["out_file"] = str(path)
        return runtime


class _SaveFigureInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="picture")
    # Nipype would hash the existing file, and writing it would change that hash
    out_path = traits.Str(mandatory=True, hash_files=False, desc="path to write")


class _SaveFigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="path of the copy")


class SaveFigure(SimpleInterface):
    """Sink of one reportlet; a `DerivativesNode` restores it if it was deleted."""

    input_spec = _SaveFigureInputSpec
    output_spec = _SaveFigureOutputSpec

    def output_paths(self) -> list[Path]:
        """List the written files."""
        return [Path(self.inputs.out_path)]

    def sidecar_paths(self) -> list[Path]:
        """List the written sidecars: none."""
        return []

    def _run_interface(self, runtime: Any) -> Any:
        copy_file(self.inputs.in_file, self.inputs.out_path)
        self._results["out_file"] = self.inputs.out_path
        return runtime
