"""Checks of diffusion gradients: their files, and their axes against the data.

Converters and scanners sometimes write directions in axes other than those of the image: one
flipped, two swapped. The files look sound, fractional anisotropy does not change, but every
streamline goes astray. The data reveal it: along a bundle, the principal direction of a voxel
points to a neighbour that points back. The more neighbours do so, the more coherent the field of
directions [1]_. Of the 24 permutations and flips of the axes (opposite directions count as one),
the true one is the most coherent.

A change of axes rotates each tensor as a whole, so one fit serves all 24.

Memory: 280 bytes for each voxel inside the mask and 10 for each voxel of the image.

References
----------
.. [1] Schilling KG et al. (2019). A fiber coherence index for quality control of B-table
   orientation in diffusion MRI scans. Magn Reson Imaging 58:82-89.
   doi:10.1016/j.mri.2019.01.018
.. [2] Jeurissen B, Leemans A, Sijbers J (2014). Automated correction of improperly rotated
   diffusion gradient orientations in diffusion weighted MRI. Med Image Anal 18(7):953-962.
   doi:10.1016/j.media.2014.05.012
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
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

from neuroferry.bids.gradients import read_bvals, read_bvecs, settle_gradients
from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.dwi.bias import mean_b0
from neuroferry.interfaces.dwi.gradients import (
    B0_THRESHOLD,
    Gradients,
    determine_tensor,
    image_axes,
    read_gradients,
    world_to_fsl,
    write_gradients,
)
from neuroferry.interfaces.dwi.tensor import tensor_design
from neuroferry.interfaces.epi.motion import head_mask
from neuroferry.interfaces.image.images import Volume, load_mask
from neuroferry.interfaces.image.series import Series, open_series

#: Above this b-value the logarithm of the signal is no straight line, s/mm2.
_MOST_B = 1600.0
#: Fractional anisotropy of voxels that count as white matter.
_WHITE_MATTER = (0.25, 0.95)
_MIN_VOXELS = 500
#: Power of the cosine between a direction and the way to a neighbour: half at 33 degrees.
_SHARPNESS = 4
#: Voxels along the side of a block; blocks are what the standard error is estimated from.
_BLOCK = 12
#: Another frame is called better from this many standard errors and this relative gain on.
_MIN_Z = 3.0
_MIN_GAIN = 0.02

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coherence:
    """Coherence of a field of directions in each frame.

    Attributes
    ----------
    frames : ndarray of float64, shape (24, 3, 3)
        Each maps directions as written into another frame; the first is the identity.
    index : ndarray of float64, shape (24,)
        Coherence index of each frame, 0 to 1.
    lead : ndarray of float64, shape (24,)
        Largest index minus that of each frame.
    error : ndarray of float64, shape (24,)
        Standard error of `lead`.
    n_voxels : int
        Number of voxels that count as white matter.
    """

    frames: Floats
    index: Floats
    lead: Floats
    error: Floats
    n_voxels: int

    @property
    def best(self) -> int:
        """Index of the most coherent frame."""
        return int(np.argmax(self.index))

    @property
    def is_clear(self) -> bool:
        """Whether the most coherent frame leads every other by three errors and by 2%."""
        others = np.arange(len(self.index)) != self.best
        return bool(self._is_behind[others].all())

    @property
    def verdict(self) -> str:
        """``right``, ``wrong`` or ``undecided`` of the directions as written.

        Right if they lead clearly, wrong if another frame leads them by three standard errors and
        by 2%.
        """
        if self.best == 0:
            return "right" if self.is_clear else "undecided"
        return "wrong" if self._is_behind[0] else "undecided"

    @property
    def _is_behind(self) -> NDArray[np.bool_]:
        enough = np.maximum(_MIN_Z * self.error, _MIN_GAIN * self.index.max())
        behind: NDArray[np.bool_] = (self.n_voxels >= _MIN_VOXELS) & (self.lead > enough)
        return behind


def frame_variants() -> Floats:
    """List the permutations and flips of three axes; opposite directions count as one.

    Returns
    -------
    ndarray of float64, shape (24, 3, 3)
        The identity first.

    Examples
    --------
    >>> frame_variants().shape, frame_variants()[0].tolist() == np.eye(3).tolist()
    ((24, 3, 3), True)
    """
    signs = [(1, *rest) for rest in product((1, -1), repeat=2)]
    orders = sorted(permutations(range(3)))
    found = [
        np.eye(3)[list(order)] * np.array(sign)[:, None] for order in orders for sign in signs
    ]
    return _fewest_signs(np.stack(found).astype(np.float64))


def _fewest_signs(frames: Floats) -> Floats:
    """Negate frames that have fewer minus signs that way; directions have no sign."""
    many = (frames < 0).sum(axis=(1, 2)) > 1
    return np.where(many[:, None, None], -frames, frames) + 0.0


def describe_frame(frame: Floats) -> str:
    """Format a frame as the axes that take the place of x, y and z.

    Examples
    --------
    >>> describe_frame(np.array([[0, 1, 0], [-1.0, 0, 0], [0, 0, 1]]))
    'y, -x, z'
    """
    names = []
    for row in frame:
        source = int(np.argmax(np.abs(row)))
        names.append(("-" if row[source] < 0 else "") + "xyz"[source])
    return ", ".join(names)


def main_directions(
    series: Series, bvals: Floats, bvecs: Floats, mask: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Estimate the principal direction and anisotropy of each voxel by ordinary least squares.

    Parameters
    ----------
    series : Series
        Diffusion-weighted run.
    bvals : ndarray of float64, shape (N,)
        s/mm2.
    bvecs : ndarray of float64, shape (N, 3)
        Unit vectors in any axes; zero for b0 volumes.
    mask : ndarray of bool, shape (I, J, K)
        Voxels to fit.

    Returns
    -------
    fa : ndarray of float64, shape (V,)
        Fractional anisotropy; 0 where the fit is not meaningful.
    directions : ndarray of float64, shape (V, 3)
        Unit vectors in the axes of `bvecs`.
    """
    used = np.flatnonzero(bvals <= _MOST_B)
    if not determine_tensor(bvecs[used]):
        used = np.arange(len(bvals))
    inverse = np.linalg.pinv(tensor_design(Gradients(bvals[used], bvecs[used])))
    elements = np.zeros((7, int(np.count_nonzero(mask))))
    positive = np.ones(elements.shape[1], dtype=bool)
    for weights, index in zip(inverse.T, used, strict=True):
        values = series.volume(int(index))[mask]
        positive &= values > 0
        elements += weights[:, None] * np.log(np.maximum(values, 1e-6, dtype=np.float64))
    series.close()
    tensors = elements[[1, 2, 3, 2, 4, 5, 3, 5, 6]].T.reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensors)
    mean = values.mean(axis=1, keepdims=True)
    length = np.sqrt(np.maximum((values**2).sum(axis=1), 1e-30))
    fa = np.sqrt(1.5 * ((values - mean) ** 2).sum(axis=1)) / length
    sound = positive & (values[:, 0] > 0)
    return np.where(sound, fa, 0.0), vectors[:, :, 2]


def measure_coherence(
    fa: Floats, directions: Floats, mask: NDArray[np.bool_], zooms: Floats
) -> Coherence:
    """Measure the coherence of the directions in each of the 24 frames.

    A voxel contributes its anisotropy times the fourth power of the cosine between its principal
    direction and the line to a neighbour. The index is the sum of the products over all
    neighbours, relative to its value if every neighbour equalled its voxel: the grid favours some
    directions, but does so in both sums.

    Parameters
    ----------
    fa : ndarray of float64, shape (V,)
        Fractional anisotropy of the voxels of the mask.
    directions : ndarray of float64, shape (V, 3)
        Their principal directions, along the stored axes.
    mask : ndarray of bool, shape (I, J, K)
        Mask of these voxels.
    zooms : ndarray of float64, shape (3,)
        Voxel size, mm.

    Returns
    -------
    Coherence
    """
    low, high = _WHITE_MATTER
    white = (fa > low) & (fa < high)
    place = np.full(mask.shape, -1, dtype=np.int32)
    place[mask] = np.where(white, np.arange(len(fa)), -1)
    frames = frame_variants()
    blocks = _block_numbers(mask)
    n_blocks = int(blocks.max()) + 1 if blocks.size else 1
    shares, wholes = (np.zeros((len(frames), n_blocks)) for _ in range(2))
    for offset in _half_of_neighbours():
        one, other = _pairs(place, offset)
        line = np.array(offset) * zooms
        line /= np.linalg.norm(line)
        for number, frame in enumerate(frames):
            along = fa * np.abs(directions @ (frame.T @ line)) ** _SHARPNESS
            shares[number] += np.bincount(blocks[one], along[one] * along[other], n_blocks)
            wholes[number] += np.bincount(blocks[white], along[white] ** 2, n_blocks)
    return _with_errors(frames, shares, wholes, int(np.count_nonzero(white)))


def _with_errors(frames: Floats, shares: Floats, wholes: Floats, n_voxels: int) -> Coherence:
    """Sum over blocks; estimate standard errors of differences by a jackknife over blocks."""
    kept = wholes[0] > 0
    shares, wholes = shares[:, kept], wholes[:, kept]
    total, whole = shares.sum(axis=1), np.maximum(wholes.sum(axis=1), 1e-30)
    index = total / whole
    best = np.argmax(index)
    count = int(np.count_nonzero(kept))
    if count < 2:
        return Coherence(frames, index, index[best] - index, np.full(24, np.inf), n_voxels)
    without = (total[:, None] - shares) / np.maximum(whole[:, None] - wholes, 1e-30)
    lead = without[best] - without
    spread = ((lead - lead.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    error = np.sqrt((count - 1) / count * spread)
    return Coherence(frames, index, index[best] - index, error, n_voxels)


def _half_of_neighbours() -> list[tuple[int, int, int]]:
    """List one of each pair of opposite offsets to the 26 neighbours."""
    steps = (-1, 0, 1)
    ways = [(i, j, k) for i in steps for j in steps for k in steps]
    return [way for way in ways if way > (0, 0, 0)]


def _pairs(
    place: NDArray[np.int32], offset: tuple[int, int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Index the pairs of voxels that are neighbours."""
    here = tuple(
        slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, place.shape, strict=True)
    )
    there = tuple(
        slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, place.shape, strict=True)
    )
    one, other = place[here], place[there]
    both = (one >= 0) & (other >= 0)
    return one[both], other[both]


def _block_numbers(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the block of each voxel of a mask."""
    across = [n // _BLOCK + 1 for n in mask.shape]
    i, j, k = (axis // _BLOCK for axis in np.nonzero(mask))
    numbers: NDArray[np.int64] = (i * across[1] + j) * across[2] + k
    return numbers


def check_orientation(series: Series, gradients: Gradients, mask: NDArray[np.bool_]) -> Coherence:
    """Check the axes of the gradients against the data.

    Parameters
    ----------
    series : Series
        Diffusion-weighted run.
    gradients : Gradients
        Its gradients.
    mask : ndarray of bool, shape (I, J, K)
        Brain.

    Returns
    -------
    Coherence
        Its frames act on directions as written in a file.
    """
    written = world_to_fsl(gradients.bvecs, series.affine)
    fa, directions = main_directions(series, gradients.bvals, written, mask)
    # From the axes of the file to those of the voxels; they differ only by a sign.
    flip = np.array([-1.0 if np.linalg.det(series.affine[:3, :3]) > 0 else 1.0, 1.0, 1.0])
    found = measure_coherence(fa, directions * flip, mask, series.zooms)
    # Flipping an axis only changes signs within the frames: express them in the file's axes.
    frames = _fewest_signs(found.frames * flip[:, None] * flip)
    return replace(found, frames=frames)


def orientation_report(found: Coherence, *, corrected: bool) -> dict[str, Any]:
    """Describe the findings for the participant's report."""
    best = describe_frame(found.frames[found.best])
    if corrected:
        then = "They were corrected."
    elif found.is_clear:
        then = (
            "They were not changed; check the colour-coded directions, and use --fix-gradients "
            "to correct them."
        )
    else:
        then = "They were not changed because other axes fit about equally well."
    texts = {
        "right": "The axes of the gradients agree with the data.",
        "wrong": (
            f"The axes of the gradients do not agree with the data: ({best}) in the place of"
            f" (x, y, z) of the .bvec file fits better. {then}"
        ),
        "undecided": "The data cannot show whether the axes of the gradients are right.",
    }
    order = np.argsort(-found.index, kind="stable")
    return {
        "verdict": found.verdict,
        "corrected": corrected,
        "text": texts[found.verdict],
        "best": best,
        "index_as_written": round(float(found.index[0]), 5),
        "index_best": round(float(found.index[found.best]), 5),
        "best_is_clear": found.is_clear,
        "white_matter_voxels": found.n_voxels,
        "frames": [
            {
                "axes": describe_frame(found.frames[number]),
                "index": round(float(found.index[number]), 5),
            }
            for number in order
        ],
    }


def gradient_report(
    bval: Path, bvec: Path, b0_threshold: float, unusable: Sequence[int] = ()
) -> tuple[Gradients, dict[str, Any]]:
    """Normalise the gradients of two files, in their own axes, and describe the findings.

    Those of unusable volumes, counted from 0, are left out.
    """
    vectors, notes = read_bvecs(bvec)
    try:
        bvals, unit, more = settle_gradients(read_bvals(bval), vectors, b0_threshold)
    except InputError as error:
        raise InputError(f"{bval.name} and {bvec.name}: {error}") from error
    bvals, unit = np.delete(bvals, unusable), np.delete(unit, unusable, axis=0)
    # Volumes that count as b0 are written as b0, so that no later step needs the threshold.
    found = Gradients(np.where(bvals <= b0_threshold, 0.0, bvals), unit, b0_threshold)
    report = {
        "b0_threshold": b0_threshold,
        "b0_volumes": int(np.count_nonzero(found.b0s)),
        "shells": [
            {"b": shell.b, "volumes": len(shell.volumes)}
            for shell in found.shells
            if not shell.is_b0
        ],
        "directions": found.n_directions,
        "fits_tensor": determine_tensor(unit),
        "near_zero_b_values": sorted({float(b) for b in bvals if 0 < b <= b0_threshold}),
        "notes": [*notes, *more],
        "left_out_volumes": sorted(unusable),
    }
    return found, report


class _CheckGradientsInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="DWI run")
    bval = File(exists=True, mandatory=True, desc="b-values, FSL's format")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's format")
    b0_threshold = traits.Float(B0_THRESHOLD, usedefault=True, desc="s/mm2")
    unusable = traits.List(traits.Int, desc="volumes to leave out, from 0")


class _CheckGradientsOutputSpec(TraitedSpec):
    out_bval = File(exists=True, desc="b-values in one row; 0 for b0 volumes")
    out_bvec = File(exists=True, desc="unit vectors in three rows; 0 for b0 volumes")
    report = File(exists=True, desc="shells, directions and changes made, JSON")


class CheckGradients(SimpleInterface):
    """Normalise the gradients of a DWI run and write them as FSL would."""

    input_spec = _CheckGradientsInputSpec
    output_spec = _CheckGradientsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, out = self.inputs, Path(runtime.cwd)
        series = open_series(inputs.in_file)
        unusable = inputs.unusable if isdefined(inputs.unusable) else []
        written, report = gradient_report(
            Path(inputs.bval), Path(inputs.bvec), inputs.b0_threshold, unusable
        )
        if len(written) + len(unusable) != series.n_volumes:
            raise InputError(
                f"{Path(inputs.bval).name} has {len(written) + len(unusable)} b-values, but "
                f"{series.path.name} has {series.n_volumes} volumes."
            )
        world = written.bvecs @ image_axes(series.affine).T
        bval, bvec = write_gradients(
            Gradients(written.bvals, world, inputs.b0_threshold),
            series.affine,
            out / "dwi.bval",
            out / "dwi.bvec",
        )
        self._results["out_bval"], self._results["out_bvec"] = str(bval), str(bvec)
        self._results["report"] = str(out / "gradients.json")
        write_json(out / "gradients.json", report)
        return runtime


class _CheckOrientationInputSpec(BaseInterfaceInputSpec):
    dwi = File(exists=True, mandatory=True, desc="DWI run")
    bval = File(exists=True, mandatory=True, desc="b-values, FSL's format")
    bvec = File(exists=True, mandatory=True, desc="directions, FSL's format")
    mask = File(
        exists=True, desc="brain mask on the grid of the run; by default the head is segmented"
    )
    correct = traits.Bool(False, usedefault=True, desc="write the better axes if there are any")


class _CheckOrientationOutputSpec(TraitedSpec):
    report = File(exists=True, desc="axes that fit the data, JSON")
    out_bvec = File(exists=True, desc="directions; changed only with `correct`")


class CheckOrientation(SimpleInterface):
    """Detect flipped or swapped gradient axes from the data; correct them on request."""

    input_spec = _CheckOrientationInputSpec
    output_spec = _CheckOrientationOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        inputs, out = self.inputs, Path(runtime.cwd)
        series = open_series(inputs.dwi)
        gradients = read_gradients(inputs.bval, inputs.bvec, series.affine)
        mask = _mask_of(series, gradients, inputs.mask if isdefined(inputs.mask) else None)
        frames = frame_variants()
        none = np.zeros(len(frames))
        nothing = Coherence(frames, none, none, none, n_voxels=0)
        enough = determine_tensor(gradients.bvecs)
        found = check_orientation(series, gradients, mask) if enough else nothing
        corrected = bool(inputs.correct) and found.verdict == "wrong" and found.is_clear
        if corrected:
            axes = image_axes(series.affine)
            turn = axes @ found.frames[found.best] @ axes.T
            gradients = Gradients(gradients.bvals, gradients.bvecs @ turn.T)
        _, bvec = write_gradients(gradients, series.affine, out / "dwi.bval", out / "dwi.bvec")
        self._results["out_bvec"] = str(bvec)
        report = orientation_report(found, corrected=corrected)
        self._results["report"] = str(out / "orientation.json")
        write_json(out / "orientation.json", report)
        return runtime


def _mask_of(series: Series, gradients: Gradients, path: str | None) -> NDArray[np.bool_]:
    """Read the brain mask, or segment the head on the b0 volumes."""
    if path is not None:
        return load_mask(path, Volume(series.volume(0), series.affine), "brain mask")
    if gradients.b0s.any():
        return head_mask(mean_b0(series, gradients.bvals, gradients.b0_threshold))
    return head_mask(Volume(series.volume(0), series.affine))
