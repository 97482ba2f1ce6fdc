"""Mean of the volumes of an EPI without diffusion weighting, for another run's field map.

A head that moves between them would blur their mean, so they are aligned first, rigidly, as the
b0 images of a run are; the mean lies where the first of them does.

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


def aligned_mean(series: Series, volumes: Sequence[int]) -> Volume:
    """Average volumes of one contrast, each brought to where the first lies.

    Parameters
    ----------
    series : Series
        What they are volumes of.
    volumes : sequence of int
        Their indices, from 0.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If one of them is not there, or none is named.
    """
    chosen = sorted(set(volumes))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < series.n_volumes:
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes; volumes {list(volumes)} of it"
            " cannot be averaged."
        )
    first = series.volume(chosen[0])
    series.close()
    if len(chosen) == 1:
        return Volume(first, series.affine, series.header)
    head = prepare_head(series, [first], None)
    poses, _ = align_b0s(head, chosen)
    return whole_mean(head, chosen, poses)


class _AverageB0sInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="EPI, 3-D or a series")
    volumes = traits.List(traits.Int, mandatory=True, desc="those without diffusion weighting")


class _AverageB0sOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="their mean, where the first lies")


class AverageB0s(SimpleInterface):
    """Align the b0 volumes of an EPI, and average them."""

    input_spec = _AverageB0sInputSpec
    output_spec = _AverageB0sOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from threadpoolctl import threadpool_limits

        series = open_series(self.inputs.in_file, min_volumes=1)
        with threadpool_limits(1, "blas"):
            mean = aligned_mean(series, self.inputs.volumes)
        self._results["out_file"] = save_volume(mean, Path(runtime.cwd) / "b0.nii.gz")
        return runtime
