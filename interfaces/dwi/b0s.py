"""Mean b0 image of an EPI that serves as another run's field map.

Head motion between the b0 volumes would blur their mean, so they are first aligned rigidly, like
the b0 volumes of a DWI run; the mean is in the position of the first of them.

Memory at its peak: 130 bytes for each voxel of one volume.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from neuroferry.interfaces.dwi.eddy import align_b0s, prepare_head, whole_mean
from neuroferry.interfaces.image.images import Volume, save_volume
from neuroferry.interfaces.image.series import Series, open_series


def aligned_mean(series: Series, volumes: Sequence[int], slice_axis: int = 2) -> Volume:
    """Average volumes of one contrast, each aligned to the first.

    Parameters
    ----------
    series : Series
        Series that holds the volumes.
    volumes : sequence of int
        Indices of the volumes, from 0.
    slice_axis : int
        Stored axis along which slices are stacked.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If a volume does not exist, or no volume is given.
    """
    chosen = sorted(set(volumes))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < series.n_volumes:
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes; cannot average its volumes "
            f"{list(volumes)} (counted from 0)."
        )
    first = series.volume(chosen[0])
    series.close()
    if len(chosen) == 1:
        return Volume(first, series.affine, series.header)
    head = prepare_head(series, [first], None, slice_axis)
    poses, _ = align_b0s(head, chosen)
    return whole_mean(head, chosen, poses)


class _AverageB0sInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="EPI, 3-D or a series")
    volumes = traits.List(traits.Int, mandatory=True, desc="volumes without diffusion weighting")
    slice_axis = traits.Range(0, 2, 2, usedefault=True, desc="axis of the slices")


class _AverageB0sOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="their mean, aligned to the first")


class AverageB0s(SimpleInterface):
    """Align the b0 volumes of an EPI, and average them."""

    input_spec = _AverageB0sInputSpec
    output_spec = _AverageB0sOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from threadpoolctl import threadpool_limits

        series = open_series(self.inputs.in_file, min_volumes=1)
        with threadpool_limits(1, "blas"):
            mean = aligned_mean(series, self.inputs.volumes, self.inputs.slice_axis)
        self._results["out_file"] = save_volume(mean, Path(runtime.cwd) / "b0.nii.gz")
        return runtime
