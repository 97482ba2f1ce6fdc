"""Reference image of a series: the average of aligned volumes at steady state.

The reference is the mean of volumes at steady state, aligned to the one in the most typical
position; or the single-band reference acquired with the run, which has far more signal and
contrast. The first volumes, before saturation, often have more contrast between tissues; they
are not used, because they are few and noisy, their contrast differs from that of the volumes
to be aligned, and coregistration does not need it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
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

from neuroferry.errors import InputError
from neuroferry.files import write_text
from neuroferry.interfaces.epi.motion import head_mask, pilot_indices
from neuroferry.interfaces.epi.realign import MAD_TO_SIGMA, Alignment, align_volume
from neuroferry.interfaces.epi.realign_target import prepare_target
from neuroferry.interfaces.image.images import (
    FloatArray,
    Volume,
    inverse,
    save_volume,
)
from neuroferry.interfaces.image.sampling import resample_volume, static_map
from neuroferry.interfaces.image.series import Series, open_series, ordered_map

LOOK_AT = 60
SEARCH_S = 20.0
MOST_DUMMIES = 20
# Thresholds above the steady state: robust standard deviations, and fraction of the signal.
EXCESS_SIGMAS = 3.5
FIRST_EXCESS = 0.01
LEAST_EXCESS = 0.002
REFERENCE_VOLUMES = 32
WORST_FIT = 1.5


@dataclass(frozen=True)
class Reference:
    """Image that volumes are aligned to, and how it was made.

    Attributes
    ----------
    volume : Volume
        On the grid of the series.
    n_dummy : int
        Volumes at the start before the steady state.
    found : bool
        Whether their number was detected in the data rather than set by the user.
    start : int
        Volume that defines the position of the reference.
    used : tuple of int
        Volumes that were averaged.
    """

    volume: Volume
    n_dummy: int
    found: bool
    start: int
    used: tuple[int, ...]


def count_dummies(signal: NDArray[np.float64], tr: float) -> int:
    """Count the initial volumes whose signal still decays to the steady state.

    Parameters
    ----------
    signal : ndarray of float64, shape (T,)
        Mean signal of the head in the first volumes.
    tr : float
        Repetition time, s.

    Returns
    -------
    int
        Leading volumes whose signal exceeds the steady state by more than the noise. None are
        counted unless the first is the highest, by one percent or more: a drift is not
        saturation.

    Examples
    --------
    >>> noise = np.tile([0.3, -0.3], 20)
    >>> count_dummies(1000 + noise + 80 * np.exp(-np.arange(40) / 0.8), 2.0)
    3
    >>> count_dummies(1000 + noise, 2.0)
    0
    """
    most = int(min(MOST_DUMMIES, max(2, SEARCH_S / tr)))
    most = min(most, signal.size // 3)
    later = signal[most:]
    if most < 1 or later.size < 3:
        return 0
    steady = float(np.median(later))
    if steady <= 0:
        return 0
    excess = signal / steady - 1.0
    # Noise from volume to volume, so that slow drifts of the signal do not hide a decay.
    sigma = float(np.median(np.abs(np.diff(later)))) * MAD_TO_SIGMA / np.sqrt(2) / steady
    if excess[0] < FIRST_EXCESS or excess[0] < excess[1 : most + 1].max():
        return 0
    high = excess[:most] > max(EXCESS_SIGMAS * sigma, LEAST_EXCESS)
    return int(most if high.all() else np.argmin(high))


def find_reference(
    series: Series,
    tr: float,
    dummy_scans: int | None = None,
    *,
    unusable: Collection[int] = (),
    slice_axis: int = 2,
    n_threads: int = 1,
) -> Reference:
    """Detect the steady state of a series and average volumes from it.

    Parameters
    ----------
    series : Series
        The run.
    tr : float
        Repetition time, s.
    dummy_scans : int, optional
        Number of volumes before the steady state, if known.
    unusable : collection of int
        Volumes without an image.
    slice_axis : int
        Stored slice axis.
    n_threads : int
        Volumes processed at a time; does not change the result.

    Returns
    -------
    Reference

    Raises
    ------
    InputError
        If no volume is left after the dummy volumes.
    """
    from threadpoolctl import threadpool_limits

    if dummy_scans is None:
        n_dummy = count_in(series, tr, unusable)
    elif not set(range(dummy_scans, series.n_volumes)) - set(unusable):
        raise InputError(
            f"{series.path.name} has {series.n_volumes} volumes; no usable ones are left after "
            f"{dummy_scans} dummy volumes. Reduce the number of dummy scans."
        )
    else:
        n_dummy = dummy_scans
    chosen = pilot_indices(series.n_volumes, n_dummy, REFERENCE_VOLUMES, unusable)
    volumes = [series.volume(index) for index in chosen]
    series.close()
    with threadpool_limits(1, "blas"):
        start, volume, used = _average(volumes, series, slice_axis, n_threads)
    return Reference(
        volume, n_dummy, dummy_scans is None, chosen[start], tuple(chosen[i] for i in used)
    )


def count_in(series: Series, tr: float, unusable: Collection[int] = ()) -> int:
    """Count the volumes before the steady state, `tr` (s) apart; unusable ones are skipped."""
    usable = [t for t in range(series.n_volumes) if t not in unusable][:LOOK_AT]
    mean = np.zeros(series.shape3)
    for volume in _some(series, usable[len(usable) // 2 :]):
        mean += volume
    mask = head_mask(Volume(mean.astype(np.float32), series.affine))
    signal = [volume[mask].mean(dtype=np.float64) for volume in _some(series, usable)]
    n_dummy = count_dummies(np.array(signal), tr)
    return usable[n_dummy - 1] + 1 if n_dummy else 0


def _some(series: Series, chosen: Sequence[int]) -> Iterator[FloatArray]:
    """Read some volumes of a series, in order."""
    first, last = chosen[0], chosen[-1] + 1
    for number, volume in enumerate(series.volumes(first, last), start=first):
        if number in chosen:
            yield volume


def _average(
    volumes: Sequence[FloatArray], series: Series, slice_axis: int, n_threads: int
) -> tuple[int, Volume, list[int]]:
    """Align volumes to the most typical of them and average those that fit."""
    affine, to_voxels = series.affine, inverse(series.affine)
    mean = Volume(np.asarray(np.mean(volumes, axis=0, dtype=np.float64), np.float32), affine)
    mask = head_mask(mean)
    inside = mean.data[mask]
    start = int(np.argmax([_likeness(v[mask], inside) for v in volumes]))
    target = prepare_target(
        Volume(volumes[start], affine), mask.astype(np.float32), slice_axis=slice_axis
    )
    where = static_map((series.shape3, affine), (series.shape3, affine))

    def work(item: tuple[int, FloatArray]) -> tuple[Alignment, NDArray[np.float32]]:
        number, volume = item
        found = Alignment(np.eye(4), 0.0, 1.0, 1.0)
        if number != start:
            found = align_volume(target, volume, affine)
        return found, resample_volume(volume, where, to_voxels @ found.matrix @ affine)

    with closing(ordered_map(work, enumerate(volumes), n_threads)) as results:
        aligned = list(results)
    residuals = np.array([found.residual for found, _ in aligned])
    others = np.delete(residuals, start)
    limit = WORST_FIT * float(np.median(others)) if others.size else np.inf
    used = [number for number in range(len(volumes)) if residuals[number] <= limit]
    total, count = np.zeros(where.voxels.size), np.zeros(where.voxels.size)
    for number in used:
        values = aligned[number][1]
        total += values
        count += values != 0
    data = where.fill((total / np.maximum(count, 1)).astype(np.float32))
    return start, Volume(data, affine, series.header), used


def _likeness(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlate two volumes; an empty one scores lower than any other."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 else -1.0


class _FindReferenceInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    tr = traits.Range(low=0.0, exclude_low=True, mandatory=True, desc="repetition time, s")
    sbref = File(
        exists=True, desc="single-band reference on the grid of the series, used unchanged"
    )
    dummy_scans = traits.Range(low=0, value=0, desc="volumes before steady state, if known")
    unusable = traits.List(traits.Int, desc="volumes without a usable image, from 0")
    slice_axis = traits.Range(low=0, high=2, value=2, usedefault=True, desc="axis of the slices")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="volumes at a time")


class _FindReferenceOutputSpec(TraitedSpec):
    bold_ref = File(exists=True, desc="mean of aligned volumes")
    n_dummy = traits.Int(desc="volumes before steady state")
    report = File(exists=True, desc="JSON: how the reference was made")


class FindReference(SimpleInterface):
    """Reference of a series: dummy volumes detected, aligned steady-state volumes averaged."""

    input_spec = _FindReferenceInputSpec
    output_spec = _FindReferenceOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = self.inputs.dummy_scans if isdefined(self.inputs.dummy_scans) else None
        unusable = self.inputs.unusable if isdefined(self.inputs.unusable) else []
        if isdefined(self.inputs.sbref):
            return self._take_sbref(runtime, given, unusable)
        found = find_reference(
            open_series(self.inputs.in_file),
            self.inputs.tr,
            given,
            unusable=unusable,
            slice_axis=self.inputs.slice_axis,
            n_threads=self.inputs.n_procs,
        )
        out = Path(runtime.cwd)
        self._results["bold_ref"] = save_volume(found.volume, out / "boldref.nii.gz")
        about = {
            "Method": "mean of aligned volumes at steady state",
            "PositionOfVolume": found.start,
            "VolumesAveraged": list(found.used),
        }
        return self._report(runtime, found.n_dummy, given, about)

    def _take_sbref(self, runtime: Any, given: int | None, unusable: Collection[int]) -> Any:
        """Use the single-band reference, which lies on the grid of the series."""
        series = open_series(self.inputs.in_file)
        n_dummy = count_in(series, self.inputs.tr, unusable) if given is None else given
        series.close()
        stored = nb.nifti1.load(self.inputs.sbref).get_fdata(dtype=np.float32)
        data = np.nan_to_num(stored.reshape(series.shape3), nan=0.0, posinf=0.0, neginf=0.0)
        volume = Volume(np.maximum(data, 0), series.affine, series.header)
        self._results["bold_ref"] = save_volume(volume, Path(runtime.cwd) / "boldref.nii.gz")
        about = {"Method": "single-band reference", "File": Path(self.inputs.sbref).name}
        return self._report(runtime, n_dummy, given, about)

    def _report(self, runtime: Any, n_dummy: int, given: int | None, about: dict[str, Any]) -> Any:
        out = Path(runtime.cwd)
        self._results["n_dummy"] = n_dummy
        report = {
            "NonSteadyStateVolumes": n_dummy,
            "NonSteadyStateSource": "detected" if given is None else "set by the user",
            **about,
        }
        path = out / "reference.json"
        write_text(path, json.dumps(report, indent=2) + "\n")
        self._results["report"] = str(path)
        return runtime
