"""Interfaces that draw the report's pictures and put them into the output folder."""

from __future__ import annotations

import os
import tempfile
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


def write_whole(content: str | bytes, path: Path) -> Path:
    """Write a file so that it appears whole or not at all.

    Parameters
    ----------
    content : str or bytes
        Text is written as UTF-8.
    path : pathlib.Path
        Its folder is made when it is not there; a file of this name is replaced.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


class _PictureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="SVG document")


class _Picture(SimpleInterface):  # type: ignore[misc]
    """Draws one SVG document; subclasses say how."""

    output_spec = _PictureOutputSpec

    def _draw(self) -> str:
        raise NotImplementedError

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / "picture.svg"
        self._results["out_file"] = str(write_whole(self._draw(), path))
        return runtime


class _QualityPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image before any correction")


class QualityPicture(_Picture):
    """Draw the whole head, and the air around it with the contrast stretched."""

    input_spec = _QualityPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.pictures import draw_quality

        return draw_quality(self.inputs.t1w)


class _BiasPictureInputSpec(BaseInterfaceInputSpec):
    t1w_ref = File(exists=True, mandatory=True, desc="before correction")
    t1w_preproc = File(exists=True, mandatory=True, desc="after correction")
    bias_field = File(exists=True, mandatory=True, desc="what was divided out")
    brain_mask = File(exists=True, desc="what to look at")


class BiasPicture(_Picture):
    """Draw the image before and after bias correction, and the field."""

    input_spec = _BiasPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.pictures import draw_bias

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


class BrainPicture(_Picture):
    """Draw the outline of the brain mask on many slices."""

    input_spec = _BrainPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.pictures import draw_brain

        return draw_brain(self.inputs.t1w, self.inputs.brain_mask)


class _TissuesPictureInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    dseg = File(exists=True, mandatory=True, desc="1 = GM, 2 = WM, 3 = CSF")


class TissuesPicture(_Picture):
    """Draw the borders of the tissues."""

    input_spec = _TissuesPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.pictures import draw_tissues

        return draw_tissues(self.inputs.t1w, self.inputs.dseg)


class _NormalisationPictureInputSpec(BaseInterfaceInputSpec):
    std_t1w = File(exists=True, mandatory=True, desc="T1w image in template space")


class NormalisationPicture(_Picture):
    """Draw the image in template space against the template."""

    input_spec = _NormalisationPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.pictures import draw_normalisation

        return draw_normalisation(self.inputs.std_t1w)


class _SaveFigureInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="picture")
    out_path = traits.Str(mandatory=True, desc="where it is to lie")


class _SaveFigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="where it lies")


class SaveFigure(SimpleInterface):  # type: ignore[misc]
    """Copy a picture to its place; done anew each time, so that it comes back when deleted."""

    input_spec = _SaveFigureInputSpec
    output_spec = _SaveFigureOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        content = Path(self.inputs.in_file).read_bytes()
        self._results["out_file"] = str(write_whole(content, Path(self.inputs.out_path)))
        return runtime
