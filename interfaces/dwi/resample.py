"""Motion and distortion correction of a DWI run in one interpolation.

The position of a reference voxel in a volume follows from head motion, then the eddy-current
stretch, then the field distortion; the signal is interpolated there once with a cubic B-spline,
and corrected for local stretching or compression (Jacobian modulation). Gradients are rotated
with the head (see :func:`neuroferry.interfaces.dwi.eddy_align.rotate_gradients`) and written for
the target grid. For a grid in the space of another image, such as the T1w image, the transform to
that image is part of the same interpolation, and its rotation is applied to the gradients too.

Peak memory: 40 bytes for each voxel of the target grid, and 24 bytes per voxel of the series for
each thread; it does not depend on the number of volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
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
from neuroferry.interfaces.dwi.eddy_align import rotate_gradients
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients, write_gradients
from neuroferry.interfaces.dwi.slice_patches import Patches, read_patches
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.images import Affine, FloatArray, inverse, save_nifti
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
from neuroferry.interfaces.image.transforms import Transform, read_transform

# A transform is rigid if it changes lengths by at most this fraction.
RIGID_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Ways:
    """Transforms from the reference to each volume.

    Attributes
    ----------
    matrices : ndarray of float64, shape (T, 4, 4)
        Motion and eddy currents together: points of the reference to points of each volume,
        RAS+ mm.
    rigid : ndarray of float64, shape (T, 4, 4)
        The motion alone.
    """

    matrices: NDArray[np.float64]
    rigid: NDArray[np.float64]


def resample_dwi(
    series: Series,
    where: StaticMap,
    ways: Ways,
    path: Path,
    *,
    tr: float,
    averaged: NDArray[np.bool_],
    patches: Patches | None = None,
    brightness: FloatArray | None = None,
    jacobian: bool = True,
    n_threads: int = 1,
) -> FloatArray:
    """Resample a DWI run and write it.

    Parameters
    ----------
    series : Series
        DWI run to resample.
    where : StaticMap
        Map from the target to the reference, and the field distortion.
    ways : Ways
        Transforms from the reference to each volume.
    path : Path
        Output file; negative values are set to zero.
    tr : float
        Repetition time, s; 0 if unknown.
    averaged : ndarray of bool, shape (T,)
        Volumes whose mean is returned; if none, the mean of all.
    patches : Patches, optional
        Replacement slices, inserted before resampling.
    brightness : ndarray of float32, shape (I, J, K), optional
        Field on the grid of the reference that all volumes are divided by.
    jacobian : bool
        Scale each volume by the eddy-current stretch.
    n_threads : int
        Volumes processed in parallel; does not change the result.

    Returns
    -------
    ndarray of float32, shape of the target
        Mean of the selected volumes.

    Raises
    ------
    InputError
        If the numbers of transforms and volumes differ, or `patches` belong to another series.
    """
    if patches is not None and not patches.fit(series.shape):
        raise InputError(f"The replacement slices do not belong to {series.path.name}.")
    if not len(ways.matrices) == len(ways.rigid) == series.n_volumes:
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes, but there are "
            f"{len(ways.matrices)} transforms and {len(ways.rigid)} rigid motions."
        )
    moves = inverse(series.affine) @ ways.matrices @ series.affine
    gains = np.linalg.det(ways.matrices[:, :3, :3]) if jacobian else np.ones(len(moves))

    divisor = None if brightness is None else where.carry(brightness)

    def work(item: tuple[int, FloatArray]) -> NDArray[np.float32]:
        number, data = item
        if patches is not None:
            data = patches.apply(number, data)
        values = resample_volume(data, where, moves[number])
        values *= np.float32(gains[number])
        if divisor is not None:
            values /= divisor
        return np.maximum(values, 0.0, out=values)

    ceiling = OVERSHOOT * highest(series) * max(1.0, float(gains.max()))
    if where.jacobian is not None:
        ceiling *= max(1.0, float(where.jacobian.max()))
    if divisor is not None:
        ceiling /= float(divisor.min())
    writer = SeriesWriter(
        path,
        where.shape,
        where.affine,
        tr,
        series.n_volumes,
        ceiling=ceiling,
        header=series.header,
    )
    chosen = averaged if averaged.any() else np.ones(series.n_volumes, dtype=bool)
    total = np.zeros(where.voxels.size)
    items = enumerate(series.volumes())
    with writer, closing(ordered_map(work, items, n_threads)) as results:
        for values, counts in zip(results, chosen, strict=True):
            writer.add(where.fill(values))
            if counts:
                total += values
    return where.fill((total / np.count_nonzero(chosen)).astype(np.float32))


def rigid_way(transforms: Sequence[Transform]) -> Affine:
    """Compose transforms that must be rigid.

    Parameters
    ----------
    transforms : sequence of Transform
        In the order in which they are applied to points.

    Returns
    -------
    ndarray of float64, shape (4, 4)

    Raises
    ------
    InputError
        If one is not rigid: gradients would then vary over space or lose their length.
    """
    way: Affine = np.eye(4)
    for transform in transforms:
        if not isinstance(transform, np.ndarray):
            raise InputError("Gradients can be rotated only by a rigid transform, not by a field.")
        way = transform @ way
    turn = way[:3, :3]
    if np.abs(turn.T @ turn - np.eye(3)).max() > RIGID_TOLERANCE or np.linalg.det(turn) < 0:
        raise InputError("Gradients can be rotated only by a rigid transform; this one stretches.")
    return way


def turn_with_head(gradients: Gradients, rigid: NDArray[np.float64]) -> Gradients:
    """Rotate gradients into the frame of the reference head."""
    return replace(gradients, bvecs=rotate_gradients(gradients.bvecs, rigid))


class _ResampleDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run")
    tr = traits.Range(low=0.0, mandatory=True, desc="repetition time, s; 0 if unknown")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")
    eddy_xfms = File(exists=True, mandatory=True, desc="ITK text, one transform per volume")
    motion_xfms = File(exists=True, mandatory=True, desc="rigid part of it")
    reference = File(exists=True, mandatory=True, desc="image that defines the target grid")
    transforms = InputMultiObject(
        File(exists=True),
        desc="rigid, from the series to the space of `reference`, in the order of resampling "
        "images",
    )
    bias_field = File(
        exists=True, desc="field that intensities are divided by, on the grid of the series"
    )
    patches = File(exists=True, desc="replacement slices, from ReplaceSlices")
    fieldmap = File(exists=True, desc="off-resonance, Hz, on the grid of the series")
    phase_encoding = traits.Str(requires=["readout_time"], desc="PhaseEncodingDirection")
    readout_time = traits.Float(desc="TotalReadoutTime, s")
    jacobian = traits.Bool(True, usedefault=True, desc="correct intensities for distortion")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="volumes processed in parallel"
    )


class _ResampleDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="series on the grid of the reference, int16 with a slope")
    out_bval = File(exists=True, desc="b-values, unchanged")
    out_bvec = File(exists=True, desc="directions rotated with the head, FSL's convention")
    out_ref = File(exists=True, desc="mean of its b0 volumes")


class ResampleDwi(SimpleInterface):
    """Resample a DWI run in one interpolation and rotate its gradients."""

    input_spec = _ResampleDwiInputSpec
    output_spec = _ResampleDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        series = open_series(inputs.in_file)
        distortion = None
        if isdefined(inputs.fieldmap):
            if not isdefined(inputs.phase_encoding):
                raise InputError(
                    "A field map cannot be applied without "
                    "PhaseEncodingDirection; add it to the sidecar."
                )
            distortion = distortion_from_field(
                load_on_grid(inputs.fieldmap, series),
                inputs.phase_encoding,
                inputs.readout_time,
                jacobian=inputs.jacobian,
            )
        chain: list[Transform] = []
        if isdefined(inputs.transforms):
            chain = [t for path in reversed(inputs.transforms) for t in read_transform(path)]
        way = rigid_way(chain)
        where = static_map(
            (series.shape3, series.affine),
            grid_of(inputs.reference),
            chain,
            distortion=distortion,
        )
        ways = Ways(read_motion_xfms(inputs.eddy_xfms), read_motion_xfms(inputs.motion_xfms))
        gradients = read_gradients(inputs.bval, inputs.bvec, series.affine)
        if len(gradients) != series.n_volumes:
            raise InputError(
                f"{series.path.name} has {series.n_volumes} volumes, but there are "
                f"{len(gradients)} gradients."
            )
        out = Path(runtime.cwd)
        field = inputs.bias_field
        mean = resample_dwi(
            series,
            where,
            ways,
            out / "dwi.nii.gz",
            tr=inputs.tr,
            averaged=gradients.b0s,
            brightness=load_on_grid(field, series) if isdefined(field) else None,
            patches=read_patches(inputs.patches) if isdefined(inputs.patches) else None,
            jacobian=inputs.jacobian,
            n_threads=inputs.n_procs,
        )
        turned = turn_with_head(gradients, ways.rigid @ way)
        write_gradients(turned, where.affine, out / "dwi.bval", out / "dwi.bvec")
        self._results["out_ref"] = str(
            save_nifti(mean, where.affine, out / "dwiref.nii.gz", header=series.header)
        )
        self._results["out_file"] = str(out / "dwi.nii.gz")
        self._results["out_bval"] = str(out / "dwi.bval")
        self._results["out_bvec"] = str(out / "dwi.bvec")
        return runtime
