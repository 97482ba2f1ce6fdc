"""Regions around the head: the head itself, the air above the face, artefacts, the empty frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
)

from neuroferry.interfaces.image.images import (
    FloatArray,
    load_mask,
    load_volume,
    save_nifti,
    voxel_sizes,
)
from neuroferry.interfaces.image.transforms import read_transform
from neuroferry.interfaces.qc import background
from neuroferry.interfaces.qc.maps import RunGrid, fit_to_template, load_any, without_bias

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

MIN_AIR_VOXELS = 1000

REGION_LABELS = {"head": 1, "air": 2, "artifact": 3, "frame": 4}
"""Labels of the image of regions that is written beside the metrics."""
_BITS = {"frame": 1, "head": 2, "hat": 4, "artifacts": 8}


@dataclass(frozen=True)
class Regions:
    """Regions around the head; they may overlap.

    Attributes
    ----------
    frame : ndarray of bool, shape (I, J, K)
        Voxels that were not acquired.
    head : ndarray of bool, shape (I, J, K)
        The head.
    hat : ndarray of bool, shape (I, J, K)
        Air above the plane of the face; empty where it holds no noise.
    artifacts : ndarray of bool, shape (I, J, K)
        Structure in it.
    """

    frame: NDArray[np.bool_]
    head: NDArray[np.bool_]
    hat: NDArray[np.bool_]
    artifacts: NDArray[np.bool_]

    @property
    def air(self) -> NDArray[np.bool_]:
        """Air above the face without artefacts."""
        clean: NDArray[np.bool_] = self.hat & ~self.artifacts
        return clean

    def labels(self) -> NDArray[np.uint8]:
        """Make a label image, :data:`REGION_LABELS`; where regions overlap, the last one wins."""
        labels = np.zeros(self.frame.shape, dtype=np.uint8)
        order = (
            ("frame", self.frame),
            ("head", self.head),
            ("air", self.air),
            ("artifact", self.artifacts),
        )
        for name, mask in order:
            labels[mask] = REGION_LABELS[name]
        return labels

    def pack(self) -> NDArray[np.uint8]:
        """Store the regions as bits of one image."""
        packed = np.zeros(self.frame.shape, dtype=np.uint8)
        for name, bit in _BITS.items():
            packed |= getattr(self, name).astype(np.uint8) * np.uint8(bit)
        return packed


def find_regions(
    image: FloatArray,
    corrected: FloatArray,
    brain: NDArray[np.bool_],
    above_face: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> Regions:
    """Find the regions around a head.

    Parameters
    ----------
    image : ndarray of float32, shape (I, J, K)
        Intensities as acquired.
    corrected : ndarray of float32, shape (I, J, K)
        Intensities after bias correction.
    brain, above_face : ndarray of bool, shape (I, J, K)
        Brain, and the voxels above the plane through glabella and inion.
    spacing : tuple of float
        Voxel sizes, mm.

    Returns
    -------
    Regions
    """
    frame = background.rotation_frame(image)
    head = background.head_mask(corrected, brain, spacing)
    hat = above_face & ~head & ~frame
    if np.count_nonzero(image[hat] > 0) < MIN_AIR_VOXELS:
        hat = np.zeros_like(hat)
    return Regions(frame, head, hat, background.artifact_mask(image, hat, head, spacing))


def read_regions(path: str | os.PathLike[str]) -> Regions:
    """Read the regions that :class:`FindRegions` wrote."""
    packed = load_any(path).data.astype(np.uint8)
    return Regions(**{name: (packed & bit) > 0 for name, bit in _BITS.items()})


class _FindRegionsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image in canonical orientation")
    bias_field = File(exists=True, mandatory=True, desc="multiplicative field on its grid")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    std2anat_xfm = File(exists=True, mandatory=True, desc="ITK composite, template to image")


class _FindRegionsOutputSpec(TraitedSpec):
    regions = File(exists=True, desc="bits: 1 frame, 2 head, 4 air above the face, 8 artefacts")


class FindRegions(SimpleInterface):
    """Regions around the head, in a step of their own."""

    input_spec = _FindRegionsInputSpec
    output_spec = _FindRegionsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        brain = load_mask(self.inputs.brain_mask, volume, "brain mask")
        corrected = without_bias(volume.data, load_any(self.inputs.bias_field).data)
        grid = RunGrid(volume.shape, volume.affine, np.eye(4))
        matrix = fit_to_template(brain, grid, read_transform(self.inputs.std2anat_xfm))
        x, y, z = (float(size) for size in voxel_sizes(volume.affine))
        found = find_regions(
            volume.data, corrected, brain, background.above_plane(volume.shape, matrix), (x, y, z)
        )
        self._results["regions"] = str(
            save_nifti(
                found.pack(), volume.affine, Path(runtime.cwd) / "regions.nii", dtype=np.uint8
            )
        )
        return runtime
