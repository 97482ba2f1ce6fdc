"""Checks of images before anything is computed from them.

Each file is read once in blocks of one megabyte: memory does not depend on the size of the
image, and a compressed file is read to its end, so that its checksum is verified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from neuroferry.bids.entities import parse_name
from neuroferry.bids.headers import units_of
from neuroferry.bids.model import Problem
from neuroferry.bids.nifti import Opened, open_image
from neuroferry.bids.volumes import VolumeFacts, VolumeScan
from neuroferry.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 20
#: Bytes behind the voxels that are counted.
_MOST_EXTRA = 64 << 20
#: Voxels of the largest slice whose statistics are kept.
_MOST_SLICE = 1 << 24
_MIN_VOXELS = 16
#: Fewest slices of a series or a field map that covers a part of the head.
_MIN_SLICES = 8
_EXTENT_MM = (60.0, 700.0)
#: Units of length of a header other than mm. Programs disagree on whether to convert them.
_OTHER_UNITS = ("meter", "micron")
#: Distance of corner voxels, mm, above which sform and qform are different positions.
_TOLERANCE_MM = 1.0
#: Largest departure of a voxel's edges from right angles, and of its volume.
_SHEAR_DEGREES = 1.0
_VOLUME_CHANGE = 0.01


@dataclass
class _Values:
    """Statistics of the voxel values."""

    low: float = np.inf
    high: float = -np.inf
    n_voxels: int = 0
    n_not_finite: int = 0
    scan: VolumeScan | None = None

    def add(self, block: NDArray[Any]) -> None:
        finite = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        self.n_voxels += block.size
        self.n_not_finite += block.size - finite.size
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
        if self.scan is not None and not self.n_not_finite:
            self.scan.add(block)

    def scale(self, slope: float | None, inter: float | None) -> None:
        """Apply the header's scaling, in the single precision of the steps."""
        ends = [
            float(np.float32(value if slope is None else value * slope + (inter or 0.0)))
            for value in (self.low, self.high)
        ]
        self.low, self.high = min(ends), max(ends)


def check_image(path: str | Path, *, ndim: int = 3) -> list[Problem]:
    """Check that an image can be read to its end and is what a workflow expects.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.
    ndim : int
        Expected number of dimensions longer than one voxel; 3 for anatomical images. Extra
        dimensions of length one are a warning (they are squeezed).

    Returns
    -------
    list of Problem
        Empty for a valid image. An error that prevents further checks is the last one.

    Notes
    -----
    ``sform`` and ``qform`` may both be set and differ. The rule here: the sform is used, as
    nibabel does. A difference of up to 1 mm at the corners of the volume is rounding. A
    larger one is a warning. It is an error if the two disagree on the directions of the
    voxel axes (left and right might be swapped) or on the volume of a voxel (by more than 1%:
    brain volumes would be wrong), or if the voxels are sheared (by more than 1 degree).
    Neither set is an error: left and right are unknown then.
    """
    return survey_image(path, ndim=ndim)[0]


def survey_image(path: str | Path, *, ndim: int = 3) -> tuple[list[Problem], VolumeFacts | None]:
    """Check an image as `check_image` does, and learn about the volumes of a series.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.
    ndim : int
        As for `check_image`.

    Returns
    -------
    list of Problem
        As from `check_image`.
    VolumeFacts or None
        None for an image of one volume, or that cannot be used.
    """
    path = Path(path)
    subject = parse_name(path).entities.get("subject")
    try:
        with open_image(path) as opened:
            values = _scan(opened, path)
            found = list(_shape_problems(opened.header, ndim))
            if len(opened.header.get_data_shape()) >= 3:
                found += [*_value_problems(values), *_geometry_problems(opened)]
    except InputError as error:
        return [Problem(str(error), "error", path, subject)], None
    problems = [
        Problem(f"{path}: {message}", "error" if fatal else "warning", path, subject)
        for message, fatal in found
    ]
    usable = values.scan is not None and not any(fatal for _, fatal in found)
    return problems, values.scan.facts() if usable and values.scan is not None else None


def _scan(opened: Opened, path: Path) -> _Values:
    """Read the voxels and what follows them; raise InputError if their number is wrong."""
    header = opened.header
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    # a header can declare any shape: slices as large are no slices
    is_series = len(shape) > 3 and min(shape) > 0 and math.prod(map(int, shape[:2])) <= _MOST_SLICE
    values = _Values(scan=VolumeScan(shape) if is_series else None)
    expected = math.prod(map(int, shape)) * dtype.itemsize
    opened.stream.seek(opened.offset)
    for block in _blocks(opened.stream, expected, dtype.itemsize):
        values.add(np.frombuffer(block, dtype))
    present = values.n_voxels * dtype.itemsize
    if present < expected:
        raise InputError(
            f"{path} is truncated: its header declares {expected} bytes of voxels,"
            f" but the file has {present}; copy it again from its source"
        )
    slice_bytes = math.prod(map(int, shape[:2])) * dtype.itemsize
    extra = _read_to_end(opened.stream)
    if extra >= slice_bytes:
        raise InputError(
            f"{path} has at least {extra} bytes after the {expected} bytes of voxels that its"
            " header declares, so the header does not describe it; convert the image again"
        )
    values.scale(*header.get_slope_inter())
    return values


def _blocks(stream: IO[bytes], expected: int, itemsize: int) -> Iterator[bytes]:
    """Yield the bytes of the voxels in whole items."""
    pending = b""
    left = expected
    while left:
        chunk = stream.read(min(_BLOCK, left - len(pending)))
        pending += chunk
        usable = len(pending) - len(pending) % itemsize
        if usable:
            yield pending[:usable]
        left -= usable
        pending = pending[usable:]
        if not chunk:
            return


def _read_to_end(stream: IO[bytes]) -> int:
    """Read on, so that checksums are verified; count bytes, up to `_MOST_EXTRA`."""
    extra = 0
    while extra < _MOST_EXTRA and (chunk := stream.read(_BLOCK)):
        extra += len(chunk)
    return extra


def _shape_problems(header: Any, ndim: int) -> Iterator[tuple[str, bool]]:
    shape = header.get_data_shape()
    text = " x ".join(str(n) for n in shape)
    essential = len(shape)
    while essential > 0 and shape[essential - 1] == 1:
        essential -= 1
    if essential > ndim:
        yield (
            f"the image has {essential} dimensions ({text}), but {ndim} are expected; save each"
            " volume in its own file (run-1, run-2), or average them",
            True,
        )
    elif len(shape) > ndim:
        yield (
            f"the image has one volume in {len(shape)} dimensions ({text}); it is squeezed",
            False,
        )
    if essential < min(ndim, 3):
        yield f"the image is not a volume ({text} voxels); convert the image again", True
    elif min(shape[:3]) < (_MIN_VOXELS if ndim == 3 else _MIN_SLICES):
        least = _MIN_VOXELS if ndim == 3 else _MIN_SLICES
        yield f"the image has {text} voxels; at least {least} along each axis are needed", True


def _value_problems(values: _Values) -> Iterator[tuple[str, bool]]:
    if values.n_not_finite == values.n_voxels:
        yield "no voxel has a finite value; convert the image again", True
    elif not math.isfinite(values.low) or not math.isfinite(values.high):
        yield (
            "its values, scaled by scl_slope and scl_inter of the header, are too large for a"
            " number of 32 bits; convert the image again",
            True,
        )
    elif values.low == values.high:
        yield (
            f"every voxel has the same value ({values.low:g}); convert the image again",
            True,
        )
    elif values.n_not_finite:
        yield (
            f"{values.n_not_finite} of {values.n_voxels} voxels are not finite numbers (NaN or"
            " infinity); convert the image again, or write 0 where nothing was measured",
            True,
        )


def _geometry_problems(opened: Opened) -> Iterator[tuple[str, bool]]:
    header, zooms = opened.header, np.asarray(opened.voxel_size)
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        yield (
            f"the voxel size in the header is {_mm(zooms)}, but must be positive; convert the"
            " image again",
            True,
        )
        return
    unit = units_of(header)[0]
    if unit in _OTHER_UNITS:
        yield (
            f"its header gives lengths in {unit}, which some programs convert to mm and others do"
            " not; write them in mm, with that unit (xyzt_units), in the header",
            True,
        )
    extent = zooms * np.asarray(header.get_data_shape()[:3])
    if extent.min() < _EXTENT_MM[0] or extent.max() > _EXTENT_MM[1]:
        yield (
            f"the field of view is {_mm(extent)}, unusual for a head; check the voxel size"
            f" ({_mm(zooms)})",
            False,
        )
    forms, invalid = _forms(header)
    if invalid and not forms:
        yield (
            f"the orientation in the header is not valid ({invalid}); convert the image again",
            True,
        )
        return
    if invalid:
        yield f"the qform is not valid ({invalid}); the sform is used", False
    if not forms:
        yield (
            "neither sform nor qform gives the orientation of the image, so left and right are"
            " unknown; convert the image again from the scanner's files",
            True,
        )
        return
    broken = [problem for name, form in forms.items() for problem in _form_problems(name, form)]
    yield from broken
    if len(forms) == 2 and not broken:
        yield from _disagreements(forms["sform"], forms["qform"], header.get_data_shape()[:3])


def _forms(header: Any) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Read the coded forms, and why the qform, beside a sform or alone, cannot be read."""
    forms: dict[str, NDArray[np.float64]] = {}
    sform = header.get_sform(coded=True)[0]
    if sform is not None:
        forms["sform"] = np.asarray(sform, dtype=float)
    try:
        qform = header.get_qform(coded=True)[0]
    except Exception as error:  # nibabel raises several kinds on a bad quaternion
        return forms, str(error)
    if qform is not None:
        forms["qform"] = np.asarray(qform, dtype=float)
    return forms, ""


def _form_problems(name: str, form: NDArray[np.float64]) -> Iterator[tuple[str, bool]]:
    axes = form[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(form).all() or lengths.min() <= 0:
        yield f"the {name} is not invertible; convert the image again", True
        return
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    shear = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines).max()))))
    if abs(np.linalg.det(axes / lengths)) < 1e-3:
        yield f"the {name} is not invertible; convert the image again", True
    elif shear > _SHEAR_DEGREES:
        yield (
            f"the {name} shears the voxels by {shear:.1f} degrees, which no scanner does; use the"
            " image as it was before it was transformed",
            True,
        )


def _disagreements(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    from nibabel.orientations import aff2axcodes

    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    difference = (sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:]
    distance = float(np.linalg.norm(difference, axis=0).max())
    if distance <= _TOLERANCE_MM:
        return
    names = ["".join(aff2axcodes(form)) for form in (sform, qform)]
    volumes = [abs(float(np.linalg.det(form[:3, :3]))) for form in (sform, qform)]
    if names[0] != names[1]:
        yield (
            f"sform and qform disagree on the orientation ({names[0]} by the sform,"
            f" {names[1]} by the qform), so left and right might be swapped; find out which is"
            " right and write it to both",
            True,
        )
    elif abs(volumes[0] / volumes[1] - 1) > _VOLUME_CHANGE:
        yield (
            f"sform and qform disagree on the volume of a voxel ({volumes[0]:.4g} and"
            f" {volumes[1]:.4g} mm3), so brain volumes might be wrong; use the image as it was"
            " before it was transformed, or write the right one to both",
            True,
        )
    else:
        yield (
            f"sform and qform place the voxels up to {distance:.1f} mm apart; the sform is used",
            False,
        )


def _mm(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"
