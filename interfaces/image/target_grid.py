"""Target grids of BOLD series, and their brain masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.interfaces.image.images import (
    Affine,
    Volume,
    load_volume,
    resample_to,
    save_volume,
    voxel_sizes,
)
from neuroferry.interfaces.image.to_template import save_std, template_code
from neuroferry.interfaces.image.transforms import Transform, apply_transforms, read_transform
from neuroferry.templates import load_template


def same_field_of_view(
    anatomy: Volume, zooms: NDArray[np.float64]
) -> tuple[tuple[int, int, int], Affine]:
    """Build a grid of another voxel size over the field of view of an image.

    Parameters
    ----------
    anatomy : Volume
        Image that defines axes and field of view.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes along its axes, mm.

    Returns
    -------
    shape : tuple of int
        Numbers of voxels.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm; both grids have the same centre.

    Examples
    --------
    >>> image = Volume(np.zeros((8, 9, 10), np.float32), np.eye(4))
    >>> shape, affine = same_field_of_view(image, np.array([2.0, 3.0, 5.0]))
    >>> shape, affine[:3, 3].tolist()
    ((4, 3, 2), [0.5, 1.0, 2.0])
    """
    size = np.asarray(anatomy.shape)
    count = np.maximum(1, np.ceil(size * anatomy.zooms / zooms - 1e-3)).astype(int)
    affine = anatomy.affine.copy()
    affine[:3, :3] *= zooms / anatomy.zooms
    centre = anatomy.affine @ [*(size - 1) / 2, 1.0]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((count - 1) / 2)
    return (int(count[0]), int(count[1]), int(count[2])), affine


def zooms_along(affine: Affine, axes_of: Affine) -> NDArray[np.float64]:
    """Match the voxel sizes of an image to the nearest axes of another image.

    Parameters
    ----------
    affine, axes_of : ndarray of float64, shape (4, 4)
        Affine of the image whose voxel sizes are returned, and of the other.

    Returns
    -------
    ndarray of float64, shape (3,)
        In mm.

    Examples
    --------
    >>> turned = np.array([[0, 3.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]])
    >>> zooms_along(turned, np.eye(4)).tolist()
    [3.0, 2.0, 4.0]
    """
    own = nb.orientations.io_orientation(affine)
    other = nb.orientations.io_orientation(axes_of)
    way = nb.orientations.ornt_transform(own, other)
    zooms = np.empty(3)
    for source, target in enumerate(way[:, 0].astype(int)):
        zooms[target] = voxel_sizes(affine)[source]
    return zooms


def read_chain(paths: Sequence[str]) -> list[Transform]:
    """Read transforms listed in the order in which images pass through them.

    Returns
    -------
    list of Transform
        In the order in which they act on points of the last space.
    """
    return [transform for path in reversed(paths) for transform in read_transform(path)]


class _MakeTargetGridInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="BOLD reference, for its voxel size")
    t1w_preproc = File(
        exists=True, xor=["resolution", "template"], desc="T1w image, for a grid in its space"
    )
    resolution = traits.Range(
        low=1, xor=["t1w_preproc", "template"], desc="voxel size of a grid in template space, mm"
    )
    template = File(
        exists=True, xor=["t1w_preproc", "resolution"], desc="image of another template"
    )


class _MakeTargetGridOutputSpec(TraitedSpec):
    reference = File(exists=True, desc="image on the grid that the BOLD is resampled onto")


class MakeTargetGrid(SimpleInterface):
    """Grid of an output space.

    In T1w space, the grid has the field of view of the T1w image and the voxel size of the
    BOLD series; in a template's space, it is the grid of the template.
    """

    input_spec = _MakeTargetGridInputSpec
    output_spec = _MakeTargetGridOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        path = Path(runtime.cwd) / "reference.nii.gz"
        if isdefined(self.inputs.resolution):
            template = load_template(self.inputs.resolution)
            saved = save_std(Volume(template.t1w, template.affine), path)
        elif isdefined(self.inputs.template):
            code = template_code(self.inputs.template)
            saved = save_std(load_volume(self.inputs.template), path, code=code)
        else:
            bold = load_volume(self.inputs.bold_ref)
            t1w = load_volume(self.inputs.t1w_preproc)
            shape, affine = same_field_of_view(t1w, zooms_along(bold.affine, t1w.affine))
            saved = save_volume(resample_to(t1w, shape, affine, order=1), path)
        self._results["reference"] = saved
        return runtime


class _CarryMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mask")
    reference = File(exists=True, mandatory=True, desc="image on the target grid")
    transforms = InputMultiObject(
        File(exists=True), mandatory=True, desc="in the order in which images pass through them"
    )


class _CarryMaskOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc="mask on the grid, uint8")


class CarryMask(SimpleInterface):
    """Mask resampled through transforms; voxels at least half inside are kept."""

    input_spec = _CarryMaskInputSpec
    output_spec = _CarryMaskOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        reference = load_volume(self.inputs.reference)
        moved = apply_transforms(
            load_volume(self.inputs.in_file),
            read_chain(self.inputs.transforms),
            reference.shape,
            reference.affine,
        )
        mask = reference.with_data((moved.data >= 0.5).astype(np.float32))
        path = Path(runtime.cwd) / "mask.nii.gz"
        self._results["out_mask"] = save_volume(mask, path, dtype=np.uint8)
        return runtime
