"""Interfaces that draw the report's pictures and put them into the output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from neuroferry.bids.outputs import copy_file, write_text


class _PictureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="SVG document")


class Picture(SimpleInterface):
    """Draws one SVG document; subclasses say how."""

    output_spec = _PictureOutputSpec

    def _draw(self) -> str:
        raise NotImplementedError

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / "picture.svg"
        write_text(path, self._draw())
        self._results["out_file"] = str(path)
        return runtime


class _QualityPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image before any correction")


class QualityPicture(Picture):
    """Draw the whole head, and the air around it with the contrast stretched."""

    input_spec = _QualityPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.anat import draw_quality

        return draw_quality(self.inputs.t1w)


class _BiasPictureInputSpec(BaseInterfaceInputSpec):
    t1w_ref = File(exists=True, mandatory=True, desc="before correction")
    t1w_preproc = File(exists=True, mandatory=True, desc="after correction")
    bias_field = File(exists=True, mandatory=True, desc="what was divided out")
    brain_mask = File(exists=True, desc="what to look at")


class BiasPicture(Picture):
    """Draw the image before and after bias correction, and the field."""

    input_spec = _BiasPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.anat import draw_bias

        mask = self.inputs.brain_mask
        return draw_bias(
            self.inputs.t1w_ref,
            self.inputs.t1w_preproc,
            self.inputs.bias_field,
            mask if isdefined(mask) else None,
        )


class _BrainPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image with skull")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class BrainPicture(Picture):
    """Draw the outline of the brain mask on many slices."""

    input_spec = _BrainPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.anat import draw_brain

        return draw_brain(self.inputs.t1w, self.inputs.brain_mask)


class _TissuesPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    dseg = File(exists=True, mandatory=True, desc="1 = GM, 2 = WM, 3 = CSF")


class TissuesPicture(Picture):
    """Draw the borders of the tissues."""

    input_spec = _TissuesPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.anat import draw_tissues

        return draw_tissues(self.inputs.t1w, self.inputs.dseg)


class _NormalisationPictureInputSpec(BaseInterfaceInputSpec):
    std_t1w = File(exists=True, mandatory=True, desc="T1w image in template space")


class NormalisationPicture(Picture):
    """Draw the image in template space against the template."""

    input_spec = _NormalisationPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.anat import draw_normalisation

        return draw_normalisation(self.inputs.std_t1w)


class _SaveFigureInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="picture")
    # Nipype would hash the file that is there, so that its own writing changed the hash
    out_path = traits.Str(mandatory=True, hash_files=False, desc="where it is to lie")


class _SaveFigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="where it lies")


class SaveFigure(SimpleInterface):
    """Copy a picture to its place; a `DerivativesNode` brings it back when it was deleted."""

    input_spec = _SaveFigureInputSpec
    output_spec = _SaveFigureOutputSpec

    def output_paths(self) -> list[Path]:
        """List the files that are written."""
        return [Path(self.inputs.out_path)]

    def sidecar_paths(self) -> list[Path]:
        """List the sidecars that are written: none."""
        return []

    def _run_interface(self, runtime: Any) -> Any:
        copy_file(self.inputs.in_file, self.inputs.out_path)
        self._results["out_file"] = self.inputs.out_path
        return runtime
