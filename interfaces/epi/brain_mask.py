"""Brain mask of an EPI reference: propagated from the T1w image, or found in the EPI alone.

The T1w mask is used if there is one. Otherwise the template's brain is registered to the EPI
by an affine transform (mutual information, so the contrast does not matter); bright,
connected voxels near it are brain.

References
----------
.. [1] Otsu N (1979). A threshold selection method from gray-level histograms. IEEE Trans
   Syst Man Cybern 9(1):62-66. doi:10.1109/TSMC.1979.4310076
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.metadata import read_json
from neuroferry.errors import InputError
from neuroferry.interfaces.image.affine import (
    AFFINE,
    SIMILARITY,
    compose,
    moving_image,
    mutual_information,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    load_volume,
    resample_to,
    save_nifti,
)
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.templates import load_template

# Brain is brighter than this fraction of the bright half of the voxels in the template's brain.
DARK_FRACTION = 0.25
# Maximum distance of a brain voxel from the template's brain, mm.
REACH_MM = 8.0
NECK_RADIUS_MM = 5.0
LIFTS_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)
PITCHES = (-20.0, 0.0, 20.0)
SMALLEST_ML = 50.0


def carry_mask(mask: Volume, matrix: Affine, epi: Volume) -> NDArray[np.bool_]:
    """Resample a brain mask onto the grid of an EPI.

    Parameters
    ----------
    mask : Volume
        Brain mask of the T1w image.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    epi : Volume
        EPI reference; voxels without any signal (not acquired) are excluded.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
        Voxels whose volume is at least half brain.

    Raises
    ------
    InputError
        If none of the brain is in the EPI's field of view.
    """
    placed = Volume((mask.data > 0.5).astype(np.float32), inverse(matrix) @ mask.affine)
    inside = _share(placed, epi) >= 0.5
    inside &= epi.data != 0
    if not inside.any():
        raise InputError(
            "The brain of the T1w image lies outside the field of view of the BOLD reference;"
            " check the coregistration."
        )
    return inside


def _share(placed: Volume, epi: Volume, sub: int = 2) -> FloatArray:
    """Compute the fraction of each voxel inside a finer mask, at `sub` points along each axis."""
    fine_shape = (epi.shape[0] * sub, epi.shape[1] * sub, epi.shape[2] * sub)
    scale = np.diag([1 / sub, 1 / sub, 1 / sub, 1.0])
    scale[:3, 3] = (1 / sub - 1) / 2
    fine = resample_to(placed, fine_shape, epi.affine @ scale).data
    i, j, k = epi.shape
    share: FloatArray = fine.reshape(i, sub, j, sub, k, sub).mean(axis=(1, 3, 5))
    return share


def find_mask(epi: Volume, *, seed: int = 1) -> NDArray[np.bool_]:
    """Find the brain in an EPI without an anatomical image.

    Parameters
    ----------
    epi : Volume
        EPI reference.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    ndarray of bool, shape (I, J, K)

    Raises
    ------
    InputError
        If no plausible brain is found.
    """
    from scipy import ndimage

    prior = _template_distance(epi, seed)
    level = float(np.median(epi.data[(prior < 0) & (epi.data > 0)]))
    bright_half = epi.data[(prior < 0) & (epi.data > level)]
    bright = epi.data > DARK_FRACTION * float(np.median(bright_half))
    near = prior < REACH_MM
    radius = np.maximum(1, np.round(NECK_RADIUS_MM / epi.zooms)).astype(int)
    opened = _open(bright & near, radius)
    labels, count = ndimage.label(opened)
    if count == 0:
        raise InputError("No brain was found in the BOLD reference; check the image.")
    sizes = ndimage.sum_labels(prior < 0, labels, np.arange(1, count + 1))
    brain = labels == 1 + int(np.argmax(sizes))
    # Deep inside the template's brain, dark voxels are signal dropout or iron, not air.
    brain |= (prior < -REACH_MM) & (epi.data != 0)
    brain = ndimage.binary_closing(brain, _ball(radius), border_value=0) | brain
    brain = ndimage.binary_fill_holes(brain) & (epi.data != 0)
    if float(brain.sum()) * abs(float(np.linalg.det(epi.affine[:3, :3]))) < 1000 * SMALLEST_ML:
        raise InputError(
            f"Less than {SMALLEST_ML:.0f} ml of brain was found in the BOLD reference; check the"
            " image."
        )
    mask: NDArray[np.bool_] = brain
    return mask


def _template_distance(epi: Volume, seed: int) -> FloatArray:
    """Compute the signed distance (mm, negative inside) to the template's brain on an EPI."""
    from scipy import ndimage

    template = load_template(2)
    fixed = Volume(template.t1w, template.affine)
    points = sample_points(fixed, template.brain_mask, 6.0, seed=seed)
    image = moving_image(epi, 6.0)
    head = np.argwhere(foreground(epi.data)).mean(axis=0)
    middle = epi.affine[:3, :3] @ head + epi.affine[:3, 3]
    starts = [
        compose(
            np.array([*(middle - points.centre + (0, 0, lift)), np.radians(pitch), 0, 0]),
            points.centre,
        )
        for lift in LIFTS_MM
        for pitch in PITCHES
    ]
    few = points.thin(2000)
    order = np.argsort([-mutual_information(few, image, start) for start in starts])[:3]
    found = [refine(few, image, starts[int(n)], dof=SIMILARITY, tolerance=1e-3) for n in order]
    matrix, _ = max(found, key=lambda one: one[1])
    matrix, _ = refine(points, image, matrix, dof=AFFINE, step=0.5, tolerance=1e-4)
    mask = Volume(template.brain_mask.astype(np.float32), matrix @ template.affine)
    inside = _share(mask, epi) >= 0.5
    distance: FloatArray = ndimage.distance_transform_edt(~inside, sampling=epi.zooms)
    distance -= ndimage.distance_transform_edt(inside, sampling=epi.zooms)
    return distance.astype(np.float32)


def _ball(radius: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Build an ellipsoid of voxels from its half axes."""
    axes = np.ogrid[tuple(slice(-int(r), int(r) + 1) for r in radius)]
    inside: NDArray[np.bool_] = (
        sum((axis / r) ** 2 for axis, r in zip(axes, radius, strict=True)) <= 1.0
    )
    return inside


def _open(mask: NDArray[np.bool_], radius: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Remove what is connected by less than a ball: eyes, scalp, neck."""
    from scipy import ndimage

    ball = _ball(radius)
    # The head continues beyond the field of view.
    padded = np.pad(mask, [(int(r), int(r)) for r in radius], mode="edge")
    opened = ndimage.binary_opening(padded, ball)
    inner = tuple(slice(int(r), -int(r)) for r in radius)
    result: NDArray[np.bool_] = opened[inner]
    return result


class _MaskBoldInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="EPI reference")
    t1w_mask = File(exists=True, requires=["anat2boldref_xfm"], desc="brain mask of the T1w image")
    anat2boldref_xfm = File(exists=True, desc="ITK affine: T1w image onto BOLD grid")
    coreg_report = File(
        exists=True, desc="JSON; if its verdict is bad, the T1w image is left aside"
    )
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _MaskBoldOutputSpec(TraitedSpec):
    bold_mask = File(exists=True, desc="brain mask on the BOLD's grid, uint8")


class MaskBold(SimpleInterface):
    """Brain mask of a BOLD reference, from the T1w mask if there is one in a known position."""

    input_spec = _MaskBoldInputSpec
    output_spec = _MaskBoldOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        load_template(2)

    def _run_interface(self, runtime: Any) -> Any:
        epi = load_volume(self.inputs.bold_ref)
        report = self.inputs.coreg_report
        lost = isdefined(report) and read_json(Path(report)).get("verdict") == "bad"
        if isdefined(self.inputs.t1w_mask) and not lost:
            matrix = read_itk_affine(self.inputs.anat2boldref_xfm)
            mask = carry_mask(load_volume(self.inputs.t1w_mask), matrix, epi)
        else:
            mask = find_mask(epi, seed=self.inputs.seed)
        path = Path(runtime.cwd) / "bold_mask.nii.gz"
        self._results["bold_mask"] = str(
            save_nifti(mask, epi.affine, path, header=epi.header, dtype=np.uint8)
        )
        return runtime
