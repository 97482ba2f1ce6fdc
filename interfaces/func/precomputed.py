"""Completion of precomputed BOLD results: motion table and inverse transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec

from neuroferry.interfaces.epi.motion_table import (
    motion_parameters,
    read_motion_xfms,
    rms_deviation,
    write_motion_table,
)
from neuroferry.interfaces.image.images import inverse, load_volume
from neuroferry.interfaces.image.transforms import read_itk_affine, write_itk_affine


class _TabulateMotionInputSpec(BaseInterfaceInputSpec):
    motion_xfms = File(exists=True, mandatory=True, desc="ITK text, one affine for each volume")
    ref_file = File(exists=True, mandatory=True, desc="reference that they align to")


class _TabulateMotionOutputSpec(TraitedSpec):
    motion_tsv = File(exists=True, desc="six parameters in FSL's convention, and rmsd")


class TabulateMotion(SimpleInterface):
    """Motion parameters of precomputed motion transforms."""

    input_spec = _TabulateMotionInputSpec
    output_spec = _TabulateMotionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        reference = load_volume(self.inputs.ref_file)
        matrices = read_motion_xfms(self.inputs.motion_xfms)
        path = write_motion_table(
            motion_parameters(matrices, reference),
            rms_deviation(matrices, reference),
            Path(runtime.cwd) / "motion.tsv",
        )
        self._results["motion_tsv"] = str(path)
        return runtime


class _InvertAffineInputSpec(BaseInterfaceInputSpec):
    in_xfm = File(exists=True, mandatory=True, desc="ITK text with one affine")


class _InvertAffineOutputSpec(TraitedSpec):
    out_xfm = File(exists=True, desc="its inverse")


class InvertAffine(SimpleInterface):
    """Inverse of a linear transform."""

    input_spec = _InvertAffineInputSpec
    output_spec = _InvertAffineOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        matrix = inverse(read_itk_affine(self.inputs.in_xfm))
        path = write_itk_affine(matrix, Path(runtime.cwd) / "inverse.txt")
        self._results["out_xfm"] = str(path)
        return runtime
