"""T2w images on the grid of the T1w image: bias-corrected, in one interpolation.

The brain of the T1w image, carried onto the T2w image, is where the bias field is estimated: the
T2w image needs no brain extraction of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neuroferry.interfaces.image.bias import (
    MIN_MASK_VOXELS,
    SLOPPY_N4,
    FloatField,
    N4Settings,
    estimate_bias,
    foreground,
)
from neuroferry.interfaces.image.images import (
    Affine,
    Volume,
    inverse,
    load_mask,
    load_volume,
    save_volume,
)
from neuroferry.interfaces.image.transforms import apply_transforms, read_itk_affine


@dataclass(frozen=True)
class PlacedT2w:
    """A T2w image on the grid of the T1w image.

    Attributes
    ----------
    image : Volume
        Bias-corrected, on the grid of the T1w image; zero outside the T2w image's field of view.
    bias : ndarray of float32, shape (I, J, K)
        Multiplicative field on the grid of the T2w image, geometric mean one in the brain.
    """

    image: Volume
    bias: FloatField


def place_t2w(t2w: Volume, brain: Volume, matrix: Affine, *, sloppy: bool = False) -> PlacedT2w:
    """Correct the bias of a T2w image, and resample it onto the grid of the T1w image.

    Parameters
    ----------
    t2w : Volume
        The image as measured, in any orientation.
    brain : Volume
        Brain mask on the grid of the T1w image, 0 or 1.
    matrix : ndarray of float64, shape (4, 4)
        T1w points to T2w points, RAS+ mm.
    sloppy : bool
        Fast and coarse.

    Returns
    -------
    PlacedT2w

    Raises
    ------
    InputError
        If the T2w image has hardly any positive voxel.
    """
    measured = t2w.with_data(np.maximum(t2w.data, 0))
    carried = apply_transforms(brain, [inverse(matrix)], t2w.shape, t2w.affine)
    inside = (carried.data > 0.5) & (measured.data > 0)
    if inside.sum() < MIN_MASK_VOXELS:
        # the registration went astray, which its own report says
        inside = foreground(measured.data)
    bias = estimate_bias(measured, inside, SLOPPY_N4 if sloppy else N4Settings())
    corrected = measured.with_data(measured.data / bias)
    placed = apply_transforms(corrected, [matrix], brain.shape, brain.affine, order=3)
    # splines overshoot beside bright fluid
    return PlacedT2w(placed.with_data(np.maximum(placed.data, 0)), bias)


class _PlaceT2wInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T2w image")
    t1w_preproc = File(exists=True, mandatory=True, desc="T1w image, the grid")
    brain_mask = File(exists=True, mandatory=True, desc="its brain mask")
    t2w2anat_xfm = File(exists=True, mandatory=True, desc="ITK affine, resamples T2w onto T1w")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")


class _PlaceT2wOutputSpec(TraitedSpec):
    t2w_preproc = File(exists=True, desc="bias-corrected T2w image on the T1w grid, float32")


class PlaceT2w(SimpleInterface):
    """T2w image divided by its bias field and resampled onto the T1w image's grid."""

    input_spec = _PlaceT2wInputSpec
    output_spec = _PlaceT2wOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        t1w = load_volume(self.inputs.t1w_preproc)
        mask = load_mask(self.inputs.brain_mask, t1w, "brain mask")
        found = place_t2w(
            load_volume(self.inputs.in_file),
            t1w.with_data(mask.astype(np.float32)),
            read_itk_affine(self.inputs.t2w2anat_xfm),
            sloppy=self.inputs.sloppy,
        )
        path = Path(runtime.cwd) / "t2w_preproc.nii.gz"
        self._results["t2w_preproc"] = save_volume(found.image, path)
        return runtime
