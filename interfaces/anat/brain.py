"""Brain extraction with a skull-stripped template.

The template's brain is registered to the head (:mod:`neuroferry.interfaces.anat.locate`).
Tissue as bright as grey and white matter that is connected to the middle of the registered
brain is separated from skull, dura and scalp by erosion and geodesic growth. SyN then warps
the template to that tissue alone, so that nothing outside the brain attracts its edge, and
the template's mask, which includes the fluid around the brain, is propagated with it.
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
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.anat.brain_score import (
    GOOD_CONFIDENCE,
    BrainScore,
    assess,
    rate_location,
    write_score,
)
from neuroferry.interfaces.anat.locate import (
    FIRST_SEARCH,
    SECOND_SEARCH,
    THIRD_SEARCH,
    Location,
    locate_brain,
)
from neuroferry.interfaces.anat.normalise import SLOPPY_SYN, SynSettings, syn
from neuroferry.interfaces.image.bias import HEAD_N4, SLOPPY_N4, estimate_bias, foreground
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    load_volume,
    resample_isotropic,
    save_volume,
)
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    Transform,
    apply_transforms,
    write_itk_affine,
)
from neuroferry.templates import Template, load_template

WORK_ZOOM, SLOPPY_ZOOM = 2.0, 3.0
BRAIN_SYN = SynSettings(resolution=2, iterations=(40, 20, 4), smoothing=2.0, step=0.25)
REACH_MM = 6.0  # tissue farther outside the registered brain is not brain
NECK_MM = 2.1  # tissue joined to the brain by less than twice this is not brain
WIDEN_MM = 0.5  # the template's mask follows the cortex; margin for the pia
STALK_MM = 4.0  # parts joined to the mask by less than twice this are removed: orbits, nerves
CLOSE_MM = 3.2  # sulci narrower than this are included
STRIPPED_REACH_MM = 12.0


def find_brain(head: Volume, template: Template, seed: int) -> tuple[Location, int]:
    """Locate the brain, searching more widely while the result is doubtful.

    Parameters
    ----------
    head : Volume
        Roughly bias-corrected head at 2 mm.
    template : Template
        At 2 mm.
    seed : int
        Seed of the sampling.

    Returns
    -------
    location : Location
        Best location found.
    starts : int
        Total number of starts tried.
    """
    best = locate_brain(head, template, FIRST_SEARCH, seed)
    tried = best.starts
    for ranges in (SECOND_SEARCH, THIRD_SEARCH):
        if rate_location(best) >= GOOD_CONFIDENCE:
            break
        other = locate_brain(head, template, ranges, seed)
        tried += other.starts
        if other.score > best.score + 0.01:
            best = other
    return best, tried


def signed_distance(mask: NDArray[np.bool_], zooms: NDArray[np.float64]) -> FloatArray:
    """Compute the distance to a mask's edge in mm: negative inside, positive outside.

    Examples
    --------
    >>> line = np.array([0, 0, 1, 1, 0, 0], dtype=bool).reshape(6, 1, 1)
    >>> signed_distance(line, np.array([2.0, 2.0, 2.0])).ravel().tolist()
    [3.0, 1.0, -1.0, -1.0, 1.0, 3.0]
    """
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask, sampling=zooms)
    inside = ndimage.distance_transform_edt(mask, sampling=zooms)
    half = float(np.mean(zooms)) / 2
    distance: FloatArray = np.where(mask, half - inside, outside - half).astype(np.float32)
    return distance


def distance_on(
    distance: FloatArray, template: Template, transforms: list[Transform], grid: Volume
) -> FloatArray:
    """Resample the template's distance map onto a grid; 100 mm beyond its field of view."""
    offset = 100.0
    moved = apply_transforms(
        Volume(distance - offset, template.affine), transforms, grid.shape, grid.affine
    )
    return moved.data + np.float32(offset)


def is_stripped(head: Volume, placed: FloatArray) -> bool:
    """Check whether an image is skull-stripped: almost no signal 8 to 25 mm outside the brain.

    Parameters
    ----------
    head : Volume
        Image at 2 or 3 mm.
    placed : ndarray of float32, shape (I, J, K)
        Distance to the edge of the registered template brain, mm.

    Returns
    -------
    bool
    """
    ring = (placed > 8.0) & (placed < 25.0)
    inside = head.data[placed < -3.0]
    if not ring.any() or inside.size == 0:
        return False
    return float(np.mean(head.data[ring] > 0.05 * np.median(inside))) < 0.03


def free_tissue(
    head: Volume, placed: FloatArray, template: Template, matrix: Affine
) -> tuple[NDArray[np.bool_], float]:
    """Separate grey and white matter from the surrounding tissue.

    Parameters
    ----------
    head : Volume
        Roughly bias-corrected head on an isotropic grid.
    placed : ndarray of float32, shape (I, J, K)
        Distance to the edge of the registered template brain, mm.
    template : Template
        Template; its tissue maps are used to estimate the intensity of each tissue.
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points.

    Returns
    -------
    tissue : ndarray of bool, shape (I, J, K)
        Voxels brighter than the midpoint between fluid and grey matter, connected to the
        middle of the brain by more than a thin neck.
    white : float
        Intensity of white matter.

    Raises
    ------
    InputError
        If no tissue is found where the template's brain was registered.
    """
    from scipy import ndimage

    levels = []
    for tpm in template.tpms:
        moved = apply_transforms(
            Volume(tpm, template.affine), [inverse(matrix)], head.shape, head.affine
        )
        sure = head.data[(moved.data > 0.8) & (placed < 0)]
        levels.append(float(np.median(sure)) if sure.size else 0.0)
    grey, white, fluid = levels
    zoom = float(head.zooms.mean())
    bright = (head.data > (fluid + grey) / 2) & (head.data < 1.25 * white) & (placed < REACH_MM)
    # Fat is brighter than any brain tissue; voxels touching it are partly fat, not grey matter.
    fat = (head.data > 1.3 * white) & (placed > -4.0)
    bright &= ~ndimage.binary_dilation(fat)
    neck = max(NECK_MM, zoom + 0.1)
    eroded = ndimage.distance_transform_edt(bright) * zoom > neck
    labels, count = ndimage.label(eroded)
    votes = np.bincount(labels[(placed < -6.0) & eroded], minlength=count + 1)
    votes[0] = 0
    if votes.max(initial=0) == 0:
        raise InputError(
            "No grey or white matter was found where the brain should be; check that the image "
            "shows a head, with the contrast that its suffix stands for."
        )
    core = labels == int(votes.argmax())
    grown = ndimage.distance_transform_edt(~core) * zoom <= neck + 0.1
    return grown & bright, white


@dataclass(frozen=True)
class Surface:
    """Edge of the brain on the working grid.

    Attributes
    ----------
    level : ndarray of float32, shape (I, J, K)
        Negative inside the brain; near its edge, approximately the distance to it in mm.
    placed : ndarray of float32, shape (I, J, K)
        Distance to the edge of the affinely registered brain, mm.
    stripped : bool
        Whether the image is skull-stripped.
    warp : DisplacementField or None
        From points of the head, after the inverse of the affine, to points of the template; None
        for a skull-stripped image.
    """

    level: FloatArray
    placed: FloatArray
    stripped: bool
    warp: DisplacementField | None = None


def find_surface(head: Volume, location: Location, settings: SynSettings = BRAIN_SYN) -> Surface:
    """Locate the edge of the brain on the working grid.

    Parameters
    ----------
    head : Volume
        Roughly bias-corrected head on an isotropic grid.
    location : Location
        Location of the template's brain.
    settings : SynSettings
        Resolution and iterations of SyN.

    Returns
    -------
    Surface
    """
    from scipy import ndimage

    template = load_template(settings.resolution)
    zooms = np.full(3, float(settings.resolution))
    distance = signed_distance(template.brain_mask, zooms)
    back = inverse(location.matrix)
    placed = distance_on(distance, template, [back], head)
    if is_stripped(head, placed):
        return Surface(placed, placed, stripped=True)
    tissue, white = free_tissue(head, placed, template, location.matrix)
    around = ndimage.binary_dilation(tissue, iterations=1)
    freed = np.where(around, np.minimum(head.data, 1.1 * white), 0).astype(np.float32)
    static = np.where(template.brain_mask, template.t1w, 0).astype(np.float32)
    moving = head.with_data(freed)
    _, backward = syn(static, template.affine, moving, location.matrix, settings)
    level = distance_on(distance, template, [back, backward], head) - np.float32(WIDEN_MM)
    level = np.where(tissue & (level < 4.0), np.minimum(level, -0.1), level)
    zoom = float(head.zooms.mean())
    closed = close_mask(level < 0, CLOSE_MM / 2 / zoom)
    level = np.where(closed, np.minimum(level, -0.1), level).astype(np.float32)
    whole = cut_stalks(level < 0, STALK_MM / zoom)
    level = np.where(whole, level, np.maximum(level, 0.1))
    return Surface(level, placed, stripped=False, warp=backward)


def cut_stalks(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Remove parts joined to the largest part of a mask by a thin stalk only.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Mask.
    radius : float
        Half the width of a stalk, voxels.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
        The part of the mask within reach of its largest core; its corners are preserved.
    """
    from scipy import ndimage

    labels, count = ndimage.label(ndimage.distance_transform_edt(mask) > radius)
    if count == 0:
        return mask
    core = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~core) <= 1.5 * radius + 0.5
    return near & mask


def close_mask(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Close a mask with a ball: clefts narrower than twice the radius are filled.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Mask.
    radius : float
        Radius in voxels.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
    """
    from scipy import ndimage

    pad = int(np.ceil(radius)) + 2
    padded = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    result: NDArray[np.bool_] = closed[pad:-pad, pad:-pad, pad:-pad] | mask
    return result


def extract_brain(
    volume: Volume, *, sloppy: bool = False, seed: int = 1
) -> tuple[NDArray[np.bool_], BrainScore, Affine]:
    """Extract the brain from a T1w head.

    Parameters
    ----------
    volume : Volume
        T1w head without bias correction, of any resolution and orientation.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling.

    Returns
    -------
    mask : ndarray of bool, shape (I, J, K)
        Brain, including the fluid in and around it.
    score : BrainScore
        Confidence in the mask.
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points, RAS+ mm.

    Raises
    ------
    InputError
        If no head, or no brain in it, is found.
    """
    raw = resample_isotropic(volume, SLOPPY_ZOOM if sloppy else WORK_ZOOM)
    raw = raw.with_data(np.maximum(raw.data, 0))
    field = estimate_bias(raw, foreground(raw.data), SLOPPY_N4 if sloppy else HEAD_N4)
    head = raw.with_data(raw.data / field)
    location, tried = find_brain(head, load_template(2), seed)
    surface = find_surface(head, location, SLOPPY_SYN if sloppy else BRAIN_SYN)
    mask = native_mask(volume, head, surface)
    millilitres = float(mask.sum() * np.prod(volume.zooms) / 1000)
    return mask, assess(location, millilitres, tried, stripped=surface.stripped), location.matrix


def native_mask(volume: Volume, head: Volume, surface: Surface) -> NDArray[np.bool_]:
    """Resample the brain's edge onto the head's own voxels, connected and without holes.

    Parameters
    ----------
    volume : Volume
        The image.
    head : Volume
        The working grid.
    surface : Surface
        The edge on that grid.

    Returns
    -------
    ndarray of bool, shape (I, J, K)
        On the grid of the image.

    Raises
    ------
    InputError
        If it is empty.
    """
    from scipy import ndimage

    level, stripped = surface.level, surface.stripped
    box = _box_on(volume, head, surface.placed < 2 * STRIPPED_REACH_MM)
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ [s.start for s in box]
    part = Volume(volume.data[box], affine)
    far = 100.0
    fine = apply_transforms(Volume(level - far, head.affine), [], part.shape, affine).data + far
    inside = (part.data > 0) & (fine < STRIPPED_REACH_MM) if stripped else fine < 0
    labels, count = ndimage.label(inside)
    if count > 1:
        inside = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    mask = np.zeros(volume.data.shape, dtype=bool)
    mask[box] = ndimage.binary_fill_holes(inside)
    if not mask.any():
        raise InputError("No brain was found in this image; check the image.")
    return mask


def _box_on(volume: Volume, head: Volume, near: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Compute the box, in voxels of `volume`, around a mask on the grid of `head`."""
    index = np.argwhere(near).T
    if index.size == 0:
        i, j, k = volume.data.shape
        return slice(0, i), slice(0, j), slice(0, k)
    to_voxels = inverse(volume.affine) @ head.affine
    voxels = to_voxels[:3, :3] @ index + to_voxels[:3, 3:]
    last = np.array(volume.data.shape) - 1
    low = np.clip(np.floor(voxels.min(axis=1)).astype(int), 0, last)
    high = np.clip(np.ceil(voxels.max(axis=1)).astype(int), low, last) + 1
    a, b, c = (slice(int(x), int(y)) for x, y in zip(low, high, strict=True))
    return a, b, c


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w head without bias correction")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _ExtractBrainOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc="brain mask, uint8")
    out_score = File(exists=True, desc="confidence and reasons, JSON")
    std2anat_affine = File(exists=True, desc="ITK affine: template points to head points")


class ExtractBrain(SimpleInterface):
    """Brain mask of a T1w head, with a confidence score."""

    input_spec = _ExtractBrainInputSpec
    output_spec = _ExtractBrainOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        load_template(2)
        load_template((SLOPPY_SYN if self.inputs.sloppy else BRAIN_SYN).resolution)

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        mask, score, matrix = extract_brain(
            volume, sloppy=bool(self.inputs.sloppy), seed=self.inputs.seed
        )
        out = Path(runtime.cwd)
        labels = volume.with_data(mask.astype(np.float32))
        self._results["out_mask"] = save_volume(labels, out / "brain_mask.nii.gz", dtype=np.uint8)
        self._results["out_score"] = str(write_score(score, out / "brain_score.json"))
        self._results["std2anat_affine"] = str(write_itk_affine(matrix, out / "std2anat.txt"))
        return runtime
