"""Confounds of a BOLD series, named as in fMRIPrep so that existing tools can read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.epi.confound_table import (
    DVARS_THRESHOLD,
    FD_THRESHOLD,
    MOTION,
    Column,
    expand,
    motion_outliers,
    motion_parameters,
    read_table,
    spikes,
    write_table,
)
from neuroferry.interfaces.epi.motion_table import framewise_displacement
from neuroferry.interfaces.func.compcor import (
    Components,
    NoiseMask,
    cosine_basis,
    mean_series,
    noise_components,
    noise_masks,
    top_variance,
)
from neuroferry.interfaces.func.dvars import TemporalStatistics, temporal_statistics
from neuroferry.interfaces.image.images import Volume, load_map, load_mask, save_nifti
from neuroferry.interfaces.image.series import Series, open_series
from neuroferry.interfaces.image.voxel_store import VoxelStore

EXPANDED = ("global_signal", "csf", "white_matter")
SIGNAL_NAMES = {"CSF": "csf", "WM": "white_matter", "combined": "csf_wm", "temporal": "tcompcor"}
"""Column that holds the mean of each CompCor mask."""
PREFIXES = {
    "temporal": "t_comp_cor",
    "CSF": "c_comp_cor",
    "WM": "w_comp_cor",
    "combined": "a_comp_cor",
}
MASK_BITS = {"CSF": 1, "WM": 2, "combined": 4, "temporal": 8}
"""Bit of each mask in the image of the CompCor masks."""
MIN_STEADY_VOLUMES = 4

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Confounds:
    """Results of :func:`compute_confounds`.

    Attributes
    ----------
    columns : dict of str to ndarray of float64, shape (T,)
        The table; NaN where there is no value.
    metadata : dict
        Descriptions of the columns for the table's sidecar.
    summary : dict
        Summary statistics for the report.
    compcor_masks : ndarray of uint8, shape (I, J, K)
        Sum of :data:`MASK_BITS`.
    tsnr : ndarray of float32, shape (I, J, K)
        Zero outside the brain.
    """

    columns: dict[str, Column]
    metadata: dict[str, Any]
    summary: dict[str, Any]
    compcor_masks: NDArray[np.uint8]
    tsnr: NDArray[np.float32]


def compute_confounds(
    series: Series,
    brain: Mask,
    tpms: Sequence[NDArray[np.float32]] | None,
    motion: Mapping[str, Column],
    *,
    tr: float,
    n_dummy: int = 0,
    unusable: Collection[int] = (),
    fd_threshold: float = FD_THRESHOLD,
    dvars_threshold: float = DVARS_THRESHOLD,
    scratch: Path | None = None,
) -> Confounds:
    """Compute the confounds of one series.

    Parameters
    ----------
    series : Series
        Preprocessed BOLD, unsmoothed.
    brain : ndarray of bool, shape (I, J, K)
        Brain mask on its grid.
    tpms : sequence of three ndarray of float32, shape (I, J, K), or None
        Grey matter, white matter, CSF; without them, tissue signals and anatomical
        components are omitted.
    motion : mapping of str to ndarray of float64, shape (T,)
        The six motion parameters, and ``rmsd`` if available.
    tr : float
        Repetition time, s.
    n_dummy : int
        Volumes at the start, before the steady state.
    unusable : collection of int
        Volumes without an image: marked as outliers, and not used for any statistic.
    fd_threshold, dvars_threshold : float
        Framewise displacement in mm and standardised DVARS above which a volume is a motion
        outlier.
    scratch : Path, optional
        Folder for the scratch file: the brain's voxels as float32.

    Returns
    -------
    Confounds

    Raises
    ------
    InputError
        If the motion parameters do not match the series, or too few volumes are left.
    """
    n_volumes = series.n_volumes
    parameters = motion_parameters(motion, n_volumes, "The motion table")
    steady = sorted(set(range(n_dummy, n_volumes)) - set(unusable))
    if len(steady) < MIN_STEADY_VOLUMES:
        raise InputError(
            f"{series.path.name} has {n_volumes} volumes, the first {n_dummy} of them before the "
            f"steady state and {len(unusable)} without a usable image; confounds need at least "
            f"{MIN_STEADY_VOLUMES} steady-state volumes."
        )
    chosen = noise_masks(tpms, brain, series.zooms) if tpms is not None else {}
    masks = {name: mask.voxels[brain] for name, mask in chosen.items()}
    with VoxelStore(n_volumes, int(np.count_nonzero(brain)), folder=scratch) as store:
        global_signal = np.zeros(n_volumes)
        for t, volume in enumerate(series.volumes()):
            values = volume[brain]
            store.add(values)
            global_signal[t] = values.mean(dtype=np.float64)
        statistics = temporal_statistics(store, n_dummy, unusable)
        masks["temporal"] = top_variance(statistics.deviations)
        found = noise_components(store, masks, tr, start=n_dummy, without=unusable)
        means = mean_series(store, masks)
    signals = {"global_signal": global_signal}
    signals |= {SIGNAL_NAMES[name]: values for name, values in means.items()}

    fd = framewise_displacement(parameters)
    outliers = motion_outliers(
        fd, statistics.std_dvars, n_dummy, fd_threshold, dvars_threshold, unusable
    )
    marked = sorted([*outliers, *(t for t in unusable if t >= n_dummy)])
    columns = _signal_columns(signals)
    columns |= {
        "std_dvars": statistics.std_dvars,
        "dvars": statistics.dvars,
        "framewise_displacement": fd,
    }
    if "rmsd" in motion:
        columns["rmsd"] = np.concatenate([[np.nan], motion["rmsd"][1:]])
    metadata = _describe(columns)
    for name, prefix in PREFIXES.items():
        if name in found:
            columns |= _number(found[name].series, f"{prefix}_")
            metadata |= _describe_components(name, prefix, found[name])
    cosines = np.zeros((n_volumes, 0))
    basis = cosine_basis(n_volumes - n_dummy, tr)
    if basis.shape[1]:
        cosines = np.concatenate([np.zeros((n_dummy, basis.shape[1])), basis])
    columns |= _number(cosines, "cosine")
    columns |= spikes(range(n_dummy), n_volumes, "non_steady_state_outlier")
    for name, values in zip(MOTION, parameters.T, strict=True):
        columns |= expand(name, values)
    columns |= spikes(marked, n_volumes, "motion_outlier")

    summary = {
        "NumberOfVolumes": n_volumes,
        "RepetitionTime": tr,
        "NonSteadyStateVolumes": n_dummy,
        "UnusableVolumes": sorted(unusable),
        "FramewiseDisplacement": _spread(fd[steady[1:]]),
        "StandardisedDVARS": _spread(statistics.std_dvars[steady[1:]]),
        "MotionOutliers": {
            "Volumes": outliers,
            "FramewiseDisplacementThreshold": fd_threshold,
            "StandardisedDVARSThreshold": dvars_threshold,
        },
        "MedianTSNR": round(float(np.median(statistics.tsnr)), 3),
        "CompCor": {name: _summarise(name, chosen.get(name), found.get(name)) for name in masks},
    }
    return Confounds(
        columns,
        metadata,
        summary,
        _paint(brain, masks),
        _fill(brain, statistics),
    )


def _signal_columns(signals: Mapping[str, Column]) -> dict[str, Column]:
    """Expand the signals that fMRIPrep expands; keep the others unchanged."""
    columns: dict[str, Column] = {}
    for name, values in signals.items():
        columns |= expand(name, values) if name in EXPANDED else {name: values}
    return columns


def _number(series: NDArray[np.float64], prefix: str) -> dict[str, Column]:
    return {f"{prefix}{n:02d}": column for n, column in enumerate(series.T)}


_ABOUT = {
    "global_signal": ("Mean signal within the brain mask", None),
    "csf": ("Mean signal of cerebrospinal fluid", None),
    "white_matter": ("Mean signal of deep white matter", None),
    "csf_wm": ("Mean signal of deep white matter and cerebrospinal fluid", None),
    "tcompcor": ("Mean signal of the 2% of brain voxels with the highest temporal variance", None),
    "std_dvars": (
        "DVARS divided by its expected value under voxelwise noise (standardized DVARS)",
        None,
    ),
    "dvars": (
        "Root mean square over brain voxels of the change in signal from the previous volume, "
        "with the series scaled to a brain median of 1000",
        None,
    ),
    "framewise_displacement": (
        "Sum of the absolute changes in the six motion parameters from the previous volume, "
        "rotations converted to arc length on a sphere of radius 50 mm",
        "mm",
    ),
    "rmsd": ("Root mean square displacement of the head from the previous volume", "mm"),
}


def _describe(columns: Mapping[str, Column]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name, (text, unit) in _ABOUT.items():
        if name in columns:
            described[name] = {"Description": text} | ({"Units": unit} if unit else {})
            if name in SIGNAL_NAMES.values() or name == "global_signal":
                described[name]["Method"] = "Mean"
    return described


def _describe_components(name: str, prefix: str, found: Components) -> dict[str, Any]:
    """Describe components in the form that nilearn's ``load_confounds`` expects."""
    explained = found.variance_explained
    total = np.cumsum(explained)
    mask = {} if name == "temporal" else {"Mask": name}
    return {
        f"{prefix}_{n:02d}": {
            "Method": "tCompCor" if name == "temporal" else "aCompCor",
            **mask,
            "SingularValue": _figure(found.singular_values[n]),
            "VarianceExplained": _figure(explained[n]),
            "CumulativeVarianceExplained": _figure(total[n]),
            "Retained": True,
        }
        for n in range(found.series.shape[1])
    }


def _figure(value: float) -> float:
    """Round to eight significant digits."""
    return float(f"{value:.8g}")


def _spread(values: Column) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return {}
    return {
        "Mean": _figure(known.mean()),
        "Median": _figure(np.median(known)),
        "Maximum": _figure(known.max()),
    }


def _summarise(name: str, mask: NoiseMask | None, found: Components | None) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "NumberOfVoxels": found.n_voxels if found is not None else 0,
        "NumberOfComponents": found.series.shape[1] if found is not None else 0,
    }
    if mask is not None:
        summary["LeastProbability"] = mask.level
        summary["ApartFromGreyMatter"] = mask.apart
    if found is not None:
        summary["VarianceExplained"] = [float(f"{v:.4g}") for v in found.variance_explained]
    return summary


def _paint(brain: Mask, masks: Mapping[str, Mask]) -> NDArray[np.uint8]:
    bits = np.zeros(int(np.count_nonzero(brain)), dtype=np.uint8)
    for name, mask in masks.items():
        bits[mask] |= MASK_BITS[name]
    image = np.zeros(brain.shape, dtype=np.uint8)
    image[brain] = bits
    return image


def _fill(brain: Mask, statistics: TemporalStatistics) -> NDArray[np.float32]:
    image = np.zeros(brain.shape, dtype=np.float32)
    image[brain] = statistics.tsnr
    return image


class _ComputeConfoundsInputSpec(BaseInterfaceInputSpec):
    bold = File(exists=True, mandatory=True, desc="preprocessed 4-D series, unsmoothed")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    tpms = InputMultiObject(File(exists=True), desc="GM, WM, CSF probabilities on its grid")
    motion_tsv = File(exists=True, mandatory=True, desc="six motion parameters and rmsd")
    n_dummy = traits.Range(low=0, value=0, usedefault=True, desc="volumes before the steady state")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    tr = traits.Range(low=0.0, exclude_low=True, mandatory=True, desc="repetition time, s")
    fd_threshold = traits.Float(FD_THRESHOLD, usedefault=True, desc="outlier threshold, mm")
    dvars_threshold = traits.Float(DVARS_THRESHOLD, usedefault=True, desc="outlier threshold")


class _ComputeConfoundsOutputSpec(TraitedSpec):
    confounds_tsv = File(exists=True, desc="table, one row for each volume")
    confounds_json = File(exists=True, desc="descriptions of the columns")
    summary_json = File(exists=True, desc="summary statistics for the report")
    compcor_masks = File(exists=True, desc="bits: 1 CSF, 2 WM, 4 combined, 8 temporal")
    tsnr_map = File(exists=True, desc="temporal mean divided by temporal standard deviation")


class ComputeConfounds(SimpleInterface):
    """Confound table of one BOLD series; see :func:`compute_confounds`."""

    input_spec = _ComputeConfoundsInputSpec
    output_spec = _ComputeConfoundsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        out = Path(runtime.cwd)
        series = open_series(self.inputs.bold)
        first = Volume(np.zeros(series.shape3, np.float32), series.affine, series.header)
        brain = load_mask(self.inputs.bold_mask, first, "brain mask")
        tpms = None
        if isdefined(self.inputs.tpms):
            tpms = [load_map(path).data for path in self.inputs.tpms]
            if len(tpms) != 3 or any(tpm.shape != brain.shape for tpm in tpms):
                raise InputError(
                    "Confounds need three tissue maps (GM, WM, CSF) on the grid of "
                    f"{series.path.name}."
                )
        found = compute_confounds(
            series,
            brain,
            tpms,
            read_table(self.inputs.motion_tsv),
            tr=self.inputs.tr,
            n_dummy=self.inputs.n_dummy,
            unusable=self.inputs.unusable if isdefined(self.inputs.unusable) else (),
            fd_threshold=self.inputs.fd_threshold,
            dvars_threshold=self.inputs.dvars_threshold,
            scratch=out,
        )
        write_table(out / "confounds.tsv", found.columns)
        write_json(out / "confounds.json", found.metadata)
        write_json(out / "summary.json", found.summary)
        self._results["confounds_tsv"] = str(out / "confounds.tsv")
        self._results["confounds_json"] = str(out / "confounds.json")
        self._results["summary_json"] = str(out / "summary.json")
        for name, data, kind in (
            ("compcor_masks", found.compcor_masks, np.uint8),
            ("tsnr_map", found.tsnr, np.float32),
        ):
            path = out / f"{name}.nii.gz"
            self._results[name] = str(save_nifti(data, series.affine, path, dtype=kind))
        return runtime
