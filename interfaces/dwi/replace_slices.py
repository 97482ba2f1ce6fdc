"""Replacement of slices with signal dropout by their prediction from the other volumes.

The model is that of the alignment (:mod:`neuroferry.interfaces.dwi.eddy_model`). Each affected
slice is predicted in its acquired position, on the volume's own grid: the other volumes of the
shell are sampled, with one interpolation each, at the positions of the slice's head points in
them. Their own dropout has no influence: a voxel is predicted only from volumes that show its
position in an intact slice. The prediction is scaled to the brightness of its volume, measured in
the intact slices around it.

Susceptibility distortion is the same on the scanner's grid in all volumes, and hence in their
predictions.

Peak memory: two bytes for each voxel of a volume and each volume of a shell, as slices are
predicted in groups of a quarter of a volume, so that it hardly depends on how many there are; plus
60 bytes per voxel, and 100 for each thread.

References
----------
.. [1] Andersson JLR et al. (2016). Incorporating outlier detection and replacement into a
   non-parametric framework for movement and distortion correction of diffusion MR images.
   NeuroImage 141:556-572. doi:10.1016/j.neuroimage.2016.06.058
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
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

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.eddy_align import FLOOR_SHARE, read
from neuroferry.interfaces.dwi.eddy_model import (
    modelled_covariance,
    volume_covariance,
    weights_from,
)
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients
from neuroferry.interfaces.dwi.outliers import read_outliers
from neuroferry.interfaces.dwi.resample import Ways, turn_with_head
from neuroferry.interfaces.dwi.slice_patches import (
    Patches,
    plane_of,
    slices_last,
    write_patches,
)
from neuroferry.interfaces.dwi.slice_prediction import (
    LEAST_OTHERS,
    bridge,
    local_ratio,
    predict_slice,
    show_whole,
)
from neuroferry.interfaces.epi.motion import head_mask
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.images import FloatArray, Volume, inverse, load_volume
from neuroferry.interfaces.image.sampling import StaticMap, resample_volume
from neuroferry.interfaces.image.series import Series, open_series, ordered_map

# Head points used to estimate the model and the brightness of volumes.
MODEL_POINTS = 50_000
MIN_POINTS = 500
# Share of a slice's head voxels that must be predictable.
LEAST_KNOWN = 0.9

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def replace_slices(
    series: Series,
    gradients: Gradients,
    ways: Ways,
    lost: Flags,
    reference: Volume,
    *,
    slice_axis: int = 2,
    n_threads: int = 1,
) -> Patches:
    """Predict the slices with dropout of a DWI run from its other volumes.

    Parameters
    ----------
    series : Series
        DWI run on its acquired grid, denoised.
    gradients : Gradients
        As measured.
    ways : Ways
        Transforms from the reference to each volume.
    lost : ndarray of bool, shape (T, K)
        Slices with signal dropout.
    reference : Volume
        Image that the series was aligned to.
    slice_axis : int
        Stored axis along which slices are stacked.
    n_threads : int
        Volumes processed in parallel; does not change the result.

    Returns
    -------
    Patches
        Omits slices that cannot be predicted because too few volumes are left.

    Raises
    ------
    InputError
        If the numbers of gradients, transforms or rows of slices differ from that of volumes.
    """
    from threadpoolctl import threadpool_limits

    n, n_slices = series.n_volumes, series.shape[slice_axis]
    counts = len(gradients), len(ways.matrices), len(ways.rigid)
    if set(counts) != {n} or lost.shape != (n, n_slices):
        raise InputError(
            f"{series.path.name} has {n} volumes of {n_slices} slices, but there are "
            f"{len(gradients)} gradients, {len(ways.matrices)} transforms and a table of "
            f"{lost.shape[0]} x {lost.shape[1]} slices: they do not belong to one series."
        )
    found: dict[tuple[int, int], FloatArray] = {}
    if lost.any():
        mask = head_mask(reference)
        turned = turn_with_head(gradients, ways.rigid)
        with threadpool_limits(1, "blas"):
            for shell in gradients.shells:
                volumes = sorted(shell.volumes)
                if len(volumes) > LEAST_OTHERS and lost[volumes].any():
                    bvecs = turned.bvecs[volumes]
                    work = _Shell(series, volumes, bvecs, ways, lost, mask, slice_axis)
                    found |= work.run(n_threads)
    return Patches.of(found, lost.shape, plane_of(series.shape, slice_axis), slice_axis)


class _Shell:
    """Prediction of the affected slices of one shell."""

    def __init__(
        self,
        series: Series,
        volumes: Sequence[int],
        bvecs: Floats,
        ways: Ways,
        lost: Flags,
        mask: Flags,
        slice_axis: int,
    ) -> None:
        self.series, self.volumes, self.bvecs = series, volumes, bvecs
        self.axis = slice_axis
        self.lost, self.mask = lost[list(volumes)], mask
        matrices = ways.matrices[list(volumes)]
        self.moves = inverse(series.affine) @ matrices @ series.affine
        self.gains = np.linalg.det(matrices[:, :3, :3])
        chosen = np.argwhere(mask)
        self.places = chosen[:: max(1, len(chosen) // MODEL_POINTS)].T.astype(np.float64)

    def run(self, n_threads: int) -> dict[tuple[int, int], FloatArray]:
        """Predict all slices, a quarter of a volume at a time."""
        signals, shown, _ = self._gather(self.places, n_threads)
        self.floor = np.float32(FLOOR_SHARE * max(float(np.median(signals.mean(axis=0))), 1e-6))
        logs = self._log(signals.copy())
        everywhere = np.ones(logs.shape[1], dtype=bool)
        self.modelled = modelled_covariance(volume_covariance(logs, everywhere), self.bvecs)
        hit = np.flatnonzero(self.lost.any(axis=1))
        self.brightness = {int(n): self._brightness(n, logs, signals, shown) for n in hit}
        del signals, shown, logs
        wanted = [(int(n), int(k)) for n, k in np.argwhere(self.lost)]
        step = max(1, self.series.shape[self.axis] // 4)
        found: dict[tuple[int, int], FloatArray] = {}
        for start in range(0, len(wanted), step):
            found |= self._predict(wanted[start : start + step], n_threads)
        return found

    def _log(self, signals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take logarithms above the floor, in place."""
        np.maximum(signals, 0.0, out=signals)
        signals += self.floor
        np.log(signals, out=signals)
        return signals

    def _brightness(
        self,
        number: int,
        logs: NDArray[np.float32],
        signals: NDArray[np.float32],
        shown: Flags,
    ) -> Floats:
        """Measure the signal of a volume relative to its prediction, around each of its slices."""
        n_slices = self.lost.shape[1]
        here = np.flatnonzero(shown[number])
        if here.size < MIN_POINTS:
            return np.ones(n_slices)
        others = np.delete(np.arange(len(logs)), number)
        weights = weights_from(self.modelled, number, others).astype(np.float32)
        predicted = np.exp(weights @ logs[np.ix_(others, here)]) - self.floor
        move = self.moves[number]
        z = np.rint(move[self.axis, :3] @ self.places[:, here] + move[self.axis, 3])
        which = np.clip(z, 0, n_slices - 1).astype(np.intp)
        sums = (
            np.bincount(which, values, n_slices).astype(np.float64)
            for values in (signals[number, here], predicted)
        )
        return local_ratio(*sums)

    def _gather(
        self, places: Floats, n_threads: int, keep: Sequence[tuple[int, int]] = ()
    ) -> tuple[NDArray[np.float32], Flags, dict[tuple[int, int], FloatArray]]:
        """Sample all volumes at points of the reference; keep some slices as acquired."""
        series, n = self.series, len(self.volumes)
        where = StaticMap(
            series.shape3,
            series.affine,
            np.arange(places.shape[1]),
            places.astype(np.float32),
        )

        def work(
            item: tuple[int, FloatArray],
        ) -> tuple[NDArray[np.float32], Flags, dict[tuple[int, int], FloatArray]]:
            number, data = item
            stack = slices_last(data, self.axis)
            kept = {(v, k): stack[..., k].copy() for v, k in keep if v == number}
            move = self.moves[number]
            shown = show_whole(
                move[:3, :3] @ places + move[:3, 3:], series.shape3, self.lost[number], self.axis
            )
            values = resample_volume(bridge(data, self.lost[number], self.axis), where, move)
            values *= np.float32(self.gains[number])
            return values, shown, kept

        signals = np.empty((n, places.shape[1]), dtype=np.float32)
        shown = np.empty(signals.shape, dtype=bool)
        measured: dict[tuple[int, int], FloatArray] = {}
        items = enumerate(read(series, self.volumes))
        with closing(ordered_map(work, items, n_threads)) as results:
            for number, (values, seen, kept) in enumerate(results):
                signals[number], shown[number] = values, seen
                measured |= kept
        return signals, shown, measured

    def _predict(
        self, wanted: Sequence[tuple[int, int]], n_threads: int
    ) -> dict[tuple[int, int], FloatArray]:
        """Predict some slices, each on its own volume's grid."""
        plane = plane_of(self.series.shape, self.axis)
        flat = np.indices(plane, dtype=np.float64).reshape(2, -1)
        places = []
        for number, k in wanted:
            back = inverse(self.moves[number])
            voxels = np.insert(flat, self.axis, float(k), axis=0)
            places.append(back[:3, :3] @ voxels + back[:3, 3:])
        signals, shown, measured = self._gather(np.concatenate(places, axis=1), n_threads, wanted)
        logs = self._log(signals)
        made = {}
        for place, (number, k) in enumerate(wanted):
            part = slice(place * flat.shape[1], (place + 1) * flat.shape[1])
            values, known = predict_slice(logs[:, part], shown[:, part], self.modelled, number)
            head = self._in_head(places[place])
            if np.count_nonzero(known & head) < LEAST_KNOWN * np.count_nonzero(head):
                continue
            scale = np.float32(self.brightness[number][k] / self.gains[number])
            predicted = np.maximum(np.exp(values) - self.floor, 0.0) * scale
            whole = np.where(known, predicted, measured[number, k].reshape(-1))
            made[self.volumes[number], k] = whole.reshape(plane).astype(np.float32)
        return made

    def _in_head(self, places: Floats) -> Flags:
        """Select the points of the reference inside the head."""
        nearest = np.rint(places).astype(np.intp)
        top = np.array(self.mask.shape)[:, None]
        inside = ((nearest >= 0) & (nearest < top)).all(axis=0)
        found = np.zeros(places.shape[1], dtype=bool)
        found[inside] = self.mask[tuple(nearest[:, inside])]
        return found


def describe_slices(deviations: Floats, lost: Flags, patches: Patches) -> dict[str, Any]:
    """Describe the replaced slices for the report and the sidecar.

    Parameters
    ----------
    deviations : ndarray of float64, shape (T, K)
        Deviations of the slices; NaN if unknown.
    lost : ndarray of bool, shape (T, K)
        Slices with signal dropout.
    patches : Patches
        Replacement slices.

    Returns
    -------
    dict
        ``LostSlices``, ``ReplacedSlices``, ``Volumes`` (number of replaced slices, keyed by the
        volume's index), and if there are any, ``MostlyLostVolumes`` and ``Warning``.
    """
    counts = patches.replaced.sum(axis=1)
    found: dict[str, Any] = {
        "LostSlices": int(lost.sum()),
        "ReplacedSlices": int(counts.sum()),
        "Volumes": {str(v): int(counts[v]) for v in np.flatnonzero(counts)},
    }
    known = np.isfinite(deviations).sum(axis=1)
    mostly = [int(v) for v in np.flatnonzero(lost.sum(axis=1) > known / 2)]
    if mostly:
        found["MostlyLostVolumes"] = mostly
        found["Warning"] = (
            "More than half of the slices have signal dropout in volume "
            f"{', '.join(map(str, mostly))} (counted from 0): their replacements rely on few "
            "slices; consider excluding these volumes."
        )
    return found


class _ReplaceSlicesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run on its acquired grid")
    bval = File(exists=True, mandatory=True, desc="b-values")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's convention")
    eddy_xfms = File(exists=True, mandatory=True, desc="ITK text, one transform per volume")
    motion_xfms = File(exists=True, mandatory=True, desc="rigid part of it")
    outliers_tsv = File(exists=True, mandatory=True, desc="slices, from EstimateEddy")
    reference = File(exists=True, mandatory=True, desc="image that the series was aligned to")
    slice_axis = traits.Range(0, 2, 2, usedefault=True, desc="axis of the slices")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="volumes processed in parallel"
    )


class _ReplaceSlicesOutputSpec(TraitedSpec):
    patches = File(exists=True, desc="replacement slices (NumPy)")
    report = File(exists=True, desc="JSON object")


class ReplaceSlices(SimpleInterface):
    """Predict slices with signal dropout; see :func:`replace_slices`."""

    input_spec = _ReplaceSlicesInputSpec
    output_spec = _ReplaceSlicesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        series = open_series(inputs.in_file)
        deviations, lost = read_outliers(inputs.outliers_tsv)
        patches = replace_slices(
            series,
            read_gradients(inputs.bval, inputs.bvec, series.affine),
            Ways(read_motion_xfms(inputs.eddy_xfms), read_motion_xfms(inputs.motion_xfms)),
            lost,
            load_volume(inputs.reference),
            slice_axis=inputs.slice_axis,
            n_threads=inputs.n_procs,
        )
        out = Path(runtime.cwd)
        self._results["patches"] = str(write_patches(patches, out / "slices.npz"))
        write_json(out / "slices.json", describe_slices(deviations, lost, patches))
        self._results["report"] = str(out / "slices.json")
        return runtime
