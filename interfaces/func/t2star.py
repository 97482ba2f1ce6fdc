"""T2* map of a multi-echo run, from the motion-corrected means of its echoes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
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

from neuroferry.interfaces.epi.motion import head_mask, pilot_indices
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.func.echoes import check_echo_times, fit_t2star
from neuroferry.interfaces.func.resample import check_echoes
from neuroferry.interfaces.image.images import FloatArray, Volume, inverse, save_nifti
from neuroferry.interfaces.image.sampling import resample_volume, static_map
from neuroferry.interfaces.image.series import Series, open_series, ordered_map

MEAN_VOLUMES = 40


def aligned_mean(
    series: Series,
    motion: NDArray[np.float64],
    n_dummy: int = 0,
    *,
    unusable: Collection[int] = (),
    n_threads: int = 1,
) -> FloatArray:
    """Average motion-corrected volumes spread over the steady part of a run.

    Parameters
    ----------
    series : Series
        One echo.
    motion : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    n_dummy : int
        Volumes before the steady state.
    unusable : collection of int
        Volumes without an image.
    n_threads : int
        Volumes processed at a time; does not change the result.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
    """
    where = static_map((series.shape3, series.affine), (series.shape3, series.affine))
    moves = inverse(series.affine) @ motion @ series.affine
    chosen = pilot_indices(series.n_volumes, n_dummy, MEAN_VOLUMES, unusable)

    def work(item: tuple[int, FloatArray]) -> NDArray[np.float32]:
        return resample_volume(item[1], where, moves[item[0]])

    items = ((index, series.volume(index)) for index in chosen)
    total = np.zeros(where.voxels.size)
    with closing(ordered_map(work, items, n_threads)) as results:
        for values in results:
            total += values
    series.close()
    return where.fill((total / len(chosen)).astype(np.float32))


class _FitT2StarInputSpec(BaseInterfaceInputSpec):
    in_file = InputMultiObject(File(exists=True), mandatory=True, desc="series, one per echo")
    echo_times = traits.List(
        traits.Float, mandatory=True, desc="echo times, s, in the order of in_file"
    )
    motion_xfms = File(exists=True, mandatory=True, desc="ITK text, one transform per volume")
    n_dummy = traits.Range(low=0, value=0, usedefault=True, desc="volumes before steady state")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="volumes at a time")


class _FitT2StarOutputSpec(TraitedSpec):
    t2star = File(exists=True, desc="T2* in s on the grid of the series; 0 where unknown")


class FitT2Star(SimpleInterface):
    """T2* map fitted to the mean images of the echoes of a run."""

    input_spec = _FitT2StarInputSpec
    output_spec = _FitT2StarOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        echoes = [open_series(path) for path in inputs.in_file]
        check_echo_times(inputs.echo_times, len(echoes))
        motion = read_motion_xfms(inputs.motion_xfms)
        first = echoes[0]
        check_echoes(echoes, len(motion), inputs.echo_times)
        unusable = inputs.unusable if isdefined(inputs.unusable) else ()
        means = [
            aligned_mean(echo, motion, inputs.n_dummy, unusable=unusable, n_threads=inputs.n_procs)
            for echo in echoes
        ]
        t2star = fit_t2star(means, inputs.echo_times, head_mask(Volume(means[0], first.affine)))
        path = Path(runtime.cwd) / "t2star.nii.gz"
        self._results["t2star"] = str(save_nifti(t2star, first.affine, path, header=first.header))
        return runtime
