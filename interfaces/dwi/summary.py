"""Summary of the steps of a DWI run for the participant's report."""

from __future__ import annotations

from collections.abc import Mapping
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
from neuroferry.files import write_json
from neuroferry.interfaces.epi.mask_report import describe_mask
from neuroferry.interfaces.image.images import FloatArray, load_map, load_mask, load_volume

_PARTS = {
    "gradient_report": "Gradients",
    "orientation_report": "Orientation",
    "slices_report": "SliceReplacement",
    "sdc_report": "DistortionCorrection",
    "coreg_report": "Coregistration",
    "tensor_report": "Tensor",
    "kurtosis_report": "Kurtosis",
    "csd_report": "FibreOrientations",
}


def signal_to_noise(
    reference: FloatArray, noise: FloatArray, brain: NDArray[np.bool_]
) -> float | None:
    """Compute the median over the brain of the b0 signal divided by the noise.

    Parameters
    ----------
    reference, noise : ndarray of float32, shape (I, J, K)
        Mean b0 image; standard deviation of the noise.
    brain : ndarray of bool, shape (I, J, K)
        Voxels to use.

    Returns
    -------
    float or None
        None if no voxel has a noise estimate.

    Examples
    --------
    >>> ones = np.ones((2, 2, 2), np.float32)
    >>> signal_to_noise(30 * ones, 2 * ones, ones > 0)
    15.0
    """
    there = brain & (noise > 0)
    if not there.any():
        return None
    return round(float(np.median(reference[there] / noise[there])), 2)


def summarise_eddy(report: Mapping[str, Any], n_slices: int) -> dict[str, Any]:
    """Select the report's values of motion, eddy currents and signal dropout.

    Examples
    --------
    >>> found = summarise_eddy({"NumberOfVolumes": 10, "OutlierSlices": 4}, 20)
    >>> found["OutlierSlices"]
    {'Count': 4, 'Fraction': 0.02}
    """
    volumes, odd = int(report["NumberOfVolumes"]), int(report["OutlierSlices"])
    return {
        **report,
        "OutlierSlices": {"Count": odd, "Fraction": round(odd / (volumes * n_slices), 6)},
    }


def count_bundles(report: Path) -> dict[str, int]:
    """Read the number of streamlines of each bundle, keyed by its name."""
    return {bundle["Name"]: bundle["Kept"] for bundle in read_json(report)["Bundles"]}


class _SummariseDwiInputSpec(BaseInterfaceInputSpec):
    eddy_report = File(exists=True, mandatory=True, desc="of motion and eddy currents")
    n_slices = traits.Range(low=1, mandatory=True, desc="of a volume")
    models = traits.List(traits.Str, desc="that were computed")
    models_left_out = traits.Dict(traits.Str, traits.Str, desc="models and why they were not")
    spaces = traits.List(
        traits.Str, desc="spaces besides native space that the series is written in"
    )
    dwi_ref = File(exists=True, desc="mean b0 image")
    noise_map = File(exists=True, desc="of the noise, its standard deviation")
    dwi_mask = File(exists=True, desc="brain")
    bundles_report = File(exists=True, desc="of the bundles")
    gradient_report = File(exists=True, desc="of the gradients")
    orientation_report = File(exists=True, desc="of their axes")
    slices_report = File(exists=True, desc="of slices that replaced others")
    sdc_report = File(exists=True, desc="of the correction of distortion")
    coreg_report = File(exists=True, desc="of the alignment with the T1w image")
    tensor_report = File(exists=True, desc="of the tensors")
    kurtosis_report = File(exists=True, desc="of the kurtosis")
    csd_report = File(exists=True, desc="of the fibre orientations")


class _SummariseDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="JSON object")


class SummariseDwi(SimpleInterface):
    """Collect the reports of the steps of a DWI run."""

    input_spec = _SummariseDwiInputSpec
    output_spec = _SummariseDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        content = summarise_eddy(read_json(Path(inputs.eddy_report)), inputs.n_slices)
        for name, key in _PARTS.items():
            path = getattr(inputs, name)
            if isdefined(path):
                content[key] = read_json(Path(path))
        content["Models"] = list(inputs.models) if isdefined(inputs.models) else []
        if isdefined(inputs.models_left_out):
            content["ModelsLeftOut"] = dict(inputs.models_left_out)
        if isdefined(inputs.spaces):
            content["Spaces"] = list(inputs.spaces)
        if isdefined(inputs.bundles_report):
            content["Bundles"] = count_bundles(Path(inputs.bundles_report))
        if isdefined(inputs.dwi_mask):
            mask = load_map(inputs.dwi_mask)
            content["BrainMask"] = describe_mask(mask.data > 0, mask.affine)
        if all(isdefined(path) for path in (inputs.noise_map, inputs.dwi_ref, inputs.dwi_mask)):
            reference = load_volume(inputs.dwi_ref)
            brain = load_mask(inputs.dwi_mask, reference, "brain mask")
            # an unused map holds a single value, which no image can
            snr = signal_to_noise(reference.data, load_map(inputs.noise_map).data, brain)
            if snr is not None:
                content["SNR"] = snr
        out = Path(runtime.cwd) / "summary.json"
        write_json(out, content)
        self._results["out_file"] = str(out)
        return runtime


class _SummariseJoinedDwiInputSpec(BaseInterfaceInputSpec):
    join_report = File(exists=True, mandatory=True, desc="the joined runs")
    models = traits.List(traits.Str, desc="that were computed")
    models_left_out = traits.Dict(traits.Str, traits.Str, desc="models and why they were not")
    bundles_report = File(exists=True, desc="of the bundles")


class _SummariseJoinedDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="JSON object")


class SummariseJoinedDwi(SimpleInterface):
    """Collect the report's values of concatenated runs."""

    input_spec = _SummariseJoinedDwiInputSpec
    output_spec = _SummariseJoinedDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        content = dict(read_json(Path(self.inputs.join_report)))
        content["Models"] = list(self.inputs.models) if isdefined(self.inputs.models) else []
        if isdefined(self.inputs.models_left_out):
            content["ModelsLeftOut"] = dict(self.inputs.models_left_out)
        if isdefined(self.inputs.bundles_report):
            content["Bundles"] = count_bundles(Path(self.inputs.bundles_report))
        out = Path(runtime.cwd) / "summary.json"
        write_json(out, content)
        self._results["out_file"] = str(out)
        return runtime
