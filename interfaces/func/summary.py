"""Summary of a BOLD run for its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
)

from neuroferry.bids.metadata import read_json
from neuroferry.files import write_json
from neuroferry.interfaces.epi.mask_report import describe_mask
from neuroferry.interfaces.image.images import load_map


class _SummariseRunInputSpec(BaseInterfaceInputSpec):
    summary_json = File(exists=True, mandatory=True, desc="summary of the confounds")
    bold_mask = File(exists=True, desc="brain mask on the grid of the run")
    reference_report = File(exists=True, desc="report of the reference image")
    sdc_report = File(exists=True, desc="report of the distortion correction")
    coreg_report = File(exists=True, desc="report of the registration to the T1w image")


class _SummariseRunOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="JSON object")


class SummariseRun(SimpleInterface):
    """Summary of the steps of a BOLD run, for the participant's page."""

    input_spec = _SummariseRunInputSpec
    output_spec = _SummariseRunOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        content = read_json(Path(self.inputs.summary_json))
        for mask in content.get("CompCor", {}).values():
            mask.pop("VarianceExplained", None)
        for key, name in (
            ("Reference", "reference_report"),
            ("DistortionCorrection", "sdc_report"),
            ("Coregistration", "coreg_report"),
        ):
            path = getattr(self.inputs, name)
            if isdefined(path):
                content[key] = read_json(Path(path))
        if isdefined(self.inputs.bold_mask):
            mask = load_map(self.inputs.bold_mask)
            content["BrainMask"] = describe_mask(mask.data > 0, mask.affine)
        out = Path(runtime.cwd) / "summary.json"
        write_json(out, content)
        self._results["out_file"] = str(out)
        return runtime
