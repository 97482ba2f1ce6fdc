"""Resampling of a series in one interpolation, volume by volume.

The transforms of a target voxel through template, anatomy and reference do not depend on
time and are applied once. For each volume only head motion and distortion are added, and
the volume is sampled once with a cubic B-spline. Slice timing is corrected in the same pass;
echoes are combined before anything is written.

References
----------
.. [1] Unser M (1999). Splines: a perfect fit for signal and image processing. IEEE Signal
   Process Mag 16(6):22-38. doi:10.1109/79.799930
.. [2] Esteban O et al. (2019). fMRIPrep: a robust preprocessing pipeline for functional MRI.
   Nature Methods 16:111-116. doi:10.1038/s41592-018-0235-4
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nb
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

from neuroferry.bids.headers import check_same_grid
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.func.echoes import combination_weights
from neuroferry.interfaces.func.slice_timing import (
    bridge,
    check_slice_timing,
    reference_time,
    shift_slices,
)
from neuroferry.interfaces.image.images import (
    FloatArray,
    inverse,
    save_nifti,
)
from neuroferry.interfaces.image.sampling import (
    StaticMap,
    distortion_from_field,
    resample_volume,
    static_map,
)
from neuroferry.interfaces.image.series import (
    OVERSHOOT,
    Series,
    SeriesWriter,
    grid_of,
    highest,
    load_on_grid,
    open_series,
    ordered_map,
)
from neuroferry.interfaces.image.transforms import read_transform


@dataclass(frozen=True)
class SliceTiming:
    """Slice times of a series.

    Attributes
    ----------
    times : tuple of float
        s within the TR.
    axis : int
        Slice axis.
    fraction : float
        Reference time to which all slices are shifted: 0 (first slice) to 1 (last slice).
    """

    times: tuple[float, ...]
    axis: int = 2
    fraction: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """Corrections applied to each volume besides the static transforms.

    Attributes
    ----------
    motion : ndarray of float64, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    tr : float
        s.
    n_dummy : int
        Volumes at the start before the steady state.
    unusable : collection of int
        Volumes without an image: written as zeros, and not used for others.
    slice_timing : SliceTiming or None
        None: no correction.
    echo_times : tuple of float
        s; multi-echo runs only.
    t2star : ndarray of float32 or None
        s, on the grid of the series; multi-echo runs only.
    n_threads : int
        Volumes processed at a time; does not change the result.
    """

    motion: NDArray[np.float64]
    tr: float
    n_dummy: int = 0
    unusable: Collection[int] = ()
    slice_timing: SliceTiming | None = None
    echo_times: tuple[float, ...] = ()
    t2star: FloatArray | None = field(default=None, repr=False)
    n_threads: int = 1


def resample_series(
    echoes: Sequence[Series],
    where: StaticMap,
    recipe: Recipe,
    path: Path,
    *,
    header: nb.Nifti1Header | None = None,
) -> FloatArray:
    """Resample a whole series and write it.

    Parameters
    ----------
    echoes : sequence of Series
        One for each echo, on one grid.
    where : StaticMap
        From :func:`~neuroferry.interfaces.image.sampling.static_map`.
    recipe : Recipe
        Motion and other corrections.
    path : Path
        Output file.
    header : nibabel.Nifti1Header, optional
        Of an image in the target space, which the sform code is taken from.

    Returns
    -------
    ndarray of float32, shape of the target
        Mean over the volumes at steady state.
    """
    first = echoes[0]
    check_echoes(echoes, len(recipe.motion), recipe.echo_times)
    if recipe.slice_timing is not None:
        timing = recipe.slice_timing
        check_slice_timing(timing.times, first.shape[timing.axis], recipe.tr)
    weights: list[NDArray[np.float32]] | None = None
    if len(echoes) > 1:
        if recipe.t2star is None:
            raise InputError("Combining echoes needs a T2* map.")
        weights = combination_weights(where.carry(recipe.t2star), recipe.echo_times)
    to_voxels = inverse(first.affine)
    moves = to_voxels @ recipe.motion @ first.affine

    def work(item: tuple[int, tuple[FloatArray, ...]]) -> NDArray[np.float32]:
        number, volumes = item
        if number in recipe.unusable:
            return np.zeros(where.voxels.size, dtype=np.float32)
        values = [resample_volume(volume, where, moves[number]) for volume in volumes]
        if weights is None:
            return values[0]
        total: NDArray[np.float32] = sum(
            (v * w for v, w in zip(values, weights, strict=True)), np.zeros_like(values[0])
        )
        return total

    total = np.zeros(where.voxels.size)
    first_steady = min(recipe.n_dummy, first.n_volumes - 1)
    steady = set(range(first_steady, first.n_volumes)) - set(recipe.unusable)
    ceiling = OVERSHOOT * max(highest(echo, recipe.unusable) for echo in echoes)
    if where.jacobian is not None:
        ceiling *= max(1.0, float(where.jacobian.max()))
    writer = SeriesWriter(
        path,
        where.shape,
        where.affine,
        recipe.tr,
        first.n_volumes,
        ceiling=ceiling,
        header=header,
    )
    items = enumerate(zip(*(_timed(echo, recipe) for echo in echoes), strict=True))
    with writer, closing(ordered_map(work, items, recipe.n_threads)) as results:
        for number, values in enumerate(results):
            writer.add(where.fill(values))
            if number in steady:
                total += values
    return where.fill((total / max(len(steady), 1)).astype(np.float32))


def _timed(series: Series, recipe: Recipe) -> Iterator[FloatArray]:
    """Yield the volumes of a series, slice-timing corrected if slice times are known."""
    timing = recipe.slice_timing
    if timing is None:
        return series.volumes()
    return shift_slices(
        bridge(series.volumes(), recipe.unusable),
        timing.times,
        reference_time(timing.times, timing.fraction),
        recipe.tr,
        timing.axis,
        n_skip=recipe.n_dummy,
    )


ECHOES = "the echoes of a run must match: convert it again"


def check_echoes(echoes: Sequence[Series], n_motion: int, echo_times: Sequence[float]) -> None:
    """Refuse echoes that do not belong together, and motion estimated on another series."""
    first = echoes[0]
    for other in echoes[1:]:
        check_same_grid((first.path.name, first), (other.path.name, other), then=ECHOES)
        if other.n_volumes != first.n_volumes:
            raise GeometryError(
                f"{other.path.name} has {other.n_volumes} volumes, but {first.path.name} has"
                f" {first.n_volumes}; {ECHOES}."
            )
    if n_motion != first.n_volumes:
        raise InputError(
            f"There are motion transforms for {n_motion} volumes, but "
            f"{first.path.name} has {first.n_volumes}."
        )
    if len(echoes) > 1 and len(echo_times) != len(echoes):
        raise InputError(f"There are {len(echoes)} echoes, but {len(echo_times)} echo times.")


class _ResampleSeriesInputSpec(BaseInterfaceInputSpec):
    in_file = InputMultiObject(File(exists=True), mandatory=True, desc="series, one per echo")
    motion_xfms = File(exists=True, mandatory=True, desc="ITK text, one transform per volume")
    n_dummy = traits.Range(low=0, value=0, usedefault=True, desc="volumes before steady state")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    fieldmap = File(exists=True, desc="off-resonance, Hz, on the grid of the series")
    phase_encoding = traits.Str(requires=["readout_time"], desc="PhaseEncodingDirection")
    readout_time = traits.Float(desc="TotalReadoutTime, s")
    transforms = traits.List(
        File(exists=True),
        value=[],
        usedefault=True,
        desc="reference to target, in the order in which images pass through them",
    )
    reference = File(exists=True, mandatory=True, desc="image whose grid is filled")
    slice_timing = traits.List(traits.Float, desc="time of each slice, s")
    slice_axis = traits.Range(0, 2, 2, usedefault=True, desc="slice axis")
    slice_time_ref = traits.Range(0.0, 1.0, 0.5, usedefault=True, desc="reference time, 0 to 1")
    tr = traits.Float(mandatory=True, desc="time between volumes, s")
    echo_times = traits.List(traits.Float, desc="echo times, s; multi-echo runs only")
    t2star = File(exists=True, desc="T2* in s on the grid of the series; multi-echo runs only")
    jacobian = traits.Bool(True, usedefault=True, desc="correct intensities for distortion")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="volumes at a time")


class _ResampleSeriesOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="series on the target grid, int16 with a slope")
    out_ref = File(exists=True, desc="its mean over time")


class ResampleSeries(SimpleInterface):
    """Series resampled onto a grid in one interpolation, one volume at a time."""

    input_spec = _ResampleSeriesInputSpec
    output_spec = _ResampleSeriesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        echoes = [open_series(path) for path in inputs.in_file]
        first = echoes[0]
        distortion = None
        if isdefined(inputs.fieldmap):
            if not isdefined(inputs.phase_encoding):
                raise InputError("A field map cannot be applied without PhaseEncodingDirection.")
            distortion = distortion_from_field(
                load_on_grid(inputs.fieldmap, first),
                inputs.phase_encoding,
                inputs.readout_time,
                jacobian=inputs.jacobian,
            )
        timing = None
        if isdefined(inputs.slice_timing) and inputs.slice_timing:
            timing = SliceTiming(
                tuple(inputs.slice_timing), inputs.slice_axis, inputs.slice_time_ref
            )
        recipe = Recipe(
            motion=read_motion_xfms(inputs.motion_xfms),
            tr=inputs.tr,
            n_dummy=inputs.n_dummy,
            unusable=frozenset(inputs.unusable) if isdefined(inputs.unusable) else (),
            slice_timing=timing,
            echo_times=tuple(inputs.echo_times) if isdefined(inputs.echo_times) else (),
            t2star=load_on_grid(inputs.t2star, first) if isdefined(inputs.t2star) else None,
            n_threads=inputs.n_procs,
        )
        where = static_map(
            (first.shape3, first.affine),
            grid_of(inputs.reference),
            [t for path in reversed(inputs.transforms) for t in read_transform(path)],
            distortion=distortion,
        )
        out = Path(runtime.cwd)
        # Viewers tell the space by the code of the sform: that of the grid, not of the input.
        header = open_series(inputs.reference, min_volumes=1).header
        mean = resample_series(echoes, where, recipe, out / "bold.nii.gz", header=header)
        self._results["out_file"] = str(out / "bold.nii.gz")
        self._results["out_ref"] = str(
            save_nifti(mean, where.affine, out / "boldref.nii.gz", header=header)
        )
        return runtime
