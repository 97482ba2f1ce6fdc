"""Concatenation of the DWI runs of a session, once they are on one grid.

Each run keeps its own correction: motion, eddy currents, distortion and coregistration are
estimated per run, and its volumes are resampled once. A scanner may still scale runs differently:
every run is multiplied by one factor, so that its mean b0 image matches that of the first run in
the median over the brain.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.headers import check_same_grid
from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients, write_gradients
from neuroferry.interfaces.image.images import FloatArray, load_mask, load_volume, save_nifti
from neuroferry.interfaces.image.series import Series, SeriesWriter, highest, open_series
from neuroferry.interfaces.image.transforms import write_itk_affine

LEAST_VOXELS = 100


@dataclass(frozen=True)
class Part:
    """One run on the common grid.

    Attributes
    ----------
    series : Series
        Volumes of the run.
    gradients : Gradients
        Gradients of its volumes, rotated with the head.
    factor : float
        Factor that its values are multiplied by.
    """

    series: Series
    gradients: Gradients
    factor: float = 1.0


def brightness(
    reference: FloatArray, first: FloatArray, brain: NDArray[np.bool_]
) -> tuple[float, float]:
    """Estimate the factor that scales a run to the brightness of the first.

    Parameters
    ----------
    reference, first : ndarray of float32, shape (I, J, K)
        Mean b0 images of the run and of the first run.
    brain : ndarray of bool, shape (I, J, K)
        Voxels to compare.

    Returns
    -------
    factor, spread : float
        Median of the ratio, and half its interquartile range relative to it.

    Raises
    ------
    InputError
        If the two images share hardly any brain voxels.

    Examples
    --------
    >>> ones = np.ones((10, 10, 10), np.float32)
    >>> brightness(2 * ones, ones, ones > 0)
    (0.5, 0.0)
    """
    there = brain & (reference > 0) & (first > 0)
    if np.count_nonzero(there) < LEAST_VOXELS:
        raise InputError("The runs to be joined have no common part of the brain.")
    low, middle, high = np.percentile(first[there] / reference[there], [25, 50, 75])
    return float(middle), float((high - low) / 2 / middle)


def join_runs(parts: Sequence[Part], path: Path, tr: float) -> FloatArray:
    """Concatenate the volumes of several runs.

    Parameters
    ----------
    parts : sequence of Part
        Runs, all on one grid.
    path : Path
        Output file.
    tr : float
        Repetition time, s; 0 if unknown.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Mean of all b0 volumes.

    Raises
    ------
    GeometryError
        If a run is on another grid than the first.
    """
    first = parts[0].series
    for part in parts[1:]:
        check_same_grid((str(first.path), first), (str(part.series.path), part.series))
    writer = SeriesWriter(
        path,
        first.shape3,
        first.affine,
        tr,
        sum(part.series.n_volumes for part in parts),
        ceiling=max(highest(part.series) * part.factor for part in parts),
        header=first.header,
    )
    total, count = np.zeros(first.shape3), 0
    with writer:
        for part in parts:
            for volume, is_b0 in zip(part.series.volumes(), part.gradients.b0s, strict=True):
                volume *= np.float32(part.factor)
                writer.add(volume)
                if is_b0:
                    total += volume
                    count += 1
    mean: FloatArray = (total / max(count, 1)).astype(np.float32)
    return mean


class _JoinDwiInputSpec(BaseInterfaceInputSpec):
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, minlen=2, desc="series, all on one grid"
    )
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    bvals = InputMultiObject(File(exists=True), mandatory=True, desc="b-values of each")
    bvecs = InputMultiObject(File(exists=True), mandatory=True, desc="directions of each")
    references = InputMultiObject(File(exists=True), mandatory=True, desc="mean b0 image of each")
    masks = InputMultiObject(File(exists=True), mandatory=True, desc="brain in each")
    names = traits.List(traits.Str, mandatory=True, desc="of the source images of the runs")


class _JoinDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="volumes of all runs, int16 with a slope")
    out_bval = File(exists=True, desc="their b-values")
    out_bvec = File(exists=True, desc="their directions, FSL's convention")
    out_ref = File(exists=True, desc="mean of all b0 volumes")
    out_mask = File(exists=True, desc="brain covered by all runs, uint8")
    identity_xfm = File(exists=True, desc="ITK identity transform")
    report = File(exists=True, desc="JSON: the joined runs")


class JoinDwi(SimpleInterface):
    """Concatenate the DWI runs of a session on one grid."""

    input_spec = _JoinDwiInputSpec
    output_spec = _JoinDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        references = [load_volume(path) for path in inputs.references]
        brain = np.ones(references[0].shape, dtype=bool)
        for path in inputs.masks:
            brain &= load_mask(path, references[0], "brain mask")
        parts, rows = [], []
        files = zip(
            inputs.in_files, inputs.bvals, inputs.bvecs, references, inputs.names, strict=True
        )
        for path, bval, bvec, reference, name in files:
            series = open_series(path)
            factor, spread = brightness(reference.data, references[0].data, brain)
            gradients = read_gradients(bval, bvec, series.affine)
            parts.append(Part(series, gradients, factor))
            rows.append({
                "Image": name,
                "NumberOfVolumes": series.n_volumes,
                "BrightnessFactor": round(factor, 4),
                "BrightnessSpread": round(spread, 4),
            })  # fmt: skip
        out, affine = Path(runtime.cwd), parts[0].series.affine
        mean = join_runs(parts, out / "dwi.nii.gz", inputs.tr)
        bvals = np.concatenate([part.gradients.bvals for part in parts])
        bvecs = np.concatenate([part.gradients.bvecs for part in parts])
        write_gradients(Gradients(bvals, bvecs), affine, out / "dwi.bval", out / "dwi.bvec")
        header = parts[0].series.header
        self._results["out_file"] = str(out / "dwi.nii.gz")
        self._results["out_bval"] = str(out / "dwi.bval")
        self._results["out_bvec"] = str(out / "dwi.bvec")
        self._results["out_ref"] = str(
            save_nifti(mean, affine, out / "dwiref.nii.gz", header=header)
        )
        self._results["out_mask"] = str(
            save_nifti(brain, affine, out / "mask.nii.gz", header=header, dtype=np.uint8)
        )
        self._results["identity_xfm"] = str(write_itk_affine(np.eye(4), out / "identity.txt"))
        write_json(out / "report.json", {"Runs": rows, "NumberOfVolumes": len(bvals)})
        self._results["report"] = str(out / "report.json")
        return runtime
