"""Resampling of precomputed anatomical results onto the grid of the T1w reference."""

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
from numpy.typing import NDArray

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.anat.brain_score import assess_given, write_score
from neuroferry.interfaces.image.images import (
    FloatArray,
    Volume,
    load_volume,
    resample_to,
    save_volume,
)

MIN_SHARED = 0.9


def adopt(image: Volume, reference: Volume, name: str, *, order: int) -> FloatArray:
    """Resample a precomputed result onto the grid of a reference in the same space.

    Parameters
    ----------
    image : Volume
        Precomputed result, in any axis order.
    reference : Volume
        Image on the target grid.
    name : str
        Name of the result in messages.
    order : int
        Spline order: 0 for labels, 1 for probabilities.

    Returns
    -------
    ndarray of float32, shape of `reference`

    Raises
    ------
    GeometryError
        If a tenth or more of the result lies outside the reference, which suggests that it
        belongs to another image.
    """
    moved = resample_to(image, reference.shape, reference.affine, order=order).data
    before = float(image.data.sum(dtype=np.float64) * np.prod(image.zooms))
    after = float(moved.sum(dtype=np.float64) * np.prod(reference.zooms))
    if after < MIN_SHARED * before:
        raise GeometryError(
            f"Only {100 * after / before:.0f} % of the precomputed {name} lies inside this T1w "
            "image; it seems to belong to another image."
        )
    return moved


class _AdoptMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="precomputed brain mask")
    reference = File(exists=True, mandatory=True, desc="T1w reference")


class _AdoptMaskOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc="brain mask, uint8, on the reference's grid")
    out_score = File(exists=True, desc="confidence and reasons, JSON")


class AdoptMask(SimpleInterface):
    """Precomputed brain mask resampled onto the grid of the T1w reference."""

    input_spec = _AdoptMaskInputSpec
    output_spec = _AdoptMaskOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        reference = load_volume(self.inputs.reference)
        given = load_volume(self.inputs.in_file)
        binary = given.with_data((given.data > 0.5).astype(np.float32))
        mask = adopt(binary, reference, "brain mask", order=0)
        out = Path(runtime.cwd)
        millilitres = float(mask.sum(dtype=np.float64) * np.prod(reference.zooms) / 1000)
        self._results["out_mask"] = save_volume(
            reference.with_data(mask), out / "brain_mask.nii.gz", dtype=np.uint8
        )
        score = assess_given(millilitres)
        self._results["out_score"] = str(write_score(score, out / "brain_score.json"))
        return runtime


class _AdoptTissuesInputSpec(BaseInterfaceInputSpec):
    dseg = File(exists=True, mandatory=True, desc="precomputed labels: 1 GM, 2 WM, 3 CSF")
    tpms = InputMultiObject(
        File(exists=True), mandatory=True, desc="precomputed probabilities of GM, WM, CSF"
    )
    reference = File(exists=True, mandatory=True, desc="T1w reference")


class _AdoptTissuesOutputSpec(TraitedSpec):
    dseg = File(exists=True, desc="labels on the reference's grid")
    tpms = OutputMultiObject(File(exists=True), desc="probabilities on the reference's grid")


class AdoptTissues(SimpleInterface):
    """Precomputed segmentation resampled onto the grid of the T1w reference."""

    input_spec = _AdoptTissuesInputSpec
    output_spec = _AdoptTissuesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        if len(self.inputs.tpms) != 3:
            raise InputError(
                f"A precomputed segmentation needs three tissue maps (GM, WM, CSF), but there "
                f"are {len(self.inputs.tpms)}."
            )
        reference = load_volume(self.inputs.reference)
        out = Path(runtime.cwd)
        labels = load_volume(self.inputs.dseg)
        _check_labels(labels.data, Path(self.inputs.dseg).name)
        tissue = labels.with_data((labels.data > 0).astype(np.float32))
        adopt(tissue, reference, "segmentation", order=0)
        moved = resample_to(labels, reference.shape, reference.affine, order=0).data
        self._results["dseg"] = save_volume(
            reference.with_data(moved), out / "dseg.nii.gz", dtype=np.uint8
        )
        maps = []
        for name, path in zip(("GM", "WM", "CSF"), self.inputs.tpms, strict=True):
            data = adopt(load_volume(path), reference, f"{name} map", order=1)
            target = out / f"label-{name}_probseg.nii.gz"
            maps.append(save_volume(reference.with_data(np.clip(data, 0, 1)), target))
        self._results["tpms"] = maps
        return runtime


def _check_labels(data: NDArray[np.float32], name: str) -> None:
    """Refuse a segmentation with labels other than background, GM, WM and CSF."""
    found = np.unique(data)
    if not np.isin(found, (0, 1, 2, 3)).all():
        raise InputError(
            f"{name} has labels {found[:8].tolist()}; only 0, 1 (GM), 2 (WM) and 3 (CSF) are "
            "supported."
        )
