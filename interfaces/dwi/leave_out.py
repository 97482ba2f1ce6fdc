"""A DWI run without the volumes that hold no usable image.

Unlike in a BOLD run, volumes of a DWI run have no place in time that later steps depend on:
without an empty volume and its gradient the run is an ordinary, shorter one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neuroferry.errors import InputError
from neuroferry.interfaces.image.series import copy_without, open_series


class _LeaveOutVolumesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    volumes = traits.List(traits.Int, mandatory=True, desc="volumes to leave out, from 0")


class _LeaveOutVolumesOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the other volumes, with their stored values")


class LeaveOutVolumes(SimpleInterface):
    """Copy a series without some of its volumes."""

    input_spec = _LeaveOutVolumesInputSpec
    output_spec = _LeaveOutVolumesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        series = open_series(self.inputs.in_file)
        volumes = set(self.inputs.volumes)
        if not volumes < set(range(series.n_volumes)):
            raise InputError(
                f"{series.path.name} has {series.n_volumes} volumes; cannot leave out"
                f" {sorted(volumes)} (counted from 0)."
            )
        found = copy_without(series, volumes, Path(runtime.cwd) / "dwi.nii.gz")
        self._results["out_file"] = str(found)
        return runtime
