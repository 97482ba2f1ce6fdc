"""Receive-field correction of a whole DWI run, estimated on its mean b0 image.

The coil's field is the same in every volume, and the ratios of volumes that diffusion models rely
on do not change when all are divided by it. The b0 volumes show it best: they have the most
signal, and their contrast does not depend on fibre orientation.

Memory: 100 bytes for each voxel of one volume, however many volumes there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.gradients import B0_THRESHOLD, read_bvals
from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.denoise import largest, store_volumes
from neuroferry.interfaces.image.bias import SLOPPY_N4, N4Settings, estimate_bias
from neuroferry.interfaces.image.images import FloatArray, Volume, load_mask, save_volume
from neuroferry.interfaces.image.series import Series, open_series

#: EPI voxels are larger than those of a T1w image, and the field is smooth.
B0_N4 = N4Settings(zoom=3.0)


def mean_b0(series: Series, bvals: NDArray[np.float64], threshold: float = B0_THRESHOLD) -> Volume:
    """Average the b0 volumes.

    Parameters
    ----------
    series : Series
        DWI run.
    bvals : ndarray of float64, shape (N,)
        s/mm2.
    threshold : float
        Volumes up to this b-value are b0 volumes, s/mm2.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If there are no b0 volumes, or the numbers of b-values and volumes differ.
    """
    if len(bvals) != series.n_volumes:
        raise InputError(
            f"There are {len(bvals)} b-values for the {series.n_volumes} volumes of"
            f" {series.path.name}."
        )
    chosen = np.flatnonzero(bvals <= threshold)
    if not chosen.size:
        raise InputError(f"{series.path.name} has no volume with b up to {threshold:g} s/mm2.")
    total = np.zeros(series.shape3)
    for index in chosen:
        total += series.volume(int(index))
    series.close()
    return Volume((total / chosen.size).astype(np.float32), series.affine, series.header)


def b0_field(b0: Volume, mask: NDArray[np.bool_], *, sloppy: bool = False) -> FloatArray:
    """Estimate the receive field of a DWI run.

    Parameters
    ----------
    b0 : Volume
        Mean of the b0 volumes.
    mask : ndarray of bool, shape (I, J, K)
        Brain.
    sloppy : bool
        Fast and coarse.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Multiplicative; its geometric mean inside the mask is one.
    """
    return estimate_bias(b0, mask, SLOPPY_N4 if sloppy else B0_N4)


class _CorrectB0BiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run, aligned")
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    bval = File(exists=True, mandatory=True, desc="its b-values, s/mm2")
    mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")


class _CorrectB0BiasOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="every volume divided by the field")
    bias_field = File(exists=True, desc="multiplicative field, geometric mean one in the mask")


class CorrectB0Bias(SimpleInterface):
    """Divide all volumes of a run by the receive field of its mean b0."""

    input_spec = _CorrectB0BiasInputSpec
    output_spec = _CorrectB0BiasOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, out = self.inputs, Path(runtime.cwd)
        series = open_series(inputs.in_file)
        b0 = mean_b0(series, read_bvals(inputs.bval))
        mask = load_mask(inputs.mask, b0, "brain mask")
        field = b0_field(b0, mask, sloppy=inputs.sloppy)
        ceiling = largest(volume / field for volume in series.volumes())
        path = store_volumes(
            (volume / field for volume in series.volumes()),
            series,
            out / "unbiased_b0.nii.gz",
            ceiling,
            inputs.tr,
        )
        self._results["out_file"] = str(path)
        self._results["bias_field"] = save_volume(b0.with_data(field), out / "bias.nii.gz")
        return runtime
