"""Image quality metrics of a T1w or T2w image, named as in MRIQC.

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
    isdefined,
    traits,
)

from neuroferry.bids.metadata import read_json
from neuroferry.interfaces.image.images import FloatArray, save_nifti
from neuroferry.interfaces.qc import background, regions
from neuroferry.interfaces.qc import whole_image as whole
from neuroferry.interfaces.qc.document import IqmInputSpec, write_iqms
from neuroferry.interfaces.qc.head_regions import (
    REGION_LABELS,
    Regions,
    find_regions,
    read_regions,
)
from neuroferry.interfaces.qc.maps import AnatMaps, gather_maps
from neuroferry.templates import TEMPLATE_SPACE, load_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

AIR_METRICS = ("cnr", "fber", "qi_1", "qi_2", "snrd_", "summary_bg_")
"""Name prefixes of the metrics that need air with noise around the head."""

SMALL_AIR_VOXELS = 500_000
NO_AIR = (
    "The background contains no noise to measure: the image is skull-stripped or was set to "
    "zero around the head."
)


@dataclass(frozen=True)
class AnatMetrics:
    """Metrics of one T1w or T2w image.

    Attributes
    ----------
    values : dict of str to float
        ``nan`` where a metric is not defined for this image.
    undefined : dict of str to str
        Reason for each of those.
    labels : ndarray of uint8, shape (I, J, K)
        Regions, :data:`neuroferry.interfaces.qc.head_regions.REGION_LABELS`.
    """

    values: dict[str, float]
    undefined: dict[str, str]
    labels: NDArray[np.uint8]


def compute_metrics(maps: AnatMaps, found: Regions | None = None) -> AnatMetrics:
    """Compute all metrics of a T1w or T2w image.

    Smoothness and QI2 are measured on the acquired intensities, everything else on the
    bias-corrected ones, scaled so that the median of white matter is 1000.

    Parameters
    ----------
    maps : AnatMaps
        The image and its maps.
    found : Regions, optional
        Regions around the head; found here otherwise.

    Returns
    -------
    AnatMetrics
    """
    erode = regions.should_erode(maps.spacing)
    if found is None:
        found = find_regions(maps.t1w, maps.corrected, maps.brain, maps.above_face, maps.spacing)
    frame, head, hat, air = found.frame, found.head, found.hat, found.air

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
    values["qi_1"] = background.qi_1(found.artifacts, air)
    values["qi_2"] = background.qi_2(maps.t1w, hat)
    return AnatMetrics(values, explain_undefined(values), found.labels())


def _tissue_metrics(
    maps: AnatMaps, image: FloatArray, erode: bool
) -> tuple[dict[str, float], dict[str, regions.RegionSummary]]:
    """Compute the metrics of each tissue map and summarise the intensities in it."""
    outside = maps.t1w.size - image.size
    summaries, values, volumes = {}, {}, {}
    for name in regions.TISSUES:
        probability = maps.tpms[name]
        core = regions.tissue_core(probability, erode=erode)
        if name == "wm" and maps.bright_wm:
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


def list_doubts(checks: Sequence[str | Path]) -> list[str]:
    """Collect the reasons of those reports whose verdict is not good."""
    reports = [read_json(Path(path)) for path in checks]
    return [
        str(reason)
        for report in reports
        if report.get("verdict") != "good"
        for reason in report.get("reasons", ())
    ]


class _AnatIQMsInputSpec(IqmInputSpec):
    t1w = File(exists=True, mandatory=True, desc="one T1w image in canonical orientation")
    run2ref_xfm = File(
        exists=True,
        desc="ITK .txt from the image to the reference; by default, the image is the reference",
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
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="contrast of the image")
    template_tpms = InputMultiObject(
        File(exists=True),
        minlen=3,
        maxlen=3,
        desc="template GM, WM, CSF on the image, resampled already",
    )
    found_regions = File(exists=True, desc="regions around the head, found already")
    brain_score = File(exists=True, desc="confidence in the brain mask, JSON")
    tissue_report = File(exists=True, desc="contrast and fractions of the tissues, JSON")


class _AnatIQMsOutputSpec(TraitedSpec):
    iqms = File(exists=True, desc="JSON with the metrics")
    regions = File(exists=True, desc="label image: 1 head, 2 air, 3 artefact, 4 empty frame")


class AnatIQMs(SimpleInterface):
    """Image quality metrics of one T1w or T2w image."""

    input_spec = _AnatIQMsInputSpec
    output_spec = _AnatIQMsOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        if not isdefined(self.inputs.template_tpms):
            _ = load_template(self.inputs.template_resolution).tpms

    def _run_interface(self, runtime: Any) -> Any:
        resolution, contrast = self.inputs.template_resolution, self.inputs.contrast
        run2ref = self.inputs.run2ref_xfm
        given, regions_file = self.inputs.template_tpms, self.inputs.found_regions
        maps, affine = gather_maps(
            t1w=self.inputs.t1w,
            run2ref_xfm=run2ref if isdefined(run2ref) else None,
            bias_field=self.inputs.bias_field,
            brain_mask=self.inputs.brain_mask,
            dseg=self.inputs.dseg,
            tpms=self.inputs.tpms,
            std2anat_xfm=self.inputs.std2anat_xfm,
            template=load_template(resolution),
            template_tpms=given if isdefined(given) else None,
            bright_wm=contrast == "T1w",
        )
        found = read_regions(regions_file) if isdefined(regions_file) else None
        metrics = compute_metrics(maps, found)
        reports = (self.inputs.brain_score, self.inputs.tissue_report)
        checks = [path for path in reports if isdefined(path)]
        warnings: dict[str, Any] = dict(mask_warnings(metrics))
        if doubts := list_doubts(checks):
            warnings["doubts"] = doubts
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
            modality=contrast,
            settings=settings,
            warnings=warnings,
        )
        self._results["iqms"] = str(iqms)
        self._results["regions"] = str(
            save_nifti(metrics.labels, affine, cwd / "regions.nii.gz", dtype=np.uint8)
        )
        return runtime
