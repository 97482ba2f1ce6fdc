"""Resampling of the tissue maps of a T1w image onto the grid of a BOLD series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
)

from neuroferry.interfaces.image.images import Volume, load_map, save_volume, smooth_for
from neuroferry.interfaces.image.transforms import Transform, apply_transforms, read_transform


def tissue_on_bold(tpm: Volume, transforms: list[Transform], bold: Volume) -> Volume:
    """Compute the fraction of a tissue in each voxel of a coarser grid.

    Parameters
    ----------
    tpm : Volume
        Probability of a tissue in the space of the T1w image.
    transforms : list
        Chain that maps points of ``bold`` to points of ``tpm``.
    bold : Volume
        Image that defines the grid.

    Returns
    -------
    Volume
        Between 0 and 1. Maps are blurred to the voxel size first, because the value at a
        voxel's centre does not represent the rest of the voxel.
    """
    size = float(np.cbrt(np.prod(bold.zooms)))
    blurred = tpm.with_data(smooth_for(tpm.data, tpm.zooms, size))
    carried = apply_transforms(blurred, transforms, bold.shape, bold.affine)
    return Volume(np.clip(carried.data, 0, 1), bold.affine, bold.header)


class _TissuesToBoldInputSpec(BaseInterfaceInputSpec):
    tpms = InputMultiObject(File(exists=True), mandatory=True, desc="tissue maps of the T1w")
    anat2boldref_xfm = File(exists=True, mandatory=True, desc="ITK, resamples T1w onto BOLD")
    bold_mask = File(exists=True, mandatory=True, desc="any image on the grid of the series")


class _TissuesToBoldOutputSpec(TraitedSpec):
    bold_tpms = OutputMultiObject(File(exists=True), desc="the maps on the grid of the series")


class TissuesToBold(SimpleInterface):
    """Tissue maps on the grid of a BOLD series; see :func:`tissue_on_bold`."""

    input_spec = _TissuesToBoldInputSpec
    output_spec = _TissuesToBoldOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        bold = load_map(self.inputs.bold_mask)
        transforms = read_transform(self.inputs.anat2boldref_xfm)
        self._results["bold_tpms"] = [
            save_volume(
                tissue_on_bold(load_map(path), transforms, bold),
                Path(runtime.cwd) / f"bold_tpm-{number}.nii.gz",
            )
            for number, path in enumerate(self.inputs.tpms, start=1)
        ]
        return runtime
