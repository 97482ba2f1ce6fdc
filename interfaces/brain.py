"""Brain extraction with a skull-stripped template, and how far to trust it.

The template's brain is found in the head (:mod:`neuroferry.interfaces.locate`), warped to
it by SyN in a band around the brain, and its mask brought back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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

from neuroferry.interfaces.bias import HEAD_N4, SLOPPY_N4, estimate_bias, foreground
from neuroferry.interfaces.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    load_volume,
    resample_isotropic,
    save_volume,
)
from neuroferry.interfaces.locate import (
    FIRST_SEARCH,
    SECOND_SEARCH,
    THIRD_SEARCH,
    Location,
    locate_brain,
)
from neuroferry.interfaces.register import SynSettings, syn
from neuroferry.interfaces.transforms import (
    Transform,
    apply_transforms,
    write_itk_affine,
)
from neuroferry.templates import Template, load_template

WORK_ZOOM = 2.0
BAND_MM = 4.5
WIDEN_MM = 1.0
BRAIN_SYN = SynSettings(resolution=2, radius=2, iterations=(40, 20, 4))
SLOPPY_BRAIN_SYN = SynSettings(resolution=3, radius=2, iterations=(10, 5))
# Mutual information of the winning start (nats, 4 mm, 32 classes): heads found score
# 0.40 to 0.55, misplaced ones stay below 0.25.
SCORE_RANGE = (0.20, 0.38)
AGREEMENT_MM = (4.0, 15.0)
VOLUME_ML = (650.0, 900.0, 1900.0, 2300.0)
GOOD_CONFIDENCE = 0.5


@dataclass(frozen=True)
class BrainScore:
    """What a brain mask is worth.

    Attributes
    ----------
    confidence : float
        0 to 1: the lowest of the ratings of score, agreement and volume.
    verdict : str
        ``good``, or ``look``: a person should look at this mask.
    mutual_information : float or None
        Of head and template in the template's brain, nats; None for a mask from elsewhere.
    agreement_mm : float or None
        Distance between the winner and the next best refined starts.
    volume_ml : float
        Volume of the mask.
    starts_tried : int
        Over all searches.
    skull_stripped : bool
        The image held no head, only a brain.
    reasons : tuple of str
        Why the verdict is what it is, in plain words.
    """

    confidence: float
    verdict: str
    mutual_information: float | None
    agreement_mm: float | None
    volume_ml: float
    starts_tried: int
    skull_stripped: bool
    reasons: tuple[str, ...]


def rate(value: float, bad: float, good: float) -> float:
    """Linear rating: 0 at `bad`, 1 at `good`, clipped.

    >>> rate(3.0, 2.0, 4.0), rate(9.0, 10.0, 5.0), rate(1.0, 2.0, 4.0)
    (0.5, 0.2, 0.0)
    """
    return float(np.clip((value - bad) / (good - bad), 0.0, 1.0))


def assess(location: Location, volume_ml: float, starts: int, *, stripped: bool) -> BrainScore:
    """Turn a location and a volume into a confidence and a verdict with reasons.

    Parameters
    ----------
    location : Location
        Winner of the search.
    volume_ml : float
        Volume of the mask.
    starts : int
        Starts tried over all searches.
    stripped : bool
        Whether the image held a brain only.

    Returns
    -------
    BrainScore
    """
    ratings = {
        "The head resembles the template's brain little where it was placed "
        f"(mutual information {location.score:.2f}).": rate(location.score, *SCORE_RANGE),
        "The best starts of the search ended in different places "
        f"({location.agreement_mm:.0f} mm apart).": rate(
            location.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]
        ),
        _volume_reason(volume_ml): rate_volume(volume_ml),
    }
    confidence = min(ratings.values())
    reasons = [reason for reason, rating in ratings.items() if rating < 1.0]
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    if location.turned:
        verdict = "look"
        reasons.append(
            "The head lies along other axes than the header says; check left and right."
        )
    if stripped:
        reasons.append("The image is skull-stripped already; its own edge was kept.")
    return BrainScore(
        round(confidence, 4),
        verdict,
        round(location.score, 4),
        round(location.agreement_mm, 2),
        round(volume_ml, 1),
        starts,
        stripped,
        tuple(reasons),
    )


def assess_given(volume_ml: float) -> BrainScore:
    """Rate a mask that was computed elsewhere, by its volume alone."""
    confidence = rate_volume(volume_ml)
    reasons = ["The mask was computed elsewhere."]
    if confidence < 1.0:
        reasons.append(_volume_reason(volume_ml))
    verdict = "good" if confidence >= GOOD_CONFIDENCE else "look"
    return BrainScore(
        round(confidence, 4), verdict, None, None, round(volume_ml, 1), 0, False, tuple(reasons)
    )


def rate_volume(volume_ml: float) -> float:
    """Plausibility of a brain's volume, children included: 0 to 1.

    >>> rate_volume(1400.0), rate_volume(3000.0)
    (1.0, 0.0)
    """
    smallest, small, large, largest = VOLUME_ML
    return min(rate(volume_ml, smallest, small), rate(volume_ml, largest, large))


def _volume_reason(volume_ml: float) -> str:
    """Say that a volume is unusual."""
    return f"The mask holds {volume_ml:.0f} ml, which is unusual for a brain."


def find_brain(head: Volume, template: Template, seed: int) -> tuple[Location, int]:
    """Locate the brain; look harder while the result is doubtful.

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
        The best found.
    starts : int
        Starts tried in all.
    """
    best = locate_brain(head, template, FIRST_SEARCH, seed)
    tried = best.starts
    for ranges in (SECOND_SEARCH, THIRD_SEARCH):
        sure = min(
            rate(best.score, *SCORE_RANGE),
            rate(best.agreement_mm, AGREEMENT_MM[1], AGREEMENT_MM[0]),
        )
        if sure >= GOOD_CONFIDENCE:
            break
        other = locate_brain(head, template, ranges, seed)
        tried += other.starts
        if other.score > best.score + 0.01:
            best = other
    return best, tried


def signed_distance(mask: NDArray[np.bool_], zooms: NDArray[np.float64]) -> FloatArray:
    """Distance to a mask's edge in mm: negative inside, positive outside."""
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~mask, sampling=zooms)
    inside = ndimage.distance_transform_edt(mask, sampling=zooms)
    distance: FloatArray = (outside - inside).astype(np.float32)
    return distance


def is_stripped(head: Volume, distance: FloatArray) -> bool:
    """Tell whether an image holds a brain only: hardly anything 8 to 25 mm outside it.

    Parameters
    ----------
    head : Volume
        Image at 2 mm.
    distance : ndarray of float32, shape (I, J, K)
        Distance to the edge of the placed template's brain, mm, on the same grid.

    Returns
    -------
    bool
    """
    ring = (distance > 8.0) & (distance < 25.0)
    inside = head.data[distance < -3.0]
    if not ring.any() or inside.size == 0:
        return False
    return float(np.mean(head.data[ring] > 0.05 * np.median(inside))) < 0.03


def distance_on(
    distance: FloatArray, template: Template, transforms: list[Transform], grid: Volume
) -> FloatArray:
    """Bring the template's distance map to a grid; far outside where it does not reach."""
    offset = 100.0
    moved = apply_transforms(
        Volume(distance - offset, template.affine), transforms, grid.shape, grid.affine
    )
    return moved.data + np.float32(offset)


def extract_brain(
    volume: Volume, *, sloppy: bool = False, seed: int = 1
) -> tuple[NDArray[np.bool_], BrainScore, Affine]:
    """Find the brain of a head.

    Parameters
    ----------
    volume : Volume
        T1w head, not bias-corrected, any resolution and orientation.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling.

    Returns
    -------
    mask : ndarray of bool, shape (I, J, K)
        Brain, including the fluid in and around it.
    score : BrainScore
        What it is worth.
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points, RAS+ mm.

    Raises
    ------
    InputError
        If nothing stands out from the background.
    """
    raw = resample_isotropic(volume, 3.0 if sloppy else WORK_ZOOM)
    raw = raw.with_data(np.maximum(raw.data, 0))
    field = estimate_bias(raw, foreground(raw.data), SLOPPY_N4 if sloppy else HEAD_N4)
    head = raw.with_data(raw.data / field)
    location, tried = find_brain(head, load_template(2), seed)
    settings = SLOPPY_BRAIN_SYN if sloppy else BRAIN_SYN
    template = load_template(settings.resolution)
    distance = signed_distance(template.brain_mask, np.full(3, float(settings.resolution)))
    back = inverse(location.matrix)
    placed = distance_on(distance, template, [back], head)
    stripped = is_stripped(head, placed)
    band = head.with_data(np.where(placed < BAND_MM, head.data, 0).astype(np.float32))
    static = np.where(template.brain_mask, template.t1w, 0).astype(np.float32)
    _, backward = syn(static, template.affine, band, location.matrix, settings)
    near = placed < 3 * BAND_MM
    mask = _native_mask(volume, head, near, template, distance, [back, backward], stripped)
    millilitres = float(mask.sum() * np.prod(volume.zooms) / 1000)
    return mask, assess(location, millilitres, tried, stripped=stripped), location.matrix


def _native_mask(
    volume: Volume,
    head: Volume,
    near: NDArray[np.bool_],
    template: Template,
    distance: FloatArray,
    transforms: list[Transform],
    stripped: bool,
) -> NDArray[np.bool_]:
    """Bring the template's mask to the head's own voxels, inside the box around `near`."""
    from scipy import ndimage

    box = _box_on(volume, head, near)
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ [s.start for s in box]
    part = Volume(volume.data[box], affine)
    found = distance_on(distance, template, transforms, part)
    inside = found < WIDEN_MM
    if stripped:
        inside = (found < 12.0) & (part.data > 0)
        inside = ndimage.binary_fill_holes(inside)
    labels, count = ndimage.label(inside)
    if count > 1:
        inside = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    mask = np.zeros(volume.data.shape, dtype=bool)
    mask[box] = ndimage.binary_fill_holes(inside)
    return mask


def _box_on(volume: Volume, head: Volume, near: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Box, in the voxels of `volume`, around a mask on the grid of `head`."""
    index = np.argwhere(near).T
    if index.size == 0:
        i, j, k = volume.data.shape
        return slice(0, i), slice(0, j), slice(0, k)
    to_voxels = inverse(volume.affine) @ head.affine
    voxels = to_voxels[:3, :3] @ index + to_voxels[:3, 3:]
    low = np.maximum(np.floor(voxels.min(axis=1)).astype(int), 0)
    high = np.minimum(np.ceil(voxels.max(axis=1)).astype(int) + 1, volume.data.shape)
    a, b, c = (slice(int(x), max(int(x) + 1, int(y))) for x, y in zip(low, high, strict=True))
    return a, b, c


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w head, not bias-corrected")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _ExtractBrainOutputSpec(TraitedSpec):
    out_mask = File(exists=True, desc="brain mask, uint8")
    out_score = File(exists=True, desc="confidence and reasons, JSON")
    std2anat_affine = File(exists=True, desc="ITK affine: template points to head points")


class ExtractBrain(SimpleInterface):
    """Find the brain of a T1w head, and say how far to trust it."""

    input_spec = _ExtractBrainInputSpec
    output_spec = _ExtractBrainOutputSpec

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


def write_score(score: BrainScore, path: Path) -> Path:
    """Write a score as JSON."""
    path.write_text(json.dumps(asdict(score), indent=2) + "\n", encoding="utf-8")
    return path
