"""Alignment and robust averaging of the T1w images of a session.

References
----------
.. [1] Huber PJ (1964). Robust estimation of a location parameter. Ann Math Stat
   35(1):73-101. doi:10.1214/aoms/1177703732
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.files import write_json
from neuroferry.interfaces.image.affine import RIGID, moving_image, refine, sample_points
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    load_volume,
    resample_to,
    save_volume,
    smooth_for,
    to_canonical,
)
from neuroferry.interfaces.image.transforms import write_itk_affine

HUBER_K = 1.345
FWHM_PER_SIGMA = 2.3548
LEAST_LIKENESS = 0.8
"""Correlation of aligned images below which they are not averaged. Two images of one head reach
0.98, even with noise and different shading; those of different heads stay below 0.5."""
DETAIL_MM = (4.0, 16.0)
"""Smoothing between which detail counts (FWHM): coarser is noise, finer than shading."""


def choose_reference(volumes: Sequence[Volume]) -> int:
    """Choose the image with the smallest voxels, the first one in a tie.

    Parameters
    ----------
    volumes : sequence of Volume
        T1w images of a session.

    Returns
    -------
    int
    """
    sizes = [round(float(np.prod(v.zooms)), 4) for v in volumes]
    return sizes.index(min(sizes))


def align_run(run: Volume, reference: Volume, *, sloppy: bool = False, seed: int = 1) -> Affine:
    """Register two images of the same head rigidly, by mutual information over the head.

    Parameters
    ----------
    run : Volume
        Image to align.
    reference : Volume
        Image to align it to.
    sloppy : bool
        Coarse levels only.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Reference points to image points, RAS+ mm: the transform that resamples the image
        onto the grid of the reference.
    """
    head = foreground(reference.data)
    matrix = np.eye(4)
    levels = (
        ((8.0, 4.0, 1.0), (4.0, 2.0, 0.1))
        if sloppy
        else ((8.0, 4.0, 1.0), (4.0, 2.0, 0.1), (3.0, 1.0, 0.03))
    )
    for spacing, zoom, step in levels:
        points = sample_points(reference, head, spacing, seed=seed, blur=zoom)
        image = moving_image(run, zoom)
        matrix, _ = refine(points, image, matrix, dof=RIGID, step=step, tolerance=1e-6)
    return matrix


def robust_mean(stack: FloatArray) -> FloatArray:
    """Average images voxel by voxel, down-weighting outliers.

    Parameters
    ----------
    stack : ndarray of float32, shape (R, I, J, K)
        Aligned images of similar intensity.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        Mean for one or two images; for more, Huber's M-estimate around the median, with the
        noise between images over the whole head as its scale.

    Examples
    --------
    >>> stack = np.ones((3, 5, 1, 1), dtype=np.float32)
    >>> stack[2] = 1.1
    >>> stack[2, 0] = 9.0
    >>> bool(robust_mean(stack).max() < 1.2)
    True
    """
    if len(stack) < 3:
        mean: FloatArray = stack.mean(axis=0, dtype=np.float32)
        return mean
    centre = np.median(stack, axis=0)
    deviations = np.abs(stack - centre)
    moving = deviations[deviations > 0]
    scale = 1.4826 * float(np.median(moving)) if moving.size else 1.0
    for _ in range(3):
        weights = np.minimum(1.0, HUBER_K * scale / np.maximum(np.abs(stack - centre), 1e-12))
        centre = (weights * stack).sum(axis=0) / weights.sum(axis=0)
    result: FloatArray = centre.astype(np.float32)
    return result


def likeness(one: FloatArray, other: FloatArray, zooms: NDArray[np.float64]) -> float:
    """Correlate the anatomical detail of two aligned images over the head.

    Parameters
    ----------
    one, other : ndarray of float32, shape (I, J, K)
        Images on one grid; the head is found in the first.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes, mm.

    Returns
    -------
    float
        1 for the same detail. Shading and noise hardly matter.
    """
    from scipy import ndimage

    step = tuple(slice(None, None, max(1, int(DETAIL_MM[0] / 2 / zoom))) for zoom in zooms)
    coarse = [s.step * zoom for s, zoom in zip(step, zooms, strict=True)]

    def detail(data: FloatArray) -> FloatArray:
        # a moderate ceiling: fat and vessels differ between images of one head
        data = np.minimum(data, np.percentile(data, 99.5))
        fine = ndimage.gaussian_filter(data, DETAIL_MM[0] / FWHM_PER_SIGMA / zooms)[step]
        wide = ndimage.gaussian_filter(fine, [DETAIL_MM[1] / FWHM_PER_SIGMA / c for c in coarse])
        found: FloatArray = fine - wide
        return found

    head = foreground(one)[step]
    a, b = detail(one)[head], detail(other)[head]
    if min(float(a.std()), float(b.std())) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def average_runs(
    volumes: Sequence[Volume], *, average: bool = True, sloppy: bool = False, seed: int = 1
) -> tuple[Volume, list[Affine], list[float]]:
    """Align the T1w images of a session to the one with the highest resolution and average them.

    Parameters
    ----------
    volumes : sequence of Volume
        T1w images, in canonical orientation.
    average : bool
        Average; otherwise the reference image is returned unchanged.
    sloppy : bool
        Align coarsely.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    reference : Volume
        The reference image, or the average on its grid.
    run2ref : list of ndarray of float64, shape (4, 4)
        For each image, reference points to image points; identity for the reference.
    alike : list of float
        Likeness of each aligned image to the reference, 1 for the reference. Images below 0.8 are
        left out of the average: they show another head, or another contrast. Empty without
        averaging.
    """
    chosen = choose_reference(volumes)
    reference = volumes[chosen]
    matrices = [
        np.eye(4) if index == chosen else align_run(run, reference, sloppy=sloppy, seed=seed)
        for index, run in enumerate(volumes)
    ]
    if not average or len(volumes) == 1:
        return reference, matrices, []
    head = foreground(reference.data)
    level = float(np.median(reference.data[head]))
    stack = np.empty((len(volumes), *reference.data.shape), dtype=np.float32)
    alike = [1.0] * len(volumes)
    for index, (run, matrix) in enumerate(zip(volumes, matrices, strict=True)):
        moved = run.data if index == chosen else _onto(run, matrix, reference)
        if index != chosen:
            alike[index] = likeness(reference.data, moved, reference.zooms)
        own = float(np.median(moved[head & (moved > 0)])) if (head & (moved > 0)).any() else level
        stack[index] = moved * (level / own)
    kept = [index for index, value in enumerate(alike) if value >= LEAST_LIKENESS]
    mean = robust_mean(stack[kept]) if len(kept) > 1 else reference.data
    return reference.with_data(mean), matrices, alike


def average_report(names: Sequence[str], alike: Sequence[float]) -> dict[str, Any]:
    """Describe which images were averaged.

    Parameters
    ----------
    names : sequence of str
        File names.
    alike : sequence of float
        From :func:`average_runs`.

    Returns
    -------
    dict
        ``Likeness`` of each image, ``LeftOut`` names, ``reasons`` as sentences.

    Examples
    --------
    >>> average_report(["a.nii", "b.nii"], [1.0, 0.41])["LeftOut"]
    ['b.nii']
    """
    pairs = list(zip(names, alike, strict=True)) if alike else []
    left_out = [(name, value) for name, value in pairs if value < LEAST_LIKENESS]
    return {
        "Likeness": {name: round(value, 3) for name, value in pairs},
        "LeftOut": [name for name, _ in left_out],
        "reasons": [
            f"{name} does not show what the first image shows (correlation {value:.2f} after"
            f" alignment, below {LEAST_LIKENESS:g}) and was left out of the average: it may be of"
            " another person, or of another contrast."
            for name, value in left_out
        ],
    }


def _onto(run: Volume, matrix: Affine, reference: Volume) -> NDArray[np.float32]:
    """Resample an image onto the reference's grid by cubic splines, without undershoot."""
    smooth = run.with_data(smooth_for(run.data, run.zooms, float(reference.zooms.min())))
    moved = resample_to(smooth, reference.shape, matrix @ reference.affine, order=3)
    return np.clip(moved.data, min(0.0, float(run.data.min())), float(run.data.max()))


class _AverageRunsInputSpec(BaseInterfaceInputSpec):
    t1w = InputMultiObject(File(exists=True), mandatory=True, desc="T1w images of a session")
    average = traits.Bool(True, usedefault=True, desc="average the aligned images")
    sloppy = traits.Bool(False, usedefault=True, desc="align coarsely")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _AverageRunsOutputSpec(TraitedSpec):
    t1w_ref = File(exists=True, desc="reference image, RAS+")
    t1w_runs = OutputMultiObject(File(exists=True), desc="each T1w image, RAS+")
    run2ref_xfms = OutputMultiObject(File(exists=True), desc="ITK affine of each image")
    report = File(exists=True, desc="JSON: images that were averaged")


class AverageRuns(SimpleInterface):
    """Average of the T1w images of a session, reoriented and aligned."""

    input_spec = _AverageRunsInputSpec
    output_spec = _AverageRunsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        volumes = [to_canonical(load_volume(path)) for path in self.inputs.t1w]
        reference, matrices, alike = average_runs(
            volumes,
            average=self.inputs.average,
            sloppy=self.inputs.sloppy,
            seed=self.inputs.seed,
        )
        out = Path(runtime.cwd)
        names = [Path(path).name for path in self.inputs.t1w]
        write_json(out / "average.json", average_report(names, alike))
        self._results["report"] = str(out / "average.json")
        self._results["t1w_ref"] = save_volume(reference, out / "t1w_ref.nii.gz")
        self._results["t1w_runs"] = [
            save_volume(run, out / f"t1w_run-{number:02d}.nii.gz")
            for number, run in enumerate(volumes, start=1)
        ]
        self._results["run2ref_xfms"] = [
            str(write_itk_affine(matrix, out / f"run-{number:02d}_to-ref.txt"))
            for number, matrix in enumerate(matrices, start=1)
        ]
        return runtime
