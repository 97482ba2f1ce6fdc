"""Resampling of anatomical results onto a template's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
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
from numpy.typing import DTypeLike

from neuroferry.interfaces.image.images import Affine, Volume, load_volume, save_nifti
from neuroferry.interfaces.image.transforms import apply_to_many, read_transform
from neuroferry.templates import load_template

# Codes of the sform: MNI152, and the space of another template.
MNI_CODE = 4
OTHER_CODE = 5


class _CarryToTemplateInputSpec(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="T1w image, resampled by cubic splines")
    mask = File(exists=True, mandatory=True, desc="brain mask, nearest neighbour")
    dseg = File(exists=True, mandatory=True, desc="tissue labels, nearest neighbour")
    tpms = InputMultiObject(File(exists=True), mandatory=True, desc="tissue maps, linear")
    anat2std_xfm = File(exists=True, mandatory=True, desc="ITK .txt or .h5, T1w to template")
    resolution = traits.Range(low=1, value=1, usedefault=True, desc="template voxel size, mm")
    template = File(exists=True, desc="image on the grid of another template")


class _CarryToTemplateOutputSpec(TraitedSpec):
    std_t1w = File(exists=True, desc="T1w image on the template's grid")
    std_mask = File(exists=True, desc="brain mask on the template's grid")
    std_dseg = File(exists=True, desc="tissue labels on the template's grid")
    std_tpms = OutputMultiObject(File(exists=True), desc="tissue maps on the template's grid")


class CarryToTemplate(SimpleInterface):
    """Anatomical results resampled onto the template's grid, each in one interpolation."""

    input_spec = _CarryToTemplateInputSpec
    output_spec = _CarryToTemplateOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        if not isdefined(self.inputs.template):
            load_template(self.inputs.resolution)

    def _run_interface(self, runtime: Any) -> Any:
        shape, affine, code = self._grid()
        maps = list(self.inputs.tpms)
        paths = [self.inputs.t1w, self.inputs.mask, self.inputs.dseg, *maps]
        orders = [3, 0, 0] + [1] * len(maps)
        t1w, mask, dseg, *tpms = apply_to_many(
            [load_volume(path) for path in paths],
            orders,
            read_transform(self.inputs.anat2std_xfm),
            shape,
            affine,
        )
        out = Path(runtime.cwd)
        positive = t1w.with_data(np.maximum(t1w.data, 0))
        self._results["std_t1w"] = save_std(positive, out / "std_t1w.nii.gz", code=code)
        self._results["std_mask"] = save_std(mask, out / "std_mask.nii.gz", np.uint8, code=code)
        self._results["std_dseg"] = save_std(dseg, out / "std_dseg.nii.gz", np.uint8, code=code)
        self._results["std_tpms"] = [
            save_std(tpm, out / f"std_tpm-{number}.nii.gz", code=code)
            for number, tpm in enumerate(tpms, start=1)
        ]
        return runtime

    def _grid(self) -> tuple[tuple[int, int, int], Affine, int]:
        """Return shape and affine of the template's grid, and the sform code of its space."""
        if isdefined(self.inputs.template):
            image = load_volume(self.inputs.template)
            return image.shape, image.affine, template_code(self.inputs.template)
        template = load_template(self.inputs.resolution)
        i, j, k = template.t1w.shape
        return (i, j, k), template.affine, MNI_CODE


def template_code(template: str | Path) -> int:
    """Return the sform code for images in the space of a template file.

    >>> template_code("tpl-MNI152NLin6Asym_res-02_T1w.nii.gz"), template_code("tpl-WHS_T1w.nii.gz")
    (4, 5)
    """
    return MNI_CODE if Path(template).name.startswith("tpl-MNI152") else OTHER_CODE


def save_std(
    volume: Volume, path: Path, dtype: DTypeLike = np.float32, *, code: int = MNI_CODE
) -> str:
    """Write an image in template space, with the sform code of that space."""
    header = nb.Nifti1Header()
    header["sform_code"] = code
    return str(save_nifti(volume.data, volume.affine, path, header=header, dtype=dtype))
