"""Head motion and eddy-current distortion of a DWI run.

Images of different b-values differ in contrast, so each shell is aligned separately
(:mod:`neuroferry.interfaces.dwi.eddy_align`: each volume to a prediction of itself), the b0
volumes are aligned to their mean, and then the mean of each shell is registered to the images
aligned so far (:mod:`neuroferry.interfaces.dwi.register_b0`). The common reference is the first
b0 volume.

A volume's transform has two parts: head motion, rigid, which also rotates the gradients; and the
stretch and shears along the phase-encoding axis caused by eddy currents, which do not. The volume
is resampled with both. Without a known phase-encoding axis only the first is estimated.

Finally, the order of the volumes resolves what images alone leave open
(:mod:`neuroferry.interfaces.dwi.eddy_time`): the position of a shell relative to the b0 volumes,
and which shifts are head motion.

Error on the phantom (30 directions, 4 b0 volumes, 2 mm, with drift, jerks, eddy currents of 2 mm
and distortion): 0.1 mm on average, 0.3 at most; 12 directions, 2 b0 volumes, 4 mm: 0.52 and 1.4.

Peak memory: 4 bytes for each volume and each voxel in and around the head (a third of the field
of view or less), and 60 bytes per voxel of the grid for each thread.

References
----------
.. [1] Andersson JLR, Sotiropoulos SN (2016). An integrated approach to correction for
   off-resonance effects and subject movement in diffusion MR imaging. NeuroImage
   125:1063-1078. doi:10.1016/j.neuroimage.2015.10.019
.. [2] Leemans A, Jones DK (2009). The B-matrix must be rotated when correcting for subject
   motion in DTI data. Magn Reson Med 61(6):1336-1349. doi:10.1002/mrm.21890
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from numpy.typing import NDArray

from neuroferry.bids.epi import phase_encoding_axis
from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.eddy_align import (
    Head,
    Poses,
    Prediction,
    align_group,
    align_shell,
    compare_slices,
    mean_of,
    read,
    stretch_slopes,
)
from neuroferry.interfaces.dwi.eddy_time import caused_shifts, offset_in_time
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients
from neuroferry.interfaces.dwi.outliers import write_outliers
from neuroferry.interfaces.dwi.register_b0 import tie_images
from neuroferry.interfaces.epi.motion import head_mask
from neuroferry.interfaces.epi.motion_table import (
    framewise_displacement,
    motion_parameters,
    rms_deviation,
    write_motion_table,
    write_motion_xfms,
)
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    inverse,
    save_nifti,
    voxel_sizes,
)
from neuroferry.interfaces.image.sampling import StaticMap, resample_volume, static_map
from neuroferry.interfaces.image.series import Series, open_series

# Fewer volumes than this are registered to the b0 one by one: too few for predictions.
MIN_SHELL = 6
# Margin around the head, mm, so that a moved head stays inside.
AROUND_MM = 8.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Eddy:
    """Estimated motion and eddy currents of a series.

    Attributes
    ----------
    rigid : ndarray of float64, shape (T, 4, 4)
        Head motion: points of the reference to points of each volume, RAS+ mm.
    stretch : ndarray of float64, shape (T, 4, 4)
        Distortion of the image by eddy currents, applied after the motion.
    reference : Volume
        Mean of the aligned b0 volumes (without any, of the first shell).
    deviations : ndarray of float64, shape (T, S)
        Signal of slices relative to its prediction, in standard deviations; NaN if unknown.
    odd : ndarray of bool, shape (T, S)
        Slices with signal dropout.
    methods : tuple of str
        How each volume was aligned: "reference", "prediction" or "single".
    """

    rigid: Floats
    stretch: Floats
    reference: Volume
    deviations: Floats
    odd: NDArray[np.bool_]
    methods: tuple[str, ...]

    @property
    def matrices(self) -> Floats:
        """Product of both parts, shape (T, 4, 4)."""
        both: Floats = self.stretch @ self.rigid
        return both


def axis_in_world(direction: str, affine: Affine) -> Floats:
    """Find the unit vector of a phase-encoding axis in RAS+.

    >>> axis_in_world("j-", np.diag([2.0, 2, 2, 1])).tolist()
    [0.0, 1.0, 0.0]
    """
    axis, _ = phase_encoding_axis(direction)
    vector: Floats = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    return vector


def prepare_head(
    series: Series,
    images: Sequence[FloatArray],
    along: Floats | None,
    slice_axis: int = 2,
    n_threads: int = 1,
) -> Head:
    """Segment the head in some images of a series, and a margin around it.

    Parameters
    ----------
    series : Series
        Series to be aligned.
    images : sequence of ndarray of float32, shape (I, J, K)
        The head is the union over these images.
    along : ndarray of float64, shape (3,), or None
        Phase-encoding axis in RAS+.
    slice_axis : int
        Slice axis.
    n_threads : int
        Volumes processed in parallel.

    Returns
    -------
    Head
    """
    from scipy import ndimage

    mask = np.zeros(series.shape3, dtype=bool)
    for image in images:
        mask |= head_mask(Volume(image, series.affine))
    apart = ndimage.distance_transform_edt(~mask, sampling=voxel_sizes(series.affine))
    around = np.argwhere(apart <= AROUND_MM).T
    voxels = np.ravel_multi_index(tuple(around), series.shape3)
    where = StaticMap(series.shape3, series.affine, voxels, around.astype(np.float32))
    middle = np.argwhere(mask).mean(axis=0)
    centre = series.affine[:3, :3] @ middle + series.affine[:3, 3]
    return Head(series, mask, where, centre, along, slice_axis, n_threads)


def estimate_eddy(
    series: Series,
    gradients: Gradients,
    phase_encoding: str | None = None,
    *,
    slice_axis: int = 2,
    eddy: bool = True,
    n_threads: int = 1,
) -> Eddy:
    """Estimate head motion and eddy-current distortion of a DWI run.

    Parameters
    ----------
    series : Series
        Denoised DWI.
    gradients : Gradients
        Gradients, one per volume.
    phase_encoding : str, optional
        ``PhaseEncodingDirection``; its sign does not matter. Without it alignment is rigid.
    slice_axis : int
        Stored axis along which slices are stacked.
    eddy : bool
        Estimate eddy-current distortion if the axis is known.
    n_threads : int
        Volumes processed in parallel; does not change the result.

    Returns
    -------
    Eddy

    Raises
    ------
    InputError
        If the numbers of gradients and volumes differ.
    """
    from threadpoolctl import threadpool_limits

    if len(gradients) != series.n_volumes:
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes, but there are "
            f"{len(gradients)} gradients."
        )
    along = None
    if eddy and phase_encoding is not None:
        along = axis_in_world(phase_encoding, series.affine)
    with threadpool_limits(1, "blas"):
        return _Estimate(series, gradients, along, slice_axis, n_threads).run()


class _Estimate:
    """Alignment of the shells of a series, lowest b-value first."""

    def __init__(
        self,
        series: Series,
        gradients: Gradients,
        along: Floats | None,
        slice_axis: int,
        n_threads: int,
    ) -> None:
        self.series, self.gradients = series, gradients
        self.shells = gradients.shells
        first = self.shells[0].volumes
        images = [series.volume(first[0])]
        others = [v for shell in self.shells[1:2] for v in shell.volumes]
        if others:
            images.append(_mean(read(series, sorted(others)), len(others)))
        self.head = prepare_head(series, images, along, slice_axis, n_threads)
        self.found = self.head.still(series.n_volumes)
        self.methods = ["reference"] * series.n_volumes
        self.deviations = np.full(self.found.losses.shape, np.nan)
        self.odd = np.zeros(self.deviations.shape, dtype=bool)

    def run(self) -> Eddy:
        """Align all volumes."""
        reference: Volume | None = None
        known: Volume | None = None
        for shell in self.shells:
            volumes = sorted(shell.volumes)
            if shell.is_b0:
                self._align_b0s(volumes)
            elif len(volumes) < MIN_SHELL:
                self._align_singles(volumes, known)
            else:
                self._align_shell(volumes, known)
            mean = self.head.fill(mean_of(self.head, volumes, self._poses(volumes)))
            reference = reference or mean
            # The next shell resembles this shell more than the b0.
            if known is None or shell.is_b0 or len(volumes) >= MIN_SHELL:
                known = mean
        self._settle_in_time()
        first = sorted(self.shells[0].volumes)
        whole = whole_mean(self.head, first, self._poses(first))
        return Eddy(
            self.found.rigid,
            self.found.stretch,
            whole,
            self.deviations,
            self.odd,
            tuple(self.methods),
        )

    def _settle_in_time(self) -> None:
        """Use the order of the volumes: eddy-current shifts, and the offset to the b0 volumes."""
        b0s = [v for shell in self.shells if shell.is_b0 for v in shell.volumes]
        for shell in self.shells:
            volumes = sorted(shell.volumes)
            if shell.is_b0 or len(volumes) < MIN_SHELL:
                continue
            if self.head.along is not None:
                self._part_shifts(volumes, self.head.along)
            offset = offset_in_time(self.found.rigid, sorted(b0s), volumes, self.head.centre)
            self.found.rigid[volumes] = self.found.rigid[volumes] @ offset

    def _part_shifts(self, volumes: list[int], along: Floats) -> None:
        """Move eddy-current shifts from the motion to the stretch; their product stays."""
        rigid, centre = self.found.rigid[volumes], self.head.centre
        shifts = (rigid[:, :3, :3] @ centre + rigid[:, :3, 3] - centre) @ along
        caused = caused_shifts(shifts, self.gradients.bvecs[volumes], volumes)
        for volume, shift in zip(volumes, caused, strict=True):
            there = np.eye(4)
            there[:3, 3] = shift * along
            self.found.stretch[volume] = self.found.stretch[volume] @ there
            self.found.rigid[volume] = inverse(there) @ self.found.rigid[volume]

    def _poses(self, volumes: list[int]) -> Poses:
        """Collect the estimates of some volumes."""
        found = self.found
        return Poses(
            found.rigid[volumes],
            found.stretch[volumes],
            found.residuals[volumes],
            found.losses[volumes],
        )

    def _keep(self, volumes: list[int], poses: Poses, method: str) -> None:
        """Store the estimates of some volumes."""
        self.found.rigid[volumes] = poses.rigid
        self.found.stretch[volumes] = poses.stretch
        self.found.residuals[volumes] = poses.residuals
        self.found.losses[volumes] = poses.losses
        for volume in volumes:
            self.methods[volume] = method

    def _align_b0s(self, volumes: list[int]) -> None:
        """Align the b0 volumes to their mean; the first stays in place."""
        poses, reference = align_b0s(self.head, volumes)
        if len(volumes) > 1:
            poses = replace(poses, losses=self._compare(volumes, poses, reference))
        self._keep(volumes, poses, "reference")

    def _align_singles(self, volumes: list[int], known: Volume | None) -> None:
        """Register volumes one by one, rigidly."""
        poses = self.head.still(len(volumes))
        affine, header = self.series.affine, self.series.header
        for number, data in enumerate(read(self.series, volumes)):
            if known is not None:
                poses.rigid[number] = tie_images(
                    known, Volume(data, affine, header), self.head.mask
                )
        self._keep(volumes, poses, "single")

    def _align_shell(self, volumes: list[int], known: Volume | None) -> None:
        """Align volumes to one another, and their mean to the volumes aligned so far."""
        head = self.head
        poses, prediction = align_shell(head, volumes, self.gradients.bvecs[volumes])
        self._compare(volumes, poses, prediction)
        if known is not None:
            mean = head.fill(mean_of(head, volumes, poses))
            poses = replace(poses, rigid=poses.rigid @ tie_images(known, mean, head.mask))
        self._keep(volumes, poses, "prediction")

    def _compare(
        self, volumes: list[int], poses: Poses, reference: NDArray[np.float32] | Prediction
    ) -> Floats:
        """Store the slices with dropout; return their losses, shape (N, S)."""
        found = compare_slices(self.head, volumes, poses, reference)
        self.deviations[volumes] = found.deviations
        self.odd[volumes] = found.odd
        return found.losses


def _mean(images: Any, count: int) -> FloatArray:
    """Average images."""
    total: Any = 0.0
    for image in images:
        total = total + image.astype(np.float64)
    mean: FloatArray = (total / count).astype(np.float32)
    return mean


def align_b0s(head: Head, volumes: list[int]) -> tuple[Poses, NDArray[np.float32]]:
    """Align volumes of one contrast to their mean; the first stays in place.

    Parameters
    ----------
    head : Head
        The series.
    volumes : list of int
        Indices of the volumes, ascending.

    Returns
    -------
    Poses
        Pose of each volume.
    ndarray of float32, shape (V,)
        Kept voxels of the mean, before the frame was moved back to the first volume.
    """
    poses = head.still(len(volumes))
    reference = mean_of(head, volumes[:1], head.still(1))
    if len(volumes) > 1:
        weights = head.mask.astype(np.float32)
        for _ in range(2):
            poses = align_group(head, volumes, poses, reference, weights, stretched=False)
            reference = mean_of(head, volumes, poses)
        poses = replace(poses, rigid=poses.rigid @ inverse(poses.rigid[0]))
    return poses, reference


def whole_mean(head: Head, volumes: list[int], poses: Poses) -> Volume:
    """Average aligned volumes over the whole field of view."""
    series = head.series
    if len(volumes) == 1 and np.array_equal(poses.matrices[0], np.eye(4)):
        return Volume(next(read(series, volumes)), series.affine, series.header)
    grid = (series.shape3, series.affine)
    where = static_map(grid, grid)
    moves = inverse(series.affine) @ poses.matrices @ series.affine
    made = (
        resample_volume(data / head.left_in(poses.losses[number]), where, moves[number])
        for number, data in enumerate(read(series, volumes))
    )
    return Volume(where.fill(_mean(made, len(volumes))), series.affine, series.header)


def describe(
    eddy: Eddy, gradients: Gradients, phase_encoding: str | None, along: Floats | None
) -> dict[str, Any]:
    """Summarise motion and eddy currents for the report."""
    parameters = motion_parameters(eddy.rigid, eddy.reference)
    fd = framewise_displacement(parameters)[1:]
    report: dict[str, Any] = {
        "NumberOfVolumes": len(gradients),
        "Shells": [
            {
                "BValue": shell.b,
                "Volumes": len(shell.volumes),
                "AlignedTo": sorted({eddy.methods[v] for v in shell.volumes}),
            }
            for shell in gradients.shells
        ],
        # The axis alone: which way along it, the alignment neither needs nor knows.
        "PhaseEncodingAxis": None if phase_encoding is None else phase_encoding[0],
        "EddyCurrents": along is not None,
        "FramewiseDisplacement": {
            "Mean": round(float(fd.mean()), 4),
            "Maximum": round(float(fd.max()), 4),
        },
        "OutlierSlices": int(eddy.odd.sum()),
        "VolumesWithOutlierSlices": [int(v) for v in np.flatnonzero(eddy.odd.any(axis=1))],
    }
    if along is not None:
        slopes = np.abs(stretch_slopes(eddy.stretch, along))
        names = ("x", "y", "z")
        report["LargestSlope"] = {
            name: round(float(value), 6)
            for name, value in zip(names, slopes.max(axis=0), strict=True)
        }
    elif phase_encoding is None:
        report["Warning"] = (
            "The phase-encoding axis is not known: only head motion was corrected, not "
            "eddy-current distortion."
        )
    return report


class _EstimateEddyInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")
    phase_encoding = traits.Str(desc="PhaseEncodingDirection; only its axis matters")
    slice_axis = traits.Range(0, 2, 2, usedefault=True, desc="axis of the slices")
    eddy = traits.Bool(True, usedefault=True, desc="estimate eddy-current distortion")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="volumes processed in parallel"
    )


class _EstimateEddyOutputSpec(TraitedSpec):
    dwi_ref = File(exists=True, desc="mean b0 image, aligned to the first b0 volume")
    eddy_xfms = File(exists=True, desc="ITK text: reference points to points of each volume")
    motion_xfms = File(exists=True, desc="rigid part of it: head motion")
    motion_tsv = File(exists=True, desc="six motion parameters in FSL's convention, and rmsd")
    outliers_tsv = File(
        exists=True, desc="signal of slices relative to its prediction, in standard deviations"
    )
    report = File(exists=True, desc="JSON object")


class EstimateEddy(SimpleInterface):
    """Estimate head motion and eddy-current distortion; see :func:`estimate_eddy`."""

    input_spec = _EstimateEddyInputSpec
    output_spec = _EstimateEddyOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        series = open_series(self.inputs.in_file)
        gradients = read_gradients(self.inputs.bval, self.inputs.bvec, series.affine)
        direction = self.inputs.phase_encoding if isdefined(self.inputs.phase_encoding) else None
        eddy = estimate_eddy(
            series,
            gradients,
            direction,
            slice_axis=self.inputs.slice_axis,
            eddy=self.inputs.eddy,
            n_threads=self.inputs.n_procs,
        )
        out = Path(runtime.cwd)
        reference = eddy.reference
        along = None
        if direction is not None and self.inputs.eddy:
            along = axis_in_world(direction, series.affine)
        write_json(out / "eddy.json", describe(eddy, gradients, direction, along))
        made = {
            "dwi_ref": save_nifti(
                reference.data, reference.affine, out / "dwiref.nii.gz", header=series.header
            ),
            "eddy_xfms": write_motion_xfms(eddy.matrices, out / "eddy_xfms.txt"),
            "motion_xfms": write_motion_xfms(eddy.rigid, out / "motion_xfms.txt"),
            "motion_tsv": write_motion_table(
                motion_parameters(eddy.rigid, reference),
                rms_deviation(eddy.rigid, reference),
                out / "motion.tsv",
            ),
            "outliers_tsv": write_outliers(out / "outliers.tsv", eddy.deviations, eddy.odd),
            "report": out / "eddy.json",
        }
        for name, path in made.items():
            self._results[name] = str(path)
        return runtime
