"""The step that measures the quality of a BOLD series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from neuroferry.interfaces.epi.confound_table import write_table
from neuroferry.interfaces.func.quality import align_for_quality, measure_series
from neuroferry.interfaces.image.images import save_nifti
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.qc.bold import FD_RADIUS, FD_THRESHOLD
from neuroferry.interfaces.qc.document import IqmInputSpec, write_iqms
from neuroferry.templates import load_template


class _BoldIQMsInputSpec(IqmInputSpec):
    reference_echo = File(
        exists=True, mandatory=True, desc="the shortest echo: its head motion and its brain count"
    )
    tr = traits.Range(low=0.0, exclude_low=True, mandatory=True, desc="repetition time, s")
    dummy_scans = traits.Range(low=0, value=0, desc="volumes before steady state, if known")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    slice_axis = traits.Range(low=0, high=2, value=2, usedefault=True, desc="axis of the slices")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the brain's registration")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="volumes at a time")


class _BoldIQMsOutputSpec(TraitedSpec):
    iqms = File(exists=True, desc="JSON with the metrics")
    timeseries = File(exists=True, desc="table with the values of each volume")
    mean = File(exists=True, desc="mean of the realigned series")
    std = File(exists=True, desc="its standard deviation over time")
    tsnr = File(exists=True, desc="mean over standard deviation")
    brain_mask = File(exists=True, desc="brain mask; empty if no brain was found")
    carpet = File(exists=True, desc="NumPy archive: time series of some voxels, spikes of slices")


class BoldIQMs(SimpleInterface):
    """Quality metrics of one BOLD series, after realignment and nothing else."""

    input_spec = _BoldIQMsInputSpec
    output_spec = _BoldIQMsOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        load_template(2)

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        out = Path(runtime.cwd)
        dummies = inputs.dummy_scans if isdefined(inputs.dummy_scans) else None
        aligned = align_for_quality(
            open_series(inputs.reference_echo, min_volumes=1),
            inputs.tr,
            dummies,
            unusable=inputs.unusable if isdefined(inputs.unusable) else (),
            slice_axis=inputs.slice_axis,
            n_threads=inputs.n_procs,
            seed=inputs.seed,
        )
        series = open_series(inputs.source, min_volumes=1)
        found = measure_series(
            series, aligned, slice_axis=inputs.slice_axis, n_threads=inputs.n_procs, folder=out
        )
        given = aligned.given
        settings = {
            "fd_thres": FD_THRESHOLD,
            "fd_radius": FD_RADIUS,
            "dummy_scans": "detected" if dummies is None else "set by the user",
            "motion_estimated_from": Path(inputs.reference_echo).name,
        }
        warnings: dict[str, Any] = {}
        if given.problems:
            warnings["doubts"] = list(given.problems.values())
        if given.unusable:
            warnings["unusable_volumes"] = sorted(given.unusable)
        iqms = write_iqms(
            out / "iqms.json",
            found.values,
            found.undefined,
            inputs=inputs,
            modality="bold",
            settings=settings,
            warnings=warnings,
        )
        self._results["iqms"] = str(iqms)
        write_table(out / "timeseries.tsv", found.columns)
        self._results["timeseries"] = str(out / "timeseries.tsv")
        for name, data in (("mean", found.mean), ("std", found.std), ("tsnr", found.tsnr)):
            path = save_nifti(data, series.affine, out / f"{name}.nii.gz", header=series.header)
            self._results[name] = str(path)
        mask = save_nifti(aligned.brain, series.affine, out / "brain_mask.nii.gz", dtype=np.uint8)
        self._results["brain_mask"] = str(mask)
        np.savez(out / "carpet.npz", carpet=found.carpet, spikes=found.spikes)
        self._results["carpet"] = str(out / "carpet.npz")
        return runtime
