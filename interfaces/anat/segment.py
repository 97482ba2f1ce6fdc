"""Segmentation of a T1w brain into grey matter, white matter and cerebrospinal fluid.

A mixture of Gaussians, fitted by expectation-maximisation with two kinds of priors: the
template's tissue maps, resampled onto the head, and a Markov random field that makes
neighbours agree (mean field) [1]_ [2]_. In addition to the three tissues there are two classes
of mixed voxels, grey with white matter and grey matter with fluid [3]_: without them the
thin fluid over the cortex is fitted as a separate tissue, too bright and too wide.

References
----------
.. [1] Van Leemput K et al. (1999). Automated model-based tissue classification of MR
   images of the brain. IEEE Trans Med Imaging 18(10):897-908. doi:10.1109/42.811270
.. [2] Zhang Y, Brady M, Smith S (2001). Segmentation of brain MR images through a hidden
   Markov random field model. IEEE Trans Med Imaging 20(1):45-57. doi:10.1109/42.906424
.. [3] Tohka J, Zijdenbos A, Evans A (2004). Fast and robust parameter estimation for
   statistical partial volume models in brain MRI. NeuroImage 23(1):84-97.
   doi:10.1016/j.neuroimage.2004.05.007
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.image.images import (
    FloatArray,
    Volume,
    crop_to,
    load_mask,
    load_volume,
    save_volume,
)
from neuroferry.interfaces.image.transforms import apply_transforms, read_transform
from neuroferry.templates import load_template

TISSUES = ("GM", "WM", "CSF")
MIN_BRAIN_VOXELS = 500
GM, WM, CSF = range(3)
MIXED = ((GM, WM), (GM, CSF))
SURE = 0.9
BRIGHT_SIGMAS = 5.0
"""Robust standard deviations above white matter from which a voxel is vessel or fat."""


@dataclass(frozen=True)
class MixtureSettings:
    """Settings of the mixture model.

    Attributes
    ----------
    prior_weight : float
        Exponent of the template's maps.
    field_weight : float
        Log-odds added to a tissue when all six neighbours belong to it.
    iterations : int
        Maximum number of iterations of expectation-maximisation.
    tolerance : float
        The fit ends when no class mean changes by more, as a fraction of the intensity range.
    prior_floor : float
        Minimum prior probability of each class, in case the template is misaligned.
    """

    prior_weight: float = 0.5
    field_weight: float = 3.0
    iterations: int = 20
    tolerance: float = 1e-3
    prior_floor: float = 0.01


SLOPPY_MIXTURE = MixtureSettings(iterations=10, tolerance=5e-3)


@dataclass(frozen=True)
class Segmentation:
    """Tissue segmentation of a brain.

    Attributes
    ----------
    dseg : ndarray of uint8, shape (I, J, K)
        0 outside the brain, 1 GM, 2 WM, 3 CSF.
    tpms : tuple of ndarray of float32, shape (I, J, K)
        Expected fraction of GM, WM and CSF in each voxel. They sum to one inside the brain, and
        to zero in voxels that are far brighter than white matter: vessels and fat.
    means, deviations : ndarray of float64, shape (3,)
        Intensities of the pure tissues.
    """

    dseg: NDArray[np.uint8]
    tpms: tuple[FloatArray, FloatArray, FloatArray]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]


def neighbour_support(probabilities: FloatArray, spacing: NDArray[np.float64]) -> FloatArray:
    """Compute the mean probability of each class over the six neighbours, weighted by distance.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (3, I, J, K)
        Zero outside the brain.
    spacing : ndarray of float64, shape (3,)
        Voxel sizes, mm.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
    """
    support = np.zeros_like(probabilities)
    weights = 1.0 / spacing
    weights = weights / (2 * weights.sum())
    for axis in range(3):
        view = np.moveaxis(support, axis + 1, 0)
        source = np.moveaxis(probabilities, axis + 1, 0)
        view[1:] += np.float32(weights[axis]) * source[:-1]
        view[:-1] += np.float32(weights[axis]) * source[1:]
    return support


def segment_tissues(
    volume: Volume,
    mask: NDArray[np.bool_],
    priors: FloatArray,
    settings: MixtureSettings | None = None,
) -> Segmentation:
    """Segment a brain into GM, WM and CSF.

    Parameters
    ----------
    volume : Volume
        Bias-corrected T1w image.
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    priors : ndarray of float32, shape (3, I, J, K)
        Template maps of GM, WM and CSF on the head's grid.
    settings : MixtureSettings, optional
        Weights and iterations.

    Returns
    -------
    Segmentation

    Raises
    ------
    InputError
        If the brain is too small, or its intensities do not separate tissues.
    """
    settings = settings or MixtureSettings()
    if mask.sum() < MIN_BRAIN_VOXELS:
        raise InputError(
            f"The brain mask has {int(mask.sum())} voxels; segmentation needs at least "
            f"{MIN_BRAIN_VOXELS}."
        )
    box, _ = crop_to(mask, volume.affine, 2.0)
    inside = mask[box]
    values = volume.data[box][inside]
    prior = np.maximum(priors[(slice(None), *box)][:, inside], 0)
    prior += np.float32(settings.prior_floor)
    prior /= prior.sum(axis=0)
    probabilities, means, deviations = _fit(values, prior, inside, volume.zooms, settings)
    full = np.zeros((3, *mask.shape), dtype=np.float32)
    full[(slice(None), *box)] = probabilities
    dseg = np.zeros(mask.shape, dtype=np.uint8)
    dseg[box] = np.where(inside, probabilities.argmax(axis=0) + 1, 0)
    full[:, mask & (volume.data > bright_end(values, probabilities[WM][inside]))] = 0.0
    return Segmentation(dseg, (full[0], full[1], full[2]), means, deviations)


def bright_end(values: FloatArray, white: FloatArray) -> float:
    """Find the intensity above which a voxel is no white matter.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        Intensities of the brain.
    white : ndarray of float32, shape (N,)
        Fraction of white matter.

    Returns
    -------
    float
        Five robust standard deviations above the median; infinite without white matter.
    """
    sure = values[white > SURE]
    if not sure.size:
        return float("inf")
    median = float(np.median(sure))
    return median + BRIGHT_SIGMAS * 1.4826 * float(np.median(np.abs(sure - median)))


def _fit(
    values: FloatArray,
    prior: FloatArray,
    inside: NDArray[np.bool_],
    spacing: NDArray[np.float64],
    settings: MixtureSettings,
) -> tuple[FloatArray, NDArray[np.float64], NDArray[np.float64]]:
    """Fit the mixture by expectation-maximisation; tissue fractions on the box of the mask."""
    low, high = np.percentile(values, (1, 99))
    extent = float(high - low)
    if extent <= 0:
        raise InputError("The brain has uniform intensity, so tissues cannot be segmented.")
    means, deviations = _start(values, prior, extent)
    # A thousandth of vessels and fat would double the width of white matter.
    values = np.minimum(values, np.float32(means[WM] + BRIGHT_SIGMAS * deviations[WM]))
    log_prior = np.float32(settings.prior_weight) * np.log(prior)
    shares = np.zeros((3, *inside.shape), dtype=np.float32)
    shares[:, inside] = prior
    for _ in range(settings.iterations):
        support = neighbour_support(shares, spacing)[:, inside]
        log_odds = log_prior + np.float32(settings.field_weight) * support
        posterior = expect(values, log_odds, means, deviations)
        shares[:, inside] = tissue_shares(values, posterior, means)
        new, spread = _moments(values, posterior[:3])
        moved = float(np.abs(new - means).max()) / extent
        means, deviations = new, np.maximum(spread, 0.01 * extent)
        if moved < settings.tolerance:
            break
    return shares, means, deviations


def _moments(
    values: FloatArray, posterior: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute weighted means and standard deviations in double precision."""
    total = np.maximum(posterior.sum(axis=1, dtype=np.float64), 1.0)
    means, spreads = np.empty(len(total)), np.empty(len(total))
    for tissue, weights in enumerate(posterior):
        means[tissue] = np.sum(weights * values, dtype=np.float64) / total[tissue]
        apart = values - np.float32(means[tissue])
        spreads[tissue] = np.sqrt(np.sum(weights * apart**2, dtype=np.float64) / total[tissue])
    return means, spreads


def expect(
    values: FloatArray,
    log_odds: FloatArray,
    means: NDArray[np.float64],
    deviations: NDArray[np.float64],
) -> FloatArray:
    """Compute the probability of each class of voxel.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        Intensities.
    log_odds : ndarray of float32, shape (3, N)
        Prior log-odds of each tissue.
    means, deviations : ndarray of float64, shape (3,)
        Intensities of the pure tissues.

    Returns
    -------
    ndarray of float32, shape (5, N)
        GM, WM, CSF, GM mixed with WM, GM mixed with CSF. The intensity of a mixed voxel lies
        anywhere between its two tissues: a Gaussian with the variance of a uniform mixture.
    """
    centres, widths, before = list(means), list(deviations), list(log_odds)
    for one, other in MIXED:
        centres.append((means[one] + means[other]) / 2)
        noise = (deviations[one] ** 2 + deviations[other] ** 2) / 2
        widths.append(np.sqrt(noise + (means[one] - means[other]) ** 2 / 12))
        before.append((log_odds[one] + log_odds[other]) / 2)
    score = np.empty((len(centres), values.size), dtype=np.float32)
    for kind, (centre, width) in enumerate(zip(centres, widths, strict=True)):
        score[kind] = ((values - np.float32(centre)) / np.float32(width)) ** 2
        score[kind] *= np.float32(-0.5)
        score[kind] += before[kind] - np.float32(np.log(width))
    score -= score.max(axis=0)
    np.exp(score, out=score)
    score /= score.sum(axis=0)
    return score


def tissue_shares(
    values: FloatArray, posterior: FloatArray, means: NDArray[np.float64]
) -> FloatArray:
    """Divide mixed voxels between their two tissues by intensity.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        Intensities.
    posterior : ndarray of float32, shape (5, N)
        From :func:`expect`.
    means : ndarray of float64, shape (3,)
        Intensities of the pure tissues.

    Returns
    -------
    ndarray of float32, shape (3, N)
        Fractions of GM, WM and CSF; they sum to one.

    Examples
    --------
    >>> mixed = np.array([[0], [0], [0], [0], [1]], dtype=np.float32)
    >>> half_way = np.array([45.0], dtype=np.float32)
    >>> tissue_shares(half_way, mixed, np.array([60.0, 90.0, 30.0])).ravel().tolist()
    [0.5, 0.0, 0.5]
    """
    shares = posterior[:3].copy()
    for (one, other), weight in zip(MIXED, posterior[3:], strict=True):
        gap = float(means[one] - means[other])
        part = (values - np.float32(means[other])) / np.float32(gap if gap else 1.0)
        part = np.clip(part, 0.0, 1.0) * weight
        shares[one] += part
        shares[other] += weight - part
    return shares


def _start(
    values: FloatArray, prior: FloatArray, extent: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Initialise means (by medians) and deviations where the template is surest of a tissue."""
    means, deviations = np.empty(3), np.empty(3)
    for tissue in range(3):
        certain = prior[tissue] >= np.quantile(prior[tissue], 0.9)
        sure = values[certain]
        means[tissue] = np.median(sure)
        deviations[tissue] = max(1.4826 * np.median(np.abs(sure - means[tissue])), 0.02 * extent)
    gm, wm, csf = means
    if not csf < gm < wm:
        means[:] = np.quantile(values, (0.45, 0.85, 0.08))
        deviations[:] = 0.12 * extent
    return means, deviations


def warp_priors(
    volume: Volume, mask: NDArray[np.bool_], xfm: str | Path, *, sloppy: bool = False
) -> FloatArray:
    """Resample the template's tissue maps onto a head.

    Parameters
    ----------
    volume : Volume
        Head.
    mask : ndarray of bool, shape (I, J, K)
        Brain mask; the maps are computed only there.
    xfm : path
        ITK transform from template to head.
    sloppy : bool
        Use the template at 2 mm.

    Returns
    -------
    ndarray of float32, shape (3, I, J, K)
        Zero outside the box of the brain.
    """
    template = load_template(2 if sloppy else 1)
    transforms = read_transform(xfm)
    box, affine = crop_to(mask, volume.affine, 2.0)
    shape = tuple(s.stop - s.start for s in box)
    priors = np.zeros((3, *mask.shape), dtype=np.float32)
    for tissue, probability in enumerate(template.tpms):
        moved = apply_transforms(
            Volume(probability, template.affine),
            transforms,
            (shape[0], shape[1], shape[2]),
            affine,
        )
        priors[(tissue, *box)] = moved.data
    return priors


LEAST_CONTRAST = 0.5
"""Difference of white and grey matter in robust standard deviations below which they are not told
apart; 1.5 to 4 in usual T1w images."""
PLAUSIBLE = {"GM": (0.3, 0.7), "WM": (0.15, 0.55), "CSF": (0.02, 0.4)}
"""Plausible fractions of the brain, children and the old included."""


def tissue_report(
    volume: Volume, mask: NDArray[np.bool_], priors: FloatArray, found: Segmentation
) -> dict[str, Any]:
    """Judge whether an image has the contrast of a T1w image, and the tissues of a brain.

    Parameters
    ----------
    volume : Volume
        Segmented image.
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    priors : ndarray of float32, shape (3, I, J, K)
        Template maps of GM, WM and CSF on its grid.
    found : Segmentation
        The segmentation.

    Returns
    -------
    dict
        ``MedianIntensity`` of each tissue where the template is surest of it; ``Contrast`` of
        white and grey matter there, in robust standard deviations; ``Fractions`` of the brain;
        ``verdict`` and ``reasons``.
    """
    values = volume.data[mask]
    medians, spreads = [], []
    for prior in priors[:, mask]:
        sure = values[prior >= np.quantile(prior, 0.9)]
        medians.append(float(np.median(sure)))
        spreads.append(1.4826 * float(np.median(np.abs(sure - medians[-1]))))
    noise = max(float(np.hypot(spreads[GM], spreads[WM])) / np.sqrt(2), 1e-6)
    contrast = (medians[WM] - medians[GM]) / noise
    shares = [float(tpm[mask].mean(dtype=np.float64)) for tpm in found.tpms]
    reasons = []
    if contrast < LEAST_CONTRAST:
        reasons.append(
            f"White matter is not brighter than grey matter ({medians[WM]:.4g} and"
            f" {medians[GM]:.4g}, contrast {contrast:.1f}): the image may be no T1w image, or"
            " misaligned with the template."
        )
    for tissue, share in zip(TISSUES, shares, strict=True):
        low, high = PLAUSIBLE[tissue]
        if not low <= share <= high:
            reasons.append(
                f"{100 * share:.0f}% of the brain is {tissue}, outside of {100 * low:.0f} to"
                f" {100 * high:.0f}%."
            )
    return {
        "MedianIntensity": {t: round(m, 2) for t, m in zip(TISSUES, medians, strict=True)},
        "Contrast": round(contrast, 2),
        "Fractions": {t: round(s, 4) for t, s in zip(TISSUES, shares, strict=True)},
        "verdict": "look" if reasons else "good",
        "reasons": reasons,
    }


class _SegmentTissuesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    in_mask = File(exists=True, mandatory=True, desc="brain mask")
    std2anat_xfm = File(exists=True, mandatory=True, desc="ITK transform, template to head")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")


class _SegmentTissuesOutputSpec(TraitedSpec):
    dseg = File(exists=True, desc="1 GM, 2 WM, 3 CSF")
    tpms = OutputMultiObject(File(exists=True), desc="probabilities of GM, WM, CSF")
    report = File(exists=True, desc="JSON: contrast and fractions of the tissues")


class SegmentTissues(SimpleInterface):
    """Segmentation of a brain into GM, WM and CSF with template priors."""

    input_spec = _SegmentTissuesInputSpec
    output_spec = _SegmentTissuesOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        _ = load_template(2 if self.inputs.sloppy else 1).tpms

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, volume, "brain mask")
        sloppy = bool(self.inputs.sloppy)
        priors = warp_priors(volume, mask, self.inputs.std2anat_xfm, sloppy=sloppy)
        found = segment_tissues(
            volume, mask, priors, SLOPPY_MIXTURE if sloppy else MixtureSettings()
        )
        out = Path(runtime.cwd)
        write_json(out / "tissues.json", tissue_report(volume, mask, priors, found))
        self._results["report"] = str(out / "tissues.json")
        labels = volume.with_data(found.dseg.astype(np.float32))
        self._results["dseg"] = save_volume(labels, out / "dseg.nii.gz", dtype=np.uint8)
        self._results["tpms"] = [
            save_volume(volume.with_data(tpm), out / f"label-{tissue}_probseg.nii.gz")
            for tissue, tpm in zip(TISSUES, found.tpms, strict=True)
        ]
        return runtime
