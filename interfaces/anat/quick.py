"""Brain, bias field and tissues of one image, just well enough to measure its quality.

The steps are those of the anatomical workflow, without registration to convergence: the warp that
finds the edge of the brain also brings the template's tissue maps.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    traits,
)
from numpy.typing import NDArray

from neuroferry.files import write_json
from neuroferry.interfaces.anat.brain import (
    WORK_ZOOM,
    Surface,
    find_brain,
    find_surface,
    native_mask,
)
from neuroferry.interfaces.anat.brain_score import BrainScore, assess, write_score
from neuroferry.interfaces.anat.normalise import SLOPPY_SYN, SynSettings, syn
from neuroferry.interfaces.anat.segment import (
    SLOPPY_MIXTURE,
    TISSUES,
    WM,
    MixtureSettings,
    Segmentation,
    segment_tissues,
    tissue_report,
)
from neuroferry.interfaces.anat.t2_contrast import (
    MOST_DARK,
    as_t1w,
    dark_share,
    darken_fluid_edges,
    white_level,
)
from neuroferry.interfaces.image.bias import (
    HEAD_N4,
    SLOPPY_N4,
    N4Settings,
    estimate_bias,
    foreground,
)
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    crop_to,
    inverse,
    load_map,
    load_mask,
    load_volume,
    resample_isotropic,
    resample_to,
    save_volume,
    to_canonical,
)
from neuroferry.interfaces.image.transforms import (
    Transform,
    apply_to_many,
    write_itk_composite,
)
from neuroferry.templates import Template, load_template

QUICK_SYN = SynSettings(resolution=2, iterations=(40, 20, 0), smoothing=2.0, step=0.25)


@dataclass(frozen=True)
class QuickAnatomy:
    """Brain and bias field of an image, and the template's tissues in it.

    Attributes
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    score : BrainScore
        Confidence in it.
    bias : ndarray of float32, shape (I, J, K)
        Multiplicative field, geometric mean one in the brain.
    priors : ndarray of float32, shape (3, I, J, K)
        Template maps of GM, WM and CSF.
    std2anat : tuple of transforms
        From the template: maps points of the image to points of the template.
    """

    mask: NDArray[np.bool_]
    score: BrainScore
    bias: FloatArray
    priors: FloatArray
    std2anat: tuple[Transform, ...]


def quick_anatomy(
    volume: Volume, *, contrast: str = "T1w", sloppy: bool = False, seed: int = 1
) -> QuickAnatomy:
    """Find the brain, its bias field and the template's tissues in an image.

    Parameters
    ----------
    volume : Volume
        Head, of any resolution and orientation.
    contrast : {"T1w", "T2w"}
        Its contrast.
    sloppy : bool
        Coarser still.
    seed : int
        Seed of the sampling.

    Returns
    -------
    QuickAnatomy

    Raises
    ------
    InputError
        If no head, or no brain in it, is found; or if fluid is not bright in a T2-weighted image.
    """
    template = load_template(2)
    raw = resample_isotropic(volume, WORK_ZOOM)
    raw = raw.with_data(np.maximum(raw.data, 0))
    field = estimate_bias(raw, foreground(raw.data), SLOPPY_N4 if sloppy else HEAD_N4)
    head = raw.with_data(raw.data / field)
    location, tried = find_brain(head, template, seed)
    if contrast == "T2w":
        white = white_level(head, template, location.matrix)
        turned = as_t1w(head.data, white)
        head = head.with_data(darken_fluid_edges(turned, head.data, white))
    surface = find_surface(head, location, SLOPPY_SYN if sloppy else QUICK_SYN)
    mask = native_mask(volume, head, surface)
    millilitres = float(mask.sum() * np.prod(volume.zooms) / 1000)
    std2anat = _to_template(head, template, location.matrix, surface)
    return QuickAnatomy(
        mask,
        assess(location, millilitres, tried, stripped=surface.stripped),
        estimate_bias(volume, mask, SLOPPY_N4 if sloppy else N4Settings()),
        place_priors(volume, mask, head, template, std2anat),
        std2anat,
    )


def _to_template(
    head: Volume, template: Template, matrix: Affine, surface: Surface
) -> tuple[Transform, ...]:
    """Chain the transforms from points of the head to points of the template."""
    if surface.warp is not None:
        return inverse(matrix), surface.warp
    static = np.where(template.brain_mask, template.t1w, 0).astype(np.float32)
    _, backward = syn(static, template.affine, head, matrix, QUICK_SYN)
    return inverse(matrix), backward


def place_priors(
    volume: Volume,
    mask: NDArray[np.bool_],
    head: Volume,
    template: Template,
    std2anat: tuple[Transform, ...],
) -> FloatArray:
    """Bring the template's tissue maps onto an image.

    The warp is evaluated on the working grid; the maps, which are smooth, are interpolated from
    there.

    Parameters
    ----------
    volume : Volume
        The image.
    mask : ndarray of bool, shape (I, J, K)
        Its brain.
    head : Volume
        Working grid.
    template : Template
        With tissue maps.
    std2anat : tuple of transforms
        Maps points of the image to points of the template.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
        GM, WM and CSF; zero outside the box of the brain.
    """
    placed = resample_to(
        Volume(mask.astype(np.float32), volume.affine), head.shape, head.affine
    ).data
    inner, corner = crop_to(placed > 0, head.affine, 3 * WORK_ZOOM)
    i, j, k = (part.stop - part.start for part in inner)
    maps = apply_to_many(
        [Volume(tpm, template.affine) for tpm in template.tpms],
        [1] * 3,
        std2anat,
        (i, j, k),
        corner,
    )
    box, affine = crop_to(mask, volume.affine, 4.0)
    a, b, c = (part.stop - part.start for part in box)
    priors = np.zeros((3, *volume.shape), dtype=np.float32)
    for tissue, found in enumerate(maps):
        priors[(tissue, *box)] = resample_to(found, (a, b, c), affine).data
    return priors


def segment_quickly(
    volume: Volume,
    mask: NDArray[np.bool_],
    priors: FloatArray,
    *,
    contrast: str = "T1w",
    sloppy: bool = False,
) -> tuple[Segmentation, dict[str, Any]]:
    """Segment a brain in either contrast.

    Parameters
    ----------
    volume : Volume
        Bias-corrected image.
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    priors : ndarray of float32, shape (3, I, J, K)
        Template maps of GM, WM and CSF.
    contrast : {"T1w", "T2w"}
        A T2-weighted image is turned upside down first, which leaves its noise and its partial
        volumes as they are.
    sloppy : bool
        Fewer iterations.

    Returns
    -------
    found : Segmentation
        Its means are those of the image as segmented.
    report : dict
        From :func:`neuroferry.interfaces.anat.segment.tissue_report`.
    """
    used = volume
    if contrast == "T2w":
        brightest = np.float32(np.percentile(volume.data[mask], 99.9))
        used = volume.with_data(brightest - np.minimum(volume.data, brightest))
    settings = SLOPPY_MIXTURE if sloppy else MixtureSettings()
    found = segment_tissues(used, mask, priors, settings)
    report = tissue_report(used, mask, priors, found)
    if contrast == "T2w":
        report["MedianIntensity"] = {
            name: round(float(brightest) - value, 2)
            for name, value in report["MedianIntensity"].items()
        }
        reasons = [_about_t2w(reason) for reason in report["reasons"]]
        share = dark_share(volume, mask, found.dseg == 1 + WM)
        if share > MOST_DARK:
            reasons.append(
                f"{100 * share:.1f}% of the brain mask is darker than half of white matter, as"
                " bone and air are: the mask reaches beyond the brain."
            )
        report |= {"verdict": "look" if reasons else "good", "reasons": reasons}
    return found, report


def _about_t2w(reason: str) -> str:
    if not reason.startswith("White matter"):
        return reason
    return (
        "White matter is not darker than grey matter: the image may be no T2-weighted image, or"
        " misaligned with the template."
    )


class _FindAnatomyInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the image")
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="its contrast")
    sloppy = traits.Bool(False, usedefault=True, desc="coarser still")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _FindAnatomyOutputSpec(TraitedSpec):
    image = File(exists=True, desc="the image, RAS+, uncompressed as all outputs")
    preproc = File(exists=True, desc="divided by the bias field")
    bias_field = File(exists=True, desc="multiplicative field, geometric mean one in the brain")
    brain_mask = File(exists=True, desc="brain mask")
    brain_score = File(exists=True, desc="confidence in it, JSON")
    priors = OutputMultiObject(File(exists=True), desc="template maps of GM, WM, CSF")
    std2anat_xfm = File(exists=True, desc="ITK composite, template to image")


class FindAnatomy(SimpleInterface):
    """Brain, bias field and template tissues of one image, quickly."""

    input_spec = _FindAnatomyInputSpec
    output_spec = _FindAnatomyOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        _ = load_template(2).tpms

    def _run_interface(self, runtime: Any) -> Any:
        volume = to_canonical(load_volume(self.inputs.in_file))
        found = quick_anatomy(
            volume,
            contrast=self.inputs.contrast,
            sloppy=self.inputs.sloppy,
            seed=self.inputs.seed,
        )
        out = Path(runtime.cwd)
        images = {
            "image": volume.data,
            "preproc": np.asarray(np.maximum(volume.data, 0) / found.bias, dtype=np.float32),
            "bias_field": found.bias,
        }
        for name, data in images.items():
            self._results[name] = save_volume(volume.with_data(data), out / f"{name}.nii")
        mask = volume.with_data(found.mask.astype(np.float32))
        self._results["brain_mask"] = save_volume(mask, out / "brain_mask.nii", dtype=np.uint8)
        self._results["brain_score"] = str(write_score(found.score, out / "brain_score.json"))
        self._results["priors"] = [
            save_volume(volume.with_data(prior), out / f"prior_{tissue}.nii")
            for tissue, prior in zip(TISSUES, found.priors, strict=True)
        ]
        self._results["std2anat_xfm"] = str(
            write_itk_composite(found.std2anat, out / "std2anat.h5")
        )
        return runtime


class _SegmentQuicklyInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected image")
    in_mask = File(exists=True, mandatory=True, desc="brain mask")
    priors = InputMultiObject(
        File(exists=True), mandatory=True, minlen=3, maxlen=3, desc="template GM, WM, CSF"
    )
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="contrast of the image")
    sloppy = traits.Bool(False, usedefault=True, desc="fewer iterations")


class _SegmentQuicklyOutputSpec(TraitedSpec):
    dseg = File(exists=True, desc="1 GM, 2 WM, 3 CSF")
    tpms = OutputMultiObject(File(exists=True), desc="probabilities of GM, WM, CSF")
    report = File(exists=True, desc="JSON: contrast and fractions of the tissues")


class SegmentQuickly(SimpleInterface):
    """Segmentation of a brain of either contrast, with given priors."""

    input_spec = _SegmentQuicklyInputSpec
    output_spec = _SegmentQuicklyOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, volume, "brain mask")
        priors = np.stack([load_map(path).data for path in self.inputs.priors])
        found, report = segment_quickly(
            volume, mask, priors, contrast=self.inputs.contrast, sloppy=self.inputs.sloppy
        )
        out = Path(runtime.cwd)
        write_json(out / "tissues.json", report)
        self._results["report"] = str(out / "tissues.json")
        labels = volume.with_data(found.dseg.astype(np.float32))
        self._results["dseg"] = save_volume(labels, out / "dseg.nii", dtype=np.uint8)
        self._results["tpms"] = [
            save_volume(volume.with_data(tpm), out / f"label-{tissue}_probseg.nii")
            for tissue, tpm in zip(TISSUES, found.tpms, strict=True)
        ]
        return runtime
