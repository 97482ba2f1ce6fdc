"""The steps that measure the quality of a DWI run: signals, head motion, and the document."""

from __future__ import annotations

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

from neuroferry.bids.metadata import read_json
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.eddy import axis_in_world
from neuroferry.interfaces.dwi.outliers import write_outliers
from neuroferry.interfaces.dwi.quality import (
    CHANNELS,
    RawRun,
    measure_signals,
    read_run,
    read_used_gradients,
)
from neuroferry.interfaces.dwi.quick_motion import MOST_SINGLES, count_singles, estimate_motion
from neuroferry.interfaces.epi.confound_table import read_table, write_table
from neuroferry.interfaces.epi.motion_table import (
    framewise_displacement,
    motion_parameters,
    read_motion_xfms,
    write_motion_table,
    write_motion_xfms,
)
from neuroferry.interfaces.image.images import Volume, save_nifti
from neuroferry.interfaces.image.series import Series, open_series
from neuroferry.interfaces.qc.document import IqmInputSpec, write_iqms
from neuroferry.interfaces.qc.dwi import (
    BDIFFS,
    FD_THRESHOLD,
    fd_summary,
    gradient_turns,
    shell_key,
)
from neuroferry.interfaces.qc.dwi_regions import WM_FA
from neuroferry.interfaces.qc.dwi_spikes import SPIKE_SIGMAS
from neuroferry.templates import load_template

FD_RADIUS = 50.0
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
MANY_SINGLES = (
    "Head motion was not estimated: {} volumes have a b-value that fewer than six volumes share."
)
ONE_VOLUME = "The run has one volume."
NO_AXIS = (
    "The phase-encoding axis is not known: framewise displacement contains the stretch by eddy "
    "currents."
)
NO_WEIGHTED = "No volume is diffusion-weighted."
_ABOUT = {
    "framewise_displacement": (
        "Sum of the absolute changes of the six motion parameters from the volume before, "
        "rotations on a sphere of 50 mm radius",
        "mm",
    ),
    "spikes": ("Share of the brain's voxels whose signal is unlike that of the same shell", ""),
    "spike_slices": ("Number of slices of which more than 5% of the brain's voxels spike", ""),
    "worst_slice": ("Lowest median deviation of a slice, in robust standard deviations", ""),
    "bval": ("b-value", "s/mm2"),
}


class _RunInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run as acquired")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    b0_threshold = traits.Float(50.0, usedefault=True, desc="largest b-value of b0 volumes")


def _open(inputs: Any) -> tuple[Series, RawRun]:
    """Read the run of a step."""
    series = open_series(inputs.in_file, min_volumes=1)
    unusable = inputs.unusable if isdefined(inputs.unusable) else ()
    return series, read_run(series, inputs.bval, inputs.bvec, unusable, inputs.b0_threshold)


class _MotionInputSpec(_RunInputSpec):
    phase_encoding = traits.Str(desc="PhaseEncodingDirection; only its axis matters")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="volumes processed in parallel"
    )


class _MotionOutputSpec(TraitedSpec):
    motion_tsv = File(exists=True, desc="six motion parameters; n/a where not estimated")
    motion_xfms = File(exists=True, desc="reference points to points of each volume")


class QuickMotion(SimpleInterface):
    """Quick estimate of the head motion of a DWI run as acquired."""

    input_spec = _MotionInputSpec
    output_spec = _MotionOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from threadpoolctl import threadpool_limits

        inputs, out = self.inputs, Path(runtime.cwd)
        _, run = _open(inputs)
        rigid = np.tile(np.eye(4), (len(run.data), 1, 1))
        known = count_singles(run.gradients.shells) <= MOST_SINGLES
        if known:
            along = None
            if isdefined(inputs.phase_encoding):
                along = axis_in_world(inputs.phase_encoding, run.affine)
            with threadpool_limits(1, "blas"):
                rigid = estimate_motion(
                    run.data, run.affine, run.gradients, along, n_threads=inputs.n_procs
                )
        reference = Volume(run.data[run.gradients.shells[0].volumes[0]], run.affine)
        parameters = motion_parameters(rigid, reference)
        if not known:
            parameters[:] = np.nan
        nothing = np.full(len(rigid), np.nan)
        self._results["motion_tsv"] = str(
            write_motion_table(parameters, nothing, out / "motion.tsv")
        )
        self._results["motion_xfms"] = str(write_motion_xfms(rigid, out / "motion_xfms.txt"))
        return runtime


class _SignalsInputSpec(_RunInputSpec):
    slice_axis = traits.Range(0, 2, 2, usedefault=True, desc="axis of the slices")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the brain's registration")


class _SignalsOutputSpec(TraitedSpec):
    metrics = File(exists=True, desc="JSON: metrics that do not depend on head motion")
    volumes_tsv = File(exists=True, desc="b-value and spikes of each volume")
    slices_tsv = File(exists=True, desc="deviation of each slice, and those that spike")
    dwi_ref = File(exists=True, desc="mean of the volumes of the lowest b-value")
    mask = File(exists=True, desc="brain mask; of the head if no brain was found")
    white = File(exists=True, desc="white matter")
    callosum = File(exists=True, desc="corpus callosum")
    shells = File(exists=True, desc="mean of each shell, 4-D")
    noise = File(exists=True, desc="noise of each channel")
    fa = File(exists=True, desc="fractional anisotropy")
    color_fa = File(exists=True, desc="FA in red (x), green (y), blue (z), uint8, 4-D")


class MeasureDwi(SimpleInterface):
    """Measure the signals of a DWI run as acquired."""

    input_spec = _SignalsInputSpec
    output_spec = _SignalsOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        load_template(2)

    def _run_interface(self, runtime: Any) -> Any:
        out = Path(runtime.cwd)
        series, run = _open(self.inputs)
        found = measure_signals(run, self.inputs.slice_axis, seed=self.inputs.seed)
        document = {
            "values": {k: v if np.isfinite(v) else None for k, v in found.values.items()},
            "undefined": found.undefined,
            "doubts": found.doubts,
            "shells": [[shell.b, len(shell.volumes)] for shell in found.shells],
        }
        write_json(out / "metrics.json", document)
        spikes = found.spikes
        known = np.isfinite(spikes.deviations)
        lowest = np.where(known, spikes.deviations, np.inf).min(axis=1)
        judged = np.isfinite(spikes.shares)
        columns = {
            "spikes": spikes.shares,
            "spike_slices": np.where(judged, spikes.odd.sum(axis=1), np.nan),
            "worst_slice": np.where(np.isfinite(lowest), lowest, np.nan),
            "bval": run.gradients.bvals,
        }
        write_table(out / "volumes.tsv", columns)
        write_outliers(out / "slices.tsv", spikes.deviations, spikes.odd)
        names = {"reference": "dwi_ref"}
        for name, data in found.images.items():
            kind = np.uint8 if data.dtype in (bool, np.uint8) else np.float32
            name = names.get(name, name)
            path = out / f"{name}.nii.gz"
            save_nifti(data, series.affine, path, header=series.header, dtype=kind)
            self._results[name] = str(path)
        for name in ("metrics.json", "volumes.tsv", "slices.tsv"):
            self._results[name.replace(".json", "").replace(".", "_")] = str(out / name)
        return runtime


class _DwiIQMsInputSpec(IqmInputSpec):
    metrics = File(exists=True, mandatory=True, desc="from MeasureDwi")
    volumes_tsv = File(exists=True, mandatory=True, desc="from MeasureDwi")
    motion_tsv = File(exists=True, mandatory=True, desc="from QuickMotion")
    motion_xfms = File(exists=True, mandatory=True, desc="from QuickMotion")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    b0_threshold = traits.Float(50.0, usedefault=True, desc="largest b-value of b0 volumes")
    phase_encoding = traits.Str(desc="PhaseEncodingDirection; without it eddy currents are motion")


class _DwiIQMsOutputSpec(TraitedSpec):
    iqms = File(exists=True, desc="JSON with the metrics")
    timeseries = File(exists=True, desc="table with the values of each volume")
    timeseries_about = File(exists=True, desc="JSON: what its columns are")


class DwiIQMs(SimpleInterface):
    """Collect the quality metrics of a DWI run."""

    input_spec = _DwiIQMsInputSpec
    output_spec = _DwiIQMsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, out = self.inputs, Path(runtime.cwd)
        measured = read_json(Path(inputs.metrics))
        unusable = inputs.unusable if isdefined(inputs.unusable) else []
        affine = open_series(inputs.source, min_volumes=1).affine
        gradients = read_used_gradients(
            inputs.bval, inputs.bvec, affine, unusable, inputs.b0_threshold
        )
        table = read_table(inputs.motion_tsv)
        parameters = np.column_stack([table[name] for name in MOTION])
        displacement = framewise_displacement(parameters)
        values = {k: np.nan if v is None else v for k, v in measured["values"].items()}
        undefined = dict(measured["undefined"])
        motion = fd_summary(displacement)
        if np.isfinite(parameters).all():
            motion |= gradient_turns(gradients.bvecs, read_motion_xfms(inputs.motion_xfms))
            reason = ONE_VOLUME
        else:
            motion |= dict.fromkeys(BDIFFS, np.nan)
            reason = MANY_SINGLES.format(count_singles(gradients.shells))
        values |= motion
        for name, value in motion.items():
            if not np.isfinite(value):
                undefined[name] = NO_WEIGHTED if not (~gradients.b0s).any() else reason
        doubts = list(measured["doubts"])
        if not isdefined(inputs.phase_encoding):
            doubts.append(NO_AXIS)
        warnings: dict[str, Any] = {"doubts": doubts} if doubts else {}
        if unusable:
            warnings["unusable_volumes"] = list(unusable)
        first = 0 if gradients.b0s.any() else 1
        settings = {
            "fd_thres": FD_THRESHOLD,
            "fd_radius": FD_RADIUS,
            "b0_threshold": inputs.b0_threshold,
            "spike_sigmas": SPIKE_SIGMAS,
            "white_matter_fa": WM_FA,
            "piesno_channels": CHANNELS,
            "shells": {
                shell_key(number): {"b": b, "volumes": count}
                for number, (b, count) in enumerate(measured["shells"], start=first)
            },
        }
        iqms = write_iqms(
            out / "iqms.json",
            values,
            undefined,
            inputs=inputs,
            modality="dwi",
            settings=settings,
            warnings=warnings,
        )
        columns = {"framewise_displacement": displacement}
        columns |= {name: table[name] for name in MOTION}
        columns |= read_table(inputs.volumes_tsv)
        write_table(out / "timeseries.tsv", columns)
        write_json(out / "timeseries.json", _about(columns))
        self._results["iqms"] = str(iqms)
        self._results["timeseries"] = str(out / "timeseries.tsv")
        self._results["timeseries_about"] = str(out / "timeseries.json")
        return runtime


def _about(columns: dict[str, Any]) -> dict[str, Any]:
    """Describe the columns of the table of volumes."""
    about: dict[str, Any] = {}
    for name in columns:
        if name in _ABOUT:
            text, unit = _ABOUT[name]
        else:
            kind, axis = name.split("_")
            text = f"Head {'translation' if kind == 'trans' else 'rotation'}, {axis}"
            unit = "mm" if kind == "trans" else "rad"
        about[name] = {"Description": text} | ({"Units": unit} if unit else {})
    return about
