"""Image quality metrics of a T1w image, named as in MRIQC.

A metric that is undefined for an image (such as noise in the air of a skull-stripped one) is
null, with the reason beside it; no placeholder value is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import (
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neuroferry.interfaces.image.images import FloatArray, save_nifti
from neuroferry.interfaces.qc import background, regions
from neuroferry.interfaces.qc import whole_image as whole
from neuroferry.interfaces.qc.document import IqmInputSpec, write_iqms
from neuroferry.interfaces.qc.maps import AnatMaps, gather_maps
from neuroferry.templates import TEMPLATE_SPACE, load_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

AIR_METRICS = ("cnr", "fber", "qi_1", "qi_2", "snrd_", "summary_bg_")
"""Name prefixes of the metrics that need air with noise around the head."""

SMALL_AIR_VOXELS = 500_000
MIN_AIR_VOXELS = 1000
NO_AIR = (
    "The background contains no noise to measure: the image is skull-stripped or was set to "
    "zero around the head."
)

REGION_LABELS = {"head": 1, "air": 2, "artifact": 3, "frame": 4}
"""Labels of the image that :class:`AnatIQMs` writes beside the metrics."""


@dataclass(frozen=True)
class AnatMetrics:
    """Metrics of one T1w image.

    Attributes
    ----------
    values : dict of str to float
        ``nan`` where a metric is not defined for this image.
    undefined : dict of str to str
        Reason for each of those.
    labels : ndarray of uint8, shape (I, J, K)
        Regions, :data:`REGION_LABELS`.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    labels: NDArray[np.uint8]


def compute_metrics(maps: AnatMaps) -> AnatMetrics:
    """Compute all metrics of a T1w image.

    Smoothness and QI2 are measured on the acquired intensities, everything else on the
    bias-corrected ones, scaled so that the median of white matter is 1000.

    Parameters
    ----------
    maps : AnatMaps
        The image and its maps.

    Returns
    -------
    AnatMetrics
    """
    erode = regions.should_erode(maps.spacing)
    frame = background.rotation_frame(maps.t1w)
    head = background.head_mask(maps.corrected, maps.brain, maps.spacing)
    hat = maps.above_face & ~head & ~frame
    if np.count_nonzero(maps.t1w[hat] > 0) < MIN_AIR_VOXELS:
        hat = np.zeros_like(hat)
    artifacts = background.artifact_mask(maps.t1w, hat, head, maps.spacing)
    air = hat & ~artifacts

    part = maps.corrected[maps.box]
    image = maps.corrected * np.float32(
        regions.harmonization_factor(part, maps.tpms["wm"], erode=erode)
    )
    values, summaries = _tissue_metrics(maps, image[maps.box], erode)
    summaries["bg"] = regions.summarize_region(
        image, regions.tissue_core(air.astype(np.float32), erode=erode)
    )
    for name, summary in summaries.items():
        values |= summary.as_metrics(name)
    values |= regions.contrast_metrics(summaries)
    values |= _geometry_metrics(maps)
    values["efc"] = whole.efc(image, frame)
    outside = ~head & ~frame if hat.any() else hat
    values["fber"] = whole.fber(image, head, outside)
    values["wm2max"] = whole.wm2max(image, summaries["wm"].median)
    values["inu_med"], values["inu_range"] = whole.inu_summary(maps.bias_field, maps.dseg > 0)
    values["qi_1"] = background.qi_1(artifacts, air)
    values["qi_2"] = background.qi_2(maps.t1w, hat)
    labels = np.zeros(frame.shape, dtype=np.uint8)
    for name, mask in (("frame", frame), ("head", head), ("air", air), ("artifact", artifacts)):
        labels[mask] = REGION_LABELS[name]
    return AnatMetrics(values, explain_undefined(values), labels)


def _tissue_metrics(
    maps: AnatMaps, image: FloatArray, erode: bool
) -> tuple[dict[str, float], dict[str, regions.RegionSummary]]:
    """Compute the metrics of each tissue map and summarise the intensities in it."""
    outside = maps.t1w.size - image.size
    summaries, values, volumes = {}, {}, {}
    for name in regions.TISSUES:
        probability = maps.tpms[name]
        core = regions.tissue_core(probability, erode=erode)
        if name == "wm":
            core = regions.without_bright_outliers(image, core)
        summaries[name] = regions.summarize_region(image, core)
        volumes[name] = float(probability.sum(dtype=np.float64))
        values[f"rpve_{name}"] = whole.rpve(probability, outside=outside)
        values[f"tpm_overlap_{name}"] = whole.tpm_overlap(probability, maps.template_tpms[name])
    for name, share in whole.volume_fractions(volumes).items():
        values[f"icvs_{name}"] = share
    return values, summaries


def _geometry_metrics(maps: AnatMaps) -> dict[str, float]:
    """Compute size, spacing and smoothness along the three axes."""
    widths = whole.fwhm(maps.t1w, maps.brain)
    values: dict[str, float] = {"fwhm_avg": sum(widths) / 3.0}
    for axis, size, spacing, width in zip(
        "xyz", maps.t1w.shape, maps.spacing, widths, strict=True
    ):
        values[f"size_{axis}"] = size
        values[f"spacing_{axis}"] = spacing
        values[f"fwhm_{axis}"] = width
    return values


def explain_undefined(values: Mapping[str, float]) -> dict[str, str]:
    """Explain in a sentence why each ``nan`` metric is undefined.

    Parameters
    ----------
    values : mapping of str to float
        Metrics, including ``summary_*_n``.

    Returns
    -------
    dict of str to str
        For the metrics that are not finite.

    Examples
    --------
    >>> explain_undefined({"qi_1": float("nan"), "efc": 0.5, "summary_bg_n": 0})["qi_1"][:14]
    'The background'
    """
    few = [name for name in regions.TISSUES if values.get(f"summary_{name}_n", 2) < 2]
    reasons = {}
    for metric, value in values.items():
        if math.isfinite(value):
            continue
        if metric.startswith(AIR_METRICS) and values.get("summary_bg_n", 0) < 2:
            reasons[metric] = NO_AIR
        elif few:
            reasons[metric] = f"No voxel is certainly {' or '.join(few)}; check the segmentation."
        else:
            reasons[metric] = "The image is constant in the region of this metric."
    return reasons


def mask_warnings(metrics: AnatMetrics) -> dict[str, bool]:
    """Say whether the regions around the head are unusual, under the names of MRIQC."""
    air = np.count_nonzero(metrics.labels == REGION_LABELS["air"])
    frame = np.count_nonzero(metrics.labels == REGION_LABELS["frame"])
    return {"large_rot_frame": bool(frame > 500), "small_air_mask": bool(air < SMALL_AIR_VOXELS)}


class _AnatIQMsInputSpec(IqmInputSpec):
    t1w = File(exists=True, mandatory=True, desc="one T1w image in canonical orientation")
    run2ref_xfm = File(
        exists=True, mandatory=True, desc="ITK .txt from the image to the reference"
    )
    bias_field = File(exists=True, mandatory=True, desc="multiplicative field on the reference")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on the reference")
    dseg = File(exists=True, mandatory=True, desc="1 GM, 2 WM, 3 CSF on the reference")
    tpms = InputMultiObject(
        File(exists=True), mandatory=True, minlen=3, maxlen=3, desc="GM, WM, CSF probabilities"
    )
    std2anat_xfm = File(
        exists=True, mandatory=True, desc="ITK composite from template to reference"
    )
    template_resolution = traits.Range(1, 4, 1, usedefault=True, desc="template voxel size, mm")


class _AnatIQMsOutputSpec(TraitedSpec):
    iqms = File(exists=True, desc="JSON with the metrics")
    regions = File(exists=True, desc="label image: 1 head, 2 air, 3 artefact, 4 empty frame")


class AnatIQMs(SimpleInterface):
    """Image quality metrics of one T1w image."""

    input_spec = _AnatIQMsInputSpec
    output_spec = _AnatIQMsOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        _ = load_template(self.inputs.template_resolution).tpms

    def _run_interface(self, runtime: Any) -> Any:
        resolution = self.inputs.template_resolution
        maps, affine = gather_maps(
            t1w=self.inputs.t1w,
            run2ref_xfm=self.inputs.run2ref_xfm,
            bias_field=self.inputs.bias_field,
            brain_mask=self.inputs.brain_mask,
            dseg=self.inputs.dseg,
            tpms=self.inputs.tpms,
            std2anat_xfm=self.inputs.std2anat_xfm,
            template=load_template(resolution),
        )
        metrics = compute_metrics(maps)
        settings = {
            "template": TEMPLATE_SPACE,
            "template_resolution": resolution,
            "white_matter_level": regions.WM_LEVEL,
        }
        cwd = Path(runtime.cwd)
        iqms = write_iqms(
            cwd / "iqms.json",
            metrics.values,
            metrics.undefined,
            inputs=self.inputs,
            modality="T1w",
            settings=settings,
            warnings=mask_warnings(metrics),
        )
        self._results["iqms"] = str(iqms)
        self._results["regions"] = str(
            save_nifti(metrics.labels, affine, cwd / "regions.nii.gz", dtype=np.uint8)
        )
        return runtime
