"""Confounds of a DWI run: motion, displacement, signal dropout, gradients."""

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
)

from neuroferry.bids.gradients import read_bvals, read_bvecs
from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.outliers import LEAST_LOSS, OUTLIER_SIGMAS, read_outliers
from neuroferry.interfaces.dwi.slice_patches import read_patches
from neuroferry.interfaces.epi.confound_table import (
    MOTION,
    Column,
    motion_parameters,
    read_table,
    write_table,
)
from neuroferry.interfaces.epi.motion_table import framewise_displacement

_ABOUT = {
    "framewise_displacement": (
        "Framewise displacement: sum of the absolute changes of the six "
        "motion parameters, rotations on a sphere of 50 mm radius",
        "mm",
    ),
    "rmsd": ("Root mean square displacement of the head relative to the previous volume", "mm"),
    "outlier_slices": (
        f"Number of slices more than {OUTLIER_SIGMAS:g} standard deviations and "
        f"{100 * LEAST_LOSS:g}% below the signal predicted from the other volumes",
        "",
    ),
    "replaced_slices": (
        "Number of these slices that were replaced by their prediction from the other volumes",
        "",
    ),
    "worst_slice": ("Lowest slice signal relative to its prediction, in standard deviations", ""),
    "bval": ("b-value", "s/mm2"),
    "bvec_x": ("Gradient direction as acquired, first component, FSL's convention", ""),
    "bvec_y": ("Gradient direction as acquired, second component, FSL's convention", ""),
    "bvec_z": ("Gradient direction as acquired, third component, FSL's convention", ""),
}


def dwi_confounds(
    bval: str | Path,
    bvec: str | Path,
    motion_tsv: str | Path,
    outliers_tsv: str | Path,
    patches: str | Path | None = None,
) -> tuple[dict[str, Column], dict[str, Any]]:
    """Collect the confounds of a DWI run.

    Parameters
    ----------
    bval, bvec : path
        Gradients as acquired, in FSL's format.
    motion_tsv : path
        Six motion parameters, and ``rmsd``.
    outliers_tsv : path
        Slices of each volume, from `neuroferry.interfaces.dwi.outliers`.
    patches : path, optional
        Replacement slices, from `neuroferry.interfaces.dwi.replace_slices`.

    Returns
    -------
    columns : dict of str to ndarray of float64, shape (T,)
        NaN where there is no value.
    metadata : dict
        Descriptions of the columns.

    Raises
    ------
    InputError
        If the files do not belong to one series.
    """
    bvals, (bvecs, _) = read_bvals(Path(bval)), read_bvecs(Path(bvec))
    table = read_table(motion_tsv)
    parameters = motion_parameters(table, len(bvals), "The motion table")
    deviations, odd = read_outliers(outliers_tsv)
    if not len(bvecs) == len(deviations) == len(bvals):
        raise InputError(
            f"{Path(bval).name} has {len(bvals)} values, {Path(bvec).name} {len(bvecs)} "
            f"directions and {Path(outliers_tsv).name} {len(deviations)} rows: they do not "
            "belong to one series."
        )
    known = np.isfinite(deviations)
    looked_at = known.any(axis=1)
    worst = np.where(looked_at, np.where(known, deviations, np.inf).min(axis=1), np.nan)
    columns: dict[str, Column] = {"framewise_displacement": framewise_displacement(parameters)}
    if "rmsd" in table:
        columns["rmsd"] = table["rmsd"]
    columns |= dict(zip(MOTION, parameters.T, strict=True))
    columns["outlier_slices"] = np.where(looked_at, odd.sum(axis=1), np.nan)
    if patches is not None:
        columns["replaced_slices"] = read_patches(patches).replaced.sum(axis=1).astype(np.float64)
    columns["worst_slice"] = worst
    columns["bval"] = bvals
    columns |= dict(zip(("bvec_x", "bvec_y", "bvec_z"), bvecs.T, strict=True))
    metadata: dict[str, Any] = {}
    for name, (text, unit) in _ABOUT.items():
        if name in columns:
            metadata[name] = {"Description": text} | ({"Units": unit} if unit else {})
    for name in MOTION:
        kind, axis = name.split("_")
        metadata[name] = {
            "Description": f"Head {'translation' if kind == 'trans' else 'rotation'}, {axis}",
            "Units": "mm" if kind == "trans" else "rad",
        }
    return columns, metadata


class _DwiConfoundsInputSpec(BaseInterfaceInputSpec):
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions as acquired, FSL's convention")
    motion_tsv = File(exists=True, mandatory=True, desc="six motion parameters, and rmsd")
    outliers_tsv = File(exists=True, mandatory=True, desc="slices, from EstimateEddy")
    patches = File(exists=True, desc="replacement slices, from ReplaceSlices")


class _DwiConfoundsOutputSpec(TraitedSpec):
    confounds_tsv = File(exists=True, desc="table, one row for each volume")
    confounds_json = File(exists=True, desc="descriptions of its columns")


class DwiConfounds(SimpleInterface):
    """Collect the confounds of a DWI run; see :func:`dwi_confounds`."""

    input_spec = _DwiConfoundsInputSpec
    output_spec = _DwiConfoundsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        columns, metadata = dwi_confounds(
            inputs.bval,
            inputs.bvec,
            inputs.motion_tsv,
            inputs.outliers_tsv,
            inputs.patches if isdefined(inputs.patches) else None,
        )
        out = Path(runtime.cwd)
        write_table(out / "confounds.tsv", columns)
        write_json(out / "confounds.json", metadata)
        self._results["confounds_tsv"] = str(out / "confounds.tsv")
        self._results["confounds_json"] = str(out / "confounds.json")
        return runtime
